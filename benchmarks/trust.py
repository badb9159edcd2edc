"""Which explanation to believe: methods by metrics by two references, on three trained models.

Every metric that puts inputs to a reference is asked by two of them, and methods that explain by a
reference by both. Where the truth is known (motifs planted in DNA, words that make a sentence's
judgement) metrics are held against it. What agrees, over seeds, and what does not.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
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
from benchmarks import measure, neurons, options, pages, report
from jaxplain import demo
from jaxplain.metrics.table import spearman

Array = jax.Array
Json = dict[str, Any]
STEPS = 16  # of curves
TRUTH = "mass"  # the metric that the truth is asked by
NOISE = 0.1  # of infidelity's perturbations, in standard deviations of x


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=options.positive, help="default: 40; quick: 8")
    parser.add_argument("--seeds", type=options.positive, help="default: 5; quick: 1")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))


def measure_all(args: argparse.Namespace) -> Json:
    examples, seeds = (8, 1) if args.quick else (40, 5)
    return run(
        args.examples or examples,
        args.seeds or seeds,
        args.subjects,
        short=args.quick,
        progress=not args.quiet,
    )


@dataclass(frozen=True)
class Subject:
    """A trained model, examples, what is known of the answer, and two references."""

    apply: Callable[[Any, Array], Array]  # (variables, x) → outputs
    variables: Any
    xs: Array
    targets: Array
    refs: dict[str, Array]
    accuracy: float
    groups: Any = None
    masks: Any = None


def digits(seed: int, examples: int, short: bool) -> Subject:
    """The demo's digits CNN; blank, or the mean image."""
    training, held_out = demo.load_digits(seed)
    loss = optax.softmax_cross_entropy_with_integer_labels
    model, key = neurons.Digits(), jax.random.key(seed)
    steps = 100 if short else 500
    variables = neurons.fit(model, training.images, loss, training.labels, steps, key)
    predicted = jax.jit(jax.vmap(partial(model.apply, variables)))(held_out.images).argmax(-1)
    refs = {"blank": jnp.zeros((8, 8, 1)), "mean image": training.images.mean(0)}
    accuracy = float((predicted == held_out.labels).mean())
    some = slice(examples)
    return Subject(model.apply, variables, held_out.images[some], predicted[some], refs, accuracy)


def genomics(seed: int, examples: int, short: bool) -> Subject:
    """Simulated DNA with planted motifs; the background's frequencies, or no base at all."""
    count, steps, length = (2000, 200, 80) if short else (8000, 1500, 100)
    data = jxp.datasets.tal_gata(seed, count + 1000, length)
    xs, labels = jnp.asarray(data.sequences), jnp.asarray(data.labels)
    loss = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)
    model, key = neurons.Genomics(), jax.random.key(seed)
    variables = neurons.fit(model, xs[:count], loss, labels[:count], steps, key)
    logits = jax.jit(jax.vmap(partial(model.apply, variables)))(xs[count:])
    accuracy = float(((logits > 0) == labels[count:]).mean())
    some = count + np.flatnonzero(data.labels[count:, 0])[:examples]  # with both motifs
    background = jnp.asarray(jxp.datasets.BACKGROUND / jxp.datasets.BACKGROUND.sum(), jnp.float32)
    everywhere = jnp.broadcast_to(background, xs.shape[1:])
    refs = {"background": everywhere, "nothing": jnp.zeros_like(everywhere)}
    return Subject(
        model.apply,
        variables,
        xs[some],
        jnp.zeros(len(some), int),
        refs,
        accuracy,
        groups=np.arange(length)[:, None],
        masks=data.planted[some].any(-1)[..., None],
    )


WORDS, WIDTH, LENGTH = 24, 16, 10  # the first word is padding, the second "not"
GOOD, BAD = range(2, 5), range(5, 8)  # the others say nothing


class Reader(nn.Module):
    """A transformer of one block, from embedded words to their judgement."""

    def setup(self) -> None:
        self.embed = nn.Embed(WORDS, WIDTH)
        self.places = self.param("places", nn.initializers.normal(0.1), (LENGTH, WIDTH))
        self.attention = nn.SelfAttention(2)
        self.norms = [nn.LayerNorm() for _ in range(2)]
        self.wide, self.narrow, self.out = nn.Dense(32), nn.Dense(WIDTH), nn.Dense(1)

    def read(self, embedded: Array) -> Array:
        h = embedded + self.places
        h = h + self.attention(self.norms[0](h))
        h = h + self.narrow(nn.gelu(self.wide(self.norms[1](h))))
        return self.out(h.mean(0))

    def __call__(self, ids: Array) -> Array:
        return self.read(self.embed(ids))


def sentences(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (count, length), whether each is praise, and the words that make it so."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(BAD[-1] + 1, WORDS, (count, LENGTH))
    good, negated = rng.random((2, count)) < 0.5
    place = rng.integers(1, LENGTH, count)
    rows = np.arange(count)
    ids[rows, place] = np.where(good, rng.choice(GOOD, count), rng.choice(BAD, count))
    ids[rows[negated], place[negated] - 1] = 1
    told = (np.arange(LENGTH) == place[:, None]) | (
        negated[:, None] & (np.arange(LENGTH) == place[:, None] - 1)
    )
    return ids, good != negated, told


def words(seed: int, examples: int, short: bool) -> Subject:
    """Sentences whose judgement hangs on one word and the "not" before it; padding, or the mean."""
    ids, praise, told = sentences(seed, 5000)
    loss = lambda logits, labels: optax.sigmoid_binary_cross_entropy(logits[:, 0], labels)
    model, key = Reader(), jax.random.key(seed)
    steps = 300 if short else 1500
    ids = jnp.asarray(ids)
    labels = jnp.asarray(praise, jnp.float32)
    variables = neurons.fit(model, ids[:4000], loss, labels[:4000], steps, key)
    logits = jax.jit(jax.vmap(partial(model.apply, variables)))(ids[4000:])[:, 0]
    table = variables["params"]["embed"]["embedding"]
    some = slice(4000, 4000 + examples)
    mean = jnp.broadcast_to(table[ids[:4000]].mean((0, 1)), (LENGTH, WIDTH))
    # The judgement that is there, whichever it is: the logit of praise, or of its opposite.
    sign = jnp.where(labels[:, None] > 0, 1.0, -1.0)
    read = partial(model.apply, method="read")
    return Subject(
        lambda variables, x: jnp.concatenate([-read(variables, x), read(variables, x)]),
        variables,
        table[ids[some]],
        (sign[some, 0] > 0).astype(int),
        {"padding": jnp.broadcast_to(table[0], (LENGTH, WIDTH)), "mean word": mean},
        float(((logits > 0) == (labels[4000:] > 0)).mean()),
        groups=np.arange(LENGTH)[:, None],
        masks=told[some][..., None],
    )


SUBJECTS: dict[str, Callable[[int, int, bool], Subject]] = {
    "digits": digits,
    "genomics": genomics,
    "words": words,
}


def methods(subject: Subject) -> dict[str, Any]:
    """Ten methods, those with a reference by each of the two."""

    def f(variables: Any, x: Array, target: Array) -> Array:
        return subject.apply(variables, x)[target]

    of = {"argnums": 1}
    made = {
        "gradient": jxp.gradient(f, **of),
        "saliency": jxp.saliency(f, **of),
        "SmoothGrad": jxp.smooth(jxp.gradient(f, **of), stdev=0.1, samples=8, **of),
        "guided backprop": jxp.guided_backprop(f, **of),
    }
    for name, ref in subject.refs.items():
        made |= {
            f"gradient × input, {name}": jxp.input_x_gradient(f, ref, **of),
            f"IG, {name}": jxp.integrated_gradients(f, ref, steps=16, **of),
            f"DeepLIFT, {name}": jxp.deeplift(f, ref, **of),
        }
    return {name: partial(explain, subject.variables) for name, explain in made.items()}


def metrics(subject: Subject) -> dict[str, Any]:
    """Those with a reference by each of the two; of the truth where it is known."""

    def f(x: Array, target: Array) -> Array:
        return subject.apply(subject.variables, x)[target]

    size = NOISE * float(jnp.std(subject.xs))
    noise = lambda x, key: size * jax.random.normal(key, x.shape, x.dtype)
    found: dict[str, Any] = {}
    for name, ref in subject.refs.items():
        found |= {
            f"deletion, {name}": jxp.deletion(f, ref, steps=STEPS),
            f"insertion, {name}": jxp.insertion(f, ref, steps=STEPS),
            f"faithfulness, {name}": jxp.faithfulness_correlation(f, ref),
        }
    found |= {
        "infidelity": jxp.infidelity(f, ..., perturb=noise, samples=16, scale="optimal"),
        "sensitivity": jxp.max_sensitivity(..., radius=size, samples=4),
        "randomisation": jxp.parameter_randomization(..., subject.variables),
        "sparseness": jxp.sparseness,
    }
    if subject.masks is not None:
        found |= {TRUTH: at_places(jxp.relevance_mass), "rank": at_places(jxp.relevance_rank)}
    return found


def at_places(metric: Callable[..., Array]) -> Callable[..., Array]:
    """A metric of a map and a mask by place: a base, or a word, has the sum of its elements."""

    def score(contributions: Array, mask: Array) -> Array:
        return metric(contributions.sum(-1), mask[..., 0])

    score.direction = metric.direction  # type: ignore[attr-defined]
    return score


def run(
    examples: int, seeds: int, subjects: list[str], *, short: bool = False, progress: bool = True
) -> Json:
    """Every subject's table, seed by seed."""
    cells = []
    jobs = list(itertools.product(subjects, range(seeds)))
    for name, seed in tqdm(jobs, disable=not progress, desc="trust"):
        subject = SUBJECTS[name](seed, examples, short)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "metrics and methods share a reference")
            table = jxp.evaluate(
                methods(subject),
                metrics(subject),
                subject.xs,
                subject.targets,
                key=jax.random.key(seed),
                groups=subject.groups,
                masks=subject.masks,
                progress=False,
            )
        cost = table.evaluations
        cells.append({
            "subject": name,
            "seed": seed,
            "accuracy": subject.accuracy,
            "references": list(subject.refs),
            "methods": list(table.methods),
            "metrics": list(table.metrics),
            "directions": list(table.directions),
            "means": rounded(table.mean()),
            "intervals": rounded(table.interval()),
            "ranks": rounded(table.ranks()),
            "agreement": rounded(table.agreement()),
            "undefined": table.undefined.tolist(),
            "evaluations": cost._asdict() | {"per_method": cost.per_method},
        })  # fmt: skip
    settings = {"examples": examples, "seeds": seeds}
    environment = measure.environment(jax.devices()[0])
    return {"benchmark": "trust", "environment": environment, "settings": settings, "cells": cells}


def rounded(values: np.ndarray) -> Any:
    """As JSON holds them: None for NaN."""
    nested = np.vectorize(lambda v: None if np.isnan(v) else round(float(v), 5), otypes=[object])
    return nested(values).tolist()


def by_subject(results: Json) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for cell in results["cells"]:
        found.setdefault(cell["subject"], []).append(cell)
    return found


def stacked(cells: list[Json], name: str) -> np.ndarray:
    """A table's numbers over seeds, NaN for None."""
    return np.array([cell[name] for cell in cells], float)


def mean(values: np.ndarray, axis: int | None = 0) -> Any:
    """Over what is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing defined at all
        return np.nanmean(values, axis=axis)


def ranks_table(cells: list[Json]) -> str:
    """Each method's mean rank by each metric, over seeds; in front the mean score."""
    ranks, scores = mean(stacked(cells, "ranks")), mean(stacked(cells, "means"))
    first = cells[0]
    heads = zip(first["metrics"], first["directions"], strict=True)
    rows = [["method", *(f"{name} {direction}" for name, direction in heads)]]
    for i, method in enumerate(first["methods"]):
        best = ranks[i] == np.nanmin(ranks, axis=0)
        texts = [f"{s:.2f} ({r:.1f})" for s, r in zip(scores[i], ranks[i], strict=True)]
        rows.append([method, *(f"**{t}**" if b else t for t, b in zip(texts, best, strict=True))])
    return report.markdown(rows)


def merits(cell: Json) -> np.ndarray:
    """Ranks of the methods, without the control."""
    return np.array(cell["ranks"], float)[:-1]


def between(cells: list[Json], a: str, b: str) -> float:
    """Spearman's correlation of two metrics' orders of the methods, the mean over seeds."""
    i, j = (cells[0]["metrics"].index(name) for name in (a, b))
    return float(mean(np.array([spearman(merits(c)[:, i], merits(c)[:, j]) for c in cells])))


def references_table(results: Json) -> str:
    """What another reference does to a metric's order of the methods."""
    rows = [["model", "deletion", "insertion", "faithfulness", "best by deletion at the first",
             "at the second"]]  # fmt: skip
    for name, cells in by_subject(results).items():
        one, other = cells[0]["references"]
        row = [f"{name}: {one} / {other}"]
        for metric in ("deletion", "insertion", "faithfulness"):
            row.append(report.number(between(cells, f"{metric}, {one}", f"{metric}, {other}")))
        for ref in (one, other):
            column = cells[0]["metrics"].index(f"deletion, {ref}")
            place = int(np.nanargmin(mean(stacked(cells, "ranks"))[:, column]))
            row.append(cells[0]["methods"][place])
        rows.append(row)
    return report.markdown(rows)


def truth_table(results: Json) -> str:
    """How far each metric's order of the methods is that of the truth, and the same over seeds."""
    known = {n: c for n, c in by_subject(results).items() if TRUTH in c[0]["metrics"]}
    rows = [["metric", *(f"{name}: with the truth" for name in known)]]
    names: dict[str, list[str]] = {}
    for cells in known.values():
        for metric in cells[0]["metrics"]:
            kind, _, ref = metric.partition(", ")
            place = f", reference {cells[0]['references'].index(ref) + 1}" if ref else ""
            shown = kind + place
            value = report.number(between(cells, metric, TRUTH))
            names.setdefault(shown, []).append(value)
    rows += [[name, *values] for name, values in names.items()]
    return report.markdown(rows) if known else ""


def seeds_table(results: Json) -> str:
    """How far a metric's order of the methods is the same over seeds."""
    rows = [["model", "the same order over seeds", "accuracy",
             "evaluations of f for an example and method", "if nothing were shared",
             "explanations"]]  # fmt: skip
    for name, cells in by_subject(results).items():
        pairs = [
            spearman(merits(a)[:, j], merits(b)[:, j])
            for a, b in itertools.combinations(cells, 2)
            for j in range(len(cells[0]["metrics"]))
        ]
        same = float(mean(np.array(pairs))) if pairs else None
        cost = cells[0]["evaluations"]
        rows.append([
            name, report.number(same), f"{np.mean([c['accuracy'] for c in cells]):.1%}",
            f"{cost['per_method']:.0f}", str(cost["alone"]), str(cost["explanations"]),
        ])  # fmt: skip
    return report.markdown(rows)


def shown(results: Json) -> str:
    return "\n\n".join([references_table(results), truth_table(results), seeds_table(results)])


def page(results: Json, drawing: str) -> str:
    """The benchmark's page in Markdown."""
    settings = results["settings"]
    parts = [
        "# Which explanation to believe",
        f"{report.environment_line(results['environment'])} `python -m benchmarks trust`.",
        f"Ten methods by every metric on {settings['examples']} held-out examples of three trained "
        f"models, {settings['seeds']} seeds of data and weights each. Metrics that put inputs to a "
        "reference are asked by two of them, and methods explain by both.",
        "## The reference decides who wins",
        "Spearman's correlation of the ten methods' order by one and the same metric at the two "
        "references, the mean over seeds: 1 where the choice does not matter. Then who is best by "
        "deletion at each.",
        references_table(results),
        "## Beside the truth",
        "In the DNA the motifs are planted, in the sentences the words that decide are known. The "
        "correlation of each metric's order of the methods with that by the share of positive "
        "scores inside the truth (`relevance_mass`).",
        truth_table(results),
        "## Over seeds, and what it cost",
        seeds_table(results),
        f"![How far metrics agree on the methods]({drawing})",
    ]
    for name, cells in by_subject(results).items():
        parts += [
            f"## {name.capitalize()}",
            "Mean score, and in brackets the mean rank over seeds; bold is the best rank.",
            ranks_table(cells),
        ]
    return "\n\n".join(parts) + "\n"


def draw(results: Json, path: Path) -> None:
    """The metrics' agreement on the methods, a panel a model."""
    from matplotlib.figure import Figure

    subjects = by_subject(results)
    drawing = Figure((5.2 * len(subjects), 5), dpi=120, layout="constrained")
    axes = drawing.subplots(1, len(subjects), squeeze=False)[0]
    for ax, (name, cells) in zip(axes, subjects.items(), strict=True):
        agreement = mean(stacked(cells, "agreement"))
        image = ax.imshow(np.ma.masked_invalid(agreement), cmap="RdBu_r", vmin=-1, vmax=1)
        labels = cells[0]["metrics"]
        ax.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(labels)), labels, fontsize=7)
        ax.set_title(name)
    bar = drawing.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("correlation of the metrics' orders of the methods")
    drawing.savefig(path)


write = pages.writer(page, draw)
