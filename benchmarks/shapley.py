"""Estimators of Shapley values: their errors at equal numbers of evaluations, and their time.

Errors are measured on tables of all coalitions' values of trained networks, time on the networks
themselves: 100 examples in one vmapped and jitted program against a loop around the same network,
jitted too. Other packages are compared with where they are installed; what is missing keeps the
figures that are already in the results' folder, and is marked.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import estimators, games, measure, options, shapley_report
from benchmarks.games import Network

Array = jax.Array
Json = dict[str, Any]
BUDGETS = (5, 20, 80)  # evaluations by player
CHUNK = 4  # coalitions at a time, of each example, where time is measured
TIMED = ("wine", "long text", "digits 3x4")  # at 20n, on one reference and on all
OWN: dict[str, Callable[..., Any]] = {
    "jaxplain shapley_values": jxp.shapley_values,
    "jaxplain kernel_shap": jxp.kernel_shap,
    "jaxplain permutation_shapley": jxp.permutation_shapley,
}
write = shapley_report.write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--games", type=options.positive, help="of a network; default 5, quick 1")
    parser.add_argument("--seeds", type=options.positive, help="default 10, quick 2")
    parser.add_argument("--examples", type=options.positive, help="timed; default 100, quick 10")
    parser.add_argument("--networks", nargs="+", choices=games.NETWORKS, metavar="N")
    parser.add_argument("--stored", type=Path, help="results to take missing packages' from")


def measure_all(args: argparse.Namespace) -> Json:
    count, seeds, examples = (1, 2, 10) if args.quick else (5, 10, 100)
    names = args.networks or (["wine"] if args.quick else list(games.NETWORKS))
    stored = json.loads(args.stored.read_text()) if args.stored else None
    return run(
        names,
        args.games or count,
        args.seeds or seeds,
        args.examples or examples,
        BUDGETS[: 2 if args.quick else 3],
        stored=stored,
        progress=not args.quiet,
    )


shown = shapley_report.tables


def run(
    names: Sequence[str],
    count: int,
    seeds: int,
    examples: int,
    budgets: Sequence[int] = BUDGETS,
    *,
    stored: Json | None = None,
    progress: bool = True,
) -> Json:
    """Every estimator on `count` games of every network, and the time for `examples` of some."""
    if stored:
        check_games(stored, [(name, number) for name in names for number in range(count)])
    found: list[Json] = []
    errors: dict[tuple[str, int], list[Any]] = {}
    timed: list[Json] = []
    for name in tqdm(names, disable=not progress, unit="network"):
        network = games.NETWORKS[name]()
        values, exact = games.tables(network, count)
        for number, (table, phi) in enumerate(zip(values, exact, strict=True)):
            found.append({
                "network": name, "number": number, "family": network.family,
                "players": network.players,
            })  # fmt: skip
            for key, cell in score(table, phi, seeds, budgets).items():
                errors.setdefault(key, []).append(cell)
        if name in TIMED:
            for count_refs in sorted({1, len(network.refs)}):
                some = dataclasses.replace(network, refs=network.refs[:count_refs])
                label = f"{name}, {count_refs} reference{'s' if count_refs > 1 else ''}"
                timed += [{"network": label, **cell} for cell in times(some, examples)]
    cells = [
        {
            "estimator": name,
            "budget": budget,
            "errors": [c[0] for c in per_game],
            "evaluations": float(np.mean([c[1] for c in per_game])),
        }
        for (name, budget), per_game in errors.items()
        if not any(isinstance(cell, str) for cell in per_game)
    ]
    missing = {
        name: cell
        for (name, _), per_game in errors.items()
        for cell in per_game
        if isinstance(cell, str)
    }
    results = {
        "benchmark": "shapley",
        "environment": {**measure.environment(jax.devices()[0]), "packages": estimators.versions()},
        "settings": {"seeds": seeds, "examples": examples, "chunk": CHUNK, "stored": []},
        "games": found,
        "cells": cells,
        "times": timed,
        "missing": {
            name: why
            for name, why in missing.items()
            if not any(c["estimator"] == name for c in cells)
        },
    }
    return with_stored(results, stored) if stored else results


def check_games(stored: Json, planned: Sequence[tuple[str, int]]) -> None:
    """An error, before anything is measured, where stored results are of other games."""
    games = [(game["network"], game["number"]) for game in stored["games"]]
    if games != list(planned):
        raise ValueError(
            f"the stored results are of other games: {len(games)} of "
            f"{', '.join(dict.fromkeys(name for name, _ in games)) or 'none'}"
        )


def with_stored(results: Json, stored: Json) -> Json:
    """What is missing now, from earlier results on the same games."""
    known = {cell["estimator"] for cell in stored["cells"]}
    taken = [name for name in results["missing"] if name in known]
    for part in ("cells", "times"):
        results[part] += [cell for cell in stored[part] if cell["estimator"] in taken]
    results["missing"] = {n: why for n, why in results["missing"].items() if n not in taken}
    results["settings"]["stored"] = taken
    return results


class Table:
    """A game as a function of masks, which counts what it is asked."""

    def __init__(self, values: np.ndarray, n: int) -> None:
        self.values, self.bits, self.asked = values, 1 << np.arange(n), 0

    def __call__(self, masks: Any) -> np.ndarray:
        masks = np.atleast_2d(np.asarray(masks))
        self.asked += len(masks)
        return self.values[(masks > 0.5).astype(int) @ self.bits]


@functools.cache
def _own_estimator(name: str, n: int, budget: int) -> Callable[..., Array]:
    """(table, seeds) → estimates (seeds, n)."""

    def f(x: Array, table: Array) -> Array:
        return table[(x > 0.5).astype(int) @ (1 << jnp.arange(n))]

    explain = OWN[name](f, 0.0, samples=budget)
    return jax.jit(
        jax.vmap(
            lambda table, seed: explain(jnp.ones(n), table, key=jax.random.key(seed)),
            in_axes=(None, 0),
        )
    )


def score(
    table: np.ndarray, phi: np.ndarray, seeds: int, budgets: Sequence[int] = BUDGETS
) -> dict[tuple[str, int], Any]:
    """{(estimator, budget): means over seeds of ‖φ̂ - φ‖²/‖φ‖² and of evaluations, or why not}."""
    n, cells = len(phi), {}

    def relative(estimates: np.ndarray) -> float:
        return float((np.square(estimates - phi).sum(-1) / np.square(phi).sum()).mean())

    for times_n in budgets:
        budget = times_n * n
        for name in OWN:
            estimates = _own_estimator(name, n, budget)(jnp.asarray(table), jnp.arange(seeds))
            cells[name, times_n] = relative(np.asarray(estimates, np.float64)), float(budget)
        for name, estimate in estimators.PEERS.items():
            asked, estimates = [], []
            try:
                for seed in range(seeds):
                    game = Table(table, n)
                    estimates.append(estimate(game, n, budget, seed))
                    asked.append(game.asked)
            except (ImportError, estimators.TooFew) as error:
                cells[name, times_n] = str(error).splitlines()[0]
                continue
            if max(asked) > budget and name not in estimators.ABOUT:
                raise RuntimeError(f"{name} took {max(asked)} evaluations, and {budget} were given")
            cells[name, times_n] = relative(np.stack(estimates)), float(np.mean(asked))
    return cells


def times(network: Network, examples: int) -> list[Json]:
    """Seconds for examples at 20n evaluations each: one program, or a loop of the peers."""
    n, budget = network.players, 20 * network.players
    xs, targets = network.xs[:examples], network.targets[:examples]
    cells = []
    for name, method in OWN.items():

        def explain(x: Array, target: Array, key: Array, method: Any = method) -> Array:
            f = lambda x: network.f(x, target)
            groups = np.broadcast_to(network.groups, x.shape)
            options = {"groups": groups, "samples": budget, "chunk": CHUNK}
            return method(f, network.refs, **options)(x, key=key)

        keys = jax.random.split(jax.random.key(0), len(xs))
        program = measure.compile_program(jax.vmap(explain), (xs, targets, keys))
        samples = measure.time_rounds({name: program}, 5, 60.0, lambda: None)[name]["wall"]
        seconds = float(np.median([s for s in samples if s is not None]))
        compiling = program.trace_seconds + program.compile_seconds
        cells.append({"estimator": name, "seconds": seconds, "compile": compiling})
    value = jax.jit(jax.vmap(network.value, in_axes=(0, None, None)))

    def game_of(x: Array, target: Array) -> estimators.Game:
        def game(masks: Any) -> np.ndarray:
            masks = np.atleast_2d(np.asarray(masks, np.float32))
            padded = np.zeros((_padded(len(masks)), n), np.float32)
            padded[: len(masks)] = masks
            return np.array(value(padded, x, target))[: len(masks)]  # some write into it

        return game

    for size in {_padded(k) for k in range(1, budget + 1)}:  # every shape compiled beforehand
        value(np.zeros((size, n), np.float32), xs[0], targets[0])
    for name, estimate in estimators.PEERS.items():
        try:
            estimate(game_of(xs[0], targets[0]), n, budget, 0)
        except (ImportError, estimators.TooFew):
            continue
        start = time.perf_counter()
        for seed, (x, target) in enumerate(zip(xs, targets, strict=True)):
            estimate(game_of(x, target), n, budget, seed)
        cells.append({"estimator": name, "seconds": time.perf_counter() - start})
    return cells


def _padded(count: int) -> int:
    """The size a batch of masks is filled up to: few shapes, few compilations, little waste."""
    return 1 << (count - 1).bit_length() if count <= 32 else -(-count // 32) * 32
