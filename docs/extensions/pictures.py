"""Shows pictures in the reader's colours, and a click away from their full size.

``NAME-dark.png`` is that of ``NAME-light.png`` for those who have it dark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

LIGHT: Final = "-light.png"
DARK: Final = "-dark.png"


class Pictures(SphinxTransform):
    """Adds the dark picture behind a light one, if there is one; the theme hides either."""

    default_priority = 10  # before pictures are collected

    def apply(self, **keywords: Any) -> None:
        """Look at each picture of the page."""
        for light in list(self.document.findall(nodes.image)):
            uri = light["uri"]
            _, path = self.env.relfn2path(uri, self.env.docname)
            if not uri.endswith(LIGHT) or not Path(path.replace(LIGHT, DARK)).is_file():
                continue
            dark = light.deepcopy()
            dark["uri"] = uri.replace(LIGHT, DARK)
            dark["classes"].append("only-dark")
            light["classes"].append("only-light")
            light.parent.insert(light.parent.index(light) + 1, dark)


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make each picture a link to itself: a page is narrower than most."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        found = app.env.images.get(image["uri"])
        if found is not None and image["uri"].endswith(".png"):
            _, name = found
            uri = app.builder.get_relative_uri(docname, "_images").removesuffix(".html")
            link = nodes.reference("", "", internal=True, refuri=f"{uri}/{name}")
            image.replace_self(link)
            link.append(image)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Look at the pages as they are read, and before they are written."""
    app.add_transform(Pictures)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
