"""Guided backprop and deconvnet: two tables without a reference, on the same walker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import patterns, program, walk
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.single import Single


def native(equation: Equation, *operands: Any) -> list[Any]:
    """JAX's own derivative."""
    return [Single(output) for output in equation.bind(*map(value, operands))]


def _guided(equation: Equation, operand: Single) -> list[Any]:
    """m = m^o · 1{x > 0} · 1{m^o > 0}."""
    surrogate = attach(
        lambda x, _: equation.function(x),
        lambda x, _: x > 0,
        lambda open_, ct: jnp.where(open_ & (ct > 0), ct, 0),
    )
    return [Single(surrogate(operand.value, None))]


def _deconvnet(equation: Equation, operand: Single) -> list[Any]:
    """m = m^o · 1{m^o > 0}."""
    surrogate = attach(
        lambda x, _: equation.function(x), lambda x, _: None, lambda _, ct: jnp.maximum(ct, 0)
    )
    return [Single(surrogate(operand.value, None))]


def _unless_relu(call: Any, active: Sequence[bool]) -> bool:
    """A function with a derivative of its own keeps it, but for a relu, clipped or not."""
    body = program.from_jaxpr(walk.bodies(call)[0], active)
    spelled = patterns.replace(body, [patterns.relu], body.active).equations
    names = {equation.primitive.name for equation in spelled}
    return patterns.relu.name not in names or not names <= {patterns.relu.name, *_CLIPS}


_CLIPS = ("min", "max", "clamp")


def _table(rule: Any) -> RuleTable:
    table = RuleTable(Single, fallback=native, keeps=_unless_relu)
    return table.register(patterns.relu, rule)


def guided_backprop() -> RuleTable:
    """Relus pass positive multipliers of positive inputs; everything else is the gradient."""
    return _table(_guided)


def deconvnet() -> RuleTable:
    """Relus pass positive multipliers; everything else is the gradient."""
    return _table(_deconvnet)
