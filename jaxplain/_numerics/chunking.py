"""Averages of many evaluations, vmapped in chunks so that memory holds one chunk at a time.

The chunks run in one loop: the program and its compile time do not grow with their number. Sums are
kept in float32 at least, whatever the precision of what is averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.cpu_layout import channels_last
from jaxplain._numerics.loops import compiled
from jaxplain._numerics.trees import root, wide
from jaxplain.surrogate import compat


def check_chunk(chunk: int | None, name: str = "chunk") -> None:
    """An error where a method is built with a chunk that holds nothing."""
    if chunk is not None and (not isinstance(chunk, int | np.integer) or chunk < 1):  # type: ignore[redundant-expr]
        raise ValueError(f"{name} must be at least 1, and is {chunk!r}")


def check_samples(samples: int, *, standard_error: bool = False) -> None:
    """An error where a mean, or its standard error too, takes more samples."""
    least = 2 if standard_error else 1
    if samples < least:
        raise ValueError(f"samples must be at least {least}, and is {samples}")


def weighted_sum(
    function: Callable[[Any], Any], items: Any, weights: Any, chunk: int | None = None
) -> Any:
    """Σ_i w_i function(items_i) over the leading axis, `chunk` of them at a time."""

    def summarise(outputs: Any, weights: Any) -> Any:
        return jax.tree.map(lambda y: _total(weights, y), outputs)

    def add(a: Any, b: Any) -> Any:
        return jax.tree.map(jnp.add, a, b)

    total, one = _fold(function, summarise, add, items, weights, chunk)
    return _like(one, total)


def moments(function: Callable[[Any], Any], items: Any, chunk: int | None = None) -> Any:
    """Mean, and population variance (in float32 at least), of function(items_i), in one pass.

    A mean is corrected by the mean of what it leaves, squares are taken about it, and chunks are
    merged by the change of the mean (Chan, Golub & LeVeque 1979, eq. 2.1): rounding does not grow
    with the number of items.
    """

    def summarise(outputs: Any, ones: Any) -> Any:
        count = ones.sum()

        def mean(y: Any) -> Any:
            rough = _total(ones, y) / count.astype(y.dtype)
            return rough + _total(ones, y - rough[None]) / count.astype(y.dtype)

        means = jax.tree.map(mean, outputs)
        squares = jax.tree.map(lambda y, m: _total(ones, jnp.square(y - m[None])), outputs, means)
        return count, means, squares

    def merge(a: Any, b: Any) -> Any:
        (count_a, means_a, squares_a), (count_b, means_b, squares_b) = a, b
        count = count_a + count_b
        share = count_b / count

        def square(s: Any, t: Any, m: Any, n: Any) -> Any:
            return s + t + jnp.square(n - m) * (count_a * share).astype(m.dtype)

        means = jax.tree.map(lambda m, n: m + (n - m) * share.astype(m.dtype), means_a, means_b)
        return count, means, jax.tree.map(square, squares_a, squares_b, means_a, means_b)

    ones = jnp.ones(leading_size(items))
    (count, means, squares), one = _fold(function, summarise, merge, items, ones, chunk)
    return _like(one, means), jax.tree.map(lambda s: s / count.astype(s.dtype), squares)


def average(
    function: Callable[[Any], Any],
    items: Any,
    chunk: int | None = None,
    *,
    standard_error: bool = False,
) -> Any:
    """The mean of function(items_i), or the mean and its standard error: σ/√n, σ² unbiased."""
    mean, variance = moments(function, items, chunk)
    if not standard_error:
        return mean
    error = lambda m, v: root(v / (leading_size(items) - 1)).astype(m.dtype)
    return mean, jax.tree.map(error, mean, variance)


def chunked_map(function: Callable[[Any], Any], items: Any, chunk: int | None = None) -> Any:
    """Function(items_i) stacked over the leading axis, `chunk` of them at a time."""
    count = leading_size(items)
    check_chunk(chunk)
    if chunk is None or chunk >= count:
        return jax.vmap(function)(items)
    one = channels_last(function)
    return compiled(lambda items: jax.lax.map(one, items, batch_size=chunk), items)


def leading_size(items: Any) -> int:
    """The size of the axis that all leaves share in front; an error where they do not."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(items)}
    if len(sizes) != 1 or sizes == {()} or sizes == {(0,)}:
        shapes = jax.tree.map(jnp.shape, items)
        raise ValueError(
            "all leaves need the same, non-empty leading axis, and "
            + (f"their shapes are {shapes}" if sizes else "the tree has no leaves")
        )
    return sizes.pop()[0]


def _fold(
    function: Callable[[Any], Any],
    summarise: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    items: Any,
    weights: Any,
    chunk: int | None,
) -> tuple[Any, Any]:
    """Each chunk's outputs and weights summarised, the summaries merged; and one output's form.

    Zeros are neutral to `merge`.
    """
    count = leading_size(items)
    check_chunk(chunk)
    if chunk is None or chunk >= count:
        outputs = jax.vmap(function)(items)
        return summarise(jax.tree.map(wide, outputs), weights), outputs

    return compiled(
        lambda items, weights: _folded(function, summarise, merge, items, weights, chunk),
        items,
        weights,
    )


def _folded(
    function: Callable[[Any], Any],
    summarise: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    items: Any,
    weights: Any,
    chunk: int,
) -> tuple[Any, Any]:
    """`_fold` by a loop over whole chunks, and one that is not whole."""
    count = leading_size(items)
    function = jax.jit(channels_last(function))  # traced once for all that follows

    # Differentiated again, a chunk is computed again, lest the loop hold all chunks' residuals.
    @jax.checkpoint
    def part(items: Any, weights: Any) -> Any:
        return summarise(jax.tree.map(wide, jax.vmap(function)(items)), weights)

    whole = count // chunk * chunk
    chunks, rest = (
        jax.tree.map(cut, (items, weights))
        for cut in (lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), lambda a: a[whole:])
    )
    shapes = jax.eval_shape(part, *jax.tree.map(lambda a: a[0], chunks))
    step = lambda summary, window: (merge(summary, part(*window)), None)
    summary, _ = jax.lax.scan(step, compat.zeros(shapes), chunks)
    if whole < count:
        summary = merge(summary, part(*rest))
    form = jax.eval_shape(function, jax.tree.map(lambda a: a[0], items))
    # As arrays of no elements, for a program returns arrays; only the dtype is asked for.
    return summary, jax.tree.map(lambda s: jnp.zeros((0,), s.dtype), form)


def _total(weights: Any, y: Any) -> Any:
    # As a dot, for `(a @ b).sum(0)` comes out wrong on XLA's CPU from jaxlib 0.10.2 on where a has
    # thousands of rows and b is a constant (the fusions of jax issue 39103).
    return jnp.tensordot(weights.astype(y.dtype), y, 1, precision=jax.lax.Precision.HIGHEST)


def _like(outputs: Any, results: Any) -> Any:
    return jax.tree.map(lambda o, r: r.astype(o.dtype), outputs, results)
