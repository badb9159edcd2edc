r"""The moments of what weighs a set of values by their exponentials: maxima, logsumexp, softmax.

A maximum of normal values is smooth: τ log Σ_j exp(m_j/τ) with τ² = 0.7225 v̄, v̄ the mean of their
variances; a logsumexp is the same with τ² = 1 + 0.7225 v̄.  Its derivatives are ∂/∂m_j = p_j =
softmax(m/τ)_j and, as of a normal value's mean, ∂/∂v_j = ½ ∂p_j/∂m_j = p_j (1 - p_j)/2τ.
A relu is the maximum of a value and 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.trees import root as safe_root
from jaxplain._numerics.trees import wide
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules import pooling
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.moments import Moments, Nodes, at_nodes
from jaxplain.surrogate.values.pair import is_real

_SPREAD = 0.7225  # .85²: the logistic scale of a maximum of normal values, per variance

Axes = tuple[int, ...]


def largest(
    operand: Moments,
    axes: Axes,
    dtype: Any,
    *,
    smallest: bool = False,
    floor: float = 0.0,
    known: Any = None,
) -> Moments:
    """The smooth maximum over axes, which are kept; `known` is where there are elements at all.

    `floor` is τ² without variance: 0 of a maximum, 1 of a logsumexp.
    """
    nodes, sign, inside = operand.nodes, -1 if smallest else 1, [a + 1 for a in axes]
    count: Any = 1
    for axis in axes:
        count *= operand.shape[axis]
    if known is not None:
        count = jnp.maximum(jnp.sum(known, axes, keepdims=True), 1)

    def forward(active: Any, known: Any) -> Any:
        means, variance = map(wide, active[:2])
        mean_variance = jnp.sum(variance, axes, keepdims=True) / count
        scale = safe_root(floor + _SPREAD * nodes.spread(mean_variance))
        found, share = soft_maximum(sign * means, scale, inside)
        mean_share = nodes.average(share)
        steep = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
        curve = share * (1 - share) * steep / 2
        spread = jnp.sum(mean_share * mean_share * variance, axes, keepdims=True)
        zeros = None if active[2] is None else jnp.zeros(spread.shape, dtype)
        results = (sign * found).astype(dtype), spread.astype(dtype), zeros
        if zeros is None:
            return results, (share, sign * curve, mean_share, None)
        # Of ∂p_j/∂m_i = p_i (δ_ij - p_j)/τ: how the means move what carries the variance on.
        carried = (mean_share * variance)[None]
        moved = carried - jnp.sum(share * carried, inside, keepdims=True)
        return results, (share, sign * curve, mean_share, sign * 2 * steep * share * moved)

    def backward(saved: Any, cotangents: Any) -> Any:
        share, curve, mean_share, moved = saved
        of_means, of_shared, of_drift = cotangents
        squares = mean_share * mean_share
        shared = nodes.gathered(curve * of_means) + squares * of_shared
        means = share * of_means
        if of_drift is not None:
            means += nodes.scattered(of_drift) * moved
            of_drift = nodes.gathered_drift(curve * of_means) + squares * of_drift
            of_drift = of_drift.astype(operand.variance.dtype)
        return means.astype(operand.dtype), shared.astype(operand.variance.dtype), of_drift

    active = operand.means, operand.variance, operand.drift
    found_means, spread, drift = with_backward(forward, backward)(active, known)
    return Moments(found_means, spread, nodes, drift)


def soft_maximum(values: Any, scale: Any, axes: Sequence[int]) -> tuple[Any, Any]:
    """τ log Σ exp(m/τ) and softmax(m/τ); of τ = 0 the maximum, which equals share."""
    top = jnp.max(values, axes, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    still = scale == 0
    distance = (values - top) / jnp.where(still, 1, scale)
    terms = jnp.where(still, (values == top).astype(values.dtype), jnp.exp(distance))
    total = jnp.sum(terms, axes, keepdims=True)
    positive = total > 0
    sure = jnp.where(positive, total, 1)
    grows = jnp.where(still, 0, scale * jnp.log(sure))
    return jnp.where(positive, top + grows, -jnp.inf), terms / sure


def relu(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """max(x, 0)."""
    operand = settled(operand)
    if not isinstance(operand, Moments):
        return equation.bind(operand, *others)
    if not is_real(operand):
        return [Moments.certain(at_nodes(equation, [operand, *others])[0], operand)]
    zero = jax.tree.map(jnp.zeros_like, operand)
    return [pairwise(operand, zero, operand.dtype)]


def pairwise(a: Moments, b: Moments, dtype: Any, *, smallest: bool = False) -> Moments:
    """The larger (smaller) of two values, element by element."""
    both = Moments(
        jnp.stack([a.means, b.means], 1),
        jnp.stack([a.variance, b.variance]),
        a.nodes,
        jnp.stack([a.drift, b.drift]) if a.nodes.drifts else None,
    )
    found = largest(both, (0,), dtype, smallest=smallest)
    return _first(found)


def _first(found: Moments) -> Moments:
    """The only element along the axis in front."""
    return found.through(lambda v: v[0])


def maximum(equation: Equation, operand: Any) -> list[Any]:
    """Over whole axes, or over windows."""
    falls, dtype = equation.facts.falls, equation.aval.dtype
    if equation.primitive.name in pooling.POOLS:
        places, known = _windows(equation, operand, falls)
        found = largest(places, (0,), dtype, smallest=falls, known=known)
        return [_first(found)]
    axes = tuple(equation.params["axes"])
    found = largest(operand, axes, dtype, smallest=falls)
    return [found.through(lambda v: v.reshape(equation.aval.shape))]


def _windows(equation: Equation, operand: Moments, falls: bool) -> tuple[Moments, Any]:
    """The elements of each window along a new axis in front, and where there are any."""

    def elements(array: Any, outside: float) -> Any:
        return jnp.stack(pooling.window_elements(equation, array, outside))

    outside = jnp.inf if falls else -jnp.inf
    means = jax.vmap(lambda v: elements(v, outside))(operand.means)
    known = elements(jnp.ones(operand.shape, operand.dtype), 0)
    drift = None if operand.drift is None else elements(operand.drift, 0)
    return Moments(means, elements(operand.variance, 0), operand.nodes, drift), known


def softmax(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """p_k of the means; V_i ← p̄_i² (V_i (1 - 2p̄_i) + Σ_j p̄_j² V_j)."""
    operand = settled(operand)
    if not isinstance(operand, Moments):
        return equation.bind(operand, *others)
    nodes, axes = operand.nodes, tuple(equation.params["axes"])
    others = tuple(map(settled, others))  # what is frozen

    def forward(active: Any, others: Any) -> Any:
        means, variance, drift = active
        (shares,) = at_nodes(equation, [Moments(means, None, nodes), *others])
        mean = nodes.average(shares)
        spread = mean * mean * _contrast(mean, variance, axes)
        spread = spread.astype(shares.dtype)
        zeros = None if drift is None else jnp.zeros_like(spread)
        return (shares, spread, zeros), (shares, mean)

    def backward(saved: Any, cotangents: Any) -> Any:
        shares, mean = saved
        of_means, *of_variances = cotangents
        inside = [a + 1 for a in axes]
        centred = of_means - jnp.sum(shares * of_means, inside, keepdims=True)
        back = (
            None
            if of is None
            else _contrast(mean, mean * mean * of, axes, back=True).astype(operand.variance.dtype)
            for of in of_variances
        )
        return (shares * centred).astype(operand.dtype), *back

    active = operand.means, operand.variance, operand.drift
    found_means, spread, drift = with_backward(forward, backward)(active, list(others))
    return [Moments(found_means, spread, nodes, drift)]


def _contrast(share: Any, array: Any, axes: Axes, back: bool = False) -> Any:
    """V_i (1 - 2p_i) + Σ_j p_j² V_j, the variance of x_i - Σ_j p_j x_j; or its transpose."""
    own = (1 - 2 * share) * array
    if back:
        return own + share * share * jnp.sum(array, axes, keepdims=True)
    return own + jnp.sum(share * share * array, axes, keepdims=True)


def logsumexp(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """The smooth maximum whose scale is 1 without variance."""
    operand = settled(operand)
    if not isinstance(operand, Moments):
        return equation.bind(operand, *others)
    if equation.params.get("weighted"):
        operand = _weighted(operand, others[0])
    found = largest(operand, tuple(equation.params["axes"]), equation.aval.dtype, floor=1.0)
    return [found.through(lambda v: v.reshape(equation.aval.shape))]


def _weighted(operand: Moments, weight: Any) -> Moments:
    """The values with the logarithms of their weights added."""
    seen = weight > 0
    shift = jnp.where(seen, jnp.log(jnp.where(seen, weight, 1)), -jnp.inf).astype(operand.dtype)
    means = jnp.where(seen, operand.means, 0) + shift
    drift = None if operand.drift is None else jnp.where(seen, operand.drift, 0)
    return Moments(means, jnp.where(seen, operand.variance, 0), operand.nodes, drift)


def log_softmax(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """x less its logsumexp; V_i ← V_i (1 - 2p̄_i) + Σ_j p̄_j² V_j."""
    operand = settled(operand)
    if not isinstance(operand, Moments):
        return equation.bind(operand, *others)
    axes = tuple(equation.params["axes"])
    subtracted = largest(operand, axes, equation.aval.dtype, floor=1.0)
    shares = jnp.exp(operand.means - subtracted.means)
    variance, drift = (
        None if part is None else contrasted(operand.nodes, shares, part, axes)
        for part in (operand.variance, operand.drift)
    )
    return [Moments(operand.means - subtracted.means, variance, operand.nodes, drift)]


def contrasted(nodes: Nodes, shares: Any, variance: Any, axes: Axes) -> Any:
    """`_contrast` with shares that count as constants."""

    def forward(active: Any, _: Any) -> Any:
        variance, shares = active
        mean = nodes.average(shares)
        return _contrast(mean, variance, axes), mean

    def backward(mean: Any, cotangent: Any) -> Any:
        return _contrast(mean, cotangent, axes, back=True), None

    return with_backward(forward, backward)((variance, shares), None)
