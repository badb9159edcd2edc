"""A model that spans hosts, all of them in lock step: what each has to know of the others.

They explain the same batches, each reads what it is asked for, and a block is written by one of
them. Everything here is called by all hosts, in the same order.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def agreed(todo: list[int], blocks: int) -> list[int]:
    """The first host's list, which the others may have seen later."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    mask = np.zeros(blocks, bool)
    mask[todo] = True
    return np.flatnonzero(np.asarray(broadcast_one_to_all(mask))).tolist()


def writes(block: int) -> bool:
    """Whether a block is this host's to write: they take turns."""
    return block % jax.process_count() == jax.process_index()


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
