"""Saturation and softmax: why contributions are taken at the logit.

The equations of the softmax chapter (M. Nielsen, Neural Networks and Deep Learning, ch. 3), checked
against automatic differentiation; and what a gradient, and DeepLIFT, say of an output that is
saturated: at a neuron, and at a softmax whose sharpness c = 1/T grows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp
from benchmarks import report

Array = jax.Array
Json = dict[str, Any]
TITLE = "Saturation and softmax"
SHARPNESS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # c, and z of the neuron
LOGITS = (3.0, 1.0, 0.0)


def measure(options: Any) -> Json:
    """The chapter's equations, the two sweeps, and what context and common evidence do."""
    with jax.enable_x64(True):  # e^-200 is a number here
        cells = equations(seed=0) + neuron() + softmax() + context() + common()
    return {"settings": {}, "cells": cells}


def equations(seed: int) -> list[Json]:
    """Each equation's largest deviation from automatic differentiation, over random layers."""
    keys = jax.random.split(jax.random.key(seed), 32)
    found = jax.jit(jax.vmap(deviations))(keys)
    return [
        {"part": "equation", "equation": name, "error": float(error.max())}
        for name, error in found.items()
    ]


EQUATIONS = {
    "80": "C = −ln a_y",
    "81": "∂C/∂b_j = a_j − y_j",
    "82": "∂C/∂w_jk = a_k (a_j − y_j)",
    "83": "a_j = e^{c z_j} / Σ_k e^{c z_k}",
    "83, c → ∞": "the winner gets 1, the rest 0",
    "84": "δ_j = a_j − y_j",
    "84, T": "δ_j = (a_j − y_j)/T",
    "BP1": "δ = ∂C/∂a · σ′(z)",
    "BP4": "∂C/∂w_jk = a_k δ_j",
    "DeepLIFT": "Σ_j m_j Δz_j = Δa_k, m_j = L_j (1{j=k} − w_k)",
}


def deviations(key: Array) -> dict[str, Array]:
    """|closed form − derivative| of every equation, for one random layer and temperature."""
    keys = jax.random.split(key, 5)
    inputs = jax.random.normal(keys[0], (5,))
    kernel, bias = jax.random.normal(keys[1], (4, 5)), jax.random.normal(keys[2], (4,))
    label = jax.random.randint(keys[3], (), 0, 4)
    temperature = jax.random.uniform(keys[4], minval=0.2, maxval=5.0)
    truth = jax.nn.one_hot(label, 4)
    z = kernel @ inputs + bias

    def cost(kernel: Array, bias: Array, temperature: Any = 1.0) -> Array:
        return -jxp.log_likelihood(lambda x: kernel @ x + bias, label, temperature)(inputs)

    def cost_of(z: Array, temperature: Any = 1.0) -> Array:
        return -jxp.log_likelihood(lambda z: z, label, temperature)(z)

    def sharpened(c: Any) -> Array:
        return jnp.stack([jxp.probability(lambda z: z, j, 1 / c)(z) for j in range(4)])

    def quadratic(kernel: Array) -> Array:  # of sigmoid neurons
        return ((jax.nn.sigmoid(kernel @ inputs + bias) - truth) ** 2).sum() / 2

    def of_sigmoids(z: Array) -> Array:
        return ((jax.nn.sigmoid(z) - truth) ** 2).sum() / 2

    a, hot, c = softmax_by_hand(z), softmax_by_hand(z / temperature), 1 / temperature
    on = jax.nn.sigmoid(z)
    delta = (on - truth) * on * (1 - on)
    closed = {
        "80": (cost(kernel, bias), -jnp.log(a[label])),
        "81": (jax.grad(cost, 1)(kernel, bias), a - truth),
        "82": (jax.grad(cost)(kernel, bias), jnp.outer(a - truth, inputs)),
        "83": (sharpened(c), jnp.exp(c * z) / jnp.exp(c * z).sum()),
        "83, c → ∞": (sharpened(1e6), jax.nn.one_hot(z.argmax(), 4)),
        "84": (jax.grad(cost_of)(z), a - truth),
        "84, T": (jax.grad(cost_of)(z, temperature), (hot - truth) / temperature),
        "BP1": (jax.grad(of_sigmoids)(z), delta),
        "BP4": (jax.grad(quadratic)(kernel), jnp.outer(delta, inputs)),
        "DeepLIFT": (
            jxp.deeplift(jxp.probability(lambda z: z, label), 0.0, multiply=False)(z),
            softmax_multipliers(z, jnp.zeros(4), label),
        ),
    }
    return {name: jnp.abs(got - expected).max() for name, (got, expected) in closed.items()}


def softmax_by_hand(z: Array) -> Array:
    return jnp.exp(z) / jnp.exp(z).sum()


def softmax_multipliers(z: Array, z0: Array, k: Any) -> Array:
    """L_j (1{j=k} − w_k), L the logarithmic mean of both probabilities, w = L/ΣL."""
    p, p0 = softmax_by_hand(z), softmax_by_hand(z0)
    mean = (p - p0) / (jnp.log(p) - jnp.log(p0))
    return mean * (jax.nn.one_hot(k, len(z)) - (mean / mean.sum())[k])


def neuron() -> list[Json]:
    """A sigmoid neuron from z = 0 to z: its slope, DeepLIFT's, and both costs' δ where y = 0."""
    return rows("neuron", jax.jit(neuron_columns)(jnp.asarray(SHARPNESS)))


def neuron_columns(z: Array) -> dict[str, Array]:
    sigmoid = jax.nn.sigmoid
    slope = jax.vmap(jxp.gradient(sigmoid))(z)
    multiplier = jax.vmap(jxp.deeplift(sigmoid, 0.0, multiply=False))(z)
    by_hand = jnp.tanh(z / 2) / (2 * z)  # (σ(z) − ½)/z
    quadratic = jax.vmap(jax.grad(lambda z: sigmoid(z) ** 2 / 2))(z)
    likelihood = jax.vmap(jax.grad(lambda z: -jax.nn.log_sigmoid(-z)))(z)
    return {
        "at": z, "gradient": slope, "deeplift": multiplier, "by_hand": by_hand,
        "quadratic": quadratic, "likelihood": likelihood,
    }  # fmt: skip


def softmax() -> list[Json]:
    """The winner's probability under softmax(cz): contributions of the logits z against 0."""
    return rows("softmax", jax.jit(softmax_columns)(jnp.asarray(LOGITS), jnp.asarray(SHARPNESS)))


def softmax_columns(z: Array, c: Array) -> dict[str, Array]:
    scaled = lambda c: jxp.probability(lambda z: c * z, 0)
    of_logit = lambda c: jxp.logit(lambda z: c * z, 0)
    total = lambda scores: jnp.abs(scores).sum(-1)
    probability = jax.vmap(lambda c: scaled(c)(z))(c)
    others = jax.vmap(lambda c: softmax_by_hand(c * (z - z.max())))(c)
    slope = c[:, None] * probability[:, None] * (jnp.eye(3)[0] - others)  # by hand
    return {
        "at": c,
        "probability": probability,
        "gradient": total(jax.vmap(lambda c: jxp.input_x_gradient(scaled(c))(z))(c)),
        "by_hand": total(slope * z),
        "deeplift": total(jax.vmap(lambda c: jxp.deeplift(scaled(c), 0.0)(z))(c)),
        "logit": total(jax.vmap(lambda c: jxp.deeplift(of_logit(c), 0.0)(z) / c)(c)),
    }


def rows(part: str, columns: dict[str, Array]) -> list[Json]:
    """A cell a row."""
    lists = {name: np.asarray(values).tolist() for name, values in columns.items()}
    return [
        {"part": part} | dict(zip(lists, values, strict=True))
        for values in zip(*lists.values(), strict=True)
    ]


def context() -> list[Json]:
    """The evidence x₁ = 5 for σ(x₁ + x₂), as more evidence x₂ is there too (1704.02685, § 3.6)."""
    targets = {"probability": lambda x: jax.nn.sigmoid(x.sum()), "logit": jnp.sum}
    explained = {
        at: {
            "gradient": jax.jit(jxp.input_x_gradient(f)),
            "deeplift": jax.jit(jxp.deeplift(f, 0.0)),
        }
        for at, f in targets.items()
    }
    cells = []
    for other in (0.0, 5.0, 50.0):
        x = jnp.array([5.0, other])
        for at, methods in explained.items():
            scores = {name: float(explain(x)[0]) for name, explain in methods.items()}
            cells.append({"part": "context", "other": other, "at": at} | scores)
    return cells


def common() -> list[Json]:
    """A feature that speaks for all three classes alike (5), one for the first alone (2)."""
    logits = lambda x: jnp.full(3, 5.0) * x[0] + jnp.eye(3)[0] * 2 * x[1]
    targets = {
        "logit": jxp.logit(logits, 0),
        "contrast": jxp.contrast(logits, 0),
        "log-likelihood": jxp.log_likelihood(logits, 0),
        "probability": jxp.probability(logits, 0),
    }
    return [
        {"part": "common", "at": at, "values": jax.jit(jxp.deeplift(f, 0.0))(jnp.ones(2)).tolist()}
        for at, f in targets.items()
    ]


def of(results: Json, part: str) -> list[Json]:
    return [c for c in results["cells"] if c["part"] == part]


def number(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value + 0.0:.4g}"


def columns(cells: list[Json], heads: dict[str, str]) -> str:
    """A table of these keys under these heads."""
    text = lambda value: value if isinstance(value, str) else number(value)
    return report.markdown([[*heads.values()], *([text(c[k]) for k in heads] for c in cells)])


def section(results: Json, figure: str) -> str:
    """The experiment's part of the page."""
    checked = [
        [c["equation"], EQUATIONS[c["equation"]], f"{c['error']:.0e}"]
        for c in of(results, "equation")
    ]
    shared = [[c["at"], *map(number, c["values"])] for c in of(results, "common")]
    last, last_neuron = of(results, "softmax")[-1], of(results, "neuron")[-1]
    apart = max(abs(c["deeplift"] - c["by_hand"]) for c in of(results, "neuron"))
    return "\n\n".join([
        "The softmax chapter's equations against automatic differentiation in float64: the largest "
        "deviation over 32 random layers, labels and temperatures (BP1, BP4: sigmoid neurons under "
        "the quadratic cost).",
        report.markdown([["equation", "says", "deviation"], *checked]),
        "**A saturated neuron.** σ(z) against σ(0). The slope is σ′(z) ≈ e^{−z}; DeepLIFT's "
        "multiplier (σ(z) − ½)/z = tanh(z/2)/2z falls like 1/2z, so that its product with z stays "
        f"½ (largest deviation from that form: {apart:.0e}). The last two columns are the learning "
        "slowdown: δ of a neuron whose label is 0, under the quadratic cost (BP1) and under the "
        "log-likelihood (84).",
        columns(of(results, "neuron"), {
            "at": "z", "gradient": "σ′(z)", "deeplift": "DeepLIFT's Δσ/Δz",
            "quadratic": "δ, quadratic cost", "likelihood": "δ, log-likelihood",
        }),
        f"**A saturated softmax.** The winner's probability under softmax(cz), z = {LOGITS}, "
        "against z = 0; Σ|contributions| of the three logits. As c → ∞ (T → 0) gradient × input "
        f"vanishes ({number(last['gradient'])} at c = {last['at']:g}; by hand "
        f"{number(last['by_hand'])}), though the logits decided the output; DeepLIFT's stay "
        f"({number(last['deeplift'])}). At the logit, divided by c, nothing changes.",
        columns(of(results, "softmax"), {
            "at": "c", "probability": "probability", "gradient": "gradient × input",
            "deeplift": "DeepLIFT", "logit": "either, at the logit / c",
        }),
        "**Why at the logit.** The contribution of x₁ = 5 to σ(x₁ + x₂): at the probability it "
        "shrinks as x₂ says the same, by DeepLIFT too; at the logit x₁ + x₂ it stays 5 "
        "(1704.02685, section 3.6).",
        columns(of(results, "context"), {
            "other": "x₂", "at": "target", "gradient": "gradient × input", "deeplift": "DeepLIFT",
        }),
        "What speaks for all classes alike counts at the logit and nowhere else; the contrast "
        "z_k − mean z takes it out and, unlike the probability, does not saturate. Contributions "
        "by DeepLIFT of a feature that adds 5 to all of three logits, and of one that adds 2 to "
        "the first:",
        report.markdown([["target", "to all classes", "to the first"], *shared]),
        "What holds: all equations, to rounding. At a saturated neuron and softmax the gradient "
        "vanishes and DeepLIFT does not "
        f"(σ′ = {number(last_neuron['gradient'])} against {number(last_neuron['deeplift'])} at "
        f"z = {last_neuron['at']:g}; beyond z = 37 it is below float64's rounding of 1). What "
        "does not: DeepLIFT at the probability is not free of saturation; evidence that is there "
        "twice is shared there. Hence the logit.",
        f"![Gradient and DeepLIFT under saturation]({figure})",
    ])  # fmt: skip


def draw(results: Json, path: Path) -> None:
    """Three panels: the neuron, the softmax, and one piece of evidence beside another."""
    from matplotlib.figure import Figure

    drawing = Figure((13, 4.2), dpi=130, layout="constrained")
    first, second, third = drawing.subplots(1, 3)
    names = {"gradient": ("gradient", "C3", "s"), "deeplift": ("DeepLIFT", "C0", "o")}
    for ax, part in ((first, "neuron"), (second, "softmax")):
        cells = of(results, part)
        for key, (label, color, marker) in names.items():
            seen = [c for c in cells if c[key] > 0]  # beyond, σ′ rounds to zero
            ax.plot([c["at"] for c in seen], [c[key] for c in seen], color=color,
                    marker=marker, markersize=4.5, label=label)  # fmt: skip
        ax.set(xscale="log", yscale="log", ylim=(1e-12, 30))
        ax.grid(alpha=0.25)
    first.set(xlabel="z", ylabel="multiplier", title="a neuron σ(z) against σ(0)")
    second.set(xlabel="sharpness c = 1/T", ylabel="Σ |contributions| of the logits z",
               title="the winner's probability, softmax(cz)")  # fmt: skip
    at = [c["at"] for c in of(results, "softmax")]
    second.plot(at, [c["logit"] for c in of(results, "softmax")], "k--", lw=1.2,
                label="either, at the logit / c")  # fmt: skip
    first.legend(frameon=False, loc="lower left")
    second.legend(frameon=False, loc="lower left")

    cells = of(results, "context")
    others = sorted({c["other"] for c in cells})
    for i, (target, key) in enumerate(
        [("probability", "gradient"), ("probability", "deeplift"), ("logit", "deeplift")]
    ):
        label, color, _ = names[key]
        values = [c[key] for c in cells if c["at"] == target]
        label = "either, at the logit" if target == "logit" else f"{label}, at the probability"
        places = np.arange(len(others)) + 0.27 * (i - 1)
        bars = third.bar(
            places, values, 0.25, color="0.25" if target == "logit" else color, label=label
        )
        third.bar_label(
            bars,
            [f"{v:.2g}" if v > 1e-3 or not v else f"{v:.0e}" for v in values],
            fontsize=8,
            padding=2,
        )
    third.set_xticks(range(len(others)), [f"{o:g}" for o in others])
    third.set(xlabel="further evidence $x_2$", ylabel="contribution of $x_1 = 5$",
              title="$x_1$'s share of $σ(x_1 + x_2)$", ylim=(0, 7))  # fmt: skip
    third.legend(frameon=False, loc="upper left", fontsize=8)
    for ax in (first, second, third):
        ax.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path)
