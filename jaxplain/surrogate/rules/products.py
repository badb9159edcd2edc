"""Products and quotients: Shapley values of the factors, but where those would cancel.

Of the two orders in which c and s change,

  Δ(cs) = s₀ Δc + c Δs = s Δc + c₀ Δs,

each counts one half (the Shapley value), unless one is the difference of far larger terms than
the other: the scale of a norm at a zero reference has s₀ = 1/√ε, and s₀ Δc + c Δs are two terms of
that size which cancel.  How far is told by the terms' own sizes, element by element, hence whatever
the program calls a norm.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import wide
from jaxplain._quadrature import gauss_legendre
from jaxplain.surrogate.backward import scaled, with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.chain import rescaled
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import on_settled
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Pair, Paired, active_roots, actives, is_real, reference
from jaxplain.surrogate.values.region import Region, Waiting

# Up to the first ratio of the two orders' terms each counts one half, from the second on only the
# smaller one does. A norm at a zero reference has the ratio 2 s₀/s: 60 for ε = 1e-3 and s = 1.
_FAR, _TOO_FAR = 30.0, 36.0
_MOST_NODES = 32  # of the quadrature: exact for 64 factors


@dataclasses.dataclass(frozen=True, eq=False)
class Product(Waiting):
    """A product of several roots that waits for further factors."""

    equation: Equation
    factors: tuple[Any, ...]

    @functools.cached_property
    def reference(self) -> Any:
        return functools.reduce(self.equation.function, map(reference, self.factors))

    @functools.cached_property
    def roots(self) -> tuple[Any, ...]:
        return active_roots(self.factors)

    @property
    def linear(self) -> bool:
        return False

    @property
    def computed(self) -> Pair | None:
        """The pair, if it was asked for already."""
        return self.__dict__.get("_settled")

    def settle(self) -> Any:
        return self._settled

    @functools.cached_property
    def _settled(self) -> Pair:
        factors = list(map(settled, self.factors))
        multiply = self.equation.function

        weigh = _weigher(self.factors)

        def valued_slopes(values: Any, references: Any) -> tuple[Any, list[Any]]:
            return functools.reduce(multiply, values), weigh(values, references)

        result = scaled(valued_slopes, tame=_is_tame(self.factors))(
            [factor.value for factor in factors], [factor.reference for factor in factors]
        )
        return Pair(result, self.reference, _joint_note(factors))


def _joint_note(factors: Sequence[Any]) -> str:
    return "sum" if all(factor.note for factor in factors) else ""


def times(theta: float | None, equation: Equation, a: Any, b: Any) -> Any:
    """a·b of several roots, gathered with the factors that wait; a norm's by its own θ, if any."""
    if theta is not None and [o.note == "scale" for o in actives([a, b])] in _ONE_SCALE:
        return _of_norm(theta, equation, a, b)
    factors: dict[int, Any] = {}
    constant = None
    for operand in (a, b):
        if not isinstance(operand, Paired):
            constant = operand
            continue
        for factor in operand.factors if isinstance(operand, Product) else (operand,):
            factor = factor if len(factor.roots) == 1 else settled(factor)
            root = id(factor.roots[0])
            known = factors.get(root)
            together = Region(equation, (known, factor), rescaled)
            factors[root] = factor if known is None else together
    if constant is not None:
        first = next(iter(factors))
        factors[first] = Region(equation, (factors[first], constant), rescaled)
    if len(factors) == 1:
        return next(iter(factors.values()))
    return Product(equation, tuple(factors.values()))


_ONE_SCALE = ([True, False], [False, True])


def _of_norm(theta: float, equation: Equation, a: Any, b: Any) -> Any:
    """Δ(cs) = (θs + (1-θ)s₀) Δc + ((1-θ)c + θc₀) Δs of a norm's scale s."""
    scale_first = a.note == "scale"
    a, b = settled(a), settled(b)

    def valued_slopes(values: Any, references: Any) -> tuple[Any, list[Any]]:
        (v, w), (v0, w0) = values, references
        if scale_first:
            return equation.function(v, w), [_mixed(1 - theta, w, w0), _mixed(theta, v, v0)]
        return equation.function(v, w), [_mixed(theta, w, w0), _mixed(1 - theta, v, v0)]

    references = [a.reference, b.reference]
    result = scaled(valued_slopes)([a.value, b.value], references)
    return Pair(result, equation.function(*references), _joint_note([a, b]))


def _mixed(theta: float, v: Any, v0: Any) -> Any:
    return theta * v + (1 - theta) * v0


def quotient(theta: float | None, equation: Equation, a: Any, b: Any) -> Any:
    """a/b as a · (1/b)."""
    a, b = settled(a), settled(b)
    if len(actives([a, b])) < 2:
        only = isinstance(b, Paired)
        return Region(equation, (a, b), rescaled) if only else linear(equation, a, b)[0]

    by_theta = theta if b.note else None
    weigh = _weigher([a, b])

    def valued_slopes(values: Any, references: Any) -> tuple[Any, list[Any]]:
        (a, b), (a0, b0) = values, references
        inverse, inverse0 = 1 / b, 1 / b0
        if by_theta is None:
            of_a, of_inverse = weigh([a, inverse], [a0, inverse0])
        else:
            of_a = _mixed(by_theta, inverse, inverse0)
            of_inverse = _mixed(1 - by_theta, a, a0)
        return equation.function(a, b), [of_a, -of_inverse / b / b0]

    references = [a.reference, b.reference]
    result = scaled(valued_slopes)([a.value, b.value], references)
    return Pair(result, equation.function(*references), _joint_note([a, b]))


def _is_tame(factors: Sequence[Any]) -> bool:
    """Whether the factors' slopes, each other's values, are finite: not those of masks."""
    return any(factor.repeated or _is_bounded(factor) for factor in factors)


def _is_bounded(factor: Any) -> bool:
    return isinstance(factor, Region) and factor.bounded


def _weigher(factors: Sequence[Any]) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    """What gives the slopes of these factors."""
    if len(factors) != 2:
        return product_slopes

    def weigh(values: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        return _ordered(values, references, pair_haste(factors, values, references))

    return weigh


def pair_haste(
    factors: Sequence[Any], values: Sequence[Any], references: Sequence[Any]
) -> Any:
    """The haste of the first of two factors.

    With a factor between -1 and 1 no term of either order is larger than the other factor itself:
    each order counts one half. A factor that is one number for many (a norm's scale) has one order
    for all of them, by the sizes of what it multiplies.
    """
    if any(map(_is_bounded, factors)):
        return jnp.zeros(())
    axes = max((factor.repeated for factor in factors), key=len)
    if not axes:
        return own_haste(values, references, 0)
    size = functools.partial(total_size, axes=axes, keepdims=True)
    sizes, sizes0 = list(map(size, values)), list(map(size, references))
    moves = [size + size0 for size, size0 in zip(sizes, sizes0, strict=True)]  # at most
    return haste(sizes, sizes0, moves, 0)


def total_size(array: Any, axes: Sequence[int], keepdims: bool = False) -> Any:
    """Σ|v| along the axes: what sizes of one factor are compared by, whatever their number."""
    return jnp.sum(jnp.abs(wide(array)), axes, keepdims=keepdims)


def _ordered(values: Sequence[Any], references: Sequence[Any], haste: Any) -> list[Any]:
    """The slopes of two factors, of which the first is in this haste and the second in the other.

    Half of each order of change, for no haste: the midpoint. With haste 1 the first factor meets
    the other's reference, and the other its value.
    """
    (v, w), (v0, w0) = values, references
    late = (1 - haste) / 2
    return [_lerp(w, w0, late), _lerp(v, v0, 1 - late)]


def product_slopes(values: Sequence[Any], references: Sequence[Any]) -> list[Any]:
    """∫₀¹ Π_{j≠i} v_j(t) T_i'(t) dt along the path v_j(t) = v0_j + T_j(t) Δ_j.

    T(t) = t gives Shapley values.  A factor that had better change before (after) the others does
    so in the first (second) half: complete for any T, and exact by a quadrature for each half.
    """
    if len(values) == 2:
        return _ordered(values, references, own_haste(values, references, 0))
    hastes = [own_haste(values, references, i) for i in range(len(values))]
    points, weights = gauss_legendre(math.ceil(len(values) / 2))
    total = [jnp.zeros_like(v) for v in values]
    for late in (False, True):
        for t, weight in zip(points, weights, strict=True):
            at = [
                _lerp(v, v0, _time(t, h, late))
                for v, v0, h in zip(values, references, hastes, strict=True)
            ]
            for i, h in enumerate(hastes):
                others = functools.reduce(jnp.multiply, at[:i] + at[i + 1 :])
                speed = (1 - h if late else 1 + h).astype(others.dtype)
                total[i] = total[i] + weight / 2 * speed * others
    return total


@on_settled
def reduced_product(equation: Equation, operand: Any) -> list[Any]:
    """The product of an array's elements: as that of so many factors."""
    if not is_real(operand):
        return path_integral(equation, operand)
    axes = equation.params["axes"]

    def forward(x: Any, x0: Any) -> tuple[Any, Any]:
        return equation.function(x), array_slopes(x, x0, axes)

    def backward(slopes: Any, cotangent: Any) -> Any:
        return slopes * jnp.expand_dims(cotangent, axes)

    reference = operand.reference
    return [Pair(with_backward(forward, backward)(operand.value, reference),
                 equation.function(reference), "sum")]  # fmt: skip


def array_slopes(x: Any, x0: Any, axes: Sequence[int]) -> Any:
    """`product_slopes` of an array's elements along these axes.

    Of more factors than the quadrature is exact for, what it misses goes to them by their Δ.
    """
    front = range(len(axes))
    moved = [jnp.moveaxis(wide(end), axes, front) for end in (x, x0)]
    shape, count = moved[0].shape, math.prod(moved[0].shape[: len(axes)])
    v, v0 = (end.reshape(count, *shape[len(axes) :]) for end in moved)
    others, others0 = _all_but_each(v), _all_but_each(v0)
    sizes, sizes0 = ([jnp.abs(a), jnp.abs(b)] for a, b in ((v, others), (v0, others0)))
    h = haste(sizes, sizes0, [jnp.abs(v - v0), jnp.abs(others - others0)], 0)
    points, weights = map(jnp.asarray, gauss_legendre(min(math.ceil(count / 2), _MOST_NODES)))

    def add(total: Any, node: Any) -> tuple[Any, None]:
        t, weight = (number.astype(v.dtype) for number in node)
        for late in (False, True):
            speed = 1 - h if late else 1 + h
            total += weight / 2 * speed * _all_but_each(_lerp(v, v0, _time(t, h, late)))
        return total, None

    slopes = jax.lax.scan(add, jnp.zeros_like(v), (points, weights))[0]
    if count > 2 * _MOST_NODES:
        delta = v - v0
        missing = jnp.prod(v, 0) - jnp.prod(v0, 0) - jnp.sum(slopes * delta, 0)
        square = jnp.sum(delta * delta, 0)
        slopes += delta * (missing / jnp.where(square == 0, 1, square))
    return jnp.moveaxis(slopes.reshape(shape), front, axes).astype(x.dtype)


def _all_but_each(v: Any) -> Any:
    """Π_{j≠i} v_j along the first axis, without a division."""
    one = jnp.ones_like(v[:1])
    before = jnp.cumprod(jnp.concatenate([one, v[:-1]]), 0)
    after = jax.lax.cumprod(jnp.concatenate([v[1:], one]), 0, reverse=True)
    return before * after


def _time(t: Any, haste: Any, late: bool) -> Any:
    """T at a point t of the first or the second half."""
    return 1 - (1 - haste) * (1 - t) / 2 if late else (1 + haste) * t / 2


def _lerp(v: Any, v0: Any, share: Any) -> Any:
    share = share.astype(v.dtype)
    return (1 - share) * v0 + share * v  # exact at both ends


def meeting(w: Any, w0: Any, haste: Any) -> Any:
    """∫ w(t) T'(t) dt for the factor beside w, of two, that is in such a haste; w is in the other.

    Half of each order of change, for no haste: the midpoint.  With haste 1 it meets w0, with -1 w.
    """
    return _lerp(w, w0, (1 - haste) / 2)


def own_haste(values: Sequence[Any], references: Sequence[Any], i: int) -> Any:
    """The haste of factor i among all the others together."""
    others = functools.reduce(jnp.multiply, [*values[:i], *values[i + 1 :]])
    others0 = functools.reduce(jnp.multiply, [*references[:i], *references[i + 1 :]])
    ends = [others, others0, values[i], references[i]]
    others, others0, v, v0 = map(wide, ends)
    sizes, sizes0 = [jnp.abs(v), jnp.abs(others)], [jnp.abs(v0), jnp.abs(others0)]
    return haste(sizes, sizes0, [jnp.abs(v - v0), jnp.abs(others - others0)], 0)


def haste(sizes: Sequence[Any], sizes0: Sequence[Any], moves: Sequence[Any], i: int) -> Any:
    """1 where factor i of two had better change first, -1 where last, 0 where both are alike."""
    first = sizes0[1 - i] * moves[i] + sizes[i] * moves[1 - i]
    last = sizes[1 - i] * moves[i] + sizes0[i] * moves[1 - i]
    share = _beyond(jnp.maximum(first, last), jnp.minimum(first, last))
    return jnp.where(last > first, share, -share)


def _beyond(large: Any, small: Any) -> Any:
    """0 up to a ratio of `_FAR`, 1 from `_TOO_FAR` on, and smooth between.

    By the inverse ratio, which never overflows; of two zeros there is none.
    """
    limits, one = jnp.finfo(large.dtype), jnp.ones_like(large)
    there = large > float(limits.tiny)
    inverse = jnp.minimum(small, float(limits.max)) / jnp.where(there, large, one)
    near, far = 1 / _FAR, 1 / _TOO_FAR
    u = (near - jnp.where(there, inverse, one)) / (near - far)
    u = jax.lax.clamp(np.zeros((), u.dtype), u, np.ones((), u.dtype))
    return u * u * (3 - 2 * u)
