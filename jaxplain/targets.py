r"""Targets: one scalar of a model with many outputs, the thing that is explained.

Where the last layer is a softmax, explain a logit: at a saturated softmax the probability's
gradient vanishes although the input decided the output.  With f(x) = z, along the last axis:

  logit z_k;  probability softmax(z/T)_k;  log-likelihood log softmax(z/T)_k;
  log-odds z_a - z_b;  contrast z_k - mean_j z_j.

Source: M. Nielsen, "Neural Networks and Deep Learning", chapter 3, eqs. 80-84 (softmax and its
log-likelihood); arXiv 1704.02685, section 3.6 (contributions to logits, normalised over classes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Index = Any  # an int, a tuple of ints, or a traced integer


def logit(f: Callable[..., Any], index: Index) -> Callable[..., Any]:
    r"""The output z_k of a model: `f(x, *args)[index]`.

    Args:
      f: `f(x, *args)` → array of outputs.
      index: int, tuple (one entry an axis), or traced integer; per-example targets are
        `lambda x, k: logit(f, k)(x)` under `vmap`.

    Returns:
      A scalar function of f's arguments.

    Raises:
      IndexError: a known index is out of range.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.logit(lambda x: 2 * x, 1)(jnp.array([1.0, 3.0])))
      6.0
    """
    return lambda *args: _at(f(*args), index)


def probability(
    f: Callable[..., Any], index: Index, temperature: float = 1.0
) -> Callable[..., Any]:
    r"""The softmax probability softmax(z/T)_k over the last axis of f's output.

    Args:
      f: `f(x, *args)` → logits.
      index: as in `logit`.
      temperature: T > 0; 1/T is the c of Nielsen's eq. 83, T → 0 gives the winner 1.

    Returns:
      A scalar function of f's arguments.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.probability(lambda x: x, 0)(jnp.zeros(4)))
      0.25
    """
    return lambda *args: _at(jax.nn.softmax(f(*args) / _positive(temperature), axis=-1), index)


def log_likelihood(
    f: Callable[..., Any], index: Index, temperature: float = 1.0
) -> Callable[..., Any]:
    r"""log softmax(z/T)_k, the negative of the cost C = -ln a_y.

    Args:
      f: `f(x, *args)` → logits.
      index: as in `logit`.
      temperature: T > 0.

    Returns:
      A scalar function of f's arguments; its gradient in the logits is (1{j=k} - a_j)/T.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jax.grad(jxp.log_likelihood(lambda z: z, 0))(jnp.zeros(2))
      Array([ 0.5, -0.5], dtype=float32)
    """
    return lambda *args: _at(jax.nn.log_softmax(f(*args) / _positive(temperature), axis=-1), index)


def log_odds(f: Callable[..., Any], a: Index, b: Index) -> Callable[..., Any]:
    r"""The log-odds z_a - z_b of two classes.

    Args:
      f: `f(x, *args)` → logits.
      a: the class spoken for, as in `logit`.
      b: the class spoken against.

    Returns:
      A scalar function of f's arguments.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.log_odds(lambda z: z, 0, 1)(jnp.array([3.0, 1.0])))
      2.0
    """

    def odds(*args: Any) -> Any:
        z = f(*args)
        return _at(z, a) - _at(z, b)

    return odds


def contrast(f: Callable[..., Any], index: Index) -> Callable[..., Any]:
    r"""z_k - mean_j z_j: what speaks for class k more than for the others.

    Args:
      f: `f(x, *args)` → logits, classes on the last axis.
      index: as in `logit`.

    Returns:
      A scalar function of f's arguments; its contributions are those to z_k less their mean over
      classes.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.contrast(lambda z: z, 0)(jnp.array([3.0, 1.0])))
      1.0
    """

    def contrasted(*args: Any) -> Any:
        z = jnp.asarray(f(*args))
        return _at(z - jnp.mean(z, axis=-1, keepdims=True), index)

    return contrasted


def _at(output: Any, index: Index) -> Any:
    output = jnp.asarray(output)
    entries = index if isinstance(index, tuple) else (index,)
    for axis, entry in enumerate(entries):
        if axis >= output.ndim:
            raise IndexError(f"index {index} has more entries than the output {output.shape} axes")
        if isinstance(entry, int) and not -output.shape[axis] <= entry < output.shape[axis]:
            raise IndexError(f"index {index} is out of range for an output of {output.shape}")
    for entry in entries:
        traced = isinstance(entry, jax.core.Tracer) and entry.ndim == 0
        output = _selected(output, entry) if traced else output[entry]
    return output


def _selected(outputs: Any, index: Any) -> Any:
    """outputs[index] as a sum over all of them; NaN where there is no such one.

    A gather by an index that is sharded over devices, of an array that is not, is refused on
    meshes whose axes are explicit; and it clamps an index that is out of range.
    """
    places = jnp.arange(len(outputs))
    index = index.astype(places.dtype)
    here = places == jnp.where(index < 0, index + len(outputs), index)
    chosen = jnp.where(here.reshape(-1, *(1,) * (outputs.ndim - 1)), outputs, 0).sum(0)
    return jnp.where(here.any(), chosen, jnp.nan)


def _positive(temperature: Any) -> Any:
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature must be positive, and is {temperature}")
    return temperature
