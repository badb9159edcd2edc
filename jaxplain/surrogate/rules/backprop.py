"""Guided backprop and deconvnet: two tables without a reference, on the same walker."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import patterns
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Single, value


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


def guided_backprop() -> RuleTable:
    """Relus pass positive multipliers of positive inputs; everything else is the gradient."""
    return RuleTable(Single, {patterns.relu: _guided}, fallback=native)


def deconvnet() -> RuleTable:
    """Relus pass positive multipliers; everything else is the gradient."""
    return RuleTable(Single, {patterns.relu: _deconvnet}, fallback=native)
