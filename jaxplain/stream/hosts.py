"""What of a batch is this host's: its rows lie along a mesh's first axis, on one host or several.

The rows that the same hosts hold are a lane.  Each lane has blocks of its own, so all of a file
comes out on one host, which writes it and commits it; no rows travel.  Where the mesh spans hosts,
all of them are in lock step: what stands here is called by all, in the same order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain._types import Array


class Lane(NamedTuple):
    """Rows of a batch that the same hosts hold: as [start, stop) of the batch, and how many."""

    number: int
    hosts: tuple[int, ...]
    rows: tuple[tuple[int, int], ...]
    size: int


class Share:
    """This host's share of batches of this size over a mesh (None: on one device).

    A batch's rows on this host are those of its lanes (`mine`), one lane after another.
    """

    def __init__(self, mesh: Mesh | None, batch: int):
        self.batch = batch
        self.sharding = None if mesh is None else _along_first(mesh)
        self.spans_hosts = mesh is not None and mesh.is_multi_process
        self.here = jax.process_index()
        self.lanes = [Lane(0, (self.here,), ((0, batch),), batch)]
        if self.sharding is not None and self.spans_hosts:
            self.lanes = _lanes(self.sharding, batch)
        self.mine = [lane for lane in self.lanes if self.here in lane.hosts]
        spans = [span for lane in self.mine for span in lane.rows]
        ends = np.cumsum([0, *(stop - start for start, stop in spans)]).tolist()
        self._rows = ends[-1]
        self._places = {start: end for (start, _), end in zip(spans, ends[:-1], strict=True)}

    def assigned(self, todo: list[int]) -> list[list[tuple[int, bool]]]:
        """Of each lane its blocks, and whether this host stores them: a lane's hosts take turns."""
        return [
            [(block, lane.hosts[turn % len(lane.hosts)] == self.here) for turn, block in
             enumerate(todo[lane.number :: len(self.lanes)])]
            for lane in self.lanes
        ]  # fmt: skip

    def spread(self, rows: np.ndarray) -> Array:
        """This host's rows of a batch, over its devices."""
        if not self.spans_hosts or self.sharding is None:
            return jax.device_put(rows, self.sharding)
        shape = self.batch, *rows.shape[1:]
        size = self.sharding.shard_shape(shape)[0]

        def of_device(index: Any) -> np.ndarray:
            return rows[self._first(index) :][:size]

        return jax.make_array_from_callback(shape, self.sharding, of_device)

    def collected(self, array: Array) -> np.ndarray:
        """This host's rows of a batch's result."""
        if not self.spans_hosts:
            return np.asarray(array)
        rows = np.empty((self._rows, *array.shape[1:]), array.dtype)
        places = {self._first(shard.index): shard.data for shard in array.addressable_shards}
        for first, shard in places.items():  # one of those that are equal
            rows[first : first + len(shard)] = shard
        return rows

    def _first(self, index: Any) -> int:
        """Where a device's rows of the batch begin among this host's."""
        return self._places[index[0].indices(self.batch)[0]]


def agreed(todo: list[int], blocks: int) -> list[int]:
    """The first host's list, which the others may have seen later."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    mask = np.zeros(blocks, bool)
    mask[todo] = True
    return np.flatnonzero(np.asarray(broadcast_one_to_all(mask))).tolist()


def wait(what: str) -> None:
    """Until all hosts are here."""
    from jax.experimental.multihost_utils import sync_global_devices

    sync_global_devices(what)


def whole(array: Any) -> Any:
    """An array in this host's memory, gathered where it lies on several."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return array
    if array.is_fully_replicated:
        return array.addressable_data(0)
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(array, tiled=True)


def automatic(mesh: Any) -> Mesh:
    """The mesh with axes that the compiler sees to: explicit ones refuse what vmap makes."""
    return Mesh(mesh.devices, mesh.axis_names)


def _along_first(mesh: Mesh) -> NamedSharding:
    return NamedSharding(automatic(mesh), PartitionSpec(mesh.axis_names[0]))


def _lanes(sharding: NamedSharding, batch: int) -> list[Lane]:
    holders: dict[tuple[int, int], set[int]] = {}
    places: Any = sharding.devices_indices_map((batch,))
    for device, (rows,) in places.items():
        start, stop, _ = rows.indices(batch)
        holders.setdefault((start, stop), set()).add(device.process_index)
    held: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for span in sorted(holders):
        held.setdefault(tuple(sorted(holders[span])), []).append(span)
    return [
        Lane(number, hosts, tuple(spans), sum(stop - start for start, stop in spans))
        for number, (hosts, spans) in enumerate(held.items())
    ]
