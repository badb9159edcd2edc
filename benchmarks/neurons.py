"""Which neurons matter: the order in which each method ranks them, judged by ablation.

The comparison of Shrikumar, Su & Kundaje, arXiv 1807.09946, on networks trained here: in a hidden
layer, neurons are ablated from the most important on (by a method's scores for the predicted class
or task), and the target's logit falls.  The larger the area under that fall, the better the order.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import measure, options, pages
from jaxplain import datasets
from jaxplain.datasets._split import split

Array = jax.Array
Json = dict[str, Any]
FRACTIONS = np.linspace(0, 1, 17)[1:] / 2  # of a layer's neurons that are ablated: up to half
BASE = "DeepLIFT (rescale)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=options.positive, help="default: 200; quick: 20")
    parser.add_argument("--rounds", type=options.positive, help="timed; default: 9; quick: 3")
    parser.add_argument("--seed", type=int, default=0)


def measure_all(args: argparse.Namespace) -> Json:
    examples, rounds = (20, 3) if args.quick else (200, 9)
    return run(args.examples or examples, args.rounds or rounds, args.seed, progress=not args.quiet)


def shown(results: Json) -> str:
    return f"{table(results)}\n\n{claims(results)}"


class Digits(nn.Module):
    """The demo's CNN, its relus named."""

    @nn.compact
    def __call__(self, image: Array) -> Array:
        h = jxp.tag(nn.relu(nn.Conv(16, (3, 3))(image)), "conv1")
        h = nn.max_pool(h, (2, 2), strides=(2, 2))
        h = jxp.tag(nn.relu(nn.Conv(32, (3, 3))(h)), "conv2")
        h = jxp.tag(nn.relu(nn.Dense(64)(h.reshape(-1))), "dense")
        return nn.Dense(10)(h)


class Genomics(nn.Module):
    """The DeepLIFT paper's sequence model (1704.02685, section 4.2), smaller."""

    @nn.compact
    def __call__(self, sequence: Array) -> Array:
        h = jxp.tag(nn.relu(nn.Conv(24, (11,), padding="VALID")(sequence)), "conv1")
        h = jxp.tag(nn.relu(nn.Conv(24, (11,), padding="VALID")(h)), "conv2")
        h = jxp.tag(nn.relu(nn.Dense(32)(h.mean(0))), "dense")
        return nn.Dense(3)(h)


@dataclass(frozen=True)
class Subject:
    """A trained network with examples, the output explained at each, and a reference."""

    apply: Callable[[Array], Array]
    xs: Array
    targets: Array
    ref: Array
    accuracy: float


def fit(model: nn.Module, xs: Array, loss: Any, labels: Array, steps: int, key: Array) -> Any:
    """The model's variables after Adam on `loss(logits, labels)`."""
    start, order = jax.random.split(key)
    variables = jax.jit(model.init)(start, xs[0])
    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(variables: Any, state: Any, key: Array) -> Any:
        chosen = jax.random.randint(key, (64,), 0, len(xs))

        def mean_loss(variables: Any) -> Array:
            logits = jax.vmap(model.apply, (None, 0))(variables, xs[chosen])
            return loss(logits, labels[chosen]).mean()

        updates, state = optimiser.update(jax.grad(mean_loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = optimiser.init(variables)
    for subkey in jax.random.split(order, steps):
        variables, state = step(variables, state, subkey)
    return variables


def digits(key: Array, examples: int, steps: int = 500) -> Subject:
    """scikit-learn's digits; the predicted class's logit against a blank image."""
    (images, labels), (held_out, classes) = jax.tree.map(
        jnp.asarray, split(*datasets.digits(), seed=0)
    )
    loss = optax.softmax_cross_entropy_with_integer_labels
    variables = fit(Digits(), images, loss, labels, steps, key)
    apply = partial(Digits().apply, variables)
    predicted = jax.jit(jax.vmap(apply))(held_out).argmax(-1)
    accuracy = float((predicted == classes).mean())
    chosen = slice(examples)
    ref = jnp.zeros_like(held_out[0])
    return Subject(apply, held_out[chosen], predicted[chosen], ref, accuracy)


MOTIFS = ("CAGATG", "TGATAA")  # the cores of TAL1's and GATA1's
BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3])  # of A, C, G, T


def simulate(count: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One-hot sequences with up to two of each motif, and labels (both, TAL1, GATA1)."""
    rng = np.random.default_rng(seed)
    bases = rng.choice(4, (count, length), p=BACKGROUND)
    present = rng.random((count, 2)) < 0.5
    for row, has in zip(bases, present, strict=True):
        places = rng.permutation(length // 10)[:4] * 10  # apart from one another
        for motif, these, contained in zip(MOTIFS, (places[:2], places[2:]), has, strict=True):
            for place in these[: rng.integers(1, 3) if contained else 0]:
                start = place + rng.integers(0, 10 - len(motif) + 1)
                row[start : start + len(motif)] = ["ACGT".index(base) for base in motif]
    labels = np.column_stack([present.all(1), present])
    return np.eye(4, dtype=np.float32)[bases], labels.astype(np.float32)


def genomics(key: Array, examples: int, steps: int = 1500) -> Subject:
    """Simulated sequences; the logit of "both motifs" where both are, against the background."""
    xs, labels = map(jnp.asarray, simulate(6000, 100, 0))
    loss = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)
    variables = fit(Genomics(), xs[:5000], loss, labels[:5000], steps, key)
    apply = partial(Genomics().apply, variables)
    held_out, truth = xs[5000:], labels[5000:]
    logits = jax.jit(jax.vmap(apply))(held_out)
    accuracy = float(((logits > 0) == truth).mean())
    chosen = jnp.flatnonzero(truth[:, 0])[:examples]
    ref = jnp.broadcast_to(jnp.asarray(BACKGROUND, jnp.float32), held_out[0].shape)
    return Subject(apply, held_out[chosen], jnp.zeros(len(chosen), int), ref, accuracy)


SUBJECTS: dict[str, Callable[..., Subject]] = {"digits": digits, "genomics": genomics}
LAYERS = ("conv1", "conv2", "dense")

Method = Callable[[Callable[[Array], Array], Array, str], Callable[[Array], Array]]


def neuron_ig(steps: int) -> Method:
    return lambda f, ref, at: jxp.neuron_integrated_gradients(f, ref, at=at, steps=steps)


METHODS: dict[str, Method] = {
    BASE: lambda f, ref, at: jxp.deeplift(f, ref, at=at),
    "DeepLIFT (reveal cancel)": lambda f, ref, at: jxp.deeplift(
        f, ref, rules="reveal_cancel", at=at
    ),
    **{f"neuron IG, {steps} steps": neuron_ig(steps) for steps in (2, 5, 10, 50)},
    "conductance, 50 steps": lambda f, ref, at: jxp.conductance(f, ref, at=at, steps=50),
    "LRP-ε": lambda f, ref, at: jxp.lrp(f, at=at),
    "LRP-γ": lambda f, ref, at: jxp.lrp(f, rules="gamma", at=at),
    "LRP, ε and z⁺": lambda f, ref, at: jxp.lrp(f, rules="epsilon_plus", at=at),
    "gradient × activation": lambda f, ref, at: jxp.input_x_gradient(f, at=at),
    "internal influence, 50 steps": lambda f, ref, at: jxp.internal_influence(
        f, ref, at=at, steps=50
    ),
    "activation": lambda f, ref, at: lambda x: jxp.capture(f, at)(x)[1][at],
}


def falls(f: Callable[[Array], Array], at: str, x: Array, scores: Array, stand_in: Array) -> Array:
    """How far f falls when the highest-scored fractions of a layer are replaced."""
    of_layer = lambda h: jxp.intervene(f, {at: lambda _: h})(x)
    fall = jxp.comprehensiveness(of_layer, stand_in, fractions=FRACTIONS, aggregate="bins", chunk=1)
    return fall(scores, jxp.capture(f, at)(x)[1][at])


def run(examples: int = 200, rounds: int = 9, seed: int = 0, *, progress: bool = True) -> Json:
    """Every method on every layer of every network, ablated to zero and to the mean."""
    cells = []
    bar = tqdm(total=len(SUBJECTS) * len(LAYERS), disable=not progress)
    accuracies = {}
    for name, make in SUBJECTS.items():
        subject = make(jax.random.key(seed), examples)
        accuracies[name] = subject.accuracy
        for layer in LAYERS:
            cells += compare(name, layer, subject, rounds)
            bar.update()
    bar.close()
    settings = {"examples": examples, "rounds": rounds, "seed": seed, "accuracy": accuracies}
    environment = measure.environment(jax.devices()[0])
    return {
        "benchmark": "neurons",
        "environment": environment,
        "settings": settings,
        "cells": cells,
    }


def compare(name: str, layer: str, subject: Subject, rounds: int) -> list[Json]:
    def target(x: Array, index: Array) -> Array:
        return jxp.logit(subject.apply, index)(x)

    def explained(method: Method) -> Callable[[Array, Array], Array]:
        return jax.vmap(lambda x, i: method(lambda x: target(x, i), subject.ref, layer)(x))

    args = (subject.xs, subject.targets)
    programs = {
        m: measure.compile_program(explained(method), args) for m, method in METHODS.items()
    }
    samples = measure.time_rounds(programs, rounds, 10.0, lambda: None)
    hidden = jax.jit(jax.vmap(lambda x: jxp.capture(subject.apply, layer)(x)[1][layer]))(subject.xs)
    stand_ins = {"zero": jnp.zeros_like(hidden[0]), "mean": hidden.mean(0)}

    @jax.jit
    def fall(scores: Array, stand_in: Array) -> Array:
        one = lambda x, i, s: falls(lambda x: target(x, i), layer, x, s, stand_in)
        return jax.vmap(one)(*args, scores)

    noise = jax.random.uniform(jax.random.key(0), hidden.shape)
    cells: list[Json] = []
    base: dict[str, np.ndarray] = {}
    for method in [*METHODS, "random order"]:  # the base is the first
        scores = programs[method]() if method in programs else noise
        time = relative_time(samples[method], samples[BASE]) if method in samples else None
        for kind, stand_in in stand_ins.items():
            area = np.asarray(fall(scores, stand_in).mean(-1), np.float64)
            beyond = area - base.setdefault(kind, area)
            cells.append({
                "network": name, "layer": layer, "method": method, "ablation": kind,
                "area": mean_and_error(area), "beyond": mean_and_error(beyond), "time": time,
            })  # fmt: skip
    return cells


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over examples and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def relative_time(own: Any, other: Any) -> float:
    """The median over rounds of the ratio within a round."""
    pairs = zip(own["wall"], other["wall"], strict=True)
    return float(np.median([a / b for a, b in pairs if a is not None and b is not None]))


def measured(results: Json) -> list[str]:
    """The methods that were there when it ran, in their order."""
    found = {cell["method"] for cell in results["cells"]}
    return [method for method in METHODS if method in found]


def table(results: Json) -> str:
    """Area under the fall by method and setting, and time relative to DeepLIFT."""
    settings = [(n, layer, a) for n in SUBJECTS for layer in LAYERS for a in ("zero", "mean")]
    head = ["method", *(" ".join(s) for s in settings), "time / DeepLIFT"]
    rows = [head, ["---"] * len(head)]
    for method in [*measured(results), "random order"]:
        cells = [c for c in results["cells"] if c["method"] == method]
        by_setting = {(c["network"], c["layer"], c["ablation"]): c for c in cells}
        times = [c["time"] for c in cells if c["time"] is not None]
        areas = ["{:.2f} ± {:.2f}".format(*by_setting[s]["area"]) for s in settings]
        rows.append([method, *areas, f"{np.median(times):.2f}" if times else ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def claims(results: Json) -> str:
    """What holds of the paper's claims, in these numbers."""
    lines = []
    for method in [m for m in measured(results) if m != BASE]:
        gaps = [c["beyond"] for c in results["cells"] if c["method"] == method]
        better = sum(mean > 2 * error for mean, error in gaps)
        worse = sum(mean < -2 * error for mean, error in gaps)
        times = [c["time"] for c in results["cells"] if c["method"] == method]
        lines.append(
            f"- {method}: ranks better than {BASE} in {better} of {len(gaps)} settings, worse in "
            f"{worse} (by more than two standard errors), at {np.median(times):.1f} × its time."
        )
    return "\n".join(lines)


def figure(results: Json, path: Path) -> None:
    """Area against time, one panel a network, the mean over layers and ablations."""
    from matplotlib.figure import Figure

    drawing = Figure((11, 4.6), dpi=130, layout="constrained")
    for ax, network in zip(drawing.subplots(1, len(SUBJECTS)), SUBJECTS, strict=True):
        cells = [c for c in results["cells"] if c["network"] == network]
        ceiling: dict[Any, float] = {}
        for c in cells:
            key = (c["layer"], c["ablation"])
            ceiling[key] = max(ceiling.get(key, -math.inf), c["area"][0])
        for i, method in enumerate(measured(results)):
            own = [c for c in cells if c["method"] == method]
            height = np.mean([c["area"][0] / ceiling[c["layer"], c["ablation"]] for c in own])
            time = np.median([c["time"] for c in own])
            ax.scatter(time, height, s=60, label=method, **pages.look(i))
        chance = [
            c["area"][0] / ceiling[c["layer"], c["ablation"]]
            for c in cells
            if c["method"] == "random order"
        ]
        ax.axhline(np.mean(chance), color="0.6", linestyle=":", label="random order")
        ax.set(xscale="log", xlabel="time / DeepLIFT's", title=network)
        ax.grid(alpha=0.25)
    first = drawing.axes[0]
    first.set_ylabel("area under the fall / best method's\n(mean over layers and ablations)")
    drawing.legend(
        *first.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False
    )
    drawing.savefig(path)


def page(results: Json, drawing: str = "neurons.png") -> str:
    """The benchmark's page in Markdown."""
    settings = results["settings"]
    accuracy = ", ".join(f"{n} {a:.1%}" for n, a in settings["accuracy"].items())
    return "\n\n".join([
        "# Which neurons matter",
        "Area under the fall of the explained logit while a layer's neurons are ablated (to zero, "
        "or to their mean), the highest-scored first, up to half of the layer; mean ± standard "
        f"error over {settings['examples']} examples; higher is a better ranking. Held-out "
        f"accuracy: {accuracy}.",
        table(results),
        f"![area against time]({drawing})",
        claims(results),
        "Protocol: arXiv 1807.09946. `python -m benchmarks neurons`.",
    ]) + "\n"  # fmt: skip


write = pages.writer(page, figure)
