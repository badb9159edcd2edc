"""A function where a window of its input has changed, evaluated only where that makes a difference.

What a window of x reaches is followed through the traced program: through convolutions and pools
it grows, through elementwise operations it stays, and along the axes of places it keeps a known
width, whatever its start. So only windows of the values in between are computed anew. A sum over
places is updated by what it gains and loses; what looks at all places otherwise is computed as a
whole from there on. The outputs are f's, to rounding.

Source: the idea of fastISM, Nair et al., Bioinformatics 38 (2022) 2397-2403, for any program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain._numerics.windows import layout, rules, sliding
from jaxplain._numerics.windows.rules import Rule
from jaxplain._numerics.windows.values import (
    At,
    Changed,
    Everywhere,
    Span,
    Spans,
    changed,
    whole_of,
)
from jaxplain.surrogate import compat, primitives, walk


def after_a_change(
    function: Callable[[Array], Any], x: Array, shape: tuple[int, ...]
) -> Callable[[Array, Array], Any]:
    """`outputs(window, starts)`: function(x) with a window of this shape replaced in x."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(x)
    before = _recorded(closed, x)
    spans = {a: Span(a, 0, n - 1) for a, n in enumerate(shape)}

    def outputs(window: Array, starts: Array) -> Any:
        found = _Walk(before, starts).through(closed, [changed(x, window, spans)])
        return jax.tree.unflatten(jax.tree.structure(shapes), map(At(starts).whole, found))

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


class _Walk:
    """The values of a program after a change, from what they were before it."""

    def __init__(self, before: dict[str, list[Any]], starts: Array):
        self.before, self.starts, self.at = before, starts, At(starts)

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
                found = rule(self.at, equation, values, before) if rule else None
                if found is not None:
                    return found
            return list(map(Everywhere, compat.bind(equation, list(map(self.at.whole, values)))))

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
            found = _Walk(before, starts).called(equation, rebuilt(arrays), address)
            spans[:] = [y.spans if isinstance(y, Changed) else {} for y in found]
            return [y.window if isinstance(y, Changed) else whole_of(y) for y in found]

        operands = arrays, self.before, self.starts
        jax.eval_shape(windows, *operands)  # for the spans
        keeping = jax.custom_jvp(windows)

        @keeping.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            (arrays, _, starts), (moved, *_) = primals, tangents

            def plainly(arrays: Any) -> Any:
                at = At(starts)
                outputs = compat.bind(equation, list(map(at.whole, rebuilt(arrays))))
                return [
                    at.excerpt(y, at.places(own, y.shape))
                    for y, own in zip(outputs, spans, strict=True)
                ]

            return jax.jvp(plainly, (arrays,), (moved,))

        before = self.before[address]
        return list(map(changed, before, keeping(*operands), spans))


_RULES: dict[str, Rule] = {  # by group
    "elementwise": rules.pointwise,
    **dict.fromkeys(["maximum", "curved", "discrete"], rules.along_its_axes),
}
_OWN_RULES: dict[str, Rule] = {
    "dot_general": rules.dot,
    "reduce_sum": rules.reduce_sum,
    "cumsum": rules.along_its_axes,
    **dict.fromkeys(
        ["copy", "name", "optimization_barrier", "real", "imag", "conj"], rules.pointwise
    ),
    "conv_general_dilated": sliding.convolution,
    **dict.fromkeys(["reduce_window_sum", "reduce_window_max", "reduce_window_min"], sliding.pool),
    "slice": sliding.slice_,
    "pad": sliding.pad,
    "transpose": layout.transpose,
    "broadcast_in_dim": layout.broadcast,
    "squeeze": layout.squeeze,
    "reshape": layout.reshape,
    "concatenate": layout.join,
    "split": layout.split,
}
