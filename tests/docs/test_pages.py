"""The pages under docs: their code runs, what they quote is said, and their files are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["own_rule", "journeys", "relevance", "metrics", "stream", "language_models", "models"]
OWN_RULE, JOURNEYS, RELEVANCE, METRICS, STREAM, LANGUAGE, MODELS = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in PAGES
)


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


def test_a_rule_of_your_own_runs_and_its_message_is_the_real_one():
    known = run(OWN_RULE, "own_rule.md")
    assert blocks(OWN_RULE, "text") == [known["message"] + "\n"]


@pytest.mark.parametrize(
    "name",
    [
        "relevance.md",
        "metrics.md",
        "moments.md",
        "genomics.md",
        "stream.md",
        pytest.param("language_models.md", marks=pytest.mark.slow),
        pytest.param("models.md", marks=pytest.mark.slow),
    ],
)
def test_a_page_runs(name):
    run((ROOT / "docs" / name).read_text(), name)


@pytest.mark.parametrize(
    "examples",
    [
        blocks(page, "python")[n:]
        for page, n in zip(
            [OWN_RULE, RELEVANCE, METRICS, STREAM, LANGUAGE, MODELS],
            [1, 1, 3, 0, 0, 0],
            strict=True,
        )
    ],
    ids=["own_rule", "relevance", "metrics", "stream", "language_models", "models"],
)
def test_every_example_asserts_something(examples):
    assert all("assert" in block for block in examples)


@pytest.mark.parametrize(
    "page",
    [OWN_RULE, JOURNEYS, RELEVANCE, METRICS, STREAM, LANGUAGE, MODELS],
    ids=PAGES,
)
def test_every_file_named_is_there(page):
    named = re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|md))`", page)
    linked = [f"docs/{target}" for target in re.findall(r"\]\((?!https://)(.*?)\)", page)]
    for name in [*named, *linked]:
        assert (ROOT / name).is_file(), name


def test_each_journey_touches_few_files():
    journeys = re.split(r"^## ", JOURNEYS, flags=re.MULTILINE)[1:]
    assert len(journeys) == 3
    for journey in journeys:
        assert 2 <= len(re.findall(r"^\| `", journey, re.MULTILINE)) <= 5
