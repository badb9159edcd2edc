"""Elementwise equations: one root makes a region, several make sums, products and choices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.bilinear import bilinear
from jaxplain.surrogate.rules.chain import rescaled
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import refuse_counts
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.rules.products import Product, quotient, times
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Pair, Paired, active_roots, actives, is_real
from jaxplain.surrogate.values.region import Region, made, scales_a_choice

_SUMS = ("add", "sub", "convert_element_type", "neg")


def elementwise(norm_theta: float | None, equation: Equation, *operands: Any) -> list[Any]:
    """One root: wait for the whole region.  Several: sums are linear, the rest Shapley values."""
    operands = _apart(tuple(spread(operand, equation.aval.shape) for operand in operands))
    roots = active_roots(operands)
    if len(roots) > 1:  # what is frozen of another root is a constant
        operands = tuple(settled(o) if isinstance(o, Paired) and o.frozen else o for o in operands)
        roots = active_roots(operands)
    if not roots:
        return equation.bind(*operands)
    dtypes = [equation.aval.dtype, *(operand.dtype for operand in actives(operands))]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return _complex(equation, *operands)
    refuse_counts(equation, operands)
    if len(roots) == 1 and not any(isinstance(operand, Product) for operand in operands):
        return [Region(equation, operands, rescaled)]
    return _several_roots(norm_theta, equation, operands)


def _several_roots(
    norm_theta: float | None, equation: Equation, operands: tuple[Any, ...]
) -> list[Any]:
    name = equation.primitive.name
    if name == "stop_gradient":  # of several roots together: constant to what follows
        return [Region(equation, (settled(operands[0]),), rescaled)]
    if not jnp.issubdtype(equation.aval.dtype, jnp.floating):
        return [Region(equation, tuple(map(_unproduct, operands)), rescaled)]
    if scales_a_choice(equation, operands):
        return [Region(equation, operands, rescaled)]
    if isinstance(operands[0], Product) and _scales(equation, operands):
        first, *others = operands[0].factors
        scaled_first = Region(equation, (first, *operands[1:]), rescaled)
        return [Product(operands[0].equation, (scaled_first, *others))]
    if name in _SUMS and all(map(is_real, actives(operands))):
        return linear(equation, *operands)
    if name == "mul":
        return [times(norm_theta, equation, *operands)]
    if name == "div" and all(isinstance(operand, Paired) for operand in operands):
        return [quotient(norm_theta, equation, *operands)]
    if name == "select_n" and not isinstance(operands[0], Paired):
        return linear(equation, *operands)
    return [Region(equation, _chosen_between(operands), rescaled)]


def _apart(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, where a product that another one is a function of is its root, too."""
    roots = set(map(id, active_roots(operands)))
    return tuple(
        o.computed if isinstance(o, Product) and id(o.computed) in roots else o for o in operands
    )


def _chosen_between(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands of a choice: predicates and functions of what they decide by go on waiting."""
    chooser = set(map(id, active_roots(operands[:1])))

    def waits(operand: Any) -> bool:
        return isinstance(operand, Region) and (
            not is_real(operand) or set(map(id, operand.roots)) <= chooser
        )

    return tuple(operand if waits(operand) else settled(operand) for operand in operands)


def _scales(equation: Equation, operands: tuple[Any, ...]) -> bool:
    """Whether the equation scales a product, which goes on waiting for factors."""
    name = equation.primitive.name
    return name == "neg" or (name == "div" and not isinstance(operands[1], Paired))


def _unproduct(operand: Any) -> Any:
    return operand.settle() if isinstance(operand, Product) else operand


def _complex(equation: Equation, *operands: Any) -> list[Any]:
    name = equation.primitive.name
    operands = tuple(map(settled, operands))
    active = actives(operands)
    if name in (*_SUMS, "copy") or (
        len(active) == 1 and (name == "mul" or (name == "div" and active[0] is operands[0]))
    ):
        return linear(equation, *operands)
    if name == "mul":
        return bilinear(equation, *operands)
    return path_integral(equation, *operands)


def spread(operand: Any, shape: tuple[int, ...]) -> Any:
    """An active operand brought to the shape of the elementwise result."""
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    equation = _broadcast_equation(shape)
    if isinstance(operand, Region) and not is_real(operand):
        return operand.through(equation, lambda root: spread(root, shape))
    waiting, operand = operand, operand.settle()
    if not isinstance(operand, Paired):
        return operand
    value, reference = broadcast(operand.value, shape), broadcast(operand.reference, shape)
    # Such a shape has the same rank, or none.
    repeated = tuple(i for i, n in enumerate(shape) if not operand.shape or operand.shape[i] != n)
    return made(equation, [waiting], 0, Pair(value, reference, operand.note, repeated))


class _Broadcast(Equation):
    def bind(self, *values: Any) -> list[Any]:
        return [broadcast(values[0], self.params["shape"])]


def _broadcast_equation(shape: tuple[int, ...]) -> Equation:
    (primitive,) = compat.resolve(["broadcast_in_dim"])
    return _Broadcast(primitive, (), (), {"shape": shape})
