"""What the package says of itself in several places is the same in all of them."""

import re
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
