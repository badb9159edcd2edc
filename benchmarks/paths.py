"""Integrated gradients: gradients to a relative gap of 1e-3, and what a step costs.

Gradients: by `tolerance=1e-3`, against the smallest number at which a fixed rule has that gap on
all examples of a batch, which is known only in hindsight. Costs: time, FLOPs and temporary memory
of compiled programs in chunks, against as many gradients and against one chunk of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import games, measure, neurons, options, pages, report
from benchmarks.models import MODELS
from jaxplain._quadrature import nodes_and_weights

Array = jax.Array
Json = dict[str, Any]
TOLERANCE = 1e-3
MOST = 400  # steps of a fixed rule
POINTS = 2048  # on the path, between which slopes are interpolated for the fixed rules
# Captum's names, and jaxplain's.
RULES = {
    "gausslegendre": "gauss-legendre",
    "riemann_middle": "midpoint",
    "riemann_left": "left",
    "riemann_right": "right",
    "riemann_trapezoid": "trapezoid",
}
SMALL: dict[str, Json] = {
    "mlp": {},
    "cnn": {},
    "bpnet": {"length": 200, "features": 24, "layers": 5},
    "resnet18": {"width": 12},
    "lstm": {},
    "transformer": {"layers": 2},
}
STEPS, CHUNK = 8, 1  # of the programs whose costs are measured,
ROUNDS, BUDGET = 5, 12.0  # so many times, or for so many seconds

Case = tuple[Callable[[Array, Any], Array], Array, Array, Any, Any]  # f, xs, ref, extra, its axes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=options.positive, help="default: 16; quick: 4")
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="M")


def measure_all(args: argparse.Namespace) -> Json:
    names = args.models or (["lstm", "wine", "digits"] if args.quick else list(CASES))
    return run(names, args.examples or (4 if args.quick else 16), progress=not args.quiet)


def _random(name: str) -> Callable[[int], Case]:
    def case(examples: int) -> Case:
        model = MODELS[name](jax.random.key(0), batch=examples, **SMALL[name])
        return model.f, model.xs, model.ref, model.params, None

    return case


def _game(name: str) -> Callable[[int], Case]:
    def case(examples: int) -> Case:
        network = games.NETWORKS[name]()
        xs, targets = network.xs[:examples], network.targets[:examples]
        return network.f, xs, network.refs.mean(0), targets, 0

    return case


def _subject(name: str) -> Callable[[int], Case]:
    def case(examples: int) -> Case:
        subject = neurons.SUBJECTS[name](jax.random.key(0), examples)
        apply = subject.apply
        return lambda x, i: apply(x)[i], subject.xs, subject.ref, subject.targets, 0

    return case


CASES: dict[str, Callable[[int], Case]] = {
    **{name: _random(name) for name in SMALL},
    **{name: _game(name) for name in ("wine", "cancer", "long text")},
    **{name: _subject(name) for name in neurons.SUBJECTS},
}


def run(names: Sequence[str], examples: int, *, progress: bool = True) -> Json:
    """A cell of gradients per network, and of costs per benchmark model."""
    cells = []
    for name in tqdm(names, disable=not progress, unit="network"):
        trained = name not in SMALL
        cells.append({"model": name, "trained": trained, **gradients(*CASES[name](examples))})
        if not trained:
            cells[-1] |= costs(name)
    environment = measure.environment(jax.devices()[0])
    settings = {"tolerance": TOLERANCE, "steps": STEPS, "chunk": CHUNK}
    return {
        "benchmark": "paths",
        "environment": environment,
        "settings": settings,
        "cells": cells,
    }


def gradients(
    f: Callable[[Array, Any], Array], xs: Array, ref: Array, extra: Any, axes: Any
) -> Json:
    """Steps that the tolerance takes by example, and that fixed rules take for all of them."""
    explain = jxp.integrated_gradients(f, ref, tolerance=TOLERANCE, return_gap=True)
    _, gaps, steps = jax.jit(jax.vmap(explain, in_axes=(0, axes)))(xs, extra)
    alphas = jnp.linspace(0, 1, POINTS + 1)

    def along(x: Array, extra: Any) -> tuple[Array, Array]:
        def at(alpha: Array) -> tuple[Array, Array]:
            point = lambda alpha: f(ref + alpha * (x - ref), extra)
            return jax.jvp(point, (alpha,), (jnp.ones_like(alpha),))

        return jax.lax.map(at, alphas)

    values, slopes = jax.jit(jax.vmap(along, in_axes=(0, axes)))(xs, extra)
    rise, slopes = np.asarray(values[:, -1] - values[:, 0], np.float64), np.asarray(slopes)
    unmet = int((np.abs(np.asarray(gaps)) > TOLERANCE * np.abs(rise)).sum())
    return {
        "steps": np.asarray(steps).tolist(),
        "unmet": unmet,
        "fixed": {name: fixed(rule, slopes, rise) for name, rule in RULES.items()},
        "after_50": {
            name: float((gap(rule, 50, slopes, rise) <= TOLERANCE).mean())
            for name, rule in RULES.items()
        },
    }


def gap(rule: str, steps: int, slopes: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """The relative gaps of a fixed rule."""
    nodes, weights = nodes_and_weights(rule, steps)
    along = np.linspace(0, 1, slopes.shape[1])
    sums = np.array([np.interp(nodes, along, slope) @ weights for slope in slopes])
    return np.abs(sums - rise) / np.abs(rise)


def fixed(rule: str, slopes: np.ndarray, rise: np.ndarray) -> int | None:
    """The smallest number of steps with which all examples have the gap; None beyond the most."""
    for steps in range(2 if rule == "trapezoid" else 1, MOST + 1):
        if (gap(rule, steps, slopes, rise) <= TOLERANCE).all():
            return steps
    return None


def costs(name: str) -> Json:
    """n steps in chunks: their time and FLOPs in n gradients', their memory in one chunk's."""
    model = MODELS[name](jax.random.key(0))
    args = (model.xs, model.ref, model.params)
    explain = lambda x, ref, params: jxp.integrated_gradients(
        model.f, ref, steps=STEPS, chunk=CHUNK
    )(x, params)
    gradient = lambda x, ref, params: jax.grad(model.f)(x, params)
    one, base = _program(explain, args), _program(gradient, args)
    repeated = (jnp.tile(model.xs, (CHUNK, *[1] * (model.xs.ndim - 1))), *args[1:])
    chunk = _program(gradient, repeated)
    own, each = measure.flops(one.compiled), measure.flops(base.compiled)
    memory, room = (measure.memory(run.compiled)["temp"] for run in (one, chunk))
    seconds = measure.time_rounds({"one": one, "base": base}, ROUNDS, BUDGET, int)
    time = report.time_ratio({"seconds": seconds["one"]}, {"seconds": seconds["base"]})
    return {
        "batch": len(model.xs),
        "time": time and {"median": time["median"] / STEPS, "spread": time["spread"]},
        "flops": None if own is None or each is None else own / (STEPS * each),
        "memory": None if not memory or not room else memory / room,
    }


def _program(fn: Callable[..., Any], args: Any) -> measure.Program:
    return measure.compile_program(jax.vmap(fn, in_axes=(0, None, None)), args)


def table(results: Json) -> str:
    """Gradients an example, by the tolerance and by fixed rules."""
    rows = [["network", "tolerance=1e-3: mean (most)", *RULES]]
    for cell in results["cells"]:
        steps = cell["steps"]
        own = f"**{np.mean(steps):.1f}** ({max(steps)})"
        rest = [
            f"{'> ' + str(MOST) if n is None else n} ({cell['after_50'][rule]:.0%})"
            for rule, n in cell["fixed"].items()
        ]
        rows.append([cell["model"] + (" (trained)" if cell["trained"] else ""), own, *rest])
    return report.markdown(rows)


def cost_table(results: Json) -> str:
    head = ["model", "batch", "time / that of as many gradients", "spread", "FLOPs / theirs"]
    rows = [[*head, "memory / that of one chunk's gradients"]]
    for cell in results["cells"]:
        if "flops" in cell:
            time = cell["time"]
            figures = [report.number(time["median"]), report.half_spread(time)]
            figures += [report.number(cell["flops"], ".3f"), report.number(cell["memory"])]
            rows.append([cell["model"], str(cell["batch"]), *figures])
    return report.markdown(rows)


def claims(results: Json) -> str:
    """In how many networks the tolerance takes fewer gradients than every fixed rule."""
    ahead, same, behind, unmet = [], [], [], 0
    for cell in results["cells"]:
        best = min((n for n in cell["fixed"].values() if n is not None), default=MOST + 1)
        mean = np.mean(cell["steps"])
        (ahead if mean < best else same if mean == best else behind).append(cell["model"])
        unmet += cell["unmet"]
    lines = [
        f"- Fewer gradients an example than the best fixed rule: {', '.join(ahead) or 'nowhere'}; "
        f"as many: {', '.join(same) or 'nowhere'}; more: {', '.join(behind) or 'nowhere'}.",
        f"- Examples whose gap is above the tolerance in the end: {unmet}.",
    ]
    known = [c["flops"] for c in results["cells"] if c.get("flops") is not None]
    if known:
        lines.append(f"- FLOPs of n steps: at most {max(known):.3f} × those of n gradients.")
    timed = [c["time"]["median"] for c in results["cells"] if "time" in c]
    if timed:
        lines.append(f"- Time of n steps: at most {max(timed):.2f} × that of n gradients.")
    return "\n".join(lines)


def shown(results: Json) -> str:
    return "\n\n".join([table(results), cost_table(results), claims(results)])


def figure(results: Json, path: Path) -> None:
    """Each example's number of gradients, and the fixed rules'."""
    from matplotlib.figure import Figure

    drawing = Figure((10, 4.8), dpi=130, layout="constrained")
    axis = drawing.subplots()
    cells = results["cells"]
    rng = np.random.default_rng(0)
    for place, cell in enumerate(cells):
        jitter = place + rng.uniform(-0.18, 0.18, len(cell["steps"]))
        own = axis.plot(jitter, cell["steps"], ".", color="0.6", label="tolerance=1e-3: examples")
        mean = axis.plot(
            place, np.mean(cell["steps"]), "k_", ms=22, mew=2.5, label="tolerance=1e-3: mean"
        )
        handles = [*own, *mean]
        for index, (rule, n) in enumerate(cell["fixed"].items()):
            found = MOST * 1.25 if n is None else n
            handles += axis.plot(
                place + 0.08 * (index - 2), found, ls="", label=f"{rule}, for all examples",
                **pages.look(index), **({"mfc": "none"} if n is None else {}),
            )  # fmt: skip
    axis.axhline(MOST, color="0.8", lw=1, zorder=0)
    axis.text(-0.45, MOST * 1.35, f"hollow: more than {MOST}", va="bottom", size=8)
    axis.set_yscale("log")
    axis.set_ylim(0.8, MOST * 2)
    axis.set_xticks(range(len(cells)), [c["model"] for c in cells])
    axis.set_ylabel("gradients to a relative gap of 1e-3")
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    drawing.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    drawing.savefig(path)


def page(results: Json, drawing: str) -> str:
    """The benchmark's page in Markdown."""
    s = results["settings"]
    examples = len(results["cells"][0]["steps"])
    return "\n\n".join([
        "# Integrated gradients: how many gradients, and at what cost",
        report.environment_line(results["environment"]),
        "Gradients an example to |f(x) - f(ref) - Σ C| ≤ 1e-3 |f(x) - f(ref)|. With `tolerance` "
        "every example takes its own number: the mean, and the most (a vmapped batch runs until "
        "its last example is done). A fixed rule has one for all: the smallest with which all "
        f"{examples} examples have that gap, which is known only in hindsight; in brackets the "
        "share of examples that have it after Captum's default of 50. Networks with random "
        "weights have biases of 0: relu networks among them are linear along the path, where one "
        "gradient is enough and no rule can take fewer.",
        table(results),
        f"![gradients]({drawing})",
        f"Costs of {s['steps']} steps in chunks of {s['chunk']}, a batch at a time, in units of "
        f"{s['steps']} gradients of the batch, run in turns; and of the temporary memory of the "
        f"gradients of one chunk ({s['chunk']} × the batch).",
        cost_table(results),
        claims(results),
        "`python -m benchmarks paths`.",
    ]) + "\n"  # fmt: skip


write = pages.writer(page, figure)
