"""One compiled program: a batch's examples explained, predicted and judged, over all devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain._types import Array, Function, Key, Tree
from jaxplain.stream.hosts import Share, automatic
from jaxplain.stream.status import GAP, NONFINITE, OK
from jaxplain.stream.tracing import Traced, kind_of

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
      share: what of each batch lies on which devices of this host.
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
        share: Share,
    ):
        self._gap_given, self._tolerance, self._key = gap, tolerance, key
        self._dtype = None if dtype is None else jnp.dtype(dtype)
        self._wide = count > _WORD
        self.share = share
        laid = share.sharding
        self._whole = None if laid is None else NamedSharding(laid.mesh, PartitionSpec())
        self.kinds, self.shared = kinds, jax.tree.map(self._placed, shared)
        self.functions = self._traced(explain, predict)
        if self._tolerance is not None and not (self._paired or callable(gap)):
            raise ValueError(
                "a tolerance is of the gap, and there is none: explain with return_gap=True, or "
                "give gap=, such as `jaxplain.completeness_gap(f, ref)`"
            )
        self.results = jax.eval_shape(
            self._one, *self._fixed(), kinds, jax.ShapeDtypeStruct((2,), jnp.uint32)
        )
        self._check()
        self._run = jax.jit(
            jax.vmap(self._one, (None, None, None, 0, 0)), out_shardings=share.sharding
        )
        self._resident = jax.tree.map(self._placed, self._fixed())

    def __call__(self, args: Tree, numbers: np.ndarray) -> Results:
        """The results of the examples of these numbers, this host's rows, not waited for."""
        index = np.stack([numbers // _WORD, numbers % _WORD], -1).astype(np.uint32)
        return self._run(*self._resident, *jax.tree.map(self.share.spread, (args, index)))

    def _fixed(self) -> tuple[Tree, Tree, Key | None]:
        """What all batches have in common: arrays that functions hold, parameters, the key."""
        return [f.constants for f in self.functions.values()], self.shared, self._key

    def _traced(self, explain: Function, predict: Function | None) -> dict[str, Traced]:
        """Explain as "function", and "prediction" and "gap" where they are functions."""
        shared, key = jax.tree.map(kind_of, (self.shared, self._key))
        found = {"function": Traced(_called(explain), self.kinds, shared, key)}
        self._paired = self._returns_pair(found["function"].result)
        if predict is not None:
            found["prediction"] = Traced(_called(predict), self.kinds, shared, None)
        if callable(self._gap_given):
            beside = _beside(self._gap_given)
            contributions = self._split(found["function"].result)[0]
            found["gap"] = Traced(beside, contributions, self.kinds, shared)
        return found

    def _one(
        self, held: Tree, shared: Tree, key: Key | None, args: tuple[Tree, ...], index: Array
    ) -> Results:
        held = dict(zip(self.functions, held, strict=True))
        call = lambda name, *args: self.functions[name](held[name], *args)
        drawn = None if key is None else self._drawn(key, index)
        contributions, gap = self._split(call("function", args, shared, drawn))
        if "gap" in held:
            gap = call("gap", contributions, args, shared)
        contributions = jax.tree.map(self._typed, contributions)
        results = {"contributions": contributions}
        if gap is not None:
            results["gap"] = gap
        if "prediction" in held:
            results["prediction"] = call("prediction", args, shared, None)
        return {**results, "status": self._judged(contributions, gap)}

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

    def _returns_pair(self, found: Any) -> bool:
        """Whether explain returns (contributions, gap)."""
        pair = isinstance(found, tuple) and len(found) == 2
        if self._gap_given is True and not pair:
            raise ValueError(
                "gap=True is for an explain that returns (contributions, gap), as methods with "
                f"return_gap=True do, and this one returns {_shapes(found)}"
            )
        if self._gap_given is not None or not pair:
            return self._gap_given is True
        contributions, gap = found
        if _shapes(gap) != () or not jnp.issubdtype(gap.dtype, jnp.floating):
            return False
        like_x = _shapes(contributions) == _shapes(self.kinds[0])
        beside = [kind for kind in self.kinds[1:2] if _shapes(kind) == ()]
        if like_x and beside and jnp.issubdtype(beside[0].dtype, jnp.floating):
            raise ValueError(
                "explain's second result may be a gap or the contribution of the number beside x: "
                "say which, by gap=True or gap=False"
            )
        return like_x

    def _check(self) -> None:
        for path, leaf in jax.tree.leaves_with_path(self.results["contributions"]):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"explain returns {leaf.dtype}{jax.tree_util.keystr(path)}, which has no NaN "
                    "for examples that fail: make it floating"
                )
        if not jax.tree.leaves(self.results["contributions"]):
            raise TypeError("explain returns no arrays")

    def _placed(self, leaf: Any) -> Any:
        """A parameter where it lies, if that is on the mesh, and otherwise on every device."""
        if self._whole is None:
            return jax.device_put(leaf)
        if leaf is None:
            return None
        laid = getattr(leaf, "sharding", None)
        if isinstance(laid, NamedSharding) and laid.device_set == self._whole.device_set:
            return jax.device_put(leaf, NamedSharding(automatic(laid.mesh), laid.spec))
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


def _called(function: Function) -> Function:
    """Of ((x, *args), shared, key); a jitted function's own, to be traced though it was before."""
    if hasattr(function, "__wrapped__") and hasattr(function, "lower"):
        function = function.__wrapped__

    def called(args: tuple[Tree, ...], shared: tuple[Tree, ...], key: Key | None) -> Tree:
        found = function(*args, *shared, **({} if key is None else {"key": key}))
        return jax.tree.map(jnp.asarray, found)

    return called


def _beside(gap: Function) -> Function:
    """Of (contributions, (x, *args), shared)."""
    return lambda contributions, args, shared: gap(contributions, *args, *shared)


def _shapes(tree: Tree) -> Any:
    """Shapes in the tree's own form; of one array its shape."""
    leaves, structure = jax.tree.flatten(tree)
    return tuple(leaves[0].shape) if structure == jax.tree.structure(0) else (
        structure, tuple(tuple(leaf.shape) for leaf in leaves)
    )  # fmt: skip
