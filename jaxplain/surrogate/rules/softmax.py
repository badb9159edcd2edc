"""Softmax, log-softmax and logsumexp, by logarithmic means of both ends' probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.divided_difference import difference, stand_in
from jaxplain.surrogate.patterns import logsumexp_of
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired, reference

Axes = tuple[int, ...]
_FAR = 1e8  # a shift of all logits that only masks make: it cancels, but not by rounding


def _probabilities(
    x: Any, x0: Any, axes: Axes, weight: Any, signed: bool
) -> tuple[Any, Any, Any, Any]:
    """ln p and ln p0 (in float32 at least) of two softmaxes, and p and p0.

    With weights, p_j = exp(x_j)/|Σ w exp(x)|, and Σ w_j p_j has the same sign at both ends; nan
    where the sum must not be negative (`signed` says that it may).
    """

    def log_softmax(x: Any) -> Any:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if weight is None:
            return stand_in(jax.nn.log_softmax(x, axis=axes))
        return stand_in(x - logsumexp_of(x, weight, axes=axes, signed=signed))

    log_p, log_p0 = log_softmax(x), log_softmax(x0)
    return log_p, log_p0, jnp.exp(log_p), jnp.exp(log_p0)


def _log_means(x: Any, x0: Any, axes: Axes, weight: Any = None, signed: bool = False) -> Any:
    """w_j L_j, L_j = (p_j - p0_j)/(ln p_j - ln p0_j) the logarithmic means of two softmaxes."""
    ends = _probabilities(x, x0, axes, weight, signed)
    if weight is None:
        return divided_difference.exp(*ends).astype(x.dtype)
    hidden = weight == 0
    means = divided_difference.exp(*(jnp.where(hidden, 0, end) for end in ends))
    return jnp.where(hidden, 0, weight * means).astype(x.dtype)


def _far(x: Any, x0: Any, axes: Axes) -> tuple[Any, Any]:
    """Where all logits are masked at one end and some are not at the other, and their shift."""
    shift = difference(*(jnp.max(end, axis=axes, keepdims=True) for end in (x, x0)))
    return jnp.abs(shift) > _FAR, shift


def _rule(
    residuals: Callable[..., Any], backward: Callable[..., Any]
) -> Callable[..., Sequence[Any]]:
    """A rule from what is kept of both ends' logits, and what that makes of a cotangent."""

    def rule(equation: Equation, *operands: Any) -> Sequence[Any]:
        x = settled(operands[0])
        others = [value(settled(operand)) for operand in operands[1:]]
        if not isinstance(x, Paired):
            return equation.bind(x, *others)
        axes, weighted = equation.params["axes"], equation.params.get("weighted", False)

        def primal(active: Any, passive: Any) -> Any:
            return equation.function(active[0], *active[1])

        def kept(active: Any, passive: Any) -> Any:
            x, others = active
            weight = others[0] if weighted else None
            return residuals(equation, x, passive, axes, weight)

        def transposed(saved: Any, cotangent: Any) -> Any:
            return backward(saved, cotangent, axes).astype(dtype), None

        # What else spells it (a shift of its own) changes the value's rounding alone; frozen as it
        # is, it is the reference's own at the reference.
        dtype = x.dtype
        result = attach(primal, kept, transposed)((x.value, others), x.reference)
        return [Pair(result, equation.function(*map(reference, operands)))]

    return rule


def _softmax_means(equation: Equation, x: Any, x0: Any, axes: Axes, weight: Any) -> Any:
    """L; where all logits shift far, Δp/Δx (one Δx for all), or Δp itself where that is 1/0."""
    log_p, log_p0, p, p0 = _probabilities(x, x0, axes, None, False)
    far, shift = _far(x, x0, axes)
    inverse = 1 / jnp.where(far, shift, 1).astype(p.dtype)
    means = divided_difference.exp(log_p, log_p0, p, p0)
    apart = jnp.where(x == x0, p - p0, (p - p0) * inverse)
    return jnp.where(far, apart, means).astype(x.dtype), far


def _softmax_backward(saved: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = L_j (m^o_j - Σ_i w_i m^o_i), w = L/ΣL: exact since Σ_i L_i Δln p_i = 0.

    The cotangent is centred on that of the largest mean, which would cancel with the average.
    Where all logits shift far, Σ_j m_j = 0 cancels no longer, and m_j Δx_j = (m^o_j - a) Δp_j with
    the a by which those that stay contribute nothing.
    """
    means, far = saved
    means = means.astype(jnp.promote_types(means.dtype, jnp.float32))
    cotangent = cotangent.astype(means.dtype)
    centred = cotangent - _at_largest(means, cotangent, axes)
    stays = jnp.abs(means) > 1 / _FAR  # beyond any Δp/Δx of a far shift
    result = means * (centred - _average(jnp.where(far & ~stays, 0, means), centred, axes))
    return jnp.where(far & stays, 0, result)


def _at_largest(means: Any, cotangent: Any, axes: Axes) -> Any:
    """The cotangent of the largest mean (of several, their largest)."""
    largest = means == jnp.max(means, axis=axes, keepdims=True)
    return jnp.max(jnp.where(largest, cotangent, -jnp.inf), axis=axes, keepdims=True)


def _average(weights: Any, array: Any, axes: Axes) -> Any:
    total = _sum(weights, axes)
    return _sum(weights * array, axes) / jnp.where(total == 0, 1, total)


def _log_softmax_means(equation: Equation, x: Any, x0: Any, axes: Axes, weight: Any) -> Any:
    """w = L/ΣL; where all logits shift far, Δln p/Δx."""
    log_p, log_p0, p, p0 = _probabilities(x, x0, axes, None, False)
    (far, _), delta = _far(x, x0, axes), difference(x, x0).astype(p.dtype)
    means = divided_difference.exp(log_p, log_p0, p, p0)
    apart = jnp.where(delta == 0, 0, (log_p - log_p0) / jnp.where(delta == 0, 1, delta))
    return jnp.where(far, apart, means / _sum(means, axes)).astype(x.dtype), far


def _log_softmax_backward(saved: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = m^o_j - w_j Σ_i m^o_i."""
    weights, far = saved
    return jnp.where(far, weights * cotangent, cotangent - weights * _sum(cotangent, axes))


def _logsumexp_means(equation: Equation, x: Any, x0: Any, axes: Axes, weight: Any) -> Any:
    """w = L/ΣL."""
    means = _log_means(x, x0, axes, weight, equation.params["signed"])
    return means / _sum(means, axes)


def _logsumexp_backward(weights: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = w_j m^o."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(weights.shape))
    return weights * cotangent.reshape(shape)


def _sum(array: Any, axes: Axes) -> Any:
    return jnp.sum(array, axis=axes, keepdims=True)


softmax = _rule(_softmax_means, _softmax_backward)
log_softmax = _rule(_log_softmax_means, _log_softmax_backward)
logsumexp = _rule(_logsumexp_means, _logsumexp_backward)
