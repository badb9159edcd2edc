"""Taps: a probe of zeros beside a value receives what arrives at the value.

y = value + probe.  What waits of the value is settled, so that its multiplier is its own; the
value's parts stay apart, where it has parts.  Source: the cut property, arXiv 1704.02685, eq. 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import patterns
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.lifted import settled
from jaxplain.surrogate.pair import Pair, Paired
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.split import Split
from jaxplain.surrogate.table import Rule, RuleTable


def tapped(table: RuleTable, *, multiply: bool) -> RuleTable:
    """The table with probes that receive contributions, or the multipliers themselves."""
    if not issubclass(table.lifted, Paired):
        return table  # a sum by the table's own rule: multipliers
    return table.register(patterns.tap, _contributions if multiply else _multipliers)


def _tap(received: Any) -> Rule:
    """A rule where the probe receives `received(arriving multipliers, Δ of each part)`."""

    def rule(equation: Equation, value: Any, probe: Any) -> list[Any]:
        value, probe = settled(value), settled(probe)
        if not isinstance(value, Paired):  # it does not change, hence contributes nothing
            value = _constant(value, probe)
        split = isinstance(value, Split)
        parts = (value.positive, value.negative) if split else (value.value,)
        probes = (probe.positive, probe.negative) if split else (probe.value,)

        def backward(deltas: Any, cotangents: Any) -> Any:
            return cotangents, received(cotangents, deltas)

        def deltas(active: Any, reference: Any) -> Any:
            return active[0] if split else (active[0][0] - reference,)

        surrogate = attach(lambda active, _: active[0], deltas, backward)
        parts = surrogate((parts, probes), value.reference)
        known = {"reduced": value.reduced, "scale": value.scale}
        if split:
            positive, negative = parts
            return [Split(value.value, value.reference, positive, negative, value.fed, **known)]
        return [Pair(parts[0], value.reference, **known)]

    return rule


def _constant(value: Any, probe: Any) -> Any:
    """A value that does not depend on x, lifted as the probe is."""
    zeros = jnp.zeros_like(value)
    return Split(value, value, zeros, zeros) if isinstance(probe, Split) else Pair(value, value)


def _same(cotangents: Any, deltas: Any) -> Any:
    return cotangents


def _products(cotangents: Any, deltas: Any) -> Any:
    """Σ m Δ over the parts, to each probe: they are alike, and averaged where x = reference."""
    total = sum(jax.tree.map(jnp.multiply, cotangents, deltas))
    return tuple(total for _ in cotangents)


_multipliers, _contributions = _tap(_same), _tap(_products)
