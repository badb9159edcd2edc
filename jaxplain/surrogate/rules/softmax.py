"""Softmax, log-softmax and logsumexp, by logarithmic means of both ends' probabilities.

And a shift by the maximum, where it is not one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.trees import wide
from jaxplain.surrogate import compat, divided_difference
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.divided_difference import difference, stand_in
from jaxplain.surrogate.patterns import logsumexp_of
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired, reference

Axes = tuple[int, ...]
Ends = tuple[Any, Any]
_FAR = 1e8  # a shift of all logits that only masks make: it cancels, but not by rounding


def _probabilities(
    x: Any, x0: Any, axes: Axes, weight: Any = None, signed: bool = False
) -> tuple[Any, Any, Any, Any]:
    """ln p and ln p0 (in float32 at least) of two softmaxes, and p and p0.

    With weights, p_j = exp(x_j)/|Σ w exp(x)|, and Σ w_j p_j has the same sign at both ends; nan
    where the sum must not be negative (`signed` says that it may).
    """

    def log_softmax(x: Any) -> Any:
        x = wide(_floored(x))
        if weight is None:
            return jax.nn.log_softmax(x, axis=axes)
        return stand_in(x - logsumexp_of(x, weight, axes=axes, signed=signed))

    log_p, log_p0 = log_softmax(x), log_softmax(x0)
    return log_p, log_p0, jnp.exp(log_p), jnp.exp(log_p0)


def _floored(x: Any) -> Any:
    """Logits with their stand-in for -inf, so that all may be masked."""
    infinite = jnp.full_like(x, -divided_difference.infinite(x))
    return jnp.where(x < -divided_difference.largest(x), infinite, x)


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
    return jnp.abs(shift) > _bound(_FAR, shift), shift


def _bound(number: float, array: Any) -> float:
    """The number, or the array's largest: beyond those of float16 there is ∞ alone."""
    return min(number, float(jnp.finfo(array.dtype).max))


def _rule(
    residuals: Callable[..., Any], backward: Callable[..., Any]
) -> Callable[..., Sequence[Any]]:
    """A rule from what is kept of both ends' logits, and what that makes of a cotangent."""

    def rule(equation: Equation, *operands: Any) -> Sequence[Any]:
        x = settled(operands[0])
        others = [value(settled(operand)) for operand in operands[1:]]
        if not isinstance(x, Paired):
            return equation.bind(x, *others)
        axes, signed = equation.params["axes"], equation.params.get("signed", False)
        weighted = equation.params.get("weighted", False)

        def forward(active: Any, passive: Any) -> Any:
            x, others = active
            x0, y0 = passive
            y = equation.function(x, *others)
            weighting = (others[0] if weighted else None), signed
            return y, residuals((x, x0), (y, y0), axes, weighting)

        def transposed(saved: Any, cotangent: Any) -> Any:
            return backward(saved, cotangent, axes).astype(dtype), None

        # What else spells it (a shift of its own) changes the value's rounding alone; frozen as it
        # is, it is the reference's own at the reference.
        dtype = x.dtype
        y0 = equation.function(*map(reference, operands))
        y = with_backward(forward, transposed)((x.value, others), (x.reference, y0))
        return [Pair(y, y0)]

    return rule


def _softmax_means(logits: Ends, ends: Ends, axes: Axes, weighting: Any) -> Any:
    """L; where all logits shift far, Δp/Δx (one Δx for all), or Δp itself of those that stay.

    The p of nothing are no numbers, and to be discarded (see `seen`).
    """
    no_number = divided_difference.NO_NUMBER
    log_p, log_p0, p, p0 = _probabilities(*logits, axes)
    far, shift = _far(*logits, axes)
    x, x0 = map(_floored, logits)
    stays = jnp.abs(x - x0) <= _bound(_FAR / 2, x)
    known, known0 = (jnp.max(end, axis=axes, keepdims=True) > -jnp.inf for end in logits)
    apart = jnp.where(known, p, no_number) - jnp.where(known0, p0, no_number)
    apart = jnp.where(stays, apart, apart / jnp.where(far, shift, 1).astype(p.dtype))
    means = divided_difference.exp(log_p, log_p0, p, p0)
    return jnp.where(far, apart, means).astype(ends[0].dtype), far


def _softmax_backward(saved: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = L_j (m^o_j - Σ_i w_i m^o_i), w = L/ΣL: exact since Σ_i L_i Δln p_i = 0.

    The cotangent is centred on that of the largest mean, which would cancel with the average.
    Where all logits shift far, Σ_j m_j = 0 cancels no longer, and m_j Δx_j = (m^o_j - a) Δp_j with
    the a by which those that stay contribute nothing.
    """
    means, far = saved
    means = wide(means)
    cotangent = cotangent.astype(means.dtype)
    centred = cotangent - jnp.where(far, 0, _at_largest(means, cotangent, axes))
    stays = jnp.abs(means) > 1 / _FAR  # beyond any Δp/Δx of a far shift
    result = means * (centred - _average(jnp.where(far & ~stays, 0, means), centred, axes))
    return jnp.where(far & stays, 0, result)


def _at_largest(means: Any, cotangent: Any, axes: Axes) -> Any:
    """The cotangent of the largest mean (of several alike, their largest)."""
    top = jnp.max(means, axis=axes, keepdims=True)
    largest = means >= 0.99 * top  # none would equal one that XLA rounds otherwise when it reads it
    return jnp.max(jnp.where(largest, cotangent, -jnp.inf), axis=axes, keepdims=True)


def _average(weights: Any, array: Any, axes: Axes) -> Any:
    total = _sum(weights, axes)
    return _sum(weights * array, axes) / jnp.where(total == 0, 1, total)


def _log_softmax_means(logits: Ends, ends: Ends, axes: Axes, weighting: Any) -> Any:
    """w = L/ΣL; where all logits shift far, Δln p of those that stay, and Δln p/Δx of the others
    with their share Δp/ΣΔp of what the former lose, by Δx."""
    log_p, log_p0, p, p0 = _probabilities(*logits, axes)
    (far, _), delta = _far(*logits, axes), difference(*logits).astype(p.dtype)
    means = divided_difference.exp(log_p, log_p0, p, p0)
    stays = far & (jnp.abs(delta) <= _FAR / 2)
    inverse = 1 / jnp.where(far & ~stays, delta, 1)
    moved = jnp.where(far & ~stays, p - p0, 0)
    total = _sum(moved, axes)
    share = moved / jnp.where(total == 0, 1, total) * inverse
    # As rounded: beside a mask little is left of ln p.
    change = difference(*map(divided_difference.seen, ends)).astype(p.dtype)
    weights = jnp.where(far, change * inverse, means / _sum(means, axes))
    dtype = ends[0].dtype
    return weights.astype(dtype), share.astype(dtype), stays, far


def _log_softmax_backward(saved: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = m^o_j - w_j Σ_i m^o_i; where all logits shift far, m^o_j Δln p_j/Δx_j of those that
    move, which also share what those that stay lose."""
    weights, share, stays, far = saved
    own = weights * cotangent
    apart = jnp.where(stays, 0, own) + share * _sum(jnp.where(stays, own, 0), axes)
    return jnp.where(far, apart, cotangent - weights * _sum(cotangent, axes))


def _logsumexp_means(logits: Ends, ends: Ends, axes: Axes, weighting: Any) -> Any:
    """w = L/ΣL; where what is seen at one end is masked at the other, and w Δx infinite, that of
    exp, sum and log one by one: w_j Δx_j = Δe_j Δy/ΔS, with e = exp(x) and S their sum."""
    (x, _), (weight, _), delta = logits, weighting, difference(*logits)
    means = _log_means(*logits, axes, *weighting)
    means = means / _sum(means, axes)
    moved = _sum(jnp.abs(means * delta), axes)
    far = moved > _bound(_FAR, moved)
    y, y0 = (jnp.reshape(wide(stand_in(end)), far.shape) for end in ends)
    top = jnp.maximum(y, y0)
    total, total0 = jnp.exp(y - top), jnp.exp(y0 - top)
    p, p0 = map(wide, _probabilities(*logits, axes, *weighting)[2:])
    change = p * total - p0 * total0
    if weight is not None:
        change = jnp.where(weight == 0, 0, weight.astype(change.dtype) * change)
    slope = 1 / divided_difference.exp(y - top, y0 - top, total, total0)
    apart = jnp.where(delta == 0, 0, change * slope / wide(jnp.where(delta == 0, 1, delta)))
    return jnp.where(far, apart.astype(x.dtype), means)


def _logsumexp_backward(weights: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = w_j m^o."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(weights.shape))
    return weights * jnp.reshape(cotangent, shape)


def _shifted_ends(logits: Ends, ends: Ends, axes: Axes, weighting: Any) -> Any:
    return compat.apart(logits[0]), logits[1]


def _shifted_backward(saved: Any, cotangent: Any, axes: Axes) -> Any:
    """m_j = m^o_j, less Σ m^o of the winners (see `maximum`); where all shift far, m^o_j Δt_j/Δx_j.

    There Δt_j = Δx_j - Δ max x is the difference of two infinite changes: what it makes is owed to
    x_j if it moves, and to the winners if it stays.
    """
    x, x0 = saved
    (far, shift), delta = _far(x, x0, axes), difference(x, x0)
    rises = shift > 0
    end = compat.apart(jnp.where(rises, x, x0))
    wins = (end == jnp.max(end, axis=axes, keepdims=True)).astype(x.dtype)
    wins = wins / jnp.maximum(_sum(wins, axes), 1)
    own = _sum(wins * delta, axes)
    share = wins * jnp.where(own == 0, 1, shift / jnp.where(own == 0, 1, own))
    change, change0 = (stand_in(v) - jnp.max(stand_in(v), axis=axes, keepdims=True) for v in saved)
    change = cotangent * (change - change0)
    stays = jnp.abs(delta) <= _bound(_FAR / 2, delta)
    apart = jnp.where(stays, 0, change / jnp.where(stays, 1, delta))
    apart += wins * _sum(jnp.where(stays, change, 0), axes) / jnp.where(far, own, 1)
    return jnp.where(far, apart, cotangent - share * _sum(cotangent, axes))


def _sum(array: Any, axes: Axes) -> Any:
    return jnp.sum(array, axis=axes, keepdims=True)


softmax = _rule(_softmax_means, _softmax_backward)
log_softmax = _rule(_log_softmax_means, _log_softmax_backward)
logsumexp = _rule(_logsumexp_means, _logsumexp_backward)
shifted = _rule(_shifted_ends, _shifted_backward)
