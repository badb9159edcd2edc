"""Equinox models as pure functions of one example, every submodule's output named by its path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx

from jaxplain._types import Function
from jaxplain.models._naming import Namer
from jaxplain.named.api import substitute as substituted


def function(
    model: Any,
    *,
    state: Any = None,
    output: Callable[[Any], Any] | None = None,
    method: str | Callable[..., Any] | None = None,
    inputs: str | Sequence[str] = (),
    inference: bool = True,
    substitute: Mapping[str, Function] | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""An Equinox model as a function of one example, with names for what its submodules return.

    Names are the modules' paths in the model's tree: "encoder/layers/0"; what a public method other
    than the call returns is named behind a dot: "embedder.attend", "encode" of the model itself.
    Leaves of a tuple follow as in "cell/0", and a module that is called more than once has its
    calls numbered, as in "dense#0", "dense#1" (`jaxplain.names` lists all).  The model itself is
    not changed.

    Args:
      model: an `equinox.Module`, called with one example.
      state: what `equinox.nn.make_with_state` made beside the model (batch statistics): passed
        behind the inputs, and dropped from the output.
      output: picks f's value from what the model returns, such as `lambda y: y["logits"]`.
      method: instead of the model's call: a method by name, or a function `(model, *args,
        **kwargs)`.
      inputs: patterns of names (as in `jaxplain.names`) whose first input is named as well, as in
        "dense:input".
      inference: call the model in inference mode (`equinox.nn.inference_mode`): no dropout, batch
        statistics as they are.
      substitute: {name of a call: function} for kernels that no rule can look into; see
        `jaxplain.substitute`.
      **kwargs: further arguments of the model, such as `key`.

    Returns:
      f(x, *args, **kwargs) → the model's output, with keywords beside those given here, or in their
      place; wrap it in a target, as in `jaxplain.logit(f, index)`.

    Raises:
      TypeError: the model is no Equinox module, or has no such method.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, jaxplain as jxp
      >>> model = eqx.nn.MLP(3, 2, width_size=4, depth=1, key=jax.random.key(0))
      >>> f = jxp.logit(jxp.equinox.function(model), 0)
      >>> sorted(jxp.deeplift(f, 0.0, at="*")(jnp.ones(3)))
      ['layers/0', 'layers/1']
    """
    if not isinstance(model, eqx.Module):
        raise TypeError(f"an Equinox module is needed, and {type(model).__name__} is none")
    if not callable(method) and not callable(getattr(model, method or "__call__", None)):
        raise TypeError(f"{type(model).__name__} has no method {method or '__call__'!r}")
    patterns = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    evaluated = eqx.nn.inference_mode(model) if inference else model
    named = _copy(evaluated, (), patterns, None if callable(method) else method)

    def f(x: Any, *args: Any, **more: Any) -> Any:
        keywords = {**kwargs, **more}
        inner = (x, *args) if state is None else (x, *args, state)
        if callable(method):
            y = method(named, *inner, **keywords)
        else:
            y = getattr(named, method or "__call__")(*inner, **keywords)
        if state is not None:
            y, _ = y
        return y if output is None else output(y)

    return f if substitute is None else substituted(f, substitute)


def _copy(node: Any, path: tuple[str, ...], patterns: tuple[str, ...], method: Any = None) -> Any:
    """A module, or a container of them, with methods that name their outputs."""

    def inner(key: Any, value: Any) -> Any:
        return _copy(value, (*path, str(key)), patterns)

    if isinstance(node, eqx.Module):
        copy = object.__new__(_named(type(node), "/".join(path), patterns, method))
        for key, value in vars(node).items():
            object.__setattr__(copy, key, inner(key, value))
        return copy
    if type(node) is dict:
        return {key: inner(key, value) for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(inner(i, value) for i, value in enumerate(node))
    return node


@functools.cache
def _named(cls: Any, path: str, patterns: tuple[str, ...], method: str | None) -> Any:
    """The module's class with methods that name their outputs."""
    name = Namer(patterns, batched=False, unnamed=lambda value: isinstance(value, eqx.nn.State))
    return name.subclass(cls, eqx.Module, path, method)
