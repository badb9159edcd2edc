"""Relevance through any program: the rule of each group of equations, in multipliers m = R/value.

| what | rule |
|---|---|
| a layer: a product with constant weights, and the constants behind it | its table's (`layers`) |
| a scalar function g of one value | R as it is: m · g(z)/z |
| a sum | its derivative, with the stabiliser ε |
| a product of two values | one half to each, but nothing to a gate |
| what a norm divides by | counts as a constant |
| softmax, logsumexp, maxima and everything else | JAX's own derivative |

Source: Achtibat et al., arXiv 2402.05602, eqs. 6 (ε), 9 (identity), 13 (softmax), 15 (products),
and section 3.3.3 (norms).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import wide
from jaxplain._patterns import inside
from jaxplain.surrogate import compat, patterns, primitives
from jaxplain.surrogate.backward import attach, refused_late, scaled
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.factors import product, quotient
from jaxplain.surrogate.rules.layers import Epsilon, LayerRule
from jaxplain.surrogate.rules.taps import multiplier_tap
from jaxplain.surrogate.rules.weighted import after_linear, settled_layer, stabilised
from jaxplain.surrogate.rules.whole import unwalkable
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled, value
from jaxplain.surrogate.values.relevance import (
    Chain,
    Hints,
    Layer,
    Relevant,
    Steps,
    Waiting,
    is_affine,
    is_number,
)

_KINDS = {
    "dot_general": "dense",
    "ragged_dot_general": "dense",
    "conv_general_dilated": "conv",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """The rule of a layer: by its name, else by its kind, else the one of all."""

    rule: LayerRule
    dense: Choice | None = None
    conv: Choice | None = None
    within: tuple[tuple[str, Choice], ...] = ()

    def at(self, equation: Equation) -> LayerRule:
        """The rule where an equation stands; of several patterns the last that fits."""
        for pattern, choice in reversed(self.within):
            if inside(equation.path, pattern):
                return choice.at(equation)
        by_kind = getattr(self, _KINDS[equation.primitive.name])
        return self.rule if by_kind is None else by_kind.at(equation)


@dataclasses.dataclass(frozen=True)
class Relevances:
    """What a table of relevance consists of; called as the rule of products with weights.

    Args:
      layers: the rule of each layer.
      first: that of a layer that sees the input, None for the same.
      sums: the stabiliser of sums.
      detached: whether a softmax, and a product's operand that came out of an activation, count as
        constants (CP-LRP).
    """

    layers: Choice
    first: Choice | None = None
    sums: float = 1e-6
    detached: bool = False

    def __call__(self, equation: Equation, *operands: Any) -> list[Any]:
        """A product: with constant weights a layer, of two values one half to each."""
        operands = tuple(map(_continuous, map(settled, operands)))
        active = [i for i, o in enumerate(operands) if isinstance(o, Lifted)]
        if not active:
            return equation.bind(*operands)
        if not _is_real(equation.aval) or not all(_is_real(operands[i]) for i in active):
            return native(equation, *operands)
        if len(active) > 1:
            return [product(self.detached, equation, *operands)]
        (position,) = active
        weights = [i for i, o in enumerate(operands) if i != position and _is_real(jax.typeof(o))]
        if not weights:  # integers, which have no parts of one sign
            return native(equation, *operands)
        return [Layer(equation, operands, position, weights[0], self.settle)]

    def table(self) -> RuleTable:
        """The rules by primitive."""
        found = RuleTable(Relevant, fallback=native, keeps=unwalkable, remembers=False)
        for group in ("linear", "chosen", "curved", "linear_solve"):
            found = found.register(primitives.group(group), native)
        found = found.register(primitives.group("maximum"), maximum)
        found = found.register(primitives.group("discrete"), discrete)
        found = found.register(primitives.group("opaque"), refuse)
        found = found.register(primitives.group("bilinear"), self)
        found = found.register(primitives.group("elementwise"), self.elementwise, waiting=True)
        found = found.register(compat.resolve(["add_any"]), self.elementwise, waiting=True)
        found = found.register(primitives.where(lambda f: f.moves), moved, waiting=True)
        found = found.register(compat.resolve(["split", "unstack"]), divided)
        sums = compat.resolve(["reduce_sum", "reduce_window_sum", "cumsum"])
        found = found.register(sums, self.summed)
        for pattern in (patterns.softmax, patterns.log_softmax, patterns.logsumexp):
            found = found.register(pattern, self.exponential)
        return found.register(patterns.tap, multiplier_tap)

    # Elementwise equations.

    def elementwise(self, equation: Equation, *operands: Any) -> list[Any]:
        """One root: wait for the whole function.  Several: a sum, a product, or JAX's own."""
        name, shape = equation.primitive.name, equation.aval.shape
        operands = tuple(_spread(_continuous(operand), shape) for operand in operands)
        active = _lifted(operands)
        if not active:
            return equation.bind(*operands)
        if any(_is_complex(o) for o in (equation.aval, *active)):
            return native(equation, *map(settled, operands))
        if name == "stop_gradient":
            return [jax.lax.stop_gradient(value(settled(active[0])))]
        if name == "convert_element_type" and _is_real(equation.aval) and _is_input(active[0]):
            return moved(equation, *operands)
        if len({id(o.root) for o in active}) == 1:
            return [Chain(equation, operands, self.settle)]
        if not _is_real(equation.aval):  # a decision: nothing flows through it
            return equation.bind(*map(value, operands))
        operands = tuple(map(settled, operands))
        active = [i for i, o in enumerate(operands) if isinstance(o, Lifted)]
        if len({id(operands[i]) for i in active}) == 1:
            return [Chain(equation, operands, self.settle)]
        if name in ("add", "sub", "add_any"):
            return [self._sum(equation, operands)]
        if name == "mul":
            return [product(self.detached, equation, *operands)]
        if name == "div":
            return [quotient(self.detached, equation, *operands)]
        return native(equation, *operands)

    def _sum(self, equation: Equation, operands: Sequence[Any]) -> Relevant:
        """R_a = a/(a + b + ε sgn) R: the derivative, times the share that the stabiliser leaves."""
        (summed,) = native(equation, *operands)
        return Relevant(stabilised(summed.value, self.sums), summed.hints)

    def summed(self, equation: Equation, operand: Any) -> list[Any]:
        """A sum of elements waits for what scales it: a mean, a pool."""
        if not isinstance(operand, Relevant) or not _is_real(operand):
            return native(equation, operand)
        return [Layer(equation, (operand,), 0, None, self.settle)]

    def exponential(self, equation: Equation, *operands: Any) -> list[Any]:
        """Softmax and logsumexp: JAX's own derivative, R_i = x_i (R_j/p_j - Σ …); or a constant."""
        name, (x, *others) = equation.primitive.name, operands
        if name == "logsumexp" or not isinstance(x, Relevant):
            return native(equation, *operands)
        backward = _constant if self.detached and name == "softmax" else _BACK[name]
        found = attach(
            lambda x, others: equation.function(x, *others),
            lambda x, others: equation.function(x, *others),
            lambda y, cotangent: backward(y, cotangent, equation.params["axes"]),
        )(x.value, list(map(value, others)))
        hints = Hints(frozen=backward is _constant, active=True, positive=name == "softmax")
        return [Relevant(found, hints)]

    # What waits, when it is asked for.

    def settle(self, node: Any) -> Any:
        """A layer with what follows it, or a scalar function of a computed value."""
        if not _is_real(node):
            return node.value
        if node.affine and isinstance(node.root, Layer):
            return self._layer(node)
        if _ends_linearly(node):
            return _linearly(node)
        begin = Steps(node, node.root).entrance()
        if _is_relu(node, begin) and isinstance(begin.root, Layer) and not begin.computed:
            return _identity(node, begin, self._layer(begin, above=True))
        return _identity(node, begin, settled(begin))

    def _layer(self, node: Any, above: bool = False) -> Relevant:
        """A layer by the rule of its place; `above` says that only outputs above 0 are heard."""
        layer: Layer = node.root
        if layer.weight is None:
            return settled_layer(node, Epsilon(self.sums))
        starts = layer.operand.hints.first and self.first is not None
        first = self.first.at(layer.equation) if starts and self.first is not None else None
        return settled_layer(node, self.layers.at(layer.equation), first, above)


def _of_softmax(p: Any, cotangent: Any, axes: Any) -> Any:
    """p (m - Σ p m)."""
    return p * (cotangent - jnp.sum(p * cotangent, axes, keepdims=True))


def _of_log_softmax(y: Any, cotangent: Any, axes: Any) -> Any:
    """m - p Σ m."""
    return cotangent - jnp.exp(y) * jnp.sum(cotangent, axes, keepdims=True)


def _constant(y: Any, cotangent: Any, axes: Any) -> None:
    """Nothing flows back."""
    return None


_BACK = {"softmax": _of_softmax, "log_softmax": _of_log_softmax}


def _is_relu(node: Chain, begin: Any) -> bool:
    """Whether it is max(z, 0)."""
    if node.equation.primitive.name != "max" or len(node.actives) > 1:
        return False
    constants = [o for o in node.operands if not isinstance(o, Lifted)]
    return node.actives[0] is begin and all(is_number(o) and float(o) == 0 for o in constants)


def _identity(node: Chain, begin: Any, z: Relevant) -> Relevant:
    """g(z)/z, of the whole of g: relevance as it is."""
    steps = Steps(node, begin)

    def forward(z: Any, constants: Any) -> tuple[Any, Any]:
        y, zero = steps(z, constants), z == 0
        ratio = wide(y) / wide(jnp.where(zero, 1, z))
        return y, jnp.where(zero, 0, ratio)

    y = scaled(forward)(z.value, steps.constants)
    hints = Hints(
        note=_note(node, z.hints.note),
        frozen=z.hints.frozen,
        active=True,
        gate=_is_gate(steps),
        positive=_is_positive(node),
    )
    return Relevant(y, hints)


def _is_gate(steps: Steps) -> bool:
    """Whether the function is known, and something else than 0 at 0."""
    if not all(map(is_number, steps.constants)):
        return False
    with compat.computed_now():
        at_zero = float(steps(jnp.zeros((), steps.begin.dtype), steps.constants))
    return bool(np.isfinite(at_zero)) and at_zero != 0


def _is_positive(node: Chain) -> bool:
    """Whether the last equation gives no negative number."""
    name = node.equation.primitive.name
    if name == "max":
        return any(is_number(o) and float(o) >= 0 for o in node.operands)
    return name in ("exp", "exp2", "logistic", "abs", "square", "sqrt", "rsqrt")


def _note(node: Chain, note: str) -> str:
    """Of a function of sums: a sum, or a norm's scale if it divides."""
    if not note:
        return ""
    return "scale" if any(map(_divides, Steps(node, node.root).nodes)) else note


def _divides(node: Chain) -> bool:
    name = node.equation.primitive.name
    if name == "div":
        return isinstance(node.operands[1], Lifted)
    return name in ("rsqrt", "pow") or (
        name == "integer_pow" and node.equation.params["y"] < 0
    )


def _ends_linearly(node: Chain) -> bool:
    """Whether the last equation is linear but for an array that is added: a mask, a scale.

    A single number that is added belongs to the function: 2σ(2z) - 1 spells tanh z.
    """
    if not is_affine(node) or len(node.actives) > 1:
        return False
    adds = node.equation.primitive.name in ("add", "sub")
    constants = [o for o in node.operands if not isinstance(o, Lifted)]
    return node.affine or not adds or not all(np.size(o) == 1 for o in constants)


def _linearly(node: Chain) -> Relevant:
    """The last equation by its derivative, which a constant takes no part in."""
    (inner,) = map(settled, node.actives)
    operands = [inner.value if isinstance(o, Lifted) else o for o in node.operands]
    return Relevant(node.equation.function(*operands), after_linear(node, inner.hints))


# Everything else.


def native(equation: Equation, *operands: Any) -> list[Any]:
    """JAX's own derivative."""
    outputs = equation.bind(*map(value, operands))
    hints = [o.hints for o in operands if isinstance(o, Relevant)]
    if not hints:
        return outputs
    floats = all(isinstance(o, Relevant) or not _is_real(jax.typeof(o)) for o in operands)
    keeps = equation.facts.group == "linear" or equation.primitive.name in ("add", "add_any")
    sums = all(h.note for h in hints) and (keeps or equation.primitive.name == "sub")
    joint = Hints(
        note="sum" if sums else "",
        frozen=all(h.frozen for h in hints),
        active=keeps and floats and all(h.active for h in hints),
        gate=keeps and floats and all(h.gate for h in hints),
        positive=keeps and floats and all(h.positive for h in hints) and not _subtracts(equation),
    )
    return [Relevant(y, joint) if _is_inexact(jax.typeof(y)) else y for y in outputs]


def _subtracts(equation: Equation) -> bool:
    return equation.primitive.name == "scatter-sub" or (equation.facts.group != "linear" and (
        equation.primitive.name not in ("add", "add_any")
    ))


def moved(equation: Equation, *operands: Any) -> list[Any]:
    """A move of elements: of a layer that waits it is a part, and keeps the input what it is."""
    operand: Any
    operand, *rest = map(_continuous, operands)
    rest = [value(settled(o)) for o in rest]
    if not isinstance(operand, Lifted):
        return equation.bind(operand, *rest)
    if isinstance(operand, Layer | Chain) and _moves_all(equation) and _is_open(operand):
        return [operand.moved(equation)]
    operand = settled(operand)
    if not isinstance(operand, Relevant):
        return equation.bind(operand, *rest)
    return [operand.through(lambda v: equation.function(v, *rest), operand.hints)]


def divided(equation: Equation, operand: Any) -> list[Any]:
    """A value in pieces, each of which is the input if it is."""
    if not isinstance(operand, Relevant):
        return equation.bind(operand)
    count = len(equation.outputs)
    pieces = (lambda v, i=i: equation.bind(v)[i] for i in range(count))
    return [operand.through(piece, operand.hints) for piece in pieces]


def _moves_all(equation: Equation) -> bool:
    """Whether every element goes to one place."""
    names = ("reshape", "squeeze", "transpose", "rev", "copy")
    broadcasts = equation.primitive.name == "broadcast_in_dim"
    same_size = broadcasts and equation.aval.size == equation.inputs[0].aval.size
    return (equation.primitive.name in names or same_size) and len(equation.inputs) == 1


def _is_open(node: Layer | Chain) -> bool:
    """Whether it is a layer that waits for further constants."""
    return not node.computed and isinstance(node.root, Layer) and node.affine


def maximum(equation: Equation, *operands: Any) -> list[Any]:
    """All to the winner, by JAX's derivative; computed once, or XLA's rounding leaves none."""
    kept = [
        dataclasses.replace(o, value=compat.apart(o.value)) if isinstance(o, Relevant) else o
        for o in operands
    ]
    outputs = native(equation, *kept)
    (hints,) = {o.hints for o in operands if isinstance(o, Relevant)} or {Hints()}
    hints = dataclasses.replace(hints, note="", first=False)
    return [dataclasses.replace(o, hints=hints) if isinstance(o, Relevant) else o for o in outputs]


def discrete(equation: Equation, *operands: Any) -> list[Any]:
    """Booleans and integers: nothing flows back."""
    return equation.bind(*map(value, operands))


def refuse(equation: Equation, *operands: Any) -> list[Any]:
    """Operations without a derivative: refused where a multiplier arrives."""
    if not any(_is_inexact(atom.aval) for atom in equation.outputs):
        return discrete(equation, *operands)
    refusal = UnsupportedPrimitive(
        f"{equation} at {equation.line} is not differentiable, and depends on x: JAX has no "
        f"derivative of '{compat.inner_name(equation)}'. Freeze it by `jax.lax.stop_gradient` "
        "around its operand, or give the function around it a derivative by `jax.custom_vjp`."
    )
    positions = [i for i, o in enumerate(operands) if isinstance(o, Relevant)]

    def function(arrays: Sequence[Any]) -> Any:
        filled = list(map(value, operands))
        for i, array in zip(positions, arrays, strict=True):
            filled[i] = array
        return equation.bind(*filled)

    found = refused_late(function, refusal)([operands[i].value for i in positions])
    return [Relevant(y) if _is_inexact(jax.typeof(y)) else y for y in found]


# Values.


def _lifted(operands: Sequence[Any]) -> list[Any]:
    return [operand for operand in operands if isinstance(operand, Lifted)]


def _is_real(operand: Any) -> bool:
    return jnp.issubdtype(operand.dtype, jnp.floating)


def _is_complex(operand: Any) -> bool:
    return jnp.issubdtype(operand.dtype, jnp.complexfloating)


def _is_inexact(operand: Any) -> bool:
    return jnp.issubdtype(operand.dtype, jnp.inexact)


def _is_input(operand: Any) -> bool:
    return isinstance(operand, Relevant) and operand.hints.first


def _continuous(operand: Any) -> Any:
    """An integer that came out of a loop is a plain one."""
    discrete = isinstance(operand, Relevant) and not _is_inexact(operand)
    return operand.value if discrete else operand


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    """An active operand brought to the shape of the elementwise result; one computed by itself."""
    if isinstance(operand, Waiting) and operand.computed:
        operand = operand.settle()
    if not isinstance(operand, Lifted) or tuple(operand.shape) == tuple(shape):
        return operand
    operand = settled(operand)
    if not isinstance(operand, Relevant):
        return operand
    hints = dataclasses.replace(operand.hints, first=False)
    return Relevant(broadcast(operand.value, shape), hints)
