"""What the rules on pairs have in common: reading operands, and checking them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired, unique

RESHAPING = tuple(
    "broadcast_in_dim reshape squeeze transpose slice dynamic_slice gather rev copy name".split()
)

# Where operands are indices or sizes: the first of them.
FIRST_INDEX = {
    "gather": 1,
    "dynamic_slice": 1,
    "dynamic_update_slice": 2,
    "scatter": 1,
    "scatter-add": 1,
    "scatter-sub": 1,
    "scatter-mul": 1,
    "scatter-max": 1,
    "scatter-min": 1,
}


def reference(operand: Any) -> Any:
    """The operand's reference; a constant is its own."""
    return operand.reference if isinstance(operand, Paired) else operand


def on_settled(rule: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """A rule whose operands are settled first; it is not asked if none depends on x after all."""

    @functools.wraps(rule)
    def on_settled(equation: Equation, *operands: Any) -> list[Any]:
        operands = tuple(settled(operand) for operand in operands)
        if not any(isinstance(operand, Paired) for operand in operands):
            return equation.bind(*operands)
        check_indices(equation, operands)
        return rule(equation, *operands)

    return on_settled


def check_indices(equation: Equation, operands: Sequence[Any]) -> None:
    first = FIRST_INDEX.get(equation.primitive.name, len(operands))
    for operand in operands[first:]:
        if isinstance(operand, Paired) and not jnp.issubdtype(operand.dtype, jnp.inexact):
            raise UnsupportedPrimitive(
                f"{equation} at {equation.line} uses a value that depends on x as an index. "
                "An index has no multiplier: compute it from something that is not attributed, "
                "replace the look-up by a product with a soft weight, or ask for "
                "`return_gap=True`, which keeps x's own choice and returns what that leaves out."
            )


def differentiable(operands: Sequence[Any]) -> tuple[list[int], list[Any], list[Any], Any]:
    """Positions, values and references of what is differentiable, and all operands' values."""
    positions = [
        i
        for i, operand in enumerate(operands)
        if isinstance(operand, Paired) and jnp.issubdtype(operand.dtype, jnp.inexact)
    ]
    return (
        positions,
        [operands[i].value for i in positions],
        [operands[i].reference for i in positions],
        [None if i in positions else value(operand) for i, operand in enumerate(operands)],
    )


def filled(rest: Sequence[Any], positions: Sequence[int], active: Sequence[Any]) -> list[Any]:
    filled = list(rest)
    for position, array in zip(positions, active, strict=True):
        filled[position] = array
    return filled


def actives(operands: Sequence[Any]) -> list[Any]:
    return [operand for operand in operands if isinstance(operand, Paired)]


def active_roots(operands: Sequence[Any]) -> tuple[Pair, ...]:
    return unique(root for operand in actives(operands) for root in operand.roots)


def refuse_counts(equation: Equation, operands: Sequence[Any]) -> None:
    """A rank, an index or such that depends on x may not become a number, nor choose among them."""
    discrete = [o for o in actives(operands) if not jnp.issubdtype(o.dtype, jnp.inexact)]
    counted = any(not jnp.issubdtype(root.dtype, jnp.inexact) for root in active_roots(discrete))
    if counted and jnp.issubdtype(equation.aval.dtype, jnp.inexact):
        raise UnsupportedPrimitive(
            f"{equation} at {equation.line} uses an integer or boolean that depends "
            "on x through a reduction or a sort: no multiplier can carry how it changes. Compute "
            "it from something that is not attributed, or ask for `return_gap=True`, which keeps "
            "x's own choice and returns what that leaves out."
        )
