"""Seqlets: the stretches of a sequence whose contributions stand out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxplain._types import Tree

_QUANTILES = np.arange(1, 19) / 20  # at which the null distribution is fitted


class Seqlets(NamedTuple):
    """Stretches of sequences: which one, first position, end (exclusive), Σ contributions."""

    example: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


def seqlets(
    contributions: Tree, *, window: int = 10, flank: int = 0, rate: float = 0.05
) -> Seqlets:
    r"""Windows whose contributions sum to more than those of the crowd would.

    S_l = Σ_{i<window} c_{l+i}. The null distribution is a Laplace distribution about the median μ,
    each side with its own slope, the steepest of the quantiles': with d the distances from μ on
    that side, λ = max_q -ln(1 - q) / d_q, and P(d) = exp(-λ d). Windows that pass the
    Benjamini-Hochberg procedure, sides apart, are taken from the largest |S| of each sequence on,
    and whatever overlaps them is left.

    Args:
      contributions: of each position (n, length), or of each base (n, length, 4), which are
        summed: contributions, or x ⊙ hypothetical ones.
      window: positions that are summed.
      flank: positions added on both sides, where the sequence has them.
      rate: the false discovery rate, as far as the null distribution is right.

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

    Source: Shrikumar et al., "TF-MoDISco", arXiv 1811.00416 (windows' sums, the Laplace null);
    Benjamini & Hochberg, J. R. Stat. Soc. B 57 (1995) 289-300.
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
    sums = np.lib.stride_tricks.sliding_window_view(scores, window, axis=1).sum(-1)
    median = np.median(sums)
    passing = _passes(sums - median, rate) | _passes(median - sums, rate)
    left = np.where(passing, abs(sums), -np.inf)
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


def _passes(distances: np.ndarray, rate: float) -> np.ndarray:
    """Which of the positive distances are too large for their own exponential distribution."""
    d = np.sort(distances[distances > 0])
    if not d.size:
        return np.zeros(distances.shape, bool)
    slope = (-np.log1p(-_QUANTILES) / np.quantile(d, _QUANTILES)).max()
    p = np.exp(-slope * d[::-1])  # in rising order
    enough = np.flatnonzero(p <= rate * np.arange(1, d.size + 1) / d.size)
    return distances >= d[::-1][enough[-1]] if enough.size else np.zeros(distances.shape, bool)
