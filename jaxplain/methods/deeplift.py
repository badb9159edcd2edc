"""DeepLIFT: contributions of an input's differences from a reference, in one backward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.trees import minus, times, total
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.named import probes
from jaxplain.surrogate import RuleTable, staging, surrogate_values
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.rules.taps import with_taps


@speaks
def deeplift(
    f: Function,
    ref: Tree,
    *,
    rules: str | RuleTable = "rescale",
    multiply: bool = True,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""DeepLIFT contributions C = m ⊙ (x - ref), with multipliers m by the rule table.

    Every operation v ↦ y of f gets multipliers with Σ m Δv = Δy, Δ being the difference between
    the values at x and at the reference; composed backwards they satisfy, for any program f,

      Σ_i C_i = f(x) - f(ref).

    Args:
      f: `f(x, *args)` → scalar. x is a pytree of floating arrays; a batch is `jax.vmap` of the
        result, all classes at once are a `vmap` over the target's index.
      ref: the reference input: a scalar, or a tree like x whose leaves broadcast to x's.
      rules: `"rescale"`, `"reveal_cancel"`, `"genomics"` or `"central_limit"` (the nearest to
        Shapley values), or a RuleTable, e.g. `jaxplain.rules.rescale(norm_theta=1.0)`.
      multiply: False returns the multipliers m themselves.
      at: a name, several or a pattern (`"block_*"`, see `jaxplain.names`): contributions of these
        values inside f (`jaxplain.tag`) instead of x's, all of them in one backward pass. Those of
        values that cut f (everything passes through them) sum to f(x) - f(ref); of a value that a
        scan carries each step is such a cut, and its gap is f(x) - f(ref) less all of them.
        x and ref may then hold integers (token ids) and booleans: the first of the values, those
        that no other named one feeds, go from what f computes at ref to what it computes at x, and
        all else that integers decide (masks, positions, look-ups without a name) stays x's. Where
        there is nothing else the sum is still f(x) - f(ref); what there is, is in the gap.
      return_gap: also return f(x) - f(ref) - Σ C, which is rounding only, but for what is frozen
        (`jax.lax.stop_gradient`, `jaxplain.rules.freeze_choices`).
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      `explain(x, *args)` → contributions, a pytree shaped and typed like x, summing to
      f(x) - f(ref); with `return_gap` the pair (contributions, gap). Where x equals ref the
      multipliers are the gradient and the contributions zero.  With `at` one array like the value
      for one name, {name: array} (and {name: gap}) for several.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays (with `at` of real
        numbers, where a floating value is named).
      ValueError: ref does not broadcast to x, or the name of the rules is unknown.
      UnsupportedPrimitive: x meets an operation that JAX can't differentiate either (a while loop).

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: 1 - jax.nn.relu(1 - x.sum())       # saturates from a sum of 1 on
      >>> jxp.deeplift(f, ref=0.0)(jnp.ones(2))
      Array([0.5, 0.5], dtype=float32)

    Source: Shrikumar, Greenside & Kundaje, "Learning important features through propagating
    activation differences", arXiv 1704.02685, eqs. 1-3 and section 3.5.
    """
    table = by_name(rules)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            probed = probes.probe(f, at, args, argnums)
            return _inside(probed, table, ref, multiply, return_gap)
        x = staging.attributed(f, args, argnums)
        reference = staging.as_reference(ref, x)

        def surrogate(x: Tree) -> Any:
            args_at = staging.place(args, argnums, x)
            y, y_reference = surrogate_values(f, table, reference, args_at, argnums)
            staging.check_scalar(y)
            return y, y_reference

        y, vjp, y_reference = jax.vjp(surrogate, x, has_aux=True)
        (multipliers,) = vjp(_one(y, y_reference))
        contributions = times(multipliers, minus(x, reference))
        result = contributions if multiply else multipliers
        if not return_gap:
            return result
        # f itself, for what is frozen is x's in the surrogate's reference pass.
        return result, y - f(*staging.place(args, argnums, reference)) - total(contributions, y)

    return explain


def _one(y: Any, y_reference: Any) -> Any:
    """What is sent back: 1, but NaN where f(ref) is not finite: there is no difference to share.

    Of f(x) it is not asked: that takes more memory than its gradient, and the gap says it.
    """
    return jnp.where(jnp.isfinite(y_reference), jnp.ones_like(y), jnp.nan)


def _inside(
    probed: probes.Probed, table: RuleTable, ref: Tree, multiply: bool, return_gap: bool
) -> Any:
    """Contributions (or multipliers) of the probed values, received by probes beside them."""
    x, reference = probed.x, probed.reference(ref)

    def received(multiply: bool) -> tuple[Any, Any]:
        def surrogate(x: Tree, probes: Any) -> Any:
            return surrogate_values(
                lambda x, probes: probed.function(x, probes)[0],
                with_taps(table, multiply=multiply),
                (reference, probed.probes),
                (x, probes),
                (0, 1),
            )

        # In x too, although nothing asks for it: a rule that this backward pass left unused would
        # stand in for the gradient when scores are differentiated again.
        y, vjp, y_reference = jax.vjp(surrogate, x, probed.probes, has_aux=True)
        arriving = vjp(_one(y, y_reference))[1]
        if multiply and not table.lifted.needs_reference:  # such a table knows no differences
            arriving = times(arriving, minus(probed.values(x), probed.values(reference)))
        return arriving, y

    scores, y = received(multiply)
    if not return_gap:
        return probed.result(scores)
    change = y - probed.value_at(ref)
    contributions = scores if multiply else received(True)[0]
    gaps = {name: change - jnp.sum(c) for name, c in contributions.items()}
    return probed.result(scores), probed.result(gaps)
