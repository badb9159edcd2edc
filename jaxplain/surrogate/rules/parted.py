"""What rules on values in two parts have in common: places, chains, sums, and rules on pairs.

Learned maps and nonlinearities have rules of their own in each table; moves and sums take each part
by itself; what else there is (products, norms, softmax, maxima) follows the Rescale table on the
totals and is divided again.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat, primitives
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.counting import COUNTS, counted
from jaxplain.surrogate.rules.linear import bilinear, hints, linear
from jaxplain.surrogate.rules.operands import check_indices, reference, refuse_counts
from jaxplain.surrogate.rules.rescale import rescale
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Deferred, Expression, Pair, Paired, is_real, unique
from jaxplain.surrogate.values.parted import Parted, Parts


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a nonlinearity stands: what a table may choose its rule by."""

    primitive: str  # of the nonlinearity's last equation
    fed: str | None  # the learned map before it: "dot_general", "conv_general_dilated" or None
    path: str  # of modules and `jax.named_scope`s, as in "encoder/layer_0/mlp"


Choice = Callable[[Place], bool]

_MAPS = {"dense": "dot_general", "conv": "conv_general_dilated"}


def choice(after: str | None, within: str | None, where: Choice | None) -> Choice:
    """The places that fit all conditions given."""
    if after is not None and after not in _MAPS:
        raise ValueError(f"after must be one of {sorted(_MAPS)}, and is {after!r}")

    def chosen(place: Place) -> bool:
        return (
            (after is None or place.fed == _MAPS[after])
            and (within is None or fnmatch.fnmatch(place.path, within))
            and (where is None or where(place))
        )

    return chosen


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a table on values in parts consists of.

    Args:
      lifted: the kind of parts.
      nonlinear: a unary function's parts, `(expression, root, chosen) -> parts`.
      learned: a map with constant weights, `(value, reference, operand, apply, weight) -> parts`.
      chosen: the places where `nonlinear` is told that it may use its own rule.
    """

    lifted: type[Parted]
    nonlinear: Callable[[Expression, Parted, bool], Parts]
    learned: Callable[[Any, Any, Parted, Any, Any], Parts]
    chosen: Choice

    def table(self) -> RuleTable:
        """The rules by primitive."""
        pairs = rescale()
        table = RuleTable(
            self.lifted, {key: on_totals(self, rule) for key, rule in pairs.rules.items()}
        )
        multiply = pairs.rules[compat.resolve(["mul"])[0]]
        groups: dict[str, Rule] = {
            "linear": functools.partial(structural, self),
            "elementwise": functools.partial(elementwise, self, multiply),
            "bilinear": functools.partial(learned, self),
            "discrete": functools.partial(structural, self),
        }
        for name, rule in groups.items():
            table = table.register(primitives.group(name), rule)
        return table.register(COUNTS, functools.partial(counts, self))


class Waiting(Paired):
    """A value that the rules on pairs put off (a product, a predicate), divided when asked for."""

    def __init__(self, lifted: type[Parted], paired: Any, at_value: Any):
        self.lifted = lifted
        self.paired = paired
        self.value = at_value
        self.reference = paired.reference
        self.roots = paired.roots
        self.linear = self.reduced = self.scale = False

    @functools.cached_property
    def _settled(self) -> Any:
        return self.lifted.from_pair(self.paired.settle(), self.value)

    def settle(self) -> Any:
        return self._settled


class Chain(Deferred):
    """Elementwise equations with one root, put off until the whole function is known."""

    def __init__(self, kind: Kind, equation: Equation, operands: Any):
        super().__init__(equation, operands)
        self.kind = kind
        self.value = equation.function(*map(value, operands))

    @functools.cached_property
    def _settled(self) -> Any:
        (root,) = self.roots
        if self.frozen:
            return jax.lax.stop_gradient(self.value)
        if not is_real(self) or not is_real(root):
            return self.kind.lifted(self.value, self.reference, (self.value, self.value))
        active = [operand for operand in self.operands if isinstance(operand, Paired)]
        if len(active) == 1 and _is_affine(self):
            # A scaling keeps the parts: peeled off the end of the chain.
            return _scaled(self, active[0].settle())
        return self._nonlinear(self._entrance())

    def _entrance(self) -> Expression:
        """The chain with scalings peeled off its start, too."""
        expression = Expression(self)
        while True:
            (key,) = expression.keys
            readers = [n for n in expression.nodes if any(o is key for o in n.operands)]
            if len(readers) != 1 or readers[0] is self or not _is_affine(readers[0]):
                return expression
            (reader,) = readers
            if sum(isinstance(operand, Paired) for operand in reader.operands) != 1:
                return expression
            expression = Expression(self, keys=(reader,), roots=(reader.settle(),))

    def _nonlinear(self, expression: Expression) -> Parted:
        (root,) = expression.roots
        place = Place(self.equation.primitive.name, root.fed, self.equation.path)
        # Points between x0 and x in parts are no values of the model: outside the domain of a root,
        # a logarithm or an inverse the parts can't be told apart.
        everywhere = not any(map(_has_a_domain, expression.nodes))
        parts = self.kind.nonlinear(expression, root, everywhere and self.kind.chosen(place))
        return self.kind.lifted(
            self.value, self.reference, parts, reduced=self.reduced, scale=self.scale
        )


_DOMAINS = "sqrt rsqrt log log1p log2 pow cbrt acos acosh asin atanh erf_inv lgamma digamma".split()


def _has_a_domain(node: Deferred) -> bool:
    name = node.equation.primitive.name
    if name == "div":
        return isinstance(node.operands[1], Paired)
    return name in _DOMAINS or (name == "integer_pow" and node.equation.params["y"] < 0)


def _is_affine(node: Deferred) -> bool:
    """Whether one equation by itself is a scaling or a shift."""
    operands = [
        Pair(o.reference, o.reference) if isinstance(o, Paired) else o for o in node.operands
    ]
    return Deferred(node.equation, operands).linear


def _scaled(node: Chain, operand: Parted) -> Parted:
    """A scaling by constants, or a shift."""
    position = next(i for i, o in enumerate(node.operands) if isinstance(o, Paired))
    operands = list(node.operands)

    def at(array: Any) -> Any:
        return node.equation.function(*operands[:position], array, *operands[position + 1 :])

    origin = jnp.zeros_like(operand.reference)
    factor = jax.jvp(at, (origin,), (jnp.ones_like(origin),))[1]
    dtype = jnp.result_type(node.reference)
    first, second = operand.scaled(operand.both, factor)
    return node.kind.lifted(
        node.value,
        node.reference,
        (first.astype(dtype), second.astype(dtype)),
        operand.fed,
        reduced=node.reduced,
        scale=node.scale,
    )


def elementwise(kind: Kind, pair_rule: Rule, equation: Equation, *operands: Any) -> list[Any]:
    """One root: a chain.  Sums keep the parts.  The rest follows the rules on pairs."""
    shape = equation.aval.shape
    operands = tuple(_spread(_unwaiting(equation, operand), shape) for operand in operands)
    if len(_roots(operands)) > 1:
        operands = tuple(o.settle() if getattr(o, "frozen", False) else o for o in operands)
    roots = _roots(operands)
    if not roots:
        return equation.bind(*operands)
    refuse_counts(equation, operands)
    waiting = any(isinstance(operand, Waiting) for operand in operands)
    real = all(is_real(o) for o in operands if isinstance(o, Paired)) and jnp.issubdtype(
        equation.aval.dtype, jnp.floating
    )
    if len(roots) == 1 and not waiting and not _is_complex(equation, operands):
        return [Chain(kind, equation, operands)]
    if equation.primitive.name in ("add", "sub") and real:
        return structural(kind, equation, *operands)
    chooses_by_constant = equation.primitive.name == "select_n" and not isinstance(
        operands[0], Paired
    )
    if chooses_by_constant and real:
        return structural(kind, equation, *operands)
    at_value = equation.function(*(value(operand) for operand in operands))
    (result,) = pair_rule(equation, *(_as_pair(operand) for operand in operands))
    return [Waiting(kind.lifted, result, at_value) if isinstance(result, Paired) else result]


def _unwaiting(equation: Equation, operand: Any) -> Any:
    """What waits goes on waiting in a product or a choice, or where it is a predicate."""
    if not isinstance(operand, Waiting):
        return operand
    if not is_real(operand) or equation.primitive.name in ("mul", "select_n"):
        return operand
    return operand.settle()


def _is_complex(equation: Equation, operands: Any) -> bool:
    dtypes = [equation.aval.dtype, *(o.dtype for o in operands if isinstance(o, Paired))]
    return any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)


def _roots(operands: Any) -> tuple[Any, ...]:
    return unique(root for o in operands if isinstance(o, Paired) for root in o.roots)


def _as_pair(operand: Any) -> Any:
    if isinstance(operand, Waiting):
        return operand.paired
    if isinstance(operand, Chain) and not is_real(operand):
        # A predicate: the same expression over the root's total, still a function of it.
        return _rebuilt(operand)
    operand = settled(operand)
    if not isinstance(operand, Parted):
        return operand
    if not jnp.issubdtype(operand.dtype, jnp.inexact):
        return Pair(operand.value, operand.reference)
    return operand.total


def _rebuilt(chain: Any) -> Any:
    if isinstance(chain, Parted):
        return chain.total if jnp.issubdtype(chain.dtype, jnp.inexact) else _as_pair(chain)
    operands = [_rebuilt(o) if isinstance(o, Paired) else o for o in chain.operands]
    return Deferred(chain.equation, operands)


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    operand = operand.settle()
    if not isinstance(operand, Parted):
        return operand
    first, second = operand.both
    value, reference, first, second = (
        broadcast(array, shape) for array in (operand.value, operand.reference, first, second)
    )
    return type(operand)(
        value,
        reference,
        (first, second),
        operand.fed,
        reduced=operand.reduced,
        scale=operand.scale,
    )


def on_totals(kind: Kind, rule: Rule) -> Rule:
    """A rule on pairs, for the totals of values in parts; its outputs are divided again."""

    def on_totals(equation: Equation, *operands: Any) -> list[Any]:
        operands = tuple(settled(operand) for operand in operands)
        if not any(isinstance(operand, Parted) for operand in operands):
            return equation.bind(*operands)
        outputs = rule(equation, *map(_as_pair, operands))
        values = equation.bind(*map(value, operands))
        return [
            kind.lifted.from_pair(settled(output), v)
            for output, v in zip(outputs, values, strict=True)
        ]

    return on_totals


def structural(kind: Kind, equation: Equation, *operands: Any) -> list[Any]:
    """Moves, sums and masks: each part by itself."""
    operands = tuple(settled(operand) for operand in operands)
    if not any(isinstance(operand, Parted) for operand in operands):
        return equation.bind(*operands)
    if _is_complex(equation, operands):  # a complex number's parts can't be told apart
        return on_totals(kind, linear)(equation, *operands)
    check_indices(equation, operands)
    values = equation.bind(*map(value, operands))
    references = equation.bind(*(reference(o) for o in operands))
    inexact = [jnp.issubdtype(jnp.result_type(v), jnp.inexact) for v in values]
    if not all(inexact):
        return [kind.lifted(v, v0, (v, v)) for v, v0 in zip(values, references, strict=True)]
    subtracts = equation.primitive.name in ("sub", "scatter-sub")
    positions = [
        i
        for i, o in enumerate(operands)
        if isinstance(o, Parted) and jnp.issubdtype(o.dtype, jnp.inexact)
    ]

    def moved(parts: list[Any]) -> list[Any]:
        filled = list(map(value, operands))
        for i, operand in enumerate(operands):
            floating = jnp.issubdtype(jnp.result_type(value(operand)), jnp.inexact)
            if i in positions:
                filled[i] = parts[positions.index(i)]
            elif (floating and equation.primitive.name != "select_n") or (i > 0 and floating):
                filled[i] = jnp.zeros_like(value(operand))
        return equation.bind(*filled)

    both = [
        operands[i].subtracted(operands[i].both)
        if subtracts and i == len(operands) - 1
        else operands[i].both
        for i in positions
    ]
    firsts, seconds = (moved(list(parts)) for parts in zip(*both, strict=True))
    fed = {operands[i].fed for i in positions}
    before = fed.pop() if len(fed) == 1 else None
    known = hints(equation, operands)
    return [
        kind.lifted(v, v0, (first, second), before, **known)
        for v, v0, first, second in zip(values, references, firsts, seconds, strict=True)
    ]


def counts(kind: Kind, equation: Equation, operand: Any) -> list[Any]:
    """Counts follow the rule on pairs; sums of real numbers keep the parts."""
    if is_real(operand):
        return structural(kind, equation, operand)
    (result,) = counted(equation, _as_pair(operand))
    at_value = equation.function(value(operand))
    return [Waiting(kind.lifted, result, at_value) if isinstance(result, Paired) else result]


def learned(kind: Kind, equation: Equation, *operands: Any) -> list[Any]:
    """A product with constant weights by the kind's rule; with others, or complex, on totals."""
    operands = tuple(settled(operand) for operand in operands)
    positions = [i for i, operand in enumerate(operands) if isinstance(operand, Parted)]
    if not positions:
        return equation.bind(*operands)
    if len(positions) == 2 or _is_complex(equation, operands):
        return on_totals(kind, bilinear)(equation, *operands)
    (position,) = positions
    x, weight = operands[position], operands[1 - position]

    def apply(array: Any, weight: Any) -> Any:
        pair = (array, weight) if position == 0 else (weight, array)
        return equation.function(*pair)

    at_value, at_reference = apply(x.value, weight), apply(x.reference, weight)
    parts = kind.learned(at_value, at_reference, x, apply, weight)
    return [kind.lifted(at_value, at_reference, parts, equation.primitive.name)]


def transpose(apply: Any, weight: Any, like: Any, cotangent: Any) -> Any:
    """The map with these weights, backwards."""
    return jax.linear_transpose(lambda array: apply(array, weight), like)(cotangent)[0]
