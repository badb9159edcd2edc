"""The papers' experiments: closed forms and counts, and pages that come from the JSON alone."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from benchmarks import papers
from benchmarks.__main__ import main
from benchmarks.papers import digit_conversion, genomics, nets, saturation, shapley_by_hand
from benchmarks.papers.settings import PAPER, Options
from jaxplain.datasets import Simulated

ENVIRONMENT = dict(
    platform="cpu", device="some", cores=2, x64=False, jax="0", flax="0", python="3", date="d"
)


def page(tmp_path, name, found):
    """The page of one experiment, written from text."""
    cells = [{"experiment": name} | cell for cell in found["cells"]]
    results = {"benchmark": "papers", "environment": ENVIRONMENT, "cells": cells}
    path = tmp_path / "some.json"
    path.write_text(json.dumps(results | {"settings": {"seeds": 2, name: found["settings"]}}))
    main(["report", str(path)])
    assert (tmp_path / f"some-{name}.png").stat().st_size > 10_000
    return path.with_suffix(".md").read_text()


@pytest.mark.promotes
def test_equations_hold_and_saturation_is_as_by_hand(tmp_path):
    found = saturation.measure(Options())
    errors = {c["equation"]: c["error"] for c in saturation.of(found, "equation")}
    assert set(errors) == set(saturation.EQUATIONS) and max(errors.values()) < 1e-13
    for cell in saturation.of(found, "neuron"):
        assert cell["deeplift"] == pytest.approx(cell["by_hand"], rel=1e-12)
    last = saturation.of(found, "softmax")[-1]
    assert last["gradient"] == pytest.approx(last["by_hand"], rel=1e-9)
    assert last["gradient"] < 1e-80 and last["deeplift"] > 0.6
    assert "| 5 | probability | 2.3e-04 | 0.25 |" in page(tmp_path, "saturation", found)


def test_shapley_values_are_those_by_hand(tmp_path):
    found = shapley_by_hand.measure(Options())
    error = {(c["case"], c["method"]): c["error"] for c in found["cells"]}
    for case in shapley_by_hand.CASES:
        assert error[case, "Shapley values"] < 1e-5
    for method in shapley_by_hand.METHODS:
        assert error["linear, independent", method] < 1e-5
    assert error["minimum", "DeepLIFT, Rescale"] > 0.4
    (conditional,) = [c for c in found["cells"] if c["method"] == shapley_by_hand.CONDITIONAL]
    moved = 2 * shapley_by_hand.CORRELATION * 2 / 2  # w₁ρx₂/2
    np.testing.assert_allclose(conditional["values"], [2 - moved, moved], atol=1e-6)
    assert "DeepLIFT-SHAP: the Shapley values in 5 of 6 cases" in page(
        tmp_path, "shapley_by_hand", found
    )


def test_erased_are_the_highest_positive_pixels():
    scores = jnp.array([[3.0, -1.0], [2.0, 1.0]])
    image = jnp.ones((2, 2))
    np.testing.assert_array_equal(digit_conversion.erase(image, scores, 2), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(digit_conversion.erase(image, scores - 2.5, 2), [[0, 1], [1, 1]])


def test_blocks_are_as_the_whole():
    xs = np.arange(7.0)
    got = nets.in_blocks(lambda a, x: (a + x, x > 2), 3, 1.0)(xs)
    np.testing.assert_array_equal(got[0], xs + 1)
    np.testing.assert_array_equal(got[1], xs > 2)


def test_false_negatives_and_positives_are_against_what_was_planted():
    """One sequence: TAL1 at 20 and 40, GATA1 at 60; the second TAL1 instance is overlooked."""
    starts = np.array([[[20, 40, -1], [60, -1, -1]]])
    widths = [len(motif) for motif in jxp.datasets.MOTIFS.values()]
    planted = np.zeros((1, 200, 2), bool)
    planted[0, 20 : 20 + widths[0], 0] = planted[0, 40 : 40 + widths[0], 0] = True
    planted[0, 60 : 60 + widths[1], 1] = True
    held_out = Simulated(np.zeros((1, 200, 4)), np.ones((1, 3)), planted, starts)
    scores = np.zeros((1, 3, 200))
    scores[0, 0, 20], scores[0, 0, 45] = 1.0, -1.0  # for both
    scores[0, 1, 20:30], scores[0, 1, 60], scores[0, 1, 100] = 1.0, 5.0, 20.0  # for TAL1
    found = genomics.against_truth(scores, held_out, 0)
    assert (found["missed"], found["instances"]) == (1, 2)
    assert (found["other above"], found["other"]) == (1, 1)
    assert found["background above"] == 1
    assert found["background"] == (genomics.background(planted[..., 0], held_out, 10) == 0).sum()
    second = genomics.against_truth(scores, held_out, 1)
    assert (second["missed"], second["instances"], second["other above"]) == (1, 1, 2)


def distribution(network, conversion, method, height):
    """A cell of digit conversion."""
    return {
        "network": network, "conversion": conversion, "method": method, "n": 9, "mean": height,
        "flipped": 0.5, "percentiles": [height + d for d in (-2, -1, 0, 1, 2)], "expected": None,
    }  # fmt: skip


def test_the_page_says_where_reveal_cancel_is_ahead(tmp_path):
    heights = {m: 5.0 + i for i, m in enumerate(digit_conversion.ORDER)}
    cells = [
        distribution(network, conversion, method, height)
        for network in ("seed 0", "seed 1")
        for conversion in digit_conversion.names()
        for method, height in heights.items()
    ]
    for cell in cells:  # behind in one conversion, and in one network of another
        lost = [("seed 0", "8->6"), ("seed 0", "9->1"), ("seed 1", "9->1")]
        if cell["method"] == "revealcancel" and (cell["network"], cell["conversion"]) in lost:
            cell["percentiles"] = [0.0] * 5
    settings = {
        "accuracy": {"seed 0": 0.9, "seed 1": 0.8}, "trained on": "some digits",
        "explained": {n: {"8->3": 9} for n in ("seed 0", "seed 1")},
    }  # fmt: skip
    text = page(tmp_path, "digit_conversion", {"settings": settings, "cells": cells})
    lines = {line[2:7]: line for line in text.splitlines() if line.startswith("- ")}
    assert "2 of 2" in lines["8 → 3"] and "**holds**" in lines["8 → 3"]
    assert "1 of 2" in lines["8 → 6"] and "**mixed**" in lines["8 → 6"]
    assert "0 of 2" in lines["9 → 1"] and "**does not hold**" in lines["9 → 1"]


def test_the_page_counts_networks_that_overlook_less(tmp_path):
    missed = dict(zip(genomics.ORDER, (0, 5, 4, 3, 1, 1), strict=True))
    cells = [
        {
            "network": f"seed {seed}", "method": method, "motif": motif,
            "missed": missed[method] + seed * (method == "rescale"), "instances": 100,
            "other above": 1, "other": 50, "background above": 2, "background": 100,
            "average precision": 0.9, "precision": [0.9] * len(genomics.RECALLS),
            "flops": 10.0 if method == "ig10" else 1.0,
        }
        for seed in range(2)
        for method in genomics.ORDER
        for motif in genomics.MOTIFS
    ]  # fmt: skip
    cells += [
        {
            "network": PAPER, "method": method, "motif": motif, "missed": 1, "instances": 9,
            "expected": [1 + (method == "ig10"), 9], "flops": 2.0,
        }
        for method in genomics.ORDER
        for motif in genomics.MOTIFS
    ]  # fmt: skip
    settings = {
        "accuracy": {f"seed {s}": [0.9, 0.9, 0.9] for s in range(2)},
        "sequences": {"seed 0": 20, "seed 1": 20},
    }
    text = page(tmp_path, "genomics", {"settings": settings, "cells": cells})
    assert "10 of 12 entries are the published ones" in text
    assert "TAL1: RevealCancel overlooks 2 of 200" in text
    assert "**more** than guided backprop × Δinput (0);" in text and "| 10.0 |" in text
    assert (
        "in every network **fewer** than gradient × Δinput (10), integrated gradients, 10 steps (8)"
        in text
    )
    assert "genomics default (2; fewer in 0, as many in 2, more in 0 networks)" in text


def test_the_papers_weights_need_their_folder(tmp_path):
    with pytest.raises(SystemExit, match="--data"):
        main(["papers", "--weights", "paper", "--out", str(tmp_path)])


@pytest.mark.slow
def test_networks_are_trained_and_explained(tmp_path):
    """From one command, the whole page."""
    main(["papers", "--quick", "--quiet", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "papers-quick.json").read_text())
    assert [*papers.parts(results)] == [*papers.EXPERIMENTS]
    conversions = papers.parts(results)["digit_conversion"]
    assert len(conversions["cells"]) == 4 * len(digit_conversion.ORDER)
    assert conversions["settings"]["accuracy"]["seed 0"] > 0.7
    found = {(c["method"], c["motif"]) for c in papers.parts(results)["genomics"]["cells"]}
    assert len(found) == 2 * len(genomics.ORDER)
    assert "## Shapley values by hand" in (tmp_path / "papers-quick.md").read_text()
