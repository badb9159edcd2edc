"""What the package says of itself in several places is the same in all of them."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_one_version():
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citing = re.search(r"version = \{(.*)\}", (ROOT / "docs" / "citing.md").read_text())
    assert {citation[1], newest[1], citing[1]} == {PROJECT["version"]}


@pytest.mark.parametrize("page", ["changelog", "contributing"])
def test_pages_include_the_files_beside_the_package(page):
    included = re.findall(r"```\{include\} (\S+)", (ROOT / "docs" / f"{page}.md").read_text())
    assert [(ROOT / "docs" / name).resolve().name for name in included] == [f"{page.upper()}.md"]
    assert (ROOT / "docs" / included[0]).read_text().startswith("# ")


def test_every_file_that_contributors_are_sent_to_is_there():
    named = re.findall(
        r"`((?:jaxplain|tests|benchmarks)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text()
    )
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


def test_extras_name_extras_that_exist():
    own = [n for needs in EXTRAS.values() for need in needs for n in re.findall(r"n\[(.*)\]", need)]
    assert {name for names in own for name in names.split(",")} <= set(EXTRAS)


def test_every_extra_that_an_error_or_a_page_names_exists():
    files = [*ROOT.glob("jaxplain/**/*.py"), *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    named = {
        name
        for file in files
        for names in re.findall(r'"(?:jaxplain|\.)\[([\w,]+)\]"', file.read_text())
        for name in names.split(",")
    }
    assert {"genomics", "motifs", "stream"} <= named <= set(EXTRAS)


COME_ALONG = {"numpy": "jax", "requests": "pooch", "scipy": "jax"}  # with what needs them


def imported(file):
    """The packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_whatever_is_imported_is_required_or_in_an_extra():
    users = [needs for name, needs in EXTRAS.items() if name not in ("test", "lint", "peers")]
    needs = [need for needs in [PROJECT["dependencies"], *users] for need in needs]
    known = {re.match(r"[\w-]+", need)[0].replace("scikit-learn", "sklearn") for need in needs}
    used = {name for file in ROOT.glob("jaxplain/**/*.py") for name in imported(file)}
    used -= sys.stdlib_module_names
    assert {"bioframe", "flax", "memelite", "pooch", "sklearn"} <= used
    assert {COME_ALONG.get(name, name) for name in used} <= known
