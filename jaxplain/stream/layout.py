"""What is stored where: a zarr v3 group, written and read by TensorStore.

    zarr.json            the group; its attributes hold the provenance
    contributions/…      an array for each leaf: a shard of `block` examples is one file
    gap, prediction      likewise, where there are any
    status/failures/B.json   why examples of block B were quarantined, {number: reason}
    status               a chunk of `block` small numbers, written last: the block's commit

A file is written under another name and then renamed, so it is there as a whole or not at all; and
each ends in a checksum of its own.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain._types import Tree

Json = Any
ATTRIBUTE = "jaxplain"
FORMAT = 1
_INNER = 2**20  # bytes of a piece of a shard that is read by itself, about
_REASONS = "status/failures/"
_READ_AT_ONCE = 256  # chunks of status
# Otherwise a shard of NaN alone would not be written, and look as if it were lost.
_KEPT = {"store_data_equal_to_fill_value": True}
_CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


class Leaf(NamedTuple):
    """A stored array: its name in the group, the way to it in the tree, one example's form."""

    name: str
    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str


class Store:
    """A group of N examples in blocks, opened."""

    def __init__(self, path: str, count: int, block: int, leaves: Sequence[Leaf]):
        self.path, self.count, self.block, self.leaves = path, count, block, list(leaves)
        self.files = _files(path)
        self.arrays = {leaf.name: self._array(leaf.name) for leaf in self.leaves}
        self.status = self._array("status")

    def _array(self, name: str) -> Any:
        import tensorstore as ts

        spec = {"driver": "zarr3", "kvstore": _spec(self.path, name), **_KEPT}
        try:
            return ts.open(spec, open=True).result()
        except ValueError as error:
            raise ValueError(
                f"{self.path} lacks its array {name!r}: a run is only just making it, or the same "
                f"call again makes it.\n{error}"
            ) from None

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.count // self.block)

    def span(self, block: int) -> tuple[int, int]:
        """The first example of a block, and the first after it."""
        return block * self.block, min((block + 1) * self.block, self.count)

    # --- writing ---------------------------------------------------------------------------------

    def write(
        self, block: int, values: dict[str, np.ndarray], status: np.ndarray, failures: Json
    ) -> None:
        """A block's arrays, then why some failed, then the status, which commits it.

        Raises:
          OSError: there is no room.
        """
        start, stop = self.span(block)
        try:
            writes = [self.arrays[name][start:stop].write(rows) for name, rows in values.items()]
            text = json.dumps(failures).encode() if failures else None  # none: of a killed run
            writes.append(self.files.write(_failures(block), text))
            for write in writes:
                write.result()
            self.status[start:stop].write(status).result()
        except Exception as error:
            if "No space left" in str(error) or "quota exceeded" in str(error).lower():
                raise OSError(errno.ENOSPC, str(error), self.path) from error
            raise

    def withdraw(self, block: int, broken: bool) -> None:
        """Puts a block back to what is to do; its files go first where they are broken."""
        keys = [_failures(block)]
        if broken:
            keys = [*(self.key(leaf, block) for leaf in self.leaves), *keys]
        for key in [*keys, f"status/c/{block}"]:
            self.files.write(key, None).result()

    # --- reading ---------------------------------------------------------------------------------

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of an array."""
        return self.arrays[name][start:stop].read().result()

    def statuses(self, blocks: Iterable[int] | None = None) -> Iterator[tuple[int, Any]]:
        """(block, its statuses, or the error of a broken chunk), some read at once."""
        blocks = list(range(self.blocks) if blocks is None else blocks)
        for first in range(0, len(blocks), _READ_AT_ONCE):
            some = blocks[first : first + _READ_AT_ONCE]
            reads = [self.status[slice(*self.span(block))].read() for block in some]
            for block, read in zip(some, reads, strict=True):
                try:
                    yield block, read.result()
                except ValueError as error:
                    yield block, error

    def is_committed(self, block: int) -> bool:
        """Whether a block's status is there and whole."""
        ((_, status),) = self.statuses([block])
        return not isinstance(status, Exception) and bool(status.all())

    def failures(self, block: int) -> dict[int, str]:
        """{number: reason} of one block; ValueError where the file is broken."""
        found = self.files.read(_failures(block)).result()
        if found.state != "value":
            return {}
        return {int(number): reason for number, reason in json.loads(found.value).items()}

    def failing_blocks(self) -> list[int]:
        """The blocks that have a file of failures."""
        keys = self.files.list(_range(_REASONS)).result()
        return sorted(int(key.decode().removeprefix(_REASONS)[:-5]) for key in keys)

    def key(self, leaf: Leaf, block: int) -> str:
        """The file of a block's shard."""
        return "/".join([leaf.name, "c", str(block), *("0" for _ in leaf.shape)])

    def keys(self, leaf: Leaf) -> set[str]:
        """The files of an array's shards that are there."""
        keys = self.files.list(_range(f"{leaf.name}/c/")).result()
        return {key.decode() for key in keys}


# --- the group ----------------------------------------------------------------------------------


def leaves_of(results: dict[str, Tree]) -> list[Leaf]:
    """The arrays that hold results: of one array `contributions`, else `contributions/NAME`."""
    leaves = []
    for name, tree in results.items():
        for path, kind in jax.tree.leaves_with_path(tree):
            way = tuple(map(_step, path))
            parts = [name, *(_written(part) for step in way for part in str(step).split("/"))]
            leaves.append(
                Leaf("/".join(parts), (name, *way), tuple(kind.shape), np.dtype(kind.dtype).name)
            )
    names = [leaf.name for leaf in leaves]
    for name in names:
        if names.count(name) > 1 or any(other.startswith(f"{name}/") for other in names):
            raise ValueError(f"two of explain's results would be stored as {name!r}: {names}")
    return leaves


def rows_by_path(results: dict[str, Tree]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each array of results, and the way to it as `Leaf.path` has it."""
    for name, tree in results.items():
        for path, rows in jax.tree.leaves_with_path(tree):
            yield (name, *map(_step, path)), rows


def attributes(path: str) -> Json | None:
    """What the group at this path says of itself; None where there is none.

    Raises:
      ValueError: there is something else.
    """
    return _attributes(path)[0]


def _attributes(path: str) -> tuple[Json | None, Any]:
    """The attributes, and the state of the file that they stand in."""
    files = _files(path)
    try:
        found = files.read("zarr.json").result()
    except ValueError as error:
        raise ValueError(f"{path} can't be a folder of results: {error}") from None
    if found.state != "value":
        return None, found.stamp.generation
    try:
        held = json.loads(found.value)["attributes"][ATTRIBUTE]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is a zarr group or array, and not of jaxplain.stream") from None
    if held["format"] != FORMAT:
        raise ValueError(
            f"{path} was written in format {held['format']}, and this version reads {FORMAT}"
        )
    return held, found.stamp.generation


def create(path: str, held: Json) -> bool:
    """Makes the group's own file; False where another process has been faster."""
    if "://" not in path:
        os.makedirs(path, exist_ok=True)
    there, generation = _attributes(path)
    return there is None and _write_group(path, "", held, generation)


def change(path: str, changed: Callable[[Json], Json]) -> None:
    """Changes the group's attributes, whoever else does so at the same time."""
    while True:
        held, generation = _attributes(path)
        if changed(held) == held or _write_group(path, "", changed(held), generation):
            return


def _write_group(path: str, name: str, held: Json | None, generation: Any = None) -> bool:
    attributes = {} if held is None else {ATTRIBUTE: held}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    key = f"{name}/zarr.json" if name else "zarr.json"
    text = json.dumps(group, indent=1).encode()
    given = {} if generation is None else {"if_equal": generation}
    return bool(_files(path).write(key, text, **given).result().generation)


def make_arrays(path: str, count: int, block: int, leaves: Sequence[Leaf]) -> None:
    """The arrays of a group, and the groups between; those that are there stay as they are."""
    between = {"/".join(leaf.name.split("/")[:i]) for leaf in leaves for i in range(1, 9)}
    for name in sorted(between - {leaf.name for leaf in leaves}):
        _write_group(path, name, None)
    for leaf in leaves:
        _make(path, leaf, count, block)
    _make_status(path, count, block)


def _make(path: str, leaf: Leaf, count: int, block: int) -> None:
    dtype = np.dtype(leaf.dtype)
    floating = jax.numpy.issubdtype(dtype, jax.numpy.floating)
    inner = _inner(block, dtype.itemsize * int(np.prod(leaf.shape)))
    # Not compressed: numbers of a model don't shrink (0.92 by zstd, for twice the time).
    codecs = [_CHECKED[0] if dtype.itemsize > 1 else {"name": "bytes"}, _CHECKED[1]]
    sizes = [max(size, 1) for size in leaf.shape]
    prefix = "axis" if len(leaf.path) == 1 and leaf.path[0] == "contributions" else leaf.name
    _open_or_make(
        path,
        leaf.name,
        {
            "shape": [count, *leaf.shape],
            "data_type": leaf.dtype,
            "fill_value": "NaN" if floating else False if leaf.dtype == "bool" else 0,
            "dimension_names": ["example", *(f"{prefix}_{i}" for i in range(1, len(sizes) + 1))],
            "chunk_grid": _grid([block, *sizes]),
            "codecs": [
                {
                    "name": "sharding_indexed",
                    "configuration": {"chunk_shape": [inner, *sizes], "codecs": codecs},
                }
            ],
        },
    )


def _make_status(path: str, count: int, block: int) -> None:
    _open_or_make(
        path,
        "status",
        {
            "shape": [count],
            "data_type": "uint8",
            "fill_value": 0,
            "dimension_names": ["example"],
            "chunk_grid": _grid([block]),
            "codecs": [{"name": "bytes"}, _CHECKED[1]],
        },
    )


def _grid(shape: list[int]) -> Json:
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


def _open_or_make(path: str, name: str, metadata: Json) -> None:
    import tensorstore as ts

    spec = {"driver": "zarr3", "kvstore": _spec(path, name), "metadata": metadata, **_KEPT}
    ts.open(spec, open=True, create=True).result()


def _inner(block: int, row: int) -> int:
    """How many examples of a shard are read together: a divisor of the block, near to 1 MiB."""
    small = [d for d in range(1, int(block**0.5) + 1) if block % d == 0]
    off = lambda rows: abs(np.log(max(rows * row, 1) / _INNER))
    return min({d for s in small for d in (s, block // s)}, key=off)


def _step(key: Any) -> str | int:
    """A step into a tree, as JSON may hold it."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            step = getattr(key, attribute)
            return step if isinstance(step, int) else str(step)
    return str(key)


def _written(part: str) -> str:
    """A name that zarr takes: no empty ones, no dots alone, none that it keeps for itself."""
    if part in ("", ".", "..", "zarr.json") or part.startswith("__"):
        return "".join(f"%{ord(letter):02X}" for letter in part) or "%"
    return part


def _failures(block: int) -> str:
    return f"{_REASONS}{block}.json"  # inside an array, where zarr looks for none


def _range(prefix: str) -> Any:
    import tensorstore as ts

    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


def _spec(path: str, name: str = "") -> Json:
    """Of TensorStore: a folder, or an address such as gs://bucket/run."""
    if "://" in path:
        return f"{path.rstrip('/')}/{name}/" if name else f"{path.rstrip('/')}/"
    return {"driver": "file", "path": os.path.join(os.path.abspath(path), name, "")}


def _files(path: str) -> Any:
    import tensorstore as ts

    return ts.KvStore.open(_spec(path)).result()
