"""Divided differences: the slope of a scalar function between its reference and its value.

For a chain of elementwise equations with one root x, each rule here takes the slopes (u - u0)/Δx
of an equation's operands to the slope (y - y0)/Δx of its output, as forward-mode differentiation
takes derivatives.  A quotient is formed only where it is well conditioned: the closed forms stay
exact as Δ → 0, and what has none falls back to the derivative at the midpoint.  Numerators come
from the equations themselves, so every rule is complete: slope · Δx = y - y0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.program import Equation

Slope = Any  # None: constant, or not a real number, so that nothing flows through it


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation of a chain at both ends, with its operands' slopes."""

    equation: Equation
    values: Sequence[Any]
    references: Sequence[Any]
    slopes: Sequence[Slope]
    value: Any
    reference: Any
    delta: Any  # x - x0 at the root
    singular: bool = False  # whether the chain divides by something of its root

    @property
    def secant(self) -> Any:
        """Δy/Δx; exact up to the rounding of y, and 0 where the root does not move."""
        moved = self.delta != 0
        change = jnp.subtract(self.value, self.reference).astype(self.delta.dtype)
        return jnp.where(moved, change / jnp.where(moved, self.delta, 1), 0)


def slope(step: Step) -> Slope:
    """The slope of the equation's output, by the rule of its primitive."""
    if not jnp.issubdtype(step.equation.aval.dtype, jnp.floating):
        return None
    name = step.equation.primitive.name
    if name == "select_n":
        return _select(step)
    if any(
        not jnp.issubdtype(jnp.result_type(v), jnp.floating) and v is not v0
        for v, v0 in zip(step.values, step.references, strict=True)
    ):
        return step.secant
    active = [s is not None for s in step.slopes]
    if not any(active):
        return step.secant
    if name in _STRUCTURAL:
        return _STRUCTURAL[name](step)
    if name in _UNARY and len(active) == 1:
        (u,), (u0,), (s,) = step.values, step.references, step.slopes
        return _UNARY[name](u, u0, step.value, step.reference) * s
    if name == "rem":
        return _secant(step)
    if name in _JUMPS:
        return step.secant
    return _midpoint(step)


def tiny(delta: Any) -> Any:
    """Where a quotient by Δ loses more digits than the derivative at the midpoint.

    Rounding costs eps/Δ, the midpoint Δ²/24: they meet at Δ = (24 eps)^(1/3).
    """
    return jnp.abs(delta) <= (24 * float(jnp.finfo(jnp.result_type(delta)).eps)) ** (1 / 3)


def difference(u: Any, u0: Any) -> Any:
    """u - u0, and 0 where both are the same infinity (a masked logit)."""
    return jnp.where(u == u0, 0, u - u0)


def quotient(y: Any, y0: Any, delta: Any, near: Any, small: Any) -> Any:
    """(y - y0)/Δ, and `near` where Δ is `small`."""
    return jnp.where(small, near, (y - y0) / jnp.where(small, 1, delta))


def derivative(step: Step) -> Any:
    """The derivative along the slopes at the midpoint, asked only of the operands that have one."""
    active = [i for i, s in enumerate(step.slopes) if s is not None]

    def function(*moving: Any) -> Any:
        operands = list(step.values)
        for i, operand in zip(active, moving, strict=True):
            operands[i] = operand
        return step.equation.function(*operands)

    middles = [(step.values[i] + step.references[i]) / 2 for i in active]
    tangents = [
        jnp.broadcast_to(step.slopes[i], m.shape).astype(m.dtype)
        for i, m in zip(active, middles, strict=True)
    ]
    return jax.jvp(function, middles, tangents)[1]


def _secant(step: Step) -> Any:
    """Δy/Δx, and the derivative where the root does not move."""
    return jnp.where(step.delta == 0, derivative(step), step.secant)


def _midpoint(step: Step) -> Any:
    """Any smooth function: the quotient, or the derivative along the slopes at the midpoint."""
    near = derivative(step)
    active = [i for i, s in enumerate(step.slopes) if s is not None]
    if len(active) == 1:
        (i,) = active
        small = tiny(step.values[i] - step.references[i])
        if step.equation.primitive.name in _SINGULAR_AT_ZERO:
            middle = jnp.abs(step.values[i] + step.references[i]) / 2
            small = tiny((step.values[i] - step.references[i]) / jnp.where(middle == 0, 1, middle))
    else:
        small = tiny(step.delta)
    small = small | (step.delta == 0)
    return quotient(step.value, step.reference, step.delta, near, small)


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

    That is near a pole: x/√(x² + ε) from 0 is the difference of two terms of size 1/√ε.
    """
    total = sum(terms)
    if not step.singular or len(terms) < 2:
        return total
    lost = jnp.abs(step.delta) * sum(map(jnp.abs, terms))
    ends = jnp.abs(step.value) + jnp.abs(step.reference)
    return jnp.where((step.delta != 0) & (ends < lost / 4), step.secant, total)


def _sum(step: Step, sign: int = 1) -> Any:
    su, sv = step.slopes
    if su is None:
        return sv if sign > 0 else -sv
    return su if sv is None else su + sign * sv


def _select(step: Step) -> Any:
    """The chosen case's slope where both ends choose the same one, the secant where they do not."""
    which, which0 = step.values[0], step.references[0]
    cases = [jnp.zeros_like(step.delta) if s is None else s for s in step.slopes[1:]]
    if all(s is None for s in step.slopes[1:]) and which is which0:
        return None
    cases = [jnp.broadcast_to(s, step.delta.shape) for s in cases]
    chosen = jax.lax.select_n(which, *cases)
    return chosen if which is which0 else jnp.where(which == which0, chosen, step.secant)


def _extremum(step: Step, sign: int) -> Any:
    """The winner's slope; of a tie that stays one their mean, as JAX's derivative has it."""
    (u, v), (u0, v0) = step.values, step.references
    su, sv = (0 if s is None else s for s in step.slopes)
    first, first0 = (u > v, u0 > v0) if sign > 0 else (u < v, u0 < v0)
    winner = jnp.where(first, su, sv)
    if not _in_relu(step.equation):
        winner = jnp.where((u == v) & (u0 == v0), (su + sv) / 2, winner)
    return jnp.where(first == first0, winner, step.secant)


def _in_relu(equation: Equation) -> bool:
    """`jax.nn.relu` defines its derivative at 0 as 0."""
    return any(call.params.get("name") == "relu" for call in equation.origin)


def _clamp(step: Step) -> Any:
    (low, u, high), (low0, u0, high0) = step.values, step.references
    if step.slopes[0] is not None or step.slopes[2] is not None:
        return _secant(step)
    inside, inside0 = (u >= low) & (u <= high), (u0 >= low0) & (u0 <= high0)
    return jnp.where(inside & inside0, step.slopes[1], step.secant)


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
    "convert_element_type": _convert,
    "reduce_precision": _convert,
    # Inside a chain, x and what was frozen of it are one scalar: the function is explained whole.
    "stop_gradient": _convert,
    "integer_pow": lambda step: _integer_pow(step),
}

_SINGULAR_AT_ZERO = ("pow", "cbrt")

_JUMPS = ("sign", "floor", "ceil", "round")


# Unary functions: closed forms of (g(u) - g(u0))/(u - u0) from both ends and both values.


def exp(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """√(y y0) sinh(Δ/2)/(Δ/2) near Δ = 0; the quotient is exact elsewhere."""
    delta = difference(u, u0)
    small = jnp.abs(delta) <= 1
    half = jnp.where(small, delta / 2, 0)
    # Guarded, for the root of an underflowed 0 has no derivative to differentiate again.
    there = (y > 0) & (y0 > 0)
    mean = jnp.sqrt(jnp.where(there, y, 1)) * jnp.sqrt(jnp.where(there, y0, 1))
    return quotient(y, y0, delta, jnp.where(there, mean * _sinhc(half), 0), small)


def _exp2(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    ln2 = jnp.asarray(0.6931471805599453, y.dtype)
    return ln2 * exp(ln2 * u, ln2 * u0, y, y0)


def _expm1(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return exp(u, u0, y + 1, y0 + 1)


def _tanh(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """(1 - y y0) tanh(Δ)/Δ."""
    delta = difference(u, u0)
    small = jnp.abs(delta) <= 0.25
    return quotient(y, y0, delta, (1 - y * y0) * _tanhc(jnp.where(small, delta, 0)), small)


def _logistic(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """½ (y(1 - y0) + y0(1 - y)) tanh(Δ/2)/Δ · 2."""
    delta = difference(u, u0)
    small = jnp.abs(delta) <= 0.5
    near = (y * (0.5 - y0) + 0.5 * y0) * _tanhc(jnp.where(small, delta / 2, 0))
    return quotient(y, y0, delta, near, small)


def _log(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """2 artanh(Δ/(u + u0))/Δ."""
    delta, total = u - u0, u + u0
    r = delta / total
    small = jnp.abs(r) <= 0.25
    near = 2 / total * _artanhc(jnp.where(small, r, 0))
    return quotient(y, y0, delta, near, small)


def _log1p(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    delta, total = u - u0, 2 + u + u0
    r = delta / total
    small = jnp.abs(r) <= 0.25
    near = 2 / total * _artanhc(jnp.where(small, r, 0))
    return quotient(y, y0, delta, near, small)


def _log2(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    ln2 = jnp.asarray(0.6931471805599453, y.dtype)
    return _log(u, u0, y * ln2, y0 * ln2) / ln2


def _sqrt(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    return 1 / (y + y0)


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
    return jnp.cos((u + u0) / 2) * _sinc((u - u0) / 2)


def _cos(u: Any, u0: Any, y: Any, y0: Any) -> Any:
    """-sin(ū) sin(Δ/2)/(Δ/2)."""
    return -jnp.sin((u + u0) / 2) * _sinc((u - u0) / 2)


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


_TANH = [
    1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875,
    6404582 / 10854718875, -443861162 / 1856156927625, 18888466084 / 194896477400625,
]  # fmt: skip


def _tanhc(h: Any) -> Any:
    """tanh(h)/h for |h| ≤ ¼."""
    return _series(h, 0.25, _TANH)


def _artanhc(r: Any) -> Any:
    """artanh(r)/r for |r| ≤ ¼."""
    return _series(r, 0.25, [1 / (2 * k + 1) for k in range(14)])
