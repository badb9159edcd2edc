"""Small checks that tests share, and the methods that are called as f and a reference."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp

METHODS = {
    "deeplift": jxp.deeplift,
    "integrated_gradients": partial(jxp.integrated_gradients, steps=4),
    "gradient": lambda f, ref: jxp.gradient(f),
    "saliency": lambda f, ref: jxp.saliency(f),
    "input_x_gradient": jxp.input_x_gradient,
    "guided_backprop": lambda f, ref: jxp.guided_backprop(f),
    "deconvnet": lambda f, ref: jxp.deconvnet(f),
    "lrp": lambda f, ref: jxp.lrp(f),
}


def draw(seed: int, *shape: int, scale: float = 1.0) -> Any:
    """Normal numbers, in float64 where that is on."""
    return jnp.asarray(scale * np.random.default_rng((seed, *shape)).normal(size=shape), float)


def readout(y: jax.Array) -> jax.Array:
    """A fixed weighted sum, no two weights alike."""
    y = jnp.ravel(y)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size)).astype(y.dtype))


def read(f: Callable) -> Callable:
    """A read-out of f that adds no layout of its own, for tests of what a program is seen as."""

    def scalar(*args: Any) -> Any:
        y = f(*args)
        return jnp.sum(y * jnp.cos(2.0 * jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return scalar


def total(tree: Any) -> float:
    """The sum of all numbers of a tree, added in float64."""
    return sum(float(np.sum(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree))


def magnitude(tree: Any) -> float:
    """The sum of all absolute values of a tree."""
    return total(jax.tree.map(jnp.abs, tree))


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


def shapley(g: Callable, x: Any, ref: Any) -> np.ndarray:
    """Each player's Shapley value by its definition: the mean over all orders of joining."""
    n = len(x)
    values = {
        coalition: np.asarray(g(*(x[i] if i in coalition else ref[i] for i in range(n))))
        for size in range(n + 1)
        for coalition in itertools.combinations(range(n), size)
    }
    total = np.zeros((n, *np.shape(values[()])))
    for order in itertools.permutations(range(n)):
        for k, player in enumerate(order):
            before, after = (tuple(sorted(order[:j])) for j in (k, k + 1))
            total[player] += values[after] - values[before]
    return total / math.factorial(n)


def flops(function: Callable, *args: Any) -> float:
    """XLA's count of a compiled function's floating-point operations."""
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost).get("flops", 0)
