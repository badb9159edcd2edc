r"""The moments of a scalar function of one normal value: G = E g(m + √v ε) and its derivatives.

∂G/∂m = a = E g′ and, by the heat equation, ∂G/∂v = b = ½ E g″.  The expectations are taken over five
points m, m ± ε_j √v, exact for polynomials of degree nine, by divided differences of g: they keep
their digits as v → 0.  Of a function on a part of the line (√, log, 1/x) the logarithm of the value
is taken as normal, with the value's own mean and variance, so that no point leaves the domain; of
powers the expectations are then exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import root as safe_root
from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.rules.chain import slope
from jaxplain.surrogate.values.moments import Function, Moments
from jaxplain.surrogate.values.region import Expression

# Gauss-Hermite, of the standard normal: nodes beside 0, and their weights.
_POINTS = np.array([1.3556261799742657, 2.8569700138728056])
_WEIGHTS = np.array([0.22207592200561263, 0.011257411327720691])
_FIRST = 2 * _WEIGHTS * _POINTS**2  # of central differences in E g′ = E[ε g]/s
_SECOND = _WEIGHTS * _POINTS**2 * (_POINTS**2 - 1) / 2  # of second differences in ½ E g″
_ZEROTH = _WEIGHTS * _POINTS**2  # of second differences in (E g - g(m))/s²


class Statistics(NamedTuple):
    """G, a = ∂G/∂m, b = ∂G/∂v, and the slope whose square takes the variance on; at each node."""

    mean: Any
    of_mean: Any
    of_variance: Any
    slope: Any


def unary(expression: Expression, root: Moments, output: Function) -> Moments:
    """m ← G, V ← ā² V with ā the mean slope over nodes."""
    nodes, limited = root.nodes, any(map(has_a_domain, expression.nodes))
    statistics = on_a_domain if limited else on_the_line

    def forward(active: Any, constants: Any) -> Any:
        means, variance = active
        found = statistics(expression, constants, means, nodes.spread(variance))
        mean_slope = nodes.average(found.slope)
        dtype = output.dtype
        results = found.mean.astype(dtype), (mean_slope * mean_slope * variance).astype(dtype)
        return results, (found.of_mean, found.of_variance, mean_slope)

    def backward(saved: Any, cotangents: Any) -> Any:
        of_mean, of_variance, mean_slope = saved
        of_means, of_shared = cotangents
        direct = nodes.gathered(_heard(of_variance, of_means))
        shared = direct + _heard(mean_slope * mean_slope, of_shared)
        return (
            _heard(of_mean, of_means).astype(root.dtype),
            shared.astype(root.variance.dtype),
        )

    return Moments(
        *with_backward(forward, backward)((root.means, root.variance), expression.constants),
        nodes,
    )


def _heard(slope: Any, cotangent: Any) -> Any:
    """Their product; what nobody listens to may have any slope."""
    return jnp.where(cotangent == 0, 0, slope * cotangent)


def has_a_domain(node: Any) -> bool:
    """Whether an equation is defined, or smooth, on a part of the line only."""
    name = node.equation.primitive.name
    if name == "div":
        return isinstance(node.operands[1], Moments | Function)
    negative = name == "integer_pow" and node.equation.params["y"] < 0
    return node.equation.facts.domain or negative


def on_the_line(expression: Expression, constants: Any, means: Any, variances: Any) -> Statistics:
    """Five points around the mean."""
    means, variances = _widened(means), _widened(variances)
    steps = _column(_POINTS, means) * safe_root(variances)
    rising, falling = _slopes(expression, constants, means, means + steps, means - steps)
    first, second = _differences(rising, falling, steps)
    (at_mean,) = _values(expression, constants, means[None])
    of_mean = _sum(_FIRST, first)
    return Statistics(
        at_mean + variances * _sum(_ZEROTH, second), of_mean, _sum(_SECOND, second), of_mean
    )


def on_a_domain(expression: Expression, constants: Any, means: Any, variances: Any) -> Statistics:
    """Five points around the logarithm's mean; the node's own derivative where that leads outside.

    With ρ = v/m², σ² = log(1 + ρ) and μ = log |m| - σ²/2 the value ±exp(μ + σ ε) has mean m and
    variance v.  A = E h′ and B = ½ E h″ of h(y) = g(±exp y) make ∂G/∂m and ∂G/∂v.
    """
    means, variances = _widened(means), _widened(variances)
    sign = jnp.where(means < 0, -1, 1).astype(means.dtype)
    size = jnp.where(means == 0, 1, jnp.abs(means))
    ratio = variances / size / size
    spread = jnp.log1p(ratio)
    middle = jnp.log(size) - spread / 2
    steps = _column(_POINTS, means) * safe_root(spread)
    high, low = middle + steps, middle - steps

    def point(y: Any) -> Any:
        return sign * jnp.exp(y)

    centre = point(middle)
    rising, falling = _slopes(expression, constants, centre, point(high), point(low))
    # From slopes in the value to slopes in its logarithm.
    rising *= sign * divided_difference.exp(high, middle, jnp.exp(high), jnp.exp(middle))
    falling *= sign * divided_difference.exp(middle, low, jnp.exp(middle), jnp.exp(low))
    first, second = _differences(rising, falling, steps)
    of_log, of_spread = _sum(_FIRST, first), _sum(_SECOND, second)
    at_mean, at_centre = _values(expression, constants, jnp.stack([means, centre]))
    turn = 2 * ratio / (size * (1 + ratio))  # -∂σ²/∂m
    found = Statistics(
        at_centre + spread * _sum(_ZEROTH, second),
        sign * (of_log * (1 / size + turn / 2) - of_spread * turn),
        (of_spread - of_log / 2) / (size * size + variances),
        of_log * safe_root(jnp.where(ratio > 0, spread / jnp.where(ratio > 0, ratio, 1), 1)) / size,
    )
    inside = (means != 0) & _all_finite(found)
    own = _own_slope(expression, constants, means)
    rest = Statistics(at_mean, own, jnp.zeros_like(own), own)
    return Statistics(*(jnp.where(inside, f, r) for f, r in zip(found, rest, strict=True)))


def _all_finite(found: Statistics) -> Any:
    finite = [jnp.isfinite(array) for array in found]
    return finite[0] & finite[1] & finite[2] & finite[3]


def _widened(array: Any) -> Any:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _column(numbers: Any, like: Any) -> Any:
    """Numbers along a new axis in front."""
    return jnp.asarray(numbers, like.dtype).reshape(-1, *(1,) * like.ndim)


def _sum(weights: Any, arrays: Any) -> Any:
    return jnp.tensordot(jnp.asarray(weights, arrays.dtype), arrays, 1)


def _values(expression: Expression, constants: Any, points: Any) -> Any:
    """g at points (several, nodes, *shape)."""
    evaluate = lambda point: expression.evaluate([point], constants)
    return _widened(jax.vmap(jax.vmap(evaluate))(points.astype(expression.roots[0].dtype)))


def _slopes(expression: Expression, constants: Any, centre: Any, high: Any, low: Any) -> Any:
    """The slopes from the centre up to the high points and from the low ones up to the centre."""
    centres = jnp.broadcast_to(centre, high.shape)
    ends, starts = jnp.stack([high, centres]), jnp.stack([centres, low])
    dtype = expression.roots[0].dtype
    between = lambda end, start: slope(expression, end, start, constants)
    for _ in range(3):
        between = jax.vmap(between)
    return _widened(between(ends.astype(dtype), starts.astype(dtype)))


def _own_slope(expression: Expression, constants: Any, means: Any) -> Any:
    means = means.astype(expression.roots[0].dtype)
    return _widened(jax.vmap(lambda m: slope(expression, m, m, constants))(means))


def _differences(rising: Any, falling: Any, steps: Any) -> tuple[Any, Any]:
    """Central first differences and second differences."""
    still = steps == 0
    second = (rising - falling) / jnp.where(still, 1, steps)
    return (rising + falling) / 2, jnp.where(still, 0, second)
