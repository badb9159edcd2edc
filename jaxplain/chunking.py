"""Sums over many evaluations, vmapped in chunks so that memory holds one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# So many chunks are written out one after another: XLA on CPU folds a kernel's transpose into a
# loop's body and runs a convolution's gradient an order of magnitude slower there.
_UNROLLED = 32


def weighted_sum(
    function: Callable[[Any], Any], items: Any, weights: Any, chunk: int | None = None
) -> Any:
    """Σ_i w_i function(items_i) over the leading axis, `chunk` of them at a time."""
    count = leading_size(items)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, and is {chunk}")
    size = count if chunk is None else min(chunk, count)

    def part(items: Any, weights: Any) -> Any:
        outputs = jax.vmap(function)(items)
        return jax.tree.map(lambda y: jnp.tensordot(weights.astype(y.dtype), y, 1), outputs)

    whole = count // size
    slices = [slice(i * size, (i + 1) * size) for i in range(whole)]
    rest = slice(whole * size, count)

    def take(window: slice) -> tuple[Any, Any]:
        return jax.tree.map(lambda a: a[window], items), weights[window]

    if whole <= _UNROLLED:
        total = part(*take(slices[0]))
        for window in slices[1:]:
            # The barrier makes each chunk wait for the one before, hence share its memory.
            total, args = jax.lax.optimization_barrier((total, take(window)))
            total = jax.tree.map(jnp.add, total, part(*args))
    else:
        stacked = jax.tree.map(
            lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), (items, weights)
        )
        start = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, *take(slices[0]))
        )
        total, _ = jax.lax.scan(
            lambda total, args: (jax.tree.map(jnp.add, total, part(*args)), None), start, stacked
        )
    if rest.start < count:
        total = jax.tree.map(jnp.add, total, part(*take(rest)))
    return total


def leading_size(items: Any) -> int:
    """The size of the axis that all leaves share in front; an error where they do not."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(items)}
    if len(sizes) != 1 or sizes == {()} or sizes == {(0,)}:
        raise ValueError(
            "all leaves need the same, non-empty leading axis; theirs are "
            f"{sorted(sizes) if sizes else 'none (the tree is empty)'}"
        )
    return sizes.pop()[0]
