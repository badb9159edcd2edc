"""Where examples come from: by their number, so that any block can be read at any time, again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import _frames as frames
from jaxplain._numerics.chunking import leading_size
from jaxplain._types import Tree
from jaxplain.stream.status import SHAPE, UNREADABLE

# Examples that are looked at before a run: their common form, and whether the source changed.
SAMPLED = 64


class Rows(NamedTuple):
    """Consecutive examples, stacked; a quarantined one's row is another's."""

    args: Tree  # (x, *args), NumPy arrays with a leading axis
    bad: dict[int, tuple[int, str]]  # status and reason, by place


class Source:
    """Examples (x, *args) by number.

    Args:
      given: an array, a memory map, a tree of them (a tuple is (x, *args)), each with a leading
        axis of examples; or anything with a length whose items are x or (x, *args).
    """

    def __init__(self, given: Any):
        given = frames.as_arrays(given)
        self._arrays = _is_arrays(given)
        if self._arrays:
            self._given = jax.tree.map(_on_host, _as_args(given))
            self._count = leading_size(self._given)
            return
        if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
            raise TypeError(
                f"a source has a length and items by number, and this is {type(given).__name__}: "
                "an iterator can't be resumed. Give an array, a tree of arrays, a list, or an "
                "object with `__len__` and `__getitem__` (a `grain.MapDataset`, a Dataset of torch)"
            )
        self._given, self._count = given, len(given)
        if not self._count:
            raise ValueError("the source has no examples")

    def __len__(self) -> int:
        return self._count

    def example(self, index: int) -> Tree:
        """(x, *args) of one example, in NumPy."""
        if self._arrays:
            return jax.tree.map(lambda array: np.asarray(array[index]), self._given)
        return jax.tree.map(np.asarray, _as_args(self._given[index]))

    def sample(self) -> dict[int, Tree | Exception]:
        """Examples all over the source, or why one could not be read."""
        places = np.linspace(0, self._count - 1, min(SAMPLED, self._count)).astype(np.int64)
        return {int(index): _attempt(self.example, int(index)) for index in places}

    def read(self, start: int, stop: int, kinds: Tree, size: int) -> Rows:
        """`size` rows of the given kinds: the examples from start to stop, then one of them again.

        What can't be read, or is of another kind, is quarantined.
        """
        if self._arrays:
            whole = _attempt(self._slices, start, stop)
            if not isinstance(whole, Exception):
                fill = lambda rows, kind: _filled(rows.astype(kind.dtype, copy=False), size)
                return Rows(jax.tree.map(fill, whole, kinds), {})
        return _stacked(self._items(start, stop), kinds, size)

    def _slices(self, start: int, stop: int) -> Tree:
        return jax.tree.map(lambda array: np.asarray(array[start:stop]), self._given)

    def _items(self, start: int, stop: int) -> list[Any]:
        """The examples, or why one could not be read."""
        together = None if self._arrays else getattr(self._given, "__getitems__", None)
        if together is not None:
            items = _attempt(lambda: list(together(list(range(start, stop)))))
            if not isinstance(items, Exception) and len(items) == stop - start:
                return [_attempt(jax.tree.map, np.asarray, _as_args(item)) for item in items]
        return [_attempt(self.example, index) for index in range(start, stop)]


def kinds_of(samples: dict[int, Tree | Exception]) -> Tree:
    """The form that most of the sampled examples have, as `jax.ShapeDtypeStruct`s."""
    read = [sample for sample in samples.values() if not isinstance(sample, Exception)]
    if not read:
        index, error = next(iter(samples.items()))
        raise ValueError(
            f"none of {len(samples)} examples could be read; example {index}: {described(error)}"
        )
    forms = [jax.tree.map(_kind, sample) for sample in read]
    counts = Counter(map(str, forms))
    common = counts.most_common(1)[0][0]
    return next(form for form in forms if str(form) == common)


def is_sound(example: Tree | Exception, kinds: Tree) -> bool:
    """Whether an example could be read, is of the common kind, and finite."""
    if isinstance(example, Exception) or _unlike(example, kinds):
        return False
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(example) if _is_real(leaf))


def described(error: Any) -> str:
    """An exception as its kind and its words; of a callback inside a program, the callback's."""
    text = str(error)
    if "Traceback (most recent call last)" in text:
        # XLA quotes the whole traceback: what comes after its last frame is what was raised.
        lines = text.rstrip().splitlines()
        frames_ = [i for i, line in enumerate(lines) if line.startswith("  ")]
        return "\n".join(lines[frames_[-1] + 1 :]) if frames_ else text
    return f"{type(error).__name__}: {text}"


def _is_arrays(given: Any) -> bool:
    if isinstance(given, list) or (hasattr(given, "__getitems__") and not hasattr(given, "shape")):
        return False
    leaves = jax.tree.leaves(given)
    return bool(leaves) and all(map(_is_array, leaves))


def _is_array(leaf: Any) -> bool:
    """NumPy's, JAX's, or anything alike that lies in a file (h5py, zarr, TensorStore)."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and hasattr(leaf, "__getitem__")


def _on_host(array: Any) -> Any:
    return np.asarray(array) if isinstance(array, jax.Array) else array


def _as_args(item: Any) -> tuple[Any, ...]:
    """(x, *args) of x or (x, *args); a named tuple is an x."""
    return item if type(item) is tuple else (item,)


def _attempt(function: Any, *args: Any) -> Any:
    """What the function returns, or the exception: it is quarantined, but for want of memory."""
    try:
        return function(*args)
    except MemoryError:
        raise
    except Exception as error:
        return error


def _kind(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _is_real(leaf: np.ndarray) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(rows)
    return np.concatenate([rows, rows[:1].repeat(missing, 0)]) if missing else rows


def _stacked(items: Sequence[Any], kinds: Tree, size: int) -> Rows:
    leaves, tree = jax.tree.flatten(kinds)
    arrays = [np.zeros((size, *kind.shape), kind.dtype) for kind in leaves]
    bad: dict[int, tuple[int, str]] = {}
    for place, item in enumerate(items):
        if isinstance(item, Exception):
            bad[place] = UNREADABLE, described(item)
        elif unlike := _unlike(item, kinds):
            bad[place] = SHAPE, unlike
        else:
            for array, leaf in zip(arrays, jax.tree.leaves(item), strict=True):
                array[place] = leaf
    sound = [place for place in range(len(items)) if place not in bad]
    if sound:
        others = [*bad, *range(len(items), size)]
        for array in arrays:
            array[others] = array[sound[0]]
    return Rows(jax.tree.unflatten(tree, arrays), bad)


def _unlike(item: Tree, kinds: Tree) -> str:
    """In what an example differs from the others' kind; nothing where it does not."""
    if jax.tree.structure(item) != jax.tree.structure(kinds):
        return f"its tree is {_shown(item)}, and the others' {_shown(kinds)}"
    for (path, kind), leaf in zip(
        jax.tree.leaves_with_path(kinds), jax.tree.leaves(item), strict=True
    ):
        if leaf.shape != kind.shape:
            return f"the shape of {_place(path)} is {leaf.shape}, and the others' {kind.shape}"
        if leaf.dtype != kind.dtype and not np.can_cast(leaf.dtype, kind.dtype, "same_kind"):
            return f"the dtype of {_place(path)} is {leaf.dtype}, and the others' {kind.dtype}"
    return ""


def _place(path: Any) -> str:
    return ("x" if path[0].idx == 0 else f"argument {path[0].idx}") + jax.tree_util.keystr(path[1:])


def _shown(tree: Tree) -> str:
    shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
    return str(shapes[0] if len(shapes) == 1 else shapes)
