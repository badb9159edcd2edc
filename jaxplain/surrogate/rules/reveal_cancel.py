"""DeepLIFT's RevealCancel rule, and the Linear rule's positive and negative parts.

Multipliers are kept apart for the parts Δ⁺ and Δ⁻ of every value, so that what cancels in a sum is
seen by both sides of the sum.
Source: arXiv 1704.02685, sections 3.4 (positive and negative parts), 3.5.1 (Linear) and 3.5.3
(RevealCancel), with its appendix B.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.backward import attach, with_backward
from jaxplain.surrogate.divided_difference import difference, quotient
from jaxplain.surrogate.rules.chain import slope
from jaxplain.surrogate.rules.parted import Choice, Kind, choice, masked_once, transpose
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.parted import Parts
from jaxplain.surrogate.values.region import Expression
from jaxplain.surrogate.values.split import Split


def reveal_cancel(
    *, after: str | None = None, within: str | None = None, where: Choice | None = None
) -> RuleTable:
    r"""RevealCancel at the nonlinearities that are chosen (all, by default), Rescale at the others.

    Where a nonlinearity has a limited domain (√, log, 1/x: the scale of a norm) it keeps Rescale:
    x₀ + Δ⁺ may lie outside.

    Linear y = Wx: Δy⁺ collects the w_i Δx_i > 0 and Δy⁻ the rest.  Nonlinear y = g(x):

      Δy⁺ = ½[g(x₀ + Δx⁺) - g(x₀)] + ½[g(x₀ + Δx⁻ + Δx⁺) - g(x₀ + Δx⁻)],

    Δy⁻ likewise, and m_{Δ±} = Δy^±/Δx^±.

    Args:
      after: "dense" or "conv": only at nonlinearities fed by such a map, seen through shape
        operations and batch norm.
      within: a pattern ("head", "encoder/layer_*") for the path of modules (linen) and
        `jax.named_scope`s, with all that is inside them; in the language of `jaxplain.names`.
      where: any other choice, a function of a `Place`.  Conditions are joined by and.

    Returns:
      A RuleTable over split values.  Multipliers times (x - ref) sum to f(x) - f(ref).

    Raises:
      ValueError: `after` is not "dense" or "conv".

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> minimum = lambda x: x[0] - jax.nn.relu(x[0] - x[1])
      >>> jxp.deeplift(minimum, 0.0, rules="reveal_cancel")(jnp.array([3.0, 2.0]))
      Array([1., 1.], dtype=float32)

    Source: arXiv 1704.02685, section 3.5.3.
    """
    return Kind(Split, _nonlinear, _learned, choice(after, within, where)).table()


def genomics() -> RuleTable:
    """RevealCancel after dense layers, Rescale after convolutions: the original's default."""
    return reveal_cancel(after="dense")


def _nonlinear(expression: Expression, root: Any, chosen: bool) -> Parts:
    slopes = _reveal_cancel_slopes if chosen else _rescale_slopes

    def forward(parts: Any, passive: Any) -> Any:
        multipliers = slopes(expression, parts, *passive)
        changes = map(jnp.multiply, multipliers, parts)
        return tuple(c.astype(expression.output.dtype) for c in changes), multipliers

    def backward(saved: Any, cotangents: Any) -> Any:
        return tuple((m * ct).astype(root.dtype) for m, ct in zip(saved, cotangents, strict=True))

    surrogate = with_backward(forward, backward)
    output = expression.output
    ends = output.value, output.reference
    return surrogate(root.both, (root.value, root.reference, expression.constants, ends))


def _reveal_cancel_slopes(
    expression: Expression, parts: Any, x: Any, x0: Any, constants: Any, ends: Any
) -> tuple[Any, Any]:
    """m_{Δ+} = ½[g(x0+Δ+) - g(x0) + g(x) - g(x0+Δ-)]/Δ+, and the same with + and - exchanged.

    Of what a mask shows at one end alone both are Δy/Δx.
    """
    positive, negative = parts
    up, down = x0 + positive, x0 + negative

    def between(start: Any, step: Any) -> Any:
        return slope(expression, start + step, start, constants)

    masked = masked_once(x, x0)
    y, y0 = ends
    secant = quotient(y, y0, difference(x, x0), 0, ~masked)
    return (
        jnp.where(masked, secant, (between(x0, positive) + between(down, positive)) / 2),
        jnp.where(masked, secant, (between(x0, negative) + between(up, negative)) / 2),
    )


def _rescale_slopes(
    expression: Expression, parts: Any, x: Any, x0: Any, constants: Any, ends: Any
) -> tuple[Any, Any]:
    """Δy/Δx for both parts."""
    secant = slope(expression, x, x0, constants)
    return secant, secant


def _learned(value: Any, reference: Any, x: Any, apply: Any, weight: Any) -> Parts:
    """y = Wx: Δy⁺ = Σ 1{w_i Δx_i > 0} w_i (Δx_i⁺ + Δx_i⁻) and Δy⁻ the rest.

    With s = sgn(Δx) (Δx⁺ + Δx⁻) they are ½(WΔ ± |W|s): one map beside the value's own.
    """

    def parts(active: Any, passive: Any) -> Any:
        delta, change, weight = passive
        aligned = jnp.sign(delta) * (active[0] + active[1])
        size = apply(aligned, jnp.abs(weight))
        return jnp.maximum((change + size) / 2, 0), jnp.minimum((change - size) / 2, 0)

    def backward(passive: Any, cotangents: Any) -> Any:
        delta, _, weight = passive
        of_positive, of_negative = cotangents
        mean = transpose(apply, weight, delta, (of_positive + of_negative) / 2)
        apart = transpose(apply, jnp.abs(weight), delta, (of_positive - of_negative) / 2)
        multiplier = mean + jnp.sign(delta) * apart
        return multiplier, multiplier

    surrogate = attach(parts, lambda active, passive: passive, backward)
    return surrogate(x.both, (x.value - x.reference, value - reference, weight))
