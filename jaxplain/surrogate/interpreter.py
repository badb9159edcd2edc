"""Walks a program's equations: constant ones are bound as they are, active ones go to the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxplain.surrogate import control_flow, patterns, program
from jaxplain.surrogate.program import Constant, Equation, Program
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled, value


def interpret(
    table: RuleTable, closed_jaxpr: Any, operands: Sequence[Any], calls: tuple[Any, ...] = ()
) -> list[Any]:
    """A jaxpr's outputs at operands of which some are lifted, by the table's rules."""
    prog = program.from_jaxpr(closed_jaxpr, calls)
    active = prog.reached([isinstance(operand, Lifted) for operand in operands])
    prepared = patterns.replace(prog, table.patterns, active)
    return _walk(table, prepared, operands)


def _walk(table: RuleTable, prog: Program, operands: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(prog.inputs, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.value if isinstance(atom, Constant) else env[atom]

    for equation in prog.equations:
        inputs = [read(atom) for atom in equation.inputs]
        outputs = _outputs(table, equation, inputs)
        env.update(zip(equation.outputs, outputs, strict=True))
    return [read(atom) for atom in prog.outputs]


def _outputs(table: RuleTable, equation: Equation, inputs: list[Any]) -> list[Any]:
    if not any(isinstance(operand, Lifted) for operand in inputs):
        return equation.bind(*inputs)
    if not equation.outputs:  # a print or another effect: it sees the values at x
        return equation.bind(*(value(settled(operand)) for operand in inputs))
    if equation.primitive in control_flow.RULES and equation.primitive not in table.rules:
        inputs = [settled(operand) for operand in inputs]
        if not any(isinstance(operand, Lifted) for operand in inputs):
            return equation.bind(*inputs)

        def walk(closed_jaxpr: Any, *operands: Any) -> list[Any]:
            outputs = interpret(table, closed_jaxpr, operands, equation.origin)
            return [settled(output) for output in outputs]

        return control_flow.RULES[equation.primitive](walk, table.lifted, equation, *inputs)
    return table.rule(equation)(equation, *inputs)
