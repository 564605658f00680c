"""The optional dependencies: what isn't installed is said by the name of its extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str, name: str, user: str) -> Any:
    """Import a module that only an extra installs.

    :param name: of the extra.
    :param user: what needs it, for the error.
    :raises ImportError: it isn't installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as exc:
        if exc.name is not None and not module.startswith(exc.name):
            raise  # It's there, and broken.
        install = f"pip install 'gevent_rover[{name}]'"
        raise ImportError(f"{user} needs {module.partition('.')[0]}: {install}") from None
