"""Linear and bilinear equations, moves of elements, and values that nothing flows back from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import (
    RESHAPING,
    actives,
    differentiable,
    filled,
    on_settled,
    reference,
)
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Deferred, Pair, Paired, is_real


@on_settled
def linear(equation: Equation, *operands: Any) -> list[Any]:
    """Linear in the active operands together: the primitive's own vjp."""
    values = equation.bind(*map(value, operands))
    references = equation.bind(*map(reference, operands))
    known = hints(equation, operands)
    return [Pair(v, v0, **known) for v, v0 in zip(values, references, strict=True)]


def hints(equation: Equation, operands: Sequence[Any]) -> dict[str, bool]:
    """What a linear equation's output is to a later product: a sum, or the inverse of one."""
    active = actives(operands)
    name = equation.primitive.name
    return {
        "reduced": name in ("reduce_sum", "psum") or all(o.reduced for o in active),
        "scale": name in RESHAPING and active[0].scale,
    }


@on_settled
def discrete(equation: Equation, *operands: Any) -> list[Any]:
    """Booleans and integers that depend on x: known at both ends, nothing flows back."""
    values = equation.bind(*map(value, operands))
    references = equation.bind(*map(reference, operands))
    return [Pair(v, v0) for v, v0 in zip(values, references, strict=True)]


@on_settled
def refuse(equation: Equation, *operands: Any) -> list[Any]:
    """Operations without a derivative."""
    raise UnsupportedPrimitive(
        f"{equation} at {equation.line} is not differentiable, and depends on x: "
        f"'{equation.primitive.name}' may give another result at the reference, which no "
        "multiplier can carry. Compute it from something that is not attributed, freeze it by "
        "`jax.lax.stop_gradient` around its operand or, a choice, by `return_gap=True`, or "
        "register a rule of your own for it."
    )


def reshaped(equation: Equation, *operands: Any) -> list[Any]:
    """A reshaping commutes with booleans that wait; they stay functions of their roots."""
    (operand, *rest) = operands
    waits = isinstance(operand, Deferred) and not is_real(operand)
    if waits and not any(isinstance(other, Paired) for other in rest):
        return [operand.through(equation, linear)]
    return linear(equation, *operands)


@on_settled
def bilinear(equation: Equation, *operands: Any) -> list[Any]:
    """ΔA·B̄ + Ā·ΔB: the vjp at the midpoint operands, the two-player Shapley value."""
    positions, values, references, rest = differentiable(operands)
    if len(positions) == 1:
        return linear(equation, *operands)

    def function(*active: Any) -> Any:
        return equation.function(*filled(rest, positions, active))

    def midpoints(active: Any, references: Any) -> Any:
        return [(v + v0) / 2 for v, v0 in zip(active, references, strict=True)]

    def backward(middles: Any, cotangent: Any) -> Any:
        a, b = middles
        (of_a,) = jax.linear_transpose(lambda a: function(a, b), a)(cotangent)
        (of_b,) = jax.linear_transpose(lambda b: function(a, b), b)(cotangent)
        return [of_a, of_b]

    surrogate = attach(lambda active, _: function(*active), midpoints, backward)
    return [Pair(surrogate(values, references), function(*references), reduced=True)]
