"""What is installed is whole: the wheel holds every package of the checkout, and its mark."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "gevent_rover"


def modules() -> set[str]:
    """Return the paths of the checkout's modules."""
    return {path.relative_to(CHECKOUT).as_posix() for path in PACKAGE.rglob("*.py")}


def installed_from_a_wheel() -> Distribution | None:
    """Return what pip unpacked; None if it only points at the checkout."""
    for distribution in distributions(name="gevent_rover"):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        editable = origin.get("dir_info", {}).get("editable", False) or any(
            path.name.startswith("__editable__") for path in distribution.files or []
        )
        # A checkout in which one was built has a distribution, too, but without a record.
        if distribution.read_text("RECORD") is not None and not editable:
            return distribution
    return None


def test_every_directory_with_modules_is_a_package() -> None:
    # In a checkout it's importable without; setuptools would leave it out of the wheel.
    assert {f"{Path(name).parent.as_posix()}/__init__.py" for name in modules()} <= modules()


def test_the_wheel_holds_every_module_and_the_mark_that_it_is_typed() -> None:
    distribution = installed_from_a_wheel()
    if distribution is None:
        pytest.skip("no wheel is installed here; tox and .ci/run install one")
    held = {path.as_posix() for path in distribution.files or []}
    page = {
        path.relative_to(CHECKOUT).as_posix() for path in (PACKAGE / "status/browser").iterdir()
    }
    assert modules() | page | {"gevent_rover/py.typed"} <= held
    assert not [path for path in held if path.startswith(("tests/", "benchmarks/", "examples/"))]
