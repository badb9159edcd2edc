"""Regions settled by Rescale: the divided difference of one root, Shapley values of several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import scaled
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.values.pair import Pair, is_real
from jaxplain.surrogate.values.region import Expression, Region, known_number, zip_by_id

_MASK = 1e8  # times the size of both ends: larger corners are masked numbers
_MOST_PLAYERS = 6  # of a choice: 2⁶ corners are evaluated


def rescaled(region: Region) -> Pair:
    """The region as a pair, with the multipliers of the Rescale rule."""
    expression = Expression(region)
    if region.linear:
        value = expression.evaluate([root.value for root in region.roots], expression.constants)
    else:
        value = chain(expression) if len(region.roots) == 1 else shapley(expression)
    return Pair(value, region.reference, region.note)


def chain(expression: Expression) -> Any:
    """One root: the value, with the divided difference as its slope."""
    (root,) = expression.roots
    references = [node.reference for node in expression.nodes]

    def forward(value: Any, passive: Any) -> tuple[Any, Any]:
        constants, reference, references = passive
        return valued_slope(expression, value, reference, constants, references)

    passive = (expression.constants, root.reference, references)
    return scaled(forward, apart=bool(root.note), tame=is_tame(expression))(root.value, passive)


def is_tame(expression: Expression) -> bool:
    """Whether its slopes are finite, so that nothing need guard against them."""

    def tame(node: Region) -> bool:
        name = node.equation.primitive.name
        if name == "integer_pow":
            return node.equation.params["y"] >= 0
        if name == "div":
            return bool(known_number(node.operands[1]))
        return node.equation.facts.tame

    return all(map(tame, expression.nodes))


def slope(expression: Expression, value: Any, reference: Any, constants: Any) -> Any:
    """(g(value) - g(reference))/(value - reference) for one root; 0 if nothing flows."""
    return valued_slope(expression, value, reference, constants)[1]


def valued_slope(
    expression: Expression, value: Any, reference: Any, constants: Any, references: Any = None
) -> tuple[Any, Any]:
    """g(value) with the slope from the reference; `references` are the nodes' values there."""
    return _valued_slope(expression, [value], [reference], constants, references, 0)


def _valued_slope(
    expression: Expression,
    values: Sequence[Any],
    starts: Sequence[Any],
    constants: Any,
    references: Any,
    moving: int,
) -> tuple[Any, Any]:
    """The same of several roots, of which one moves and the others are constants."""
    if references is None:
        references = expression.all_values(starts, constants)
    tame = is_tame(expression)
    on_the_way = [values[moving], starts[moving]]
    ends = on_the_way if tame else map(divided_difference.seen, on_the_way)
    root = divided_difference.Root(*ends)
    slopes: dict[int, Any] = {id(expression.keys[moving]): root.one}
    known = {**zip_by_id(expression.keys, starts), **zip_by_id(expression.nodes, references)}

    def step(node: Region, operands: list[Any]) -> Any:
        result = node.equation.function(*operands)
        if node is not expression.output and is_real(node):
            on_the_way.extend([result, known[id(node)]])
        slopes[id(node)] = divided_difference.slope(
            divided_difference.Step(
                equation=node.equation,
                values=operands,
                references=[
                    known.get(id(o), v) for o, v in zip(node.operands, operands, strict=True)
                ],
                slopes=[slopes.get(id(o)) for o in node.operands],
                value=result,
                reference=known[id(node)],
                root=root,
            )
        )
        return result

    result = expression.run(values, constants, step)
    found = slopes[id(expression.output)]
    found = root.zero if found is None else jnp.broadcast_to(found, root.one.shape)
    if tame:
        return result, found
    reference = known[id(expression.output)]
    return result, divided_difference.finite(found, result, reference, root.delta, on_the_way)


def shapley(expression: Expression) -> Any:
    """Several roots: their Shapley values over the corners, each divided by its own Δ."""
    roots = expression.roots
    count = len(roots)
    output = expression.output.equation
    if count > _MOST_PLAYERS:
        raise UnsupportedPrimitive(
            f"'{output.primitive.name}' at {output.line} chooses "
            f"between values by {count} different ones that depend on x; at most "
            f"{_MOST_PLAYERS} can be told apart. Split the choice into several `jnp.where`."
        )
    players = [i for i, root in enumerate(roots) if is_real(root)]

    def forward(values: Sequence[Any], passive: Any) -> tuple[Any, list[Any]]:
        constants, discrete, references = passive
        ends = (references, _merge(values, discrete, players, count))
        slopes = [_shapley_slope(expression, i, ends, constants) for i in players]
        return expression.evaluate(ends[1], constants), slopes

    discrete = [root.value for i, root in enumerate(roots) if i not in players]
    references = [root.reference for root in roots]
    active = [roots[i].value for i in players]
    return scaled(forward)(active, (expression.constants, discrete, references))


def _shapley_slope(expression: Expression, player: int, ends: Any, constants: Any) -> Any:
    """Σ_S |S|!(n-1-|S|)!/n! (g(S ∪ i) - g(S))/Δ_i, each difference a chain of the root i."""
    count = len(expression.roots)
    others = [i for i in range(count) if i != player]
    total: Any = 0
    for present in itertools.product((0, 1), repeat=count - 1):
        chosen = dict(zip(others, present, strict=True))
        here, there = ([ends[chosen.get(i, end)][i] for i in range(count)] for end in (1, 0))
        size = sum(present)
        weight = math.factorial(size) * math.factorial(count - 1 - size) / math.factorial(count)
        slope = _valued_slope(expression, here, there, constants, None, player)[1]
        total += weight * _tamed(expression, slope, (there, here), ends, constants, player)
    return total


def _tamed(
    expression: Expression, slope: Any, corners: Any, ends: Any, constants: Any, player: int
) -> Any:
    """The slope between two corners, of which none is what a mask hides from both ends.

    The mean of the ends stands for such a corner: in between, any value is complete.
    """

    def evaluate(roots: Any) -> Any:
        return divided_difference.stand_in(expression.evaluate(roots, constants))

    y0, y = map(evaluate, ends)
    size, middle = _MASK * (1 + jnp.abs(y) + jnp.abs(y0)), (y + y0) / 2
    start, end = map(evaluate, corners)
    wild0, wild = (~(jnp.abs(corner) <= size) for corner in (start, end))
    change = jnp.where(wild, middle, end) - jnp.where(wild0, middle, start)
    ends = (divided_difference.seen(corner[player]) for corner in corners[::-1])
    delta = divided_difference.change(*ends)
    still = delta == 0
    secant = jnp.where(still, 0, change.astype(delta.dtype) / jnp.where(still, 1, delta))
    return jnp.where(wild | wild0, secant.astype(slope.dtype), slope)


def _merge(values: Sequence[Any], rest: Sequence[Any], players: list[int], count: int) -> list[Any]:
    active, others = iter(values), iter(rest)
    return [next(active) if i in players else next(others) for i in range(count)]
