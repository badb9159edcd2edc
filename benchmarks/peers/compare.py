"""`peers`: jaxplain beside Captum, shap, tangermeme, shapiq and zennit, on the same weights.

Each architecture stands in torch and in JAX with equal outputs.  Every package explains the same
batch on one thread of the CPU; what fails is kept with its message.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import measure, options
from benchmarks.peers import report, task
from benchmarks.peers.families import FAMILIES, Family, Member
from benchmarks.peers.task import ARCHITECTURES, Task

Json = dict[str, Any]
Run = Callable[[], Any]
PACKAGES = ("captum", "shap", "tangermeme", "shapiq", "zennit")
QUICK = ("mlp", "bpnet", "lstm")
LONG = 0.5  # seconds
DIGITS = 16  # of rounding's units, what a network's output may be off by
ROUTINE = ("UserWarning: Input Tensor", "UserWarning: Setting")  # Captum's hooks, at every call
shown, write = report.shown, report.write


def configure(parser: argparse.ArgumentParser) -> None:
    names = list(ARCHITECTURES)
    parser.add_argument("--models", nargs="+", choices=names, metavar="M", help="default: all")
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="F"
    )
    parser.add_argument("--batch", type=options.positive, help="default: 8; quick: 2")
    parser.add_argument("--rounds", type=options.positive, help="timed; default: 9; quick: 3")
    parser.add_argument("--budget", type=float, help="seconds a method may run; 20; quick: 0.3")


def measure_all(args: argparse.Namespace) -> Json:
    one_thread()
    models = args.models or (QUICK if args.quick else list(ARCHITECTURES))
    rounds, budget = (
        args.rounds or (3 if args.quick else 9),
        args.budget or (0.3 if args.quick else 20.0),
    )
    methods, absent = installed()
    cells: list[Json] = []
    with jax.default_device(jax.devices("cpu")[0]), tqdm(models, disable=args.quiet) as bar:
        for name in bar:
            bar.set_description(name)
            one = task.make(name, args.batch or (2 if args.quick else 8), tiny=args.quick)
            found = measure_task(one, methods, args.families, rounds, budget)
            cells += [{"model": name, "batch": len(one.model.xs), **cell} for cell in found]
    environment = measure.environment(jax.devices("cpu")[0])
    environment |= {"threads": 1, "torch": version("torch"), "packages": versions()}
    return {
        "benchmark": "peers",
        "environment": environment,
        "settings": {"rounds": rounds, "budget_seconds": budget, "tiny": args.quick},
        "absent": absent,
        "cells": cells,
    }


def one_thread() -> None:
    """Torch and XLA on one thread each; before JAX has computed anything."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    try:
        import torch
    except ImportError:
        raise SystemExit('torch is missing: pip install ".[peers]"') from None
    torch.set_num_threads(1)


def installed() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Each package's methods, and why others can't be had."""
    methods, absent = {}, {}
    for package in PACKAGES:
        try:
            methods[package] = importlib.import_module(f"benchmarks.peers.{package}").METHODS
        except Exception as error:  # whatever stops it belongs into its row
            absent[package] = message_of(error)
    return methods, absent


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure_task(
    one: Task,
    methods: Mapping[str, Mapping[str, Member]],
    families: list[str],
    rounds: int,
    budget: float,
) -> list[Json]:
    """One cell for every method, gradients first; those that ran with their times."""
    cells, runs = {}, {}
    ends, everyone = one.ends(), members(one, methods, families)
    for (package, method), member in everyone.items():
        family = FAMILIES.get(member.family)
        cell, run = attempt(member, one, ends, budget)
        cells[package, method] = {
            "family": member.family, "package": package, "method": method,
            "settings": family.settings if family else "", **cell,
        }  # fmt: skip
        if run is not None:
            runs[package, method] = run
    with warnings.catch_warnings(action="ignore"):  # each said its own in `attempt`
        for (package, method), cell in cells.items():
            own = "jaxplain", cell["family"]
            known = cell["family"] in FAMILIES and FAMILIES[cell["family"]].equal
            if known and package != "jaxplain" and {own, (package, method)} <= runs.keys():
                cell["apart"] = apart(one, runs[own](), runs[package, method]())
                cell["apart_float64"] = apart_in_float64(
                    one, everyone[own], everyone[package, method]
                )
        seconds = measure.time_rounds(runs, rounds, budget, int)
    unmeasured = {"wall": [None] * rounds, "cpu": [None] * rounds}
    return [{**cell, "seconds": seconds.get(key, unmeasured)} for key, cell in cells.items()]


def members(
    one: Task, methods: Mapping[str, Mapping[str, Member]], families: list[str]
) -> dict[tuple[str, str], Member]:
    """{(package, method): member}: both gradients, ours, and the peers'."""
    kind = one.model.kind
    found = {
        ("torch", "gradient"): Member("gradient", torch_gradient),
        ("jaxplain", "gradient"): Member("gradient", ours(lambda m, refs, chunk: jax.grad(m.f))),
    }
    for name in families:
        family = FAMILIES[name]
        if kind in family.kinds:
            found["jaxplain", name] = Member(name, ours(family.ours), family.chunks)
            for package, rows in methods.items():
                found |= {(package, m): row for m, row in rows.items() if row.family == name}
    return found


def torch_gradient(one: Task, chunk: None) -> Run:
    import torch

    x = one.xs.requires_grad_()
    return lambda: torch.autograd.grad(one.module(x)[:, 0].sum(), x)[0]


def ours(explain_of: Callable) -> Callable[[Task, int | None], Run]:
    """jaxplain's method on the batch, compiled."""

    def make(one: Task, chunk: int | None) -> Run:
        m = one.model

        def explain(x, ref, refs, params):
            return explain_of(replace(m, ref=ref), refs, chunk)(x, params)

        fn = jax.vmap(explain, (0, None, None, None))
        return measure.compile_program(fn, (m.xs, m.ref, jnp.asarray(one.refs), m.params))

    return make


def attempt(
    member: Member, one: Task, ends: Mapping[str, tuple[np.ndarray, ...]], budget: float
) -> tuple[Json, Run | None]:
    """Whether a method runs, what it says, how complete it is and what memory it takes."""
    cell: Json = dict.fromkeys(("message", "error", "rounding", "bytes", "chunk"))
    cell["warnings"] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            chunk, run, result = fastest(member, one, budget)
            if not np.isfinite(found := as_array(result)).all():
                raise FloatingPointError("the result is not finite")
        except Exception as error:  # a row says what stopped it
            return cell | {"message": message_of(error)}, None
    said = {
        message_of(w.message)
        for w in caught
        if issubclass(w.category, (RuntimeWarning, UserWarning))
    }
    cell["warnings"] = sorted(text for text in said if not text.startswith(ROUTINE))
    family = FAMILIES.get(member.family)
    if family and family.shares:
        cell |= completeness(one, family, found, *ends[family.shares])
    return cell | {"chunk": chunk, "bytes": memory_of(run)}, run


def apart(one: Task, ours: Any, theirs: Any) -> float:
    """The largest difference of two methods' scores, in units of the largest of ours."""
    own, other = as_array(ours), as_array(theirs)
    if one.model.kind in ("image", "bases"):
        other = np.moveaxis(other, 1, -1)
    return float(abs(own - other).max() / abs(own).max())


def apart_in_float64(one: Task, ours: Member, theirs: Member) -> float:
    """The same without float32's rounding, which LRP's quotients magnify through many layers."""
    with jax.enable_x64(True):
        one = one.in_float64()
        return apart(one, *(member.make(one, member.chunks[0])() for member in (ours, theirs)))


def memory_of(run: Run) -> int | None:
    """Bytes that a run takes beside what it is given.

    Of a compiled program no less than XLA's analysis tells: JAX keeps freed buffers, in which a
    later run's would not show. The scratch space of convolutions shows only in what is measured.
    """
    own = measure.memory(run.compiled)["own"] if isinstance(run, measure.Program) else None
    found = [value for value in (own, measure.peak_memory(run)) if value is not None]
    return max(found, default=None)


def fastest(member: Member, one: Task, budget: float) -> tuple[int | None, Run, Any]:
    """The chunk of the least CPU time in a trial, with its run and result.

    Trials end when their runs have taken twice `budget` seconds: what is slow is tried once.
    """
    best, least, spent = None, math.inf, 0.0
    for chunk in member.chunks:
        if best is not None and spent > 2 * budget:
            break
        try:
            run = member.make(one, chunk)
            for _ in range(2):  # the first may load and allocate; what is slow doesn't notice
                start = time.process_time()
                result = run()
                seconds = time.process_time() - start
                spent += seconds
                if seconds > LONG:
                    break
        except Exception:
            if best is None:
                raise
            continue  # one chunk works, which is enough
        if best is None or seconds < least:
            best, least = (chunk, run, result), seconds
    assert best is not None
    return best


def message_of(error: Any) -> str:
    """Its kind and its first sentence or so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def as_array(result: Any) -> np.ndarray:
    """One array of what a method returns: torch's, JAX's, or a tuple with one of them."""
    if isinstance(result, list | tuple):
        [result] = result
    return result.detach().numpy() if hasattr(result, "detach") else np.asarray(result)


def completeness(
    one: Task, family: Family, found: np.ndarray, y: np.ndarray, y0: np.ndarray
) -> dict[str, float]:
    """Σ |Δf - Σ C| / Σ |Δf| over the batch, and what of it f's own rounding may be."""
    rise = y - y0
    total = found.reshape(len(rise), -1)
    if family.players:
        channels_last = found.shape[1:] == one.model.ref.shape
        labels = np.broadcast_to(one.model.groups, one.model.ref.shape)
        labels = labels.ravel() if channels_last else one.groups.numpy().ravel()
        total = total / np.bincount(labels)[labels]
    size = abs(rise).sum()
    rounding = DIGITS * np.finfo(y.dtype).eps * (abs(y) + abs(y0)).sum() / size
    return {
        "error": float(abs(rise - total.sum(1)).sum() / size),
        "rounding": float(max(rounding, DIGITS * np.finfo(y.dtype).eps)),
    }
