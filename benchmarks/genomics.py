"""DeepLIFT-SHAP of DNA beside tangermeme's: the same BPNet, weights and shuffles, scores and time.

Both explain the count head of a BPNet for random sequences, each against its own dinucleotide
shuffles, with hypothetical scores. The shuffles are drawn before the clock starts. Block by block
the libraries take turns, each with the number of sequence-shuffle pairs in memory that suits it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import measure, options, pages
from benchmarks.models import BPNet
from benchmarks.report import environment_line

Json = dict[str, Any]
Explain = Callable[[np.ndarray, np.ndarray], np.ndarray]
OURS, PEER = "jaxplain", "tangermeme"
BLOCKS = 5
PLOTTED = 2000  # scores in the figure


def configure(parser: argparse.ArgumentParser) -> None:
    positive = options.positive
    parser.add_argument("--sequences", type=positive, help="default: 1000; quick: 10")
    parser.add_argument("--length", type=positive, help="default: 1000; quick: 200")
    parser.add_argument("--shuffles", type=positive, default=20, help="of each sequence")
    parser.add_argument(
        "--layers", type=positive, help="dilated ones of the BPNet (default: 8; quick: 4)"
    )
    parser.add_argument(
        "--pairs",
        type=positive,
        nargs="+",
        help="of sequence and shuffle in memory; each library takes the fastest "
        "(default: 20 40 80 160; quick: 20)",
    )
    parser.add_argument("--seed", type=int, default=0)
    options.add_device(parser)


def measure_all(args: argparse.Namespace) -> Json:
    sequences, length, layers = (10, 200, 4) if args.quick else (1000, 1000, 8)
    device = options.device(args.device)
    with jax.default_device(device):
        return run(
            args.sequences or sequences,
            args.length or length,
            args.shuffles,
            args.layers or layers,
            args.pairs or ([20] if args.quick else [20, 40, 80, 160]),
            args.seed,
            device=device,
            progress=not args.quiet,
        )


def run(
    sequences: int,
    length: int,
    shuffles: int,
    layers: int,
    pairs: Sequence[int],
    seed: int,
    *,
    device: jax.Device,
    progress: bool = True,
) -> Json:
    """Both libraries on all sequences: seconds of every block, and how their scores compare."""
    weights, order, drawing = jax.random.split(jax.random.key(seed), 3)
    network = BPNet(64, layers)
    letters = jax.random.choice(order, 4, (sequences, length), p=jxp.datasets.BACKGROUND)
    xs = np.asarray(jax.nn.one_hot(letters, 4))
    refs = shuffled(xs, shuffles, drawing)
    params = jax.jit(network.init)(weights, xs[0])

    explainers: dict[str, Callable[[int], Explain]] = {
        OURS: lambda pairs: ours(network, params, shuffles, pairs)
    }
    absent = {}
    try:
        explainers[PEER] = tangermemes(params, layers, device.platform)
    except (ImportError, RuntimeError) as error:
        absent[PEER] = str(error)

    chosen = {name: fastest(make, pairs, xs, refs) for name, make in explainers.items()}
    blocks = np.array_split(np.arange(sequences), min(BLOCKS, sequences))
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    for number, block in enumerate(tqdm(blocks, disable=not progress, unit="block")):
        for name in list(chosen)[:: 1 if number % 2 == 0 else -1]:
            result, took = timed(chosen[name][1], xs[block], refs[block])
            seconds[name].append(took)
            scores[name].append(result)

    rise = rises(network, params, xs[blocks[0]], refs[blocks[0]])
    cells = [
        {
            "library": name,
            "version": version(name),
            "pairs": chosen[name][0],
            "seconds": seconds[name],
            "gap": gap(rise, xs[blocks[0]], scores[name][0]),
        }
        for name in chosen
    ] + [{"library": name, "absent": reason} for name, reason in absent.items()]
    return {
        "benchmark": "genomics",
        "environment": measure.environment(device),
        "settings": {
            "sequences": sequences,
            "length": length,
            "shuffles": shuffles,
            "layers": layers,
            "blocks": [len(block) for block in blocks],
            "seed": seed,
        },
        "cells": cells,
        "agreement": agreement(*map(np.concatenate, scores.values())) if not absent else None,
    }


def shuffled(xs: np.ndarray, samples: int, key: jax.Array) -> np.ndarray:
    """Each sequence's shuffles (n, samples, length, 4)."""
    draw = jax.jit(lambda x, key: jxp.genomics.dinucleotide_shuffle(x, key, samples=samples))
    keys = jax.random.split(key, len(xs))
    return np.stack([draw(x, key) for x, key in zip(xs, keys, strict=True)])


def ours(network: nn.Module, params: Any, shuffles: int, pairs: int) -> Explain:
    """jaxplain's hypothetical scores."""
    explain = jxp.genomics.deeplift_shap(
        jxp.genomics.count(lambda x: network.apply(params, x)[0]),
        hypothetical=True,
        batch=max(1, pairs // shuffles),
        chunk=min(pairs, shuffles),
    )
    return lambda xs, refs: explain(xs, refs=refs)


def tangermemes(params: Any, layers: int, platform: str) -> Callable[[int], Explain]:
    """tangermeme's, of the same network in torch; an ImportError where it isn't installed."""
    import tangermeme.deep_lift_shap as peer
    import torch

    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise RuntimeError(f"torch has no {platform} here")
    model = torch_bpnet(torch, params, layers)

    def make(pairs: int) -> Explain:
        def explain(xs: np.ndarray, refs: np.ndarray) -> np.ndarray:
            scores = peer.deep_lift_shap(
                model,
                torch.from_numpy(xs.swapaxes(1, 2).copy()),
                references=torch.from_numpy(refs.swapaxes(2, 3).copy()),
                hypothetical=True,
                batch_size=pairs,
                device=device,
            )
            return scores.numpy().swapaxes(1, 2)

        return explain

    return make


def torch_bpnet(torch: Any, params: Any, layers: int) -> Any:
    """The count head of `models.BPNet` with these weights, each relu a module of its own."""
    weights = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params["params"])

    def convolution(name: str, dilation: int) -> Any:
        kernel = weights[name]["kernel"].permute(2, 1, 0)
        layer = torch.nn.Conv1d(
            kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same", dilation=dilation
        )
        layer.weight.data, layer.bias.data = kernel.contiguous(), weights[name]["bias"]
        return layer

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dilations = [1, *(2**layer for layer in range(1, layers + 1))]
            self.convolutions = torch.nn.ModuleList(
                convolution(f"Conv_{i}", dilation) for i, dilation in enumerate(dilations)
            )
            self.relus = torch.nn.ModuleList(torch.nn.ReLU() for _ in dilations)
            self.count = torch.nn.Linear(*weights["Dense_0"]["kernel"].shape)
            self.count.weight.data = weights["Dense_0"]["kernel"].T.contiguous()
            self.count.bias.data = weights["Dense_0"]["bias"]

        def forward(self, x: Any) -> Any:
            h = self.relus[0](self.convolutions[0](x))
            for convolve, relu in zip(self.convolutions[1:], self.relus[1:], strict=True):
                h = h + relu(convolve(h))
            return self.count(h.mean(-1))

    return Net().eval()


def fastest(
    make: Callable[[int], Explain], pairs: Sequence[int], xs: np.ndarray, refs: np.ndarray
) -> tuple[int, Explain]:
    """The number of pairs that takes the least time a sequence, and its explainer, warmed up."""
    found = []
    for number in pairs:
        explain = make(number)
        few = slice(max(2, 2 * number // refs.shape[1]))
        explain(xs[few], refs[few])  # compiles
        _, took = timed(explain, xs[few], refs[few])
        found.append((took / len(xs[few]), number, explain))
    return min(found, key=lambda row: row[0])[1:]


def timed(explain: Explain, xs: np.ndarray, refs: np.ndarray) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    scores = np.asarray(explain(xs, refs))
    return scores, time.perf_counter() - start


def rises(network: nn.Module, params: Any, xs: np.ndarray, refs: np.ndarray) -> np.ndarray:
    """f(x) less the mean of f over the shuffles, of every sequence."""
    f = jax.jit(jax.vmap(lambda x: network.apply(params, x)[0]))
    return np.array([f(x[None])[0] - f(r).mean() for x, r in zip(xs, refs, strict=True)])


def gap(rise: np.ndarray, xs: np.ndarray, scores: np.ndarray) -> float:
    """The largest difference between a rise and its contributions' sum, by Σ |contributions|."""
    contributions = (xs * scores).sum(-1)
    return float((abs(rise - contributions.sum(1)) / abs(contributions).sum(1)).max())


def agreement(a: np.ndarray, b: np.ndarray) -> Json:
    """How far two libraries' scores are apart, and some of them."""
    some = np.random.default_rng(0).choice(a.size, min(PLOTTED, a.size), replace=False)
    return {
        "largest_difference": float(abs(a - b).max()),
        "largest_score": float(abs(a).max()),
        "correlation": float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        "scores": [a.ravel()[some].tolist(), b.ravel()[some].tolist()],
    }


def shown(results: Json) -> str:
    return f"{table(results)}\n\n{claim(results)}"


def table(results: Json) -> str:
    """A row a library."""
    head = ["library", "pairs in memory", "seconds", "a sequence", "time", "completeness gap"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    base = present(results)[0]
    for cell in results["cells"]:
        if "absent" in cell:
            reason = cell["absent"].splitlines()[0]
            rows.append([cell["library"], f"not measured: {reason}", *[""] * (len(head) - 2)])
            continue
        total = sum(cell["seconds"])
        rows.append([
            f"{cell['library']} {cell['version']}",
            str(cell["pairs"]),
            f"{total:.1f}",
            f"{1000 * total / results['settings']['sequences']:.1f} ms",
            f"{relative(cell, base):.2f}×",
            f"{cell['gap']:.0e}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def present(results: Json) -> list[Json]:
    return [cell for cell in results["cells"] if "absent" not in cell]


def relative(cell: Json, base: Json) -> float:
    """The median over blocks of the ratio of times."""
    pairs = zip(cell["seconds"], base["seconds"], strict=True)
    return statistics.median(own / other for own, other in pairs)


def claim(results: Json) -> str:
    """What the numbers say."""
    found = results["agreement"]
    if found is None:
        return f"{PEER} was not measured: there is nothing to compare with."
    ours, peer = present(results)
    share = found["largest_difference"] / found["largest_score"]
    faster = relative(peer, ours)
    return (
        f"The scores differ by {share:.0e} of the largest one at most (correlation "
        f"{found['correlation']:.7f}). {PEER} takes {faster:.2f} × {OURS}'s time (the median of "
        f"{len(ours['seconds'])} blocks)."
    )


def page(results: Json, drawing: str) -> str:
    """The benchmark's page in Markdown."""
    settings, environment = results["settings"], results["environment"]
    return "\n\n".join([
        "# DeepLIFT-SHAP of DNA",
        f"Hypothetical scores of {settings['sequences']} sequences of {settings['length']} bases "
        f"for the count head of a BPNet (64 channels, {settings['layers']} dilated layers, random "
        f"weights), each against {settings['shuffles']} dinucleotide shuffles of its own: the same "
        "network, weights and shuffles for both libraries, float32, the shuffles not timed. The "
        "libraries take turns, block by block, each with the number of sequence-shuffle pairs in "
        "memory that was fastest in a trial. Time is relative to the first row, the median over "
        "blocks; the gap is the largest of |f(x) - mean f(shuffles) - Σ contributions| / "
        "Σ |contributions| in the first block.",
        table(results),
        claim(results),
        f"![scores and times]({drawing})",
        f"{environment_line(environment)} `python -m benchmarks genomics`.",
    ]) + "\n"  # fmt: skip


def figure(results: Json, path: Path) -> None:
    """Scores against scores, and time a sequence."""
    from matplotlib.figure import Figure

    drawing = Figure((9, 4), dpi=130, layout="constrained")
    left, right = drawing.subplots(1, 2)
    if results["agreement"] is None:
        left.text(0.5, 0.5, f"{PEER} was not measured", ha="center", transform=left.transAxes)
        left.set_axis_off()
    else:
        a, b = results["agreement"]["scores"]
        ends = [min(a + b), max(a + b)]
        left.plot(ends, ends, color="0.7", zorder=0)
        left.scatter(a, b, s=5, color="C0")
        left.set(xlabel=f"{OURS}'s score", ylabel=f"{PEER}'s score", title="scores")
        left.locator_params(nbins=6)
    blocks = results["settings"]["blocks"]
    for row, cell in enumerate(present(results)):
        times = [1000 * s / n for s, n in zip(cell["seconds"], blocks, strict=True)]
        right.barh(row, statistics.median(times), color=f"C{row}")
        right.scatter(times, [row] * len(times), s=12, color="0.2", zorder=2)
    right.set_yticks(range(len(present(results))), [c["library"] for c in present(results)])
    right.invert_yaxis()
    right.set(xlabel="ms a sequence (dots: blocks)", title="time")
    drawing.savefig(path)


write = pages.writer(page, figure)
