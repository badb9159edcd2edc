"""What computes place by place, or sums over places: where a window of the operands differs.

A rule is called as (at, equation, values, before) and gives the outputs, of which it was told what
they were before, or None where it looks at everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.extend.core import JaxprEqn

from jaxplain._numerics.windows.values import At, Changed, Span, Spans, before_of, changed
from jaxplain.surrogate import compat, primitives

Found = list[Any] | None
Rule = Callable[[At, JaxprEqn, list[Any], list[Any]], Found]


def common(values: Sequence[Any]) -> dict[int, Span]:
    """The spans of values of one shape together, that hold the windows of each."""
    changed = [v for v in values if isinstance(v, Changed)]
    found = {}
    for axis, span in changed[0].spans.items():
        own = [v.spans.get(axis) for v in changed]
        if all(s is not None and s.alike(span) for s in own):
            known = [s for s in own if s is not None]
            found[axis] = dataclasses.replace(
                span, low=min(s.low for s in known), high=max(s.high for s in known)
            )
    return found


def pointwise(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """What computes each place by itself, from operands of one shape, or numbers."""
    return along(at, equation, values, before, ())


def along(
    at: At, equation: JaxprEqn, values: list[Any], before: list[Any], axes: Sequence[int]
) -> Found:
    """What works along some axes, and on all others place by place."""
    spans = {a: span for a, span in common(values).items() if a not in axes}
    if not spans:
        return None
    parts = [
        at.excerpt(v, at.places(spans, before_of(v).shape)) if jnp.ndim(before_of(v)) else v
        for v in values
    ]
    windows = compat.bind(equation, parts)
    if before[0].ndim < parts[0].ndim:  # the axes are gone
        spans = {a - sum(gone < a for gone in axes): span for a, span in spans.items()}
    return [changed(y, window, spans) for y, window in zip(before, windows, strict=True)]


def along_its_axes(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """Reductions, sorts, cumulative sums."""
    known = primitives.facts(equation.primitive)
    if known.along is None:
        return None
    axes = equation.params[known.along]
    return along(at, equation, values, before, axes if isinstance(axes, tuple) else (axes,))


def reduce_sum(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """Of places: what it was, and what the window gains."""
    [value], [total], axes = values, before, equation.params["axes"]
    if not any(a in value.spans for a in axes):
        return along(at, equation, values, before, axes)
    [gain] = compat.bind(equation, [at.gained(value)])
    rest = {
        a - sum(gone < a for gone in axes): span for a, span in value.spans.items() if a not in axes
    }
    return [_updated(at, total, gain, rest)]


def _updated(at: At, total: Array, gain: Array, spans: Spans) -> Any:
    return changed(total, at.excerpt(total, at.places(spans, total.shape)) + gain, spans)


def dot(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """With an array that stays: place by place, or updated along the axes that are summed."""
    which = [isinstance(v, Changed) for v in values]
    if all(which):
        return None
    v = which.index(True)
    value, other = values[v], values[1 - v]
    contracted, batch = equation.params["dimension_numbers"]
    pairs = [dict(zip(axes[v], axes[1 - v], strict=True)) for axes in (contracted, batch)]
    places = at.places(value.spans, value.before.shape)
    facing = {pair[a]: place for pair in pairs for a, place in places.items() if a in pair}
    summed = any(a in pairs[0] for a in value.spans)
    parts = [at.gained(value) if summed else value.window, at.excerpt(other, facing)]
    [result] = compat.bind(equation, parts if v == 0 else parts[::-1])
    # Axes of the result: the batch's, then those of the first and of the second that are free.
    free = [
        [a for a in range(before_of(side).ndim) if a not in (*contracted[i], *batch[i])]
        for i, side in enumerate(values)
    ]
    first = len(batch[0]) + (len(free[0]) if v == 1 else 0)
    spans = {}
    for a, span in value.spans.items():
        if a in batch[v]:
            spans[batch[v].index(a)] = span
        elif a in free[v]:
            spans[first + free[v].index(a)] = span
    if summed:
        return [_updated(at, before[0], result, spans)]
    return [changed(before[0], result, spans)]
