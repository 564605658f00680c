"""The house keeps its own rules: who may touch what, and how large a thing may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gevent_rover"
MODULES = {
    str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
modules = pytest.mark.parametrize("name", MODULES)

#: Private names of gevent and the standard library, each in the one module that uses it.
FOREIGN = {
    "net/sockets.py": {"_sock", "_read_event", "_write_event", "_real_close"},
    "net/forks.py": {"_getframe"},
    "net/interrupts.py": {"_getframe"},
    "net/threads.py": {"_current_frames"},
    "metrics/histograms.py": {"_buckets", "_sum"},
    "serving/base.py": {"_spawn", "_handle", "_do_read"},
}


def private_names_read(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names with an underscore that are read of something else, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                if is_private(alias.name):
                    yield alias.name, node.lineno


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def names_defined(tree: ast.AST) -> set[str]:
    """Return the names that a module defines, or assigns on its own objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def lines_of(node: ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@modules
def test_no_module_reads_anothers_underscore(name: str) -> None:
    tree = ast.parse(MODULES[name])
    own = names_defined(tree) | FOREIGN.get(name, set())
    found = [(read, line) for read, line in private_names_read(tree) if read not in own]
    assert found == []


@modules
def test_a_module_has_less_than_350_lines_and_a_class_less_than_250(name: str) -> None:
    assert len(MODULES[name].splitlines()) < 350
    classes = [
        node for node in ast.walk(ast.parse(MODULES[name])) if isinstance(node, ast.ClassDef)
    ]
    assert [node.name for node in classes if lines_of(node) >= 250] == []


@modules
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name]))


def test_only_the_command_monkey_patches() -> None:
    patching = [name for name, text in MODULES.items() if "patch_all(" in text]
    assert patching == ["command/main.py"]


def test_modules_that_only_some_processes_need_are_imported_late() -> None:
    late = [
        (name, node.lineno)
        for name, text in MODULES.items()
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom) and node.module == "gevent_rover.net.tls"
    ]
    assert late == []


def test_nothing_is_imported_for_types_alone_but_what_older_pythons_lack() -> None:
    checked = [name for name, text in MODULES.items() if "TYPE_CHECKING" in text]
    assert checked == ["pooling/client.py"]
    assert "gevent_rover" not in MODULES["pooling/client.py"]


def test_loggers_keep_their_names() -> None:
    found = {
        node.args[0].value
        for text in MODULES.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "getLogger"
        and isinstance(node.args[0], ast.Constant)
    }
    parts = ("cli", "discovery", "forks", "pool", "relay", "rover", "server")
    assert found == {f"gevent_rover.{part}" for part in parts}
