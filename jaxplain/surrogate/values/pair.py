"""DeepLIFT's lifted value: an array and its reference, elementwise regions put off.

Equations that are elementwise in values with ONE root form one scalar function of that root,
whatever primitives spell it; its multiplier is its divided difference, taken when something else
asks for the value.  Equations over several roots that make booleans wait as well, until a choice
between real numbers shows what they decide.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import scaled
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.values.lifted import Lifted

_MOST_PLAYERS = 6


class Paired(Lifted):
    """A value with a reference, computed or waiting.

    The reference half never touches the value, so that under `vmap` over examples with one
    reference it is computed once.
    """

    needs_reference = True
    reference: Any
    roots: tuple[Any, ...]
    linear: bool  # in its roots
    # Hints for products (see `rescale`): a sum over elements, and the inverse of one, which grows
    # without bound where the reference is near zero.
    reduced: bool
    scale: bool

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.reference)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.reference)


class Pair(Paired):
    """(value, reference), both computed; the root of what follows."""

    def __init__(self, value: Any, reference: Any, *, reduced: bool = False, scale: bool = False):
        self.value = value
        self.reference = reference
        self.roots = (self,)
        self.linear = True
        self.reduced = reduced
        self.scale = scale

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Pair:
        return cls(value, reference)


jax.tree_util.register_pytree_node(
    Pair, lambda pair: ((pair.value, pair.reference), None), lambda _, leaves: Pair(*leaves)
)

_INVERSES = ("rsqrt", "pow")
_SCALINGS = ("mul", "neg", "div", "convert_element_type", "stop_gradient")


class Deferred(Paired):
    """An elementwise equation whose value nobody has asked for yet."""

    def __init__(self, equation: Equation, operands: Sequence[Any]):
        self.equation = equation
        self.operands = tuple(operands)
        self.reference = equation.function(*(_reference(operand) for operand in operands))
        active = [operand for operand in operands if isinstance(operand, Paired)]
        self.roots = unique(root for operand in active for root in operand.roots)
        self.frozen = equation.primitive.name == "stop_gradient" or all(
            getattr(operand, "frozen", False) for operand in active
        )
        self.linear = _is_linear(equation, operands)
        self.reduced = all(root.reduced for root in self.roots)
        self.scale = self.reduced and _is_inverse(equation, operands)

    @functools.cached_property
    def _settled(self) -> Any:
        expression = Expression(self)
        values = [root.value for root in self.roots]
        if self.frozen:
            # Constant to differentiation, hence shared by both passes.
            return jax.lax.stop_gradient(expression.evaluate(values, expression.constants))
        if self.linear or not is_real(self) or not any(is_real(root) for root in self.roots):
            value = expression.evaluate(values, expression.constants)
        elif len(self.roots) == 1:
            value = expression.chain()
        else:
            value = expression.shapley()
        return Pair(value, self.reference, reduced=self.reduced, scale=self.scale)

    def settle(self) -> Any:
        return self._settled

    def through(self, equation: Equation, rule: Any) -> Deferred:
        """The same expression after a reshaping `equation`, which commutes with it."""
        moved: dict[int, Any] = {}

        def move(operand: Any) -> Any:
            if not isinstance(operand, Paired):
                if jnp.ndim(operand) == 0:
                    return operand
                return equation.function(broadcast(operand, self.shape))
            if id(operand) not in moved:
                if isinstance(operand, Deferred):
                    inner = Deferred(operand.equation, [move(o) for o in operand.operands])
                    moved[id(operand)] = inner
                else:
                    (moved[id(operand)],) = rule(equation, operand)
            return moved[id(operand)]

        return move(self)


def _reference(operand: Any) -> Any:
    return operand.reference if isinstance(operand, Paired) else operand


def _is_linear(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether the equation is linear in its root, so that its own vjp is the rule."""
    name = equation.primitive.name
    active = [isinstance(operand, Paired) for operand in operands]
    if name == "mul":
        fits = sum(active) == 1
    elif name in ("div", "select_n"):
        fits = not active[1] if name == "div" else not active[0]
    else:
        fits = name in ("add", "sub", "neg", "convert_element_type")
    return (
        fits
        and jnp.issubdtype(equation.aval.dtype, jnp.floating)
        and all(
            is_real(o) and getattr(o, "linear", True) for o in operands if isinstance(o, Paired)
        )
    )


def _is_inverse(equation: Equation, operands: Sequence[Any]) -> bool:
    name = equation.primitive.name
    if name in _INVERSES or (name == "integer_pow" and equation.params["y"] < 0):
        return True
    if name == "div" and isinstance(operands[1], Lifted):
        return True
    return name in _SCALINGS and any(getattr(operand, "scale", False) for operand in operands)


def unique(items: Any) -> tuple[Any, ...]:
    """The items without repetition, by identity."""
    return tuple({id(item): item for item in items}.values())


def is_real(lifted: Any) -> bool:
    return jnp.issubdtype(lifted.dtype, jnp.floating)


def zip_by_id(keys: Sequence[Any], values: Sequence[Any]) -> dict[int, Any]:
    return {id(key): value for key, value in zip(keys, values, strict=True)}


class Expression:
    """A deferred value as a function of its roots, with everything else as explicit arguments."""

    def __init__(self, output: Deferred, keys: Any = None, roots: Any = None):
        self.output = output
        self.keys = output.roots if keys is None else keys  # where the expression begins
        self.roots = output.roots if roots is None else roots  # what stands there
        self.nodes = tuple(self._in_order(output))
        operands = [operand for node in self.nodes for operand in node.operands]
        self.constants = [operand for operand in operands if not isinstance(operand, Paired)]

    def _in_order(self, output: Deferred) -> list[Deferred]:
        ordered: dict[int, Deferred] = {}

        begins = {id(key) for key in self.keys}

        def visit(node: Deferred) -> None:
            if id(node) not in ordered and id(node) not in begins:
                for operand in node.operands:
                    if isinstance(operand, Deferred):
                        visit(operand)
                ordered[id(node)] = node

        visit(output)
        return list(ordered.values())

    def _run(self, values: Sequence[Any], constants: Sequence[Any], apply: Any) -> Any:
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
        return self._run(values, constants, lambda node, ops: node.equation.function(*ops))

    def _all_values(self, values: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        """Every node's value, in order."""
        results = []

        def apply(node: Deferred, operands: list[Any]) -> Any:
            results.append(node.equation.function(*operands))
            return results[-1]

        self._run(values, constants, apply)
        return results

    def chain(self) -> Any:
        """One root: the value, with the divided difference as its slope."""
        (root,) = self.roots
        references = [node.reference for node in self.nodes]

        def valued_slope(value: Any, passive: Any) -> tuple[Any, Any]:
            constants, reference, references = passive
            return self.valued_slope(value, reference, constants, references)

        passive = (self.constants, root.reference, references)
        return scaled(valued_slope, apart=root.reduced)(root.value, passive)

    def slope(self, value: Any, reference: Any, constants: Any) -> Any:
        """(g(value) - g(reference))/(value - reference) for one root; 0 if nothing flows."""
        return self.valued_slope(value, reference, constants)[1]

    def valued_slope(
        self, value: Any, reference: Any, constants: Any, references: Any = None
    ) -> tuple[Any, Any]:
        """g(value) with the slope from the reference; `references` are the nodes' values there."""
        return self._valued_slope([value], [reference], constants, references, 0)

    def _valued_slope(
        self, values: Any, starts: Any, constants: Any, references: Any, moving: int
    ) -> tuple[Any, Any]:
        """The same of several roots, of which one moves and the others are constants."""
        if references is None:
            references = self._all_values(starts, constants)
        delta = divided_difference.change(values[moving], starts[moving])
        slopes: dict[int, Any] = {id(self.keys[moving]): jnp.ones_like(delta)}
        known = {**zip_by_id(self.keys, starts), **zip_by_id(self.nodes, references)}

        def step(node: Deferred, operands: list[Any]) -> Any:
            result = node.equation.function(*operands)
            slopes[id(node)] = divided_difference.slope(
                divided_difference.Step(
                    node.equation,
                    operands,
                    [known.get(id(o), v) for o, v in zip(node.operands, operands, strict=True)],
                    [slopes.get(id(o)) for o in node.operands],
                    result,
                    known[id(node)],
                    delta,
                )
            )
            return result

        result = self._run(values, constants, step)
        slope = slopes[id(self.output)]
        if slope is None:
            slope = jnp.zeros_like(delta)
        slope = jnp.broadcast_to(slope, delta.shape)
        return result, divided_difference.finite(slope, result, known[id(self.output)], delta)

    def shapley(self) -> Any:
        """Several roots: their Shapley values over the corners, each divided by its own Δ."""
        count = len(self.roots)
        if count > _MOST_PLAYERS:
            raise UnsupportedPrimitive(
                f"'{self.output.equation.primitive.name}' at {self.output.equation.line} chooses "
                f"between values by {count} different ones that depend on x; at most "
                f"{_MOST_PLAYERS} can be told apart. Split the choice into several `jnp.where`."
            )
        players = [i for i, root in enumerate(self.roots) if is_real(root)]

        def valued_slopes(values: Sequence[Any], passive: Any) -> tuple[Any, list[Any]]:
            constants, discrete, references = passive
            ends = (references, _merge(values, discrete, players, count))
            slopes = [self._shapley_slope(i, ends, constants) for i in players]
            return self.evaluate(ends[1], constants), slopes

        discrete = [root.value for i, root in enumerate(self.roots) if i not in players]
        references = [root.reference for root in self.roots]
        active = [self.roots[i].value for i in players]
        return scaled(valued_slopes)(active, (self.constants, discrete, references))

    def _shapley_slope(self, player: int, ends: Any, constants: Any) -> Any:
        """Σ_S |S|!(n-1-|S|)!/n! (g(S ∪ i) - g(S))/Δ_i, each difference a chain of the root i."""
        count = len(self.roots)
        others = [i for i in range(count) if i != player]
        total: Any = 0
        for present in itertools.product((0, 1), repeat=count - 1):
            chosen = dict(zip(others, present, strict=True))
            here, there = (
                [ends[chosen.get(i, end)][i] for i in range(count)] for end in (1, 0)
            )
            size = sum(present)
            weight = math.factorial(size) * math.factorial(count - 1 - size) / math.factorial(count)
            total += weight * self._valued_slope(here, there, constants, None, player)[1]
        return total


def _merge(values: Sequence[Any], rest: Sequence[Any], players: list[int], count: int) -> list[Any]:
    active, others = iter(values), iter(rest)
    return [next(active) if i in players else next(others) for i in range(count)]

