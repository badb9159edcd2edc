"""Gaussian blur along one axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxplain._numerics.trees import wide_dtype

TRUNCATE = 4.0  # a kernel ends at so many standard deviations, as scipy.ndimage's does


def radius(stdev: float) -> int:
    """How many elements a kernel reaches to either side."""
    return int(TRUNCATE * stdev + 0.5)


def blur(x: jax.Array, stdev: float | jax.Array, reach: int, axis: int) -> jax.Array:
    r"""y_i = Σ_k w_k x_{i+k}, w_k ∝ exp(-k²/2σ²) for |k| ≤ reach, Σ w = 1, x mirrored at its edges.

    Differentiable in σ, which may be 0: then x itself.
    """
    dtype = wide_dtype(x.dtype)
    offsets = jnp.arange(-reach, reach + 1).astype(dtype)
    sigma = jnp.asarray(stdev).astype(dtype)
    positive = jnp.where(sigma > 0, sigma, 1)
    weights = jnp.exp(-jnp.square(offsets / positive) / 2)
    weights = jnp.where(sigma > 0, weights / weights.sum(), (offsets == 0).astype(dtype))
    weights = weights.astype(x.dtype)

    def line(values: jax.Array) -> jax.Array:
        mirrored = jnp.pad(values, reach, mode="symmetric")
        return jnp.convolve(mirrored, weights, mode="valid", precision=jax.lax.Precision.HIGHEST)

    return jnp.apply_along_axis(line, axis, x)
