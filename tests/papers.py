"""The DeepLIFT paper's two experiments (arXiv 1704.02685): its networks, data and protocols."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SHARED, convolve

BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3])  # of A, C, G, T: the genomic reference at every base


@cache
def load(name):
    """One file of the papers, or a skipped module where the shared folder is missing."""
    path = SHARED / "papers" / name
    if not path.exists():
        pytest.skip(f"no paper's data at ../shared/papers/{name}", allow_module_level=True)
    return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))


def mnist(image):
    """Ten logits of an image (28, 28, 1) of pixels 0–255."""
    w = load("mnist_weights.npz")
    h = _relu_convolution(image, w, "conv2d1", (2, 2))
    h = _relu_convolution(h, w, "conv2d2", (2, 2))
    return _head(h.reshape(-1), w)


def genomics(sequence):
    """Three tasks' logits of a one-hot sequence (200, 4)."""
    w = load("tal_gata_weights.npz")
    h = _relu_convolution(sequence, w, "conv1d1", (1,))
    h = _relu_convolution(h, w, "conv1d2", (1,))
    return _head(h.mean(0), w)


def _relu_convolution(x, w, name, strides):
    return jax.nn.relu(convolve(x, w[f"{name}_kernel"], strides) + w[f"{name}_bias"])


def _head(h, w):
    h = jax.nn.relu(h @ w["dense1_kernel"] + w["dense1_bias"])
    return h @ w["dense2_kernel"] + w["dense2_bias"]


def digits(label):
    """The test images of one digit, (n, 28, 28, 1)."""
    data = load("mnist_test.npz")
    return jnp.asarray(data["images"][data["labels"] == label, ..., None], jnp.float32)


def erase(image, scores, pixels=157):
    """The image without its highest-scored fifth of pixels, of the positive ones."""
    threshold = jnp.maximum(jnp.sort(scores, axis=None, descending=True)[pixels], 0)
    return jnp.where(scores > threshold, 0, image)


def labelled_sequences():
    """The bases 0–3 of the test sequences with all three labels, (n, 200)."""
    data = load("tal_gata_test.npz")
    return data["bases"][data["labels"].all(1)]


def motif_hits(bases, motif, count=5):
    """Start (n, count) and log-odds (n, count) of each sequence's best hits to a motif."""
    odds = (motif / motif.sum(1, keepdims=True) * 0.999 + 0.00025) / BACKGROUND
    windows = np.lib.stride_tricks.sliding_window_view(bases, len(motif), axis=1)
    left = np.log(odds)[np.arange(len(motif)), windows].sum(-1)
    positions, exclude = np.arange(left.shape[1]), len(motif) // 2
    hits = []
    for _ in range(count):
        start = left.argmax(1)[:, None]
        hits.append((start, np.take_along_axis(left, start, 1)))
        # The original's slice, one base short on the right and empty at the sequence's left edge.
        taken = (positions >= start - exclude) & (positions < start + exclude - 1)
        left = np.where(taken & (start >= exclude), -np.inf, left)
    return tuple(np.concatenate(parts, axis=1) for parts in zip(*hits, strict=True))


def false_negatives(bases, motif, scores, threshold=7.0):
    """How many of the motif's strong hits have no positive score (n, 200), and how many hits."""
    start, log_odds = motif_hits(bases, motif)
    windows = np.lib.stride_tricks.sliding_window_view(scores, len(motif), axis=1).sum(-1)
    strong, score = log_odds >= threshold, np.take_along_axis(windows, start, 1)
    return int((strong & (score <= 0)).sum()), int(strong.sum())
