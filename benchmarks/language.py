"""Language models on tasks whose deciding tokens are known: who finds them, signed and absolute.

Small transformers are trained here to recall a value by its key, to continue a repeated pair, to
look up twice, and to recall by mark and key among distractors. Each method scores the prompt's
tokens for the answer; beside it stands what it costs. And how well sampled Shapley values and a
lasso predict what the answer's log-probability does under other masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import measure, options, pages, report
from jaxplain.metrics.table import spearman

Array = jax.Array
Json = dict[str, Any]
SYMBOLS, LENGTH, PAIRS = 16, 15, 6
OLD, NEW, ASK, TASK = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2, SYMBOLS + 3
VOCABULARY = TASK + 4
WIDTH, HEADS, LAYERS = 48, 4, 3
LEARNED = 0.9  # of answers right: a model that guesses has no reasons to be found


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=options.positive, help="default: 5; quick: 1")
    parser.add_argument(
        "--examples", type=options.positive, help="of a task; default: 40; quick: 8"
    )
    parser.add_argument("--steps", type=options.positive, help="default: 6000; quick: 300")


# Tasks: prompts (n, LENGTH), answers (n,), and which tokens decide, the first of them above all.


class Examples(NamedTuple):
    prompts: np.ndarray
    answers: np.ndarray
    decides: np.ndarray  # (n, LENGTH), 2 the answer's own token, 1 what leads to it


def _distinct(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    return rng.random((n, SYMBOLS)).argsort(1)[:, :count]


def _assembled(task: int, body: np.ndarray, tail: np.ndarray) -> np.ndarray:
    return np.column_stack([np.full(len(body), TASK + task), body, tail])


def recall(rng: np.random.Generator, n: int) -> Examples:
    """k v k v … ASK k → v."""
    keys, values = _distinct(rng, n, PAIRS), _distinct(rng, n, PAIRS)
    asked, row = rng.integers(PAIRS, size=n), np.arange(n)
    body = np.stack([keys, values], 2).reshape(n, -1)
    prompts = _assembled(0, body, np.column_stack([np.full(n, ASK), keys[row, asked]]))
    decides = np.zeros((n, LENGTH), int)
    decides[row, 1 + 2 * asked], decides[row, 2 + 2 * asked], decides[:, -1] = 1, 2, 1
    return Examples(prompts, values[row, asked], decides)


def induction(rng: np.random.Generator, n: int) -> Examples:
    """… a b … a → b."""
    body = _distinct(rng, n, LENGTH - 2)
    asked, row = rng.integers(LENGTH - 3, size=n), np.arange(n)
    prompts = _assembled(1, body, body[row, asked])
    decides = np.zeros((n, LENGTH), int)
    decides[row, 1 + asked], decides[row, 2 + asked], decides[:, -1] = 1, 2, 1
    return Examples(prompts, body[row, asked + 1], decides)


def two_hops(rng: np.random.Generator, n: int) -> Examples:
    """a b, b c among others like them, in any order; ASK a → c."""
    chains = _distinct(rng, n, 9).reshape(n, 3, 3)
    pairs = np.stack([chains[:, :, :2], chains[:, :, 1:]], 2).reshape(n, PAIRS, 2)
    order, row = rng.random((n, PAIRS)).argsort(1), np.arange(n)
    body = np.take_along_axis(pairs, order[:, :, None], 1).reshape(n, -1)
    asked = rng.integers(3, size=n)
    prompts = _assembled(2, body, np.column_stack([np.full(n, ASK), chains[row, asked, 0]]))
    places = order.argsort(1)  # where each pair stands
    decides = np.zeros((n, LENGTH), int)
    for hop in (0, 1):
        at = 1 + 2 * places[row, 2 * asked + hop]
        decides[row, at], decides[row, at + 1] = 1, 1 + hop
    decides[:, -1] = 1
    return Examples(prompts, chains[row, asked, 2], decides)


def distractors(rng: np.random.Generator, n: int) -> Examples:
    """mark k v for two marks and two keys; mark k → v: the other mark's pair is a distractor."""
    keys, values = _distinct(rng, n, 2), _distinct(rng, n, 4)
    order, row = rng.random((n, 4)).argsort(1), np.arange(n)
    marks = np.array([OLD, NEW, OLD, NEW])[None].repeat(n, 0)
    records = np.stack([marks, keys.repeat(2, 1), values], 2)
    body = np.take_along_axis(records, order[:, :, None], 1).reshape(n, -1)
    asked = rng.integers(4, size=n)
    prompts = _assembled(3, body, records[row, asked, :2])
    at = 1 + 3 * order.argsort(1)[row, asked]
    decides = np.zeros((n, LENGTH), int)
    decides[row, at], decides[row, at + 1], decides[row, at + 2] = 1, 1, 2
    decides[:, -2:] = 1
    return Examples(prompts, values[row, asked], decides)


TASKS = {
    "recall": recall,
    "induction": induction,
    "two hops": two_hops,
    "distractors": distractors,
}
SHARES = {"recall": 24, "induction": 24, "two hops": 80, "distractors": 24}  # of a batch


# The model.


def parameters(key: Array) -> Any:
    keys = iter(jax.random.split(key, 64))
    normal = lambda *shape: jax.random.normal(next(keys), shape) / np.sqrt(shape[0])
    square = dict.fromkeys("qkvo", (WIDTH, WIDTH))
    shapes = {**square, "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    return {
        "embed": 0.5 * jax.random.normal(next(keys), (VOCABULARY, WIDTH)),
        "places": 0.5 * jax.random.normal(next(keys), (LENGTH + 1, WIDTH)),
        "blocks": [
            {name: normal(*s) for name, s in shapes.items()}
            | {"near": jnp.array([0.0, 0.3, 0.1])[:, None] * jnp.ones((3, WIDTH))}
            for _ in range(LAYERS)
        ],
        "out": normal(WIDTH, VOCABULARY),
    }


def norm(h: Array) -> Array:
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def near(h: Array, weights: Array) -> Array:
    """What stands just before is seen as well, by a short convolution; pairs are learned by it."""
    back = [jnp.pad(h, ((i, 0), (0, 0)))[: len(h)] for i in range(len(weights))]
    return h + sum(w * shifted for w, shifted in zip(weights, back, strict=True))


def logits(params: Any, ids: Array) -> Array:
    """A transformer with short convolutions: (S,) → (S, V)."""
    length = len(ids)
    h = params["embed"][ids] + params["places"][:length]
    heads = lambda h: h.reshape(length, HEADS, -1)
    seen = jnp.tril(jnp.ones((length, length), bool))
    for block in params["blocks"]:
        x = near(norm(h), block["near"])
        q, k, v = (heads(x @ block[name]) for name in "qkv")
        scores = jnp.einsum("shd,thd->hst", q, k) / np.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), -1)
        h = h + jnp.einsum("hst,thd->shd", weights, v).reshape(length, -1) @ block["o"]
        h = h + jax.nn.gelu(norm(h) @ block["up"]) @ block["down"]
    return norm(h) @ params["out"]


def train(seed: int, steps: int) -> tuple[Any, dict[str, float]]:
    """Parameters that do all tasks, and how well on examples they have not seen."""
    rng = np.random.default_rng(seed)
    params = parameters(jax.random.key(seed))
    warm = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(steps // 20, 1), steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(warm))

    def loss(params: Any, prompts: Array, answers: Array) -> Array:
        z = jax.vmap(partial(logits, params))(prompts)[:, -1]
        return optax.softmax_cross_entropy_with_integer_labels(z, answers).mean()

    @jax.jit
    def run(state: Any, batches: Any) -> Any:
        def step(state: Any, batch: Any) -> Any:
            params, memory = state
            slopes = jax.grad(loss)(params, *batch)
            updates, memory = optimiser.update(slopes, memory, params)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, state, batches)[0]

    def draw(count: int) -> Any:
        parts = [make(rng, count * SHARES[name]) for name, make in TASKS.items()]
        mixed = rng.permutation(count * sum(SHARES.values()))
        joined = (np.concatenate([part[i] for part in parts])[mixed] for i in (0, 1))
        return tuple(a.reshape(count, -1, *a.shape[1:]) for a in joined)

    state = (params, optimiser.init(params))
    for _ in range(max(steps // 100, 1)):
        state = run(state, draw(100))
    right = {}
    answer = jax.jit(lambda params, prompts: jax.vmap(partial(logits, params))(prompts)[:, -1])
    for name, make in TASKS.items():
        held_out = make(np.random.default_rng(10_000 + seed), 500)
        found = answer(state[0], held_out.prompts).argmax(-1)
        right[name] = float((found == held_out.answers).mean())
    return state[0], right


# Methods: (f, prompt, answer, key) → scores (LENGTH,); and forward and backward passes.


class Way(NamedTuple):
    scores: Callable[[Any, Array, Array, Array], Array]
    passes: str


def _explained(method: Any, what: str = "scores", **given: Any) -> Any:
    def scores(f: Any, prompt: Array, answer: Array, key: Array) -> Array:
        found = jxp.lm.explain(method, f, prompt, answer[None], **given)
        return getattr(found, what)[0, :LENGTH]

    return scores


def _shapley(samples: int) -> Any:
    def scores(f: Any, prompt: Array, answer: Array, key: Array) -> Array:
        cite = jxp.lm.cite(
            f, prompt, answer[None], groups=np.arange(LENGTH), samples=samples, ref="mean"
        )
        return cite(key=key)[0]

    return scores


def value_of(f: Any, prompt: Array, answer: Array) -> Callable[[Array], Array]:
    """Log p(answer) with the tokens that a mask shows; others at the vocabulary's mean row."""
    e, g = jxp.embedded(f)(prompt)
    everything = jax.vmap(lambda i: jxp.embedded(f)(jnp.full(LENGTH, i))[0][0])
    mean = everything(jnp.arange(VOCABULARY)).mean(0)
    return lambda shown: jax.nn.log_softmax(g(jnp.where(shown[:, None], e, mean))[-1])[answer]


def _lasso(samples: int) -> Any:
    """ContextCite's estimator: random halves, a lasso of strength 0.01 on centred masks."""

    def scores(f: Any, prompt: Array, answer: Array, key: Array) -> Array:
        masks = jax.random.bernoulli(key, 0.5, (samples, LENGTH))
        values = jax.vmap(value_of(f, prompt, answer))(masks)
        z = masks - masks.mean(0)
        moment = z.T @ (values - values.mean()) / samples
        return jxp.methods.perturbation.lasso.lasso(z.T @ z / samples, moment[:, None], 0.01)[:, 0]

    return scores


# How many masked runs; Shapley values take two for a player.
SAMPLED = {"Shapley": (_shapley, (32, 64, 128)), "lasso": (_lasso, (16, 32, 64, 128))}
WAYS: dict[str, Way] = {
    "gradient norm": Way(_explained(jxp.gradient, "norms"), "1 + 1"),
    "gradient × input": Way(_explained(jxp.input_x_gradient, ref="zeros"), "1 + 1"),
    "gradient × (input − mean)": Way(_explained(jxp.input_x_gradient, ref="mean"), "2 + 1"),
    "IG-32, zeros": Way(_explained(jxp.integrated_gradients, ref="zeros", steps=32), "33 + 32"),
    "IG-32, mean": Way(_explained(jxp.integrated_gradients, ref="mean", steps=32), "33 + 32"),
    "DeepLIFT Rescale, zeros": Way(_explained(jxp.deeplift, ref="zeros"), "2 + 1"),
    "DeepLIFT Rescale, mean": Way(_explained(jxp.deeplift, ref="mean"), "2 + 1"),
    "DeepLIFT RevealCancel, mean": Way(
        _explained(jxp.deeplift, ref="mean", rules="reveal_cancel"), "4 + 2"
    ),
    "DeepLIFT central limit, mean": Way(
        _explained(jxp.deeplift, ref="mean", rules="central_limit"), "4 + 2"
    ),
    "AttnLRP of the logit": Way(_explained(jxp.attn_lrp, target=jxp.logit), "1 + 1"),
    "CP-LRP of the logit": Way(_explained(jxp.cp_lrp, target=jxp.logit), "1 + 1"),
    "leave one out": Way(_explained(jxp.ablation, ref="mean"), f"{LENGTH + 2} + 0"),
    **{
        f"{kind}, {n} runs": Way(sampled(n), f"{n} + 0")
        for kind, (sampled, counts) in SAMPLED.items()
        for n in counts
    },
}
METRICS = ("AUC", "precision at k", "first is the answer's", "mass")


def judged(scores: np.ndarray, decides: np.ndarray) -> np.ndarray:
    """The metrics (n, METRICS) of scores (n, LENGTH)."""
    mask = jnp.asarray(decides > 0)
    metrics = [jxp.localisation_auc, jxp.relevance_rank, None, jxp.relevance_mass]
    first = scores.argmax(1) == decides.argmax(1)
    found = [first if m is None else jax.vmap(m)(scores, mask) for m in metrics]
    return np.stack([np.asarray(f, float) for f in found], 1)


def means(values: np.ndarray) -> list[float]:
    """Over examples; a mass has no value where no score is positive."""
    return np.nanmean(values, 0).tolist()


# Programs of (params, prompts, answers, keys).


def explaining(way: Way) -> Callable[..., Array]:
    """Scores (n, LENGTH)."""

    @jax.jit
    def program(params: Any, *items: Array) -> Array:
        one = lambda item: way.scores(partial(logits, params), *item)
        return jax.lax.map(one, items, batch_size=8)

    return program


PREDICTED = (
    *(f"{kind}, {n} runs" for kind, (_, counts) in SAMPLED.items() for n in counts),
    "DeepLIFT Rescale, mean",
    "leave one out",
)


def predicting(way: Way) -> Callable[..., tuple[Array, Array]]:
    """Sums of scores, and log p, under 64 masks of about half of the tokens, (n, 64) each."""
    masks = jax.random.bernoulli(jax.random.key(99), 0.5, (64, LENGTH))

    @jax.jit
    def program(params: Any, *items: Array) -> tuple[Array, Array]:
        def one(item: Any) -> tuple[Array, Array]:
            f, (prompt, answer, key) = partial(logits, params), item
            truth = jax.vmap(value_of(f, prompt, answer))(masks)
            return masks @ way.scores(f, prompt, answer, key), truth

        return jax.lax.map(one, items, batch_size=8)

    return program


def predicted(guessed: np.ndarray, truth: np.ndarray) -> float:
    """The linear datamodelling score: rank correlation over masks, the mean over examples."""
    return float(np.nanmean([spearman(a, b) for a, b in zip(guessed, truth, strict=True)]))


def run(seeds: int, examples: int, steps: int, progress: bool) -> Json:
    cells = []
    programs = {name: explaining(way) for name, way in WAYS.items()}
    predictions = {name: predicting(WAYS[name]) for name in PREDICTED}
    total = tqdm(total=seeds * (len(WAYS) + 1), disable=not progress, unit="method")
    for seed in range(seeds):
        params, right = train(seed, steps)
        total.update()
        chosen = {}
        for name, make in TASKS.items():  # examples that it answers
            drawn = make(np.random.default_rng(20_000 + seed), 8 * examples)
            answers = jax.vmap(partial(logits, params))(drawn.prompts)[:, -1].argmax(-1)
            good = np.flatnonzero(np.asarray(answers) == drawn.answers)
            good = np.resize(good, examples) if len(good) else np.arange(examples)
            chosen[name] = Examples(*(part[good] for part in drawn))
        cell: Json = {"seed": seed, "accuracy": right, "scores": {}}
        cells.append(cell)
        every = Examples(*(np.concatenate(parts) for parts in zip(*chosen.values(), strict=True)))
        keys = jax.random.split(jax.random.key(seed), len(every.prompts))
        for name, program in programs.items():
            scores = np.asarray(program(params, every.prompts, every.answers, keys))
            for i, task in enumerate(TASKS):
                part = slice(i * examples, (i + 1) * examples)
                cell["scores"].setdefault(task, {})[name] = {
                    "signed": means(judged(scores[part], every.decides[part])),
                    "absolute": means(judged(np.abs(scores[part]), every.decides[part])),
                }
            total.update()
        some = Examples(*(part[:: max(len(part) // 24, 1)] for part in every))
        keys = jax.random.split(jax.random.key(seed), len(some.prompts))
        cell["prediction"] = {
            name: predicted(*map(np.asarray, program(params, some.prompts, some.answers, keys)))
            for name, program in predictions.items()
        }
    total.close()
    device = jax.devices()[0]
    return {
        "benchmark": "language",
        "environment": measure.environment(device),
        "settings": {"seeds": seeds, "examples": examples, "steps": steps},
        "cells": cells,
    }


def measure_all(args: argparse.Namespace) -> Json:
    seeds, examples, steps = (1, 8, 300) if args.quick else (5, 40, 6000)
    return run(args.seeds or seeds, args.examples or examples, args.steps or steps, not args.quiet)


# The page.


def known(results: Json) -> list[str]:
    """The tasks that the models have learned in all seeds."""
    return [t for t in TASKS if all(c["accuracy"][t] >= LEARNED for c in results["cells"])]


def cube(results: Json, sign: str) -> np.ndarray:
    """(seeds, tasks, ways, metrics)."""
    return np.array([
        [[cell["scores"][task][way][sign] for way in WAYS] for task in known(results)]
        for cell in results["cells"]
    ])  # fmt: skip


def scores_table(results: Json, sign: str) -> str:
    values = cube(results, sign)
    mean, spread = np.nanmean(values, (0, 1)), np.nanmean(values, 1).std(0)
    rows = [["method", *METRICS, "forward + backward passes"]]
    best = mean.max(0)
    for i, (name, way) in enumerate(WAYS.items()):
        cells = [
            f"{'**' if m >= b - 0.005 else ''}{m:.2f}{'**' if m >= b - 0.005 else ''} ± {s:.2f}"
            for m, s, b in zip(mean[i], spread[i], best, strict=True)
        ]
        rows.append([name, *cells, way.passes])
    return report.markdown(rows)


def tasks_table(results: Json) -> str:
    """How often the answer's own token comes first."""
    values = cube(results, "signed")[..., METRICS.index("first is the answer's")].mean(0)
    rows = [["method", *known(results)]]
    rows += [[name, *(f"{v:.0%}" for v in values[:, i])] for i, name in enumerate(WAYS)]
    return report.markdown(rows)


def prediction_table(results: Json) -> str:
    rows = [["method", "correlation with log p under other masks", "least and greatest seed"]]
    for name in PREDICTED:
        found = [cell["prediction"][name] for cell in results["cells"]]
        rows.append([name, f"{np.mean(found):.2f}", f"{min(found):.2f} to {max(found):.2f}"])
    return report.markdown(rows)


def accuracy_line(results: Json) -> str:
    parts = [
        f"{task} {np.mean([c['accuracy'][task] for c in results['cells']]):.1%}"
        f"{'' if task in known(results) else ' (not learned by all, and left out)'}"
        for task in TASKS
    ]
    return "Accuracy on examples that they have not seen: " + ", ".join(parts) + "."


def who_wins(results: Json) -> str:
    """A plain statement, from the numbers."""
    lines = []
    for sign in ("signed", "absolute"):
        mean = np.nanmean(cube(results, sign), (0, 1))
        for metric, column in zip(METRICS, mean.T, strict=True):
            order = np.argsort(-column)
            top = [list(WAYS)[i] for i in order if column[i] >= column[order[0]] - 0.005]
            lines.append(f"- {metric}, {sign}: {column[order[0]]:.2f} by {', '.join(top)}")
    return "\n".join(lines)


def shown(results: Json) -> str:
    if not known(results):
        return accuracy_line(results)
    return "\n\n".join([accuracy_line(results), scores_table(results, "signed"),
                        prediction_table(results)])  # fmt: skip


def page(results: Json, drawing: str) -> str:
    """The benchmark's page in Markdown."""
    settings = results["settings"]
    head = [
        "# Which tokens decided",
        f"{report.environment_line(results['environment'])} `python -m benchmarks language`.",
        f"Transformers of {LAYERS} layers and width {WIDTH} with short convolutions, "
        f"{settings['seeds']} seeds, each trained for {settings['steps']} steps on tasks whose "
        f"deciding tokens are known; {settings['examples']} answered examples of each task. A "
        "method scores the prompt's tokens for log p of the answer (relevance for its logit).",
        accuracy_line(results),
    ]
    if not known(results):
        return "\n\n".join([*head, "No task was learned by all models."]) + "\n"
    return "\n\n".join([
        *head,
        "## Who wins what",
        who_wins(results),
        "## Signed scores",
        "Of the tokens that decide (the answer's own, and what leads to it) among all: the area "
        "under the ROC curve, how many of the k highest are among the k that decide, how often "
        "the answer's own token is the highest, and the share of positive scores on those that "
        "decide. Means over tasks and seeds, ± the standard deviation over seeds.",
        scores_table(results, "signed"),
        "## Absolute scores",
        scores_table(results, "absolute"),
        "## The answer's own token first, by task",
        tasks_table(results),
        "## Do scores predict other masked runs?",
        "The linear datamodelling score: the rank correlation of Σ scores of the tokens that show "
        "with log p of the answer, over 64 masks of about half of the tokens, the others at the "
        "vocabulary's mean row. The lasso is ContextCite's estimator at its own strength; Shapley "
        f"values of {LENGTH} tokens take {2 * LENGTH} runs at least.",
        prediction_table(results),
        f"![Who finds the deciding tokens]({drawing})",
    ]) + "\n"  # fmt: skip


def draw(results: Json, path: Path) -> None:
    """The share of answers whose own token comes first, signed and absolute, with its spread."""
    from matplotlib.figure import Figure

    drawing = Figure((9, 5.5), dpi=120, layout="constrained")
    ax = drawing.subplots()
    place = np.arange(len(WAYS))[::-1]
    if known(results):
        for shift, sign, color in ((0.2, "signed", "#b2182b"), (-0.2, "absolute", "#2166ac")):
            values = cube(results, sign)[..., METRICS.index("first is the answer's")].mean(1)
            ax.barh(place + shift, values.mean(0), 0.4, xerr=values.std(0), color=color, label=sign)
    ax.set_yticks(place, list(WAYS), fontsize=8)
    ax.set_xlabel("the answer's own token has the highest score (± over seeds)")
    ax.legend()
    drawing.savefig(path)


write = pages.writer(page, draw)
