"""Choices that no multiplier can carry, taken as they are at x: indices, ranks, routes."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import FIRST_INDEX
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Paired


def freeze_choices(table: RuleTable) -> RuleTable:
    r"""The table with integers that depend on x (indices, ranks, a router's choice) as constants.

    Both passes then use x's own choice: what is explained is f with its choices at x. A choice by
    comparison (`jnp.where(x > 0, ...)`) is not among them, for it has multipliers.

    Args:
      table: any table of values with references.

    Returns:
      A RuleTable.  Multipliers times (x - ref) sum to f(x) - f(ref) less what changes with the
      choices; `deeplift(..., return_gap=True)`, which uses this, returns that rest as the gap.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[jnp.argmax(x)]
      >>> table = jxp.rules.freeze_choices(jxp.rules.rescale())
      >>> jxp.deeplift(f, jnp.array([2.0, 0.0]), rules=table)(jnp.array([1.0, 3.0]))
      Array([-0.,  3.], dtype=float32)
    """
    rules = {key: functools.partial(_frozen, rule) for key, rule in table.rules.items()}
    frozen = RuleTable(table.lifted, rules, table.fallback)
    return frozen.register(compat.resolve(["argmax", "argmin"]), _at_value)


def _frozen(rule: Rule, equation: Equation, *operands: Any) -> list[Any]:
    first = FIRST_INDEX.get(equation.primitive.name, len(operands))
    indices = map(_constant, map(settled, operands[first:]))
    return list(map(_constant, rule(equation, *operands[:first], *indices)))


def _constant(operand: Any) -> Any:
    """The value at x of what is discrete and no function of real numbers that still waits."""
    is_root = isinstance(operand, Paired) and any(root is operand for root in operand.roots)
    if is_root and not jnp.issubdtype(operand.dtype, jnp.inexact):
        return operand.value
    return operand


def _at_value(equation: Equation, *operands: Any) -> list[Any]:
    return equation.bind(*(value(settled(operand)) for operand in operands))
