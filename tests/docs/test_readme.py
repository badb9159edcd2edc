"""What the README says is so: its code runs, its commands exist, its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import jaxplain as jxp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
REPOSITORY = "https://github.com/jaxplain/jaxplain/blob/main/"
RAW = "https://raw.githubusercontent.com/jaxplain/jaxplain/main/"
SITE = "https://jaxplain.readthedocs.io/en/latest/"


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_quickstart_writes_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = BLOCKS
    assert len(code.splitlines()) <= 12
    known = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), known)
    f, images, labels = known["f"], known["images"], known["labels"]
    for image, label, contributions in zip(images, labels, known["contributions"], strict=True):
        assert abs(contributions.sum() - (f(image, label) - f(0 * image, label))) < 1e-4
    assert (tmp_path / "digits.png").stat().st_size > 5_000


def test_two_commands_of_one_line_with_extras_that_exist():
    run, test = COMMANDS
    assert run.endswith("-m jaxplain") and test.endswith("-m pytest")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command in COMMANDS:
        assert command.startswith("python3 -m venv .venv && ") and "\n" not in command
        assert re.search(r'pip install (?:-e )?"\.\[(\w+)\]"', command)[1] in extras


def test_every_name_is_there():
    assert not [name for name in re.findall(r"jxp\.(\w+)", README) if not hasattr(jxp, name)]


def test_links_are_absolute_and_lead_somewhere():
    targets = re.findall(r"\]\((.*?)\)", README)
    assert len(targets) > 20 and all(target.startswith("https://") for target in targets)
    for target in targets:
        for start in (REPOSITORY, RAW):
            if target.startswith(start):
                assert (ROOT / target.removeprefix(start)).is_file(), target
        if target.startswith(SITE):
            page = ROOT / "docs" / target.removeprefix(SITE)
            assert page.with_suffix(".md").is_file(), target
