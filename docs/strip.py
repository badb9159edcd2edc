"""Draws strip.png, the README's four pictures: `python docs/strip.py`, with the `demo` extra."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_sample_image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import jaxplain as jxp


def photograph(ax):
    """How much of a picture is warm in colour, by a smooth threshold, against a grey one."""
    image = jnp.asarray(load_sample_image("flower.jpg")[::5, 60:560:5] / 255, jnp.float32)
    warm = lambda x: jax.nn.sigmoid(12 * (x[..., 0] - x[..., 2] - 0.25)).mean()
    jxp.plots.image(jax.jit(jxp.deeplift(warm, 0.5))(image), image, style="blend", ax=ax)
    ax.set_title("a photograph: what is warm")


def dna(ax):
    """Two motifs, of which the second counts only beside the first."""
    x = jxp.genomics.one_hot("CTGACGATAAGGTCATCACGTGACTTAC")

    def matches(x, word):
        word = jxp.genomics.one_hot(word)
        windows = jnp.stack([x[i : len(x) - len(word) + 1 + i] for i in range(len(word))], 1)
        return jax.nn.relu(jnp.einsum("pwb,wb->p", windows, word) - len(word) + 1.5).max()

    f = lambda x: matches(x, "GATAAG") * (1 + 2 * matches(x, "CACGTG"))
    jxp.plots.logo(jxp.deeplift(f, 0.25)(x) * x, ax=ax)
    ax.set_title("DNA: which bases bind")


def sentence(ax):
    """A little language: what is good or bad, and a word that turns the next one round."""
    words = "the plot was not good but the actors were wonderful".split()
    mood = jnp.array([{"good": 1.0, "wonderful": 2.0}.get(word, 0.0) for word in words])
    turns = jnp.array([1.0 if word == "not" else 0.0 for word in words])

    def f(shown):
        negated = jnp.concatenate([jnp.zeros(1), (turns * shown)[:-1]])
        return (mood * shown * (1 - 2 * negated)).sum()

    scores = np.asarray(jxp.shapley_values(f, 0.0)(jnp.ones(len(words))))
    jxp.plots.tokens([f"{word} " for word in words], scores, ax=ax)
    ax.set_title("a sentence: good or bad")


def table(ax):
    """A row of a table of tumours, against the mean of the others."""
    data = load_breast_cancer(as_frame=True)
    chosen = ["mean radius", "mean texture", "worst area", "worst concavity", "mean smoothness"]
    rows = StandardScaler().fit_transform(data.data[chosen])
    model = LogisticRegression().fit(rows, 1 - data.target)
    weights, bias = jnp.asarray(model.coef_[0]), model.intercept_[0]
    f = lambda x: jax.nn.sigmoid(x @ weights + bias)
    scores = jxp.shapley_values(f, jnp.asarray(rows[:100]))(jnp.asarray(rows[22]))
    jxp.plots.bar(scores, chosen, ax=ax)
    ax.set_title("a row of a table: benign or not")


def main() -> None:
    """Writes the picture beside this file."""
    figure = Figure((15, 3.4), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(1, 4, width_ratios=(1, 1.5, 1.25, 1.15))
    for draw, ax in zip((photograph, dna, sentence, table), axes, strict=True):
        draw(ax)
    figure.savefig(Path(__file__).with_name("strip.png"))


if __name__ == "__main__":
    main()
