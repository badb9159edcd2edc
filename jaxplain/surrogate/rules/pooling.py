"""Max and min pools: who wins each window, by place; ties share."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import attach, with_backward
from jaxplain.surrogate.divided_difference import difference
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import on_settled, reference
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Pair, Paired

POOLS = ("reduce_window_max", "reduce_window_min")
_MOST_BITS = 32  # places in a window that a mask has bits for


def pool_winner(equation: Equation, operand: Any) -> list[Any]:
    """`winner` of each window: Δy to all places that have the extremum, found once.

    JAX's own derivative searches every window again on the way forward and back, which takes
    several times as long, and gives all to the first of equals.  Winners and shares stand apart,
    or XLA would find them again for each of the windows that overlap.
    """
    falls = equation.primitive.name == "reduce_window_min"
    x, x0 = value(operand), reference(operand)

    def forward(x: Any, x0: Any) -> tuple[Any, Any]:
        # Computed once: XLA may round what it computes again otherwise, and then nobody wins. Of
        # a constant reference it would evaluate the winners itself.
        x, x0 = compat.apart(x), compat.apart(x0)
        y, y0 = equation.function(x), equation.function(x0)
        here = (y < y0) if falls else (y > y0)
        winners, count = _winners(equation, (x, y), (x0, y0), here)
        change = _over_winners(equation, winners, difference(x, x0)) / count
        return y, (winners, ratio(difference(y, y0), change) / count)

    def backward(saved: Any, cotangent: Any) -> Any:
        winners, share = saved
        cotangent = compat.apart(cotangent * share)
        back = jax.linear_transpose(lambda d: _over_winners(equation, winners, d), like)
        return back(cotangent)[0]

    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return [Pair(with_backward(forward, backward)(x, x0), equation.function(x0), "sum")]


def _winners(equation: Equation, end: Any, end0: Any, here: Any) -> tuple[Any, Any]:
    """Which places of each window have its extremum, at one end or the other, and how many.

    A bit for each place; of large windows the numbers themselves, to be compared again.
    """
    (x, y), (x0, y0) = end, end0
    if not _has_bits(equation):
        ends = jnp.where(here, y, y0), here, x, x0
        number = _sum_of_places(equation, ends, jnp.ones_like(x))
        return ends, jnp.maximum(number, 1)
    bits = jnp.zeros(y.shape, _unsigned(math.prod(equation.params["window_dimensions"])))
    elements, elements0 = (window_elements(equation, end, math.nan) for end in (x, x0))
    places = zip(elements, elements0, strict=True)
    for number, (element, element0) in enumerate(places):
        wins = jnp.where(here, element == y, element0 == y0)
        bits = bits | (wins.astype(bits.dtype) << number)
    bits = compat.apart(bits)
    return bits, jnp.maximum(jax.lax.population_count(bits), 1).astype(x.dtype)


def _has_bits(equation: Equation) -> bool:
    return math.prod(equation.params["window_dimensions"]) <= _MOST_BITS


def _unsigned(bits: int) -> Any:
    return jnp.uint8 if bits <= 8 else jnp.uint16 if bits <= 16 else jnp.uint32


def _over_winners(equation: Equation, winners: Any, x: Any) -> Any:
    """The sum of x over each window's winners; linear in x."""
    if not _has_bits(equation):
        return _sum_of_places(equation, winners, x)
    there = enumerate(window_elements(equation, x, 0))
    return sum(jnp.where((winners >> number) & 1 == 1, element, 0) for number, element in there)


def _sum_of_places(equation: Equation, ends: Any, d: Any) -> Any:
    """The same place by place in a loop, for windows of many."""
    extremum, here, x, x0 = ends
    sizes = equation.params["window_dimensions"]
    starts = jnp.asarray(list(itertools.product(*map(range, sizes))), jnp.int32)
    arrays = [_padded(equation, end, math.nan) for end in (x, x0)] + [_padded(equation, d, 0)]

    def add(total: Any, place: Any) -> tuple[Any, None]:
        element, element0, change = (_at_place(equation, array, place) for array in arrays)
        wins = jnp.where(here, element, element0) == extremum
        return total + jnp.where(wins, change, 0), None

    return jax.lax.scan(add, jnp.zeros_like(extremum), starts)[0]


# A pool's derivative inside f: a value taken from, or put to, the place of each window's winner.


@on_settled
def chosen_place(equation: Equation, source: Any, operand: Any) -> list[Any]:
    """Linear in the source, at the mean of both choices; the rest of Δy to the choice.

    Where the winner is i at x and j at the reference, y's change by that is a step of o_i - o_j.
    """
    if not isinstance(operand, Paired):
        return linear(equation, source, operand)
    gathers = equation.primitive.name == "select_and_gather_add"
    falls = equation.params["select_prim"].name == "le"

    def residuals(active: Any, passive: Any) -> Any:
        (s, o), (s0, o0) = active, passive
        places = _first(equation, o, falls), _first(equation, o0, falls)
        return places, (s + s0) / 2, _turned(equation, places, difference(o, o0))

    def backward(saved: Any, cotangent: Any) -> Any:
        places, source, turn = saved
        windows, elements = (cotangent, source) if gathers else (source, cotangent)
        slope = windows * _turned(equation, places, elements) / jnp.where(turn == 0, 1, turn)
        back = jax.linear_transpose(lambda d: _turned(equation, places, d), like)
        (of_operand,) = back(jnp.where(turn == 0, 0, slope))
        at_both = jax.linear_transpose if gathers else lambda f, _: lambda ct: (f(ct),)
        (of_source,) = at_both(lambda d: _both(equation, places, d), like)(cotangent)
        return of_source, of_operand

    like = jax.ShapeDtypeStruct(operand.shape, operand.dtype)
    surrogate = attach(lambda active, _: equation.function(*active), residuals, backward)
    ends = (reference(source), operand.reference)
    return [Pair(surrogate((value(source), operand.value), ends), equation.function(*ends))]


def _turned(equation: Equation, places: tuple[Any, Any], x: Any) -> Any:
    """What x has at the first places less what it has at the second."""
    return _at(equation, places[0], x) - _at(equation, places[1], x)


def _both(equation: Equation, places: tuple[Any, Any], x: Any) -> Any:
    return (_at(equation, places[0], x) + _at(equation, places[1], x)) / 2


def _first(equation: Equation, x: Any, falls: bool) -> Any:
    """The place in each window of its largest (smallest) element, the first of equals."""
    best, *others = window_elements(equation, x, math.inf if falls else -math.inf)
    place = jnp.zeros(best.shape, jnp.int32)
    for number, there in enumerate(others, 1):
        wins = (there < best) if falls else (there > best)
        best, place = jnp.where(wins, there, best), jnp.where(wins, number, place)
    return place


def _at(equation: Equation, place: Any, x: Any) -> Any:
    """What x has at a place of each window; linear in x."""
    there = enumerate(window_elements(equation, x, 0))
    return sum(jnp.where(place == number, element, 0) for number, element in there)


# Windows.


def window_elements(equation: Equation, x: Any, outside: float) -> list[Any]:
    """The first elements of all windows, the second ones, and so on."""
    padded = _padded(equation, x, outside)
    strides, extents = equation.params["window_strides"], _extents(equation, padded.shape)
    found = []
    for place in itertools.product(*map(range, equation.params["window_dimensions"])):
        start = [i * d for i, d in zip(place, _dilations(equation, "window"), strict=True)]
        limit = [low + extent for low, extent in zip(start, extents, strict=True)]
        found.append(jax.lax.slice(padded, start, limit, strides))
    return found


def _at_place(equation: Equation, padded: Any, place: Any) -> Any:
    """The elements of all windows at one place, which may be traced."""
    start = place * jnp.asarray(_dilations(equation, "window"), place.dtype)
    found = jax.lax.dynamic_slice(padded, list(start), _extents(equation, padded.shape))
    return jax.lax.slice(found, [0] * found.ndim, found.shape, equation.params["window_strides"])


def _padded(equation: Equation, x: Any, outside: float) -> Any:
    padding = zip(equation.params["padding"], _dilations(equation, "base"), strict=True)
    edges = [(low, high, dilation - 1) for (low, high), dilation in padding]
    return jax.lax.pad(x, jnp.asarray(outside, x.dtype), edges)


def _extents(equation: Equation, shape: tuple[int, ...]) -> list[int]:
    """From the first window's element at a place to the last window's."""
    sizes = equation.params["window_dimensions"]
    dilations = _dilations(equation, "window")
    return [n - (size - 1) * d for n, size, d in zip(shape, sizes, dilations, strict=True)]


def _dilations(equation: Equation, of: str) -> tuple[int, ...]:
    sizes = equation.params["window_dimensions"]
    return tuple(equation.params.get(f"{of}_dilation", (1,) * len(sizes)))


def ratio(a: Any, b: Any) -> Any:
    """a/b, and 1 where nothing moved."""
    still = b == 0
    return jnp.where(still, 1, a / jnp.where(still, 1, b)).astype(a.dtype)
