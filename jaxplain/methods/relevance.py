"""Relevance: LRP and its composites, AttnLRP and CP-LRP, in one backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.trees import total
from jaxplain.named import taps
from jaxplain.surrogate import RuleTable, compat, evaluate, patterns, staging
from jaxplain.surrogate.program import TAP
from jaxplain.surrogate.rules import lrp as tables
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.rules.relevance import relevance_tap

Explain = Callable[..., Any]


def lrp(
    f: Callable[..., Any],
    *,
    rules: str | RuleTable = "epsilon",
    at: taps.At | None = None,
    return_gap: bool = False,
    argnums: staging.Argnums = 0,
) -> Explain:
    table = by_name(rules, any_kind=True)
    reading = table.register(
        patterns.tap, functools.partial(relevance_tap, tables.of_table(table).first is not None)
    )

    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            tapped = taps.tapped(f, at, args, argnums)
            y, relevance = _received(reading, lambda p: tapped.function(tapped.x, p)[0], tapped.probes)
            gaps = {name: y - total(r, y) for name, r in relevance.items()}
            return (tapped.result(relevance), tapped.result(gaps)) if return_gap else tapped.result(relevance)
        x = staging.attributed(f, args, argnums)

        def probed(probes: Any) -> Any:
            seen = jax.tree.map(lambda v, probe: v + checkpoint_name(probe, TAP), x, probes)
            y = staging.call(f, *staging.place(args, argnums, seen))
            staging.check_scalar(y)
            return y

        y, relevance = _received(reading, probed, compat.zeros(jax.tree.map(jax.typeof, x)))
        return (relevance, y - total(relevance, y)) if return_gap else relevance

    return explain


def _received(table: RuleTable, f: Callable[[Any], Any], probes: Any) -> tuple[Any, Any]:
    """f's value, and the relevance that arrives at probes of zeros."""
    y, vjp = jax.vjp(lambda probes: evaluate(f, table, None, (probes,))[0], probes)
    return y, vjp(jnp.ones_like(y))[0]


def attn_lrp(f: Callable[..., Any], **options: Any) -> Explain:
    return lrp(f, rules=tables.attn_lrp(), **options)


def cp_lrp(f: Callable[..., Any], **options: Any) -> Explain:
    return lrp(f, rules=tables.cp_lrp(), **options)
