"""Digit conversion (arXiv 1704.02685, section 4.1): which pixels make an 8 an 8 and not a 3.

S = S_from - S_to at the logits; the highest-scored fifth of the pixels is erased where S > 0; the
better the scores, the further logit_from - logit_to falls.
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
from benchmarks import report
from benchmarks.papers import nets
from benchmarks.papers.cells import pick, spread, trained
from benchmarks.papers.methods import LABELS, METHODS, Method
from benchmarks.papers.settings import PAPER, Json, Options, load
from jaxplain.datasets import Images

Array = jax.Array
TITLE = "MNIST digit conversion"
CONVERSIONS = {8: (3, 6), 9: (1, 4)}
ORDER = (
    "simonyan_masked", "gbp_masked", "gbp_x_inp", "grad_x_inp", "ig5", "ig10", "rescale",
    "genomics_default", "revealcancel",
)  # fmt: skip
BEST = "revealcancel"
ERASED = 157  # pixels at most, a fifth of 784
BLOCK = 50  # images explained at once
PERCENTILES = (5, 25, 50, 75, 95)


class Network(NamedTuple):
    """Weights, held-out digits and how many of them it classifies rightly."""

    weights: nets.Weights
    digits: Images
    accuracy: float


def measure(options: Options) -> Json:
    """Drops in log-odds by network, conversion and method."""
    settings: Json = {"accuracy": {}, "explained": {}, "trained on": None}
    cells = []
    if options.trained:
        settings["trained on"] = source(options)
    bar = tqdm(total=len(options.networks) * len(ORDER), disable=not options.progress, desc=TITLE)
    for name in options.networks:
        network = published(options.data) if name == PAPER else train(options, int(name.split()[1]))
        settings["accuracy"][name] = network.accuracy
        limit = None if name == PAPER else options.examples
        expected = load(options.data, "mnist_expected.json") if name == PAPER else {}
        for method in ORDER:
            for cell in convert(method, network, limit):
                key = f"{cell['conversion']}/{method}"
                cells.append({"network": name, **cell, "expected": expected.get(key)})
                settings["explained"].setdefault(name, {})[cell["conversion"]] = cell["n"]
            bar.update()
    bar.close()
    return {"settings": settings, "cells": cells}


def published(folder: Path) -> Network:
    """The paper's network; its pixels are 0–255."""
    digits = pictures(folder)
    weights = load(folder, "mnist_weights.npz")
    return Network(weights, digits, accuracy(weights, digits))


def source(options: Options) -> str:
    """The data that networks are trained on here."""
    if options.data:
        return "8,000 of MNIST's test images, tested on the other 2,000"
    small = options.quick or not mnist()
    return "scikit-learn's digits, 8 × 8 pixels made 28 × 28" if small else "MNIST"


@cache
def mnist() -> tuple[Images, Images] | None:
    """MNIST, where it is at hand or can be downloaded."""
    try:
        return jxp.datasets.mnist(split="train"), jxp.datasets.mnist(split="test")
    except ConnectionError:
        return None


def split(options: Options, seed: int) -> tuple[Images, Images]:
    """Training and held-out digits."""
    if options.data:
        images, labels = pictures(options.data)
        parts = slice(8000), slice(8000, None)
        training, held_out = (Images(images[part] / 255, labels[part]) for part in parts)
        return training, held_out
    return (None if options.quick else mnist()) or small_digits(seed)


def pictures(folder: Path) -> Images:
    """MNIST's 10,000 test images of the papers' folder, pixels 0–255."""
    data = load(folder, "mnist_test.npz")
    return Images(data["images"][..., None].astype(np.float32), data["labels"].astype(np.int32))


def small_digits(seed: int) -> tuple[Images, Images]:
    """scikit-learn's digits at MNIST's size, another fifth of them held out by every seed."""
    from sklearn.model_selection import train_test_split

    images, labels = jxp.datasets.digits()
    images = np.asarray(jax.image.resize(images, (len(images), 28, 28, 1), "linear"))
    images = np.clip(images, 0, 1)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return Images(parts[0], parts[2]), Images(parts[1], parts[3])


def train(options: Options, seed: int) -> Network:
    training, held_out = split(options, seed)
    weights = nets.fit(
        nets.digits,
        nets.initial(nets.DIGITS, seed),
        optax.softmax_cross_entropy_with_integer_labels,
        *training,
        steps=40 if options.quick else 600,
        seed=seed,
    )
    return Network(weights, held_out, accuracy(weights, held_out))


def accuracy(weights: nets.Weights, digits: Images) -> float:
    logits = nets.in_blocks(jax.jit(jax.vmap(nets.digits, (None, 0))), 500, weights)(digits.images)
    return float((logits.argmax(-1) == digits.labels).mean())


def erase(image: Array, scores: Array, pixels: int = ERASED) -> Array:
    """The image without its highest-scored fifth of pixels, of the positive ones."""
    threshold = jnp.maximum(jnp.sort(scores, axis=None, descending=True)[pixels], 0)
    return jnp.where(scores > threshold, 0, image)


def drops(
    method: Method, weights: nets.Weights, digit: Array, others: Array, image: Array
) -> tuple[Array, Array]:
    """How far the log-odds of `digit` fall towards each of the others, and whether they flip."""
    net = partial(nets.digits, weights)
    explain = lambda digit: method(jxp.logit(net, digit), 0.0)(image)
    scores = jax.vmap(explain)(jnp.append(others, digit))

    def towards(other: Array, scores_of_other: Array) -> tuple[Array, Array]:
        odds = jxp.log_odds(net, digit, other)
        left = odds(erase(image, scores[-1] - scores_of_other))
        return odds(image) - left, left < 0

    return jax.vmap(towards)(others, scores[:-1])


@cache
def compiled(method: str) -> Callable[..., tuple[Array, Array]]:
    return jax.jit(jax.vmap(partial(drops, METHODS[method]), (None, None, None, 0)))


def convert(
    method: str, network: Network, limit: int | None, conversions: Any = CONVERSIONS
) -> list[Json]:
    """One method's cells: the drops' distribution for every conversion."""
    cells = []
    for digit, others in conversions.items():
        images = network.digits.images[network.digits.labels == digit][:limit]
        run = nets.in_blocks(compiled(method), BLOCK, network.weights, digit, jnp.array(others))
        fallen, flipped = run(images)
        for i, other in enumerate(others):
            of = fallen[:, i].astype(np.float64)
            cells.append({
                "conversion": f"{digit}->{other}", "method": method, "n": len(of),
                "mean": float(of.mean()), "flipped": float(flipped[:, i].mean()),
                "percentiles": np.percentile(of, PERCENTILES).tolist(),
            })  # fmt: skip
    return cells


def names() -> list[str]:
    return [f"{digit}->{other}" for digit, others in CONVERSIONS.items() for other in others]


def shown_name(conversion: str) -> str:
    return conversion.replace("->", " → ")


def median(cell: Json) -> float:
    return cell["percentiles"][PERCENTILES.index(50)]


def differences(cells: list[Json]) -> list[float]:
    """Every published number's relative deviation."""
    found = []
    for cell in cells:
        own = dict(zip(("q25", "median", "q75"), cell["percentiles"][1:4], strict=True)) | cell
        for name, value in (cell["expected"] or {}).items():
            found.append(abs(own[name] - value) / max(abs(value), 1e-12))
    return found


def published_table(cells: list[Json]) -> str:
    """The paper's network: ours beside the published numbers."""
    heads = [f"{shown_name(c)}: {what}" for c in names() for what in ("median drop", "flipped")]
    rows = [["method", *heads]]
    for method in ORDER:
        row = [LABELS[method]]
        for conversion in names():
            (cell,) = pick(cells, method=method, conversion=conversion)
            other = cell["expected"]
            row.append(f"{median(cell):.1f}" + (f" ({other['median']:.1f})" if other else ""))
            row.append(f"{cell['flipped']:.2%}" + (f" ({other['flipped']:.2%})" if other else ""))
        rows.append(row)
    return report.markdown(rows)


def trained_table(cells: list[Json]) -> str:
    """Networks trained here: median drop and share flipped, mean ± deviation over seeds."""
    rows = [["method", *(shown_name(c) for c in names())]]
    for method in ORDER:
        row = [LABELS[method]]
        for conversion in names():
            own = pick(cells, method=method, conversion=conversion)
            flipped = np.mean([c["flipped"] for c in own])
            row.append(f"{spread([median(c) for c in own])} ({flipped:.0%})")
        rows.append(row)
    return report.markdown(rows)


def ahead(cells: list[Json], networks: list[str]) -> str:
    """In which conversions, and seeds, RevealCancel's median drop is the largest."""
    lines = []
    for conversion in names():
        ratios = []
        for network in networks:
            own = pick(cells, network=network, conversion=conversion)
            own = {c["method"]: median(c) for c in own}
            ratios.append(own[BEST] / max(v for m, v in own.items() if m != BEST))
        count = sum(r > 1 for r in ratios)
        verdict = "holds" if count == len(ratios) else "does not hold" if count == 0 else "mixed"
        lines.append(
            f"- {shown_name(conversion)}: RevealCancel has the largest median drop in {count} of "
            f"{len(ratios)} networks, {spread(ratios)} times the best other method's: "
            f"**{verdict}**."
        )
    return "\n".join(lines)


def section(results: Json, figure: str) -> str:
    """The experiment's part of the page."""
    settings, parts = results["settings"], []
    parts.append(
        "Erasing the pixels that speak most for a digit and against another (at most 157, where "
        "S_from − S_to > 0) lowers the log-odds of the two: the median drop over the digit's "
        "held-out images, higher is better, and the share of images whose log-odds turn negative."
    )
    paper = pick(results["cells"], network=PAPER)
    if paper:
        off = differences(paper)
        parts += [
            "**The paper's network**, all test images of a digit; in brackets what the original "
            f"package finds. Over all {len(off)} published numbers (n, mean, quartiles, shares) "
            f"the largest relative deviation is {max(off):.1e}.",
            published_table(paper),
            ahead(paper, [PAPER]),
        ]
    cells, networks = trained(results)
    if cells:
        right = [settings["accuracy"][n] for n in networks]
        counts = sorted({n for name in networks for n in settings["explained"][name].values()})
        parts += [
            f"**Networks of this architecture trained here** on {settings['trained on']} "
            f"(seeds: {len(networks)}; held-out accuracy {spread(right, '.1%')}; "
            f"{' or '.join(map(str, counts))} images a digit and seed; pixels 0–1, so that logits "
            "are smaller than the paper's): mean ± standard deviation over seeds of the median "
            "drop (and the mean share flipped).",
            trained_table(cells),
            "RevealCancel ahead, as in the paper?",
            ahead(cells, networks),
        ]
    return "\n\n".join([*parts, f"![Drops in log-odds]({figure})"])


def box(cells: list[Json]) -> Json:
    """A box plot's numbers: percentiles, the mean over networks."""
    low, q1, middle, q3, high = np.mean([c["percentiles"] for c in cells], axis=0)
    return {"whislo": low, "q1": q1, "med": middle, "q3": q3, "whishi": high}


def draw(results: Json, path: Path) -> None:
    """Box plots as the paper's figure: a row for the paper's network, one for those trained."""
    from matplotlib.figure import Figure

    own, networks = trained(results)
    kinds = {
        "the paper's network": pick(results["cells"], network=PAPER),
        f"trained here, {len(networks)} seeds" if len(networks) > 1 else "trained here": own,
    }
    kinds = {title: cells for title, cells in kinds.items() if cells}
    drawing = Figure((13, 1.2 + 3.4 * len(kinds)), dpi=130, layout="constrained")
    panels = drawing.subplots(len(kinds), len(names()), squeeze=False, sharey=True)
    places = range(len(ORDER), 0, -1)
    for row, (title, cells) in zip(panels, kinds.items(), strict=True):
        for ax, conversion in zip(row, names(), strict=True):
            by_method = [pick(cells, conversion=conversion, method=m) for m in ORDER]
            colors = ["C0" if "DeepLIFT" in LABELS[m] else "0.65" for m in ORDER]
            boxes = ax.bxp(
                [box(c) for c in by_method], positions=places, orientation="horizontal",
                widths=0.6, showfliers=False, patch_artist=True,
                medianprops={"color": "k", "linewidth": 1.5},
            )  # fmt: skip
            for patch, color in zip(boxes["boxes"], colors, strict=True):
                patch.set(facecolor=color, alpha=0.75)
            if len(by_method[0]) > 1:
                for place, of in zip(places, by_method, strict=True):
                    ax.plot([median(c) for c in of], [place] * len(of), "o", color="C1", ms=3,
                            zorder=3)  # fmt: skip
            ax.set_yticks(places, [LABELS[m] for m in ORDER])
            ax.set_title(f"{shown_name(conversion)}, {title}", fontsize=10)
            ax.locator_params(axis="x", nbins=4)
            ax.grid(axis="x", alpha=0.25)
            ax.axvline(0, color="0.4", linewidth=0.8)
            ax.spines[["top", "right"]].set_visible(False)
    drawing.supxlabel(
        "fall of the log-odds (boxes: quartiles, whiskers: 5 and 95 %, averaged over networks; "
        "dots: each network's median)",
        fontsize=10,
    )
    drawing.savefig(path)
