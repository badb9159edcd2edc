"""Values of the tables of relevance: an array, and layers and scalar functions that wait.

A layer (a product with constant weights, or a sum) waits for the constants that follow it, so that
a bias, a reshape or a batch norm is part of it; equations that are elementwise in ONE value wait to
be one scalar function of it.  Nothing of a reference is known here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.surrogate.program import Equation, Variable, broadcast
from jaxplain.surrogate.values.lifted import Lifted, Outputs, value
from jaxplain.surrogate.values.single import Single


@dataclasses.dataclass(frozen=True)
class Hints:
    """What is known of how a value came to be.

    Args:
      note: "sum" of sums over elements, "scale" of what divides by them (a norm's).
      first: it is the input itself, at most moved or cast.
      frozen: it counts as a constant.
      active: it came out of an activation or a softmax.
      gate: it came out of a function that is not 0 at 0, as a sigmoid.
      positive: it is not negative, which saves work and changes no number.
    """

    note: str = ""
    first: bool = False
    frozen: bool = False
    active: bool = False
    gate: bool = False
    positive: bool = False


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "entry", "below"],
    meta_fields=["hints"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Relevant(Lifted):
    """A computed array; its cotangent is its multiplier m, and its relevance R = value · m.

    Of what is explained under a table with rules for the first layer `entry` are zeros whose
    cotangent is relevance that a first layer gives, R itself and not R/value; and `below` is the
    same value, whose cotangent is the multiplier that the layer sends further down.
    """

    value: Any
    hints: Hints = Hints()
    entry: Any = None
    below: Any = None

    @classmethod
    def lift(cls, value: Any, reference: Any = None, parts: Any = None) -> Relevant:
        del reference, parts
        return cls(value, Hints(first=True))

    @classmethod
    def constant(cls, value: Any, like: Lifted | None = None) -> Relevant:
        return cls(value)

    @classmethod
    def plain(cls, lifted: Relevant) -> Relevant:
        return cls(lifted.value)

    @classmethod
    def adapt(cls, rule: Callable[..., Outputs], of: type[Lifted]) -> Callable[..., Outputs]:
        return functools.partial(_on_singles, rule) if of is Single else super().adapt(rule, of)

    @property
    def root(self) -> Any:
        """The value that it is an elementwise function of."""
        return self

    @property
    def begins(self) -> bool:
        """Whether a first layer is yet to come."""
        return self.entry is not None

    def through(self, move: Callable[[Any], Any], hints: Hints) -> Relevant:
        """After an equation that moves elements, or casts them."""
        entry, below = (None if v is None else move(v) for v in (self.entry, self.below))
        return Relevant(move(self.value), hints, entry, below)


def _on_singles(rule: Callable[..., Outputs], equation: Any, *operands: Any) -> list[Any]:
    outputs = rule(equation, *(Single(o.value) if isinstance(o, Relevant) else o for o in operands))
    return [Relevant(o.value) if isinstance(o, Single) else o for o in outputs]


class Waiting(Lifted):
    """A value that `settle_by` computes when it is asked for."""

    waiting = True
    equation: Equation
    settle_by: Callable[[Any], Any]

    @property
    def aval(self) -> Any:
        """Its shape and dtype."""
        return self.equation.aval

    @property
    def dtype(self) -> Any:
        return self.aval.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.aval.shape)

    @functools.cached_property
    def _settled(self) -> Any:
        return self.settle_by(self)

    def settle(self) -> Any:
        return self._settled

    @property
    def computed(self) -> bool:
        """Whether somebody asked for it already."""
        return "_settled" in self.__dict__


@dataclasses.dataclass(frozen=True, eq=False)
class Layer(Waiting):
    """A product of one value with constant weights, or a sum of its elements; then moves.

    `position` is that of the value among the equation's operands, `weight` that of the weights
    (None of a sum).
    """

    equation: Equation
    operands: tuple[Any, ...]
    position: int
    weight: int | None
    settle_by: Callable[[Any], Any]
    moves: tuple[Equation, ...] = ()

    @property
    def aval(self) -> Any:
        return (self.moves[-1] if self.moves else self.equation).aval

    @property
    def operand(self) -> Relevant:
        """The value that goes in."""
        return self.operands[self.position]

    @property
    def root(self) -> Any:
        return self

    @property
    def affine(self) -> bool:
        """Whether it is affine in its root."""
        return True

    @property
    def constants(self) -> list[Any]:
        """The weights and what else goes in."""
        return [o for i, o in enumerate(self.operands) if i != self.position]

    def apply(self, array: Any, constants: Sequence[Any]) -> Any:
        """The layer at another array and other weights."""
        operands = [*constants[: self.position], array, *constants[self.position :]]
        y = self.equation.function(*operands)
        for move in self.moves:
            y = move.function(y)
        return y

    @functools.cached_property
    def value(self) -> Any:
        """The value at x, by JAX's own operations."""
        return self.apply(self.operand.value, self.constants)

    def moved(self, equation: Equation) -> Layer:
        """The same layer with another move behind it."""
        return dataclasses.replace(self, moves=(*self.moves, equation))


@dataclasses.dataclass(frozen=True, eq=False)
class Chain(Waiting):
    """An equation that is elementwise in one root, be it a computed value or a layer."""

    equation: Equation
    operands: tuple[Any, ...]
    settle_by: Callable[[Any], Any]

    @functools.cached_property
    def root(self) -> Any:
        return self.actives[0].root

    @functools.cached_property
    def actives(self) -> list[Any]:
        """The operands that depend on x."""
        return [operand for operand in self.operands if isinstance(operand, Lifted)]

    @functools.cached_property
    def affine(self) -> bool:
        return is_affine(self) and all(
            operand is self.root or operand.affine for operand in self.actives
        )

    @functools.cached_property
    def value(self) -> Any:
        """The value at x, by JAX's own operations."""
        return self.equation.function(*map(value, self.operands))

    def moved(self, equation: Equation) -> Chain:
        """The same function of the layer that it begins at, after a move of its elements."""
        known: dict[int, Any] = {id(self.root): self.root.moved(equation)}

        def visit(node: Any) -> Any:
            if not isinstance(node, Lifted):
                scalar = jnp.ndim(node) == 0
                return node if scalar else equation.function(broadcast(node, self.shape))
            if isinstance(node, Chain) and id(node) not in known:
                inner = tuple(map(visit, node.operands))
                known[id(node)] = dataclasses.replace(node, operands=inner, equation=there(node))
            return known[id(node)]

        def there(node: Chain) -> Equation:
            aval = equation.aval.update(dtype=node.dtype)
            return dataclasses.replace(node.equation, outputs=(Variable(aval),))

        return visit(self)


def is_affine(node: Chain) -> bool:
    """Whether one equation by itself is affine in its active operands together, all real."""
    name, active = node.equation.primitive.name, [isinstance(o, Lifted) for o in node.operands]
    fits = {
        "mul": sum(active) == 1,
        "div": active == [True, False],
        "select_n": not active[0],
    }.get(name, name in ("add", "sub", "neg", "convert_element_type", "copy"))
    return fits and all(jnp.issubdtype(o.dtype, jnp.floating) for o in [node, *node.actives])


def is_number(operand: Any) -> bool:
    """Whether this is one number that is known."""
    return not isinstance(operand, Lifted | jax.core.Tracer) and np.ndim(operand) == 0


def _adds_a_number(node: Chain) -> bool:
    return node.equation.primitive.name in ("add", "sub") and any(map(is_number, node.operands))


class Steps:
    """A chain as a function of the value where it begins, with its constants explicit."""

    def __init__(self, output: Any, begin: Any):
        self.output, self.begin = output, begin
        self.nodes: list[Chain] = []
        known = {id(begin)}

        def visit(node: Any) -> None:
            if isinstance(node, Chain) and id(node) not in known:
                known.add(id(node))
                for operand in node.operands:
                    visit(operand)
                self.nodes.append(node)

        visit(output)
        self.constants = [o for n in self.nodes for o in n.operands if not isinstance(o, Lifted)]

    def __call__(self, array: Any, constants: Sequence[Any]) -> Any:
        remaining, known = iter(constants), {id(self.begin): array}
        for node in self.nodes:
            operands = [
                known[id(o)] if isinstance(o, Lifted) else next(remaining) for o in node.operands
            ]
            known[id(node)] = node.equation.function(*operands)
        return known[id(self.output)]

    def entrance(self) -> Any:
        """The last affine value, from the beginning on, that everything passes through.

        A number is a bias after a layer; added to another value it belongs to the function: relu6
        of z + 3, over 6, is a sigmoid of z.
        """
        here = self.begin
        while here is not self.output:
            readers = [n for n in self.nodes if any(o is here for o in n.operands)]
            if len(readers) != 1 or not is_affine(readers[0]):
                return here
            if any(o is not here for o in readers[0].actives):
                return here
            if not isinstance(self.begin, Layer) and _adds_a_number(readers[0]):
                return here
            (here,) = readers
        return here
