"""Maxima and minima over sets: the winner takes all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.pair import Pair
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import differentiable, filled, on_settled

_LARGE = 32  # places in a window


@on_settled
def winner(equation: Equation, *operands: Any) -> list[Any]:
    """All of Δy to the winner: at x where y rose, at the reference where it fell (a minimum: the
    other way round).  The winner's own Δ is at least Δy, hence |multiplier| ≤ 1."""
    positions, values, references, rest = differentiable(operands)
    falls = "min" in equation.primitive.name

    def function(active: Any, rest: Any) -> Any:
        return equation.function(*filled(rest, positions, active))

    def chosen(active: Any, rest: Any) -> Any:
        return choice(*filled(rest, positions, active))

    choice = _of_windows(equation) or equation.function

    def shares(active: Any, passive: Any) -> Any:
        # Behind a barrier: else XLA evaluates a constant reference's winners itself, and slowly,
        # for every example of a batch.
        references, rest = jax.lax.optimization_barrier(passive)
        deltas = jax.tree.map(jnp.subtract, active, references)

        def function_of(active: Any) -> Any:
            return chosen(active, rest)

        y, change = jax.jvp(function_of, (active,), (deltas,))
        y0, change0 = jax.jvp(function_of, (references,), (deltas,))
        here = (y < y0) if falls else (y > y0)
        share = jnp.where(here, _ratio(y - y0, change), 0)
        share0 = jnp.where(here, 0, _ratio(y - y0, change0))
        return active, references, rest, share, share0

    def backward(saved: Any, cotangent: Any) -> Any:
        active, references, rest, share, share0 = saved
        (here,) = jax.vjp(lambda a: chosen(a, rest), active)[1](cotangent * share)
        (there,) = jax.vjp(lambda a: chosen(a, rest), references)[1](cotangent * share0)
        return jax.tree.map(jnp.add, here, there)

    surrogate = attach(lambda a, p: function(a, p[1]), shares, backward)
    return [Pair(surrogate(values, (references, rest)), function(references, rest), reduced=True)]


def _of_windows(equation: Equation) -> Callable[[Any], Any] | None:
    """A pool's winners, the first of equals, by comparing the places of a window one by one.

    Its derivative is a chain of selections, which fuse; JAX's own searches every window again for
    its scatter, and takes several times as long.  None where windows are too large for that.
    """
    params = equation.params
    if not equation.primitive.name.startswith("reduce_window_m"):
        return None
    sizes, strides = params["window_dimensions"], params["window_strides"]
    if math.prod(sizes) > _LARGE or any(d != 1 for d in params["base_dilation"]):
        return None
    wins = jnp.less if equation.primitive.name == "reduce_window_min" else jnp.greater
    worst = math.inf if wins is jnp.less else -math.inf

    def chosen(x: Any) -> Any:
        padded = jax.lax.pad(
            x, jnp.asarray(worst, x.dtype), [(*ends, 0) for ends in params["padding"]]
        )
        reach = [(n - 1) * d + 1 for n, d in zip(sizes, params["window_dilation"], strict=True)]
        best = None
        for place in itertools.product(*map(range, sizes)):
            start = [i * d for i, d in zip(place, params["window_dilation"], strict=True)]
            limit = [i + n - r + 1 for i, n, r in zip(start, padded.shape, reach, strict=True)]
            there = jax.lax.slice(padded, start, limit, strides)
            best = there if best is None else jnp.where(wins(there, best), there, best)
        return best

    return chosen


def _ratio(a: Any, b: Any) -> Any:
    """a/b, and 1 where nothing moved."""
    still = b == 0
    return jnp.where(still, 1, a / jnp.where(still, 1, b)).astype(a.dtype)
