"""The pages under docs: their code runs, what they quote is said, and their files are there."""

import inspect
import re
from pathlib import Path

import pytest

import jaxplain as jxp

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.stem for path in DOCS.glob("*.md") if path.stem not in ("changelog", "contributing")
)
# Those with code; the rest have none.
LONG = ("language_models", "models", "genomics")  # run in the slow set


def page(name):
    return (DOCS / f"{name}.md").read_text()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(page, name):
    """The page's code from top to bottom, on the lines that it stands on."""
    lines = page.splitlines(keepends=True)
    inside, code = False, []
    for line in lines:
        fence = line.startswith("```")
        code.append(line if inside and not fence else "\n")
        inside = not inside and line.startswith("```python") if fence else inside
    known = {"__name__": "page"}
    exec(compile("".join(code), name, "exec"), known)
    return known


RUN = [name for name in PAGES if blocks(page(name), "python")]


def test_a_rule_of_your_own_runs_and_its_message_is_the_real_one():
    text = page("own_rule")
    assert blocks(text, "text") == [run(text, "own_rule.md")["message"] + "\n"]


@pytest.mark.promotes
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LONG else ())
        for name in RUN
        if name != "own_rule"
    ],
)
def test_a_page_runs(name, tmp_path, monkeypatch):
    """From top to bottom, its pictures in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    run(page(name), f"{name}.md")


def test_all_code_is_python_that_runs_or_says_what_else_it_is():
    kinds = {
        kind for name in PAGES for kind in re.findall(r"^```(\S*)\n", page(name), re.MULTILINE)
    }
    assert kinds - {""} <= {"python", "text", "sh", "bibtex", "{toctree}", "py"}  # py: needs Ray


@pytest.mark.parametrize("name", RUN)
def test_every_page_asserts_something(name):
    assert "assert" in "".join(blocks(page(name), "python"))


@pytest.mark.parametrize("name", PAGES)
def test_every_file_named_is_there(name):
    named = re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|md))`", page(name))
    linked = re.findall(r"\]\((?!https://|#)([^)#]*?)(?:#[^)]*)?\)", page(name))
    for file in [*named, *(f"docs/{target}" for target in linked if target)]:
        assert (ROOT / file).is_file(), file


def test_each_journey_touches_few_files():
    journeys = re.split(r"^## ", page("own_method"), flags=re.MULTILINE)[1:]
    assert len(journeys) == 3
    for journey in journeys:
        assert 2 <= len(re.findall(r"^\| `", journey, re.MULTILINE)) <= 5


def test_which_method_explains_every_function():
    text = "".join(page(name) for name in ("which_method", "inside", "targets"))
    named = set(re.findall(r"jxp\.(\w+)", text))
    assert not [name for name in named if not hasattr(jxp, name)]
    functions = {n for n, v in vars(jxp).items() if callable(v) and v.__module__ != jxp.__name__}
    engine = {"RuleTable", "UnsupportedPrimitive", "override"}
    assert functions - engine <= set(re.findall(r"^\| `jxp\.(\w+)", text, re.MULTILINE))


def public(module):
    """The names of a module that are ours and meant for users."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and callable(value)
        and str(getattr(value, "__module__", "")).startswith("jaxplain.")
        and not str(value.__module__).startswith(("jaxplain._", "jaxplain.games"))
    }


@pytest.mark.parametrize(
    "module",
    [
        "",
        "datasets",
        "genomics",
        "interop",
        "lm",
        "metrics",
        "plots",
        "references",
        "rules",
        "stream",
    ],
)
def test_every_public_name_has_its_place_in_the_reference(module):
    reference = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    entries = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", reference, re.MULTILINE))
    listed = {entry.rpartition(".")[2] for entry in entries}
    assert not public(getattr(jxp, module) if module else jxp) - listed


def test_every_page_is_in_the_site():
    index = page("index") + (DOCS / "api" / "index.md").read_text()
    listed = {line.strip().rpartition("/")[2] for line in index.splitlines()}
    pages = {path.stem for path in DOCS.glob("**/*.md") if "_build" not in path.parts}
    assert pages - {"index"} <= listed
