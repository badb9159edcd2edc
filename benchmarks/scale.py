"""`scale`: cost against batch, references, depth, width, length, steps, coalitions and devices.

Each size grows until a program would take more memory than the budget, by XLA's own analysis
before it runs, or more time than the limit.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
from tqdm import tqdm

from benchmarks import devices, measure, options, scale_report, speed, streaming
from benchmarks.sweeps import SWEEPS, Sweep, arguments

Json = dict[str, Any]
shown, write = scale_report.shown, scale_report.write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), metavar="S",
        help=f"of {', '.join(SWEEPS)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=options.positive, help="timed; default: 7; quick: 3")
    parser.add_argument(
        "--seconds", type=float, help="for each program, 10; quick: 0.5; slower ones end a sweep"
    )
    parser.add_argument(
        "--memory", type=float, help="GiB a program may take; default: half the machine's"
    )
    options.add_device(parser)


def measure_all(args: argparse.Namespace) -> Json:
    device = options.device(args.device)
    rounds = args.rounds or (3 if args.quick else 7)
    seconds = args.seconds or (0.5 if args.quick else 10.0)
    memory = args.memory * 2**30 if args.memory else measure.memory_limit(device)
    with jax.default_device(device):
        roof = measure.rates(device, rounds)
        cells: list[Json] = []
        with tqdm(args.sweeps, disable=args.quiet) as bar:
            for name in bar:
                bar.set_description(name)
                sweep = SWEEPS[name]
                values = sweep.quick if args.quick else sweep.values
                cells += sweep_cells(name, sweep, values, rounds, seconds, memory)
    share = 16 if args.quick else 256
    spread = devices.on_host if device.platform == "cpu" else devices.throughput
    stored = (64, 1, 2_000) if args.quick else (512, 3, 100_000)
    return {
        "benchmark": "scale",
        "environment": measure.environment(device),
        "settings": {"rounds": rounds, "seconds": seconds, "memory_bytes": memory},
        "rates": roof,
        "cells": cells,
        "devices": spread(share, rounds),
        "streaming": streaming.alone(*stored, platform=device.platform),
    }


def sweep_cells(
    name: str, sweep: Sweep, values: Any, rounds: int, seconds: float, memory: float
) -> list[Json]:
    """One cell per size and method, until time or memory ends."""
    cells: list[Json] = []
    for value in values:
        programs, found = {}, {}
        for method, (model, how) in sweep.make(value).items():
            program = measure.compile_program(speed.batched(how, model), arguments(model))
            used = measure.memory(program.compiled)
            found[method] = {
                "sweep": name, "unit": sweep.unit, "value": value, "method": method,
                "flops": measure.flops(program.compiled), "bytes": used,
                "accessed": measure.bytes_accessed(program.compiled),
                "compile_seconds": program.trace_seconds + program.compile_seconds,
                "seconds": None,
            }  # fmt: skip
            if used["peak"] is None or used["peak"] <= memory:
                programs[method] = program
        samples = measure.time_rounds(programs, rounds, seconds, int)
        for method, taken in samples.items():
            found[method]["seconds"] = taken["wall"]
        cells += found.values()
        if len(programs) < len(found) or slowest(found) > seconds:
            break
    return cells


def slowest(found: dict[str, Json]) -> float:
    times = [cell["seconds"] for cell in found.values() if cell["seconds"]]
    return max(measure.summary(samples)["median"] for samples in times)
