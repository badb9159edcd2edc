"""The tables of relevance: LRP's rules and composites, AttnLRP and CP-LRP."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxplain.surrogate.rules.layers import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LayerRule,
    WSquare,
    ZBox,
    ZPlus,
)
from jaxplain.surrogate.rules.relevance import Choice, Relevances
from jaxplain.surrogate.table import RuleTable

_STABILISER = 1e-6  # the ε of a rule whose ε is no choice of its own, zennit's


def epsilon(
    epsilon: float = 1e-6, *, bias: bool = True, first: RuleTable | None = None
) -> RuleTable:
    return _made(Epsilon(epsilon, bias), first, min(epsilon, _STABILISER))


def gamma(
    gamma: float = 0.25, *, bias: bool = True, first: RuleTable | None = None
) -> RuleTable:
    return _made(Gamma(_STABILISER, bias, gamma), first)


def zplus(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    return _made(ZPlus(_STABILISER, bias), first)


def alpha_beta(
    alpha: float = 2.0, beta: float = 1.0, *, bias: bool = True, first: RuleTable | None = None
) -> RuleTable:
    return _made(AlphaBeta(_STABILISER, bias, alpha, beta), first)


def w_square(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    return _made(WSquare(_STABILISER, bias), first)


def flat(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    return _made(Flat(_STABILISER, bias), first)


def zbox(low: Any, high: Any, *, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    return _made(ZBox(_STABILISER, bias, low, high), first)


def composite(
    rules: RuleTable,
    *,
    dense: RuleTable | None = None,
    conv: RuleTable | None = None,
    within: Mapping[str, RuleTable] | None = None,
    first: RuleTable | None = None,
) -> RuleTable:
    known = of_table(rules)
    by_kind = {
        name: getattr(known.layers, name) if table is None else of_table(table).layers
        for name, table in (("dense", dense), ("conv", conv))
    }
    named = tuple((name, of_table(table).layers) for name, table in (within or {}).items())
    layers = dataclasses.replace(
        known.layers, **by_kind, within=(*known.layers.within, *named)
    )
    beginning = known.first if first is None else of_table(first).layers
    return dataclasses.replace(known, layers=layers, first=beginning).table()


def epsilon_plus() -> RuleTable:
    return composite(epsilon(), conv=zplus())


def epsilon_plus_flat() -> RuleTable:
    return composite(epsilon_plus(), first=flat())


def epsilon_alpha2_beta1() -> RuleTable:
    return composite(epsilon(), conv=alpha_beta(2.0, 1.0))


def epsilon_alpha2_beta1_flat() -> RuleTable:
    return composite(epsilon_alpha2_beta1(), first=flat())


def epsilon_gamma_box(low: Any, high: Any) -> RuleTable:
    return composite(epsilon(), conv=gamma(0.25), first=zbox(low, high))


def attn_lrp() -> RuleTable:
    return Relevances(Choice(Epsilon(0.0)), sums=0.0).table()


def cp_lrp() -> RuleTable:
    return Relevances(Choice(Epsilon(0.0)), sums=0.0, detached=True).table()


def of_table(table: Any) -> Relevances:
    """What a table of relevance consists of, or an error that names those there are."""
    found = table.rules.get(jax.lax.dot_general_p) if isinstance(table, RuleTable) else None
    if not isinstance(found, Relevances):
        raise TypeError(
            "relevance needs a table of relevance: jaxplain.rules.epsilon(), gamma(), zplus(), "
            "alpha_beta(), one of the composites, attn_lrp() or cp_lrp(), with rules of your own "
            "registered on it for anything but products"
        )
    return found


def _made(
    rule: LayerRule, first: RuleTable | None, sums: float = _STABILISER
) -> RuleTable:
    beginning = None if first is None else of_table(first).layers
    return Relevances(Choice(rule), beginning, sums).table()
