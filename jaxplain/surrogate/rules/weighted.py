"""Layers that waited, settled by the rule of their place: y = a ⊙ g(x, w) + c.

The constants that follow a product belong to it; a and c are found by what they make of 0 and 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.surrogate.backward import scaled, with_backward
from jaxplain.surrogate.rules.layers import Affine, Epsilon, LayerRule
from jaxplain.surrogate.values.lifted import Lifted
from jaxplain.surrogate.values.relevance import Chain, Hints, Layer, Relevant, Steps, is_number


def settled_layer(
    node: Any, rule: LayerRule, first: LayerRule | None = None, above: bool = False
) -> Relevant:
    """A layer and its constants by its rule; `first` is that of a layer which sees the input.

    `above` says that nothing arrives at outputs below 0.
    """
    layer: Layer = node.root
    steps, x = Steps(node, layer), layer.operand
    if first is None and isinstance(rule, Epsilon) and rule.bias:
        y = steps(layer.apply(x.value, layer.constants), steps.constants)
        return Relevant(stabilised(y, rule.epsilon), _hints(layer, steps))
    passive = layer.constants, steps.constants
    y = _through(layer, steps, rule, first, above)((x.value, x.entry, x.below), passive)
    return Relevant(y, _hints(layer, steps))


def stabilised(y: Any, epsilon: float) -> Any:
    """y, of whose relevance only y/(y + ε sgn y) goes on."""

    def valued_share(y: Any, _: Any) -> tuple[Any, Any]:
        return y, jnp.abs(y) / (jnp.abs(y) + jnp.asarray(epsilon, y.dtype))

    return scaled(valued_share, tame=True)(y, None) if epsilon else y


def _hints(layer: Layer, steps: Steps) -> Hints:
    before = layer.operand.hints
    if layer.weight is not None:
        return Hints(frozen=before.frozen)
    known = Hints(note="sum", frozen=before.frozen, positive=before.positive)
    for step in steps.nodes:
        known = after_linear(step, known)
    return known


def after_linear(node: Chain, hints: Hints) -> Hints:
    """What is still known after an equation that is linear, or shifts."""
    name = node.equation.primitive.name
    constants = [o for o in node.operands if not isinstance(o, Lifted)]
    scales = name in ("mul", "div", "neg", "convert_element_type", "copy")
    rises = scales and name != "neg" and all(is_number(o) and float(o) > 0 for o in constants)
    note = hints.note if scales else "sum" if hints.note else ""
    return dataclasses.replace(
        hints, note=note, first=False, positive=hints.positive and rises
    )


def _through(
    layer: Layer, steps: Steps, rule: LayerRule, first: LayerRule | None, above: bool
) -> Any:
    """y = a ⊙ g(x, w) + c with this rule backwards; `first` is that of what sees the input."""
    after = layer.weight is not None and layer.weight > layer.position
    at = None if layer.weight is None else layer.weight - after  # among the constants

    def affine(x: Any, constants: Any, scale: Any, shift: Any = None, y: Any = None) -> Affine:
        def apply(array: Any, weight: Any) -> Any:
            known = constants if at is None else [*constants[:at], weight, *constants[at + 1 :]]
            return layer.apply(array, known)

        weight = None if at is None else constants[at]
        return Affine(apply, x, weight, scale, shift, layer.operand.hints.positive, above, y)

    def forward(active: Any, passive: Any) -> tuple[Any, Any]:
        x, (constants, following) = active[0], passive
        y = steps(layer.apply(x, constants), following)
        scale, shift = _coefficients(steps, y, following)
        axis = _channels(layer, steps)
        if scale is not None and axis is not None and at is not None:
            merged, scale = _merged(constants[at], scale, axis), None
            constants = [*constants[:at], merged, *constants[at + 1 :]]
        at_x = affine(x, constants, scale, shift, y)
        own = (rule if first is None else first).ratios(at_x)
        below = rule.ratios(at_x) if first is not None and active[2] is not None else None
        return y, (x, constants, scale, own, below)

    def backward(saved: Any, cotangent: Any) -> Any:
        x, constants, scale, own, below = saved
        at_x = affine(x, constants, scale)

        def sent(by: LayerRule, ratios: Any) -> Any:
            signals = jax.tree.map(lambda r: (r * cotangent).astype(cotangent.dtype), ratios)
            return by.back(at_x, signals).astype(x.dtype)

        def multiplier(by: LayerRule, ratios: Any) -> Any:
            found = sent(by, ratios)
            return _over(found, x) if by.emits else found

        if first is None or layer.operand.entry is None:
            return multiplier(rule if first is None else first, own), None, None
        relevance = sent(first, own) if first.emits else x * sent(first, own)
        further = None if below is None else multiplier(rule, below)
        return jnp.zeros_like(x), relevance, further

    return with_backward(forward, backward)


def _over(relevance: Any, x: Any) -> Any:
    """R/x, and 0 where x is."""
    return jnp.where(x == 0, 0, relevance / jnp.where(x == 0, 1, x))


def _coefficients(steps: Steps, y: Any, constants: Any) -> tuple[Any, Any]:
    """a and c of steps(v) = a v + c, by its values at 0 and 1; None for 1 and 0."""
    if not steps.nodes:
        return None, None
    shift = steps(jnp.zeros(y.shape, steps.begin.dtype), constants)
    if all(map(_only_shifts, steps.nodes)):
        return None, shift
    return steps(jnp.ones(y.shape, steps.begin.dtype), constants) - shift, shift


def _only_shifts(node: Chain) -> bool:
    name = node.equation.primitive.name
    if name in ("add", "sub"):
        return len(node.actives) == 1 and (name == "add" or isinstance(node.operands[0], Lifted))
    return name in ("convert_element_type", "copy")


# A scale by channels (a batch norm's) is merged into the weights: with one sign less to tell apart
# a layer is evaluated once where it would be twice.


def _channels(layer: Layer, steps: Steps) -> int | None:
    """The axis of the weights that makes the last one of the outputs, if only there they scale."""
    axis = _last_axis(layer)
    moves = all(m.primitive.name in ("reshape", "squeeze", "broadcast_in_dim") for m in layer.moves)
    same = layer.shape[-1:] == tuple(layer.equation.aval.shape[-1:])
    scales = [node for node in steps.nodes if not _only_shifts(node)]
    if axis is None or not moves or not same or not all(map(_by_channel, scales)):
        return None
    return axis


def _by_channel(node: Chain) -> bool:
    """Whether an equation scales, by numbers that differ along the last axis only."""
    constants = [o for o in node.operands if not isinstance(o, Lifted)]
    shapes = [np.shape(o)[:-1] for o in constants]
    flat = all(size == 1 for shape in shapes for size in shape)
    return node.equation.primitive.name in ("mul", "div", "neg") and flat


def _last_axis(layer: Layer) -> int | None:
    """The axis of the weights that the last one of the layer's outputs is."""
    equation, weight = layer.equation, layer.weight
    if equation.primitive is jax.lax.conv_general_dilated_p and weight == 1:
        numbers = equation.params["dimension_numbers"]
        last = numbers.out_spec[1] == equation.aval.ndim - 1
        return numbers.rhs_spec[0] if last else None
    if equation.primitive is jax.lax.dot_general_p and weight == 1:
        (_, contracted), (_, batched) = equation.params["dimension_numbers"]
        free = set(range(np.ndim(layer.operands[1]))) - {*contracted, *batched}
        return max(free, default=None)
    return None


def _merged(weight: Any, scale: Any, axis: int) -> Any:
    """The weights, scaled along an axis by what scales the outputs along their last one."""
    channels = scale[(0,) * (scale.ndim - 1)]
    shape = [1] * weight.ndim
    shape[axis] = channels.size
    return (weight * channels.reshape(shape)).astype(weight.dtype)
