"""One compiled program: a batch's examples explained, predicted and judged, on one device or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain._types import Array, Function, Key, Tree
from jaxplain.stream.status import GAP, NONFINITE, OK

Results = dict[str, Tree]  # contributions, gap, prediction, status; with examples in front
_WORD = 2**32


class Program:
    """What becomes of a batch.

    Args:
      explain: `explain(x, *args, *shared)`, with `key=` where there is a key.
      predict: `predict(x, *args, *shared)` → a tree, or None.
      gap: a function `(contributions, x, *args, *shared)` → numbers; True: explain returns
        (contributions, gap); False: it doesn't; None: it does where its second result is one number
        beside contributions that look like x.
      tolerance: what |gap| may be, or None.
      dtype: of stored contributions, or None for explain's.
      kinds: (x, *args) of one example, as `jax.ShapeDtypeStruct`s.
      shared: parameters.
      key: of the run, or None.
      count: how many examples there are in all.
    """

    def __init__(
        self,
        explain: Function,
        predict: Function | None,
        gap: Function | bool | None,
        tolerance: float | None,
        dtype: Any,
        kinds: tuple[Tree, ...],
        shared: tuple[Tree, ...],
        key: Key | None,
        count: int,
        mesh: Mesh | None,
    ):
        # A jitted function's own, which is traced here whether it was traced before or not.
        self._explain = getattr(explain, "__wrapped__", explain) if _is_jitted(explain) else explain
        self._predict, self._gap, self._tolerance = predict, gap, tolerance
        self._dtype = None if dtype is None else jnp.dtype(dtype)
        self._wide = count > _WORD
        self._sharding = None if mesh is None else _along_first(mesh)
        self._whole = None if mesh is None else NamedSharding(_automatic(mesh), PartitionSpec())
        self.shared, self.key = jax.tree.map(self._placed, shared), key
        self.kinds, self._key_kind = kinds, jax.eval_shape(lambda: key)
        self._paired = self._returns_pair()
        self.results = jax.eval_shape(
            lambda *args: self._one(*args, index=jnp.zeros(2, jnp.uint32)), shared, key, kinds
        )
        self._check()
        self._run = jax.jit(self._batch, out_shardings=self._sharding)

    def __call__(self, args: Tree, numbers: np.ndarray) -> Results:
        """The results of the examples of these numbers, not waited for."""
        index = np.stack([numbers // _WORD, numbers % _WORD], -1).astype(np.uint32)
        args, index = jax.device_put((args, index), self._sharding)
        return self._run(self.shared, self.key, args, index)

    def functions(self) -> dict[str, tuple[Function, tuple[Any, ...]]]:
        """What provenance looks at, each with the kinds of its arguments."""
        shared = jax.tree.map(_kind_of, self.shared)
        found = {"function": (self._called, (self.kinds, shared, self._key_kind))}
        if self._predict is not None:
            found["prediction"] = (lambda args, shared: self._predict(*args, *shared)), (
                self.kinds, shared,
            )  # fmt: skip
        if callable(self._gap):
            contributions = self._split(jax.eval_shape(self._called, *found["function"][1]))[0]
            found["gap"] = (lambda c, args, shared: self._gap(c, *args, *shared)), (
                contributions, self.kinds, shared,
            )  # fmt: skip
        return found

    def _batch(self, shared: Tree, key: Key | None, args: Tree, index: Array) -> Results:
        one = lambda args, index: self._one(shared, key, args, index)
        return jax.vmap(one)(args, index)

    def _one(self, shared: Tree, key: Key | None, args: tuple[Tree, ...], index: Array) -> Results:
        drawn = None if key is None else self._drawn(key, index)
        contributions, gap = self._split(self._called(args, shared, drawn))
        if callable(self._gap):
            gap = self._gap(contributions, *args, *shared)
        contributions = jax.tree.map(self._typed, contributions)
        results = {"contributions": contributions}
        if gap is not None:
            results["gap"] = gap
        if self._predict is not None:
            results["prediction"] = jax.tree.map(jnp.asarray, self._predict(*args, *shared))
        return {**results, "status": self._judged(contributions, gap)}

    def _called(self, args: tuple[Tree, ...], shared: tuple[Tree, ...], key: Key | None) -> Any:
        called = self._explain(*args, *shared, **({} if key is None else {"key": key}))
        return jax.tree.map(jnp.asarray, called)

    def _drawn(self, key: Key, index: Array) -> Key:
        """fold_in(key, i); from 2³² on twice, for it takes so many bits."""
        high, low = index
        near = jax.random.fold_in(key, low)
        if not self._wide:
            return near
        far = jax.random.fold_in(jax.random.fold_in(key, high), low)
        return jax.lax.cond(high > 0, lambda: far, lambda: near)

    def _typed(self, leaf: Array) -> Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf if self._dtype is None or not floating else leaf.astype(self._dtype)

    def _judged(self, contributions: Tree, gap: Tree) -> Array:
        numbers = jax.tree.leaves((contributions, gap))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in numbers]).all()
        status = jnp.where(finite, OK, NONFINITE)
        if self._tolerance is not None:
            beyond = jnp.stack([jnp.abs(g).max() for g in jax.tree.leaves(gap)]) > self._tolerance
            status = jnp.where(finite & beyond.any(), GAP, status)
        return status.astype(jnp.uint8)

    def _split(self, explanation: Any) -> tuple[Tree, Tree]:
        return explanation if self._paired else (explanation, None)

    def _returns_pair(self) -> bool:
        """Whether explain returns (contributions, gap)."""
        found = jax.eval_shape(self._called, self.kinds, self.shared, self.key)
        pair = isinstance(found, tuple) and len(found) == 2
        if self._gap is True and not pair:
            raise ValueError(
                "gap=True is for an explain that returns (contributions, gap), as methods with "
                f"return_gap=True do, and this one returns {_shapes(found)}"
            )
        if self._gap is not None or not pair:
            return self._gap is True
        contributions, gap = found
        if _shapes(gap) != () or not jnp.issubdtype(gap.dtype, jnp.floating):
            return False
        if len(self.kinds) > 1 and _shapes(contributions) == _shapes(self.kinds[0]):
            if _shapes(self.kinds[1]) == () and jnp.issubdtype(self.kinds[1].dtype, jnp.floating):
                raise ValueError(
                    "explain's second result may be a gap or the contribution of the number beside "
                    "x: say which, by gap=True or gap=False"
                )
        return _shapes(contributions) == _shapes(self.kinds[0])

    def _check(self) -> None:
        for path, leaf in jax.tree.leaves_with_path(self.results["contributions"]):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"explain returns {leaf.dtype} at {jax.tree_util.keystr(path) or 'its result'}, "
                    "which has no NaN for examples that fail: make it floating"
                )
        if not jax.tree.leaves(self.results["contributions"]):
            raise TypeError("explain returns no arrays")
        if self._tolerance is not None and "gap" not in self.results:
            raise ValueError(
                "a tolerance is of the gap, and there is none: explain with return_gap=True, or "
                "give gap=, such as `jaxplain.completeness_gap(f, ref)`"
            )

    def _placed(self, leaf: Any) -> Any:
        """A parameter where it lies, if that is on the mesh, and otherwise on every device."""
        if self._whole is None:
            return jax.device_put(leaf)
        laid = getattr(leaf, "sharding", None)
        if isinstance(laid, NamedSharding) and laid.device_set == self._whole.device_set:
            return jax.device_put(leaf, NamedSharding(_automatic(laid.mesh), laid.spec))
        return jax.device_put(leaf, self._whole)


def mesh_of(mesh: Mesh | None, batch: int) -> Mesh | None:
    """The mesh that a batch is laid over: all devices of this process, where none is given.

    Raises:
      ValueError: the batch does not divide over the given mesh.
    """
    if mesh is not None:
        size = mesh.shape[mesh.axis_names[0]]
        if batch % size:
            raise ValueError(
                f"a batch of {batch} does not divide over the {size} devices of the mesh's axis "
                f"{mesh.axis_names[0]!r}"
            )
        return mesh
    if jax.config.jax_default_device is not None:
        return None
    devices = jax.local_devices()
    count = int(np.gcd(batch, len(devices)))
    return None if count == 1 else Mesh(np.array(devices[:count]), ("batch",))


def _along_first(mesh: Mesh) -> NamedSharding:
    return NamedSharding(_automatic(mesh), PartitionSpec(mesh.axis_names[0]))


def _automatic(mesh: Any) -> Mesh:
    """The mesh with axes that the compiler sees to: explicit ones refuse what vmap makes."""
    return Mesh(mesh.devices, mesh.axis_names)


def _is_jitted(function: Callable[..., Any]) -> bool:
    return hasattr(function, "__wrapped__") and hasattr(function, "lower")


def _kind_of(leaf: Any) -> Any:
    kind = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)


def _shapes(tree: Tree) -> Any:
    """Shapes in the tree's own form; of one array its shape."""
    leaves, structure = jax.tree.flatten(tree)
    return tuple(leaves[0].shape) if structure == jax.tree.structure(0) else (
        structure, tuple(tuple(leaf.shape) for leaf in leaves)
    )  # fmt: skip
