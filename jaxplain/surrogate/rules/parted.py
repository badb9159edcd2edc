"""What rules on values in two parts have in common: places, chains, sums, and rules on pairs.

Learned maps and nonlinearities have rules of their own in each table; moves and sums take each part
by itself; what else there is (products, norms, softmax, maxima) follows the Rescale table on the
totals and is divided again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._patterns import inside
from jaxplain.surrogate import compat, primitives
from jaxplain.surrogate.divided_difference import stand_in
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.bilinear import bilinear
from jaxplain.surrogate.rules.chain import rescaled
from jaxplain.surrogate.rules.counting import counted
from jaxplain.surrogate.rules.elementwise import spread
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import check_indices, refuse_counts
from jaxplain.surrogate.rules.rescale import rescale
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import (
    Paired,
    active_roots,
    actives,
    is_real,
    reference,
)
from jaxplain.surrogate.values.parted import (
    Parted,
    Parts,
    WaitingParts,
    as_pair,
    divided,
    on_totals,
)
from jaxplain.surrogate.values.region import Expression, Region, is_linear, known_number


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a nonlinearity stands: what a table may choose its rule by."""

    primitive: str  # of the nonlinearity's last equation
    fed: str | None  # the learned map before it: "dot_general", "conv_general_dilated" or None
    path: str  # of modules and `jax.named_scope`s, as in "encoder/layer_0/mlp"


Choice = Callable[[Place], bool]
_MASK = 1e8  # times the other end's size: what is larger is a masked number

_SHIFTS = ("add", "convert_element_type")
_MAPS = {"dense": "dot_general", "conv": "conv_general_dilated"}


def choice(after: str | None, within: str | None, where: Choice | None) -> Choice:
    """The places that fit all conditions given."""
    if after is not None and after not in _MAPS:
        raise ValueError(f"after must be one of {sorted(_MAPS)}, and is {after!r}")

    def chosen(place: Place) -> bool:
        return (
            (after is None or place.fed == _MAPS[after])
            and (within is None or inside(place.path, within))
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
        """The rules by primitive: those of pairs, but for what keeps the parts."""
        pairs = rescale()
        multiply = pairs.rules[compat.resolve(["mul"])[0]]
        table = dataclasses.replace(pairs, lifted=self.lifted)  # whose rules it adapts

        def own(table: RuleTable, keys: Any, rule: Rule, waiting: bool = False) -> RuleTable:
            return table.register(keys, rule, of=self.lifted, waiting=waiting)

        for name in ("linear", "discrete"):
            table = own(table, primitives.group(name), functools.partial(structural, self))
        by_region = functools.partial(elementwise, self, multiply)
        table = own(table, primitives.group("elementwise"), by_region, waiting=True)
        table = own(table, primitives.group("bilinear"), functools.partial(learned, self))
        counting = primitives.where(lambda f: f.counts)
        return own(table, counting, functools.partial(counts, self), waiting=True)


def settle_parts(kind: Kind, region: Region) -> Parted:
    """A region of one root as a value in parts."""
    active = actives(region.operands)
    if not is_real(region.roots[0]):
        return kind.lifted.discrete(region.value, region.reference)
    if len(active) == 1 and _is_affine(region):
        # A scaling keeps the parts: peeled off the end of the region.
        return _scaled(kind, region, active[0].settle())
    return _nonlinear(kind, region, _entrance(region))


def _entrance(region: Region) -> Expression:
    """The region with scalings peeled off its start, too."""
    expression = Expression(region)
    while True:
        (key,) = expression.keys
        readers = [n for n in expression.nodes if any(o is key for o in n.operands)]
        if len(readers) != 1 or readers[0] is region or not _is_affine(readers[0]):
            return expression
        (reader,) = readers
        if len(actives(reader.operands)) != 1:
            return expression
        expression = Expression(region, keys=(reader,), roots=(reader.settle(),))


def _nonlinear(kind: Kind, region: Region, expression: Expression) -> Parted:
    (root,) = expression.roots
    place = Place(region.equation.primitive.name, root.fed, region.equation.path)
    # Points between x0 and x in parts are no values of the model: outside the domain of a root,
    # a logarithm or an inverse the parts can't be told apart.
    everywhere = not any(map(_has_a_domain, expression.nodes))
    parts = kind.nonlinear(expression, root, everywhere and kind.chosen(place))
    return kind.lifted(region.value, region.reference, parts, note=region.note)


def masked_once(x: Any, x0: Any) -> Any:
    """Where x is a masked number at one end alone: no part of such a change leads to a value."""
    size, size0 = jnp.abs(stand_in(x)), jnp.abs(stand_in(x0))
    return jnp.maximum(size, size0) > _MASK * (1 + jnp.minimum(size, size0))


def _has_a_domain(node: Region) -> bool:
    name = node.equation.primitive.name
    if name == "div":
        return isinstance(node.operands[1], Paired)
    negative = name == "integer_pow" and node.equation.params["y"] < 0
    return node.equation.facts.domain or negative


def _is_affine(node: Region) -> bool:
    """Whether one equation by itself is a scaling or a shift."""
    return is_linear(node.equation, node.operands) and all(map(is_real, actives(node.operands)))


def _scaled(kind: Kind, node: Region, operand: Parted) -> Parted:
    """A scaling by constants, or a shift."""
    dtype = jnp.result_type(node.reference)
    parts = operand.both
    if not _is_shift(node):
        parts = operand.scaled(parts, *_factor(node, operand))
    first, second = (part.astype(dtype) for part in parts)
    return kind.lifted(node.value, node.reference, (first, second), operand.fed, node.note)


def _is_shift(node: Region) -> bool:
    """Whether Δ is kept as it is."""
    name = node.equation.primitive.name
    return name in _SHIFTS or (name == "sub" and isinstance(node.operands[0], Paired))


def _factor(node: Region, operand: Parted) -> tuple[Any, float | None]:
    """What it scales by, and a number of the same sign, where the program tells."""
    position = next(i for i, o in enumerate(node.operands) if isinstance(o, Paired))
    before, after = node.operands[:position], node.operands[position + 1 :]

    def at(array: Any) -> Any:
        return node.equation.function(*before, array, *after)

    origin = jnp.zeros_like(operand.reference)
    factor = jax.jvp(at, (origin,), (jnp.ones_like(origin),))[1]
    name = node.equation.primitive.name
    if name in ("neg", "sub"):
        return factor, -1.0
    return factor, known_number((*before, *after)[0]) if name in ("mul", "div") else None


def elementwise(kind: Kind, pair_rule: Rule, equation: Equation, *operands: Any) -> list[Any]:
    """One root: a region.  Sums keep the parts.  The rest follows the rules on pairs."""
    shape = equation.aval.shape
    operands = tuple(_spread(_unwaiting(equation, operand), shape) for operand in operands)
    if len(active_roots(operands)) > 1:
        operands = tuple(settled(o) if isinstance(o, Paired) and o.frozen else o for o in operands)
    roots = active_roots(operands)
    if not roots:
        return equation.bind(*operands)
    refuse_counts(equation, operands)
    waiting = any(isinstance(operand, WaitingParts) for operand in operands)
    real = all(map(is_real, actives(operands))) and jnp.issubdtype(
        equation.aval.dtype, jnp.floating
    )
    if len(roots) == 1 and not waiting and not _is_complex(equation, operands):
        by_parts = functools.partial(settle_parts, kind)
        return [Region(equation, operands, by_parts, on_pairs=rescaled)]
    if equation.primitive.name in ("add", "sub") and real:
        return structural(kind, equation, *operands)
    chooses = equation.primitive.name == "select_n" and not isinstance(operands[0], Paired)
    if chooses and real:
        return structural(kind, equation, *operands)
    return _on_pairs(kind, pair_rule, equation, *operands)


def _on_pairs(kind: Kind, pair_rule: Rule, equation: Equation, *operands: Any) -> list[Any]:
    at_value = equation.function(*(value(operand) for operand in operands))
    (result,) = pair_rule(equation, *map(as_pair, operands))
    return [divided(kind.lifted, result, at_value)]


def _unwaiting(equation: Equation, operand: Any) -> Any:
    """What waits goes on waiting in a product or a choice, or where it is a predicate."""
    if not isinstance(operand, WaitingParts):
        return operand
    if not is_real(operand) or equation.primitive.name in ("mul", "select_n"):
        return operand
    return operand.settle()


def _is_complex(equation: Equation, operands: Any) -> bool:
    dtypes = [equation.aval.dtype, *(o.dtype for o in actives(operands))]
    return any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    if isinstance(operand, WaitingParts) and not is_real(operand):
        spread_out = spread(operand.paired, shape)
        return WaitingParts(operand.lifted, spread_out, broadcast(operand.value, shape))
    operand = operand.settle()
    if not isinstance(operand, Parted):
        return operand
    first, second = operand.both
    value, reference, first, second = (
        broadcast(array, shape) for array in (operand.value, operand.reference, first, second)
    )
    return type(operand)(value, reference, (first, second), operand.fed, operand.note)


def structural(kind: Kind, equation: Equation, *operands: Any) -> list[Any]:
    """Moves, sums and masks: each part by itself."""
    operands = tuple(settled(operand) for operand in operands)
    if not any(isinstance(operand, Parted) for operand in operands):
        return equation.bind(*operands)
    if _is_complex(equation, operands):  # a complex number's parts can't be told apart
        return on_totals(kind.lifted, linear, equation, *operands)
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
            elif floating and (i > 0 or equation.primitive.name != "select_n"):  # no predicate
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
    return [
        kind.lifted(v, v0, (first, second), before)
        for v, v0, first, second in zip(values, references, firsts, seconds, strict=True)
    ]


def counts(kind: Kind, equation: Equation, operand: Any) -> list[Any]:
    """Counts follow the rule on pairs; sums of real numbers keep the parts."""
    if is_real(operand):
        return structural(kind, equation, operand)
    return _on_pairs(kind, counted, equation, operand)


def learned(kind: Kind, equation: Equation, *operands: Any) -> list[Any]:
    """A product with constant weights by the kind's rule; with others, or complex, on totals."""
    operands = tuple(settled(operand) for operand in operands)
    positions = [i for i, operand in enumerate(operands) if isinstance(operand, Parted)]
    if not positions:
        return equation.bind(*operands)
    if len(positions) == 2 or _is_complex(equation, operands):
        return on_totals(kind.lifted, bilinear, equation, *operands)
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
