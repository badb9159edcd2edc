"""The last resort: an equation as a whole, from the real numbers that its operands come from.

What JAX differentiates can be explained, whatever is inside: its own derivative, integrated along
the segment from the reference to x and corrected to be complete. A decision (an index, a rank, a
branch) is one of the things inside: the integral begins at what decided it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.items import independent_axes
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules import path_integral
from jaxplain.surrogate.rules.linear import discrete, linear
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.pair import Pair, Paired, is_inexact
from jaxplain.surrogate.values.region import Decision, Region


def whole(equation: Equation, *operands: Any) -> list[Any]:
    """∫₀¹ of JAX's derivative of the equation, of the real numbers that it is a function of."""
    if not any(map(_is_inexact, equation.outputs)):
        return discrete(equation, *operands)
    origin = _Origin(equation, operands)
    values = [squeezed(root.value) for root in origin.roots]
    references = [squeezed(root.reference) for root in origin.roots]
    _check(equation, origin.evaluate, values, origin.constants)
    if not origin.decided and _is_linear(origin.evaluate, values, origin.constants):
        return linear(equation, *operands)
    count = independent_axes(origin.evaluate, values, origin.constants)
    items = functools.partial(_sum_items, count)
    at_x = path_integral.integrate(origin.evaluate, values, references, origin.constants, items)
    at_reference = origin.evaluate(references, origin.constants)
    shapes = [atom.aval.shape for atom in equation.outputs]
    return [
        Pair(v.reshape(shape), v0.reshape(shape))
        for v, v0, shape in zip(at_x, at_reference, shapes, strict=True)
    ]


def squeezed(array: Any) -> Any:
    """Without its axes of one, which come and go on the way to an index."""
    return array.reshape([size for size in array.shape if size != 1])


def _sum_items(count: int, product: Any) -> Any:
    return jnp.sum(product, tuple(range(count, product.ndim)))


class _Origin:
    """An equation as a function of the computed real numbers behind its operands."""

    def __init__(self, equation: Equation, operands: Sequence[Any]):
        self.equation = equation
        self.decided = False
        self.roots: list[Any] = []
        self.constants: list[Any] = []
        self.operands = list(map(self._collect, operands))

    def _collect(self, operand: Any, within: bool = False) -> Any:
        """('root', i), ('constant', i), or (equation, number, operands) of what is decided."""
        if not isinstance(operand, Paired):
            self.constants.append(operand)
            return "constant", len(self.constants) - 1
        # What is frozen is looked into as well: at the reference it has another value.
        inside = within or not is_inexact(operand) or operand.frozen
        if isinstance(operand, Region | Decision) and inside:
            self.decided = self.decided or not is_inexact(operand)
            number = operand.number if isinstance(operand, Decision) else 0
            inner = [self._collect(o, within=True) for o in operand.operands]
            return operand.equation, number, inner
        root = settled(operand)
        if not isinstance(root, Paired):
            return self._collect(root)
        if not is_inexact(root):
            raise UnsupportedPrimitive(
                f"{self.equation} at {self.equation.line} depends on an integer or boolean that "
                "depends on x, and what decided it is not known here"
            )
        known = [i for i, other in enumerate(self.roots) if other is root]
        if not known:
            self.roots.append(root)
        return "root", known[0] if known else len(self.roots) - 1

    def evaluate(self, active: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        """The equation's outputs at these roots, all without axes of one."""

        def at(operand: Any) -> Any:
            kind, number, *inner = operand
            if kind == "constant":
                return constants[number]
            if kind == "root":
                return active[number].reshape(self.roots[number].shape)
            return kind.bind(*map(at, inner[0]))[number]

        return list(map(squeezed, self.equation.bind(*map(at, self.operands))))


def _check(equation: Equation, function: Any, values: Any, constants: Any) -> None:
    """Whether JAX differentiates the equation in reverse mode, or an error in its own words."""
    try:
        shapes = jax.eval_shape(function, values, constants)
        jax.eval_shape(functools.partial(_pulled_back, function), values, shapes, constants)
    except Exception as reason:
        raise UnsupportedPrimitive(
            f"{equation} at {equation.line} has no derivative in JAX either: {reason}"
        ) from None


def _pulled_back(function: Any, values: Any, cotangents: Any, constants: Any) -> Any:
    return jax.vjp(lambda v: function(v, constants), values)[1](cotangents)


def _is_linear(function: Any, values: Any, constants: Any) -> bool:
    """Whether what JAX sends back does not depend on where it is evaluated."""
    shapes = jax.eval_shape(function, values, constants)
    back = functools.partial(_pulled_back, function)
    closed = jax.make_jaxpr(back)(values, shapes, constants)
    sizes = [len(jax.tree.leaves(part)) for part in (values, shapes, constants)]
    moving = [i < sizes[0] for i in range(sum(sizes))]
    return not any(walk.reaches(closed, moving))


def unwalkable(call: Any, active: Sequence[bool]) -> bool:
    """Whether a call with a derivative of its own is to be integrated as a whole.

    That is where its body does with what depends on x what no rule can look into: a loop without
    a reverse mode, a callback, a kernel, another library's primitive.
    """
    return _closes(walk.bodies(call)[0], active)


def _closes(jaxpr: Any, active: Sequence[bool]) -> bool:
    found = []

    def visit(_: int, equation: Any, mask: list[bool]) -> list[bool]:
        reached = walk.reached(equation, mask)
        facts = primitives.facts(equation.primitive)
        if facts.group == "foreign" or equation.primitive.name == "while":
            outputs = zip(equation.outvars, reached, strict=True)
            found.append(any(is_reached and _is_inexact(v) for v, is_reached in outputs))
        elif any(mask) and not facts.derivative:  # which would be kept by itself
            carried = equation.primitive.name == "scan"
            inside = [True] * len(mask) if carried else mask
            found.extend(_closes(body, _operands(body, inside)) for body in walk.bodies(equation))
        return reached

    walk.walk(jaxpr, active, visit, known=lambda _: False)
    return any(found)


def _operands(body: Any, mask: Sequence[bool]) -> Sequence[bool]:
    """Which inputs of a body are active: a conditional's index is none of them."""
    count = len(compat.open_jaxpr(body)[0].invars)
    return mask[len(mask) - count :] if count <= len(mask) else [any(mask)] * count


def _is_inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
