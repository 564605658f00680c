"""How the site is built: ``sphinx-build -W --keep-going -n docs docs/_build``.

The pages are the Markdown that is read on a Git host, too; ``extensions`` has what makes its
links work here. Nothing is fetched: no fonts, no scripts, no other projects' inventories.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

from sphinx.pycode import ModuleAnalyzer  # noqa: E402

from gevent_rover import __version__  # noqa: E402

project = "gevent_rover"
author = "gevent_rover contributors"
copyright = author  # MIT: LICENSE has the terms
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "command_line",
    "pictures",
    "public_names",
    "repository",
]
exclude_patterns = ["_build"]
language = "en"

# Markdown

myst_heading_anchors = 4  # as on a Git host
myst_links_external_new_tab = False

# Docstrings

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": True}
maximum_signature_line_length = 110
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# One signature tells more than the two for type checkers, which differ in what is leased.
analyzer = ModuleAnalyzer.for_module("gevent_rover.pooling.pool")
analyzer.analyze()
del analyzer.overloads["SlotPool.__init__"]

# Names that a reference may have though there's no page of ours on them.
nitpick_ignore_regex = [
    # Other projects': their pages would have to be fetched.
    ("py:.*", r"(blinker|collections|contextlib|gevent|os|prometheus_client|socket|ssl)\..*"),
    # What annotations stand for, and what public objects hold that isn't public itself.
    ("py:class", r"(.*\.)?(Client|_Receiver|Announced|Health|Known|Ranking|SlotState|Stock)"),
]

# HTML

html_theme = "furo"
html_title = "gevent_rover"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}

# The repository: what is a page of its own here.
repository_pages = {
    "README.md": "overview",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "benchmarks",
    "tests/faults/README.md": "corpus",
}

# Where the public names are.
public_packages = [
    "gevent_rover",
    "gevent_rover.discovery",
    "gevent_rover.status",
    "gevent_rover.metrics",
    # Not public by themselves, but in what is.
    "gevent_rover.models",
    "gevent_rover.policy.histogram",
    "gevent_rover.policy.server_health",
    "gevent_rover.status.snapshot",
]
