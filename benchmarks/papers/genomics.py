"""Simulated genomics (arXiv 1704.02685, section 4.2): which methods overlook TAL1 and GATA1.

A network learns whether a sequence holds both motifs, TAL1, GATA1.  An instance of a motif whose
bases' scores for "both" sum to nothing or less is overlooked: a false negative.  For one motif's
own task, false positives are windows that score like its instances and hold none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import measure as measuring
from benchmarks import report
from benchmarks.papers import nets
from benchmarks.papers.cells import pick, spread, trained
from benchmarks.papers.methods import LABELS, METHODS
from benchmarks.papers.settings import PAPER, Json, Options, load

Array = jax.Array
TITLE = "Simulated genomics: TAL1 and GATA1"
ORDER = (
    "guided_backprop_x_dinput", "grad_x_dinput", "ig10", "rescale", "genomics_default",
    "revealcancel",
)  # fmt: skip
BEST, BASE = "revealcancel", "rescale"
MOTIFS = ("TAL1", "GATA1")
PUBLISHED = {"TAL1": ("TAL1_known1", "pwm_tal1"), "GATA1": ("GATA_disc1", "pwm_gata1")}
BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3])  # of A, C, G, T: the reference at every base
RECALL = 0.9  # of a motif's instances, where false positives are counted
RECALLS = np.linspace(0.05, 1, 20)
BLOCK = 50  # sequences explained at once
# Short sequences first: the mean over positions dilutes a motif least there.
STAGES = ((60, 1200, 3e-3), (200, 400, 2e-3))  # length, steps, rate
QUICK = ((60, 30, 3e-3), (200, 5, 2e-3))


class Network(NamedTuple):
    """A network trained here, with held-out sequences that hold both motifs."""

    weights: nets.Weights
    held_out: Any
    accuracy: list[float]


def measure(options: Options) -> Json:
    """False negatives, false positives and costs by network and method."""
    settings: Json = {"accuracy": {}, "sequences": {}}
    cells = []
    bar = tqdm(total=len(options.networks) * len(ORDER), disable=not options.progress, desc=TITLE)
    for name in options.networks:
        if name == PAPER:
            cells += as_published(options.data, bar.update)
            continue
        network = train(options, int(name.split()[1]))
        settings["accuracy"][name] = network.accuracy
        settings["sequences"][name] = len(network.held_out.sequences)
        for method in ORDER:
            program = compiled(method, tasks=3)
            scores = explain(program, network.weights, network.held_out.sequences)
            for which, motif in enumerate(MOTIFS):
                found = against_truth(scores, network.held_out, which)
                cell = {"network": name, "method": method, "motif": motif, **found}
                cells.append(cell | {"flops": measuring.flops(program)})
            bar.update()
    bar.close()
    return {"settings": settings, "cells": cells}


def train(options: Options, seed: int) -> Network:
    """A network, and the held-out sequences with both motifs."""
    weights = nets.initial(nets.GENOMICS, seed)
    for stage, (length, steps, rate) in enumerate(QUICK if options.quick else STAGES):
        data = jxp.datasets.tal_gata(1000 * stage + seed, 300 if options.quick else 8000, length)
        loss = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)
        weights = nets.fit(
            nets.genomics, weights, loss, data.sequences, data.labels,
            steps=steps, seed=seed, rate=rate,
        )  # fmt: skip
    data = jxp.datasets.tal_gata(2000 + seed, 6 * options.examples)
    run = nets.in_blocks(jax.jit(jax.vmap(nets.genomics, (None, 0))), 100, weights)
    right = ((run(data.sequences) > 0) == data.labels).mean(0)
    both = np.flatnonzero(data.labels[:, 0])[: options.examples]
    return Network(weights, type(data)(*(part[both] for part in data)), right.tolist())


def scores_of(method: str, tasks: int, weights: nets.Weights, sequence: Array) -> Array:
    """Contributions of a sequence's bases to the first tasks' logits, (tasks, length)."""
    ref = jnp.asarray(BACKGROUND, jnp.float32)
    task = lambda t: METHODS[method](jxp.logit(partial(nets.genomics, weights), t), ref)(sequence)
    return jax.vmap(task)(jnp.arange(tasks)).sum(-1)


@cache
def compiled(method: str, tasks: int) -> Any:
    """The program for one block of sequences, with weights as an argument."""
    f32 = lambda shape: jax.ShapeDtypeStruct(shape, np.float32)
    weights = jax.eval_shape(partial(nets.initial, nets.GENOMICS), 0)
    batched = jax.jit(jax.vmap(partial(scores_of, method, tasks), (None, 0)))
    return batched.lower(weights, f32((BLOCK, 200, 4))).compile()


def explain(program: Any, weights: nets.Weights, sequences: np.ndarray) -> np.ndarray:
    """Scores (n, tasks, length)."""
    return nets.in_blocks(program, BLOCK, weights)(sequences)


# Against what was planted


def window_sums(scores: np.ndarray, width: int) -> np.ndarray:
    """Sums over all windows (..., length - width + 1)."""
    return np.lib.stride_tricks.sliding_window_view(scores, width, axis=-1).sum(-1)


def instances(scores: np.ndarray, held_out: Any, which: int) -> np.ndarray:
    """The summed score (n,) of every planted instance of a motif."""
    sums = window_sums(scores, len(jxp.datasets.MOTIFS[MOTIFS[which]]))
    rows, slots = np.nonzero(held_out.starts[:, which] >= 0)
    return sums[rows, held_out.starts[rows, which, slots]]


def background(scores: np.ndarray, held_out: Any, width: int) -> np.ndarray:
    """The summed scores of windows side by side that hold no planted base."""
    free = window_sums(held_out.planted.any(-1), width) == 0
    return window_sums(scores, width)[:, ::width][free[:, ::width]]


def against_truth(scores: np.ndarray, held_out: Any, which: int) -> Json:
    """False negatives of one motif for "both"; false positives, precision, recall in its task."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    for_both = instances(scores[:, 0], held_out, which)
    alone = scores[:, 1 + which]
    own, other = (instances(alone, held_out, m) for m in (which, 1 - which))
    rest = background(alone, held_out, len(jxp.datasets.MOTIFS[MOTIFS[which]]))
    threshold = np.quantile(own, 1 - RECALL)
    windows = np.concatenate([own, other, rest])
    truth = np.arange(len(windows)) < len(own)
    precision, recall, _ = precision_recall_curve(truth, windows)
    return {
        "missed": int((for_both <= 0).sum()), "instances": len(for_both),
        "other above": int((other >= threshold).sum()), "other": len(other),
        "background above": int((rest >= threshold).sum()), "background": len(rest),
        "average precision": float(average_precision_score(truth, windows)),
        "precision": np.interp(RECALLS, recall[::-1], precision[::-1]).tolist(),
    }  # fmt: skip


# As published


def as_published(folder: Path, tick: Callable[[], Any]) -> list[Json]:
    """The paper's network and table: strong hits of a motif that get no positive score."""
    weights = load(folder, "tal_gata_weights.npz")
    expected, data = load(folder, "tal_gata_expected.json"), load(folder, "tal_gata_test.npz")
    bases = data["bases"][data["labels"].all(1)]
    cells = []
    for method in ORDER:
        program = compiled(method, tasks=1)
        scores = explain(program, weights, np.eye(4, dtype=np.float32)[bases])[:, 0]
        for motif, (key, matrix) in PUBLISHED.items():
            missed, hits = false_negatives(bases, data[matrix], scores)
            cells.append({
                "network": PAPER, "method": method, "motif": motif, "missed": missed,
                "instances": hits, "expected": expected[f"{key}/{method}"][:2],
                "flops": measuring.flops(program),
            })  # fmt: skip
        tick()
    return cells


def motif_hits(
    bases: np.ndarray, motif: np.ndarray, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Start (n, count) and log-odds (n, count) of each sequence's best hits to a motif."""
    odds = (motif / motif.sum(1, keepdims=True) * 0.999 + 0.00025) / BACKGROUND
    windows = np.lib.stride_tricks.sliding_window_view(bases, len(motif), axis=1)
    left = np.log(odds)[np.arange(len(motif)), windows].sum(-1)
    positions, exclude = np.arange(left.shape[1]), len(motif) // 2
    starts, heights = [], []
    for _ in range(count):
        start = left.argmax(1)[:, None]
        starts.append(start)
        heights.append(np.take_along_axis(left, start, 1))
        # The original's slice, one base short on the right and empty at the sequence's left edge.
        taken = (positions >= start - exclude) & (positions < start + exclude - 1)
        left = np.where(taken & (start >= exclude), -np.inf, left)
    return np.concatenate(starts, 1), np.concatenate(heights, 1)


def false_negatives(
    bases: np.ndarray, motif: np.ndarray, scores: np.ndarray, threshold: float = 7.0
) -> tuple[int, int]:
    """How many of the motif's strong hits have no positive score (n, 200), and how many hits."""
    start, log_odds = motif_hits(bases, motif)
    score = np.take_along_axis(window_sums(scores, len(motif)), start, 1)
    strong = log_odds >= threshold
    return int((strong & (score <= 0)).sum()), int(strong.sum())


# The page


def cost(cells: list[Json], method: str) -> str:
    """The method's counted FLOPs in units of DeepLIFT's, of the same networks and tasks."""
    own, base = (pick(cells, method=m)[0]["flops"] for m in (method, BASE))
    return report.number(own / base if own and base else None, ".1f")


def published_table(cells: list[Json]) -> str:
    rows = [["method", *(f"{m}: overlooked" for m in MOTIFS), "published", "cost / DeepLIFT"]]
    for method in ORDER:
        own = [pick(cells, method=method, motif=m)[0] for m in MOTIFS]
        found = [f"{c['missed']}/{c['instances']}" for c in own]
        published = ", ".join("{}/{}".format(*c["expected"]) for c in own)
        rows.append([LABELS[method], *found, published, cost(cells, method)])
    return report.markdown(rows)


def shares(cells: list[Json], part: str, whole: str) -> list[float]:
    return [c[part] / c[whole] for c in cells]


def trained_table(cells: list[Json]) -> str:
    heads = []
    for m in MOTIFS:
        heads += [f"{m}: overlooked", "FP: other motif", "FP: background", "average precision"]
    rows = [["method", *heads, "cost / DeepLIFT"]]
    for method in ORDER:
        row = [LABELS[method]]
        for motif in MOTIFS:
            own = pick(cells, method=method, motif=motif)
            row += [
                spread(shares(own, "missed", "instances"), ".1%"),
                spread(shares(own, "other above", "other"), ".1%"),
                spread(shares(own, "background above", "background"), ".1%"),
                spread([c["average precision"] for c in own], ".3f"),
            ]
        rows.append([*row, cost(cells, method)])
    return report.markdown(rows)


def compared(cells: list[Json]) -> str:
    """RevealCancel's false negatives beside the other methods', and who is most precise."""
    lines = []
    for motif in MOTIFS:
        own = pick(cells, method=BEST, motif=motif)
        total, missed = (sum(c[key] for c in own) for key in ("instances", "missed"))
        against: dict[str, list[str]] = {
            "in every network **fewer** than": [],
            "in every network **more** than": [],
            "**mixed** against": [],
        }
        for method in [m for m in ORDER if m != BEST]:
            other = pick(cells, method=method, motif=motif)
            signs = [np.sign(o["missed"] - b["missed"]) for o, b in zip(other, own, strict=True)]
            fewer, more = signs.count(1), signs.count(-1)
            rivals = f"{LABELS[method]} ({sum(c['missed'] for c in other)}"
            if len(signs) in (fewer, more):
                against[f"in every network **{'fewer' if fewer else 'more'}** than"].append(
                    f"{rivals})"
                )
            else:
                counts = f"fewer in {fewer}, as many in {len(signs) - fewer - more}, more in {more}"
                against["**mixed** against"].append(f"{rivals}; {counts} networks)")
        found = [f"{how} {', '.join(those)}" for how, those in against.items() if those]
        lines.append(
            f"- {motif}: RevealCancel overlooks {missed} of {total} instances, {'; '.join(found)}."
        )
        heights = {
            m: np.mean([c["average precision"] for c in pick(cells, method=m, motif=motif)])
            for m in ORDER
        }
        first = max(heights, key=heights.__getitem__)
        lines.append(
            f"- {motif}: the highest average precision is that of {LABELS[first]} "
            f"({heights[first]:.3f}); RevealCancel's is {heights[BEST]:.3f}, Rescale's "
            f"{heights[BASE]:.3f}, guided backprop's {heights['guided_backprop_x_dinput']:.3f}."
        )
    return "\n".join(lines)


def section(results: Json, figure: str) -> str:
    """The experiment's part of the page."""
    settings, parts = results["settings"], []
    paper = pick(results["cells"], network=PAPER)
    if paper:
        same = sum([c["missed"], c["instances"]] == c["expected"] for c in paper)
        parts += [
            "**The paper's network.** In sequences with all three labels: strong hits of a motif "
            "(log-odds ≥ 7, five best of a sequence) whose summed score for “both” is not positive "
            f"/ strong hits. {same} of {len(paper)} entries are the published ones; cost in FLOPs.",
            published_table(paper),
        ]
    cells, networks = trained(results)
    if cells:
        right = [spread([settings["accuracy"][n][t] for n in networks], ".1%") for t in range(3)]
        count = " or ".join(map(str, sorted({settings["sequences"][n] for n in networks})))
        parts += [
            f"**Networks of this architecture trained here** (seeds: {len(networks)}; held-out "
            f"accuracy: both {right[0]}, TAL1 {right[1]}, GATA1 {right[2]}), against what was "
            f"planted, in {count} held-out sequences with both motifs. *Overlooked*: instances "
            "whose summed score for “both” is not positive. In the motif's own task, at the "
            f"threshold that finds {RECALL:.0%} of its instances, false positives (*FP*): "
            "instances of the other motif, and windows of background, above it; average precision "
            "of its instances among all these windows. Mean ± standard deviation over seeds; cost "
            "in counted FLOPs.",
            trained_table(cells),
            "Is RevealCancel ahead on false negatives, as in the paper? And on precision?",
            compared(cells),
        ]
    return "\n\n".join([*parts, f"![Precision, recall and what is overlooked]({figure})"])


def draw(results: Json, path: Path) -> None:
    """Precision against recall in each motif's task, and what is overlooked for both."""
    from matplotlib.figure import Figure

    cells, _ = trained(results)
    drawing = Figure((13 if cells else 7, 4.6), dpi=130, layout="constrained")
    *curves, last = drawing.subplots(1, 1 + len(MOTIFS) * bool(cells), squeeze=False)[0]
    for ax, motif in zip(curves, MOTIFS, strict=bool(cells)):
        draw_precision(ax, pick(cells, motif=motif), motif)
    draw_overlooked(last, cells, pick(results["cells"], network=PAPER))
    for ax in drawing.axes:
        ax.spines[["top", "right"]].set_visible(False)
    drawing.legend(
        *last.get_legend_handles_labels(), loc="outside lower center", ncols=6 if cells else 2,
        fontsize=9, frameon=False,
    )  # fmt: skip
    drawing.savefig(path)


def draw_precision(ax: Any, cells: list[Json], motif: str) -> None:
    """The mean over networks, and between which values they are."""
    high = RECALLS > 0.59  # below, nearly all are right
    for i, method in enumerate(ORDER):
        curves = np.array([c["precision"] for c in pick(cells, method=method)])[:, high]
        ax.plot(RECALLS[high], curves.mean(0), color=f"C{i}")
        ax.fill_between(RECALLS[high], curves.min(0), curves.max(0), color=f"C{i}", alpha=0.1)
    ax.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03))
    ax.set_title(f"{motif} in its own task, trained here")
    ax.grid(alpha=0.25)


def draw_overlooked(ax: Any, cells: list[Json], paper: list[Json]) -> None:
    """Bars: the mean over networks; dots: each; diamonds: the paper's."""
    for i, method in enumerate(ORDER):
        shift = (i - (len(ORDER) - 1) / 2) * 0.14
        for place, motif in enumerate(MOTIFS):
            at, color = place + shift, f"C{i}"
            own, published = (
                [100 * c["missed"] / c["instances"] for c in pick(of, method=method, motif=motif)]
                for of in (cells, paper)
            )
            label = LABELS[method] if place == 0 else None
            ax.bar(at, np.mean(own) if own else 0, 0.12, color=color, alpha=0.8, label=label)
            ax.plot([at] * len(own), own, "k.", ms=4)
            ax.plot([at] * len(published), published, "D", mec="k", mfc=color, ms=6, clip_on=False)
    ax.set_xticks(range(len(MOTIFS)), MOTIFS)
    marks = "\n(◇ the paper's network, · each seed's)" if paper and cells else ""
    ax.set(ylabel="overlooked instances, %", title=f"overlooked for “both”{marks}")
    ax.set_ylim(0, max(1, ax.get_ylim()[1]))
