"""Throughput of DeepLIFT over several devices, the batch shared out among them.

`python -m benchmarks.devices '{"counts": [1, 2], "batch": 8, "rounds": 3}'` prints its cells as
JSON: on a CPU the devices are made by a flag that must be set before JAX starts, hence the process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import measure, models, speed, sweeps
from benchmarks.methods import METHODS, SUBJECT

Json = dict[str, Any]
COUNTS = (1, 2, 4, 8)
_COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute)")


def on_host(batch: int, rounds: int, counts: Sequence[int] = COUNTS) -> list[Json]:
    """The cells on as many forced host devices, in a process of their own."""
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(counts)}"
    )
    asked = json.dumps({"counts": counts, "batch": batch, "rounds": rounds})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.devices", asked],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def throughput(batch: int, rounds: int, counts: Sequence[int] = COUNTS) -> list[Json]:
    """One cell for each number of devices there is: seconds of `batch` examples a device."""
    counts = [count for count in counts if count <= len(jax.devices())]
    programs = {count: sharded(count, batch) for count in counts}
    seconds = measure.time_rounds(programs, rounds, 20.0, int)  # type: ignore[type-var]
    return [
        {
            "devices": count,
            "examples": count * batch,
            "seconds": seconds[count],
            "collectives": len(_COLLECTIVE.findall(programs[count].compiled.as_text())),
        }
        for count in counts
    ]


def sharded(count: int, batch: int) -> measure.Program:
    """DeepLIFT of a batch laid out over the first `count` devices, weights on each."""
    model = sweeps.with_batch(models.make("cnn", 1), count * batch)
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["batch"], []))
    args = tuple(
        jax.device_put(part, place)
        for part, place in zip(sweeps.arguments(model), (split, whole, whole), strict=True)
    )
    return measure.compile_program(speed.batched(METHODS[SUBJECT], model), args)


if __name__ == "__main__":
    print(json.dumps(throughput(**json.loads(sys.argv[1]))))
