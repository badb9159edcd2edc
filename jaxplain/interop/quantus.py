"""Quantus's metrics run on our models: as a torch module around one compiled function."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.metrics.randomization import layers_of

Tree = Any


def to_quantus(
    explain: Callable[..., Tree],
    apply: Callable[..., Tree],
    variables: Tree,
    *,
    hidden: Callable[..., Tree] | None = None,
    channels_last: bool = False,
) -> tuple[Any, Callable[..., np.ndarray]]:
    r"""A model and an `explain_func` as Quantus takes them: `metric(model=…, explain_func=…, …)`.

    The model is a `torch.nn.Module` that holds the variables, a submodule a layer, and calls one
    compiled function of them and of the inputs. So does explain_func, with the variables of the
    module that it is given, for some metrics change them. What is compiled is used for all batches
    of up to a power of two examples.

    Args:
      explain: `explain(variables, x, target)` → contributions of one example, shaped like x, or
        like it without its axis of channels.
      apply: `apply(variables, x)` → one example's logits.
      variables: a tree of arrays. A layer is the leaves with one parent.
      hidden: `hidden(variables, x)` → a value inside, which is the representation of
        `RelativeRepresentationStability`; None: the logits.
      channels_last: the model takes channels last. Quantus passes (examples, channels, ...).

    Returns:
      (model, explain_func): the module in evaluation mode, and a function `(model, inputs, targets,
      **kwargs)` → numpy, shaped like inputs, with one channel where the map has none; further
      arguments (Quantus adds its device) mean nothing here. All metrics of Quantus 0.6.0
      take them but `InputInvariance`, which rewrites a torch convolution, and `SmoothMPRT`, which
      explains by Captum whatever it is given (`parameter_randomization` of `smooth` is that
      metric). With a NumPy that has lost `trapz`, Quantus's areas use `trapezoid` from here on.

    Raises:
      ImportError: torch is not installed.
      ValueError: from explain_func, where contributions are not shaped like inputs.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxplain as jxp
      >>> apply = lambda weights, x: weights @ x
      >>> def explain(weights, x, target):
      ...     return jxp.deeplift(jxp.logit(lambda x: apply(weights, x), target), 0.0)(x)
      >>> weights = jnp.array([[1.0, 2.0]])
      >>> model, explain_func = jxp.interop.to_quantus(  # doctest: +SKIP
      ...     explain, apply, weights)
      >>> explain_func(model, np.array([[3.0, 4.0]]), np.array([0]))  # doctest: +SKIP
      array([[3., 8.]], dtype=float32)

    Source: Hedström et al., "Quantus", JMLR 24 (2023), arXiv 2202.06861.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError('to_quantus needs torch: pip install "jaxplain[quantus]"') from error
    _restore_trapezoids()
    predict = _Batched(apply)
    inside = predict if hidden is None else _Batched(hidden)
    maps = _Batched(explain)
    model = _module(torch)(variables, predict, inside, channels_last)

    def explain_func(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        x = _moved(_numpy(inputs), channels_last)
        scores = maps(_held(model).variables(), x, _numpy(targets))
        if scores.shape == x.shape:
            return np.moveaxis(scores, -1, 1) if channels_last else scores
        channels = -1 if channels_last else 1
        if x.ndim > 2 and scores.shape == tuple(np.delete(x.shape, channels)):
            return scores[:, None]
        raise ValueError(f"contributions {scores.shape} for inputs {x.shape}")

    return model.eval(), explain_func


class _Batched:
    """A function of (variables, *example) over examples: one program for up to 2^k of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        def over(variables: Tree, examples: tuple[Any, ...]) -> Any:
            return jax.vmap(lambda example: function(variables, *example))(examples)

        self.compiled = jax.jit(over)

    def __call__(self, variables: Tree, *examples: np.ndarray) -> np.ndarray:
        count = len(examples[0])
        size = 1 << max(count - 1, 0).bit_length()
        padded = tuple(v[np.minimum(np.arange(size), count - 1)] for v in examples)
        return np.array(self.compiled(variables, padded)[:count])  # torch writes to arrays

    def __deepcopy__(self, memo: Any) -> _Batched:
        """Quantus copies models; what is compiled is shared by them."""
        return self


def _module(torch: Any) -> type:
    """The class of modules, which needs torch to be defined."""

    class Layer(torch.nn.Module):
        """Leaves with one parent."""

        def reset_parameters(self) -> None:
            """Normal numbers of the leaf's mean square, as `parameter_randomization` draws them."""
            with torch.no_grad():
                for leaf in self.parameters():
                    leaf.copy_(torch.randn_like(leaf) * leaf.square().mean().sqrt())

    class Model(torch.nn.Module):
        """A JAX model whose floating variables are torch's parameters."""

        def __init__(
            self, variables: Tree, predict: _Batched, hidden: _Batched, channels_last: bool
        ) -> None:
            super().__init__()
            self.predict, self.hidden, self.channels_last = predict, hidden, channels_last
            self.leaves, self.tree = jax.tree.flatten(jax.tree.map(jnp.asarray, variables))
            names, places = layers_of(variables)
            for name in names:
                self.add_module(_name(name), Layer())
            self.places = [_name(names[place]) for place in places]
            for i, (leaf, place) in enumerate(zip(self.leaves, self.places, strict=True)):
                if jnp.issubdtype(leaf.dtype, jnp.floating):
                    array = torch.from_numpy(np.array(leaf, np.float32))
                    held = torch.nn.Parameter(array, requires_grad=False)
                    getattr(self, place).register_parameter(f"leaf_{i}", held)
            self.representation = torch.nn.Identity()  # where Quantus hangs its hooks

        def variables(self) -> Tree:
            """As they are now."""
            found = []
            for i, (leaf, place) in enumerate(zip(self.leaves, self.places, strict=True)):
                held = getattr(getattr(self, place), f"leaf_{i}", None)
                found.append(leaf if held is None else jnp.asarray(held.numpy(), leaf.dtype))
            return jax.tree.unflatten(self.tree, found)

        def forward(self, inputs: Any) -> Any:
            """Inputs (examples, ...) to logits (examples, classes)."""
            x, variables = _moved(_numpy(inputs), self.channels_last), self.variables()
            if self.representation._forward_hooks:
                self.representation(torch.from_numpy(self.hidden(variables, x)))
            return torch.from_numpy(self.predict(variables, x))

    return Model


def _name(path: str) -> str:
    """A path in a tree as a name that torch allows."""
    return re.sub(r"\W+", "_", path).strip("_") or "parameters"


def _held(model: Any) -> Any:
    """Our module, which Quantus may hand over with a softmax behind it."""
    return model if hasattr(model, "variables") else next(iter(model.children()))


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _moved(x: np.ndarray, channels_last: bool) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if channels_last else x


def _restore_trapezoids() -> None:
    """Quantus 0.6.0 calls `np.trapz`, which NumPy 2.4 has no more."""
    if hasattr(np, "trapz"):
        return
    try:
        utils = importlib.import_module("quantus.helpers.utils")
    except ImportError:
        return

    def calculate_auc(values: Any, dx: int = 1, batched: bool = False) -> Any:
        return np.trapezoid(np.array(values), dx=dx, axis=1 if batched else -1)

    vars(utils)["calculate_auc"] = calculate_auc
