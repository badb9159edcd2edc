"""What the tests of the engine share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp


def draw(seed: int, *shape: int, scale: float = 1.0) -> Any:
    """Normal numbers, in float64 where that is on."""
    return jnp.asarray(scale * np.random.default_rng((seed, *shape)).normal(size=shape), float)


def read(f: Callable) -> Callable:
    """A fixed read-out of f, no two weights alike."""

    def scalar(*args: Any) -> Any:
        y = f(*args)
        return jnp.sum(y * jnp.cos(2.0 * jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return scalar


def multipliers(f: Callable, x: Any, ref: Any, **options: Any) -> Any:
    """DeepLIFT's multipliers, of which the contributions are checked to sum to Δf."""
    m, gap = jxp.deeplift(f, ref, multiply=False, return_gap=True, **options)(x)
    change = f(x) - f(ref)
    terms = jax.tree.leaves(jax.tree.map(lambda m, v, v0: m * (v - v0), m, x, ref))
    total, size = (sum(map(jnp.sum, part)) for part in (terms, map(jnp.abs, terms)))
    tolerance = (1e-12 if change.dtype == jnp.float64 else 1e-5) * max(1, size)
    assert abs(total - change) <= tolerance, f"contributions sum to {total}, and Δf is {change}"
    assert abs(gap) <= tolerance
    return m
