"""Linear equations, moves of elements, and values that nothing flows back from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxplain.surrogate import compat
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import on_settled
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Pair, Paired, actives, is_real, reference
from jaxplain.surrogate.values.region import Region, is_choice, made


@on_settled
def linear(equation: Equation, *operands: Any) -> list[Any]:
    """Linear in the active operands together: the primitive's own vjp."""
    values = equation.bind(*map(value, operands))
    references = equation.bind(*map(reference, operands))
    note = _note(equation, operands)
    repeated = _repeated(equation)
    return [Pair(v, v0, note, repeated) for v, v0 in zip(values, references, strict=True)]


def _repeated(equation: Equation) -> tuple[int, ...]:
    """The axes along which a broadcast repeats what it is given."""
    if equation.primitive is not jax.lax.broadcast_in_dim_p or not equation.inputs:
        return ()
    before, after = equation.inputs[0].aval.shape, equation.aval.shape
    kept = dict(zip(equation.params["broadcast_dimensions"], before, strict=True))
    return tuple(axis for axis, size in enumerate(after) if kept.get(axis) != size)


def _note(equation: Equation, operands: Sequence[Any]) -> str:
    notes = [operand.note for operand in actives(operands)]
    if equation.facts.moves:
        return notes[0]
    return "sum" if equation.facts.along is not None or all(notes) else ""


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
        f"{equation} at {equation.line} is not differentiable, and depends on x: JAX has no "
        f"derivative of '{compat.inner_name(equation)}'. Compute it from something that is not "
        "attributed, freeze it by `jax.lax.stop_gradient` around its operand, or give the function "
        "around it a derivative by `jax.custom_vjp`."
    )


def reshaped(equation: Equation, *operands: Any) -> list[Any]:
    """A move of elements commutes with booleans that wait; they stay functions of their roots.

    So do choices between real numbers, where no element is copied.
    """
    (operand, *rest) = operands
    moves = equation.primitive.name in ("reshape", "squeeze", "transpose")
    waits = isinstance(operand, Region) and (not is_real(operand) or (moves and is_choice(operand)))
    if waits and not any(isinstance(other, Paired) for other in rest):

        def move(root: Any) -> Any:
            return made(equation, [root, *rest], 0, linear(equation, root, *rest)[0])

        return [operand.through(equation, move)]
    return linear(equation, *operands)
