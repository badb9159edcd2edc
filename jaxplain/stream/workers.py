"""Which of several processes this is, as their launcher says."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax


def find(worker: tuple[int, int] | None) -> tuple[int, int]:
    """(i, n): this is worker i of n; block b belongs to worker b mod n.

    Asked in this order: the argument, SLURM (array tasks, times the tasks of a step), JAX's
    processes where `jax.distributed` runs, and otherwise this is the only one.
    """
    if worker is None:
        worker = of_slurm(os.environ) or (jax.process_index(), jax.process_count())
    i, n = map(int, worker)
    if not 0 <= i < n:
        raise ValueError(f"worker is (i, n) with 0 ≤ i < n, and is {worker}")
    return i, n


def of_slurm(env: Mapping[str, str]) -> tuple[int, int] | None:
    """A task of an array, a task of a step, or one of the other; None outside of SLURM."""
    parts = [part for part in (_of_array(env), _of_step(env)) if part is not None]
    if not parts:
        return None
    i, n = 0, 1
    for place, count in parts:
        i, n = i * count + place, n * count
    return i, n


def _of_array(env: Mapping[str, str]) -> tuple[int, int] | None:
    if "SLURM_ARRAY_TASK_ID" not in env:
        return None
    task = int(env["SLURM_ARRAY_TASK_ID"])
    low, step = (int(env.get(f"SLURM_ARRAY_TASK_{k}", d)) for k, d in (("MIN", "0"), ("STEP", "1")))
    high = int(env.get("SLURM_ARRAY_TASK_MAX", task))
    count = int(env.get("SLURM_ARRAY_TASK_COUNT", (high - low) // step + 1))
    place = (task - low) // step
    if place >= count or (task - low) % step:
        raise ValueError(
            f"the array's tasks are not evenly spaced ({task} of {count} from {low}): give "
            "worker=(i, n)"
        )
    return place, count


def _of_step(env: Mapping[str, str]) -> tuple[int, int] | None:
    """Of `srun`. The batch script itself is told of tasks too, and runs once: no step, no tasks."""
    tasks = env.get("SLURM_STEP_NUM_TASKS")
    if tasks is None and "SLURM_JOB_ID" not in env:
        tasks = env.get("SLURM_NTASKS")
    if tasks is None or "SLURM_PROCID" not in env:
        return None
    return int(env["SLURM_PROCID"]), int(tasks)
