"""What moves axes, and joins or splits arrays along them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import JaxprEqn

from jaxplain._numerics.windows.rules import Found, along
from jaxplain._numerics.windows.values import At, Changed, changed


def _laid_out(
    at: At,
    value: Changed,
    before: Array,
    axes: Mapping[int, int],
    lay: Callable[[Array, list[int]], Array],
) -> Found:
    """What moves axes: `axes` of the value to those of the output, `lay(part, its new shape)`."""
    kept = {a: span for a, span in value.spans.items() if a in axes}
    if not kept:
        return None
    part = at.excerpt(value, at.places(kept, value.before.shape))
    spans = {axes[a]: span for a, span in kept.items()}
    shape = [spans[a].width(n) if a in spans else n for a, n in enumerate(before.shape)]
    return [changed(before, lay(part, shape), spans)]


def transpose(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    order = equation.params["permutation"]
    axes = {a: i for i, a in enumerate(order)}
    return _laid_out(at, values[0], before[0], axes, lambda part, _: jnp.transpose(part, order))


def broadcast(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, out = values[0], equation.params["broadcast_dimensions"]
    axes = {a: o for a, o in enumerate(out) if value.before.shape[a] == before[0].shape[o]}
    lay = lambda part, shape: jax.lax.broadcast_in_dim(part, shape, out)
    return _laid_out(at, value, before[0], axes, lay)


def squeeze(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    gone = equation.params["dimensions"]
    axes = {a: a - sum(g < a for g in gone) for a in range(values[0].before.ndim) if a not in gone}
    return _laid_out(at, values[0], before[0], axes, lambda part, shape: part.reshape(shape))


def reshape(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """Axes that stay as they are, and one that the axes behind it are joined to."""
    [value], [out] = values, before
    if equation.params["dimensions"] is not None:
        return None
    shape, axes, spans = value.before.shape, {}, {}
    for a, span in value.spans.items():
        front = math.prod(shape[:a])
        for o in range(out.ndim):
            if math.prod(out.shape[:o]) != front or out.shape[o] == 1 != shape[a]:
                continue
            block, left = divmod(out.shape[o], shape[a])
            joined, end = 1, a + 1
            while joined < block and end < len(shape):
                joined, end = joined * shape[end], end + 1
            if (
                left == 0
                and joined == block
                and not any(b in value.spans for b in range(a + 1, end))
            ):
                axes[a], spans[o] = o, dataclasses.replace(span, block=span.block * block)
            break
    if not spans:
        return None
    kept = {a: value.spans[a] for a in axes}
    part = at.excerpt(value, at.places(kept, shape))
    lengths = [spans[o].width(n) if o in spans else n for o, n in enumerate(out.shape)]
    return [changed(out, part.reshape(lengths), spans)]


def join(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    return along(at, equation, values, before, (equation.params["dimension"],))


def split(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    return along(at, equation, values, before, (equation.params["axis"],))
