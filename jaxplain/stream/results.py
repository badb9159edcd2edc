"""What a run has stored: rows by number, why some failed, and whether the files are whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain._types import Tree
from jaxplain.stream import layout
from jaxplain.stream.layout import Leaf, Store
from jaxplain.stream.status import OK, PENDING, name_of


class Rows:
    """Stored rows of a tree of arrays, of which only what is asked for is read.

    `rows[a:b]`, `rows[i]` or `rows[…]` of one array is that array in NumPy; of a tree it is the
    tree, as dicts and tuples.  `rows["name"]` is one branch.
    """

    def __init__(self, store: Store, leaves: list[Leaf], depth: int = 1):
        self._store, self._leaves, self._depth = store, leaves, depth

    def __len__(self) -> int:
        return self._store.count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            at = self._depth
            branch = [leaf for leaf in self._leaves if leaf.path[at : at + 1] == (index,)]
            if not branch:
                names = list(dict.fromkeys(leaf.path[self._depth] for leaf in self._leaves))
                raise KeyError(f"no branch is called {index!r}; there are {names}")
            return Rows(self._store, branch, self._depth + 1)
        return self._tree(lambda leaf: self._store.arrays[leaf.name][index].read())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @property
    def shape(self) -> Any:
        """With the examples in front; of a tree a tree of shapes."""
        return self._tree(lambda leaf: _Known((self._store.count, *leaf.shape)))

    @property
    def dtype(self) -> Any:
        """Of one array; of a tree a tree."""
        return self._tree(lambda leaf: _Known(np.dtype(leaf.dtype)))

    @property
    def ndim(self) -> Any:
        """How many axes there are, the examples' among them."""
        return self._tree(lambda leaf: _Known(1 + len(leaf.shape)))

    def _tree(self, of: Any) -> Tree:
        """A tree of what is found for each leaf; all are asked for before one is waited for."""
        asked = [(leaf.path[self._depth :], of(leaf)) for leaf in self._leaves]
        return _nested([(path, found.result()) for path, found in asked])

    def __repr__(self) -> str:
        return f"<rows {self.shape} of {self._store.path}>"


class Stream:
    """A run's results: `.contributions`, `.gap`, `.prediction`, `.status`, `.failures()` ….

    Args:
      store: the files.
      held: the group's attributes.
    """

    def __init__(self, store: Store, held: Any):
        self.store, self._held = store, held

    def __len__(self) -> int:
        return self.store.count

    @property
    def path(self) -> str:
        """The folder, or the address."""
        return self.store.path

    @property
    def contributions(self) -> Rows:
        """What explain returned, read in slices; NaN in rows that failed or are still to do."""
        return self._rows("contributions")

    @property
    def gap(self) -> Rows:
        """The gaps, read in slices.

        Raises:
          AttributeError: none were stored.
        """
        return self._rows("gap")

    @property
    def prediction(self) -> Rows:
        """What predict returned, read in slices.

        Raises:
          AttributeError: none was stored.
        """
        return self._rows("prediction")

    @property
    def status(self) -> np.ndarray:
        """One small number for each example, of `jaxplain.stream.STATUS`; 0 is to do.

        Raises:
          ValueError: a file is broken (`verify` says which).
        """
        return self.store.status[:].read().result()

    @property
    def provenance(self) -> dict[str, Any]:
        """What the results depend on: digests, versions, settings, and what was accepted since."""
        held = layout.attributes(self.path) or self._held
        extra = {name: held[name] for name in ("created", "accepted")}
        return {**held["provenance"], **extra}

    def counts(self) -> dict[str, int]:
        """{name of a status: how many examples have it}."""
        codes, counts = np.unique(self.status, return_counts=True)
        return {name_of(int(code)): int(n) for code, n in zip(codes, counts, strict=True)}

    def failures(self) -> dict[int, str]:
        """{number: reason} of every example that is done and not ok."""
        found: dict[int, str] = {}
        for block in self.store.failing_blocks():
            if self.store.is_committed(block):
                found.update(self.store.failures(block))
        return dict(sorted(found.items()))

    def verify(self) -> list[int]:
        """The numbers of the blocks that are committed and not whole; reads everything.

        A block is named where a file of it is missing (which reads as NaN in silence), is cut off
        or changed (its checksum differs), holds NaN for an example that is ok, or lacks the reason
        of one that isn't.  `retry(path)` puts them back to what is to do.
        """
        files = {leaf.name: self.store.keys(leaf) for leaf in self.store.leaves}
        return [
            block
            for block, status in self.store.statuses()
            if isinstance(status, Exception)
            or ((status != PENDING).any() and not self._is_whole(block, status, files))
        ]

    def _is_whole(self, block: int, status: np.ndarray, files: dict[str, set[str]]) -> bool:
        start, stop = self.store.span(block)
        for leaf in self.store.leaves:
            if self.store.key(leaf, block) not in files[leaf.name]:
                return False
            try:
                rows = self.store.read(leaf.name, start, stop)
            except ValueError:
                return False
            if leaf.path[0] == "contributions":
                finite = np.isfinite(rows.astype(np.float32)).reshape(len(rows), -1).all(1)
                if not finite[status == OK].all():
                    return False
        failed = {start + int(place) for place in np.flatnonzero(status != OK)}
        try:
            return bool(status.all()) and failed == set(self.store.failures(block))
        except ValueError:
            return False

    def to_xarray(self) -> Any:
        """The arrays as an `xarray.Dataset` that reads them where it needs them.

        Needs xarray and zarr: `pip install "jaxplain[stream]"`.
        """
        import xarray

        found = {
            name: xarray.open_zarr(
                self.path, group="/".join(name.split("/")[:-1]) or None, consolidated=False,
                chunks=None, mask_and_scale=False, zarr_format=3,
            )[name.split("/")[-1]].drop_attrs()
            for name in [*(leaf.name for leaf in self.store.leaves), "status"]
        }  # fmt: skip
        return xarray.Dataset(found)

    def to_modisco(self, folder: str | os.PathLike[str], source: Any = None) -> tuple[Path, Path]:
        """Writes what `modisco motifs` reads, of the examples that are ok, both (n, 4, length).

        Args:
          folder: where to; made where it is missing.
          source: the one-hot sequences (N, length, 4) that were explained, or a source whose x they
            are.  Needed unless `predict=lambda x, *_: x` stored them as the prediction.

        Returns:
          The paths of ohe.npz and attr.npz.

        Raises:
          ValueError: contributions that aren't hypothetical ones of sequences; no sequences.
        """
        from jaxplain.genomics import to_modisco
        from jaxplain.stream.source import Source

        ok = np.flatnonzero(self.status == OK)
        if source is not None:
            given = Source(source)
            if len(given) != len(self):
                raise ValueError(f"{len(self)} were explained, and the source has {len(given)}")
            sequences = np.stack([given.example(int(i))[0] for i in ok])
        elif any(leaf.name == "prediction" for leaf in self.store.leaves):
            sequences = self.prediction[:][ok]
        else:
            raise ValueError(
                "modisco reads sequences beside their scores: give source=, or store them by "
                "predict=lambda x, *_: x"
            )
        return to_modisco(sequences, self.contributions[:][ok], folder)

    def to_bigwig(
        self,
        path: str | os.PathLike[str],
        windows: Sequence[tuple[str, int]],
        sizes: Mapping[str, int],
    ) -> Path:
        """Writes contributions as a track that genome browsers show, of the examples that are ok.

        A position's score is the sum over its bases, and the mean over windows that overlap there.
        `jaxplain.genomics.write_bigwig` does so for arrays.
        Needs pybigtools: `pip install "jaxplain[stream]"`.

        Args:
          path: the file.
          windows: (chromosome, start) of each example, starts counted from 0, read forwards.
          sizes: {chromosome: its length}.

        Returns:
          The path.

        Raises:
          ValueError: as many windows as examples are wanted, inside their chromosomes, and
            contributions that are one array, (N, length) or (N, length, bases).
        """
        from jaxplain.genomics.bigwig import write

        leaves = [leaf for leaf in self.store.leaves if leaf.path[0] == "contributions"]
        if len(leaves) > 1 or len(leaves[0].shape) not in (1, 2):
            raise ValueError(f"a track is of one array of sequences, and these are {leaves}")
        if len(windows) != len(self):
            raise ValueError(f"{len(self)} were explained, and there are {len(windows)} windows")
        length = leaves[0].shape[0]
        ok = map(int, np.flatnonzero(self.status == OK))

        def scores(numbers: list[int]) -> np.ndarray:
            rows = self.contributions[np.array(numbers)].astype(np.float64)
            return rows if rows.ndim == 2 else rows.sum(-1)

        return write(path, windows, sizes, length, ok, scores)

    def _rows(self, name: str) -> Rows:
        leaves = [leaf for leaf in self.store.leaves if leaf.path[0] == name]
        if not leaves:
            raise AttributeError(f"{self.path} has no {name}: `run` was not given {_ASKED[name]}")
        return Rows(self.store, leaves)

    def __repr__(self) -> str:
        try:
            counts = ", ".join(f"{n} {name}" for name, n in self.counts().items())
        except ValueError:
            counts = "broken status"
        return f"<{len(self)} examples in {self.path}: {counts}>"


_ASKED = {"gap": "gap=", "prediction": "predict=", "contributions": "explain"}


class _Known:
    """What need not be waited for."""

    def __init__(self, value: Any):
        self._value = value

    def result(self) -> Any:
        return self._value


def open(path: str | os.PathLike[str]) -> Stream:  # the module's word, as in `gzip.open`
    """The results of a run, while it goes on or after.

    Args:
      path: what `run` was given.

    Returns:
      A `Stream`: `.contributions[a:b]`, `.gap`, `.prediction`, `.status`, `.failures()`,
      `.provenance`, `.verify()`, `.counts()`, `.to_xarray()`, `.to_modisco(folder)`,
      `.to_bigwig(file, …)`.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: there is something else.

    Example:
      >>> import tempfile, jax.numpy as jnp, jaxplain as jxp
      >>> with tempfile.TemporaryDirectory() as path:
      ...     _ = jxp.stream.run(jxp.gradient(jnp.sum), jnp.ones((4, 2)), path, progress=False)
      ...     found = jxp.stream.open(path)
      ...     found.contributions[0], found.verify()
      (array([1., 1.], dtype=float32), [])
    """
    return open_store(os.fspath(path))


def open_store(path: str, held: Any = None) -> Stream:
    """`open`, for modules to whom that is the built-in; attributes where they are known."""
    held = held or layout.attributes(path)
    if held is None:
        raise FileNotFoundError(f"{path} holds no results of jaxplain.stream")
    return Stream(Store(path, held["count"], held["block"], leaves_of_held(held)), held)


def leaves_of_held(held: Any) -> list[Leaf]:
    """The stored arrays, as the attributes tell."""
    return [
        Leaf(leaf["name"], tuple(leaf["path"]), tuple(leaf["shape"]), leaf["dtype"])
        for leaf in held["leaves"]
    ]


def _nested(found: list[tuple[tuple[Any, ...], Any]]) -> Tree:
    """Dicts, and tuples where all steps are numbers, of (way, value); a way of no steps is it."""
    if found and not found[0][0]:
        return found[0][1]
    branches: dict[Any, list[tuple[tuple[Any, ...], Any]]] = {}
    for way, value in found:
        branches.setdefault(way[0], []).append((way[1:], value))
    built = {step: _nested(branch) for step, branch in branches.items()}
    if list(built) == list(range(len(built))):
        return tuple(built.values())
    return built
