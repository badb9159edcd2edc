"""Measuring compiled programs: compile time, FLOPs, memory, and interleaved running time."""

import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import loops

# A sample repeats calls shorter than this, so that the clock and dispatch don't dominate it.
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Program:
    """A compiled function of fixed arguments, with what compiling it took."""

    compiled: Any
    args: Sequence[Any]
    trace_seconds: float
    compile_seconds: float

    def __call__(self) -> Any:
        return jax.block_until_ready(self.compiled(*self.args))


def compile_program(fn: Callable, args: Sequence[Any]) -> Program:
    """Traces and compiles `fn` from scratch: JAX's caches would make the second method cheaper."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(fn).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return Program(compiled, args, traced - start, time.perf_counter() - traced)


def compile_rounds(
    fns: Mapping[str, Callable],
    args: Sequence[Any],
    rounds: int,
    tick: Callable[[], Any],
    budget: float = math.inf,
) -> tuple[dict[str, Program], dict[str, dict[str, list[float]]]]:
    """Compiles every function `rounds` times in turn: the programs, and the seconds it took.

    One that has spent its `budget` of seconds sits out.
    """
    programs: dict[str, Program] = {}
    seconds: dict[str, dict[str, list[float]]] = {n: {"trace": [], "compile": []} for n in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            tick()
            taken = seconds[name]
            if sum(taken["trace"] + taken["compile"]) >= budget:
                continue
            programs[name] = program = compile_program(fn, args)
            taken["trace"].append(program.trace_seconds)
            taken["compile"].append(program.compile_seconds)
    return programs, seconds


def flops(compiled: Any) -> float | None:
    """XLA's count of a compiled program, loops with all their rounds; None where it isn't known."""
    try:
        cost = compiled.cost_analysis()
    except (NotImplementedError, RuntimeError):  # backends without an analysis raise either
        return None
    if isinstance(cost, list | tuple):  # one dict per device on some backends
        cost = cost[0] if cost else None
    once = (cost or {}).get("flops", 0.0)
    further = loops.further_flops(compiled.as_text())
    return once + further if once > 0 and further is not None else None


def bytes_accessed(compiled: Any) -> float | None:
    """XLA's count of bytes read and written; None with loops, whose bodies it counts once."""
    try:
        cost = compiled.cost_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    if isinstance(cost, list | tuple):
        cost = cost[0] if cost else None
    if " while(" in compiled.as_text():
        return None
    return (cost or {}).get("bytes accessed")


def rates(device: jax.Device, rounds: int = 5) -> dict[str, float]:
    """What the device does at its best: FLOPs a second in a product, bytes a second in a copy.

    The copy is of the size that is fastest: what XLA counts as read and written may be in caches.
    """
    on_cpu = device.platform == "cpu"
    size, lengths = (1024, range(16, 25, 2)) if on_cpu else (8192, range(20, 29, 4))

    def best(function: Callable[..., Any], argument: Any) -> float:
        program = compile_program(function, (argument,))
        times = time_rounds({"it": program}, rounds, 10.0, int)["it"]["wall"]
        return min(seconds for seconds in times if seconds is not None)

    lines = (jnp.ones(2**power) for power in lengths)
    return {
        "flops": 2 * size**3 / best(lambda a: a @ a, jnp.ones((size, size))),
        "bytes": max(2 * line.nbytes / best(lambda a: a + 1, line) for line in lines),
    }


def memory(compiled: Any) -> dict[str, int | None]:
    """Bytes by XLA's analysis: `temp` beside arguments and results, `own` with the results too, and
    `peak` with both.
    """
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, RuntimeError):
        stats = None
    if isinstance(stats, list | tuple):
        stats = stats[0] if stats else None
    if stats is None:
        return {"temp": None, "own": None, "peak": None}
    # Some backends' own peak leaves the temporary buffer out; the sum of the three never does.
    temp, held = stats.temp_size_in_bytes, stats.argument_size_in_bytes
    own = temp + stats.output_size_in_bytes
    return {"temp": temp, "own": own, "peak": own + held}


def peak_memory(run: Callable[[], Any]) -> int | None:
    """Bytes by which the process's resident memory peaks above what it held, where Linux tells."""
    _release()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
        before = _status("VmHWM")
        run()
        return 1024 * (_status("VmHWM") - before)
    except (OSError, StopIteration):
        return None


def _release() -> None:
    """Hands freed memory back to the system: what the allocator keeps would hide a run's own."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_limit(device: jax.Device) -> float:
    """Bytes that a program may take: four fifths of the device's, half of the machine's."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return 0.8 * stats.get("bytes_limit", math.inf)
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def time_rounds(
    programs: Mapping[str, Callable[[], Any]],
    rounds: int,
    budget: float,
    tick: Callable[[], Any],
) -> dict[str, dict[str, list[float | None]]]:
    """Wall and CPU seconds per call, one sample a round, all programs interleaved.

    Every round runs every program once, forwards and backwards in turn, so that drift and
    a neighbour's leftovers in the cache hit all alike. A program that has spent its `budget` of
    seconds sits out the rest; its samples there are None, which keeps rounds aligned. Where the
    warm-up alone spends it, that is its sample.
    """
    calls: dict[str, int] = {}
    warm: dict[str, tuple[float, float]] = {}
    for name, run in programs.items():
        warm[name] = _sample(run, 1)
        if warm[name][0] < SAMPLE_SECONDS:  # the first call also loads the program: time another
            warm[name] = _sample(run, 1)
        calls[name] = max(1, math.ceil(SAMPLE_SECONDS / warm[name][0]))
    spent = {name: wall for name, (wall, _) in warm.items()}
    samples: dict[str, dict[str, list[float | None]]] = {
        name: {"wall": [], "cpu": []} for name in programs
    }
    for index in range(rounds):
        for name in list(programs)[:: 1 if index % 2 == 0 else -1]:
            wall = cpu = None
            if spent[name] < budget:
                wall, cpu = _sample(programs[name], calls[name])
                spent[name] += wall * calls[name]
            elif index == 0:
                wall, cpu = warm[name]
            samples[name]["wall"].append(wall)
            samples[name]["cpu"].append(cpu)
            tick()
    return samples


def _sample(run: Callable[[], Any], calls: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def summary(values: Sequence[float | None]) -> dict[str, float]:
    """Median, and spread as the interquartile range over the median."""
    kept = [v for v in values if v is not None]
    median = statistics.median(kept)
    low, _, high = statistics.quantiles(kept, n=4) if len(kept) > 1 else (median,) * 3
    return {"median": median, "spread": (high - low) / median}


def environment(device: jax.Device) -> dict[str, Any]:
    """What the figures depend on: versions, device, cores, precision and the date."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    return {
        "python": platform.python_version(),
        **packages,
        "platform": device.platform,
        "device": device_name(device),
        "cores": len(os.sched_getaffinity(0)),
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "date": datetime.now(UTC).date().isoformat(),
    }


def device_name(device: jax.Device) -> str:
    """The device's model; for a CPU the processor's, which JAX doesn't tell."""
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
