"""Where a rule chooses between two forms by the sizes of its numbers: how often it took which."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.divided_difference import change, difference
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules import bilinear, chain, products
from jaxplain.surrogate.values.pair import Pair, is_inexact, is_real
from jaxplain.surrogate.values.region import Expression


@dataclasses.dataclass(frozen=True)
class Choice:
    """Words with places for up to three numbers, which are means over a loop's steps."""

    says: str
    numbers: Sequence[Any] = (0.0, 0.0, 0.0)


def chosen(name: str, equation: Equation, rule: Any, operands: Sequence[Any]) -> Choice | None:
    """What the rule of this name chose at these operands, where it chooses and that is known."""
    if name not in _CHOICES:
        return None
    return _CHOICES[name](equation, rule, [_fixed(operand) for operand in operands])


def _fixed(operand: Any) -> Any:
    """The operand as numbers that nothing flows back from."""
    if not isinstance(operand, Pair):
        return operand
    return dataclasses.replace(operand, value=jax.lax.stop_gradient(operand.value))


def _real_pairs(operands: Sequence[Any]) -> list[Pair]:
    return [o for o in operands if isinstance(o, Pair) and is_real(o)]


_ORDER = "s₀Δc + cΔs {1:.2f} ({0:.2f} to {2:.2f})"  # the mean over elements, and the extremes


def _order(hastes: Any) -> Choice:
    """The share of the order in which c, the first factor, changes before all others, s."""
    share = (1 + hastes) / 2
    return Choice(_ORDER, [jnp.min(share), jnp.mean(share), jnp.max(share)])


def _product(equation: Equation, rule: Any, factors: Sequence[Any]) -> Choice | None:
    if _theta(rule) is not None:
        return Choice(f"norm_theta={_theta(rule)}")
    pairs = _real_pairs(factors)
    if len(pairs) < 2:
        return None
    values, references = [p.value for p in pairs], [p.reference for p in pairs]
    if len(pairs) == 2:
        return _order(products.pair_haste(factors, values, references))
    return _order(products.own_haste(values, references, 0))


def _quotient(equation: Equation, rule: Any, operands: Sequence[Any]) -> Choice | None:
    """Of a · (1/b)."""
    if _theta(rule) is not None and operands[1].note:
        return Choice(f"norm_theta={_theta(rule)}")
    pairs = _real_pairs(operands)
    if len(pairs) < 2:
        return None
    (a, b) = pairs
    values, references = [a.value, 1 / b.value], [a.reference, 1 / b.reference]
    return _order(products.pair_haste(pairs, values, references))


def _theta(rule: Any) -> float | None:
    return rule.args[0] if isinstance(rule, functools.partial) else None


def _bilinear(equation: Equation, rule: Any, operands: Sequence[Any]) -> Choice | None:
    """One order for each item of the batch."""
    pairs = [o for o in operands if isinstance(o, Pair) and is_inexact(o)]
    if len(pairs) < 2 or bilinear.contracts_nothing(equation):
        return None
    values, references = [p.value for p in pairs], [p.reference for p in pairs]
    return _order(bilinear.order(equation, values, references))


def _region(equation: Equation, rule: Any, operands: Sequence[Any]) -> Choice | None:
    """The share of elements whose slope is Δy/Δx, to half its digits.

    Of the others the quotient is rounding (or 0/0), and the slope is the derivative.
    """
    (region,) = operands
    if rule is not chain.rescaled or region.linear:
        return None
    count = len(region.roots)
    if count > 1:
        return Choice(f"Shapley values of {count}")
    expression = Expression(region)
    (root,) = expression.roots
    value, constants = jax.lax.stop_gradient((root.value, expression.constants))
    slope = chain.slope(expression, value, root.reference, constants)
    delta = change(value, root.reference)
    y, y0 = expression.evaluate([value], constants), region.reference
    quotient = difference(y, y0) / jnp.where(delta == 0, 1, delta)
    near = jnp.abs(slope - quotient) <= jnp.sqrt(jnp.finfo(y.dtype).eps) * jnp.abs(quotient)
    share = jnp.mean((near & (delta != 0)).astype(float))
    return Choice("secant {0:.0%}, derivative {1:.0%}", [share, 1 - share, 0.0])


def _winner(equation: Equation, rule: Any, operands: Sequence[Any]) -> Choice | None:
    pairs = _real_pairs(operands)
    if not pairs:
        return None
    x, x0 = pairs[0].value, pairs[0].reference
    others = operands[1:]
    y, y0 = equation.function(x, *others), equation.function(x0, *others)
    here = (y < y0) if "min" in equation.primitive.name else (y > y0)
    share = jnp.mean(here.astype(float))
    axes = equation.params.get("axes")
    if axes is None:
        return Choice("from x {0:.0%}, from the reference {1:.0%}", [share, 1 - share, 0.0])
    winners, winners0 = (_winners(v, m, axes) for v, m in ((x, y), (x0, y0)))
    ties = jnp.sum(jnp.where(here, winners, winners0) > 1)
    says = "from x {0:.0%}, from the reference {1:.0%}, {2:.0f} ties"
    return Choice(says, [share, 1 - share, ties])


def _winners(values: Any, extremes: Any, axes: Sequence[int]) -> Any:
    return jnp.sum(values == jnp.expand_dims(extremes, axes), axes)


_CHOICES: dict[str, Callable[[Equation, Any, Sequence[Any]], Choice | None]] = {
    "product": _product,
    "quotient": _quotient,
    "bilinear": _bilinear,
    "region": _region,
    "winner": _winner,
}
