"""Targets of models with a count head and a profile head, such as BPNet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._types import Function
from jaxplain.surrogate import staging


def count(f: Function, index: int | None = None, *, head: str | int | None = None) -> Function:
    r"""A count head's target: its output itself, the log count.

    Args:
      f: `f(x, *args)` → log counts: one number, in an array of any shape, or one a task; or several
        heads, such as {"profile": …, "counts": …} or (profile, counts).
      index: which of several outputs of the head.
      head: which of several heads: a key, the name of a field, or a place. None: the one whose name
        has "count" and not "profile" in it; of a pair without names the second, which has fewer
        numbers than the first.

    Returns:
      A scalar function of f's arguments.

    Raises:
      TypeError: f returns several heads, of which none or more than one is of counts, or none is
        `head`; names them.
      ValueError: the head has several outputs, and no index says which.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> model = lambda x: {"profile": x[:, 0], "counts": x.sum()[None]}  # logits and log count
      >>> float(jxp.genomics.count(model)(jnp.ones((3, 4))))
      12.0

    Source: Avsec et al., Nature Genetics 53 (2021) 354-366 (BPNet), Methods.
    """

    def target(*args: Any) -> Any:
        counts = jnp.ravel(_one_head(f(*args), head, "count"))
        if index is None and counts.size != 1:
            raise ValueError(f"f has {counts.size} outputs: index= says which of them to explain")
        if not -counts.size <= (index or 0) < counts.size:
            raise ValueError(f"index={index} is beyond f's {counts.size} outputs")
        return counts[index or 0]

    return target


def profile(
    f: Function, axis: int | tuple[int, ...] | None = None, *, head: str | int | None = None
) -> Function:
    r"""A profile head's target: Σ_i p_i z̄_i, z̄ = z - mean z, p = softmax(z̄) held fixed.

    The logits of a profile mean something up to a constant only, so they are centred; each counts
    by the probability of its position, which is no part of what is explained (stop_gradient).

    Args:
      f: `f(x, *args)` → profile logits z of any shape, such as (positions, strands); or several
        heads, such as {"profile": …, "counts": …} or (profile, counts).
      axis: the softmax's axes: None all of them, strands together; 0 each strand by itself.
      head: which of several heads: a key, the name of a field, or a place. None: the one whose name
        has "profile" and not "count" in it; of a pair without names the first, which has more
        numbers than the second.

    Returns:
      A scalar function of f's arguments. Its contributions by DeepLIFT sum to
      Σ_i p_i (z̄_i(x) - z̄_i(ref)), p being x's own.

    Raises:
      TypeError: f returns several heads, of which none or more than one is a profile, or none is
        `head`; names them.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> target = jxp.genomics.profile(lambda x: (x, x.sum()))  # logits and log count
      >>> float(target(jnp.array([1000.0, 0.0])))
      500.0

    Source: Avsec et al., Nature Genetics 53 (2021) 354-366 (BPNet), Methods.
    """

    def target(*args: Any) -> Any:
        logits = jnp.asarray(_one_head(f(*args), head, "profile"))
        centred = logits - logits.mean(axis, keepdims=True)
        return jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(centred, axis)) * centred)

    return target


_OTHER = {"count": "profile", "profile": "count"}


def _one_head(output: Any, head: str | int | None, kind: str) -> Any:
    """The output that is one array, or its head that is named or can only be meant."""
    if head is None:
        found = [output] if staging.same_tree(output, 0) else _of_kind(output, kind)
    else:
        found = [None if staging.same_tree(output, 0) else _entry(output, head)]
    if len(found) == 1 and staging.same_tree(found[0], 0):
        return found[0]
    heads = [
        (jax.tree_util.keystr(path), jnp.shape(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(output)
    ]
    if not heads:
        raise TypeError(f"f returns no head: {output!r}")
    listed = ", ".join(f"f(x){key} {shape}" for key, shape in heads)
    which = f"{'several' if len(found) > 1 else 'none'} of them may be the {kind} head"
    raise TypeError(
        f"f returns {listed}, and {which if head is None else f'head={head!r} is none of them'}. "
        'Name one, as in `head="counts"` or `head=1`, or pick it, as in '
        f"`lambda x: f(x){heads[0][0]}`, with what else f takes behind x."
    )


def _of_kind(output: Any, kind: str) -> list[Any]:
    """The heads whose names say so, or the place in a pair (profile, counts)."""
    leaves = jax.tree_util.tree_leaves_with_path(output)
    sizes = [jnp.size(leaf) for _, leaf in leaves]
    if isinstance(output, tuple | list) and not hasattr(output, "_fields") and len(output) == 2:
        pair = len(leaves) == 2 and sizes[0] > sizes[1]
        return [output[0 if kind == "profile" else 1]] if pair else []
    names = [(jax.tree_util.keystr(path).lower(), leaf) for path, leaf in leaves]
    return [leaf for name, leaf in names if kind in name and _OTHER[kind] not in name]


def _entry(output: Any, head: str | int) -> Any:
    """A tree's entry by key, place or field; None where there is none."""
    try:
        return output[head]
    except (TypeError, KeyError, IndexError):
        return getattr(output, str(head), None)
