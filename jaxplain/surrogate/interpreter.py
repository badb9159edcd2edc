"""Interprets a program: constant equations are bound as they are, active ones go to the table."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxplain.surrogate import control_flow, patterns, primitives, program
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Constant, Equation, Program
from jaxplain.surrogate.rules.whole import underivable
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled, value
from jaxplain.surrogate.values.pair import Pair


def interpret(
    table: RuleTable,
    closed_jaxpr: ClosedJaxpr,
    operands: Sequence[Any],
    calls: tuple[Any, ...] = (),
) -> list[Any]:
    """A jaxpr's outputs at operands of which some are lifted, by the table's rules."""
    prog = program.from_jaxpr(closed_jaxpr, _lifted(operands), calls, table.keeps)
    prepared = patterns.replace(prog, table.patterns, prog.active)
    return _run(table, prepared, operands, nested=bool(calls))


def _run(table: RuleTable, prog: Program, operands: Sequence[Any], nested: bool) -> list[Any]:
    env: dict[Any, Any] = dict(zip(prog.inputs, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.value if isinstance(atom, Constant) else env[atom]

    for equation in prog.equations:
        inputs = [read(atom) for atom in equation.inputs]
        outputs = _outputs(table, equation, inputs, nested)
        env.update(zip(equation.outputs, outputs, strict=True))
    return [read(atom) for atom in prog.outputs]


def _outputs(
    table: RuleTable, equation: Equation, inputs: list[Any], nested: bool
) -> Sequence[Any]:
    if not any(_lifted(inputs)):
        return equation.bind(*inputs)
    if not equation.outputs:  # a print or another effect: it sees the values at x
        return equation.bind(*(value(settled(operand)) for operand in inputs))
    try:
        outputs = _by_rule(table, equation, inputs)
    except UnsupportedPrimitive as refusal:
        outputs = _rescued(table, equation, inputs, refusal, nested)
    _check(table, equation, outputs)
    if not table.remembers:
        return outputs
    return [table.lifted.made(equation, inputs, i, output) for i, output in enumerate(outputs)]


def _by_rule(table: RuleTable, equation: Equation, inputs: list[Any]) -> Sequence[Any]:
    """The outputs by the table's rule, or by that of an equation with bodies."""
    with_bodies = control_flow.RULES.get(equation.primitive.name)
    if with_bodies is not None and equation.primitive not in table.rules:
        operands = list(map(settled, inputs))
        if not any(_lifted(operands)):
            return equation.bind(*operands)
        if equation.primitive.name == "cond" and isinstance(operands[0], Lifted):
            operands[0] = inputs[0]  # what decided it is still known

        def walk(closed_jaxpr: ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
            return list(map(settled, interpret(table, closed_jaxpr, operands, equation.origin)))

        return with_bodies(walk, table.lifted, equation, operands)
    takes = table.taking(primitives.key(equation.primitive))
    operands = inputs if takes.waiting else list(map(settled, inputs))
    if not any(_lifted(operands)):
        return equation.bind(*operands)
    return table.rule(equation)(equation, *operands)


def _rescued(
    table: RuleTable,
    equation: Equation,
    inputs: list[Any],
    refusal: UnsupportedPrimitive,
    nested: bool,
) -> Sequence[Any]:
    """The outputs by the table's last resort; what that can't do either is refused later.

    As in JAX: what has no derivative may be computed and printed, frozen or decided by. The error
    comes with the multiplier that it would have to carry.
    """
    if table.rescue is None:
        raise refusal
    try:
        return table.lifted.adapt(table.rescue, Pair)(equation, *inputs)
    except UnsupportedPrimitive:
        if nested:  # what is around it may be integrated as a whole
            raise refusal from None
        return table.lifted.adapt(functools.partial(underivable, refusal), Pair)(equation, *inputs)


def _check(table: RuleTable, equation: Equation, outputs: Sequence[Any]) -> None:
    """A rule's contract: as many outputs as the equation has, of its shapes, of a known kind."""
    wanted = [(atom.aval.shape, atom.aval.dtype) for atom in equation.outputs]
    given = [_described(table, output) for output in outputs]
    if given != wanted:
        raise TypeError(
            f"the rule {_rule_name(table, equation)} broke its contract on {equation} at "
            f"{equation.line}: it returned {given} where the equation has {wanted}. A rule returns "
            f"a list of arrays or of {table.lifted.__name__} values, one for each output."
        )


def _described(table: RuleTable, output: Any) -> Any:
    if isinstance(output, Lifted):
        if not isinstance(output, table.lifted) and not output.waiting:
            return f"a {type(output).__name__}"
        return tuple(output.shape), output.dtype
    try:
        return tuple(jnp.shape(output)), jax.typeof(output).dtype
    except TypeError:
        return f"a {type(output).__name__}"


def _rule_name(table: RuleTable, equation: Equation) -> str:
    rule: Any = table.own_rule(equation)
    return getattr(rule, "__name__", None) or getattr(rule, "func", rule).__name__


def _lifted(operands: Sequence[Any]) -> list[bool]:
    return [isinstance(operand, Lifted) for operand in operands]
