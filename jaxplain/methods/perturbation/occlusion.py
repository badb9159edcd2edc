"""What f loses when windows of the input are covered."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.chunking import check_chunk, weighted_sum
from jaxplain._numerics.windows import after_a_change
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Tree
from jaxplain.methods.perturbation.masking import behind, placed
from jaxplain.surrogate import staging


@speaks
def occlusion(
    f: Function,
    ref: Tree,
    *,
    window: Any,
    strides: Any = 1,
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""What f loses, in the mean over the windows around an element, when a window is covered.

    C_e = mean over windows w ∋ e of f(x) - f(x, x_w := ref_w). Windows start at multiples of the
    strides; the last ones may reach beyond the edge. Leaves of x are covered one at a time.

    Args:
      f: as in `ablation`.
      ref: a scalar, or a tree that broadcasts to x.
      window: sizes along the leading axes of x, such as (8, 8) for an image (height, width,
        channels); other axes are covered whole. For a tree x a tree of such tuples. An int for
        a vector.
      strides: likewise, or an int for all axes of the window.
      chunk: how many windows are evaluated at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a tree like x; 0 where no window comes. No completeness. Axes of f's
      outputs are in front.

    Raises:
      TypeError: f does not return real numbers.
      ValueError: windows or strides do not fit x; ref does not broadcast to x; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.occlusion(jnp.sum, 0.0, window=2)(jnp.array([1.0, 2.0, 3.0]))
      Array([3., 4., 5.], dtype=float32)

    Source: Zeiler & Fergus, arXiv 1311.2901, section 4.2.
    """
    check_chunk(chunk)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = staging.as_numbers(staging.pick(args, argnums))
        value = staging.array(f, args, argnums)
        leaves, tree = jax.tree.flatten(x)
        refs = jax.tree.leaves(staging.as_reference(ref, x))
        whole = value(x)
        sizes = _per_leaf(window, tree)
        steps = [strides] * len(leaves) if isinstance(strides, int) else _per_leaf(strides, tree)

        def leaf(number: int) -> Any:
            shape = leaves[number].shape
            size, step = _window(sizes[number], steps[number], shape)
            starts = [
                np.arange(0, length - width + stride, stride)
                for length, width, stride in zip(shape, size, step, strict=False)
            ]
            covered = functools.reduce(
                np.multiply.outer,
                [
                    ((at >= start[:, None]) & (at < start[:, None] + width)).sum(0)
                    for start, width, at in zip(starts, size, map(np.arange, shape), strict=False)
                ],
            )
            corners = np.array(list(itertools.product(*starts)))
            rest = shape[len(size) :]
            after = after_a_change(
                lambda leaf: value(tree.unflatten([*leaves[:number], leaf, *leaves[number + 1 :]])),
                leaves[number],
                (*size, *rest),
            )

            def covered_part(corner: Any) -> Any:
                """What stands where the window is, as far as it is inside, and where that is."""
                first = jnp.minimum(corner, np.subtract(shape[: len(size)], size))
                start = jnp.concatenate([first, jnp.zeros(len(rest), first.dtype)])
                cut = lambda leaf: jax.lax.dynamic_slice(leaf, list(start), (*size, *rest))
                inside = [
                    jnp.arange(width) >= low - begin
                    for low, begin, width in zip(corner, first, size, strict=True)
                ]
                mask = behind(functools.reduce(jnp.logical_and.outer, inside), len(shape))
                return jnp.where(mask, cut(refs[number]), cut(leaves[number])), start

            def drop(corner: Any) -> Any:
                inside = [
                    (jnp.arange(length) >= low) & (jnp.arange(length) < low + width)
                    for low, length, width in zip(corner, shape, size, strict=False)
                ]
                mask = functools.reduce(jnp.logical_and.outer, inside)
                mask = jnp.broadcast_to(behind(mask, len(shape)), shape)
                return placed(whole - after(*covered_part(corner)), mask)

            total = weighted_sum(drop, jnp.asarray(corners), jnp.ones(len(corners)), chunk)
            count = behind(np.maximum(covered, 1), len(shape)).astype(total.dtype)
            return total / np.broadcast_to(count, total.shape)

        return jax.tree.unflatten(tree, [leaf(number) for number in range(len(leaves))])

    return explain


def _per_leaf(sizes: Any, tree: Any) -> list[Any]:
    try:
        return tree.flatten_up_to(sizes)
    except ValueError:
        raise ValueError(
            f"windows and strides must be a tree like x of tuples, and are {sizes} for {tree}"
        ) from None


def _window(size: Any, step: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Sizes and strides of a window along the leading axes."""
    size = (size,) if isinstance(size, int) and len(shape) == 1 else size
    if isinstance(size, tuple | list):
        step = (step,) * len(size) if isinstance(step, int) else step
        if (
            1 <= len(size) == len(step) <= len(shape)
            and all(1 <= width <= length for width, length in zip(size, shape, strict=False))
            and min(step) >= 1
        ):
            return tuple(size), tuple(step)
    raise ValueError(f"a window {size} with strides {step} does not fit into {shape}")
