"""`peers`: jaxplain beside Captum, shap, tangermeme, shapiq and zennit, on the same weights.

Each architecture stands in torch and in JAX with equal outputs.  Every package explains the same
batch on one thread of the CPU; what fails is kept with its message.
"""

from __future__ import annotations

import argparse
import importlib
import os
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
from benchmarks.peers.families import FAMILIES, Family
from benchmarks.peers.task import ARCHITECTURES, Task

Json = dict[str, Any]
Run = Callable[[], Any]
PACKAGES = ("captum", "shap", "tangermeme", "shapiq", "zennit")
QUICK = ("mlp", "bpnet", "lstm")
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
    methods: Mapping[str, Mapping[str, tuple[str, Callable[[Task], Run]]]],
    families: list[str],
    rounds: int,
    budget: float,
) -> list[Json]:
    """One cell for every method, gradients first; those that ran with their times."""
    cells, runs = {}, {}
    rises = one.rises()
    for (package, method), (family, make) in members(one, methods, families).items():
        cell, run = attempt(make, one, FAMILIES.get(family), rises)
        cells[package, method] = {
            "family": family, "package": package, "method": method,
            "settings": FAMILIES[family].settings if family in FAMILIES else "", **cell,
        }  # fmt: skip
        if run is not None:
            runs[package, method] = run
    with warnings.catch_warnings(action="ignore"):  # each said its own in `attempt`
        seconds = measure.time_rounds(runs, rounds, budget, int)
    unmeasured = {"wall": [None] * rounds, "cpu": [None] * rounds}
    return [{**cell, "seconds": seconds.get(key, unmeasured)} for key, cell in cells.items()]


def members(one: Task, methods: Mapping, families: list[str]) -> dict:
    """{(package, method): (family, make)}: both gradients, ours, and the peers'."""
    kind = one.model.kind
    found: dict = {
        ("torch", "gradient"): ("gradient", torch_gradient),
        ("jaxplain", "gradient"): ("gradient", ours(lambda m, refs: jax.grad(m.f))),
    }
    for name in families:
        if kind in FAMILIES[name].kinds:
            found["jaxplain", name] = (name, ours(FAMILIES[name].ours))
            for package, rows in methods.items():
                found |= {(package, m): row for m, row in rows.items() if row[0] == name}
    return found


def torch_gradient(one: Task) -> Run:
    import torch

    x = one.xs.requires_grad_()
    return lambda: torch.autograd.grad(one.module(x)[:, 0].sum(), x)[0]


def ours(explain_of: Callable) -> Callable[[Task], Run]:
    """jaxplain's method on the batch, compiled."""

    def make(one: Task) -> Run:
        m = one.model

        def explain(x, ref, refs, params):
            return explain_of(replace(m, ref=ref), refs)(x, params)

        fn = jax.vmap(explain, (0, None, None, None))
        return measure.compile_program(fn, (m.xs, m.ref, jnp.asarray(one.refs), m.params))

    return make


def attempt(
    make: Callable[[Task], Run], one: Task, family: Family | None, rises: Mapping[str, np.ndarray]
) -> tuple[Json, Run | None]:
    """Whether a method runs, what it says, how complete it is and what memory it takes."""
    cell: Json = {"message": None, "warnings": [], "error": None, "bytes": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = make(one)
            result = run()
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
    if family and family.shares:
        cell["error"] = completeness_error(one, family, found, rises[family.shares])
    cell["bytes"] = measure.peak_memory(run)
    return cell, run


def message_of(error: Any) -> str:
    """Its kind and its first sentence or so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def as_array(result: Any) -> np.ndarray:
    """One array of what a method returns: torch's, JAX's, or a tuple with one of them."""
    if isinstance(result, list | tuple):
        [result] = result
    return result.detach().numpy() if hasattr(result, "detach") else np.asarray(result)


def completeness_error(one: Task, family: Family, found: np.ndarray, rise: np.ndarray) -> float:
    """Σ |Δf - Σ C| / Σ |Δf| over the batch."""
    total = found.reshape(len(rise), -1)
    if family.players:
        channels_last = found.shape[1:] == one.model.ref.shape
        labels = np.broadcast_to(one.model.groups, one.model.ref.shape)
        labels = labels.ravel() if channels_last else one.groups.numpy().ravel()
        total = total / np.bincount(labels)[labels]
    return float(abs(rise - total.sum(1)).sum() / abs(rise).sum())
