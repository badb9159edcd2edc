"""Targets of models with a count head and a profile head, such as BPNet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._types import Function
from jaxplain.surrogate import staging


def count(f: Function, index: int | None = None) -> Function:
    r"""A count head's target: its output itself, the log count.

    Args:
      f: `f(x, *args)` → log counts: one number, in an array of any shape, or one a task.
      index: which of several.

    Returns:
      A scalar function of f's arguments.

    Raises:
      TypeError: f returns several heads; names them.
      ValueError: f has several outputs, and no index says which.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> model = lambda x: (x[:, 0], x.sum()[None])  # profile logits and log count
      >>> float(jxp.genomics.count(lambda x: model(x)[1])(jnp.ones((3, 4))))
      12.0

    Source: Avsec et al., Nature Genetics 53 (2021) 354-366 (BPNet), Methods.
    """

    def target(*args: Any) -> Any:
        counts = jnp.ravel(_one_head(f(*args)))
        if index is None and counts.size != 1:
            raise ValueError(f"f has {counts.size} outputs: index= says which of them to explain")
        if not -counts.size <= (index or 0) < counts.size:
            raise ValueError(f"index={index} is beyond f's {counts.size} outputs")
        return counts[index or 0]

    return target


def profile(f: Function, axis: int | tuple[int, ...] | None = None) -> Function:
    r"""A profile head's target: Σ_i p_i z̄_i, z̄ = z - mean z, p = softmax(z̄) held fixed.

    The logits of a profile mean something up to a constant only, so they are centred; each counts
    by the probability of its position, which is no part of what is explained (stop_gradient).

    Args:
      f: `f(x, *args)` → profile logits z of any shape, such as (positions, strands).
      axis: the softmax's axes: None all of them, strands together; 0 each strand by itself.

    Returns:
      A scalar function of f's arguments. Its contributions by DeepLIFT sum to
      Σ_i p_i (z̄_i(x) - z̄_i(ref)), p being x's own.

    Raises:
      TypeError: f returns several heads; names them.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> target = jxp.genomics.profile(lambda x: x)
      >>> float(target(jnp.array([1000.0, 0.0])))
      500.0

    Source: Avsec et al., Nature Genetics 53 (2021) 354-366 (BPNet), Methods.
    """

    def target(*args: Any) -> Any:
        logits = jnp.asarray(_one_head(f(*args)))
        centred = logits - logits.mean(axis, keepdims=True)
        return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(centred, axis)) * centred)

    return target


def _one_head(output: Any) -> Any:
    """The output, one array, or an error that says how to pick a head."""
    heads = [
        (jax.tree_util.keystr(path), jnp.shape(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(output)
    ]
    if staging.same_tree(output, 0):
        return output
    if not heads:
        raise TypeError(f"f returns no head: {output!r}")
    listed = ", ".join(f"f(x){key} {shape}" for key, shape in heads)
    raise TypeError(
        f"f returns several heads, and one is explained: {listed}. Pick it, as in "
        f"`lambda x: f(x){heads[0][0]}`, with what else f takes behind x."
    )
