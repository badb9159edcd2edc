"""The benchmark of neuron rankings: what it measures, and pages from its results alone."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from benchmarks import neurons


def test_the_fall_is_that_of_the_highest_scored():
    f = lambda x: jxp.tag(x, "h").sum()
    x = jnp.arange(16.0)
    areas = neurons.falls(f, "h", x, scores=x, stand_in=jnp.zeros(16))
    counts = np.ceil(neurons.FRACTIONS * 16).astype(int)
    np.testing.assert_allclose(areas, [x[-n:].sum() for n in counts])


def test_simulated_sequences_hold_the_motifs_they_are_labelled_with():
    sequences, labels = neurons.simulate(50, 100, 0)
    texts = ["".join("ACGT"[b] for b in s.argmax(-1)) for s in sequences]
    for motif, has in zip(neurons.MOTIFS, labels.T[1:], strict=True):
        assert all(motif in text for text, label in zip(texts, has, strict=True) if label)
    np.testing.assert_array_equal(labels[:, 0], labels[:, 1] * labels[:, 2])


@pytest.fixture
def results():
    settings = itertools.product(neurons.SUBJECTS, neurons.LAYERS, ("zero", "mean"))
    cells = [
        {
            "network": network, "layer": layer, "ablation": ablation, "method": method,
            "area": (1.0 + i, 0.1), "beyond": (i, 0.1), "time": 1.0 + i,
        }
        for network, layer, ablation in settings
        for i, method in enumerate([*neurons.METHODS, "random order"])
    ]  # fmt: skip
    run = {"examples": 3, "accuracy": {"digits": 0.9, "genomics": 0.8}}
    return {"cells": cells, "settings": run}


def test_pages_come_from_results_alone(results, tmp_path):
    page = neurons.page(results)
    assert "digits 90.0%, genomics 80.0%" in page and "1.00 ± 0.10" in page
    assert "activation: ranks better than DeepLIFT (rescale) in 12 of 12 settings" in page
    neurons.figure(results, tmp_path / "neurons.png")
    assert (tmp_path / "neurons.png").stat().st_size > 10_000
