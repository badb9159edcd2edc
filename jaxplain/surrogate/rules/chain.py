"""Regions settled by Rescale: the divided difference of one root, Shapley values of several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import scaled
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.values.pair import Pair, is_real
from jaxplain.surrogate.values.region import Expression, Region, divides, zip_by_id

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
    return scaled(forward, apart=bool(root.note))(root.value, passive)


def slope(expression: Expression, value: Any, reference: Any, constants: Any) -> Any:
    """(g(value) - g(reference))/(value - reference) for one root; 0 if nothing flows."""
    return valued_slope(expression, value, reference, constants)[1]


def valued_slope(
    expression: Expression, value: Any, reference: Any, constants: Any, references: Any = None
) -> tuple[Any, Any]:
    """g(value) with the slope from the reference; `references` are the nodes' values there."""
    (key,) = expression.keys
    if references is None:
        references = expression.all_values([reference], constants)
    delta = divided_difference.difference(value, reference)
    slopes: dict[int, Any] = {id(key): jnp.ones_like(delta)}
    known = {id(key): reference, **zip_by_id(expression.nodes, references)}
    singular = any(divides(node.equation, node.operands) for node in expression.nodes)

    def step(node: Region, operands: list[Any]) -> Any:
        result = node.equation.function(*operands)
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
                delta=delta,
                singular=singular,
            )
        )
        return result

    result = expression.run([value], constants, step)
    found = slopes[id(expression.output)]
    if found is None:
        found = jnp.zeros_like(delta)
    return result, jnp.broadcast_to(found, delta.shape)


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
    smooth = len(expression.nodes) == 1 and not output.facts.kinked
    players = [i for i, root in enumerate(roots) if is_real(root)]

    def forward(values: Sequence[Any], passive: Any) -> tuple[Any, list[Any]]:
        constants, discrete, references = passive
        ends = (references, _merge(values, discrete, players, count))
        slopes = [_shapley_slope(expression, i, ends, constants, smooth) for i in players]
        return expression.evaluate(ends[1], constants), slopes

    discrete = [root.value for i, root in enumerate(roots) if i not in players]
    references = [root.reference for root in roots]
    active = [roots[i].value for i in players]
    return scaled(forward)(active, (expression.constants, discrete, references))


def _shapley_slope(
    expression: Expression, player: int, ends: Any, constants: Any, smooth: bool
) -> Any:
    """Σ_S |S|!(n-1-|S|)!/n! (g(S ∪ i) - g(S))/Δ_i."""
    count = len(expression.roots)
    others = [i for i in range(count) if i != player]
    value, reference = ends[1][player], ends[0][player]
    delta = value - reference
    total = jnp.zeros_like(delta)
    for present in itertools.product((0, 1), repeat=count - 1):
        corner = [None] * count
        for i, end in zip(others, present, strict=True):
            corner[i] = ends[end][i]

        def along(v: Any, corner: Any = tuple(corner)) -> Any:
            return expression.evaluate([v if c is None else c for c in corner], constants)

        size = sum(present)
        weight = math.factorial(size) * math.factorial(count - 1 - size) / math.factorial(count)
        total = total + weight * _secant(along, value, reference, delta, smooth)
    return total


def _merge(values: Sequence[Any], rest: Sequence[Any], players: list[int], count: int) -> list[Any]:
    active, others = iter(values), iter(rest)
    return [next(active) if i in players else next(others) for i in range(count)]


def _secant(function: Any, value: Any, reference: Any, delta: Any, smooth: bool) -> Any:
    """(g(v) - g(v0))/Δ, where g is kinked down to Δ = 0, where it is smooth the stable way."""
    middle = (value + reference) / 2
    _, near = jax.jvp(function, (middle,), (jnp.ones_like(middle),))
    small = (delta == 0) | (divided_difference.tiny(delta) if smooth else False)
    return divided_difference.quotient(function(value), function(reference), delta, near, small)
