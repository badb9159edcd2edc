"""Long runs outside jit: a batch of examples, some at a time, with a progress bar."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain import _frames as frames
from jaxplain._numerics.chunking import chunked_map, leading_size
from jaxplain._numerics.pipeline import bar, pipelined
from jaxplain._types import Explain, Function, Key


def batched(
    explain: Function,
    *,
    chunk: int,
    in_axes: Any = 0,
    progress: bool = True,
) -> Explain:
    r"""explain of many examples, `chunk` at a time: E_i = explain(x_i, …).

    One compiled program runs chunk after chunk, the next is read meanwhile, and results are taken
    off the device, so memory there holds two chunks however many examples there are. Any method,
    any combinator. What should survive an interrupt goes through `jaxplain.stream.run`.

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

    def run(*args: Any, key: Key | None = None) -> Any:
        args = frames.as_arrays(args)
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
            raise ValueError(f"in_axes is {in_axes}: 0 or None for each of {len(args)} arguments")
        shared = {i: arg for i, (arg, axis) in enumerate(zip(args, axes, strict=True)) if axis != 0}
        mapped = {i: arg for i, arg in enumerate(args) if i not in shared}
        count = leading_size(mapped)
        items = (mapped, None if key is None else jax.random.split(key, count))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((shared, items))):
            return chunked_map(lambda one: join(shared, one), items, chunk)
        shared = jax.device_put(shared)  # once for all chunks
        leaves, tree = jax.tree.flatten(items)
        results, size = None, min(chunk, count)

        def read(start: int) -> tuple[int, list[Any]]:
            """The rows that lie in the host's memory, or in a file: no others are read."""
            # The last chunk begins earlier, to be as long as the others: one program.
            begin = min(start, count - size)
            here = lambda leaf: None if isinstance(leaf, jax.Array) else np.asanyarray(leaf)
            return begin, [v if v is None else v[begin : begin + size] for v in map(here, leaves)]

        def launch(start: int, rows: tuple[int, list[Any]]) -> Any:
            begin, found = rows
            for place, leaf in enumerate(leaves):
                if isinstance(leaf, jax.Array):
                    found[place] = _rows(leaf, begin, size)
            return program(shared, jax.tree.unflatten(tree, found))

        with bar(count, progress) as moved:
            for start, (begin, _), part in pipelined(range(0, count, size), read, launch):
                if results is None:
                    results = jax.tree.map(lambda v: np.empty((count, *v.shape[1:]), v.dtype), part)
                jax.tree.map(lambda to, v: _put(to, begin, v), results, part)
                moved(begin + size - start)
        return results

    return run


def _rows(array: jax.Array, begin: int, size: int) -> jax.Array:
    """So many rows of an array on a device.

    One on many devices gives rows that lie on them as its own do, or on each where that does not
    come out even.
    """
    laid = array.sharding
    if not isinstance(laid, NamedSharding) or len(laid.device_set) == 1:
        return _slice(array, begin, size)
    mesh = Mesh(laid.mesh.devices, laid.mesh.axis_names)  # explicit axes refuse such slices
    rows = _slice(jax.device_put(array, NamedSharding(mesh, laid.spec)), begin, size)
    even = size % (len(array) // laid.shard_shape(array.shape)[0]) == 0
    spec = laid.spec if even else PartitionSpec(None, *laid.spec[1:])
    return jax.device_put(rows, NamedSharding(laid.mesh, spec))


def _put(results: np.ndarray, begin: int, rows: jax.Array) -> None:
    results[begin : begin + len(rows)] = rows


@functools.partial(jax.jit, static_argnums=2)
def _slice(array: jax.Array, begin: int, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, begin, size)
