"""Values that wait: elementwise regions, and decisions.

Equations that are elementwise in values with ONE root form one scalar function of that root,
whatever primitives spell it; its multiplier is its divided difference, taken when something else
asks for the value.  Regions over several roots that make booleans wait as well, until a choice
between real numbers shows what they decide.  A decision is an integer or boolean that comes out of
any other equation: it waits with what decided it, and so does what is frozen.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import (
    Pair,
    Paired,
    active_roots,
    actives,
    is_inexact,
    is_real,
    reference,
)

_LINEAR = ("add", "sub", "neg", "convert_element_type")
_SCALINGS = ("mul", "neg", "div", "convert_element_type", "stop_gradient")


class Waiting(Paired):
    """A paired value that is computed when it is asked for."""

    waiting = True

    @functools.cached_property
    def reference(self) -> Any:
        """The value at the reference: that half can always be computed."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Region(Waiting):
    """An elementwise equation whose value nobody has asked for yet.

    `settle_by` is the rule of a region of real numbers, which gives the computed value; `on_pairs`
    that of the same region over pairs, where its roots are values in parts.
    """

    equation: Equation
    operands: tuple[Any, ...]
    settle_by: Callable[[Region], Any]
    on_pairs: Callable[[Region], Any] | None = None

    @functools.cached_property
    def reference(self) -> Any:
        return self.equation.function(*map(reference, self.operands))

    @property
    def dtype(self) -> Any:
        """Known without the reference: asked for inside a `custom_vjp`, that would stay there."""
        return self.equation.aval.dtype

    @functools.cached_property
    def roots(self) -> tuple[Any, ...]:
        return active_roots(self.operands)

    @functools.cached_property
    def frozen(self) -> bool:
        stopped = self.equation.primitive.name == "stop_gradient"
        return stopped or all(operand.frozen for operand in actives(self.operands))

    @functools.cached_property
    def linear(self) -> bool:
        return is_linear(self.equation, self.operands) and all(
            is_real(operand) and operand.linear for operand in actives(self.operands)
        )

    @functools.cached_property
    def note(self) -> str:
        if not all(root.note for root in self.roots):
            return ""
        if divides(self.equation, self.operands):
            return "scale"
        kept = self.equation.primitive.name in _SCALINGS
        notes = [operand.note for operand in actives(self.operands)]
        return "scale" if kept and "scale" in notes else "sum"

    @property
    def repeated(self) -> tuple[int, ...]:
        return self.roots[0].repeated if len(self.roots) == 1 else ()

    @property
    def bounded(self) -> bool:
        """Whether it lies between -1 and 1, by what computes it last."""
        return self.equation.facts.bounded

    @functools.cached_property
    def value(self) -> Any:
        """The value at x, by JAX's own operations."""
        return self.equation.function(*map(value, self.operands))

    @functools.cached_property
    def _settled(self) -> Any:
        if self.frozen:
            # Constant to differentiation, hence shared by both passes.
            return jax.lax.stop_gradient(self.value)
        if not is_real(self) or not any(map(is_real, self.roots)):
            return self.roots[0].discrete(self.value, self.reference)
        return self.settle_by(self)

    def settle(self) -> Any:
        return self._settled

    def after(self, equation: Equation, *operands: Any) -> Region:
        """A further elementwise equation of the same kind of region."""
        return dataclasses.replace(self, equation=equation, operands=operands)

    def through(self, equation: Equation, move: Callable[[Any], Any]) -> Region:
        """The same expression after an equation that moves elements, which commutes with it."""
        moved: dict[int, Any] = {}

        def visit(operand: Any) -> Any:
            if not isinstance(operand, Paired):
                alike = not self.shape or jnp.ndim(operand)  # else it is the same for all elements
                return equation.function(broadcast(operand, self.shape)) if alike else operand
            if id(operand) not in moved:
                if isinstance(operand, Region):
                    inner = tuple(map(visit, operand.operands))
                    moved[id(operand)] = dataclasses.replace(operand, operands=inner)
                else:
                    moved[id(operand)] = move(operand)
            return moved[id(operand)]

        return visit(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Made(Waiting):
    """An output of an equation, with the operands that made it.

    An integer or boolean, what is frozen, or what has no derivative: no multiplier goes through
    it, yet at the reference it has another value. What decides by it, or computes with it and with
    what it was made of, is then a function of those operands.
    """

    equation: Equation
    operands: tuple[Any, ...]
    number: int  # of the output
    settled: Any

    @property
    def frozen(self) -> bool:
        return not isinstance(self.settled, Paired)

    @property
    def underivable(self) -> bool:
        return not self.frozen and is_inexact(self.settled)

    @functools.cached_property
    def reference(self) -> Any:
        if not self.frozen:
            return self.settled.reference
        return self.equation.bind(*map(reference, self.operands))[self.number]

    @property
    def linear(self) -> bool:
        return False

    @property
    def value(self) -> Any:
        return value(self.settled)

    def settle(self) -> Any:
        return self.settled


def made(equation: Equation, operands: Sequence[Any], number: int, output: Any) -> Any:
    """An equation's output; with what made it, if no multiplier goes through it."""
    active = actives(operands)
    if isinstance(output, Pair):
        kept = not is_inexact(output) or any(operand.underivable for operand in active)
    else:
        kept = not isinstance(output, Paired) and bool(active)  # it is frozen
    return Made(equation, tuple(operands), number, output) if kept else output


def is_linear(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether an elementwise equation is linear in its active operands together."""
    name = equation.primitive.name
    active = [isinstance(operand, Paired) for operand in operands]
    fits = {
        # A mask's product has a stand-in where it is infinite, to which the factor doesn't lead.
        "mul": sum(active) == 1 and not any(map(_is_huge, operands)),
        "div": not active[-1],
        "select_n": not active[0],
    }.get(name, name in _LINEAR)
    return fits and jnp.issubdtype(equation.aval.dtype, jnp.floating)


def known_number(operand: Any) -> float | None:
    """The real number that a program names here, if it does."""
    if isinstance(operand, Paired | jax.core.Tracer) or np.size(operand) != 1:
        return None
    number = np.asarray(operand)
    real = jnp.issubdtype(number.dtype, jnp.floating)
    return float(number.reshape(())) if real else None


def _is_huge(operand: Any) -> bool:
    """Whether this is one known number that counts as infinite."""
    number = known_number(operand)
    return number is not None and not abs(number) <= float(jnp.finfo(operand.dtype).max) / 4


def is_choice(operand: Any) -> bool:
    """Whether this is a choice that waits, as it is or scaled.

    A masked number in it is infinite, which is no less so when scaled: its change is known only
    when something else asks for it.
    """
    if not isinstance(operand, Region) or not is_real(operand):
        return False
    name = operand.equation.primitive.name
    return name == "select_n" or scales_a_choice(operand.equation, operand.operands)


def scales_a_choice(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether the equation scales or shifts such a choice by constants."""
    active, name = actives(operands), equation.primitive.name
    if name not in (*_LINEAR, "mul", "div") or len(active) > 1 or not is_choice(active[0]):
        return False
    return name != "div" or active[0] is operands[0]


def divides(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether an elementwise equation divides by something that depends on x."""
    name = equation.primitive.name
    if name == "div":
        return isinstance(operands[1], Paired)
    return name in ("rsqrt", "pow") or (name == "integer_pow" and equation.params["y"] < 0)


class Expression:
    """A region as a function of its roots, with everything else as explicit arguments."""

    def __init__(self, output: Region, keys: Any = None, roots: Any = None):
        self.output = output
        self.keys = output.roots if keys is None else keys  # where the expression begins
        self.roots = output.roots if roots is None else roots  # what stands there
        self.nodes = tuple(self._in_order(output))
        operands = [operand for node in self.nodes for operand in node.operands]
        self.constants = [operand for operand in operands if not isinstance(operand, Paired)]

    def _in_order(self, output: Region) -> list[Region]:
        ordered: dict[int, Region] = {}
        begins = set(map(id, self.keys))

        def visit(node: Region) -> None:
            if id(node) not in ordered and id(node) not in begins:
                for operand in node.operands:
                    if isinstance(operand, Region):
                        visit(operand)
                ordered[id(node)] = node

        visit(output)
        return list(ordered.values())

    def run(
        self,
        values: Sequence[Any],
        constants: Sequence[Any],
        apply: Callable[[Region, list[Any]], Any],
    ) -> Any:
        """`apply(node, operand values)` for each node in order; the last one's result."""
        known = zip_by_id(self.keys, values)
        remaining = iter(constants)
        for node in self.nodes:
            operands = [
                known[id(operand)] if isinstance(operand, Paired) else next(remaining)
                for operand in node.operands
            ]
            known[id(node)] = apply(node, operands)
        return known[id(self.output)]

    def evaluate(self, values: Sequence[Any], constants: Sequence[Any]) -> Any:
        """The expression at these values of its roots."""
        return self.run(values, constants, lambda node, ops: node.equation.function(*ops))

    def all_values(self, values: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        """Every node's value, in order."""
        results = []

        def apply(node: Region, operands: list[Any]) -> Any:
            results.append(node.equation.function(*operands))
            return results[-1]

        self.run(values, constants, apply)
        return results


def zip_by_id(keys: Sequence[Any], values: Sequence[Any]) -> dict[int, Any]:
    """{id(key): value}."""
    return {id(key): value for key, value in zip(keys, values, strict=True)}
