"""Flax models as pure functions of one example, every submodule's output named by its path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen, nnx

from jaxplain.models._batches import of_one
from jaxplain.models._naming import Namer

# What a model calls its training and evaluation modes, and evaluation's value.
_EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


def function(
    model: Any,
    variables: Any = None,
    *,
    output: Callable[[Any], Any] | None = None,
    method: str | None = None,
    batched: bool = True,
    inputs: str | Sequence[str] = (),
    rngs: Any = None,
    evaluation: bool = True,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""A Flax model as a function of one example, with names for what its submodules return.

    Names are the modules' paths: "encoder/layer_0/attention"; leaves of a tuple follow as in
    "cell/0", and a module that is called more than once has its calls numbered, as in "dense#0",
    "dense#1" (`jaxplain.names` lists all).  The model itself is not changed: variables that it
    would update (batch statistics, counters) are updated nowhere.

    Args:
      model: a linen module, or an nnx one.
      variables: what `model.init` returned, for linen.
      output: picks f's value from what the model returns, such as `lambda y: y["logits"]`.
      method: of the model, by name, instead of its call.
      batched: whether the model takes a batch: it then gets one of a single example, and named
        values and outputs come without that axis.
      inputs: patterns of paths (as in `jaxplain.names`) whose first input is named as well, as in
        "dense:input".
      rngs: for `linen.Module.apply`; a model in evaluation needs none.
      evaluation: call the model in evaluation mode: the flags `train`, `training`, `is_training`
        False, `deterministic`, `use_running_average` True, where the model takes them and `kwargs`
        do not give them; for nnx `module.eval()`.
      **kwargs: further arguments of the model.

    Returns:
      f(x, *args) → the model's output at one example; wrap it in a target, as in
      `jaxplain.logit(f, index)`. A batch is `jax.vmap`: a model that takes any leading axes would
      take it for one example, with the batch's axis in every shape of `jaxplain.names(f)(x)`.

    Raises:
      TypeError: the model is no Flax module; variables are missing, or given for nnx.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxplain as jxp
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> f = jxp.logit(jxp.flax.function(model, variables), 0)
      >>> sorted(jxp.deeplift(f, 0.0, at="*")(jnp.ones(3)))
      ['layers_0', 'layers_2']
    """
    patterns = [inputs] if isinstance(inputs, str) else list(inputs)
    name = Namer(patterns, batched)
    if isinstance(model, linen.Module):
        if variables is None:
            raise TypeError("a linen module needs the variables that `model.init` returned")
        call = functools.partial(_linen, model, variables, method, rngs, name)
    elif isinstance(model, nnx.Module):
        if variables is not None or rngs is not None:
            raise TypeError("an nnx module holds its own variables and random streams")
        call = functools.partial(_nnx, *nnx.split(model), method, evaluation, name)
    else:
        raise TypeError(f"a linen or an nnx module is needed, and {type(model).__name__} is none")
    if evaluation:
        kwargs = {**_flags(model, method or "__call__"), **kwargs}

    def f(x: Any, *args: Any) -> Any:
        y = of_one(call, (x, *args), batched, **kwargs)
        return y if output is None else output(y)

    return f


def _flags(model: Any, method: str) -> dict[str, bool]:
    """The flags of evaluation that a call takes, and that the module does not hold already."""
    taken = inspect.signature(getattr(model, method)).parameters
    return {
        flag: value
        for flag, value in _EVALUATION.items()
        if flag in taken and getattr(model, flag, None) is None
    }


def _linen(
    model: linen.Module,
    variables: Any,
    method: str | None,
    rngs: Any,
    name: Namer,
    *args: Any,
    **kwargs: Any,
) -> Any:
    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if not path or context.method_name != "__call__":
            return next_call(*args, **kwargs)
        return name.named(next_call(*name.inputs(args, path), **kwargs), path)

    with linen.intercept_methods(intercept):
        return model.apply(variables, *args, method=method, rngs=rngs, **kwargs)


def _nnx(
    graph: Any,
    state: Any,
    method: str | None,
    evaluation: bool,
    name: Namer,
    *args: Any,
    **kwargs: Any,
) -> Any:
    # A copy of our own, made where it is traced: nnx transforms take no variables from elsewhere.
    model = nnx.merge(graph, state, copy=True)
    if evaluation:
        model.eval()
    for path, module in list(nnx.iter_modules(model)):
        if path and callable(module):
            object.__setattr__(module, "__class__", _named(type(module), path, name))
    return (model if method is None else getattr(model, method))(*args, **kwargs)


def _named(cls: Any, path: Sequence[Any], name: Namer) -> Any:
    """The module's class with a call that names its output."""
    where = "/".join(map(str, path))

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return name.named(cls.__call__(self, *name.inputs(args, where), **kwargs), where)

    return type(cls.__name__, (cls,), {"__call__": functools.wraps(cls.__call__)(call)})
