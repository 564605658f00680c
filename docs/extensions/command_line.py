"""``{command-help}``: what a command says of itself, asked when the site is built."""

from __future__ import annotations

import os
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

#: Characters in a line of help: what fits beside the table of contents.
COLUMNS = 84


def help_of(*command: str) -> str:
    """Return what ``gevent-rover COMMAND --help`` prints.

    :raises subprocess.CalledProcessError: there is no such command.
    """
    plain = {"COLUMNS": str(COLUMNS), "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "gevent_rover", *command, "--help"],
        env=os.environ | plain, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout


class CommandHelp(SphinxDirective):
    """Shows the help of a subcommand, or, without an argument, of the command itself."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = help_of(*self.arguments).rstrip()
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
