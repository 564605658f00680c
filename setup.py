"""All metadata of the distribution; the version is the package's own ``__version__``."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Return the package's version without importing it: its dependencies may not be there yet."""
    text = (HERE / "gevent_rover" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("gevent_rover/__init__.py has no __version__")
    return found[1]


def description(url: str) -> str:
    """Return the README for a package index, where relative links lead nowhere.

    :param url: the repository's; if it's known, links and pictures are absolute ones below
        it. Else each path is named once, in parentheses, and pictures are left out.
    """
    named: set[str] = set()

    def replaced(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if mark:
            return f"![{words}]({url}/raw/HEAD/{target})" if url else ""
        if url:
            return f"[{words}]({url}/blob/HEAD/{target})"  # as GitHub and GitLab have it
        path = target.partition("#")[0]
        if path == words or path in named:
            return words
        named.add(path)
        return f"{words} ({path} in the source distribution)"

    text = (HERE / "README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?)\[([^]]+)\]\((?!\w+:)([^)\s]+)\)", replaced, text)


# Where the repository is, if the build was told.
URL = os.environ.get("GEVENT_ROVER_URL", "").rstrip("/")

PROJECT_URLS = {
    "Source": URL,
    "Changelog": f"{URL}/blob/HEAD/CHANGELOG.md",
    "Documentation": f"{URL}/tree/HEAD/docs",
    "Issues": f"{URL}/issues",
}

# The lowest versions that the tests pass with (tox -e lowest). Monkey-patching with
# an older gevent loads its plugins through pkg_resources, which doesn't find today's
# zope.interface; blinker 1.8 is the first that takes built-in functions.
INSTALL = ["gevent>=23.7.0", "blinker>=1.8"]

# For the figures of benchmarks/README.md.
BENCH = ["gunicorn[gevent]>=22", "matplotlib>=3.8", "simpy>=4.1"]

# Servers that are found: see gevent_rover.discovery.
DNS = ["dnspython>=2.6"]
ZOOKEEPER = ["kazoo>=2.9"]

# For a live table in the terminal: gevent-rover top.
CLI = ["rich>=13"]

# For Prometheus: see gevent_rover.metrics.
METRICS = ["prometheus-client>=0.20"]

TEST = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "hypothesis>=6.100",
    "gunicorn[gevent]>=22",
    "flask>=3",
    "simpy>=4.1",
    "trustme>=1.1",
    *DNS,
    *ZOOKEEPER,
    *CLI,
    *METRICS,
]

# For the tests of the status page in a browser, which must be there: Chromium and its driver.
BROWSER = ["selenium>=4.20", "axe-core-python>=0.1"]

# What is published, and its check.
DIST = ["build>=1.2", "twine>=6"]

# The documentation's site.
DOCS = ["furo>=2024.8", "myst-parser>=4", "sphinx>=8.1"]

# Where there are wheels; elsewhere it takes LLVM to build.
ATHERIS = (
    "atheris>=3.1; python_version >= '3.12' and sys_platform == 'linux'"
    " and platform_machine == 'x86_64'"
)

# For the recipes of examples/clients, and their tests.
CLIENTS = [
    "redis>=5",
    "pymemcache>=4",
    "PyMySQL>=1.1",
    "thrift>=0.20",
    "thriftpy2>=0.5.2",
    "geventhttpclient>=2.4",
    "urllib3>=2",
    "requests>=2.31",
]

# The tools whose releases change their minds are pinned, here and in .pre-commit-config.yaml.
DEV = [
    *TEST,
    *CLIENTS,
    *BROWSER,
    *DIST,
    *DOCS,
    ATHERIS,
    "coverage>=7.10",  # the first with "patch = subprocess"
    "import-linter==2.17",
    "mypy==2.4.1",
    "pre-commit>=4",
    "ruff==0.17.6",
    "tox>=4.20",
    "types-docutils==0.23.0.20261107",
    "types-gevent==26.9.0.20261006",
    *BENCH,
]

setup(
    name="gevent_rover",
    version=version(),
    description="A client-side load balancer for gevent: the Callosum rover, and its slot server",
    long_description=description(URL),
    long_description_content_type="text/markdown",
    project_urls=PROJECT_URLS if URL else {},
    author="gevent_rover contributors",
    license="MIT",
    license_files=["LICENSE"],
    keywords="gevent blinker callosum boxcar load-balancing tcp",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: gevent",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["gevent_rover", "gevent_rover.*"]),
    package_data={"gevent_rover": ["py.typed", "status/browser/*"]},
    zip_safe=False,
    install_requires=INSTALL,
    extras_require={
        "dns": DNS,
        "zookeeper": ZOOKEEPER,
        "cli": CLI,
        "metrics": METRICS,
        "clients": CLIENTS,
        "test": TEST,
        "bench": BENCH,
        "browser": BROWSER,
        "dist": DIST,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["gevent-rover = gevent_rover.command.main:main"]},
)
