"""What a map looks like, whatever it explains."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.metrics._example import finite, flat, undefined_unless
from jaxplain.metrics._metric import of_map


@of_map("↑", 0.0, 1.0)
def sparseness(c: Any) -> jax.Array:
    r"""Gini index of the magnitudes: ↑, 0 where all are equal, (n-1)/n where one is all.

    1 - 2 Σ_k (|c|_(k)/‖c‖₁) (n - k + ½)/n, with |c|_(1) ≤ … ≤ |c|_(n).

    Args:
      c: contributions, a tree of arrays.

    Returns:
      A scalar in [0, 1); NaN for a map of zeros, or one that is not finite.

    Raises:
      ValueError: the map has no elements.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.sparseness(jnp.array([0.0, 0.0, 3.0, 0.0])), jxp.sparseness(-jnp.ones(4))
      (Array(0.75, dtype=float32), Array(0., dtype=float32))

    Source: Chalasani et al., arXiv 1810.06583, section 4; Hurley & Rickard, arXiv 0811.4706.
    """
    rising = jnp.sort(_shares(c))
    n = rising.size
    weights = (2 * jnp.arange(1, n + 1) - n - 1).astype(rising.dtype) / n
    return undefined_unless(finite(rising), (weights * rising).sum())


@of_map("↓", 0.0, float("inf"))
def complexity(c: Any) -> jax.Array:
    r"""Entropy of the shares p = |c|/‖c‖₁, -Σ p ln p in nats: ↓, from 0 to ln n.

    Args:
      c: contributions, a tree of arrays.

    Returns:
      A scalar; NaN for a map of zeros, or one that is not finite.

    Raises:
      ValueError: the map has no elements.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.complexity(jnp.array([1.0, 1.0, 2.0, 2.0])).round(4)
      Array(1.3297, dtype=float32)

    Source: Bhatt et al., arXiv 2005.00631, section 2.3.
    """
    shares = _shares(c)
    return undefined_unless(finite(shares), -jax.scipy.special.xlogy(shares, shares).sum())


def _shares(c: Any) -> jax.Array:
    """|c|/‖c‖₁, in two divisions, lest the sum be beyond the numbers."""
    sizes = jnp.abs(flat(c))
    sizes = sizes / sizes.max()
    return sizes / sizes.sum()


@of_map(None, 0.0, float("inf"))
def histogram_entropy(c: Any, *, bins: int = 100) -> jax.Array:
    r"""Entropy of a map's histogram over its own range, in nats.

    Args:
      c: contributions, a tree of arrays.
      bins: how many there are, ≥ 1.

    Returns:
      A scalar in [0, ln bins]; 0 for a constant map, NaN for one that is not finite.

    Raises:
      ValueError: bins < 1; the map has no elements.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.metrics.histogram_entropy(jnp.array([0.0, 0.0, 1.0, 1.0])).round(4)
      Array(0.6931, dtype=float32)

    Source: Hedström et al. (eMPRT), arXiv 2401.06465, eq. 6.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, and is {bins}")
    values = flat(c)
    spread = values.max() - values.min()
    place = jnp.floor((values - values.min()) / jnp.where(spread > 0, spread, 1) * bins)
    counts = jnp.zeros(bins, values.dtype).at[jnp.clip(place, 0, bins - 1).astype(int)].add(1)
    shares = counts / values.size
    return undefined_unless(finite(values), -jax.scipy.special.xlogy(shares, shares).sum())
