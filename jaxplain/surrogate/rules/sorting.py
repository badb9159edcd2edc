"""Sorts and top_k: the path integral, in which elements that are tied all the way share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import on_settled
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.values.pair import Pair, is_real


@on_settled
def ranked(equation: Equation, *operands: Any) -> Sequence[Any]:
    """Elements equal at both ends have one multiplier, the mean of theirs, as in any maximum.

    JAX's derivative gives all to the place that its sort happens to give the rank.
    """
    if len(operands) > 1 or not is_real(operands[0]):
        return path_integral(equation, *operands)
    (x,) = operands
    axis = equation.params.get(equation.facts.along or "", -1)
    shared = with_backward(
        lambda x, x0: (x, (x, x0)), lambda ends, m: _mean_of_equals(m, ends[0], ends[1], axis)
    )
    return path_integral(equation, Pair(shared(x.value, x.reference), x.reference, x.note))


def _mean_of_equals(m: Any, x: Any, x0: Any, axis: int) -> Any:
    """The mean of m over the elements along an axis that have the same x and the same x0."""
    rows = [jnp.moveaxis(array, axis, -1) for array in (m, compat.apart(x), x0)]
    shape = rows[0].shape
    means = jax.vmap(_mean_in_row)(*(row.reshape(-1, shape[-1]) for row in rows))
    return jnp.moveaxis(means.reshape(shape), -1, axis)


def _mean_in_row(m: Any, x: Any, x0: Any) -> Any:
    order = jnp.lexsort((x0, x))
    x, x0 = x[order], x0[order]
    begins = jnp.ones(x.shape, bool).at[1:].set((x[1:] != x[:-1]) | (x0[1:] != x0[:-1]))
    group = jnp.zeros(x.shape, int).at[order].set(jnp.cumsum(begins) - 1)
    total = functools.partial(jax.ops.segment_sum, segment_ids=group, num_segments=len(x))
    return (total(m) / jnp.maximum(total(jnp.ones_like(m)), 1))[group]
