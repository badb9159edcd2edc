"""Keras models on JAX as pure functions of one example, every layer's output named by its path."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxplain._types import Function
from jaxplain.models._batches import of_one
from jaxplain.models._naming import Namer
from jaxplain.named.api import substitute as substituted

# While a model is traced its layers' calls name what they return, in this thread alone; another
# thread that traces it waits, one that only evaluates it gets what it would.
_WRAPPING = threading.RLock()


def function(
    model: Any,
    *,
    output: Callable[[Any], Any] | None = None,
    batched: bool = True,
    inputs: str | Sequence[str] = (),
    substitute: Mapping[str, Function] | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""A Keras model as a function of one example, with names for what its layers return.

    Names are the layers', behind those of the models and layers that they are in: "encoder/conv";
    leaves of a tuple follow as in "cell/0", and a layer that is called more than once has its calls
    numbered, as in "dense#0", "dense#1" (`jaxplain.names` lists all).  The model is as it was
    afterwards; its weights are those that it has now, and are updated nowhere.

    Args:
      model: a built Keras 3 model or layer, with JAX as Keras's backend.
      output: picks f's value from what the model returns, such as `lambda y: y["logits"]`.
      batched: whether the model takes a batch: it then gets one of a single example, and named
        values and outputs come without that axis.
      inputs: patterns of paths (as in `jaxplain.names`) whose first input is named as well, as in
        "dense:input".
      substitute: {name of a call: function} for kernels that no rule can look into; see
        `jaxplain.substitute`.
      **kwargs: further arguments of the model's call; `training` is False where they don't say.

    Returns:
      f(x, *args, **kwargs) → the model's output at one example, with keywords beside those given
      here, or in their place; wrap it in a target, as in `jaxplain.logit(f, index)`.

    Raises:
      TypeError: the model is none of Keras's.
      ValueError: it is not built.
      RuntimeError: Keras has another backend than JAX.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp, keras
      >>> model = keras.Sequential([keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
      >>> model.build((None, 3))
      >>> f = jxp.logit(jxp.keras.function(model), 0)
      >>> jxp.deeplift(f, 0.0, at="hidden")(jnp.ones(3)).shape
      (4,)
    """
    import keras

    if not isinstance(model, keras.Layer):
        raise TypeError(f"a Keras model is needed, and {type(model).__name__} is none")
    if keras.config.backend() != "jax":
        raise RuntimeError(
            f"Keras runs on {keras.config.backend()}: set the environment variable "
            "KERAS_BACKEND=jax before Keras is first imported"
        )
    if not model.built:
        raise ValueError(
            f"{model.name!r} has no weights yet: call it on some data, or `model.build(shape)`"
        )
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    name = Namer(patterns, batched)
    weights = [[v.value for v in model.trainable_variables],
               [v.value for v in model.non_trainable_variables]]  # fmt: skip
    kwargs = {**_evaluation(model), **kwargs}

    def call(*args: Any, **keywords: Any) -> Any:
        with _named_layers(model, name):
            return model.stateless_call(*weights, *args, **keywords)[0]

    def f(x: Any, *args: Any, **more: Any) -> Any:
        y = of_one(call, (x, *args), batched, **{**kwargs, **more})
        return y if output is None else output(y)

    return f if substitute is None else substituted(f, substitute)


def _evaluation(model: Any) -> dict[str, bool]:
    """`training=False`, where the model's call takes it."""
    taken = inspect.signature(model.call).parameters.values()
    takes = any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in taken)
    return {"training": False} if takes else {}


@contextlib.contextmanager
def _named_layers(model: Any, name: Namer) -> Iterator[None]:
    """Every layer below the model with a call that names its output, for as long as this lasts."""
    path: list[str] = []
    layers = model._flatten_layers(include_self=False)
    with _WRAPPING, contextlib.ExitStack() as restored:
        for layer in layers:
            restored.callback(_restore, layer, vars(layer).get("call"))
            # Past the layer's own bookkeeping of what is set on it.
            object.__setattr__(layer, "call", _named(layer, path, name))
        yield


def _restore(layer: Any, own: Any) -> None:
    """The layer's call as it was: its class's, or one of its own."""
    if own is None:
        object.__delattr__(layer, "call")
    else:
        object.__setattr__(layer, "call", own)


def _named(layer: Any, path: list[str], name: Namer) -> Callable[..., Any]:
    """The layer's call, naming what goes in and comes out; `path` is of the layers around it."""
    own, thread = layer.call, threading.get_ident()

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return own(*args, **kwargs)
        path.append(layer.name)
        try:
            where = "/".join(path)
            return name.named(own(*name.inputs(args, where), **kwargs), where)
        finally:
            path.pop()

    return call
