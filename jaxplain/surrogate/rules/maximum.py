"""Maxima and minima over sets: the winner takes all."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import with_backward
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
    if equation.primitive.name in pooling.POOLS:
        return pooling.pool_winner(equation, *operands)
    positions, values, references, rest = differentiable(operands)
    falls = "min" in equation.primitive.name

    def function(active: Any, rest: Any) -> Any:
        return equation.function(*filled(rest, positions, active))

    def of_winners(active: Any, rest: Any, deltas: Any) -> Any:
        """The winners' change, its mean over those tied; linear."""
        if equation.primitive.name in ("cummax", "cummin"):
            return _so_far(equation, *active, *deltas)
        return jax.jvp(lambda active: function(active, rest), (active,), (deltas,))[1]

    def forward(active: Any, passive: Any) -> tuple[Any, Any]:
        # Computed once: XLA may round what it computes again otherwise, and then nobody wins. Of
        # a constant reference it would evaluate the winners itself, for every example of a batch.
        active, references = jax.tree.map(compat.apart, (active, passive[0]))
        rest = passive[1]
        deltas = jax.tree.map(difference, active, references)
        y, y0 = function(active, rest), function(references, rest)
        change, change0 = (of_winners(end, rest, deltas) for end in (active, references))
        here = (y < y0) if falls else (y > y0)
        share = jnp.where(here, ratio(difference(y, y0), change), 0)
        share0 = jnp.where(here, 0, ratio(difference(y, y0), change0))
        return y, (active, references, rest, share, share0)

    def backward(saved: Any, cotangent: Any) -> Any:
        active, references, rest, share, share0 = saved
        ends = ((active, cotangent * share), (references, cotangent * share0))
        parts = [
            jax.linear_transpose(functools.partial(of_winners, end, rest), active)(ct)[0]
            for end, ct in ends
        ]
        return jax.tree.map(jnp.add, *parts)

    surrogate = with_backward(forward, backward)
    return [Pair(surrogate(values, (references, rest)), function(references, rest), "sum")]


def _so_far(equation: Equation, x: Any, delta: Any) -> Any:
    """The mean of Δ over the elements so far that equal the extremum so far."""
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    y = equation.function(x)
    wins = x == y
    before = jnp.roll(y, -1 if reverse else 1, axis)
    edge = jax.lax.broadcasted_iota(jnp.int32, y.shape, axis) == (
        y.shape[axis] - 1 if reverse else 0
    )

    def join(one: Any, other: Any) -> Any:
        """Sums that begin anew with each extremum."""
        (_, total, count), (begins, last, number) = one, other
        return (
            one[0] | begins,
            jnp.where(begins, last, total + last),
            jnp.where(begins, number, count + number),
        )

    parts = (edge | (y != before), jnp.where(wins, delta, 0), wins.astype(delta.dtype))
    _, total, count = jax.lax.associative_scan(join, parts, reverse=reverse, axis=axis)
    return total / jnp.maximum(count, 1)
