"""Flax models as pure functions of one example, every submodule's output named by its path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen, nnx

from jaxplain._types import Function
from jaxplain.models._batches import of_one
from jaxplain.models._naming import Namer, of_method
from jaxplain.named.api import substitute as substituted

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
    method: str | Callable[..., Any] | None = None,
    batched: bool = True,
    inputs: str | Sequence[str] = (),
    rngs: Any = None,
    evaluation: bool = True,
    substitute: Mapping[str, Function] | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    r"""A Flax model as a function of one example, with names for what its submodules return.

    Names are the modules' paths: "encoder/layer_0/attention"; what a public method other than the
    call returns is named behind a dot: "embedder.attend", and "encode" of the model itself. Leaves
    of a tuple follow as in "cell/0", and a module that is called more than once has its calls
    numbered, as in "dense#0", "dense#1" (`jaxplain.names` lists all).  The model itself is not
    changed: variables that it would update (batch statistics, counters) are updated nowhere.

    Args:
      model: a linen module, an nnx one, or one of Hugging Face's Flax models (what has a linen
        `module` and `params`), which is called as it is, masks and positions by default included.
      variables: what `model.init` returned, for linen; of Hugging Face's models `params` other
        than its own.
      output: picks f's value from what the model returns, such as `lambda y: y["logits"]`.
      method: instead of the model's call: a method by name, or a function `(model, *args,
        **kwargs)`, for arguments that are made of others:
        `lambda model, ids: model(ids, positions=jnp.arange(ids.shape[1])[None])`.
      batched: whether the model takes a batch: it then gets one of a single example, and named
        values and outputs come without that axis.
      inputs: patterns of names (as in `jaxplain.names`) whose first input is named as well, as in
        "dense:input".
      rngs: for `linen.Module.apply`; a model in evaluation needs none.
      evaluation: call the model in evaluation mode: the flags `train`, `training`, `is_training`
        False, `deterministic`, `use_running_average` True, where the model takes them and `kwargs`
        do not give them; for nnx `module.eval()`.
      substitute: {name of a call: function} for kernels that no rule can look into; see
        `jaxplain.substitute`.
      **kwargs: further arguments of the model, which get them as they are: flags, or arrays with
        the axes that it wants.

    Returns:
      f(x, *args, **kwargs) → the model's output at one example, with keywords beside those given
      here, or in their place; wrap it in a target, as in `jaxplain.logit(f, index)`. A batch is
      `jax.vmap`: a model that takes any leading axes would take it for one example, with the
      batch's axis in every shape of `jaxplain.names(f)(x)`.

    Raises:
      TypeError: the model is no Flax module; variables are missing, or given for nnx; it has no
        such method, or takes no such keyword.

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
        apply = functools.partial(model.apply, variables, rngs=rngs)
        call = functools.partial(_linen, apply, method, name)
    elif isinstance(model, nnx.Module):
        if variables is not None or rngs is not None:
            raise TypeError("an nnx module holds its own variables and random streams")
        call = functools.partial(_nnx, *nnx.split(model), method, evaluation, name)
    elif isinstance(getattr(model, "module", None), linen.Module):
        if rngs is not None:
            raise TypeError("Hugging Face's models take `dropout_rng=`, and no `rngs`")
        apply = functools.partial(_wrapped, model, model.params if variables is None else variables)
        call = functools.partial(_linen, apply, method, name)
    else:
        raise TypeError(f"a linen or an nnx module is needed, and {type(model).__name__} is none")
    if not callable(method):
        own = _signature(model, method or "__call__", kwargs)
        kwargs = {**(_flags(model, own) if evaluation else {}), **kwargs}

    def f(x: Any, *args: Any, **more: Any) -> Any:
        y = of_one(call, (x, *args), batched, **{**kwargs, **more})
        return y if output is None else output(y)

    return f if substitute is None else substituted(f, substitute)


def _signature(model: Any, method: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a method takes, or an error that lists it."""
    if not callable(getattr(model, method, None)):
        raise TypeError(f"{type(model).__name__} has no method {method!r}")
    taken = inspect.signature(getattr(model, method)).parameters
    unknown = sorted(set(kwargs) - set(taken))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise TypeError(
            f"{type(model).__name__}.{method} takes no keyword {unknown[0]!r}; it takes "
            f"{list(taken)}"
        )
    return taken


def _flags(model: Any, taken: Mapping[str, Any]) -> dict[str, bool]:
    """The flags of evaluation that a call takes, and that the module does not hold already."""
    return {
        flag: value
        for flag, value in _EVALUATION.items()
        if flag in taken and getattr(model, flag, None) is None
    }


def _linen(
    apply: Callable[..., Any], method: Any, name: Namer, *args: Any, **kwargs: Any
) -> Any:
    entrances = ("__call__", method)

    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = "/".join(context.module.path)
        entered = not module and context.method_name in entrances
        if entered or (context.method_name.startswith("_") and context.method_name != "__call__"):
            return next_call(*args, **kwargs)
        path = of_method(module, context.method_name)
        return name.named(next_call(*name.inputs(args, path), **kwargs), path)

    with linen.intercept_methods(intercept):
        return apply(*args, method=method, **kwargs)


def _wrapped(model: Any, params: Any, *args: Any, method: Any, **kwargs: Any) -> Any:
    """A call of Hugging Face's object around a linen module, or of the module by a function."""
    if callable(method):
        return model.module.apply({"params": params}, *args, method=method, **kwargs)
    return getattr(model, method or "__call__")(*args, params=params, **kwargs)


def _nnx(
    graph: Any,
    state: Any,
    method: Any,
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
        named = name.subclass(type(module), nnx.Module, "/".join(map(str, path)), method)
        object.__setattr__(module, "__class__", named)
    if callable(method):
        return method(model, *args, **kwargs)
    return getattr(model, method or "__call__")(*args, **kwargs)
