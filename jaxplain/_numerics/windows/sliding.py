"""What slides along places: convolutions, pools, slices and padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import JaxprEqn

from jaxplain._numerics.windows.rules import Found
from jaxplain._numerics.windows.values import At, Changed, Place, Span, changed
from jaxplain.surrogate import compat


@dataclasses.dataclass(frozen=True)
class Slide:
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
        if self == Slide():
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


def slid(
    at: At,
    value: Changed,
    before: Array,
    slides: Mapping[int, tuple[int, Slide]],
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
        output = at.places({axis: own}, before.shape)[axis]
        places[a] = slide.place(output, value.before.shape[a], before.shape[axis])
        axes.append(a)
    if not spans:
        return None
    return at.excerpt(value, places, fill), spans, tuple(axes)


def bind(equation: JaxprEqn, values: Sequence[Any], **params: Any) -> list[Any]:
    """An equation's outputs with other parameters."""
    with compat.source_of(equation):
        return compat.bind_primitive(equation.primitive, values, equation.params | params)


def convolution(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, kernel = values
    if not isinstance(value, Changed) or isinstance(kernel, Changed):
        return None
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    slides = {lhs[0]: (out[0], Slide())} if params["batch_group_count"] == 1 else {}
    for i, (a, k, o) in enumerate(zip(lhs[2:], rhs[2:], out[2:], strict=True)):
        if params["lhs_dilation"][i] == 1:
            pad = params["padding"][i][0]
            slide = Slide(
                kernel.shape[k], params["rhs_dilation"][i], params["window_strides"][i], pad
            )
            slides[a] = (o, slide)
    found = slid(at, value, before[0], slides)
    if found is None:
        return None
    part, spans, cut = found
    padding = [
        (0, 0) if a in cut else pad for a, pad in zip(lhs[2:], params["padding"], strict=True)
    ]
    [window] = bind(equation, [part, kernel], padding=tuple(padding))
    return [changed(before[0], window, spans)]


def pool(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    """`reduce_window_sum`, `_max` and `_min`."""
    [value], params = values, equation.params
    slides = {
        a: (a, Slide(size, dilation, stride, pad))
        for a, (size, dilation, stride, (pad, _), base) in enumerate(zip(
            params["window_dimensions"], params["window_dilation"], params["window_strides"],
            params["padding"], params["base_dilation"], strict=True,
        ))
        if base == 1
    }  # fmt: skip
    neutral = _NEUTRAL[equation.primitive.name](value.before.dtype)
    found = slid(at, value, before[0], slides, neutral)
    if found is None:
        return None
    part, spans, cut = found
    padding = tuple((0, 0) if a in cut else pad for a, pad in enumerate(params["padding"]))
    [window] = bind(equation, [part], padding=padding)
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


def slice_(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    [value], params = values, equation.params
    strides = params["strides"] or (1,) * value.before.ndim
    slides = {
        a: (a, Slide(stride=stride, pad=-start))
        for a, (start, stride) in enumerate(zip(params["start_indices"], strides, strict=True))
    }
    found = slid(at, value, before[0], slides)
    if found is None:
        return None
    part, spans, cut = found
    starts = [0 if a in cut else n for a, n in enumerate(params["start_indices"])]
    limits = [part.shape[a] if a in cut else n for a, n in enumerate(params["limit_indices"])]
    return [changed(before[0], jax.lax.slice(part, starts, limits, strides), spans)]


def pad(at: At, equation: JaxprEqn, values: list[Any], before: list[Any]) -> Found:
    value, fill = values
    config = equation.params["padding_config"]
    if isinstance(fill, Changed):
        return None
    slides = {a: (a, Slide(pad=low)) for a, (low, _, inner) in enumerate(config) if inner == 0}
    found = slid(at, value, before[0], slides, fill)
    if found is None:
        return None
    part, spans, cut = found
    rest = [(0, 0, 0) if a in cut else c for a, c in enumerate(config)]
    return [changed(before[0], jax.lax.pad(part, fill, rest), spans)]
