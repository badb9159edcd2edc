"""The tables that go by a name."""

from __future__ import annotations

from collections.abc import Callable

from jaxplain.surrogate.rules import lrp
from jaxplain.surrogate.rules.backprop import deconvnet, guided_backprop
from jaxplain.surrogate.rules.central_limit import central_limit
from jaxplain.surrogate.rules.rescale import rescale
from jaxplain.surrogate.rules.reveal_cancel import genomics, reveal_cancel
from jaxplain.surrogate.table import RuleTable

_WITH_REFERENCE: dict[str, Callable[[], RuleTable]] = {
    "rescale": rescale,
    "reveal_cancel": reveal_cancel,
    "genomics": genomics,
    "central_limit": central_limit,
}
_WITHOUT: dict[str, Callable[[], RuleTable]] = {
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
}
_OF_RELEVANCE: dict[str, Callable[[], RuleTable]] = {
    table.__name__: table
    for table in (
        lrp.epsilon,
        lrp.gamma,
        lrp.zplus,
        lrp.alpha_beta,
        lrp.w_square,
        lrp.flat,
        lrp.epsilon_plus,
        lrp.epsilon_plus_flat,
        lrp.epsilon_alpha2_beta1,
        lrp.epsilon_alpha2_beta1_flat,
        lrp.attn_lrp,
        lrp.cp_lrp,
    )
}


def by_name(rules: str | RuleTable, *, any_kind: bool = False) -> RuleTable:
    """The table of a name, or a table as it is.

    Args:
      rules: "rescale", "reveal_cancel", "genomics" or "central_limit", or a RuleTable.
      any_kind: also "guided_backprop" and "deconvnet", which know no reference.

    Returns:
      A RuleTable.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.by_name("rescale").lifted.__name__
      'Pair'
    """
    if isinstance(rules, RuleTable):
        return rules
    tables = _WITH_REFERENCE | (_WITHOUT | _OF_RELEVANCE if any_kind else {})
    if rules not in tables:
        raise ValueError(f"unknown rules {rules!r}: one of {sorted(tables)}, or a RuleTable")
    return tables[rules]()
