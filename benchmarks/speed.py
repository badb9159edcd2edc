"""`speed`: every method's cost beside one gradient's and DeepLIFT's, on the same model and run."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import evaluations, measure, models, options, report
from benchmarks.methods import BASELINE, CHUNK, METHODS, REFERENCES, SUBJECT, Method
from benchmarks.models import MODELS, Model

Json = dict[str, Any]
write = report.write
DTYPES = ("float32", "bfloat16")
# --quick runs every method on the one model that all are for, and these on the others.
QUICK = {
    "every": "bpnet",
    "methods": (BASELINE, SUBJECT),
    "models": ("mlp", "bpnet", "transformer"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, metavar="M",
        help="default: all; on a CPU all but gpt2_small",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="M", help="default: all")
    parser.add_argument("--batch", type=options.positive, help="default: the model's; quick: 2")
    parser.add_argument("--rounds", type=options.positive, help="timed; default: 15; quick: 3")
    parser.add_argument(
        "--budget", type=float, help="seconds a method may run or compile; default: 10; quick: 0.3"
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, metavar="D",
        help="default: float32, on an accelerator bfloat16 too",
    )  # fmt: skip
    options.add_device(parser)


def measure_all(args: argparse.Namespace) -> Json:
    device = options.device(args.device)
    on_cpu = device.platform == "cpu"
    usual = QUICK["models"] if args.quick else MODELS
    return run(
        args.models or [name for name in usual if not (on_cpu and name in models.LARGE)],
        args.methods,
        device=device,
        dtypes=args.dtypes or DTYPES[: 1 if on_cpu else 2],
        batch=args.batch or (2 if args.quick else None),
        rounds=args.rounds or (3 if args.quick else 15),
        compiles=1 if args.quick else 3,
        budget=args.budget or (0.3 if args.quick else 10.0),
        tiny=args.quick,
        progress=not args.quiet,
    )


def shown(results: Json) -> str:
    return f"{report.cost_table(results)}\n\n{report.method_table(results)}"


def run(
    names: Sequence[str],
    methods: Sequence[str] | None = None,
    *,
    device: jax.Device,
    dtypes: Sequence[str] = DTYPES[:1],
    batch: int | None = None,
    rounds: int = 15,
    compiles: int = 3,
    budget: float = 10.0,
    tiny: bool = False,
    progress: bool = True,
) -> Json:
    """Measures `methods` on models; the gradient is always among them.

    Args:
      names: of models, out of `MODELS`.
      methods: out of `METHODS`; by default all, or those of `QUICK` where `tiny`.
      device: where everything runs.
      dtypes: of weights, inputs and reference.
      batch: the batch of every model; by default each model's own.
      rounds: samples of the running time, each method once a round.
      compiles: times each program is compiled.
      budget: seconds of running time after which a method sits out the remaining rounds, and of
        compiling time after which it isn't compiled again.
      tiny: small twins of the models.
      progress: whether to show a progress bar.

    Returns:
      What the JSON file holds: `environment`, `settings` and one of `cells` per model, type of
      numbers and method.
    """
    plan = []
    for name in names:
        kind = models.make(name, 1, tiny=True).kind
        few = QUICK["methods"] if tiny and name != QUICK["every"] else METHODS
        chosen = dict.fromkeys([BASELINE, *(few if methods is None else methods)])
        apt = {key: METHODS[key] for key in chosen if kind in METHODS[key].kinds}
        plan += [(name, dtype, apt) for dtype in dtypes]
    total = sum(len(apt) for *_, apt in plan) * (compiles + rounds)
    cells: list[Json] = []
    with jax.default_device(device), tqdm(total=total, disable=not progress, unit="run") as bar:
        for name, dtype, apt in plan:
            bar.set_description(f"{name} {dtype}")
            model = models.make(name, batch, tiny=tiny).astype(dtype)
            cells += [
                {"model": name, "dtype": dtype, "batch": len(model.xs), **cell}
                for cell in measure_model(model, apt, rounds, compiles, budget, bar.update)
            ]
    return {
        "benchmark": "speed",
        "environment": measure.environment(device),
        "settings": {
            "rounds": rounds,
            "compiles": compiles,
            "budget_seconds": budget,
            "chunk": CHUNK,
        },
        "cells": cells,
    }


def measure_model(
    model: Model,
    methods: Mapping[str, Method],
    rounds: int,
    compiles: int,
    budget: float,
    tick: Callable[[], Any],
) -> list[Json]:
    """One cell per method: seconds, compile seconds, FLOPs, bytes, evaluations and gap."""
    args = (model.xs, model.ref, model.params)
    fns = {name: batched(method, model) for name, method in methods.items()}
    programs, compiling = measure.compile_rounds(fns, args, compiles, tick, budget)
    cells, fitting = {}, {}
    limit = measure.memory_limit(next(iter(model.xs.devices())))
    for name, method in methods.items():
        used = measure.memory(programs[name].compiled)
        cells[name] = {
            "method": name,
            "settings": method.settings,
            "compiling_seconds": compiling[name],
            "evaluations": evaluations_of(method, model),
            "flops": measure.flops(programs[name].compiled),
            "bytes": used,
        }
        if used["peak"] is None or used["peak"] <= limit:
            fitting[name] = programs[name]
    explanations: dict[str, Any] = {}  # of the last call: another would take as long as all timing

    def kept(name: str) -> Callable[[], None]:
        return lambda: explanations.update({name: fitting[name]()})

    running = measure.time_rounds({name: kept(name) for name in fitting}, rounds, budget, tick)
    unmeasured = {"wall": [None] * rounds, "cpu": [None] * rounds}
    expected = rises(model)
    for name, cell in cells.items():
        method = methods[name]
        cell["seconds"] = running.get(name, unmeasured)
        cell["gap"] = None
        if method.shares and name in fitting:
            shares = shares_of(method, model, explanations[name])
            cell["gap"] = completeness_gap(expected[method.shares], shares)
    return list(cells.values())


def batched(method: Method, model: Model) -> Callable[..., Any]:
    """(xs, ref, params) -> one explanation per example.

    The reference and the weights are arguments, as in a user's training script or service: as
    constants they would have XLA fold the reference's forward pass, and much of the weights'
    arithmetic, while it compiles, which takes minutes and flatters the running time. Neither has
    a batch axis, so the reference's pass is there once for the whole batch.
    """

    def explain(x, ref, params):
        return method.make(replace(model, f=f, ref=ref))(x, params)

    def mean(xs, params):
        return jax.vmap(model.f, in_axes=(0, None))(xs, params).mean()

    f = mean if method.whole_batch else model.f
    return explain if method.whole_batch else jax.vmap(explain, in_axes=(0, None, None))


def evaluations_of(method: Method, model: Model) -> dict[str, float] | None:
    """Passes forward and backward through the model per example, by count in the program."""
    counted = batched(method, replace(model, f=evaluations.marked(model.f)))
    passes = evaluations.count(counted, (model.xs, model.ref, model.params), model.ref.size)
    return passes and {key: passes[key] / len(model.xs) for key in passes}


def shares_of(method: Method, model: Model, explanations: jax.Array) -> np.ndarray:
    """Explanations as what is to be added up: of a group, one share."""
    c = np.asarray(explanations, np.float32)
    if not method.players:
        return c
    labels = np.broadcast_to(model.groups, model.ref.shape).ravel()
    return c.reshape(len(c), -1) / np.bincount(labels)[labels]


def rises(model: Model) -> dict[str, np.ndarray]:
    """f(x) less f at the reference, and less its mean over references, of every example."""
    points = jnp.concatenate([model.xs, model.ref[None], model.refs(REFERENCES)])
    y = np.asarray(jax.jit(jax.vmap(model.f, (0, None)))(points, model.params), np.float32)
    y, y0, many = np.split(y, [len(model.xs), len(model.xs) + 1])
    return {"ref": y - y0, "refs": y - many.mean()}


def completeness_gap(rise: np.ndarray, contributions: np.ndarray) -> float:
    """The batch's largest |f(x) - f(ref) - sum c| / max(1, sum |c|)."""
    c = contributions.reshape(len(rise), -1)
    return float(np.max(abs(rise - c.sum(1)) / np.maximum(1.0, abs(c).sum(1))))
