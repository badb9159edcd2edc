"""Divided differences: the slope of a scalar function between its reference and its value.

For a chain of elementwise equations with one root x, each rule here takes the slopes (u - u0)/Δx
of an equation's operands to the slope (y - y0)/Δx of its output, as forward-mode differentiation
takes derivatives.  The closed forms stay exact as Δ → 0; what has none takes its quotient or its
mean derivative, element by element, whichever errs less by an estimate of both errors.  Hence
every rule is complete to the rounding of y: slope · Δx = y - y0.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import wide, wide_dtype
from jaxplain.surrogate.program import Equation

Slope = Any  # None: constant, or not a real number, so that nothing flows through it


@dataclasses.dataclass(frozen=True)
class Root:
    """What a chain begins with, at both ends."""

    value: Any
    reference: Any

    @functools.cached_property
    def delta(self) -> Any:
        """x - x0, where somebody asks: a closed form need not."""
        return change(self.value, self.reference)

    @functools.cached_property
    def one(self) -> Any:
        """Its own slope."""
        return jnp.ones_like(self.value, wide_dtype(self.value.dtype))

    @property
    def zero(self) -> Any:
        """The slope of what stands still."""
        return jnp.zeros_like(self.value, wide_dtype(self.value.dtype))


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation of a chain at both ends, with its operands' slopes."""

    equation: Equation
    values: Sequence[Any]
    references: Sequence[Any]
    slopes: Sequence[Slope]
    value: Any
    reference: Any
    root: Root

    @property
    def delta(self) -> Any:
        """x - x0 at the root."""
        return self.root.delta

    @property
    def secant(self) -> Any:
        """Δy/Δx; exact up to the rounding of y, and 0 where the root does not move."""
        return self.unless(False, 0)

    def unless(self, holds: Any, slope: Any) -> Any:
        """The slope where it holds, Δy/Δx elsewhere."""
        return _unless(holds, slope, self.value, self.reference, self.delta)

    @property
    def active(self) -> list[int]:
        """The operands that have a slope."""
        return [i for i, s in enumerate(self.slopes) if s is not None]


def slope(step: Step) -> Slope:
    """The slope of the equation's output, by the rule of its primitive."""
    if not jnp.issubdtype(step.equation.aval.dtype, jnp.floating):
        return None
    step = _widened(step)
    name = step.equation.primitive.name
    if name == "select_n":
        return _select(step)
    if any(
        not jnp.issubdtype(jnp.result_type(v), jnp.floating) and v is not v0
        for v, v0 in zip(step.values, step.references, strict=True)
    ):
        return step.secant
    if not step.active or name in _JUMPS:
        return step.secant
    if name in _STRUCTURAL:
        return _STRUCTURAL[name](step)
    if name in _UNARY and len(step.slopes) == 1:
        (u,), (u0,), (s,) = step.values, step.references, step.slopes
        own = _UNARY[name](u, u0, step.value, step.reference)
        return own if s is step.root.one else own * s
    return _smooth(step)


def finite(slope: Any, value: Any, reference: Any, delta: Any, way: Sequence[Any]) -> Any:
    """The slope of a whole chain; its quotient, or 0 at Δ = 0, where an equation's is not finite.

    That is where one of them overflows, or where it has no derivative: the root of a 0 that stays.
    An end that counts as infinite has its quotient too, by its stand-in. So has the chain where it
    loses its `way`, by an infinite number on it, to whose stand-in no closed form leads.
    """
    still = delta == 0
    known = jnp.isfinite(slope) & ordinary(value, reference) & (still | ordinary(*way))
    divisor = jnp.where(known | still, jnp.ones_like(delta), delta)
    quotient = change(value, reference).astype(delta.dtype) / divisor
    return jnp.where(known, slope, jnp.where(still, jnp.zeros_like(quotient), quotient))


NO_NUMBER = -1e4  # finite in every dtype, and hardly the other end: its Δ must not be 0


def seen(array: Any) -> Any:
    """The array with some number for what is none: what comes of it is one only if it is discarded.

    Whoever makes it and whoever discards it then mean the same change.
    """
    return jnp.where(jnp.isnan(array), jnp.full_like(array, NO_NUMBER), array)


def difference(u: Any, u0: Any) -> Any:
    """u - u0, where infinite numbers are replaced by their `stand_in`: equal ones differ by 0."""
    return stand_in(u) - stand_in(u0)


def change(x: Any, x0: Any) -> Any:
    """`difference` in float32 at least: a chain of half precision is rounded at its end.

    What counts as infinite does so in the numbers' own precision.
    """
    return wide(stand_in(x)) - wide(stand_in(x0))


# So large that no sum with it tells it from ∞, and so small that neither its inverse nor its
# square is 0 or ∞ in float32.
_INFINITE = 1e18


def stand_in(array: Any) -> Any:
    """The array with a finite number for ∞, and for the largest numbers, which masks use as such.

    A masked number that comes to be seen changes by ∞, and what it is then used for (a softmax, a
    maximum) by something finite: the multiplier is their quotient, and its product with the change
    what it was.
    """
    if jnp.issubdtype(jnp.result_type(array), jnp.complexfloating):
        clipped = jnp.sign(array) * infinite(array)
    else:
        most = np.asarray(infinite(array), jnp.result_type(array))
        clipped = jax.lax.clamp(-most, array, most)
    return jnp.where(jnp.abs(array) <= largest(array), array, clipped)


def infinite(array: Any) -> float:
    """The stand-in for ∞, of the sign that it has."""
    return min(_INFINITE, largest(array) / 2)


def ordinary(*arrays: Any) -> Any:
    """Where none of them counts as infinite, nor is nan; by the largest of each dtype."""
    alike: dict[Any, Any] = {}
    for array in arrays:
        size, dtype = jnp.abs(array), jnp.result_type(array)
        alike[dtype] = jnp.maximum(alike[dtype], size) if dtype in alike else size
    return functools.reduce(operator.and_, (size <= largest(size) for size in alike.values()))


def largest(array: Any) -> float:
    """What is larger counts as infinite; of float16, whose numbers go no further, ∞ alone."""
    most = float(jnp.finfo(jnp.result_type(array)).max)
    return most / 4 if most > _INFINITE else most


def _unless(holds: Any, slope: Any, y: Any, y0: Any, delta: Any) -> Any:
    """The slope where it holds, else (y - y0)/Δ, that is 0 where Δ is.

    What is not taken is not divided either: 0 times an overflow would be no gradient.
    """
    return quotient(y, y0, delta, jnp.where(holds, slope, 0), holds | (delta == 0))


def quotient(y: Any, y0: Any, delta: Any, near: Any, small: Any) -> Any:
    """(y - y0)/Δ, and `near` where Δ is `small`."""
    return jnp.where(small, near, difference(y, y0) / jnp.where(small, 1, delta))


def _widened(step: Step) -> Step:
    """Every real number in the slopes' dtype; what is the same at both ends stays one object."""
    kept: dict[int, Any] = {}

    def widen(value: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        dtype = wide_dtype(step.root.value.dtype)
        return kept.setdefault(id(value), jnp.asarray(value).astype(dtype))

    return dataclasses.replace(
        step,
        values=[widen(v) for v in step.values],
        references=[widen(v) for v in step.references],
        value=widen(step.value),
        reference=widen(step.reference),
    )


# Any smooth function: its quotient, or the mean of its derivative.

_POSITIONS = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15))  # three Gauss-Legendre nodes
_OUTER = 5 / 18  # the weight of the first and of the last
# By how many roundings the mean derivative may differ from Δy/Δ: by more where derivatives vary
# little, since an implementation of y may be off by more than they; but not by any number, since
# a sampler's derivative is not its own (`random_gamma`).
_TRUSTED, _STEADY = 8, 0.25


def _smooth(step: Step) -> Any:
    """Per unit of the operand where only one moves: rounding of it then is no error of its own."""
    if len(step.active) > 1:
        return _chosen(step)
    (i,) = step.active
    root = Root(step.values[i], step.references[i])
    slopes = [root.one if j == i else None for j in range(len(step.slopes))]
    return _chosen(dataclasses.replace(step, slopes=slopes, root=root)) * step.slopes[i]


def _chosen(step: Step) -> Any:
    """Δy/Δ or ∫₀¹ of the derivative, by their errors.

    Of Δy that is its rounding, eps(|y| + |y0| + Σ|∂ᵢ|(|uᵢ| + |uᵢ0|)), since a y is rounded and as
    far off as if its operands had been.  Of three nodes' mean D it is at most r²|D| where r, the
    relative disagreement of mean and middle, is small: r is of order Δ², the error of Δ⁶.  A peak
    between nodes is not seen by them, but D then contradicts Δy by more than that was rounded.
    """
    low, middle, high = (_partials(step, t) for t in _POSITIONS)
    ends = [jnp.abs(step.values[i]) + jnp.abs(step.references[i]) for i in step.active]
    errors = [jnp.abs(p) * end for p, end in zip(middle, ends, strict=True)]
    rounding = _eps(step) * sum(errors, jnp.abs(step.value) + jnp.abs(step.reference))
    low, middle, high = (_along(step, partials) for partials in (low, middle, high))
    mean = middle + _OUTER * ((low - middle) + (high - middle))
    largest = jnp.maximum(jnp.maximum(jnp.abs(low), jnp.abs(high)), jnp.abs(middle))
    scale = jnp.where(largest == 0, 1, largest)
    bend = jnp.abs(mean - middle) / scale
    spread = jnp.maximum(jnp.abs(low - middle), jnp.abs(high - middle)) / scale
    moved = jnp.abs(step.delta)
    gap = jnp.abs(mean * step.delta - difference(step.value, step.reference))
    converged = bend * bend * largest * moved <= rounding
    agrees = jnp.maximum(spread, _STEADY) * gap <= _TRUSTED * rounding
    return step.unless((converged & agrees) | (moved == 0), mean)


def _eps(step: Step) -> float:
    """The rounding of the equation's own dtype, that the slopes' may exceed."""
    return float(jnp.finfo(step.equation.aval.dtype).eps)


def _partials(step: Step, position: float) -> list[Any]:
    """The derivative by each active operand, at a point of the segment.

    Reverse mode asks only those for one: some have none by others.
    """
    active = step.active

    def function(*moving: Any) -> Any:
        operands = list(step.values)
        for i, operand in zip(active, moving, strict=True):
            operands[i] = operand
        return step.equation.function(*operands)

    point = [_between(step.references[i], step.values[i], position) for i in active]
    y, pull = jax.vjp(function, *point)
    return list(pull(jnp.ones_like(y)))


def _between(u0: Any, u: Any, position: float) -> Any:
    return u0 + position * difference(u, u0)


def _along(step: Step, partials: Sequence[Any]) -> Any:
    """Σ ∂ᵢ sᵢ."""
    return sum(p * step.slopes[i] for i, p in zip(step.active, partials, strict=True))


# Sums, products and choices: rules on slopes.


def _mul(step: Step) -> Any:
    """Δ(uv) = ū Δv + v̄ Δu."""
    (u, v), (u0, v0), (su, sv) = step.values, step.references, step.slopes
    terms = []
    if su is not None:
        terms.append(su * (v if sv is None else (v + v0) / 2))
    if sv is not None:
        terms.append(sv * (u if su is None else (u + u0) / 2))
    return _total(step, terms)


def _div(step: Step) -> Any:
    """Δ(u/v) = ½(1/v + 1/v0) Δu - (u + u0)/(2 v v0) Δv."""
    (u, v), (u0, v0), (su, sv) = step.values, step.references, step.slopes
    terms = []
    if su is not None:
        terms.append(su / v if sv is None else su * (1 / v + 1 / v0) / 2)
    if sv is not None:
        terms.append(-sv * ((u if su is None else (u + u0) / 2) / v / v0))
    return _total(step, terms)


def _total(step: Step, terms: list[Any]) -> Any:
    """The terms' sum, or Δy/Δx where they are so large that it has fewer digits to lose.

    Near a pole, x/√(x² + ε) from 0 is the difference of two terms of size 1/√ε; far out, so are
    the terms of x e^-x, which is 0 at both ends.
    """
    total = sum(terms)
    if len(terms) < 2:
        return total
    lost = jnp.abs(step.delta) * sum(map(jnp.abs, terms))
    ends = jnp.abs(step.value) + jnp.abs(step.reference)
    return step.unless((step.delta == 0) | (ends >= lost / 4), total)


def _sum(step: Step, sign: int = 1) -> Any:
    su, sv = step.slopes
    if su is None:
        return sv if sign > 0 else -sv
    return su if sv is None else su + sign * sv


def _select(step: Step) -> Any:
    """The chosen case's slope where both ends choose the same one, the secant where they do not."""
    which, which0 = step.values[0], step.references[0]
    cases = [step.root.zero if s is None else s for s in step.slopes[1:]]
    if all(s is None for s in step.slopes[1:]) and which is which0:
        return None
    cases = [jnp.broadcast_to(s, step.root.one.shape) for s in cases]
    chosen = jax.lax.select_n(which, *cases)
    return chosen if which is which0 else step.unless(which == which0, chosen)


def _extremum(step: Step, sign: int) -> Any:
    """The winner's slope; of a tie that stays one their mean, as JAX's derivative has it.

    Where another wins than at the reference, Δy lies between both operands' changes.
    """
    (u, v), (u0, v0) = step.values, step.references
    su, sv = (step.root.zero if s is None else s for s in step.slopes)
    first, first0 = (u > v, u0 > v0) if sign > 0 else (u < v, u0 < v0)
    winner = jnp.where(first, su, sv)
    if not _in_relu(step.equation):
        winner = jnp.where((u == v) & (u0 == v0), (su + sv) / 2, winner)
    same = first == first0  # so it is where the root stands still
    change = step.value - step.reference  # where an end is infinite the bounds say
    secant = change / jnp.where(same, 1, step.delta)
    secant = jnp.clip(secant, jnp.minimum(su, sv), jnp.maximum(su, sv))  # beyond is rounding
    return jnp.where(same, winner, secant)


def _in_relu(equation: Equation) -> bool:
    """`jax.nn.relu` defines its derivative at 0 as 0."""
    return any(call.params.get("name") == "relu" for call in equation.origin)


def _clamp(step: Step) -> Any:
    """The slope of what is chosen at both ends; the quotient where that is not the same."""
    slopes = [step.root.zero if s is None else s for s in step.slopes]
    which, which0 = (
        jnp.where(u < low, 0, jnp.where(u > high, 2, 1))
        for low, u, high in (step.values, step.references)
    )
    same = jnp.where(which == 0, slopes[0], jnp.where(which == 1, slopes[1], slopes[2]))
    return step.unless(which == which0, same)


def _rem(step: Step) -> Any:
    """u - qv with q = trunc(u/v) the same at both ends; the quotient where it is not."""
    ends = (step.values, step.value), (step.references, step.reference)
    q, q0 = (jnp.round((u - y) / v) for (u, v), y in ends)
    su, sv = (step.root.zero if s is None else s for s in step.slopes)
    return step.unless(q == q0, su - q * sv)


def _atan2(step: Step) -> Any:
    """The angle between (u, v) and (u0, v0): its tangent is (ΔuV - ΔvU)/(uu0 + vv0), U and V the
    means, every length in units of its end's.  The quotient where it is large, or leaps by 2π."""
    (u, v), (u0, v0) = step.values, step.references
    su, sv = (step.root.zero if s is None else s for s in step.slopes)
    n, n0 = (jnp.maximum(jnp.abs(a), jnp.abs(b)) for a, b in ((u, v), (u0, v0)))
    # By inverses, for XLA divides a quotient by a product, which may overflow.
    unit, unit0 = 1 / jnp.where(n == 0, 1, n), 1 / jnp.where(n0 == 0, 1, n0)
    u, v, u0, v0 = u * unit, v * unit, u0 * unit0, v0 * unit0
    cross = su * (v * unit0 + v0 * unit) / 2 - sv * (u * unit0 + u0 * unit) / 2
    dot = u * u0 + v * v0
    tangent = cross * step.delta
    small = (jnp.abs(tangent) <= dot / 4) & (dot > 0)
    small &= jnp.abs(step.value - step.reference) < 1
    dot = jnp.where(small, dot, 1)
    near = cross / dot * _atanc(jnp.where(small, tangent / dot, 0))
    return step.unless(small, near)


def _pow(step: Step) -> Any:
    """u^v = exp(w) with w = v ln u: its mean slope times ½(v + v0) Δln u + ½(ln u + ln u0) Δv.

    For a negative u and a constant v that of |u|^v with the sign of y; else the quotient.
    """
    (u, v), (u0, v0), (su, sv) = step.values, step.references, step.slopes
    y, y0 = step.value, step.reference
    there = (u * jnp.sign(u0) > 0) & (y * jnp.sign(y0) > 0)
    if sv is not None:
        there &= u > 0
    u, u0 = jnp.where(there, u, 1), jnp.where(there, u0, 1)
    terms = []
    if su is not None:
        terms.append(su * (v if sv is None else (v + v0) / 2) * _log_slope(u, u0))
    if sv is not None:
        terms.append(sv * (jnp.log(u) if su is None else (jnp.log(u) + jnp.log(u0)) / 2))
    exponent = sum(terms)
    power = exponent * step.delta
    there &= jnp.abs(power) <= 1
    mean = jnp.sign(y) * _exp_mean(jnp.where(there, power, 0), jnp.abs(y), jnp.abs(y0))
    still = _along(step, _partials(step, 0.5))
    return step.unless(there | (step.delta == 0), jnp.where(there, mean * exponent, still))


def _log_slope(u: Any, u0: Any) -> Any:
    """(ln u - ln u0)/(u - u0) of two numbers of one sign."""
    r = (u - u0) / (u + u0)
    small = jnp.abs(r) <= 0.25
    near = 2 / (u + u0) * _artanhc(jnp.where(small, r, 0))
    return jnp.where(small, near, jnp.log(u / u0) / jnp.where(small, 1, u - u0))


def _nextafter(step: Step) -> Any:
    """A step of one ulp from the first operand: Δy/Δx; its slope where the root stands still."""
    slope = step.slopes[0]
    return jnp.where(step.delta == 0, 0 if slope is None else slope, step.secant)


def _convert(step: Step) -> Any:
    return step.slopes[0]


_STRUCTURAL: dict[str, Callable[[Step], Any]] = {
    "add": _sum,
    "sub": lambda step: _sum(step, -1),
    "neg": lambda step: -step.slopes[0],
    "mul": _mul,
    "div": _div,
    "max": lambda step: _extremum(step, 1),
    "min": lambda step: _extremum(step, -1),
    "clamp": _clamp,
    "nextafter": _nextafter,
    "rem": _rem,
    "atan2": _atan2,
    "pow": _pow,
    "convert_element_type": _convert,
    "reduce_precision": _convert,
    # Inside a chain, x and what was frozen of it are one scalar: the function is explained whole.
    "stop_gradient": _convert,
    "integer_pow": lambda step: _integer_pow(step),
}

_JUMPS = ("sign", "floor", "ceil", "round")


# Unary functions: closed forms of (g(u) - g(u0))/(u - u0) from both ends and both values.


def exp(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """y0 (exp(Δ) - 1)/Δ near Δ = 0; the quotient is exact elsewhere."""
    delta = difference(u, u0)
    return quotient(y, y0, delta, _exp_mean(delta, y, y0), jnp.abs(delta) <= 1)


def _exp2(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    delta, ln2 = difference(u, u0), math.log(2)
    return quotient(y, y0, delta, ln2 * _exp_mean(ln2 * delta, y, y0), jnp.abs(delta) <= 1)


def _exp_mean(delta: Any, y: Any, y0: Any) -> Any:
    """y0 (exp(Δ) - 1)/Δ for |Δ| ≤ 1: the mean of exp between two of its values."""
    small = jnp.where(jnp.abs(delta) <= 1, delta, 0)
    still = small == 0
    return jnp.where(still, (y + y0) / 2, y0 * jnp.expm1(small) / jnp.where(still, 1, small))


def _expm1(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return exp(u, u0, y + 1, y0 + 1)


def _tanh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """(1 - y y0) tanh(Δ)/Δ."""
    delta = difference(u, u0)
    small = jnp.abs(delta) <= 0.25
    return _finite_quotient(y, y0, delta, (1 - y * y0) * _tanhc(jnp.where(small, delta, 0)), small)


def _logistic(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """½ (y(1 - y0) + y0(1 - y)) tanh(Δ/2)/Δ · 2."""
    delta = difference(u, u0)
    small = jnp.abs(delta) <= 0.5
    near = (y * (0.5 - y0) + 0.5 * y0) * _tanhc(jnp.where(small, delta / 2, 0))
    return _finite_quotient(y, y0, delta, near, small)


def _finite_quotient(y: Any, y0: Any, delta: Any, near: Any, small: Any) -> Any:
    """`quotient` of values that are never infinite."""
    return jnp.where(small, near, (y - y0) / jnp.where(small, 1, delta))


def _log(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """2 artanh(Δ/(u + u0))/Δ."""
    return _halves(u, u0, y, y0, u + u0, _artanhc)


def _log1p(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return _halves(u, u0, y, y0, 2 + u + u0, _artanhc)


def _halves(u: Any, u0: Any, y: Any, y0: Any, total: Any, inverse: Callable[[Any], Any]) -> Any:
    """(y - y0)/Δ where Δ/`total` is a tangent of ½(y - y0), `inverse`(r) that tangent's inverse/r.

    tan ½(a - b) = (sin a - sin b)/(cos a + cos b), and so for tanh.
    """
    delta = difference(u, u0)
    r = delta / jnp.where(total == 0, 1, total)
    small = (jnp.abs(r) <= 0.25) & (total != 0) | (delta == 0)
    near = 2 / jnp.where(small, total, 1) * inverse(jnp.where(small, r, 0))
    return quotient(y, y0, delta, near, small)


def _log2(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    ln2 = jnp.asarray(0.6931471805599453, y.dtype)
    return _log(u, u0, y * ln2, y0 * ln2) / ln2


def _sqrt(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """1/(√u + √u0); none where both are 0."""
    total = y + y0
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _cbrt(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """1/(y² + y y0 + y0²); none where both are 0."""
    total = y * (y + y0) + y0 * y0
    return jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))


def _rsqrt(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """-1/(√u √u0 (√u + √u0))."""
    return -(y * y0) * (y * (y0 / (y + y0)))  # in this order a half precision survives a zero u0


def _square(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return u + u0


def _one_minus_square(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return -(u + u0)


def _atanh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """artanh(r)/Δ with r = Δ/(1 - u u0)."""
    delta, scale = u - u0, 1 - u * u0
    r = delta / scale
    small = jnp.abs(r) <= 0.25
    return quotient(y, y0, delta, _artanhc(jnp.where(small, r, 0)) / scale, small)


def _abs(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    total = y + y0
    return jnp.where(total == 0, 0, (u + u0) / jnp.where(total == 0, 1, total))


def _sin(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """cos(ū) sin(Δ/2)/(Δ/2)."""
    near = jnp.cos((u + u0) / 2) * _sinc((u - u0) / 2)
    return quotient(y, y0, u - u0, near, _turns_little(u, u0))


def _cos(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """-sin(ū) sin(Δ/2)/(Δ/2)."""
    near = -jnp.sin((u + u0) / 2) * _sinc((u - u0) / 2)
    return quotient(y, y0, u - u0, near, _turns_little(u, u0))


def _turns_little(u: Any, u0: Any) -> Any:
    """Where the rounding of ū, times Δ, is less than that of the values."""
    return jnp.abs(u - u0) * jnp.abs(u + u0) <= 4


def _tan(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """(1 + y y0) tan(Δ)/Δ."""
    delta = u - u0
    small = jnp.abs(delta) <= 0.25
    return quotient(y, y0, delta, (1 + y * y0) * _tanc(jnp.where(small, delta, 0)), small)


def _asin(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """2 atan(Δ/(√(1 - u²) + √(1 - u0²)))/Δ."""
    return _halves(u, u0, y, y0, _root(1 - u, 1 + u) + _root(1 - u0, 1 + u0), _atanc)


def _acos(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return -_asin(u, u0, -y, -y0)


def _asinh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """2 artanh(Δ/(√(1 + u²) + √(1 + u0²)))/Δ."""
    one = jnp.ones_like(u)
    return _halves(u, u0, y, y0, jnp.hypot(one, u) + jnp.hypot(one, u0), _artanhc)


def _acosh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """2 artanh(Δ/(√(u² - 1) + √(u0² - 1)))/Δ."""
    return _halves(u, u0, y, y0, _root(u - 1, u + 1) + _root(u0 - 1, u0 + 1), _artanhc)


def _root(a: Any, b: Any) -> Any:
    """√a √b, 0 with a derivative where a product is none or negative."""
    there = (a > 0) & (b > 0)
    return jnp.where(there, jnp.sqrt(jnp.where(there, a, 1)) * jnp.sqrt(jnp.where(there, b, 1)), 0)


def _atan(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """atan(r)/Δ with r = Δ/(1 + u u0)."""
    delta, scale = u - u0, 1 + u * u0
    small = jnp.abs(delta) <= scale / 4
    scale = jnp.where(small, scale, 1)
    near = _atanc(jnp.where(small, delta / scale, 0)) / scale
    return quotient(y, y0, delta, near, small)


def _sinh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """cosh(ū) sinh(Δ/2)/(Δ/2)."""
    return _hyperbolic(jnp.cosh, u, u0, y, y0)


def _cosh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """sinh(ū) sinh(Δ/2)/(Δ/2)."""
    return _hyperbolic(jnp.sinh, u, u0, y, y0)


def _hyperbolic(other: Callable[[Any], Any], u: Any, u0: Any, y: Any, y0: Any) -> Any:
    delta = u - u0
    small = (jnp.abs(delta) <= 1) & _turns_little(u, u0)
    middle = jnp.where(small, (u + u0) / 2, 0)
    return quotient(y, y0, delta, other(middle) * _sinhc(jnp.where(small, delta / 2, 0)), small)


def _integer_pow(step: Step) -> Any:
    """Σ_k u^k u0^(n-1-k); a negative power is that of the reciprocal."""
    (u,), (u0,), (s,) = step.values, step.references, step.slopes
    n = step.equation.params["y"]
    if n == 0:
        return jnp.zeros_like(s)
    if n < 0:
        inverse, inverse0 = 1 / u, 1 / u0
        return -inverse * inverse0 * _power_sum(inverse, inverse0, -n) * s
    return _power_sum(u, u0, n) * s


def _power_sum(u: Any, u0: Any, n: int) -> Any:
    """Σ_{k<n} u^k u0^(n-1-k), by Horner."""
    total, power = jnp.ones_like(u), jnp.ones_like(u0)
    for _ in range(n - 1):
        power = power * u0
        total = total * u + power
    return total


_UNARY: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "exp": exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "tanh": _tanh,
    "logistic": _logistic,
    "log": _log,
    "log1p": _log1p,
    "log2": _log2,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "square": _square,
    "one_minus_square": _one_minus_square,
    "atanh": _atanh,
    "abs": _abs,
    "sin": _sin,
    "cos": _cos,
    "tan": _tan,
    "asin": _asin,
    "acos": _acos,
    "atan": _atan,
    "sinh": _sinh,
    "cosh": _cosh,
    "asinh": _asinh,
    "acosh": _acosh,
    "cbrt": _cbrt,
}


# Even functions that are 1 at 0, each a series in h² where its quotient would lose digits.


def _series(h: Any, bound: float, coefficients: Sequence[float]) -> Any:
    """Σ_k c_k h^2k for |h| ≤ bound, less the terms that the dtype cannot tell from none."""
    eps = float(jnp.finfo(jnp.result_type(h)).eps)
    kept = [c for k, c in enumerate(coefficients) if abs(c) * bound ** (2 * k) > eps / 8]
    square = h * h
    total = jnp.full_like(square, kept[-1])
    for coefficient in kept[-2::-1]:
        total = total * square + coefficient
    return total


def _sinhc(h: Any) -> Any:
    """sinh(h)/h for |h| ≤ ½."""
    return _series(h, 0.5, [1 / math.factorial(2 * k + 1) for k in range(9)])


def _sinc(h: Any) -> Any:
    """sin(h)/h."""
    small = jnp.abs(h) <= 0.5
    coefficients = [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)]
    near = _series(jnp.where(small, h, 0), 0.5, coefficients)
    return jnp.where(small, near, jnp.sin(h) / jnp.where(small, 1, h))


def _tanhc(h: Any) -> Any:
    """tanh(h)/h, whose tanh has all its digits down to h = 0."""
    still = h == 0
    return jnp.where(still, 1, jnp.tanh(h) / jnp.where(still, 1, h))


_TANH = [
    1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875,
    6404582 / 10854718875, -443861162 / 1856156927625, 18888466084 / 194896477400625,
]  # fmt: skip


def _tanc(h: Any) -> Any:
    """tan(h)/h for |h| ≤ ¼: tanh's series without its signs."""
    return _series(h, 0.25, [abs(c) for c in _TANH])


def _atanc(r: Any) -> Any:
    """atan(r)/r for |r| ≤ ¼."""
    return _series(r, 0.25, [(-1) ** k / (2 * k + 1) for k in range(14)])


def _artanhc(r: Any) -> Any:
    """artanh(r)/r for |r| ≤ ¼."""
    return _series(r, 0.25, [1 / (2 * k + 1) for k in range(14)])
