"""The notebooks as they are kept: badges, an install cell, outputs that are small and whole.

.ci/run executes them, all on the newest Python and two on the oldest.
"""

import ast
import base64
import functools
import inspect
import json
import re
from pathlib import Path

import pytest

import jaxplain as jxp

FOLDER = Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def text(cell):
    return "".join(cell["source"])


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_it_opens_in_colab_under_its_own_name(path):
    (link,) = re.findall(r"\]\((https://colab\S+)\)", text(cells(path, "markdown")[0]))
    assert link.endswith(f"/blob/main/colab/{path.name}")


def test_it_installs_itself_and_names_its_device(path):
    install, first, *_ = map(text, cells(path, "code"))
    assert 'find_spec("jaxplain")' in install and "%pip install" in install
    assert "jax.devices()[0]" in first and "device_kind)" in first
    assert not any("pip install" in text(cell) for cell in cells(path, "code")[1:])


def test_it_ran_from_top_to_bottom_without_an_error(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == [*range(1, len(counts) + 1)]
    assert not [
        o for o in outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"
    ]


def test_its_pictures_are_there_and_small(path):
    shown = [o["data"] for o in outputs(path) if "data" in o]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert pictures or any("text/html" in data for data in shown)
    assert max(map(len, pictures), default=0) < 100_000 and path.stat().st_size < 500_000


def test_it_tells_nothing_of_the_machine_it_ran_on(path):
    assert not re.search(r"/(home|opt|tmp|work|usr|root)/", path.read_text())


def calls(path):
    """Each call `jxp.….name(…)` of a notebook: the dotted name, and the call."""
    for cell in cells(path, "code"):
        lines = text(cell).splitlines(keepends=True)
        code = "".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call):
                root, *names = ast.unparse(node.func).split(".")
                if root == "jxp":
                    yield names, node


def test_it_calls_the_library_as_it_is(path):
    """Every name is there and takes the arguments given, by number and by name."""
    for names, call in calls(path):
        if all(map(str.isidentifier, names)):
            named = {keyword.arg for keyword in call.keywords} - {None}
            signature = inspect.signature(functools.reduce(getattr, names, jxp))
            given = [a for a in call.args if not isinstance(a, ast.Starred)]
            signature.bind_partial(*given, **dict.fromkeys(named))
