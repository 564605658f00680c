"""The page: one document, made of the files in ``browser/``, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

#: The parts of the script, in the order in which they are read.
PARTS: Final = ("reading", "sources", "fleet", "words", "plots", "tables", "controls", "main")


@cache
def page() -> tuple[bytes, str]:
    """Return the page, and its Content-Security-Policy: its own style and script, nothing else."""
    style = _text_of("page.css")
    parts = "\n".join(_text_of(f"{part}.js") for part in PARTS)
    # In a function, so that no name is the window's.
    script = f'"use strict";\n(() => {{\n{parts}}})();\n'
    document = _text_of("page.html")
    document = document.replace("<style></style>", f"<style>{style}</style>")
    document = document.replace("<script></script>", f"<script>{script}</script>")
    policy = (
        f"default-src 'none'; style-src {_hash_of(style)}; script-src {_hash_of(script)};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return document.encode(), policy


def _text_of(name: str) -> str:
    return (files("gevent_rover.status") / "browser" / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
