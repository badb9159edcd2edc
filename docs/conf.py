"""The documentation site: `sphinx-build -W -b html docs docs/_build/html`."""

import re
from importlib import metadata
from typing import Any

REPOSITORY = "https://github.com/jaxplain/jaxplain"

project, author, release = "jaxplain", "The jaxplain authors", metadata.version("jaxplain")
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxplain"
html_static_path = ["_static"]
html_css_files = ["jaxplain.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}

# Pages: text notebooks are executed; blocks of other pages run in tests/docs/test_pages.py.
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True

# Docstrings: Google's sections, `single backquotes` for code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
napoleon_use_admonition_for_examples = False


def beside_the_pages(app: Any, name: str, source: list[str]) -> None:
    """Links to files outside of docs/ lead to the repository; pictures from there are copied."""
    source[0] = re.sub(
        r"(?<!!)(\[[^\]]*\])\((?:\.\./)+(?=benchmarks/|colab/|examples/)",
        rf"\1({REPOSITORY}/blob/main/",
        source[0],
    )


def as_restructured_text(app: Any, *where: Any) -> None:
    """What docstrings write plainly and reStructuredText would take for markup."""
    lines = where[-1]
    lines[:] = [_plain(line) for line in lines]


def _plain(line: str) -> str:
    if line.lstrip().startswith((">>>", "...", ".. ")):
        return line
    bullet = re.match(r"\s*\* ", line)
    start = bullet.end() if bullet else 0
    parts = re.split(r"(`[^`]*`)", line[start:])
    return line[:start] + "".join(
        part if part.startswith("`") else re.sub(r"(?<!\\)([*|_])", _escaped, part)
        for part in parts
    )


def _escaped(found: re.Match[str]) -> str:
    return "\\" + found[0]


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("source-read", beside_the_pages)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=900)
