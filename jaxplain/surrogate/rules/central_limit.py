"""The central-limit rule: Shapley values of a nonlinearity of many summands, in closed form.

A unit is y = g(z₀ + Σ_j d_j), d_j = w_j Δx_j the summands' changes.  Its Shapley values are
φ_j = ∫₀¹ E[g(Z + d_j) - g(Z)] dt, Z the sum over a coalition in which each of the others is with
probability t (Owen's multilinear extension).  Of many summands, with all of them counted, Z_t is
nearly normal, with mean z₀ + tΔz and variance t(1 - t)V, V = Σ_j d_j².  To second order in d_j

  φ_j = A d_j + B d_j²,   A = ∫₀¹ E g′(Z_t) dt,   B = ½ ∫₀¹ (1 - 2t) E g″(Z_t) dt,

and d/dt E g(Z_t) = Δz E g′(Z_t) + ½(1 - 2t) V E g″(Z_t), integrated over t, says Δy = A Δz + B V:
the rule is complete, whatever A is, by B = (Δy - A Δz)/V, and B needs no second derivative.  A is
the mean of g′ over points whose mean is z̄ and whose variance is Δz²/12 + V/6; a uniform density
with the same two moments makes it a divided difference,

  A = [g(z̄ + H) - g(z̄ - H)]/2H,   H² = Δz²/4 + V/2,

exact for g a cubic.  One summand has V = Δz², for which A d + B d² = Δy: the Rescale rule.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.backward import attach, with_backward
from jaxplain.surrogate.divided_difference import difference
from jaxplain.surrogate.rules.chain import slope
from jaxplain.surrogate.rules.parted import Choice, Kind, choice, masked_once, transpose
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.parted import Parts
from jaxplain.surrogate.values.region import Expression
from jaxplain.surrogate.values.spread import Spread


def central_limit(
    *, after: str | None = None, within: str | None = None, where: Choice | None = None
) -> RuleTable:
    r"""Approximate Shapley values at the nonlinearities chosen (all, by default), else Rescale.

    With z̄ the mean of z at both ends, H² = Δz²/4 + V/2 and V = Σ_j (w_j Δx_j)², a unit
    y = g(Σ_j w_j x_j + b) gives its input x_j the multiplier

      m_j = A w_j + B w_j² Δx_j,  A = [g(z̄ + H) - g(z̄ - H)]/2H,  B = (Δy - A Δz)/V:

    the Shapley values of many summands whose coalitions are normal by the central limit theorem,
    to second order in each; see this module's docstring for the derivation.  Where a nonlinearity
    has a limited domain (√, log, 1/x) it keeps Rescale.

    Args:
      after: "dense" or "conv": only at nonlinearities fed by such a map, seen through shape
        operations and batch norm.
      within: a pattern ("head", "encoder/layer_*") for the path of modules (linen) and
        `jax.named_scope`s, with all that is inside them; in the language of `jaxplain.names`.
      where: any other choice, a function of a `Place`.  Conditions are joined by and.

    Returns:
      A RuleTable over values with spreads.  Multipliers times (x - ref) sum to f(x) - f(ref).

    Raises:
      ValueError: `after` is not "dense" or "conv".

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jax.nn.relu(x @ jnp.array([2.0, -1.0, -1.0]) + 0.5)
      >>> jxp.deeplift(f, 0.0, rules="central_limit")(jnp.ones(3))  # Shapley: 4/3, -2/3, -2/3
      Array([ 1.2887, -0.6443, -0.6443], dtype=float32)

    Source: this library; the multilinear extension is Owen's (Management Science 18, 1972).
    """
    return Kind(Spread, _nonlinear, _learned, choice(after, within, where)).table()


def _nonlinear(expression: Expression, root: Any, chosen: bool) -> Parts:
    def slopes(squares: Any, x: Any, x0: Any, constants: Any) -> tuple[Any, Any, Any]:
        """A, B and Δy, with Δy = A Δz + B V."""
        delta = difference(x, x0)
        secant = slope(expression, x, x0, constants)
        change = secant * delta
        if not chosen:
            return secant, jnp.zeros_like(secant), change
        known = (squares > float(jnp.finfo(delta.dtype).tiny)) & jnp.isfinite(squares)
        known &= ~masked_once(x, x0)
        squares = jnp.where(known, squares, 1)
        half, middle = jnp.sqrt(delta * delta / 4 + squares / 2), (x + x0) / 2
        mean = jnp.where(known, slope(expression, middle + half, middle - half, constants), secant)
        return mean, jnp.where(known, (change - mean * delta) / squares, 0), change

    def forward(parts: Any, passive: Any) -> Any:
        saved = slopes(parts[1], *passive)
        return Spread.divide(saved[-1].astype(expression.output.dtype)), saved

    def backward(saved: Any, cotangents: Any) -> Any:
        mean, curved, change = saved
        cotangent = Spread.weigh(cotangents, change)
        return tuple((m * cotangent).astype(root.dtype) for m in (mean, curved))

    surrogate = with_backward(forward, backward)
    return surrogate(root.both, (root.value, root.reference, expression.constants))


def _learned(value: Any, reference: Any, x: Any, apply: Any, weight: Any) -> Parts:
    """Δ ↦ WΔ, V ↦ W²V: squares of independent summands add up."""

    def parts(active: Any, passive: Any) -> Any:
        change, weight = passive
        return change, apply(active[1], weight * weight)

    def backward(saved: Any, cotangents: Any) -> Any:
        weight, like = saved
        of_delta, of_squares = cotangents
        return (
            transpose(apply, weight, like, of_delta),
            transpose(apply, weight * weight, like, of_squares),
        )

    surrogate = attach(parts, lambda active, passive: (passive[1], active[1]), backward)
    return surrogate(x.both, (value - reference, weight))
