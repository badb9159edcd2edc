"""A language model's embedded tokens: where the places are, and references for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Array, Function, Tree
from jaxplain.lm.sequences import Sequence, in_range, token_ids
from jaxplain.named.lookups import UNKNOWN, LookUp
from jaxplain.named.rows import embed
from jaxplain.surrogate import staging

REFERENCES = ("zeros", "mean")


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that f looks up for a sequence, and f as a function of them."""

    sequence: Sequence
    e: Tree
    function: Function  # (rows) → logits (S, V)
    axes: Tree  # of each leaf of e, the one along the sequence
    of: Callable[[Array], Tree]  # the rows of other ids, as many
    sure: bool  # whether the program shows that each row is its own token's

    def by_place(self, tree: Tree) -> list[Array]:
        """The leaves of a tree like e as (S, numbers of one place)."""
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(self.axes), strict=True)
        return [jnp.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1) for leaf, axis in leaves]

    def labels(self, of_place: np.ndarray) -> Tree:
        """A label of each place as a tree that broadcasts to e."""

        def leaf(value: Any, axis: int) -> np.ndarray:
            return of_place.reshape([-1 if i == axis else 1 for i in range(value.ndim)])

        return jax.tree.map(leaf, self.e, self.axes)

    def misplaced(self) -> Array:
        """Whether ids were moved about before they were looked up, so that rows are others'."""
        if self.sure:
            return jnp.asarray(False)
        ids = self.sequence.ids
        changed = jnp.arange(len(ids)) % 3 == 0
        others = jnp.where(changed, (ids + 1) % self.sequence.vocabulary, ids)
        pairs = zip(self.by_place(self.e), self.by_place(self.of(others)), strict=True)
        return jnp.stack([((a != b).any(1) & ~changed).any() for a, b in pairs]).any()

    def reference(self, ref: Any) -> Tree:
        """References with a leading axis, of any of the kinds that `explain` takes."""
        several = self._references(ref)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)

    def _references(self, ref: Any) -> list[Tree]:
        if isinstance(ref, str):
            if ref not in REFERENCES:
                raise ValueError(f"unknown reference {ref!r}: {REFERENCES}, ids, or rows")
            zeros = jax.tree.map(jnp.zeros_like, self.e)
            return [zeros if ref == "zeros" else self._mean()]
        if isinstance(ref, list | tuple) and not all(isinstance(r, int | np.integer) for r in ref):
            if not ref:
                raise ValueError("there is no reference in an empty list")
            return [one for part in ref for one in self._references(part)]
        if not staging.same_tree(ref, 0) and not isinstance(ref, list | tuple):
            return [staging.as_reference(ref, self.e)]
        array = jnp.asarray(ref)
        if jnp.issubdtype(array.dtype, jnp.floating):
            return [staging.as_reference(array, self.e)]
        if array.ndim == 2:
            return [self._of_ids(row) for row in array]
        return [self._of_ids(array)]

    def _of_ids(self, ids: Array) -> Tree:
        """The rows of one id everywhere, of ids in the prompt's place, or in all places."""
        length, prompt = len(self.sequence.ids), self.sequence.prompt
        if ids.ndim == 0:
            ids = jnp.full(length, token_ids(ids[None], "the reference")[0])
        ids = token_ids(ids, "the reference")
        if len(ids) == prompt:
            ids = jnp.concatenate([ids, self.sequence.response])
        if len(ids) != length:
            raise ValueError(
                f"a reference of ids is one id, the prompt's {prompt} or all {length}, and this "
                f"has {len(ids)}; several references are a list of such, or of {REFERENCES}"
            )
        in_range(ids, self.sequence.vocabulary, "the reference")
        return self.of(ids)

    def _mean(self) -> Tree:
        """The mean row of the whole vocabulary in every place."""
        length, vocabulary = len(self.sequence.ids), self.sequence.vocabulary
        every = jnp.arange(-(-vocabulary // length) * length) % vocabulary

        def total(ids: Array, counts: Array) -> list[Array]:
            return [
                jnp.tensordot(counts.astype(r.dtype), r, 1) for r in self.by_place(self.of(ids))
            ]

        def add(sums: list[Array], part: tuple[Array, Array]) -> tuple[list[Array], None]:
            return jax.tree.map(jnp.add, sums, total(*part)), None

        counts = jnp.arange(len(every)) < vocabulary
        parts = every.reshape(-1, length), counts.reshape(-1, length)
        zeros = [jnp.zeros(rows.shape[1], rows.dtype) for rows in self.by_place(self.e)]
        sums, _ = jax.lax.scan(add, zeros, parts)

        def spread(leaf: Array, axis: int, row: Array) -> Array:
            shape = [1 if i == axis else size for i, size in enumerate(leaf.shape)]
            return jnp.broadcast_to((row / vocabulary).reshape(shape), leaf.shape)

        leaves, tree = jax.tree.flatten(self.e)
        spreads = map(spread, leaves, jax.tree.leaves(self.axes), sums)
        return jax.tree.unflatten(tree, list(spreads))


def rows(f: Function, sequence: Sequence) -> Rows:
    """The rows of a sequence, each leaf's places found."""
    found = embed(f, (sequence.ids,))
    length = len(sequence.ids)
    places = {name: _place(name, look_up, length) for name, look_up in found.look_ups.items()}
    axes = {name: axis for name, (axis, _) in places.items()}
    tree = jax.tree.structure(found.rows)
    return Rows(
        sequence,
        found.rows,
        found.function,
        jax.tree.unflatten(tree, list(axes.values())),
        lambda ids: embed(f, (ids,)).rows,
        all(sure for _, sure in places.values()),
    )


def misplacement() -> ValueError:
    """The error where rows are not in their tokens' places."""
    return ValueError(
        "f moves its token ids about before it looks them up (it shifts them, say), so that its "
        "rows are not in the places of the tokens: give f as a function of ids whose logits at a "
        "place are for the token behind it"
    )


def _place(name: str, look_up: LookUp, length: int) -> tuple[int, bool]:
    """The axis of a look-up's rows that is the sequence, and whether each is its token's."""
    shape = look_up.site.value.shape
    along = [i for i, axis in enumerate(look_up.along) if axis == (0, 0) and shape[i] == length]
    if len(along) == 1:
        return along[0], True
    moved = [i for i, axis in enumerate(look_up.along) if axis == UNKNOWN and shape[i] == length]
    if len(moved) == 1:
        return moved[0], False
    raise ValueError(
        f"the rows {name!r} that f looks up have the shape {shape}, which has no row for each of "
        f"the {length} tokens"
    )
