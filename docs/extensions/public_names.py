"""Documents the public names at their public place: what a package's ``__init__`` re-exports.

Annotations name a class by the module that defines it, and ``#:`` above an assignment is read in
the module that autodoc is told alone. Here both are found by way of the package.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from typing import Any, Final

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import ExtensionMetadata

#: The package whose names are documented.
ROOT: Final = "gevent_rover"


def origin_of(module: str, name: str) -> str | None:
    """Return the module that a package's ``__init__`` imports a name from, if it does."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return node.module
    return None


def find_comment(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Replace the docstring of a value, or of a descriptor, by the comment at its definition."""
    own = name.rpartition(".")[2]
    for module, owner in places_of(name):
        comments = ModuleAnalyzer.for_module(module).find_attr_docs()
        if (owner, own) in comments:
            lines[:] = comments[owner, own]
            return


def places_of(name: str) -> Iterator[tuple[str, str]]:
    """Yield the modules where a name may be defined, each with the class, or ``""``."""
    module, _, own = name.rpartition(".")
    try:
        origin = origin_of(module, own)
    except ModuleNotFoundError:  # it's a class
        module, _, owner = module.rpartition(".")
        for base in inspect.getmro(getattr(importlib.import_module(module), owner)):
            if base.__module__.startswith(f"{ROOT}."):
                yield base.__module__, base.__qualname__
    else:
        if origin is not None:
            yield origin, ""


def find_public(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a reference to where a name is defined, or a bare name, to its public place."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    parts = node["reftarget"].split(".")
    for start in range(len(parts)):
        own = ".".join(parts[start:])
        for package in env.config.public_packages:
            name = f"{package}.{own}"
            if name in domain.objects:
                if content.astext() == node["reftarget"]:
                    content = nodes.literal("", own) if start else content
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", name, node, content
                )
    return None


def setup(app: Sphinx) -> ExtensionMetadata:
    """Look at each docstring that autodoc finds, and at each reference that nobody resolves."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value("public_packages", [], "env", list)
    app.connect("autodoc-process-docstring", find_comment)
    app.connect("missing-reference", find_public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
