"""The last resort: an equation as a whole, from the real numbers that its operands come from.

What JAX differentiates can be explained, whatever is inside: its own derivative, integrated along
the segment from the reference to x and corrected to be complete. A decision (an index, a rank, a
branch) is one of the things inside: the integral begins at what decided it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.backward import refused_late, with_backward
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.items import independent_axes
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules import path_integral
from jaxplain.surrogate.rules.linear import discrete
from jaxplain.surrogate.rules.operands import filled
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired, is_inexact, reference
from jaxplain.surrogate.values.region import Made, Region

Arrays = list[Any]


def whole(equation: Equation, *operands: Any) -> list[Any]:
    """∫₀¹ of JAX's derivative of the equation, of the real numbers that it is a function of."""
    if not any(map(_is_inexact, equation.outputs)):
        return discrete(equation, *operands)
    origin = _Origin(equation, operands)
    derivative = _Derivative(origin)
    ends = origin.outputs(origin.references, origin.beside(reference))
    values = origin.beside(lambda operand: value(settled(operand)))
    passive = origin.references, origin.constants, values, _smooth(ends)

    def forward(active: Arrays, passive: Any) -> tuple[Arrays, Any]:
        results = _smooth(origin.outputs(active, passive[2]))
        return results, (active, results, passive)

    def backward(saved: Any, cotangents: Arrays) -> Arrays:
        active, results, (references, constants, _, at_reference) = saved
        return derivative.integrated(
            (active, references), (results, at_reference), constants, cotangents
        )

    surrogate = with_backward(forward, backward, derivative.reached)
    smooth = iter(surrogate(origin.values, passive))
    fixed = origin.outputs(list(map(jax.lax.stop_gradient, origin.values)), values)
    return [
        Pair(next(smooth) if _is_inexact(atom) else v, v0)
        for atom, v, v0 in zip(equation.outputs, fixed, ends, strict=True)
    ]


def underivable(
    refusal: UnsupportedPrimitive, equation: Equation, *operands: Any
) -> list[Any]:
    """What JAX can't differentiate: known at both ends, and refused where a multiplier arrives."""
    inputs = [value(settled(o)) for o in operands]
    ends = equation.bind(*map(reference, operands))
    moving = [i for i, v in enumerate(inputs) if isinstance(settled(operands[i]), Paired)]

    def function(active: Arrays) -> Arrays:
        return _smooth(equation.bind(*filled(inputs, moving, active)))

    smooth = iter(refused_late(function, refusal)([inputs[i] for i in moving]))
    fixed = equation.bind(*map(_frozen, inputs))
    pairs = [
        Pair(next(smooth) if _is_inexact(atom) else v, v0)
        for atom, v, v0 in zip(equation.outputs, fixed, ends, strict=True)
    ]
    return [
        Made(equation, operands, i, pair) if is_inexact(pair) else pair
        for i, pair in enumerate(pairs)
    ]


def squeezed(array: Any) -> Any:
    """Without its axes of one, which come and go on the way to an index."""
    return array.reshape([size for size in array.shape if size != 1])


def _sum_items(count: int, product: Any) -> Any:
    return jnp.sum(product, tuple(range(count, product.ndim)))


def _smooth(arrays: Arrays) -> Arrays:
    """Those that something flows back from."""
    return [array for array in arrays if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]


def _frozen(array: Any) -> Any:
    return jax.lax.stop_gradient(array)


class _Origin:
    """An equation as a function of the computed real numbers behind its operands."""

    def __init__(self, equation: Equation, operands: Sequence[Any]):
        self.equation = equation
        self.decided = False
        self.roots: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[int, Any] = {}
        self._given = operands
        self.operands = [self._collect(operand) for operand in operands]

    @property
    def values(self) -> Arrays:
        """The roots at x."""
        return [root.value for root in self.roots]

    @property
    def references(self) -> Arrays:
        """The roots at the reference."""
        return [root.reference for root in self.roots]

    def _collect(self, operand: Any, within: bool = False) -> Any:
        """('root', i), ('constant', i), or (equation, number, operands) of what was made."""
        if id(operand) not in self._known:
            self._known[id(operand)] = operand, self._found(operand, within)
        return self._known[id(operand)][1]

    def _found(self, operand: Any, within: bool) -> Any:
        if not isinstance(operand, Paired):
            self.constants.append(operand)
            return "constant", len(self.constants) - 1
        # What is frozen is looked into as well: at the reference it has another value.
        inside = within or not is_inexact(operand) or operand.frozen
        if isinstance(operand, Region | Made) and inside:
            self.decided = self.decided or not is_inexact(operand)
            number = operand.number if isinstance(operand, Made) else 0
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

    def beside(self, end: Callable[[Any], Any]) -> list[Any]:
        """The other operands at one end."""
        return [
            None if found[0] == "root" else end(operand)
            for found, operand in zip(self.operands, self._given, strict=True)
        ]

    def outputs(self, active: Arrays, rest: Sequence[Any]) -> Arrays:
        """The equation's outputs at these roots, its other operands as they are in `rest`."""
        inputs = [
            active[operand[1]] if operand[0] == "root" else v
            for operand, v in zip(self.operands, rest, strict=True)
        ]
        return self.equation.bind(*inputs)

    def between(self, active: Arrays, constants: Arrays) -> Arrays:
        """The outputs that something flows back from, at roots between the ends."""
        known: dict[int, Any] = {}

        def at(operand: Any) -> Any:
            kind, number, *inner = operand
            if kind == "constant":
                return constants[number]
            if kind == "root":
                return active[number]
            if id(inner[0]) not in known:
                known[id(inner[0])] = kind.bind(*map(at, inner[0]))
            return known[id(inner[0])][number]

        return _smooth(self.equation.bind(*map(at, self.operands)))


class _Derivative:
    """JAX's derivative of an equation by its roots, traced once; axes of one are left out."""

    def __init__(self, origin: _Origin):
        self.origin = origin
        self.inputs = list(map(squeezed, origin.values)), origin.constants
        try:
            self.forward = jax.make_jaxpr(self._between)(*self.inputs)
            shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self._outvars]
            self.backward = jax.make_jaxpr(self._back)(self.inputs[0], shapes, origin.constants)
        except Exception as reason:
            raise UnsupportedPrimitive(
                f"{origin.equation} at {origin.equation.line} has no derivative in JAX: {reason}"
            ) from None

    @property
    def _outvars(self) -> list[Any]:
        return compat.open_jaxpr(self.forward)[0].outvars

    def _between(self, active: Arrays, constants: Arrays) -> Arrays:
        roots = self.origin.roots
        active = [v.reshape(root.shape) for v, root in zip(active, roots, strict=True)]
        return list(map(squeezed, self.origin.between(active, constants)))

    def _back(self, active: Arrays, cotangents: Arrays, constants: Arrays) -> Arrays:
        return jax.vjp(lambda v: self._between(v, constants), active)[1](cotangents)[0]

    @functools.cached_property
    def constant(self) -> bool:
        """Whether what JAX sends back does not depend on where it is evaluated."""
        active, constants = self.inputs
        moving = [True] * len(active) + [False] * (len(self._outvars) + len(constants))
        return not any(walk.reaches(self.backward, moving))

    def reached(self, given: Sequence[bool]) -> list[bool]:
        """Which roots get anything from these outputs: those with a say in a decision may."""
        count, constants = len(self.inputs[0]), [False] * len(self.inputs[1])
        flows = walk.reaches(self.backward, [*[False] * count, *given, *constants])
        if not self.origin.decided:
            return flows
        decides = []
        for i in range(count):
            moved = walk.reaches(self.forward, [*(i == j for j in range(count)), *constants])
            decides.append(any(m and g for m, g in zip(moved, given, strict=True)))
        return [a or b for a, b in zip(flows, decides, strict=True)]

    def integrated(
        self,
        operands: tuple[Arrays, Arrays],
        outputs: tuple[Arrays, Arrays],
        constants: Arrays,
        cotangents: Arrays,
    ) -> Arrays:
        """∫₀¹ of it, and the correction, item by item."""
        count = independent_axes(self.forward, len(self.inputs[0]))
        found = path_integral.multipliers(
            lambda v, ct: compat.evaluate(self.backward, [*v, *ct, *constants]),
            (list(map(squeezed, operands[0])), list(map(squeezed, operands[1]))),
            (list(map(squeezed, outputs[0])), list(map(squeezed, outputs[1]))),
            list(map(squeezed, cotangents)),
            functools.partial(_sum_items, count),
            **({"nodes": 1} if self.constant else {}),
        )
        return [m.reshape(v.shape) for m, v in zip(found, operands[0], strict=True)]


def unwalkable(call: Any, active: Sequence[bool]) -> bool:
    """Whether a call with a derivative of its own is to be integrated as a whole."""
    return closes(walk.bodies(call)[0], active)


def closes(jaxpr: Any, active: Sequence[bool]) -> bool:
    """Whether a program does with what depends on x what no rule can look into.

    That is a loop without a reverse mode, a callback, a kernel, another library's primitive.
    """
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
            found.extend(closes(body, _operands(body, inside)) for body in walk.bodies(equation))
        return reached

    walk.walk(jaxpr, active, visit, known=lambda _: False)
    return any(found)


def _operands(body: Any, mask: Sequence[bool]) -> Sequence[bool]:
    """Which inputs of a body are active: a conditional's index is none of them."""
    count = len(compat.open_jaxpr(body)[0].invars)
    return mask[len(mask) - count :] if count <= len(mask) else [any(mask)] * count


def _is_inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
