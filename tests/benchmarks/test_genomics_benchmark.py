"""The benchmark beside tangermeme: it runs with and without it, and pages come from JSON alone."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from benchmarks import genomics

HAS_PEER = importlib.util.find_spec("tangermeme") is not None


SETTINGS = {"sequences": 2, "length": 40, "shuffles": 3, "layers": 1, "blocks": [1, 1]}
ENVIRONMENT = {
    "platform": "cpu", "device": "a CPU", "cores": 2, "x64": False,
    "jax": "0", "flax": "0", "python": "3", "date": "today",
}  # fmt: skip
OURS = {"library": "jaxplain", "version": "1", "pairs": 3, "seconds": [1.0, 2.0], "gap": 1e-7}


@pytest.mark.slow
def test_scores_are_complete_and_those_of_the_peer():
    found = genomics.run(2, 40, 3, 1, [3], 0, device=jax.devices()[0], progress=False)
    found = json.loads(json.dumps(found))
    cells = genomics.present(found)
    assert [cell["library"] for cell in cells] == ["jaxplain", "tangermeme"][: 1 + HAS_PEER]
    for cell in cells:
        assert cell["gap"] < 1e-5 and cell["pairs"] == 3 and len(cell["seconds"]) == 2
    assert found["settings"].keys() >= SETTINGS.keys()
    assert found["environment"].keys() >= ENVIRONMENT.keys()
    if HAS_PEER:
        scores = found["agreement"]
        assert scores["largest_difference"] < 1e-5 * scores["largest_score"]
        assert scores["largest_score"] > 1e-3
    else:
        assert "tangermeme" in found["cells"][1]["absent"] and found["agreement"] is None


def written(path, cells, agreement):
    """The page of these results, its figure checked."""
    results = {
        "settings": SETTINGS,
        "environment": ENVIRONMENT,
        "cells": cells,
        "agreement": agreement,
    }
    path.write_text(json.dumps(results))
    genomics.write(path)
    assert path.with_suffix(".png").stat().st_size > 5_000
    return path.with_suffix(".md").read_text()


def test_an_absent_peer_is_said_to_be_absent(tmp_path):
    absent = {"library": "tangermeme", "absent": "No module\n  named"}
    page = written(tmp_path / "genomics.json", [OURS, absent], None)
    assert "| tangermeme | not measured: No module |" in page and "nothing to compare" in page


def test_the_page_comes_from_json_alone(tmp_path):
    peer = OURS | {"library": "tangermeme", "version": "1.6", "seconds": [3.0, 4.0]}
    scores = np.random.default_rng(0).normal(size=(2, 40, 4))
    found = genomics.agreement(scores, scores + 1e-6)
    page = written(tmp_path / "genomics.json", [OURS, peer], found)
    assert "tangermeme 1.6 | 3 | 7.0 | 3500.0 ms | 2.50×" in page
    assert "correlation 1.0000000" in page and "takes 2.50 × jaxplain's time" in page


def test_the_gap_is_what_is_missing():
    xs = np.eye(4)[None, [0, 1, 2]]
    scores = np.arange(12.0).reshape(1, 3, 4)
    assert genomics.gap(np.array([15.0]), xs, scores) == 0  # 0 + 5 + 10
    assert genomics.gap(np.array([18.0]), xs, scores) == pytest.approx(0.2)
