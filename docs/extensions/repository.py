"""Links from the pages to the rest of the repository, which work on a Git host as they stand.

What they lead to is a page here, too: the Markdown outside of ``docs`` by pages that include it
(``repository_pages`` in ``conf.py``), the examples, files and folders, by pages made of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

logger = logging.getLogger(__name__)

ROOT: Final = Path(__file__).resolve().parents[2]

#: Where the pages are that are made of files, below the site's root.
FILES: Final = "files"

#: Folders whose files have pages.
SHOWN: Final = ["examples"]

#: By suffix, what Pygments calls the language.
LANGUAGES: Final = {
    ".py": "python",
    ".thrift": "thrift",
    ".service": "systemd",
    ".env": "bash",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".json": "json",
}


def shown_files() -> list[Path]:
    """Return the files that have pages, in the order of their paths."""
    found = [path for folder in SHOWN for path in (ROOT / folder).rglob("*")]
    return sorted(path for path in found if path.suffix in LANGUAGES and path.is_file())


def shown_folders() -> dict[Path, list[Path]]:
    """Return the folders that have pages, each with its own files."""
    folders: dict[Path, list[Path]] = {}
    for path in shown_files():
        folders.setdefault(path.parent, []).append(path)
    return folders


def page_of(path: Path) -> str:
    """Return the name of the page that shows a file or folder."""
    return f"{FILES}/{path.relative_to(ROOT).as_posix()}"


class RepositoryLinks(SphinxTransform):
    """Points links out of ``docs``, and those of what is included, to pages of the site."""

    default_priority = 10

    def apply(self, **keywords: Any) -> None:
        """Replace each link that MyST takes for a file's, or doesn't know."""
        for node in list(self.document.findall(addnodes.download_reference)):
            self._point(node)
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") == "myst" and link["reftarget"][:1] != "#":
                self._point(link)

    def _point(self, node: nodes.Element) -> None:
        if node["reftarget"] in self.env.found_docs or node.source is None:
            return  # MyST has found the page
        if node.get("refdomain") == "doc":  # outside of docs, where it finds none
            path, anchor = Path(node["reftarget"] + ".md"), node["reftargetid"]
        else:
            target, _, anchor = node["reftarget"].partition("#")
            path = Path(os.path.normpath(Path(node.source).parent / target))
        link = addnodes.pending_xref("", *node.children, refdoc=self.env.docname, refexplicit=True)
        link.source, link.line = node.source, node.line
        docname = page_for(self.env, path)
        if docname is not None:
            link.update_all_atts({"refdomain": "doc", "reftype": "myst", "reftarget": docname})
            link["reftargetid"] = anchor or None
        elif path in shown_folders() or path in shown_files():
            link.update_all_atts({"refdomain": "", "reftype": FILES, "reftarget": page_of(path)})
        else:
            if isinstance(node, addnodes.download_reference):  # of others MyST warns
                logger.warning("no page for %s", node["reftarget"], location=node)
            return
        node.replace_self(link)


def page_for(env: BuildEnvironment, path: Path) -> str | None:
    """Return the page that is made of a file of Markdown, or includes it."""
    pages: dict[str, str] = env.config.repository_pages
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in pages:
        return pages[path.relative_to(ROOT).as_posix()]
    name: str | None = env.path2doc(path)
    return name


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Resolve a link to a page that shows a file or folder."""
    if node["reftype"] != FILES:
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], node["reftarget"])
    return nodes.reference("", "", *node.children, internal=True, refuri=uri)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make the pages that show files and folders."""
    if not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    highlight = app.builder.highlighter.highlight_block

    def shown(path: Path) -> str:
        return str(highlight(path.read_text(encoding="utf-8"), LANGUAGES[path.suffix]))

    def context(path: Path, body: str) -> dict[str, Any]:
        title = path.relative_to(ROOT).as_posix()
        return {"title": title, "body": f"<h1>{escape(title)}</h1>\n{body}", "parents": []}

    for path in shown_files():
        yield page_of(path), context(path, shown(path)), "page.html"
    for folder, paths in shown_folders().items():
        body = "\n".join(f"<h2>{escape(path.name)}</h2>\n{shown(path)}" for path in paths)
        yield page_of(folder), context(folder, body), "page.html"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Take part where links are read and resolved, and where pages are written."""
    app.add_config_value("repository_pages", {}, "env", dict)
    app.add_transform(RepositoryLinks)
    app.connect("missing-reference", resolve)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
