"""Maxima and minima over sets: the winner takes all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.divided_difference import difference
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules import pooling
from jaxplain.surrogate.rules.linear import discrete
from jaxplain.surrogate.rules.operands import differentiable, filled, on_settled
from jaxplain.surrogate.rules.pooling import ratio
from jaxplain.surrogate.values.pair import Pair


@on_settled
def winner(equation: Equation, *operands: Any) -> list[Any]:
    """All of Δy to the winner: at x where y rose, at the reference where it fell (a minimum: the
    other way round).  The winner's own Δ is at least Δy, hence |multiplier| ≤ 1."""
    if not jnp.issubdtype(equation.aval.dtype, jnp.inexact):
        return discrete(equation, *operands)
    if pooling.comparable(equation):
        return pooling.pool_winner(equation, *operands)
    positions, values, references, rest = differentiable(operands)
    falls = "min" in equation.primitive.name

    def function(active: Any, rest: Any) -> Any:
        return equation.function(*filled(rest, positions, active))

    def shares(active: Any, passive: Any) -> Any:
        # Behind a barrier: else XLA evaluates a constant reference's winners itself, and slowly,
        # for every example of a batch.
        references, rest = jax.lax.optimization_barrier(passive)
        deltas = jax.tree.map(difference, active, references)

        def function_of(active: Any) -> Any:
            return function(active, rest)

        y, change = jax.jvp(function_of, (active,), (deltas,))
        y0, change0 = jax.jvp(function_of, (references,), (deltas,))
        here = (y < y0) if falls else (y > y0)
        share = jnp.where(here, ratio(difference(y, y0), change), 0)
        share0 = jnp.where(here, 0, ratio(difference(y, y0), change0))
        return active, references, rest, share, share0

    def backward(saved: Any, cotangent: Any) -> Any:
        active, references, rest, share, share0 = saved
        (here,) = jax.vjp(lambda a: function(a, rest), active)[1](cotangent * share)
        (there,) = jax.vjp(lambda a: function(a, rest), references)[1](cotangent * share0)
        return jax.tree.map(jnp.add, here, there)

    surrogate = attach(lambda a, p: function(a, p[1]), shares, backward)
    return [Pair(surrogate(values, (references, rest)), function(references, rest), "sum")]
