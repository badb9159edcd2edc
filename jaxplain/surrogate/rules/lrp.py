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
    r"""LRP-ε: R_i = Σ_j x_i w_ij R_j/(z_j + ε sgn z_j), with sgn 0 = 1; LRP-0 where ε is 0.

    Args:
      epsilon: the stabiliser ε, in units of the layer's outputs.
      bias: whether a layer's constants take part of the relevance, which then is lost; without,
        they are left out of the denominator.
      first: a table for the first layer, the one that sees the input at most reshaped or cast.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevances sum to f(x) less what biases and stabilisers take.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.epsilon(0.0))(jnp.array([2.0, 1.0])).round(3)
      Array([ 6., -1.], dtype=float32)

    Source: Bach et al., 10.1371/journal.pone.0130140, eq. 58.
    """
    return _made(Epsilon(epsilon, bias), first, min(epsilon, _STABILISER))


def gamma(
    gamma: float = 0.25, *, bias: bool = True, first: RuleTable | None = None
) -> RuleTable:
    r"""LRP-γ: what has the sign of the output counts 1 + γ times.

      R_i = Σ_j (c_ij + γ [c_ij]^s) R_j / Σ_i (c_ij + γ [c_ij]^s),   c_ij = x_i w_ij,

    with [·]^s the part that has z_j's sign, z_j with its bias. γ = 0 is LRP-0, γ → ∞ `zplus` where
    z is positive.

    Args:
      gamma: γ.
      bias: whether a layer's constants take part of the relevance, which then is lost; without,
        they are left out of the denominator.
      first: a table for the first layer, the one that sees the input at most reshaped or cast.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevances sum to f(x) less what biases take.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.gamma(1.0))(jnp.array([2.0, 1.0])).round(3)
      Array([ 5.455, -0.455], dtype=float32)

    Source: Montavon et al., "Layer-wise relevance propagation: an overview", 2019,
    section 10.2.3; for inputs of both signs as in zennit.
    """
    return _made(Gamma(_STABILISER, bias, gamma), first)


def zplus(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    r"""LRP-z⁺: R_i = Σ_j [x_i w_ij]⁺ R_j / Σ_i [x_i w_ij]⁺: positive contributions alone.

    Args:
      bias: whether a layer's constants take part of the relevance, which then is lost; without,
        they are left out of the denominator.
      first: a table for the first layer, the one that sees the input at most reshaped or cast.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevances have the sign of f(x), and sum to it less what biases take.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.zplus())(jnp.array([2.0, 1.0])).round(3)
      Array([5., 0.], dtype=float32)

    Source: Montavon et al., "Deep Taylor decomposition", arXiv 1512.02479, eq. 9; Bach et al.,
    10.1371/journal.pone.0130140, eq. 60.
    """
    return _made(ZPlus(_STABILISER, bias), first)


def alpha_beta(
    alpha: float = 2.0, beta: float = 1.0, *, bias: bool = True, first: RuleTable | None = None
) -> RuleTable:
    r"""LRP-αβ: α times the positive contributions' shares less β times the negative ones'.

      R_i = Σ_j (α [c_ij]⁺/Σ_i [c_ij]⁺ - β [c_ij]⁻/Σ_i [c_ij]⁻) R_j,   c_ij = x_i w_ij.

    Args:
      alpha: α; relevance is conserved where α - β = 1.
      beta: β.
      bias: whether a layer's constants take part of the relevance, which then is lost; without,
        they are left out of the denominator.
      first: a table for the first layer, the one that sees the input at most reshaped or cast.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevances sum to f(x) less what biases take, where each layer has both kinds.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.alpha_beta())(jnp.array([2.0, 1.0])).round(3)
      Array([10., -5.], dtype=float32)

    Source: Bach et al., 10.1371/journal.pone.0130140, eq. 60.
    """
    return _made(AlphaBeta(_STABILISER, bias, alpha, beta), first)


def w_square(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    r"""LRP-w²: R_i = Σ_j w_ij² R_j / Σ_i w_ij², whatever the input; for a first layer.

    Args:
      bias: whether a layer's constants take part of the relevance, which then is lost; without,
        they are left out of the denominator.
      first: a table for the first layer, the one that sees the input at most reshaped or cast.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevance is given where the input is zero, too.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.w_square())(jnp.array([2.0, 1.0])).round(3)
      Array([4.5, 0.5], dtype=float32)

    Source: Montavon et al., arXiv 1512.02479, eq. 12.
    """
    return _made(WSquare(_STABILISER, bias), first)


def flat(*, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    r"""LRP-flat: R_i = Σ_j R_j / n_j, shared by all n_j elements that output j sees.

    It is for a first layer.

    Args:
      bias: of no consequence: biases have no share.
      first: a table for the first layer.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevance is given where the input is zero, too.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.flat())(jnp.array([2.0, 1.0])).round(3)
      Array([2.5, 2.5], dtype=float32)

    Source: Lapuschkin et al., "Unmasking Clever Hans predictors", 2019, supplement.
    """
    return _made(Flat(_STABILISER, bias), first)


def zbox(low: Any, high: Any, *, bias: bool = True, first: RuleTable | None = None) -> RuleTable:
    r"""LRP-zᴮ: for a first layer whose inputs lie between l and h.

      R_i = Σ_j q_ij R_j / Σ_i q_ij,   q_ij = x_i w_ij - l_i w_ij⁺ - h_i w_ij⁻.

    Args:
      low: l, the least value an input may have: a number, or an array that broadcasts to what the
        first layer sees.
      high: h, the largest.
      bias: of no consequence: biases have no share.
      first: a table for the first layer.

    Returns:
      A RuleTable of relevance, for `jaxplain.lrp` and `jaxplain.rules.composite`.
      Relevance is given where the input is zero, too.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x @ jnp.array([3.0, -1.0])
      >>> jxp.lrp(f, rules=jxp.rules.zbox(0.0, 3.0))(jnp.array([2.0, 1.0])).round(3)
      Array([3.75, 1.25], dtype=float32)

    Source: Montavon et al., arXiv 1512.02479, eq. 14.
    """
    return _made(ZBox(_STABILISER, bias, low, high), first)


def composite(
    rules: RuleTable,
    *,
    dense: RuleTable | None = None,
    conv: RuleTable | None = None,
    within: Mapping[str, RuleTable] | None = None,
    first: RuleTable | None = None,
) -> RuleTable:
    r"""A table that chooses a rule for each layer: by its name, else by its kind.

    Args:
      rules: the table of all layers that nothing else is said of, and of everything else.
      dense: the table of products with matrices (`jnp.dot`, `nn.Dense`, `jnp.einsum`).
      conv: that of convolutions.
      within: {pattern: table} by the path of modules (linen) and `jax.named_scope`s, with all that
        is inside them, in the language of `jaxplain.names`; of several that fit the last counts.
      first: that of the layer that sees the input, at most reshaped or cast.

    Returns:
      A RuleTable of relevance.

    Raises:
      TypeError: a table is none of relevance.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> rules = jxp.rules.composite(
      ...     jxp.rules.epsilon(), within={"head": jxp.rules.gamma(0.5)}, first=jxp.rules.flat()
      ... )
      >>> jxp.lrp(lambda x: x @ jnp.array([3.0, -1.0]), rules=rules)(jnp.array([2.0, 1.0])).round(3)
      Array([2.5, 2.5], dtype=float32)
    """
    known = of_table(rules)
    by_kind: dict[str, Any] = {
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
    r"""z⁺ in convolutions, ε in dense layers.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.epsilon_plus().lifted.__name__
      'Relevant'

    Source: Kohlbrenner et al., "Towards best practice in explaining neural network decisions with
    LRP", arXiv 1910.09840.
    """
    return composite(epsilon(), conv=zplus())


def epsilon_plus_flat() -> RuleTable:
    r"""`epsilon_plus`, with the flat rule in the first layer.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.epsilon_plus_flat().lifted.__name__
      'Relevant'

    Source: Kohlbrenner et al., "Towards best practice in explaining neural network decisions with
    LRP", arXiv 1910.09840.
    """
    return composite(epsilon_plus(), first=flat())


def epsilon_alpha2_beta1() -> RuleTable:
    r"""α2β1 in convolutions, ε in dense layers.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.epsilon_alpha2_beta1().lifted.__name__
      'Relevant'

    Source: Kohlbrenner et al., "Towards best practice in explaining neural network decisions with
    LRP", arXiv 1910.09840.
    """
    return composite(epsilon(), conv=alpha_beta(2.0, 1.0))


def epsilon_alpha2_beta1_flat() -> RuleTable:
    r"""`epsilon_alpha2_beta1`, with the flat rule in the first layer.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.epsilon_alpha2_beta1_flat().lifted.__name__
      'Relevant'

    Source: Kohlbrenner et al., "Towards best practice in explaining neural network decisions with
    LRP", arXiv 1910.09840.
    """
    return composite(epsilon_alpha2_beta1(), first=flat())


def epsilon_gamma_box(low: Any, high: Any) -> RuleTable:
    r"""γ in convolutions, ε in dense layers, zᴮ in the first layer.

    Args:
      low: the least value an input may have, as `zbox`.
      high: the largest.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.epsilon_gamma_box(0.0, 1.0).lifted.__name__
      'Relevant'

    Source: Montavon et al., "Layer-wise relevance propagation: an overview", 2019,
    section 10.3.
    """
    return composite(epsilon(), conv=gamma(0.25), first=zbox(low, high))


def attn_lrp() -> RuleTable:
    r"""AttnLRP's rules, see `jaxplain.attn_lrp`; for relevance patching, too.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.attn_lrp().lifted.__name__
      'Relevant'

    Source: Achtibat et al., arXiv 2402.05602.
    """
    return Relevances(Choice(Epsilon(0.0)), sums=0.0).table()


def cp_lrp() -> RuleTable:
    r"""CP-LRP's rules, see `jaxplain.cp_lrp`.

    Returns:
      A RuleTable of relevance.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.rules.cp_lrp().lifted.__name__
      'Relevant'

    Source: Ali et al., arXiv 2202.07304, section 4.
    """
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
    beginning = Choice(rule) if rule.emits else None
    if first is not None:
        beginning = of_table(first).layers
    return Relevances(Choice(rule), beginning, sums).table()
