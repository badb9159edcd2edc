"""From simulated sequences to motifs: a network is trained, explained, and read by modisco."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplain as jxp
from benchmarks import neurons
from jaxplain import datasets, genomics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explained():
    """Held-out sequences with both motifs, and their hypothetical contributions to that label."""
    data = datasets.tal_gata(0, 7000)
    xs, labels = jnp.asarray(data.sequences), jnp.asarray(data.labels)
    loss = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)
    train, held_out = slice(6000), slice(6000, None)
    variables = neurons.fit(
        neurons.Genomics(), xs[train], loss, labels[train], 2500, jax.random.key(0)
    )
    model = lambda x: neurons.Genomics().apply(variables, x)
    right = (jax.jit(jax.vmap(model))(xs[held_out]) > 0) == labels[held_out]
    assert right.mean() > 0.9
    both = 6000 + np.flatnonzero(data.labels[held_out, 0])
    data = datasets.Simulated(*(field[both] for field in data))
    f = jxp.logit(model, 0)
    explain = genomics.deeplift_shap(f, samples=20, hypothetical=True, chunk=None)
    return data, np.asarray(explain(data.sequences, key=jax.random.key(1)))


def similarity(pattern, motif):
    """The largest correlation of a motif with a stretch of a pattern, on either strand."""

    def correlation(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    return max(
        correlation(strand[start : start + len(motif)], motif)
        for strand in (pattern, pattern[::-1, ::-1])
        for start in range(len(pattern) - len(motif) + 1)
    )


def test_planted_bases_are_the_ones_that_contribute(explained):
    data, hypothetical = explained
    scores = (data.sequences * hypothetical).sum(-1)
    planted = data.planted.any(-1)
    assert scores[planted].mean() > 20 * abs(scores[~planted].mean())
    assert scores[planted].sum() > 0.8 * scores.sum()


def test_seqlets_are_the_planted_instances(explained):
    data, hypothetical = explained
    found = genomics.seqlets(data.sequences * hypothetical, window=8)
    hits = [data.planted[e, s:t].any() for e, s, t, score in zip(*found, strict=True) if score > 0]
    assert np.mean(hits) > 0.9
    covered = np.zeros(data.planted.shape[:2], bool)
    for example, start, end, _ in zip(*found, strict=True):
        covered[example, start:end] = True
    assert covered[data.planted.any(-1)].mean() > 0.6


def test_modisco_finds_the_planted_motifs(explained, tmp_path):
    h5py = pytest.importorskip("h5py")
    modisco = Path(sys.executable).with_name("modisco")
    if not (modisco.exists() or shutil.which("modisco")):
        pytest.skip('modisco-lite is not installed: pip install ".[modisco]"')
    data, hypothetical = explained
    ohe, attr = genomics.to_modisco(data.sequences, hypothetical, tmp_path)
    command = [modisco if modisco.exists() else "modisco", "motifs", "-n", "2000", "-w", "200"]
    subprocess.run(
        [*map(str, command), "-s", ohe, "-a", attr, "-o", tmp_path / "found.h5"],
        check=True,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"},
    )
    with h5py.File(tmp_path / "found.h5") as file:
        patterns = [group["sequence"][:] for group in file["pos_patterns"].values()]
    for name, motif in datasets.MOTIFS.items():
        best = max(similarity(pattern, motif) for pattern in patterns)
        assert best > 0.95, f"{name}: {best:.3f} in {len(patterns)} patterns"
