"""Products of several roots: Shapley values of the factors, and the care that norms need."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxplain._numerics.quadrature import gauss_legendre
from jaxplain.surrogate.backward import scaled
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import active_roots, reference
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Deferred, Pair, Paired

_LARGE = 10.0  # from this ratio of scales on, a product settles the scale first
_MOST_FACTORS = 8


class Product(Paired):
    """A product of several roots that waits for further factors: Shapley values of all of them."""

    def __init__(self, equation: Equation, factors: Sequence[Any]):
        self.equation = equation
        self.factors = tuple(factors)
        self.reference = functools.reduce(equation.function, map(reference, factors))
        self.roots = active_roots(factors)
        self.linear = False
        self.reduced = all(root.reduced for root in self.roots)
        self.scale = False

    def settle(self) -> Any:
        return self._settled

    @functools.cached_property
    def _settled(self) -> Pair:
        factors = [factor.settle() for factor in self.factors]
        multiply = self.equation.function

        def valued_slopes(values: Any, references: Any) -> tuple[Any, list[Any]]:
            return functools.reduce(multiply, values), _product_slopes(values, references)

        result = scaled(valued_slopes)(
            [factor.value for factor in factors], [factor.reference for factor in factors]
        )
        return Pair(result, self.reference, reduced=self.reduced)


def _product_slopes(values: Sequence[Any], references: Sequence[Any]) -> list[Any]:
    """∫₀¹ Π_{j≠i} (v0_j + t Δ_j) dt, which is the Shapley value, by a quadrature exact for it."""
    if len(values) == 2:
        return [(v + v0) / 2 for v, v0 in zip(values[::-1], references[::-1], strict=True)]
    points, weights = gauss_legendre((len(values) + 1) // 2)
    total = [jnp.zeros_like(v) for v in values]
    for t, weight in zip(points, weights, strict=True):
        at = [v0 + t * (v - v0) for v, v0 in zip(values, references, strict=True)]
        for i in range(len(values)):
            others = functools.reduce(jnp.multiply, at[:i] + at[i + 1 :])
            total[i] = total[i] + weight * others
    return total


def times(norm_theta: float | None, equation: Equation, a: Any, b: Any) -> Any:
    if _is_scale(a) != _is_scale(b):
        c, s = (b, a) if _is_scale(a) else (a, b)
        return weighted(norm_theta, equation, settled(c), settled(s))
    factors: dict[int, Any] = {}
    constant = None
    for operand in (a, b):
        if not isinstance(operand, Paired):
            constant = operand
            continue
        for factor in operand.factors if isinstance(operand, Product) else (operand,):
            factor = factor if len(factor.roots) == 1 else factor.settle()
            root = id(factor.roots[0])
            known = factors.get(root)
            factors[root] = factor if known is None else Deferred(equation, (known, factor))
    if constant is not None:
        first = next(iter(factors))
        factors[first] = Deferred(equation, (factors[first], constant))
    if len(factors) == 1:
        return next(iter(factors.values()))
    product = Product(equation, list(factors.values()))
    if len(factors) >= _MOST_FACTORS:
        return product.settle()
    return product


def _is_scale(operand: Any) -> bool:
    return isinstance(operand, Paired) and getattr(operand, "scale", False)


def weighted(
    norm_theta: float | None, equation: Equation, c: Any, s: Any, *, inverse: bool = False
) -> Any:
    """c·s (or c/b with s = 1/b): Δ(cs) = s_θ Δc + c_θ Δs, well conditioned by the choice of θ."""
    if not isinstance(c, Paired) or not isinstance(s, Paired):
        return (
            Deferred(equation, (c, s))
            if inverse and isinstance(s, Paired)
            else linear(equation, c, s)[0]
        )
    chooses = _is_scale(s) or (inverse and s.reduced)

    def slopes(active: Any, references: Any) -> list[Any]:
        (c, s), (c0, s0) = active, references
        if inverse:
            s, s0 = 1 / s, 1 / s0
        if chooses and norm_theta is not None:
            of_c = norm_theta * s + (1 - norm_theta) * s0
            of_s = (1 - norm_theta) * c + norm_theta * c0
        else:
            of_c, of_s = (s + s0) / 2, (c + c0) / 2
        if chooses and norm_theta is None:  # the end of the smaller scale, where they are far apart
            size, size0 = jnp.abs(s), jnp.abs(s0)
            up, down = size0 > _LARGE * size, size > _LARGE * size0
            of_c = jnp.where(up, s, jnp.where(down, s0, of_c))
            of_s = jnp.where(up, c0, jnp.where(down, c, of_s))
        return [of_c, -of_s * s * s0 if inverse else of_s]

    c0, s0 = c.reference, s.reference
    result = scaled(lambda a, r: (equation.function(*a), slopes(a, r)))(
        [c.value, s.value], [c0, s0]
    )
    return Pair(result, equation.function(c0, s0), reduced=c.reduced and s.reduced)
