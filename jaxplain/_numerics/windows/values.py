"""Values that differ in a window, and what a part of one is now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Span:
    """The places of an axis that differ where the window starts at s along an axis of x.

    They lie between ⌊(s + low)/stride⌋ and ⌊(s + high)/stride⌋, each place being `block` elements.
    """

    axis: int
    low: int
    high: int
    stride: int = 1
    block: int = 1

    def width(self, size: int) -> int:
        """How many elements hold them, wherever the window starts."""
        places = (self.high - self.low + self.stride - 1) // self.stride + 1
        return min(size, places * self.block)

    def start(self, starts: Array, size: int) -> Any:
        """The first of these elements; near an end of the axis others are held beside them."""
        first = (starts[self.axis] + self.low) // self.stride * self.block
        return jnp.clip(first, 0, size - self.width(size))

    def alike(self, other: Span) -> bool:
        """Whether both are windows of the same places."""
        return (self.axis, self.stride, self.block) == (other.axis, other.stride, other.block)


Spans = Mapping[int, Span]  # by axis; along an axis without one everything differs


@dataclasses.dataclass(frozen=True)
class Changed:
    """A value that differs in a window: what it was, and what the window is now."""

    before: Array
    window: Array
    spans: Spans


@dataclasses.dataclass(frozen=True)
class Everywhere:
    """A value that differs in more than a window."""

    array: Array


def changed(before: Array, window: Array, spans: Spans) -> Changed | Everywhere:
    """A value of which these spans differ; one that is as long as its axis tells nothing."""
    spans = {a: span for a, span in spans.items() if span.width(before.shape[a]) < before.shape[a]}
    return Changed(before, window, spans) if spans else Everywhere(window)


@dataclasses.dataclass(frozen=True)
class Place:
    """A part of an axis, and how far beyond its two ends such a part may reach."""

    start: Any
    length: int
    margins: tuple[int, int] = (0, 0)


class At:
    """Where the window is that has changed: its starts along the axes of x."""

    def __init__(self, starts: Array):
        self.starts = starts

    def whole(self, value: Any) -> Array:
        """All of a value as it is now."""
        if not isinstance(value, Changed):
            return whole_of(value)
        return jax.lax.dynamic_update_slice(value.before, value.window, self.corner(value))

    def corner(self, value: Changed) -> list[Any]:
        """Where a value's window starts, along each axis."""
        places = self.places(value.spans, value.before.shape)
        return [place.start for place in every(places, value.before.shape)]

    def places(self, spans: Spans, shape: Sequence[int]) -> dict[int, Place]:
        """Where windows with these spans are, along the axes that have one."""
        return {
            a: Place(span.start(self.starts, shape[a]), span.width(shape[a]))
            for a, span in spans.items()
        }

    def excerpt(self, value: Any, places: Mapping[int, Place], fill: Any = 0) -> Array:
        """A part of a value as it is now; beyond its ends it is filled."""
        before = before_of(value)
        parts = every(places, before.shape)
        part = cut(before, parts, fill)
        if not isinstance(value, Changed):
            return part
        inside: Any = True
        shifts, margins = [], []
        for a, (place, start) in enumerate(zip(parts, self.corner(value), strict=True)):
            moves = a in places or a in value.spans
            margins.append((place.length, place.length, 0) if moves else (0, 0, 0))
            shifts.append(place.start - start + margins[a][0])
            if moves:
                index = jnp.arange(place.length) + (place.start - start)
                seen = (index >= 0) & (index < value.window.shape[a])
                inside &= seen.reshape([-1 if b == a else 1 for b in range(before.ndim)])
        padded = jax.lax.pad(value.window, jnp.zeros((), before.dtype), margins)
        aligned = jax.lax.dynamic_slice(padded, shifts, part.shape)
        return jnp.where(jnp.broadcast_to(inside, part.shape), aligned, part)

    def gained(self, value: Changed) -> Array:
        """What the window has more than before."""
        places = self.places(value.spans, value.before.shape)
        return value.window - cut(value.before, every(places, value.before.shape))


def whole_of(value: Any) -> Array:
    return value.array if isinstance(value, Everywhere) else value


def before_of(value: Any) -> Array:
    return value.before if isinstance(value, Changed) else value


def every(places: Mapping[int, Place], shape: Sequence[int]) -> list[Place]:
    """A place for every axis: all of it, where none is given."""
    return [places.get(a, Place(0, n)) for a, n in enumerate(shape)]


def cut(array: Array, places: Sequence[Place], fill: Any = 0) -> Array:
    margins = [(*place.margins, 0) for place in places]
    if any(map(any, margins)):
        array = jax.lax.pad(array, jnp.asarray(fill, array.dtype), margins)
    starts = [place.start + place.margins[0] for place in places]
    return jax.lax.dynamic_slice(array, starts, [place.length for place in places])
