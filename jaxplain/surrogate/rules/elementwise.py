"""Elementwise equations: one root makes a chain, several make sums, products and choices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.linear import bilinear, linear
from jaxplain.surrogate.rules.operands import active_roots, actives, refuse_counts
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.rules.products import Product, times, weighted
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Deferred, Pair, Paired, is_real


def elementwise(norm_theta: float | None, equation: Equation, *operands: Any) -> list[Any]:
    """One root: wait for the whole chain.  Several: sums are linear, the rest Shapley values."""
    shape = equation.aval.shape
    operands = tuple(_spread(operand, shape) for operand in operands)
    roots = active_roots(operands)
    if len(roots) > 1:  # what is frozen of another root is a constant
        operands = tuple(
            operand.settle() if getattr(operand, "frozen", False) else operand
            for operand in operands
        )
        roots = active_roots(operands)
    if not roots:
        return equation.bind(*operands)
    dtypes = [equation.aval.dtype, *(operand.dtype for operand in actives(operands))]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return _complex(equation, *operands)
    refuse_counts(equation, operands)
    if len(roots) == 1 and not any(isinstance(operand, Product) for operand in operands):
        return [Deferred(equation, operands)]
    return _several_roots(norm_theta, equation, operands)


def _several_roots(
    norm_theta: float | None, equation: Equation, operands: tuple[Any, ...]
) -> list[Any]:
    name = equation.primitive.name
    if name == "stop_gradient":  # of several roots together: constant to what follows
        return [Deferred(equation, [operands[0].settle()])]
    if not jnp.issubdtype(equation.aval.dtype, jnp.floating):
        return [Deferred(equation, [_unproduct(operand) for operand in operands])]
    if isinstance(operands[0], Product) and _scales_first(equation, operands):
        first, *others = operands[0].factors
        scaled_first = Deferred(equation, (first, *operands[1:]))
        return [Product(operands[0].equation, [scaled_first, *others])]
    if name in ("add", "sub", "convert_element_type", "neg") and all(
        is_real(operand) for operand in actives(operands)
    ):
        return linear(equation, *operands)
    if name == "mul":
        return [times(norm_theta, equation, *operands)]
    if name == "div" and all(isinstance(operand, Paired) for operand in operands):
        return [weighted(norm_theta, equation, *map(settled, operands), inverse=True)]
    if name == "select_n" and not isinstance(operands[0], Paired):
        return linear(equation, *operands)
    chooser = active_roots(operands[:1])
    return [
        Deferred(
            equation,
            [
                operand
                if isinstance(operand, Deferred)
                and (not is_real(operand) or set(map(id, operand.roots)) <= set(map(id, chooser)))
                else settled(operand)
                for operand in operands
            ],
        )
    ]


def _scales_first(equation: Equation, operands: tuple[Any, ...]) -> bool:
    """Whether the equation scales a product, which goes on waiting for factors."""
    name = equation.primitive.name
    return name == "neg" or (name == "div" and not isinstance(operands[1], Paired))


def _unproduct(operand: Any) -> Any:
    return operand.settle() if isinstance(operand, Product) else operand


def _complex(equation: Equation, *operands: Any) -> list[Any]:
    name = equation.primitive.name
    operands = tuple(settled(operand) for operand in operands)
    active = actives(operands)
    if name in ("add", "sub", "neg", "convert_element_type", "copy") or (
        len(active) == 1 and (name == "mul" or (name == "div" and active[0] is operands[0]))
    ):
        return linear(equation, *operands)
    if name == "mul":
        return bilinear(equation, *operands)
    return path_integral(equation, *operands)


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    """An active operand brought to the shape of the elementwise result."""
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    if isinstance(operand, Deferred) and not is_real(operand):
        spreading = _broadcast_equation(operand, shape)
        return operand.through(spreading, linear)
    operand = operand.settle()
    if not isinstance(operand, Paired):
        return operand
    return Pair(
        broadcast(operand.value, shape),
        broadcast(operand.reference, shape),
        reduced=operand.reduced,
        scale=operand.scale,
    )


class _Broadcast(Equation):
    def bind(self, *values: Any) -> list[Any]:
        return [broadcast(values[0], self.params["shape"])]


def _broadcast_equation(operand: Any, shape: tuple[int, ...]) -> Equation:
    (primitive,) = compat.resolve(["broadcast_in_dim"])
    return _Broadcast(primitive, (), (), {"shape": shape})
