"""Long runs outside jit: a batch of examples, some at a time, with a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.chunking import chunked_map, leading_size


def batched(
    explain: Callable[..., Any],
    *,
    chunk: int,
    in_axes: Any = 0,
    progress: bool = True,
) -> Callable[..., Any]:
    r"""explain of many examples, `chunk` at a time: E_i = explain(x_i, …).

    One compiled program runs chunk after chunk, and results are taken off the device, so memory
    there holds one chunk however many examples there are. Any method, any combinator.

    Args:
      explain: `explain(x, *args)` or `explain(x, *args, key=)` → a tree.
      chunk: how many examples are explained at once, ≥ 1.
      in_axes: 0 for arguments with a leading axis of examples, None for shared ones; one for all
        arguments or a tuple, as in `jax.vmap`.
      progress: show a tqdm bar; inside jit there is none.

    Returns:
      `explain(xs, *args)` → explain's tree with a leading axis of examples, in NumPy arrays (inside
      jit JAX's). With `key=` every example draws its own, whatever the chunk.

    Raises:
      ValueError: chunk < 1; arguments that differ in their leading axis, or have none.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.batched(jxp.deeplift(jnp.sum, 0.0), chunk=2, progress=False)
      >>> explain(jnp.arange(6.0).reshape(3, 2))
      array([[0., 1.],
             [2., 3.],
             [4., 5.]], dtype=float32)
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, and is {chunk}")

    def join(shared: Any, mapped: Any) -> Any:
        """Explain's arguments from those that are shared, by place, and one example's."""
        args, key = mapped
        args = [shared[i] if i in shared else args[i] for i in range(len(shared) + len(args))]
        return explain(*args) if key is None else explain(*args, key=key)

    @jax.jit
    def program(shared: Any, items: Any) -> Any:
        return jax.vmap(lambda mapped: join(shared, mapped))(items)

    def run(*args: Any, key: Any = None) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
            raise ValueError(f"in_axes is {in_axes}: 0 or None for each of {len(args)} arguments")
        shared = {i: arg for i, (arg, axis) in enumerate(zip(args, axes, strict=True)) if axis != 0}
        mapped = {i: arg for i, arg in enumerate(args) if i not in shared}
        count = leading_size(mapped)
        items = (mapped, None if key is None else jax.random.split(key, count))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((shared, items))):
            return chunked_map(lambda one: join(shared, one), items, chunk)
        results = []
        with _bar(count) if progress else contextlib.nullcontext() as bar:
            for start in range(0, count, chunk):
                # The last chunk is filled up with the last example: one shape, one program.
                rows = np.minimum(np.arange(start, start + min(chunk, count)), count - 1)
                part = program(shared, jax.tree.map(lambda v: jnp.asarray(v)[rows], items))
                whole = min(chunk, count - start)
                results.append(jax.tree.map(lambda v: np.asarray(v)[:whole], part))
                if bar is not None:
                    bar.update(whole)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)

    return run


def _bar(count: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=count, unit="example")
