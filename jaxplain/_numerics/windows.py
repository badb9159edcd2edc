"""A function where a window of its input has changed, evaluated only where that makes a difference.

What a window of x reaches is followed through the traced program: through convolutions and pools
it grows, through elementwise operations it stays, and along the axes of places it keeps a known
width, whatever its start. So only windows of the values in between are computed anew. A sum over
places is updated by what it gains and loses; what looks at all places otherwise is computed as a
whole from there on. The outputs are f's, to rounding.

Source: the idea of fastISM, Nair et al., Bioinformatics 38 (2022) 2397-2403, for any program.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives, walk


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


def after_a_change(
    function: Callable[[Array], Any], x: Array, shape: tuple[int, ...]
) -> Callable[[Array, Array], Any]:
    """`outputs(window, starts)`: function(x) with a window of this shape replaced in x."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(x)
    before = _recorded(closed, x)
    spans = {a: Span(a, 0, n - 1) for a, n in enumerate(shape)}

    def outputs(window: Array, starts: Array) -> Any:
        windows = _Windows(before, starts)
        found = windows.through(closed, [changed(x, window, spans)])
        return jax.tree.unflatten(jax.tree.structure(shapes), map(windows.whole, found))

    return outputs


def _recorded(closed: ClosedJaxpr, x: Array) -> dict[str, list[Any]]:
    """The outputs of all equations of a program, by their addresses."""
    found: dict[str, list[Any]] = {}

    def through(body: ClosedJaxpr, operands: Sequence[Any], within: str) -> list[Any]:
        def visit(number: int, equation: JaxprEqn, values: list[Any]) -> list[Any]:
            address = f"{within}/{number}"
            if _is_call(equation):
                through(walk.bodies(equation)[0], values, address)
            found[address] = compat.bind(equation, values)
            return found[address]

        return walk.walk(body, operands, visit)

    through(closed, [x], "")
    return found


def _is_call(equation: JaxprEqn) -> bool:
    """Whether its body is looked into; one with a pullback of its own stays as it is."""
    name = equation.primitive.name
    opened = primitives.facts(equation.primitive).group == "calls" or name == "remat2"
    return opened and name != "custom_vjp_call"


class _Windows:
    """The values after a change whose window starts at `starts` along the axes of x."""

    def __init__(self, before: dict[str, list[Any]], starts: Array):
        self.before, self.starts = before, starts

    def through(self, body: ClosedJaxpr, operands: Sequence[Any], within: str = "") -> list[Any]:
        """A program's outputs; arrays are what they were."""

        def visit(number: int, equation: JaxprEqn, values: list[Any]) -> list[Any]:
            address = f"{within}/{number}"
            before = self.before[address]
            if not any(isinstance(v, Changed | Everywhere) for v in values):
                return before
            keeps = primitives.facts(equation.primitive).derivative
            if _is_call(equation) and not keeps:
                return self.called(equation, values, address)
            if not any(isinstance(v, Everywhere) for v in values):
                if _is_call(equation):
                    return self.called_keeping(equation, values, address)
                rule = _RULES.get(primitives.facts(equation.primitive).group)
                rule = _OWN_RULES.get(equation.primitive.name, rule)
                found = rule(self, equation, values, before) if rule else None
                if found is not None:
                    return found
            return list(map(Everywhere, compat.bind(equation, list(map(self.whole, values)))))

        return walk.walk(body, operands, visit)

    def called(self, equation: JaxprEqn, values: Sequence[Any], address: str) -> list[Any]:
        """A call's outputs."""
        return self.through(walk.bodies(equation)[0], values, address)

    def called_keeping(self, equation: JaxprEqn, values: Sequence[Any], address: str) -> list[Any]:
        """The same, and its own derivative (a relu's at 0), which is that of the whole."""
        arrays: list[Any] = [(v.before, v.window) if isinstance(v, Changed) else v for v in values]
        spans: list[Spans] = []

        def rebuilt(arrays: Sequence[Any]) -> list[Any]:
            return [
                Changed(array[0], array[1], v.spans) if isinstance(v, Changed) else array
                for v, array in zip(values, arrays, strict=True)
            ]

        def windows(arrays: Any, before: Any, starts: Array) -> Any:
            found = _Windows(before, starts).called(equation, rebuilt(arrays), address)
            spans[:] = [y.spans if isinstance(y, Changed) else {} for y in found]
            return [y.window if isinstance(y, Changed) else _whole_of(y) for y in found]

        operands = arrays, self.before, self.starts
        jax.eval_shape(windows, *operands)  # for the spans
        keeping = jax.custom_jvp(windows)

        @keeping.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            (arrays, before, starts), (moved, *_) = primals, tangents

            def plainly(arrays: Any) -> Any:
                w = _Windows(before, starts)
                outputs = compat.bind(equation, list(map(w.whole, rebuilt(arrays))))
                return [
                    w.excerpt(y, w.places(own, y.shape))
                    for y, own in zip(outputs, spans, strict=True)
                ]

            return jax.jvp(plainly, (arrays,), (moved,))

        before = self.before[address]
        return list(map(changed, before, keeping(*operands), spans))

    def whole(self, value: Any) -> Array:
        """All of a value as it is now."""
        if not isinstance(value, Changed):
            return _whole_of(value)
        return jax.lax.dynamic_update_slice(value.before, value.window, self.corner(value))

    def corner(self, value: Changed) -> list[Any]:
        """Where a value's window starts, along each axis."""
        places = self.places(value.spans, value.before.shape)
        return [place.start for place in _every(places, value.before.shape)]

    def places(self, spans: Spans, shape: Sequence[int]) -> dict[int, Place]:
        """Where windows with these spans are, along the axes that have one."""
        return {
            a: Place(span.start(self.starts, shape[a]), span.width(shape[a]))
            for a, span in spans.items()
        }

    def excerpt(self, value: Any, places: Mapping[int, Place], fill: Any = 0) -> Array:
        """A part of a value as it is now; beyond its ends it is filled."""
        before = _before(value)
        cut = _every(places, before.shape)
        part = _cut(before, cut, fill)
        if not isinstance(value, Changed):
            return part
        inside: Any = True
        shifts, margins = [], []
        for a, (place, start) in enumerate(zip(cut, self.corner(value), strict=True)):
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
        return value.window - _cut(value.before, _every(places, value.before.shape))


@dataclasses.dataclass(frozen=True)
class Place:
    """A part of an axis, and how far beyond its two ends such a part may reach."""

    start: Any
    length: int
    margins: tuple[int, int] = (0, 0)


def _whole_of(value: Any) -> Array:
    return value.array if isinstance(value, Everywhere) else value


def _before(value: Any) -> Array:
    return value.before if isinstance(value, Changed) else value


def _every(places: Mapping[int, Place], shape: Sequence[int]) -> list[Place]:
    """A place for every axis: all of it, where none is given."""
    return [places.get(a, Place(0, n)) for a, n in enumerate(shape)]


def _cut(array: Array, places: Sequence[Place], fill: Any = 0) -> Array:
    margins = [(*place.margins, 0) for place in places]
    if any(map(any, margins)):
        array = jax.lax.pad(array, jnp.asarray(fill, array.dtype), margins)
    starts = [place.start + place.margins[0] for place in places]
    return jax.lax.dynamic_slice(array, starts, [place.length for place in places])


# Rules: (windows, equation, values, outputs before) → outputs, or None where all is looked at.

Found = list[Any] | None


def _common(values: Sequence[Any]) -> dict[int, Span]:
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


def _pointwise(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """What computes each place by itself, from operands of one shape, or numbers."""
    return _along(w, equation, values, before, ())


def _along(
    w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any], axes: Sequence[int]
) -> Found:
    """What works along some axes, and on all others place by place."""
    spans = {a: span for a, span in _common(values).items() if a not in axes}
    if not spans:
        return None
    parts = [
        w.excerpt(v, w.places(spans, _before(v).shape)) if jnp.ndim(_before(v)) else v
        for v in values
    ]
    windows = compat.bind(equation, parts)
    if before[0].ndim < parts[0].ndim:  # the axes are gone
        spans = {a - sum(gone < a for gone in axes): span for a, span in spans.items()}
    return [changed(y, window, spans) for y, window in zip(before, windows, strict=True)]


def _along_its_axes(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """Reductions, sorts, cumulative sums."""
    known = primitives.facts(equation.primitive)
    if known.along is None:
        return None
    axes = equation.params[known.along]
    return _along(w, equation, values, before, axes if isinstance(axes, tuple) else (axes,))


def _reduce_sum(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """Of places: what it was, and what the window gains."""
    [value], [total], axes = values, before, equation.params["axes"]
    if not any(a in value.spans for a in axes):
        return _along(w, equation, values, before, axes)
    [gain] = compat.bind(equation, [w.gained(value)])
    rest = {
        a - sum(gone < a for gone in axes): span for a, span in value.spans.items() if a not in axes
    }
    return [_updated(w, total, gain, rest)]


def _updated(w: _Windows, total: Array, gain: Array, spans: Spans) -> Any:
    return changed(total, w.excerpt(total, w.places(spans, total.shape)) + gain, spans)


def _dot(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """With an array that stays: place by place, or updated along the axes that are summed."""
    which = [isinstance(v, Changed) for v in values]
    if all(which):
        return None
    v = which.index(True)
    value, other = values[v], values[1 - v]
    contracted, batch = equation.params["dimension_numbers"]
    pairs = [dict(zip(axes[v], axes[1 - v], strict=True)) for axes in (contracted, batch)]
    places = w.places(value.spans, value.before.shape)
    facing = {pair[a]: place for pair in pairs for a, place in places.items() if a in pair}
    summed = any(a in pairs[0] for a in value.spans)
    parts = [w.gained(value) if summed else value.window, w.excerpt(other, facing)]
    [result] = compat.bind(equation, parts if v == 0 else parts[::-1])
    # Axes of the result: the batch's, then those of the first and of the second that are free.
    free = [
        [a for a in range(_before(side).ndim) if a not in (*contracted[i], *batch[i])]
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
        return [_updated(w, before[0], result, spans)]
    return [changed(before[0], result, spans)]


@dataclasses.dataclass(frozen=True)
class _Slide:
    """Places o·stride - pad + j·dilation, j < size, along an axis for the output's place o."""

    size: int = 1
    dilation: int = 1
    stride: int = 1
    pad: int = 0

    @property
    def reach(self) -> int:
        return (self.size - 1) * self.dilation

    def span(self, span: Span) -> Span | None:
        """Of the outputs."""
        if self == _Slide():
            return span
        if span.block != 1:
            return None
        low = span.low + (self.pad - self.reach + self.stride - 1) * span.stride
        high = span.high + self.pad * span.stride
        return Span(span.axis, low, high, span.stride * self.stride)

    def place(self, output: Place, size: int, outputs: int) -> Place:
        """Of the inputs that a part of the outputs looks at."""
        last = (outputs - 1) * self.stride - self.pad + self.reach
        return Place(
            output.start * self.stride - self.pad,
            (output.length - 1) * self.stride + self.reach + 1,
            (max(self.pad, 0), max(last - (size - 1), 0)),
        )


def _slid(
    w: _Windows,
    value: Changed,
    before: Array,
    slides: Mapping[int, tuple[int, _Slide]],
    fill: Any = 0,
) -> tuple[Array, dict[int, Span], tuple[int, ...]] | None:
    """What a sliding window looks at for the outputs that differ, their spans, and the axes cut.

    `slides` gives, for axes of the value, the output's axis and how the window slides along it.
    """
    places, spans, axes = {}, {}, []
    for a, span in value.spans.items():
        if a not in slides:
            continue
        axis, slide = slides[a]
        own = slide.span(span)
        if own is None or own.width(before.shape[axis]) == before.shape[axis]:
            continue
        spans[axis] = own
        output = w.places({axis: own}, before.shape)[axis]
        places[a] = slide.place(output, value.before.shape[a], before.shape[axis])
        axes.append(a)
    if not spans:
        return None
    return w.excerpt(value, places, fill), spans, tuple(axes)


def _bind(equation: JaxprEqn, values: Sequence[Any], **params: Any) -> list[Any]:
    """An equation's outputs with other parameters."""
    with compat.source_of(equation):
        return compat.bind_primitive(equation.primitive, values, equation.params | params)


def _convolution(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, kernel = values
    if not isinstance(value, Changed) or isinstance(kernel, Changed):
        return None
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    slides = {lhs[0]: (out[0], _Slide())} if params["batch_group_count"] == 1 else {}
    for i, (a, k, o) in enumerate(zip(lhs[2:], rhs[2:], out[2:], strict=True)):
        if params["lhs_dilation"][i] == 1:
            pad = params["padding"][i][0]
            slide = _Slide(
                kernel.shape[k], params["rhs_dilation"][i], params["window_strides"][i], pad
            )
            slides[a] = (o, slide)
    found = _slid(w, value, before[0], slides)
    if found is None:
        return None
    part, spans, cut = found
    padding = [
        (0, 0) if a in cut else pad for a, pad in zip(lhs[2:], params["padding"], strict=True)
    ]
    [window] = _bind(equation, [part, kernel], padding=tuple(padding))
    return [changed(before[0], window, spans)]


def _pool(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """`reduce_window_sum`, `_max` and `_min`."""
    [value], params = values, equation.params
    slides = {
        a: (a, _Slide(size, dilation, stride, pad))
        for a, (size, dilation, stride, (pad, _), base) in enumerate(zip(
            params["window_dimensions"], params["window_dilation"], params["window_strides"],
            params["padding"], params["base_dilation"], strict=True,
        ))
        if base == 1
    }  # fmt: skip
    found = _slid(
        w, value, before[0], slides, _NEUTRAL[equation.primitive.name](value.before.dtype)
    )
    if found is None:
        return None
    part, spans, cut = found
    padding = tuple((0, 0) if a in cut else pad for a, pad in enumerate(params["padding"]))
    [window] = _bind(equation, [part], padding=padding)
    return [changed(before[0], window, spans)]


def _least(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _most(dtype: Any) -> Any:
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


_NEUTRAL: dict[str, Callable[[Any], Any]] = {
    "reduce_window_sum": lambda dtype: 0,
    "reduce_window_max": _least,
    "reduce_window_min": _most,
}


def _slice(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    [value], params = values, equation.params
    strides = params["strides"] or (1,) * value.before.ndim
    slides = {
        a: (a, _Slide(stride=stride, pad=-start))
        for a, (start, stride) in enumerate(zip(params["start_indices"], strides, strict=True))
    }
    found = _slid(w, value, before[0], slides)
    if found is None:
        return None
    part, spans, cut = found
    starts = [0 if a in cut else n for a, n in enumerate(params["start_indices"])]
    limits = [part.shape[a] if a in cut else n for a, n in enumerate(params["limit_indices"])]
    return [changed(before[0], jax.lax.slice(part, starts, limits, strides), spans)]


def _pad(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, fill = values
    config = equation.params["padding_config"]
    if isinstance(fill, Changed):
        return None
    slides = {a: (a, _Slide(pad=low)) for a, (low, _, inner) in enumerate(config) if inner == 0}
    found = _slid(w, value, before[0], slides, fill)
    if found is None:
        return None
    part, spans, cut = found
    rest = [(0, 0, 0) if a in cut else c for a, c in enumerate(config)]
    return [changed(before[0], jax.lax.pad(part, fill, rest), spans)]


# Layout.


def _laid_out(
    w: _Windows,
    value: Changed,
    before: Array,
    axes: Mapping[int, int],
    lay: Callable[[Array, list[int]], Array],
) -> Found:
    """What moves axes: `axes` of the value to those of the output, `lay(part, its new shape)`."""
    kept = {a: span for a, span in value.spans.items() if a in axes}
    if not kept:
        return None
    part = w.excerpt(value, w.places(kept, value.before.shape))
    spans = {axes[a]: span for a, span in kept.items()}
    shape = [spans[a].width(n) if a in spans else n for a, n in enumerate(before.shape)]
    return [changed(before, lay(part, shape), spans)]


def _transpose(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    order = equation.params["permutation"]
    axes = {a: i for i, a in enumerate(order)}
    return _laid_out(w, values[0], before[0], axes, lambda part, _: jnp.transpose(part, order))


def _broadcast(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, out = values[0], equation.params["broadcast_dimensions"]
    axes = {a: o for a, o in enumerate(out) if value.before.shape[a] == before[0].shape[o]}
    lay = lambda part, shape: jax.lax.broadcast_in_dim(part, shape, out)
    return _laid_out(w, value, before[0], axes, lay)


def _squeeze(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    gone = equation.params["dimensions"]
    axes = {a: a - sum(g < a for g in gone) for a in range(values[0].before.ndim) if a not in gone}
    return _laid_out(w, values[0], before[0], axes, lambda part, shape: part.reshape(shape))


def _reshape(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
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
    part = w.excerpt(value, w.places(kept, shape))
    lengths = [spans[o].width(n) if o in spans else n for o, n in enumerate(out.shape)]
    return [changed(out, part.reshape(lengths), spans)]


def _join(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    return _along(w, equation, values, before, (equation.params["dimension"],))


def _split(w: _Windows, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    return _along(w, equation, values, before, (equation.params["axis"],))


Rule = Callable[[_Windows, JaxprEqn, list[Any], list[Any]], Found]
_RULES: dict[str, Rule] = {
    "elementwise": _pointwise,
    "maximum": _along_its_axes,
    "curved": _along_its_axes,
    "discrete": _along_its_axes,
}
_OWN_RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "reduce_window_sum": _pool,
    "reduce_window_max": _pool,
    "reduce_window_min": _pool,
    "reduce_sum": _reduce_sum,
    "cumsum": _along_its_axes,
    "slice": _slice,
    "pad": _pad,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "concatenate": _join,
    "split": _split,
    **dict.fromkeys(["copy", "name", "optimization_barrier", "real", "imag", "conj"], _pointwise),
}
