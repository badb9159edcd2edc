"""`speed`: every method's cost beside one gradient's, on the same model, batch and run."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from benchmarks import measure, options, report
from benchmarks.methods import BASELINE, METHODS, Method
from benchmarks.models import MODELS, Model

Json = dict[str, Any]
write = report.write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="M")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="M")
    parser.add_argument(
        "--batch", type=options.positive, help="batch of every model (default: its own; quick: 4)"
    )
    parser.add_argument(
        "--rounds", type=options.positive, help="timed rounds (default: 15; quick: 5)"
    )
    options.add_device(parser)


def measure_all(args: argparse.Namespace) -> Json:
    scale: Json = {"batch": args.batch, "rounds": args.rounds or 15}
    if args.quick:
        scale = {"batch": args.batch or 4, "rounds": args.rounds or 5, "compiles": 1, "budget": 1.0}
    device = options.device(args.device)
    return run(args.models, args.methods, device=device, progress=not args.quiet, **scale)


def shown(results: Json) -> str:
    return f"{report.cost_table(results)}\n\n{report.method_table(results)}"


def run(
    models: Sequence[str],
    methods: Sequence[str],
    *,
    device: jax.Device,
    batch: int | None = None,
    rounds: int = 15,
    compiles: int = 3,
    budget: float = 30.0,
    progress: bool = True,
) -> Json:
    """Measures `methods` on `models`; the gradient is always among them.

    Args:
      models, methods: names out of `MODELS` and `METHODS`.
      device: where everything runs.
      batch: the batch of every model; by default each model's own.
      rounds: samples of the running time, each method once a round.
      compiles: times each program is compiled.
      budget: seconds of running time after which a method sits out the remaining rounds.
      progress: whether to show a progress bar.

    Returns:
      What the JSON file holds: `environment`, `settings` and one of `cells` per model and method.
    """
    names = list(dict.fromkeys([BASELINE, *methods]))
    settings = {"rounds": rounds, "compiles": compiles, "budget_seconds": budget}
    cells: list[Json] = []
    with (
        jax.default_device(device),
        tqdm(
            total=len(models) * len(names) * (compiles + rounds), disable=not progress, unit="run"
        ) as bar,
    ):
        for name in models:
            bar.set_description(name)
            model = MODELS[name](jax.random.key(0), **({"batch": batch} if batch else {}))
            chosen = {method: METHODS[method] for method in names}
            cells += [
                {"model": name, "batch": len(model.xs), **cell}
                for cell in measure_model(model, chosen, rounds, compiles, budget, bar.update)
            ]
    environment = measure.environment(device)
    return {"benchmark": "speed", "environment": environment, "settings": settings, "cells": cells}


def measure_model(
    model: Model,
    methods: Mapping[str, Method],
    rounds: int,
    compiles: int,
    budget: float,
    tick: Callable[[], Any],
) -> list[Json]:
    """One cell per method: seconds, compile seconds, FLOPs, bytes and completeness gap."""
    args = (model.xs, model.ref, model.params)
    fns = {name: batched(method, model) for name, method in methods.items()}
    programs, compiling = measure.compile_rounds(fns, args, compiles, tick)
    running = measure.time_rounds(programs, rounds, budget, tick)
    rise = rises(model)
    return [
        {
            "method": name,
            "settings": method.settings,
            "seconds": running[name],
            "compiling_seconds": compiling[name],
            "flops": measure.flops(programs[name].compiled),
            "bytes": measure.memory(programs[name].compiled),
            "gap": completeness_gap(rise, programs[name]()) if method.contributions else None,
        }
        for name, method in methods.items()
    ]


def batched(method: Method, model: Model) -> Callable[..., jax.Array]:
    """(xs, ref, params) -> one explanation per example.

    The reference and the weights are arguments, as in a user's training script or service: as
    constants they would have XLA fold the reference's forward pass, and much of the weights'
    arithmetic, while it compiles, which takes minutes and flatters the running time. Neither has
    a batch axis, so the reference's pass is there once for the whole batch.
    """

    def explain(x, ref, params):
        return method.make(model.f, ref)(x, params)

    return jax.vmap(explain, in_axes=(0, None, None))


def rises(model: Model) -> jax.Array:
    """f(x) - f(ref) of every example."""
    f = jax.jit(jax.vmap(model.f, in_axes=(0, None)))
    return f(model.xs, model.params) - f(model.ref[None], model.params)


def completeness_gap(rise: jax.Array, contributions: jax.Array) -> float:
    """The batch's largest |f(x) - f(ref) - sum c| / max(1, sum |c|)."""
    c = contributions.reshape(len(rise), -1)
    return float(jnp.max(abs(rise - c.sum(1)) / jnp.maximum(1.0, abs(c).sum(1))))
