"""Convolutions as XLA's CPU backend runs them fast inside loops.

Its fast kernels take the channels last and kernels as (height, width, in, out). Outside of loops
XLA transposes whatever comes into that form. In a loop's body it does not, and a convolution's
gradient, whose kernel has in and out exchanged, takes ten times as long (jax issue 12868).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, walk


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its convolutions transposed into the form that is fast on a CPU."""

    def transposed(*args: Any) -> Any:
        if jax.default_backend() != "cpu":  # elsewhere XLA lays arrays out as it likes
            return function(*args)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = walk.walk(closed, jax.tree.leaves(args), _visit)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return transposed


def _visit(_: int, equation: JaxprEqn, values: list[Any]) -> Sequence[Any]:
    if equation.primitive is jax.lax.conv_general_dilated_p:
        with compat.source_of(equation):
            return [_convolve(*values, **equation.params)]
    if walk.emits(equation) and any(map(_convolves, walk.bodies(equation))):
        inner = [_again(body) for body in walk.bodies(equation)]
        return walk.emit(equation, inner, values)[0]
    return compat.bind(equation, values)


def _convolves(body: ClosedJaxpr) -> bool:
    primitives = (equation.primitive for _, equation in walk.equations(body))
    return jax.lax.conv_general_dilated_p in primitives


def _again(body: ClosedJaxpr) -> walk.Body:
    return lambda operands, extra: (walk.walk(body, operands, _visit), extra)


def _convolve(x: Any, kernel: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """A convolution of (batch, *space, channels) with (*space, in, out)."""
    x_spec, kernel_spec, out_spec = dimension_numbers
    last = (0, x.ndim - 1, *range(1, x.ndim - 1))
    numbers = jax.lax.ConvDimensionNumbers(last, (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)), last)
    batch, channels, *space = x_spec
    out, into, *window = kernel_spec
    y = jax.lax.conv_general_dilated_p.bind(
        jnp.transpose(x, (batch, *space, channels)),
        jnp.transpose(kernel, (*window, into, out)),
        dimension_numbers=numbers,
        **params,
    )
    places = dict(zip(out_spec, last, strict=True))  # of each axis of the result in y
    return jnp.transpose(y, [places[axis] for axis in range(y.ndim)])
