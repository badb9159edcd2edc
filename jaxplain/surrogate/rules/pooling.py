"""Max and min pools: the winner of a window by its place."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import reference
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Pair

_LARGE = 32  # places in a window


def comparable(equation: Equation) -> bool:
    """Whether this is a pool with windows small enough to compare their places one by one."""
    return (
        equation.primitive.name in ("reduce_window_max", "reduce_window_min")
        and math.prod(equation.params["window_dimensions"]) <= _LARGE
        and all(dilation == 1 for dilation in equation.params["base_dilation"])
    )


def pool_winner(equation: Equation, operand: Any) -> list[Any]:
    """`winner` where it is `comparable`: all of Δy to the window's first winner, found once.

    JAX's own derivative searches every window again on the way forward and back, which takes
    several times as long.  Winners and shares stand apart, or XLA would find them again for each
    of the windows that overlap.
    """
    falls = equation.primitive.name == "reduce_window_min"
    x, x0 = value(operand), reference(operand)

    def shares(x: Any, x0: Any) -> tuple[Any, Any]:
        x0 = jax.lax.optimization_barrier(x0)  # XLA would evaluate a constant's winners itself
        y, y0 = equation.function(x), equation.function(x0)
        here = (y < y0) if falls else (y > y0)
        place = jnp.where(here, _first(equation, x, falls), _first(equation, x0, falls))
        place = compat.apart(place)
        return place, ratio(y - y0, _at(equation, place, x - x0))

    def backward(saved: Any, cotangent: Any) -> Any:
        place, share = saved
        cotangent = compat.apart(cotangent * share)
        back = jax.linear_transpose(lambda d: _at(equation, place, d), like)
        return back(cotangent)[0]

    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    surrogate = attach(lambda x, _: equation.function(x), shares, backward)
    return [Pair(surrogate(x, x0), equation.function(x0), "sum")]


def _first(equation: Equation, x: Any, falls: bool) -> Any:
    """The place in each window of its largest (smallest) element, the first of equals."""
    best, *others = _places(equation, x, math.inf if falls else -math.inf)
    place = jnp.zeros(best.shape, jnp.int8)
    for number, there in enumerate(others, 1):
        wins = (there < best) if falls else (there > best)
        best, place = jnp.where(wins, there, best), jnp.where(wins, jnp.int8(number), place)
    return place


def _at(equation: Equation, place: Any, x: Any) -> Any:
    """What x has at a place of each window; linear in x."""
    there = enumerate(_places(equation, x, 0))
    return sum(jnp.where(place == number, element, 0) for number, element in there)


def _places(equation: Equation, x: Any, outside: float) -> list[Any]:
    """The first elements of all windows, the second ones, and so on."""
    params = equation.params
    sizes, dilations = params["window_dimensions"], params["window_dilation"]
    edges = [(low, high, 0) for low, high in params["padding"]]
    padded = jax.lax.pad(x, jnp.asarray(outside, x.dtype), edges)
    last = [
        length - (size - 1) * dilation
        for length, size, dilation in zip(padded.shape, sizes, dilations, strict=True)
    ]
    found = []
    for place in itertools.product(*map(range, sizes)):
        start = [index * dilation for index, dilation in zip(place, dilations, strict=True)]
        limit = [low + end for low, end in zip(start, last, strict=True)]
        found.append(jax.lax.slice(padded, start, limit, params["window_strides"]))
    return found


def ratio(a: Any, b: Any) -> Any:
    """a/b, and 1 where nothing moved."""
    still = b == 0
    return jnp.where(still, 1, a / jnp.where(still, 1, b)).astype(a.dtype)
