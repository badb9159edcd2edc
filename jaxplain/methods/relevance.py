"""Relevance: LRP and its composites, AttnLRP and CP-LRP, in one backward pass."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.trees import total
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.named import probes
from jaxplain.surrogate import RuleTable, compat, patterns, staging, surrogate_values
from jaxplain.surrogate.program import TAP
from jaxplain.surrogate.rules import lrp as tables
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.rules.taps import relevance_tap


@speaks
def lrp(
    f: Function,
    *,
    rules: str | RuleTable = "epsilon",
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Layer-wise relevance propagation: R = x ⊙ m, from R = f(x) at the output.

    Every layer z = Wx + b hands the relevance R_j of its outputs to its inputs by a rule; that of
    the ε rule is

      R_i = x_i m_i,   m_i = Σ_j w_ij R_j / (z_j + ε sgn z_j).

    A layer is a product with constant weights and whatever constants follow it: a bias, a cast, a
    reshape, a batch norm in inference mode are part of it, however they are spelled. A scalar
    function of one value hands on R as it is, two factors that depend on x share it, what a norm
    divides by and a gate (a sigmoid among factors) count as constants, a maximum hands it to its
    winner, and a softmax and everything else keep JAX's derivative.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays. A batch is `jax.vmap`.
      rules: `"epsilon"`, `"gamma"`, `"zplus"`, `"alpha_beta"`, `"w_square"`, `"flat"`, a composite
        (`"epsilon_plus"`, `"epsilon_plus_flat"`, `"epsilon_alpha2_beta1"`,
        `"epsilon_alpha2_beta1_flat"`), `"attn_lrp"`, `"cp_lrp"`, or a table made by
        `jaxplain.rules` (`jaxplain.rules.composite` chooses a rule for each layer).
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`): relevance of these
        values, all in one backward pass; x may then hold integers (token ids). To the rules for a
        first layer each of them is the input.
      return_gap: also return f(x) - Σ R: what biases, stabilisers, and the rules took or added.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → signed relevances, a pytree like x; with `return_gap` the pair
      (relevances, gap). They sum to f(x) only as far as the rules conserve relevance, see
      `docs/relevance.md`.  With `at` one array like the value for one name, {name: array} (and
      {name: gap}) for several.

    Raises:
      TypeError: f is not scalar-valued, x is not made of floating arrays, or the table is none of
        relevance.
      ValueError: the name of the rules is unknown, or nothing is named as in `at`.
      UnsupportedPrimitive: x meets an operation that JAX can't differentiate either.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jax.nn.relu(x @ jnp.array([3.0, -1.0]) + 1.0)
      >>> jxp.lrp(f, rules=jxp.rules.epsilon(0.0), return_gap=True)(jnp.array([2.0, 1.0]))
      (Array([ 6., -1.], dtype=float32), Array(1., dtype=float32))

    Source: Bach et al., 10.1371/journal.pone.0130140, eqs. 56-62.
    """
    table = by_name(rules, any_kind=True)
    enters = tables.of_table(table).first is not None
    reading = table.register(patterns.tap, functools.partial(relevance_tap, enters))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            probed = probes.probe(f, at, args, argnums)
            inside = lambda zeros: probed.function(probed.x, zeros)[0]
            y, found = _received(reading, inside, probed.probes)
            gaps = {name: y - total(relevance, y) for name, relevance in found.items()}
            relevances = probed.result(found)
            return (relevances, probed.result(gaps)) if return_gap else relevances
        x = staging.attributed(f, args, argnums)

        def beside(zeros: Tree) -> Any:
            seen = jax.tree.map(lambda v, zero: v + checkpoint_name(zero, TAP), x, zeros)
            y = staging.call(f, *staging.place(args, argnums, seen))
            staging.check_scalar(y)
            return y

        y, relevances = _received(reading, beside, compat.zeros(jax.tree.map(jax.typeof, x)))
        return (relevances, y - total(relevances, y)) if return_gap else relevances

    return explain


def _received(table: RuleTable, f: Function, zeros: Tree) -> tuple[Any, Any]:
    """f's value, and the relevance that arrives at its probes, which are zeros.

    They alone are differentiated: what is computed before them stays JAX's own.
    """
    y, vjp = jax.vjp(lambda zeros: surrogate_values(f, table, None, (zeros,))[0], zeros)
    return y, vjp(jnp.ones_like(y))[0]


@speaks
def attn_lrp(
    f: Function,
    *,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""AttnLRP: relevance through transformers, at the cost of one gradient.

    Products with weights are linear (ε = 0), two factors get half of their vjp each (of attention
    q and k a quarter, v one half), a gelu or silu hands on R as it is, a softmax keeps its
    derivative, and what a norm divides by counts as a constant.

    Args:
      f: `f(x, *args)` → scalar, e.g. a logit as a function of the token embeddings.
      at: as `lrp`; names of layers give their relevance, all in one backward pass.
      return_gap: also return f(x) - Σ R.
      argnums: which argument(s) of f are x.

    Returns:
      As `lrp`. Biases keep their relevance and a softmax conserves none, so that the sum is not
      f(x); tokens are better ranked by |R| summed than by the signed sums.

    Raises:
      TypeError, ValueError, UnsupportedPrimitive: as `lrp`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[0] * jax.nn.silu(x[1])  # one half to each factor
      >>> R = jxp.attn_lrp(f)(jnp.array([2.0, 3.0]))
      >>> bool(jnp.allclose(R, f(jnp.array([2.0, 3.0])) / 2))
      True

    Source: Achtibat et al., "AttnLRP", arXiv 2402.05602, eqs. 8-17.
    """
    return lrp(f, rules=tables.attn_lrp(), at=at, return_gap=return_gap, argnums=argnums)


@speaks
def cp_lrp(
    f: Function,
    *,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""CP-LRP: as AttnLRP, with softmaxes and gates as constants.

    All of a product's relevance goes to the factor that did not come out of a softmax or an
    activation: of attention to v, of a gated unit to what is gated; q and k get none.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `lrp`.
      return_gap: also return f(x) - Σ R.
      argnums: which argument(s) of f are x.

    Returns:
      As `lrp`.  Without biases relevances sum to f(x): nothing but biases takes any.

    Raises:
      TypeError, ValueError, UnsupportedPrimitive: as `lrp`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jxp.cp_lrp(lambda x: x[0] * jax.nn.silu(x[1]))(jnp.array([2.0, 0.0]))
      Array([0., 0.], dtype=float32)

    Source: Ali et al., "XAI for transformers: better explanations through conservative
    propagation", arXiv 2202.07304, section 4.
    """
    return lrp(f, rules=tables.cp_lrp(), at=at, return_gap=return_gap, argnums=argnums)
