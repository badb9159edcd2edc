"""Choices that no multiplier can carry, taken as they are at x: indices, ranks, routes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Paired, is_inexact
from jaxplain.surrogate.values.region import Region


def freeze_choices(table: RuleTable) -> RuleTable:
    r"""The table with integers that depend on x (indices, ranks, a router's choice) as constants.

    Both passes then use x's own choice: what is explained is f with its choices at x. A choice by
    comparison (`jnp.where(x > 0, ...)`) is not among them, for it has multipliers.

    Args:
      table: any table of values with references.

    Returns:
      A RuleTable.  Multipliers times (x - ref) sum to f(x) - f(ref) less what changes with the
      choices.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[jnp.argmax(x)]
      >>> table = jxp.rules.freeze_choices(jxp.rules.rescale())
      >>> jxp.deeplift(f, jnp.array([2.0, 0.0]), rules=table)(jnp.array([1.0, 3.0]))
      Array([-0.,  3.], dtype=float32)
    """
    rules = {key: functools.partial(_at_x, rule) for key, rule in table.rules.items()}
    return dataclasses.replace(table, rules=rules, remembers=False)


def _at_x(rule: Rule, equation: Equation, *operands: Any) -> Sequence[Any]:
    """The rule's outputs, where what is discrete and waits for no choice is x's own."""
    first = equation.facts.index or len(operands)
    indices = map(_constant, map(settled, operands[first:]))
    return list(map(_constant, rule(equation, *operands[:first], *indices)))


def _constant(operand: Any) -> Any:
    """The value at x of what is discrete and no function of real numbers that still waits."""
    decides = isinstance(operand, Paired) and not is_inexact(operand)
    return value(settled(operand)) if decides and not isinstance(operand, Region) else operand
