"""Products of two arrays that are summed: dot_general, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import differentiable, filled, on_settled
from jaxplain.surrogate.rules.products import haste, meeting, product_slopes, total_size
from jaxplain.surrogate.values.pair import Pair


@on_settled
def bilinear(equation: Equation, *operands: Any) -> list[Any]:
    """ΔA·B̄ + Ā·ΔB: the two-player Shapley value, but where it would cancel (see `products`)."""
    positions, values, references, rest = differentiable(operands)
    if len(positions) == 1:
        return linear(equation, *operands)

    def function(*active: Any) -> Any:
        return equation.function(*filled(rest, positions, active))

    ends = _elementwise if contracts_nothing(equation) else _contracted
    surrogate = attach(
        lambda active, _: function(*active),
        lambda active, references: ends(equation, function, active, references),
        lambda saved, cotangent: _backward(function, saved, cotangent),
    )
    return [Pair(surrogate(values, references), function(*references), "sum")]


def _backward(function: Any, saved: Any, cotangent: Any) -> list[Any]:
    """Through a with b in the middle of its way, and through b with a in its."""
    (like_a, like_b), (a, b), weights = saved
    of_a, of_b = (cotangent if w is None else cotangent * w for w in weights)
    (back_a,) = jax.linear_transpose(lambda a: function(a, b), like_a)(of_a)
    (back_b,) = jax.linear_transpose(lambda b: function(a, b), like_b)(of_b)
    return [back_a, back_b]


def _contracted(
    equation: Equation, function: Any, active: Sequence[Any], references: Sequence[Any]
) -> Any:
    """Which of the two had better change first is told by their sizes, item by item."""
    first = order(equation, active, references)
    of_each = [-first, first]
    factors = [
        meeting(v, v0, h.reshape(h.shape + (1,) * (v.ndim - h.ndim)))
        for v, v0, h in zip(active, references, of_each, strict=True)
    ]
    return active, factors, (None, None)


def order(equation: Equation, active: Sequence[Any], references: Sequence[Any]) -> Any:
    """The haste of the first operand beside the second, of each item."""
    axes = [tuple(range(_items(equation, i), v.ndim)) for i, v in enumerate(active)]
    moved = [v - v0 for v, v0 in zip(active, references, strict=True)]
    sizes, sizes0, moves = (list(map(total_size, end, axes)) for end in (active, references, moved))
    return haste(sizes, sizes0, moves, 0)


def _elementwise(
    equation: Equation, function: Any, active: Sequence[Any], references: Sequence[Any]
) -> Any:
    """An outer product is a product of numbers, each with an order of its own."""
    ones = list(map(jnp.ones_like, references))

    def spread(pair: Sequence[Any]) -> list[Any]:
        return [function(pair[0], ones[1]), function(ones[0], pair[1])]

    slopes = product_slopes(spread(active), spread(references))
    return active, ones, slopes


def contracts_nothing(equation: Equation) -> bool:
    return (
        equation.primitive is jax.lax.dot_general_p
        and not equation.params["dimension_numbers"][0][0]
    )


def _items(equation: Equation, operand: int) -> int:
    """How many of an operand's first axes are items of a batch, in order in both."""
    if equation.primitive is not jax.lax.dot_general_p:
        return 0
    batch = equation.params["dimension_numbers"][1]
    in_order = all(list(axes) == list(range(len(axes))) for axes in batch)
    return len(batch[operand]) if in_order else 0
