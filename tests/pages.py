"""The pages that people read, and the blocks of code on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent
from typing import Final

from conftest import ROOT

PAGES: Final = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "benchmarks" / "README.md",
        ROOT / "tests" / "faults" / "README.md",
    ]
}

#: A relative link: its words, and where it leads; and a picture, likewise.
LINK: Final = re.compile(r"(?<!!)\[([^]]+)\]\((?!\w+:)([^)\s]+)\)")
PICTURE: Final = re.compile(r"!\[([^]]+)\]\((?!\w+:)([^)\s]+)\)")

# A fence, its language and the code; or lines that are indented, behind an empty one.
_BLOCK: Final = re.compile(
    r"^(?P<fence>```+)(?P<language>\S*)[^\n]*\n(?P<code>.*?)^(?P=fence)$"
    r"|(?<=\n\n)(?P<indented>(?: {4}\S[^\n]*\n)+)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    #: What stands behind the fence; ``""`` if nothing does, or if it's merely indented.
    language: str
    code: str

    @property
    def first_line(self) -> str:
        """The first line that isn't empty."""
        return next(line.strip() for line in self.code.splitlines() if line.strip())


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the blocks of code on a page, in order."""
    for found in _BLOCK.finditer(text):
        yield Block(found["language"] or "", found["code"] or dedent(found["indented"] or ""))


def without_code(text: str) -> str:
    """Return a page without its blocks of code."""
    return _BLOCK.sub("", text)
