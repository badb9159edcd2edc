"""Equinox models as pure functions of one example, every submodule's output named by its path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx

from jaxplain.models._naming import Namer


def function(
    model: Any,
    *,
    state: Any = None,
    output: Callable[[Any], Any] | None = None,
    method: str | None = None,
    inputs: str | Sequence[str] = (),
    inference: bool = True,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""An Equinox model as a function of one example, with names for what its submodules return.

    Names are the modules' paths in the model's tree: "encoder/layers/0"; leaves of a tuple follow
    as in "cell/0", and a module that is called more than once has its calls numbered, as in
    "dense#0", "dense#1" (`jaxplain.names` lists all).  The model itself is not changed.

    Args:
      model: an `equinox.Module`, called with one example.
      state: what `equinox.nn.make_with_state` made beside the model (batch statistics): passed
        behind the inputs, and dropped from the output.
      output: picks f's value from what the model returns, such as `lambda y: y["logits"]`.
      method: of the model, by name, instead of its call.
      inputs: patterns of paths (as in `jaxplain.names`) whose first input is named as well, as in
        "dense:input".
      inference: call the model in inference mode (`equinox.nn.inference_mode`): no dropout, batch
        statistics as they are.
      **kwargs: further arguments of the model, such as `key`.

    Returns:
      f(x, *args) → the model's output; wrap it in a target, as in `jaxplain.logit(f, index)`.

    Raises:
      TypeError: the model is no Equinox module.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, jaxplain as jxp
      >>> model = eqx.nn.MLP(3, 2, width_size=4, depth=1, key=jax.random.key(0))
      >>> f = jxp.logit(jxp.equinox.function(model), 0)
      >>> sorted(jxp.deeplift(f, 0.0, at="*")(jnp.ones(3)))
      ['layers/0', 'layers/1']
    """
    if not isinstance(model, eqx.Module):
        raise TypeError(f"an Equinox module is needed, and {type(model).__name__} is none")
    patterns = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    named = _copy(eqx.nn.inference_mode(model) if inference else model, (), patterns)

    def f(x: Any, *args: Any) -> Any:
        call = named if method is None else getattr(named, method)
        if state is None:
            y = call(x, *args, **kwargs)
        else:
            y, _ = call(x, *args, state, **kwargs)
        return y if output is None else output(y)

    return f


def _copy(node: Any, path: tuple[str, ...], patterns: tuple[str, ...]) -> Any:
    """A module, or a container of them, with calls below the top that name their outputs."""

    def inner(key: Any, value: Any) -> Any:
        return _copy(value, (*path, str(key)), patterns)

    if isinstance(node, eqx.Module):
        cls = type(node)
        if path and callable(node):
            cls = _named(cls, "/".join(path), patterns)
        copy = object.__new__(cls)
        for key, value in vars(node).items():
            object.__setattr__(copy, key, inner(key, value))
        return copy
    if type(node) is dict:
        return {key: inner(key, value) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(inner(i, value) for i, value in enumerate(node))
    return node


@functools.cache
def _named(cls: Any, path: str, patterns: tuple[str, ...]) -> Any:
    """The module's class with a call that names its output."""
    name = Namer(patterns, batched=False, unnamed=lambda value: isinstance(value, eqx.nn.State))

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return name.named(cls.__call__(self, *name.inputs(args, path), **kwargs), path)

    return type(cls)(cls.__name__, (cls,), {"__call__": functools.wraps(cls.__call__)(call)})
