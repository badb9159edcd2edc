"""The trust benchmark: its data, a whole run of a model, and its page from the JSON alone."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from benchmarks import trust
from benchmarks.__main__ import main


def test_the_words_that_decide_are_known():
    ids, praise, told = trust.sentences(0, 500)
    for row, good, mask in zip(ids, praise, told, strict=True):
        words = row[mask]
        negated = words[0] == 1
        assert len(words) == 1 + negated
        assert good == ((words[-1] in trust.GOOD) != negated)
        others = row[~mask]
        assert not np.isin(others, [*trust.GOOD, *trust.BAD, 1]).any()
    assert 0.4 < praise.mean() < 0.6


def test_a_metric_by_place_adds_a_places_elements():
    c = jnp.array([[1.0, 2.0], [-1.0, -4.0], [1.0, 0.0]])
    mask = jnp.array([[True, True], [False, False], [False, False]])
    metric = trust.at_places(jxp.relevance_mass)
    assert metric(c, mask) == 0.75 and metric.direction == "↑"


@pytest.mark.slow
def test_a_run_and_its_page(tmp_path):
    options = "--examples 4 --seeds 1 --subjects words --quick --quiet --out".split()
    main(["trust", *options, str(tmp_path)])
    path = tmp_path / "trust-quick.json"
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["accuracy"] > 0.9 and cell["methods"][-1] == "random"
    assert cell["evaluations"]["per_method"] <= 80
    means = np.array(cell["means"], float)
    best = means[:-1, cell["metrics"].index(trust.TRUTH)].max()
    assert best > means[-1, cell["metrics"].index(trust.TRUTH)]
    assert "words: padding / mean word" in path.with_suffix(".md").read_text()


def cell(subject, seed, ranks, metrics, refs=("zero", "mean")):
    ranks = [*ranks, [len(ranks) + 1.0] * len(metrics)]
    return {
        "subject": subject, "seed": seed, "accuracy": 0.9, "references": list(refs),
        "methods": [f"m{i}" for i in range(len(ranks) - 1)] + ["random"], "metrics": metrics,
        "directions": ["↑"] * len(metrics), "means": ranks, "ranks": ranks,
        "agreement": np.eye(len(metrics)).tolist(), "evaluations": {
            "per_method": 40.4, "alone": 200, "explanations": 9,
        },
    }  # fmt: skip


def test_page_and_figure_come_from_the_json_alone(tmp_path):
    kinds = ("deletion", "insertion", "faithfulness")
    metrics = [f"{kind}, {ref}" for kind in kinds for ref in ("zero", "mean")] + ["mass"]
    ranks = [[1.0, 3, 1, 1, 2, 1, 1], [2.0, 2, 2, 2, 3, 2, 2], [3.0, 1, 3, 3, 1, 3, 3]]
    cells = [cell("words", seed, ranks, metrics) for seed in range(2)]
    environment = dict(
        platform="cpu", device="some", cores=2, x64=False, jax="0", flax="0", python="3", date="d"
    )
    path = tmp_path / "trust.json"
    settings = {"examples": 4, "seeds": 2}
    path.write_text(json.dumps({
        "benchmark": "trust", "environment": environment, "settings": settings, "cells": cells,
    }))  # fmt: skip
    main(["report", str(path)])
    page = path.with_suffix(".md").read_text()
    assert "| words: zero / mean | -1.00 | 1.00 | -0.50 | m0 | m2 |" in page
    assert "| deletion, reference 1 | 1.00 |" in page and "(trust.png)" in page
    assert "| words | 1.00 | 90.0% | 40 | 200 | 9 |" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
