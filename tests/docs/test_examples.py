"""The examples do what they say, at sizes that a test can afford."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.promotes
def test_an_attribution_prior_keeps_a_network_off_the_mark(capsys):
    runpy.run_path(str(EXAMPLES / "attribution_prior.py"))["main"](["--steps", "150"])
    printed = re.findall(r"^(.+?) +([\d.]+)% +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
    shares = {name: (float(without), float(prior)) for name, without, prior in printed}
    on_edge, told, misled = shares.values()
    assert on_edge[1] < on_edge[0] / 5
    # What a false mark costs: much without the prior, little with it.
    assert told[0] - misled[0] > 15 and told[1] - misled[1] < 10
    assert misled[1] > misled[0] + 10
