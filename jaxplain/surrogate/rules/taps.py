"""Taps: a probe of zeros beside a value receives what arrives at the value.

y = value + probe.  What waits of the value is settled, so that its multiplier is its own; the
value's parts stay apart, where it has parts.  Source: the cut property, arXiv 1704.02685, eq. 3.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import patterns
from jaxplain.surrogate.backward import attach, with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired
from jaxplain.surrogate.values.parted import Parted
from jaxplain.surrogate.values.relevance import Hints, Relevant


def with_taps(table: RuleTable, *, multiply: bool) -> RuleTable:
    """The table with probes that receive contributions, or the multipliers themselves."""
    if not issubclass(table.lifted, Paired):
        return table  # a sum by the table's own rule: multipliers
    rule = _contributions if multiply else _multipliers
    return table.register(patterns.tap, rule, of=table.lifted)


def _tap(received: Any) -> Rule:
    """A rule where the probe receives `received(value, arriving multipliers, Δ, its parts)`."""

    def rule(equation: Equation, value: Any, probe: Any) -> list[Any]:
        value, probe = settled(value), settled(probe)
        if not isinstance(value, Paired):  # it does not change, hence contributes nothing
            value = type(probe).constant(value)
        kind = type(value)
        is_parted = isinstance(value, Parted)

        def deltas(active: Any, passive: Any) -> Any:
            (parts, _), (known, reference) = active, passive
            delta = (known if is_parted else parts[0]) - reference
            return delta, (parts if is_parted else (delta,))

        def backward(saved: Any, cotangents: Any) -> Any:
            total = received(kind, cotangents, *saved)
            return cotangents, tuple(total for _ in cotangents)  # a probe in parts is averaged

        parts, probes = (v.both if isinstance(v, Parted) else (v.value,) for v in (value, probe))
        surrogate = attach(lambda active, _: active[0], deltas, backward)
        passive = (value.value if is_parted else None, value.reference)
        parts = surrogate((parts, probes), passive)
        if is_parted:
            return [kind(value.value, value.reference, parts, value.fed, value.note)]
        return [Pair(parts[0], value.reference, value.note)]

    return rule


def _multiplier(kind: Any, multipliers: Any, delta: Any, parts: Any) -> Any:
    """What an input in the value's place would have."""
    return kind.weigh(multipliers, delta) if issubclass(kind, Parted) else multipliers[0]


def _contribution(kind: Any, multipliers: Any, delta: Any, parts: Any) -> Any:
    """Σ m Δ over the parts."""
    return sum(map(jnp.multiply, multipliers, parts))


_multipliers, _contributions = _tap(_multiplier), _tap(_contribution)


# Of the tables of relevance, which know no reference.


def multiplier_tap(equation: Equation, operand: Any, probe: Any) -> list[Any]:
    """y = value + probe: the probe gets the value's multiplier."""
    operand, probe = settled(operand), settled(probe)
    y = equation.function(value(operand), value(probe))
    hints = operand.hints if isinstance(operand, Relevant) else Hints()
    return [Relevant(y, dataclasses.replace(hints, first=False))]


def relevance_tap(enters: bool, equation: Equation, operand: Any, probe: Any) -> list[Any]:
    """y = value + probe: the probe gets the value's relevance.

    `enters` says that the table has rules for the first layer, whose input the value then is.
    """
    operand, probe = settled(operand), settled(probe)
    lifted = isinstance(operand, Relevant)

    def forward(active: Any, constant: Any) -> tuple[Any, Any]:
        known, _ = active
        y = constant if known is None else known
        return (y, jnp.zeros_like(y) if enters else None, y if enters and lifted else None), y

    def backward(y: Any, cotangents: Any) -> Any:
        m, relevance, below = cotangents
        received = y * m if relevance is None else y * m + relevance
        further = m if below is None else m + below
        return (further if lifted else None), received

    active = (operand.value if lifted else None, value(probe))
    found = with_backward(forward, backward)(active, None if lifted else operand)
    known = operand.hints if lifted else Hints()
    return [Relevant(found[0], dataclasses.replace(known, first=True), found[1], found[2])]
