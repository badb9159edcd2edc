"""Taps: a probe of zeros beside a value receives what arrives at the value.

y = value + probe.  What waits of the value is settled, so that its multiplier is its own; the
value's parts stay apart, where it has parts.  Source: the cut property, arXiv 1704.02685, eq. 3.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import patterns
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Pair, Paired
from jaxplain.surrogate.values.parted import Parted


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
