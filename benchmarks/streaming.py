"""What storing costs: streamed, in chunks and in a bare loop of the same compiled program; memory.

`python -m benchmarks.streaming '{"examples": 4096, "rounds": 3, "long": 20000}'` prints one JSON
object; a process of its own, for its memory is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxplain as jxp
from benchmarks import models, sweeps

Json = dict[str, Any]
BATCH, BLOCK = 16, 128  # of BPNet: 70 ms on two cores


def alone(examples: int, rounds: int, long: int, platform: str = "cpu") -> Json:
    """The figures, from a fresh process."""
    asked = json.dumps({"examples": examples, "rounds": rounds, "long": long})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.streaming", asked],
        env={**os.environ, "JAX_PLATFORMS": platform}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def figures(examples: int, rounds: int, long: int) -> Json:
    """Seconds of each way to explain the examples, and how memory grows over `long` small ones."""
    model = sweeps.with_batch(models.make("bpnet", 1), BATCH)
    explain = jxp.deeplift(model.f, 0.0)
    one = model.xs[0]
    xs = np.random.default_rng(0).normal(size=(examples, *one.shape)).astype(np.float32)
    program = jax.jit(jax.vmap(explain, (0, None)))
    in_chunks = jxp.batched(explain, chunk=BATCH, in_axes=(0, None), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        number = iter(range(1000))

        def streamed(xs: np.ndarray) -> None:
            jxp.stream.run(
                explain, xs, f"{folder}/{next(number)}", shared=(model.params,), batch=BATCH,
                block=BLOCK, progress=False,
            )  # fmt: skip

        def bare(xs: np.ndarray) -> None:
            for start in range(0, len(xs), BATCH):
                np.asarray(program(xs[start : start + BATCH], model.params))

        ways = {
            "bare": bare,
            "streamed": streamed,
            "in chunks": lambda xs: in_chunks(xs, model.params),
        }
        samples: dict[str, list[Json]] = {name: [] for name in ways}
        for way in ways.values():
            way(xs[:BATCH])
        for _ in range(rounds):
            for name, way in ways.items():
                # What starting takes, compiling among it, is told apart.
                starting, whole = _taken(lambda: way(xs[:BATCH])), _taken(lambda: way(xs))
                samples[name].append({"start": starting, "whole": whole})
        growth = _growth(f"{folder}/long", long)
    return {
        "examples": examples, "batch": BATCH, "block": BLOCK, "bytes": int(xs[0].nbytes),
        "samples": samples, "long": long, "growth_bytes": growth,
    }  # fmt: skip


def ratio(results: Json, way: str, clock: str) -> float:
    """Median over rounds of a way's seconds beyond starting over the bare loop's."""

    def beyond(row: Json) -> float:
        return row["whole"][clock] - row["start"][clock]

    pairs = zip(results["samples"][way], results["samples"]["bare"], strict=True)
    return float(np.median([beyond(a) / beyond(b) for a, b in pairs]))


def _taken(call: Callable[[], None]) -> Json:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _growth(path: str, count: int) -> int:
    """How far the most memory from a fifth of a run on exceeds that before."""

    class Source:
        def __len__(self) -> int:
            return count

        def __getitem__(self, number: int) -> np.ndarray:
            if number == count // 5:
                watch.set()
            return np.full(256, number / count, np.float32)

    watch, over, seen = threading.Event(), threading.Event(), [0, 0]

    def look() -> None:
        while not over.wait(0.02):
            late = watch.is_set()
            seen[late] = max(seen[late], _resident())

    thread = threading.Thread(target=look)
    thread.start()
    jxp.stream.run(jxp.gradient(lambda x: (x**2).sum()), Source(), path, progress=False)
    over.set()
    thread.join()
    return max(0, seen[1] - seen[0])


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(figures(**json.loads(sys.argv[1]))))
