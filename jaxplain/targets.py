r"""Targets: one scalar of a model with many outputs, the thing that is explained.

Where the last layer is a softmax, explain a logit: at a saturated softmax the probability's
gradient vanishes although the input decided the output.  With f(x) = z, along the last axis:

  logit z_k;  probability softmax(z/T)_k;  log-likelihood log softmax(z/T)_k;
  log-odds z_a - z_b;  contrast z_k - mean_j z_j.

Source: M. Nielsen, "Neural Networks and Deep Learning", chapter 3, eqs. 80-84 (softmax and its
log-likelihood); arXiv 1704.02685, section 3.6 (contributions to logits, normalised over classes).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Array, Function, Index


def logit(f: Function, index: Index) -> Function:
    r"""The output z_k of a model: `f(x, *args)[index]`.

    Args:
      f: `f(x, *args)` → array of outputs.
      index: int, tuple (one entry an axis), or traced integer; per-example targets are
        `lambda x, k: logit(f, k)(x)` under `vmap`. A negative one counts from the end.

    Returns:
      A scalar function of f's arguments. Where a traced index is out of range its value is NaN,
      and so is every contribution.

    Raises:
      IndexError: a known index is out of range.
      TypeError: an index is no integer.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.logit(lambda x: 2 * x, 1)(jnp.array([1.0, 3.0])))
      6.0
    """
    return lambda *args: _at(f(*args), index)


def probability(
    f: Function, index: Index, temperature: float = 1.0
) -> Function:
    r"""The softmax probability softmax(z/T)_k over the last axis of f's output.

    Args:
      f: `f(x, *args)` → logits.
      index: as in `logit`.
      temperature: T > 0; 1/T is the c of Nielsen's eq. 83, T → 0 gives the winner 1.

    Returns:
      A scalar function of f's arguments.

    Raises:
      IndexError, TypeError: as `logit`.
      ValueError: f has one output, of which the softmax is always 1; temperature ≤ 0.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.probability(lambda x: x, 0)(jnp.zeros(4)))
      0.25
    """
    return lambda *args: _at(jax.nn.softmax(_tempered(f(*args), temperature), axis=-1), index)


def log_likelihood(
    f: Function, index: Index, temperature: float = 1.0
) -> Function:
    r"""log softmax(z/T)_k, the negative of the cost C = -ln a_y.

    Args:
      f: `f(x, *args)` → logits.
      index: as in `logit`.
      temperature: T > 0.

    Returns:
      A scalar function of f's arguments; its gradient in the logits is (1{j=k} - a_j)/T.

    Raises:
      IndexError, TypeError: as `logit`.
      ValueError: as `probability`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jax.grad(jxp.log_likelihood(lambda z: z, 0))(jnp.zeros(2))
      Array([ 0.5, -0.5], dtype=float32)
    """
    return lambda *args: _at(jax.nn.log_softmax(_tempered(f(*args), temperature), axis=-1), index)


def log_odds(f: Function, a: Index, b: Index) -> Function:
    r"""The log-odds z_a - z_b of two classes.

    Args:
      f: `f(x, *args)` → logits.
      a: the class spoken for, as in `logit`.
      b: the class spoken against.

    Returns:
      A scalar function of f's arguments.

    Raises:
      IndexError, TypeError: as `logit`.
      ValueError: a and b are one class.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.log_odds(lambda z: z, 0, 1)(jnp.array([3.0, 1.0])))
      2.0
    """

    def odds(*args: Any) -> Any:
        z = jnp.asarray(f(*args))
        first, second = _at(z, a), _at(z, b)
        if z.size == 1:
            raise ValueError(
                f"the log-odds of 1 output against itself are always 0, and f's output has shape "
                f"{z.shape}. If it is the logit of a sigmoid, explain the logit: `jaxplain.logit`"
            )
        return first - second

    return odds


def contrast(f: Function, index: Index) -> Function:
    r"""z_k - mean_j z_j: what speaks for class k more than for the others.

    Args:
      f: `f(x, *args)` → logits, classes on the last axis.
      index: as in `logit`.

    Returns:
      A scalar function of f's arguments; its contributions are those to z_k less their mean over
      classes.

    Raises:
      IndexError, TypeError: as `logit`.
      ValueError: f has one output, of which the contrast is always 0.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> float(jxp.contrast(lambda z: z, 0)(jnp.array([3.0, 1.0])))
      1.0
    """

    def contrasted(*args: Any) -> Any:
        z = _classes(f(*args), "the contrast of 1 output with its own mean is always 0")
        return _at(z - jnp.mean(z, axis=-1, keepdims=True), index)

    return contrasted


def _at(output: Any, index: Any) -> Array:
    """The output's entry at an index; NaN, its derivative too, where a traced index is no class."""
    output = jnp.asarray(output)
    entries = index if isinstance(index, tuple) else (index,)
    if sum(entry is not None and entry is not ... for entry in entries) > output.ndim:
        raise IndexError(f"index {index} has more entries than the output {output.shape} axes")
    if any(entry is None or entry is ... or isinstance(entry, slice) for entry in entries):
        return output[index]
    for entry, size in zip(entries, output.shape, strict=False):
        if isinstance(entry, bool) or not jnp.issubdtype(jnp.result_type(entry), jnp.integer):
            raise TypeError(f"a class is an integer, or a tuple of them, and not {index!r}")
        if _is_known(entry) and not _in_range(np.asarray(entry), size).all():
            raise IndexError(f"index {index} is out of range for an output of {output.shape}")
    if all(map(_is_known, entries)):
        known = map(np.asarray, entries)
        return output[tuple(entry if entry.ndim else int(entry) for entry in known)]
    # As wide as places are: a class of few bits need not reach the last one.
    entries = tuple(jnp.asarray(entry).astype(int) for entry in entries)
    return _at_traced(output, *jnp.broadcast_arrays(*entries))


def _at_traced(output: jax.Array, *entries: jax.Array) -> jax.Array:
    r"""Σ over the indexed axes of 1{place = index} z, which asks no more of a sharded z than a sum.

    Where the index is no place, all of z times NaN: then so are the slopes in all of it.
    """
    if entries[0].ndim:
        return jax.vmap(lambda *entries: _at_traced(output, *entries))(*entries)
    indexed = output.shape[: len(entries)]
    valid, here = jnp.asarray(True), jnp.ones((1,) * output.ndim, bool)
    for axis, (entry, size) in enumerate(zip(entries, indexed, strict=True)):
        valid &= _in_range(entry, size)
        place = jnp.arange(size)
        one = place == jnp.where(entry < 0, entry + size, entry)
        here = here & one.reshape((1,) * axis + (size,) + (1,) * (output.ndim - axis - 1))
    here, valid = (jnp.broadcast_to(of, output.shape) for of in (here, valid))
    # By choices, for meshes whose axes are explicit refuse a product with a sharded number.
    missing = jnp.where(valid, 0, output) * jnp.nan  # its slope, NaN, ends at the choice
    chosen = jnp.where(here, output, 0)
    return jnp.where(valid, chosen, missing).sum(tuple(range(len(entries))))


def _in_range(entry: Any, size: int) -> Any:
    return (-size <= entry) & (entry < size)


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _classes(output: Any, score: str) -> Any:
    """An output whose last axis holds at least two classes, which `score` compares."""
    output = jnp.asarray(output)
    if output.ndim == 0 or output.shape[-1] == 1:
        z = "f(x)" if output.ndim == 0 else "f(x)[0]" if output.ndim == 1 else "f(x)[..., 0]"
        raise ValueError(
            f"{score}, and f's output has shape {output.shape}. If it is the logit of a sigmoid, "
            f"explain the logit itself, `lambda x: {z}`, or the probability, "
            f"`lambda x: jax.nn.sigmoid({z})`"
        )
    return output


def _tempered(output: Any, temperature: Any) -> Any:
    """z/T of at least two classes."""
    z = _classes(output, "softmax over 1 output is always 1")
    if _is_known(temperature) and not temperature > 0:
        raise ValueError(f"temperature must be positive, and is {temperature}")
    return z / temperature
