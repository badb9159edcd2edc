"""Seqlets: the stretches of a sequence whose contributions stand out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_ROUNDS = 10  # of shuffling, for the null distribution


class Seqlets(NamedTuple):
    """Stretches of sequences: which one, first position, end (exclusive), Σ contributions."""

    example: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


def seqlets(
    contributions: Any, *, window: int = 10, flank: int = 0, rate: float = 0.05, seed: int = 0
) -> Seqlets:
    r"""Windows whose contributions sum to more than chance makes of the same numbers.

    S_l = Σ_{i<window} c_{l+i}. A window's p-value is the share of windows with as large a |S| after
    the positions of every sequence were shuffled; those that the Benjamini-Hochberg procedure
    passes are taken from the largest |S| of each sequence on, and whatever overlaps them is left.

    Args:
      contributions: of each position (n, length), or of each base (n, length, 4), which are
        summed: contributions, or x ⊙ hypothetical ones.
      window: positions that are summed.
      flank: positions added on both sides, where the sequence has them.
      rate: the false discovery rate.
      seed: of the shuffles; the same seed gives the same seqlets.

    Returns:
      `Seqlets`, arrays of one size, sorted by sequence and position; scores have a sign.

    Raises:
      ValueError: contributions of another shape, or not finite; a window that does not fit; a rate
        outside (0, 1).

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> contributions = np.random.default_rng(0).normal(size=(5, 100))
      >>> contributions[3, 40:50] += 4
      >>> found = jxp.genomics.seqlets(contributions)
      >>> found.example, found.start
      (array([3]), array([40]))

    Source: after Shrikumar et al., "TF-MoDISco", arXiv 1811.00416, section 3.1 (windows' sums
    against a null); Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995) 289-300.
    """
    scores = np.asarray(contributions, float)
    scores = scores.sum(-1) if scores.ndim == 3 else scores
    if scores.ndim != 2 or not 1 <= window <= scores.shape[-1] or not 0 < rate < 1 or flank < 0:
        raise ValueError(
            f"contributions {np.shape(contributions)} must be (n, length) or (n, length, 4), "
            f"window={window} must fit, rate={rate} be in (0, 1), flank={flank} not negative"
        )
    if not np.isfinite(scores).all():
        raise ValueError("contributions are not all finite")
    sums = _sums(scores, window)
    left = np.where(_passes(abs(sums), _null(scores, window, seed), rate), abs(sums), -np.inf)
    found, places, length = [], np.arange(sums.shape[1]), scores.shape[1]
    while np.isfinite(best := left.max(1)).any():  # one of each sequence a round
        rows, start = np.flatnonzero(np.isfinite(best)), left.argmax(1)
        found += [(row, start[row]) for row in rows]
        covered = abs(places - start[:, None]) < window + flank
        left[covered & np.isfinite(best)[:, None]] = -np.inf
    example, start = np.array(sorted(found), int).reshape(-1, 2).T
    return Seqlets(
        example,
        np.maximum(start - flank, 0),
        np.minimum(start + window + flank, length),
        sums[example, start],
    )


def _sums(scores: np.ndarray, window: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(scores, window, axis=1).sum(-1)


def _null(scores: np.ndarray, window: int, seed: int) -> np.ndarray:
    """Sorted |S| of shuffled positions."""
    rng = np.random.default_rng(seed)
    rounds = [_sums(rng.permuted(scores, axis=1), window) for _ in range(_ROUNDS)]
    return np.sort(abs(np.concatenate(rounds)), axis=None)


def _passes(sizes: np.ndarray, null: np.ndarray, rate: float) -> np.ndarray:
    """Benjamini-Hochberg of empirical p-values."""
    larger = len(null) - np.searchsorted(null, sizes.ravel())
    p = (1 + larger) / (1 + len(null))
    order = np.sort(p)
    ranks = np.arange(1, len(p) + 1)
    passing = order[order <= rate * ranks / len(p)]
    threshold = passing[-1] if len(passing) else -1
    return (p <= threshold).reshape(sizes.shape)
