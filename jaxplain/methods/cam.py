"""Class activation maps: which places of a layer speak for the output, signed and unnormalised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import nothing_drawn
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function
from jaxplain.methods.gradients import guided_backprop
from jaxplain.named import probes


@speaks
def grad_cam(
    f: Function, *, at: str, channel_axis: int = -1, argnums: Argnums = 0
) -> Explain:
    r"""Grad-CAM: Σ_c A_c · mean_p ∂f/∂A_pc, p over the places of a layer A and c its channels.

    Args:
      f: `f(x, *args)` → scalar.
      at: the name of the layer (`jaxplain.tag`), of one example: places, and one channel axis.
      channel_axis: of the layer.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a map of the layer's spatial shape; its positive part speaks for the
      output.  No completeness.

    Raises:
      TypeError: f is not scalar-valued; x, or the layer, is not made of floating arrays.
      ValueError: there is no such name, or the layer has no channel axis.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (jxp.tag(x, "layer") * jnp.array([1.0, -2.0])).mean()
      >>> jxp.grad_cam(f, at="layer")(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
      Array([ 0.25, -0.5 ], dtype=float32)

    Source: Selvaraju et al., arXiv 1610.02391, eqs. 1-2 (without eq. 2's relu).
    """

    def weigh(layer: Any, gradient: Any) -> Any:
        return (layer * _over_places(jnp.mean, gradient)).sum(-1)

    return _cam(f, weigh, at, channel_axis, argnums)


@speaks
def grad_cam_plus_plus(
    f: Function, *, at: str, channel_axis: int = -1, argnums: Argnums = 0
) -> Explain:
    r"""Grad-CAM++: Σ_c A_c · Σ_p α_pc relu(g_pc), α = g² / (2g² + g³ Σ_p A_pc), g = ∂f/∂A.

    The paper's score is exp(f), whose derivatives are powers of g times exp(f): that positive
    factor of the whole map is left out.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `grad_cam`.
      channel_axis: of the layer.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a map of the layer's spatial shape; no completeness.

    Raises:
      TypeError, ValueError: as `grad_cam`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(x, "layer").sum()
      >>> jxp.grad_cam_plus_plus(f, at="layer")(jnp.array([[1.0], [3.0]]))
      Array([0.3333, 1.    ], dtype=float32)

    Source: Chattopadhay et al., arXiv 1710.11063, eqs. 5, 12 and 19.
    """

    def weigh(layer: Any, gradient: Any) -> Any:
        bottom = 2 + gradient * _over_places(jnp.sum, layer)  # g² cancels
        alpha = jnp.where((gradient != 0) & (bottom != 0), 1 / jnp.where(bottom == 0, 1, bottom), 0)
        return (layer * _over_places(jnp.sum, alpha * jax.nn.relu(gradient))).sum(-1)

    return _cam(f, weigh, at, channel_axis, argnums)


@speaks
def layer_cam(
    f: Function, *, at: str, channel_axis: int = -1, argnums: Argnums = 0
) -> Explain:
    r"""LayerCAM: Σ_c relu(∂f/∂A_pc) A_pc at each place p.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `grad_cam`.
      channel_axis: of the layer.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a map of the layer's spatial shape; no completeness.

    Raises:
      TypeError, ValueError: as `grad_cam`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (jxp.tag(x, "layer") * jnp.array([1.0, -2.0])).sum()
      >>> jxp.layer_cam(f, at="layer")(jnp.array([[1.0, 0.0], [3.0, 1.0]]))
      Array([1., 3.], dtype=float32)

    Source: Jiang et al., "LayerCAM", IEEE TIP 30 (2021), eqs. 6-8.
    """

    def weigh(layer: Any, gradient: Any) -> Any:
        return (layer * jax.nn.relu(gradient)).sum(-1)

    return _cam(f, weigh, at, channel_axis, argnums)


@speaks
def hires_cam(
    f: Function, *, at: str, channel_axis: int = -1, argnums: Argnums = 0
) -> Explain:
    r"""HiResCAM: Σ_c ∂f/∂A_pc A_pc at each place p.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `grad_cam`.
      channel_axis: of the layer.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a map of the layer's spatial shape.  Where f is affine in the layer it
      sums to f(x) - f with the layer at zero.

    Raises:
      TypeError, ValueError: as `grad_cam`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (jxp.tag(x, "layer") * jnp.array([1.0, -2.0])).sum()
      >>> jxp.hires_cam(f, at="layer")(jnp.array([[1.0, 0.0], [3.0, 1.0]]))
      Array([1., 1.], dtype=float32)

    Source: Draelos & Carin, arXiv 2011.08891, eq. 3.
    """

    def weigh(layer: Any, gradient: Any) -> Any:
        return (layer * gradient).sum(-1)

    return _cam(f, weigh, at, channel_axis, argnums)


@speaks
def guided_grad_cam(
    f: Function,
    *,
    at: str,
    channel_axis: int = -1,
    input_channel_axis: int | None = -1,
    method: str = "nearest",
    argnums: Argnums = 0,
) -> Explain:
    r"""Guided Grad-CAM: guided backprop times the Grad-CAM map, spread over the input's places.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `grad_cam`.
      channel_axis: of the layer.
      input_channel_axis: of every leaf of x; None where it has none.
      method: of `upsample`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a pytree like x; no completeness.

    Raises:
      TypeError: as `grad_cam`.
      ValueError: as `grad_cam`; x has other spatial dimensions than the layer.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(jax.nn.relu(x), "layer").sum()
      >>> jxp.guided_grad_cam(f, at="layer")(jnp.array([[2.0], [-1.0]]))
      Array([[2.],
             [0.]], dtype=float32)

    Source: Selvaraju et al., arXiv 1610.02391, section 3.2 (its map without the relu).
    """
    cam = grad_cam(f, at=at, channel_axis=channel_axis, argnums=argnums)
    guided = guided_backprop(f, argnums=argnums)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        heat = cam(*args)

        def weigh(g: Any) -> Any:
            if input_channel_axis is None:
                return g * upsample(heat, g.shape, method)
            spatial = jnp.moveaxis(g, input_channel_axis, -1).shape[:-1]
            return g * jnp.expand_dims(upsample(heat, spatial, method), input_channel_axis)

        return jax.tree.map(weigh, guided(*args))

    return explain


def upsample(heat: Any, shape: tuple[int, ...], method: str = "linear") -> Any:
    r"""A map brought to the input's spatial shape.

    Args:
      heat: the map of a layer.
      shape: the input's spatial shape, as many axes as the map has.
      method: of `jax.image.resize`: `"nearest"`, `"linear"`, `"cubic"` ...

    Returns:
      An array of that shape.

    Raises:
      ValueError: another number of axes.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.cam.upsample(jnp.array([0.0, 1.0]), (4,), "nearest")
      Array([0., 0., 1., 1.], dtype=float32)
    """
    if len(shape) != heat.ndim:
        raise ValueError(f"a map of shape {heat.shape} does not spread over places of {shape}")
    return jax.image.resize(heat, shape, method)


def _cam(
    f: Function,
    weigh: Callable[[Any, Any], Any],
    at: str,
    channel_axis: int,
    argnums: Argnums,
) -> Explain:
    """`weigh(layer, gradient)` → map, on arrays with the channels last."""

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed = probes.probe(f, at, args, argnums)
        if not probed.single:
            raise ValueError(f"the layer is one name, and at={at!r} asks for {list(probed.probes)}")
        ndim = probed.probes[at].ndim
        if not -ndim <= channel_axis < ndim:
            raise ValueError(f"{at!r} has {ndim} axes, and channel_axis is {channel_axis}")
        gradients, values = probed.gradient_and_values(probed.x)
        return weigh(*(jnp.moveaxis(v[at], channel_axis, -1) for v in (values, gradients)))

    return explain


def _over_places(reduce: Callable[..., Any], array: Any) -> Any:
    return reduce(array, axis=tuple(range(array.ndim - 1)), keepdims=True)
