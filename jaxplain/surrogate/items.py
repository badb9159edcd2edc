"""Which leading axes of a function's arguments are items that never meet: a batch.

A visitor of the traced function: every axis of a value has a label (the argument's axis that it
runs along) or none, and an equation that mixes along an axis breaks its label. What is left at the
outputs is a batch, whatever the function was: `jnp.interp` is elementwise, though no equation of
its look-ups is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxplain.surrogate import compat, primitives, walk

Labels = tuple[int | None, ...]


def independent_axes(closed: Any, arguments: int) -> int:
    """How many first axes of a jaxpr's first inputs are those of all outputs, item by item."""
    jaxpr, _ = compat.open_jaxpr(closed)
    shapes = [v.aval.shape for v in jaxpr.invars]
    active = [tuple(range(len(shape))) for shape in shapes[:arguments]]
    passive = [(None,) * len(shape) for shape in shapes[arguments:]]
    visitor = _Visitor()
    outputs = visitor.inside(closed, [*active, *passive])
    depth = min(map(len, [*active, *outputs]), default=0)
    sizes = [shape[:depth] for shape in shapes[:arguments]]
    count = 0
    while count < depth and count not in visitor.broken:
        same = all(output[count] == count for output in outputs)
        if not same or len({size[count] for size in sizes}) > 1:
            break
        count += 1
    return count


class _Visitor:
    def __init__(self) -> None:
        self.broken: set[int] = set()

    def inside(self, closed: Any, labels: Sequence[Labels]) -> list[Labels]:
        known = lambda array: (None,) * jax.numpy.ndim(array)
        return walk.walk(closed, labels, self.visit, known)

    def visit(self, _: int, equation: Any, labels: list[Labels]) -> Sequence[Labels]:
        ndims = [atom.aval.ndim for atom in equation.outvars]
        if all(label is None for axes in labels for label in axes):
            return [(None,) * ndim for ndim in ndims]
        facts, name = primitives.facts(equation.primitive), equation.primitive.name
        if facts.group == "elementwise" or name == "copy":
            return [self.joined(labels)]
        if name in _RULES:
            return [_RULES[name](self, equation, labels)]
        if facts.along is not None:
            return [self.along(equation, labels[0], facts.along, ndim) for ndim in ndims]
        if facts.group == "calls" or name == "remat2":
            return self.inside(walk.bodies(equation)[0], labels)
        if compat.inner_name(equation) == "SearchSorted" and not any(_labelled(labels[0])):
            return [labels[1]]
        return [self.mix(labels, ndim) for ndim in ndims]

    def joined(self, labels: list[Labels]) -> Labels:
        """Axis by axis; where two differ, what meets there is no item any more."""
        longest = max(map(len, labels))
        full = [axes for axes in labels if len(axes) == longest]
        result: list[int | None] = []
        for column in zip(*full, strict=True):
            found = set(column) - {None}
            if len(found) > 1:
                self.broken |= found
            result.append(min(found) if found else None)
        self.drop([axes for axes in labels if len(axes) < longest])
        return tuple(result)

    def drop(self, labels: Sequence[Labels]) -> None:
        self.broken |= {label for axes in labels for label in axes if label is not None}

    def mix(self, labels: list[Labels], ndim: int) -> Labels:
        self.drop(labels)
        return (None,) * ndim

    def along(self, equation: Any, axes: Labels, name: str, ndim: int) -> Labels:
        """A reduction, or what keeps the axis that it works along."""
        worked = equation.params.get(name, len(axes) - 1)
        worked = {worked} if isinstance(worked, int) else set(worked)
        worked = {axis % len(axes) for axis in worked}
        self.drop([tuple(axes[axis] for axis in worked)])
        if ndim == len(axes):
            return tuple(None if i in worked else label for i, label in enumerate(axes))
        return tuple(label for i, label in enumerate(axes) if i not in worked)


def _labelled(axes: Labels) -> list[bool]:
    return [label is not None for label in axes]


def _broadcast(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    result: list[int | None] = [None] * equation.outvars[0].aval.ndim
    shape, size = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        if size[axis] == shape[target]:
            result[target] = labels[0][axis]
        else:
            visitor.drop([labels[0][axis : axis + 1]])
    return tuple(result)


def _reshape(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    """Axes of size one come and go; others keep their labels while the sizes agree in order."""
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    kept = [(size, label) for size, label in zip(old, labels[0], strict=True) if size != 1]
    if [size for size, _ in kept] != [size for size in new if size != 1]:
        return visitor.mix(labels, len(new))
    visitor.drop([tuple(label for s, label in zip(old, labels[0], strict=True) if s == 1)])
    remaining = iter(kept)
    return tuple(None if size == 1 else next(remaining)[1] for size in new)


def _transpose(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    return tuple(labels[0][axis] for axis in equation.params["permutation"])


def _slice(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    whole = [a == b for a, b in zip(old, new, strict=True)]
    visitor.drop([tuple(x for x, same in zip(labels[0], whole, strict=True) if not same)])
    return tuple(x if same else None for x, same in zip(labels[0], whole, strict=True))


def _concatenate(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    axis = equation.params["dimension"]
    visitor.drop([axes[axis : axis + 1] for axes in labels])
    return visitor.joined([(*axes[:axis], None, *axes[axis + 1 :]) for axes in labels])


def _stack(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    joined, axis = visitor.joined(labels), equation.params.get("axis", 0)
    return (*joined[:axis], None, *joined[axis:])


def _gather(visitor: _Visitor, equation: Any, labels: list[Labels]) -> Labels:
    """A look-up in a constant table: items of the indices are items of what is found."""
    operand, indices = labels[:2]
    visitor.drop([operand, indices[-1:]])
    offset = set(equation.params["dimension_numbers"].offset_dims)
    remaining = iter(indices[:-1])
    ndim = equation.outvars[0].aval.ndim
    return tuple(None if axis in offset else next(remaining) for axis in range(ndim))


_RULES: dict[str, Callable[[_Visitor, Any, list[Labels]], Labels]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    "stack": _stack,
    "gather": _gather,
}
