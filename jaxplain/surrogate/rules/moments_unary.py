r"""The moments of a scalar function of one normal value: G = E g(m + √v ε) and its derivatives.

∂G/∂m = a = E g′ and, by the heat equation, ∂G/∂v = b = ½ E g″ = ½ E[ε g′]/√v.  The expectations are
taken over the five Gauss-Hermite points of g and of its derivative.  Of a function with kinks they
are divided differences of g between these points instead, to which every kink counts.  Of a
function on a part of the line (√, log, 1/x) the logarithm of the value is taken as normal, with the
value's own mean and variance, so that no point leaves the domain; of powers the expectations are
then those of the lognormal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import root as square_root
from jaxplain._numerics.trees import wide
from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.rules.chain import slope
from jaxplain.surrogate.values.moments import Function, Moments
from jaxplain.surrogate.values.pair import is_real
from jaxplain.surrogate.values.region import Expression

# Gauss-Hermite, of the standard normal: the points on either side of 0, and their weights.
_POINTS = np.array([1.3556261799742657, 2.8569700138728056])
_WEIGHTS = np.array([0.22207592200561263, 0.011257411327720691])
_ALL_POINTS = np.concatenate([-_POINTS[::-1], [0], _POINTS])
_ALL_WEIGHTS = np.concatenate([_WEIGHTS[::-1], [1 - 2 * _WEIGHTS.sum()], _WEIGHTS])
_MASK = 1e3  # times the others: values that differ so much between points are those of a mask


class Statistics(NamedTuple):
    """G, a = ∂G/∂m, b = ∂G/∂v, and the slope whose square takes the variance on; at each node."""

    mean: Any
    of_mean: Any
    of_variance: Any
    slope: Any


def unary(expression: Expression, root: Moments, output: Function) -> Moments:
    """m ← G, V ← ā² V with ā the mean slope over nodes."""
    nodes, statistics = root.nodes, _statistics(expression)

    def forward(active: Any, constants: Any) -> Any:
        means, variance, drift = active
        found = statistics(expression, constants, wide(means), nodes.spread(wide(variance)))
        mean_slope = nodes.average(found.slope)
        dtype = output.dtype
        carried = (mean_slope * mean_slope * variance).astype(dtype)
        zeros = None if drift is None else jnp.zeros_like(carried)
        curved = None if drift is None else 4 * mean_slope * variance  # of ∂a/∂m = 2b
        saved = found.of_mean, found.of_variance, mean_slope, curved
        return (found.mean.astype(dtype), carried, zeros), saved

    def backward(saved: Any, cotangents: Any) -> Any:
        of_mean, of_variance, mean_slope, curved = saved
        of_means, of_shared, of_drift = cotangents
        heard, squares = _heard(of_variance, of_means), mean_slope * mean_slope
        means = _heard(of_mean, of_means)
        shared = nodes.gathered(heard) + _heard(squares, of_shared)
        if of_drift is not None:
            means += nodes.scattered(_heard(curved, of_drift)) * of_variance
            of_drift = nodes.gathered_drift(heard) + _heard(squares, of_drift)
            of_drift = of_drift.astype(root.variance.dtype)
        return means.astype(root.dtype), shared.astype(root.variance.dtype), of_drift

    active = root.means, root.variance, root.drift
    means, variance, drift = with_backward(forward, backward)(active, expression.constants)
    return Moments(means, variance, nodes, drift)


def _heard(slope: Any, cotangent: Any) -> Any:
    """Their product; what nobody listens to may have any slope."""
    return jnp.where(cotangent == 0, 0, slope * cotangent)


def _statistics(expression: Expression) -> Callable[..., Statistics]:
    """The way to take them: by what the function is made of."""
    limited = [node for node in expression.nodes if _is_limited(node)]
    if any(node.operands[-1 if _divides(node) else 0].linear for node in limited):
        return functools.partial(_where_finite, on_a_domain)
    kinked = any(node.equation.facts.kinked or not is_real(node) for node in expression.nodes)
    found = by_differences if kinked else by_derivatives
    if is_gated(expression):
        return functools.partial(_where_seen, found)
    return functools.partial(_where_finite, found) if limited else found


def is_gated(expression: Expression) -> bool:
    """Whether the value itself decides between cases."""
    return not all(map(is_real, expression.nodes))


def _is_limited(node: Any) -> bool:
    """Whether an equation is defined, or smooth, on a part of the line only, of what depends on x.

    Where that is affine in the value, the value has this domain; else, as in log(1 + exp x), it may
    well never leave it.
    """
    if _divides(node):
        return isinstance(node.operands[1], Moments | Function)
    name = node.equation.primitive.name
    negative = name == "integer_pow" and node.equation.params["y"] < 0
    limited = node.equation.facts.domain or negative
    return limited and isinstance(node.operands[0], Moments | Function)


def _divides(node: Any) -> bool:
    return node.equation.primitive.name == "div"


def _where_finite(
    statistics: Callable[..., Statistics],
    expression: Expression,
    constants: Any,
    means: Any,
    variances: Any,
) -> Statistics:
    """The node's own value and derivative where a point left the domain."""
    found = statistics(expression, constants, means, variances)
    inside = functools.reduce(jnp.logical_and, map(jnp.isfinite, found))
    return _where(inside, found, expression, constants, means)


def _where_seen(
    statistics: Callable[..., Statistics],
    expression: Expression,
    constants: Any,
    means: Any,
    variances: Any,
) -> Statistics:
    """The node's own where some points are a mask's and others are not: it hides or it does not."""
    steps = _column(_ALL_POINTS, means) * square_root(variances)[None]
    values = jnp.abs(jax.vmap(_at_nodes(expression, constants))(means[None] + steps))
    seen = jnp.max(values, 0) <= _MASK * (1 + jnp.min(values, 0))
    found = _where_finite(statistics, expression, constants, means, variances)
    return _where(seen, found, expression, constants, means)


def _where(
    holds: Any, found: Statistics, expression: Expression, constants: Any, means: Any
) -> Statistics:
    """What was found where that holds, else the node's own value and derivative."""
    at_mean, own = _with_derivative(_at_nodes(expression, constants))(means)
    rest = Statistics(at_mean, own, jnp.zeros_like(own), own)
    return Statistics(*(jnp.where(holds, f, r) for f, r in zip(found, rest, strict=True)))


def _points(function: Callable[[Any], Any], middle: Any, deviation: Any) -> tuple[Any, Any, Any]:
    """E g, E g′ and ½ E g″ of a function of points that gives values and derivatives.

    These stand apart, or XLA would compute all of them again for each of the sums.
    """
    points = middle[None] + _column(_ALL_POINTS, middle) * deviation[None]
    values, derivatives = map(compat.apart, function(points))
    curve = _sum(_ALL_WEIGHTS * _ALL_POINTS / 2, derivatives)
    still = deviation == 0
    return (
        _sum(_ALL_WEIGHTS, values),
        _sum(_ALL_WEIGHTS, derivatives),
        jnp.where(still, 0, curve / jnp.where(still, 1, deviation)),
    )


def by_derivatives(
    expression: Expression, constants: Any, means: Any, variances: Any
) -> Statistics:
    """Of a smooth function."""
    function = _with_derivative(jax.vmap(_at_nodes(expression, constants)))
    value, derivative, curve = _points(function, means, square_root(variances))
    return Statistics(value, derivative, curve, derivative)


def on_a_domain(expression: Expression, constants: Any, means: Any, variances: Any) -> Statistics:
    """Five points of the logarithm; no number at 0, which has none.

    With ρ = v/m², σ² = log(1 + ρ) and μ = log |m| - σ²/2 the value ±exp(μ + σ ε) has mean m and
    variance v.  A = E h′ and B = ½ E h″ of h(y) = g(±exp y) make ∂G/∂m and ∂G/∂v.
    """
    evaluate = _at_nodes(expression, constants)
    sign = jnp.where(means < 0, -1, 1).astype(means.dtype)
    size = jnp.where(means == 0, 1, jnp.abs(means))
    ratio = variances / size / size
    spread = jnp.log1p(ratio)
    of_logarithm = _with_derivative(jax.vmap(lambda y: evaluate(sign * jnp.exp(y))))
    value, slope, curve = _points(of_logarithm, jnp.log(size) - spread / 2, square_root(spread))
    turn = 2 * ratio / (size * (1 + ratio))  # -∂σ²/∂m
    narrowed = jnp.where(ratio > 0, spread / jnp.where(ratio > 0, ratio, 1), 1)
    found = Statistics(
        value,
        slope * (1 / size + turn / 2) - curve * turn,
        (curve - slope / 2) / (size * size + variances),
        slope * square_root(narrowed) / size,
    )
    # As a derivative by the value: sign · exp y is.
    found = found._replace(of_mean=sign * found.of_mean, slope=sign * found.slope)
    return Statistics(*(jnp.where(means == 0, jnp.nan, array) for array in found))


def by_differences(
    expression: Expression, constants: Any, means: Any, variances: Any
) -> Statistics:
    """Of a function with kinks: by its slopes from the mean to each point.

    Central differences weigh E[ε g]/s, and second differences ½ E g″ and E g - g(m).
    """
    zeroth = _WEIGHTS * _POINTS**2
    steps = _column(_POINTS, means) * square_root(variances)[None]
    high, low = means[None] + steps, means[None] - steps
    rising, falling = _slopes(expression, constants, means[None], high, low)
    still = steps == 0
    second = jnp.where(still, 0, (rising - falling) / jnp.where(still, 1, steps))
    of_mean = _sum(zeroth, rising + falling)
    return Statistics(
        _at_nodes(expression, constants)(means) + variances * _sum(zeroth, second),
        of_mean,
        _sum(zeroth * (_POINTS**2 - 1) / 2, second),
        of_mean,
    )


def _slopes(expression: Expression, constants: Any, centre: Any, high: Any, low: Any) -> Any:
    """The slopes from the centre up to the high points and from the low ones up to the centre."""
    centres = jnp.broadcast_to(centre, high.shape)
    ends, starts = jnp.stack([high, centres]), jnp.stack([centres, low])
    dtype = expression.roots[0].dtype
    between = lambda end, start: slope(expression, end, start, constants)
    for _ in range(3):
        between = jax.vmap(between)
    return wide(between(ends.astype(dtype), starts.astype(dtype)))


def _at_nodes(expression: Expression, constants: Any) -> Callable[[Any], Any]:
    """The function at each node, in float32 at least."""
    at_node = jax.vmap(lambda array: expression.evaluate([array], constants))
    return lambda array: wide(at_node(array.astype(expression.roots[0].dtype)))


def _with_derivative(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda array: jax.jvp(function, (array,), (jnp.ones_like(array),))


def _column(numbers: Any, like: Any) -> Any:
    """Numbers along a new axis in front."""
    return jnp.asarray(numbers, like.dtype).reshape(-1, *(1,) * like.ndim)


def _sum(weights: Any, arrays: Any) -> Any:
    return jnp.sum(_column(weights, arrays[0]) * arrays, 0)
