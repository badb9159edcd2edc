r"""Shapley values by weighted least squares: KernelSHAP.

On pairs of coalitions only the odd part h of the game counts, and its affine fits are linear:
minimise Σ_S w_S (h(S) - z_S·φ)², z = ±½ for present and absent, subject to N's own equation,
Σ φ = v(N) - v(∅). Each size's weights sum to its mass under the Shapley kernel,
μ_s C(n, s) ∝ 1/s(n-s), whatever the number of its coalitions that are evaluated.
"""

from __future__ import annotations

from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_HIGHEST = jax.lax.Precision.HIGHEST


def kernel_shap(masks: np.ndarray, odd: Any, with_error: bool) -> tuple[Any, Any]:
    """Shapley values (players, *outputs) and their errors from a design's odd values."""
    players = masks.shape[1]
    sizes = np.minimum(masks[1:].sum(1), players - masks[1:].sum(1))
    counts = np.bincount(sizes, minlength=players)
    mass = 1 / (sizes * (players - sizes)) * np.where(2 * sizes == players, 0.5, 1)
    weights = mass / counts[sizes]
    z = np.where(masks[1:], 0.5, -0.5)
    gram = z.T @ (weights[:, None] * z)
    if np.linalg.matrix_rank(np.concatenate([z, np.full((1, players), 0.5)])) < players:
        raise ValueError(f"{len(masks)} pairs do not tell {players} players apart: more samples")

    # φ = P b + c Σφ, with the constraint eliminated: 1'P = 0, 1'c = 1. What it settles, the mean of
    # φ, is weighed in the matrix too, which is then regular with few pairs.
    gram += gram.trace() / players**2
    inverse = np.linalg.inv(gram)
    along = inverse.sum(0) / inverse.sum()
    project = inverse - np.outer(along, inverse.sum(0))

    dtype = odd.dtype
    total = 2 * odd[0]
    target = jnp.tensordot(jnp.asarray(z.T * weights, dtype), odd[1:], 1, precision=_HIGHEST)
    scores = jnp.tensordot(jnp.asarray(project, dtype), target, 1, precision=_HIGHEST)
    scores = scores + jnp.multiply.outer(jnp.asarray(along, dtype), total)
    if not with_error:
        return scores, None
    rest = odd[1:] - jnp.tensordot(jnp.asarray(z, dtype), scores, 1, precision=_HIGHEST)
    # Heteroscedastic variance of the fit; what a size leaves unevaluated is what may vary.
    capacity = np.array([float(comb(players, s)) / (2 if 2 * s == players else 1) for s in sizes])
    unseen = np.maximum(1 - counts[sizes] / capacity, 0)
    freedom = len(z) / max(len(z) - players + 1, 1)
    influence = project @ (z.T * weights * np.sqrt(unseen * freedom))
    variance = jnp.tensordot(jnp.asarray(influence**2, dtype), rest**2, 1, precision=_HIGHEST)
    return scores, jnp.sqrt(variance)
