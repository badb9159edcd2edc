"""What the rules on pairs have in common: reading operands, and checking them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Paired, active_roots, actives, is_inexact
from jaxplain.surrogate.values.pair import reference as reference


def on_settled(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule called by another one, with operands that may wait or turn out to be constant."""

    @functools.wraps(rule)
    def on_settled(equation: Equation, *operands: Any) -> Any:
        operands = tuple(settled(operand) for operand in operands)
        if not any(isinstance(operand, Paired) for operand in operands):
            return equation.bind(*operands)
        check_indices(equation, operands)
        return rule(equation, *operands)

    return on_settled


def check_indices(equation: Equation, operands: Sequence[Any]) -> None:
    """An index that depends on x has no multiplier of its own."""
    for operand in operands[equation.facts.index or len(operands) :]:
        if isinstance(operand, Paired) and not is_inexact(operand):
            raise UnsupportedPrimitive(
                f"{equation} at {equation.line} uses a value that depends on x as an index. "
                "An index has no multiplier: compute it from something that is not attributed, "
                "or replace the look-up by a product with a soft weight."
            )


def differentiable(operands: Sequence[Any]) -> tuple[list[int], list[Any], list[Any], Any]:
    """Positions, values and references of what is differentiable, and all operands' values."""
    positions = [
        i
        for i, operand in enumerate(operands)
        if isinstance(operand, Paired) and is_inexact(operand)
    ]
    return (
        positions,
        [operands[i].value for i in positions],
        [operands[i].reference for i in positions],
        [None if i in positions else value(operand) for i, operand in enumerate(operands)],
    )


def filled(rest: Sequence[Any], positions: Sequence[int], active: Sequence[Any]) -> list[Any]:
    """The operands with the active ones in their positions."""
    filled = list(rest)
    for position, array in zip(positions, active, strict=True):
        filled[position] = array
    return filled


def refuse_counts(equation: Equation, operands: Sequence[Any]) -> None:
    """A rank, an index or such that depends on x may not become a number, nor choose among them."""
    discrete = [o for o in actives(operands) if not is_inexact(o)]
    roots = active_roots(discrete)
    counted = any(root.underivable or not is_inexact(root) for root in roots)
    if counted and jnp.issubdtype(equation.aval.dtype, jnp.inexact):
        raise UnsupportedPrimitive(
            f"{equation} at {equation.line} uses an integer or boolean that depends "
            "on x through a reduction or a sort: no multiplier can carry how it changes. Compute "
            "it from something that is not attributed."
        )
