"""Counts, `any` and `all` of what is decided by real numbers."""

from __future__ import annotations

from typing import Any

from jaxplain.surrogate import program
from jaxplain.surrogate.program import Constant, Equation
from jaxplain.surrogate.rules.linear import discrete, linear
from jaxplain.surrogate.values.pair import is_real
from jaxplain.surrogate.values.region import Region


def counted(equation: Equation, operand: Any) -> list[Any]:
    """Σ p, and any p as Σ p > 0, all p as Σ ¬p = 0, the sum taken over real numbers.

    Each p is a step function of real numbers, with its own divided difference; so is the result of
    the sum. What is discrete already (a rank, an index) stays so.
    """
    if is_real(operand):
        return linear(equation, operand)
    if not (isinstance(operand, Region) and all(map(is_real, operand.roots))):
        return discrete(equation, operand)
    name, axes, dtype = equation.primitive.name, equation.params["axes"], equation.aval.dtype

    def by_sum(p: Any) -> Any:
        total = (~p if name == "reduce_and" else p).astype(float).sum(axes)
        if name == "reduce_sum":
            return total.astype(dtype)
        return total == 0 if name == "reduce_and" else total > 0

    rewritten, _ = program.trace(by_sum, operand.reference)
    env: dict[Any, Any] = {rewritten.inputs[0]: operand}
    for step in rewritten.equations:
        inputs = [a.value if isinstance(a, Constant) else env[a] for a in step.inputs]
        summed = step.primitive.name == "reduce_sum"
        outputs = linear(step, *inputs) if summed else [operand.after(step, *inputs)]
        (env[step.outputs[0]],) = outputs
    return [env[rewritten.outputs[0]]]
