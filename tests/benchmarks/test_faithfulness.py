"""The faithfulness study: its Shapley values, its costs and its page."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import faithfulness, faithfulness_report
from benchmarks.__main__ import main

N = faithfulness.FEATURES


def test_shapley_values_are_those_of_the_definition():
    """x0 x1 x2 relu(x3 - x4) and a linear part: over all orders of the players that interact."""
    x, ref, w = np.random.default_rng(0).normal(size=(3, N))
    joint = lambda x: x[0] * x[1] * x[2] * jnp.maximum(x[3] - x[4], 0)
    expected = w * (x - ref)
    for order in itertools.permutations(range(5)):
        point = ref.copy()
        for i in order:
            before = float(joint(point))
            point[i] = x[i]
            expected[i] += (float(joint(point)) - before) / math.factorial(5)
    exact = jax.jit(lambda x, ref: faithfulness.shapley(lambda x: joint(x) + w @ x, x, ref))(x, ref)
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)


def test_the_error_of_exact_values_is_zero():
    """On a linear network every complete method is exact."""
    family = faithfulness.Family(
        lambda key: jax.random.normal(key, (N,)), lambda x, w: jnp.tanh(x[0]) + x @ w
    )
    x, ref, w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, N)), jnp.float32)
    exact = w * (x - ref)
    exact = exact.at[:, 0].add(jnp.tanh(x[:, 0]) - jnp.tanh(ref[:, 0]))
    cell = faithfulness.errors(family, faithfulness.METHODS["Rescale"], (x, ref, w), exact)
    assert max(cell["error"]) < 1e-5 and cell["gradients"] > 0
    slope = faithfulness.errors(
        family, faithfulness.METHODS["gradient × input"], (x, ref, w), exact
    )
    assert max(slope["error"]) > 1e-2


def test_page_and_figure_come_from_the_json_alone(tmp_path):
    cells = [
        {"family": family, "method": method, "error": [e, e + 0.1, e + 0.2], "gradients": cost}
        for family in ("relu", "tanh")
        for method, e, cost in (("near", 0.1, 3.0), ("far", 0.5, 1.0))
    ]
    environment = dict(
        platform="cpu", device="some", cores=2, x64=False, jax="0", flax="0", python="3", date="d"
    )
    results = {"benchmark": "faithfulness", "environment": environment, "networks": 6}
    path = tmp_path / "study.json"
    path.write_text(json.dumps(results | {"features": N, "seed": 0, "cells": cells}))
    main(["report", str(path)])
    page = path.with_suffix(".md").read_text()
    assert "| near | **0.20** | **0.20** | 0.20 | 3.0 |" in page
    assert "| far | 0.60 | 0.60 | 0.60 | 1.0 |" in page and "(study.png)" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert list(faithfulness_report.by_method(json.loads(path.read_text()))) == ["near", "far"]
