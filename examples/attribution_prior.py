"""An attribution prior: a network is trained not to use a mark that gives the answer away.

    python examples/attribution_prior.py

Each training digit carries a bright pixel at its edge whose place tells the class. A network learns
to read the mark in place of the digit, and fails once the mark says something else. DeepLIFT's
contributions are an ordinary function of the parameters, so a loss may ask that none of them falls
on the edge:

    loss = cross-entropy + weight · mean over examples of Σ_edge |contribution|

Needs scikit-learn for its bundled 8×8 digits.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxplain as jxp

CLASSES = 10
EDGE = np.zeros((8, 8), bool)
EDGE[:, [0, -1]] = True  # columns that digits leave empty
MARKS = np.argwhere(EDGE)[:CLASSES]


class Network(nn.Module):
    """64 hidden relus, ten logits."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Logits of one image (8, 8)."""
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(64)(image.reshape(-1))))


NETWORK = Network()


def logits(image: jax.Array, params: Any) -> jax.Array:
    """Logits of one image."""
    return NETWORK.apply(params, image)


def contributions(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
    """What each pixel adds to the label's logit over the mean logit, against a black image."""
    return jxp.deeplift(jxp.contrast(logits, label), ref=0.0)(image, params)


def loss(params: Any, images: jax.Array, labels: jax.Array, weight: float) -> jax.Array:
    """Cross-entropy and, `weight` times, the contributions' mass on the edge."""
    outputs = jax.vmap(logits, (0, None))(images, params)
    error = optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()
    scores = jax.vmap(contributions, (None, 0, 0))(params, images, labels)
    return error + weight * jnp.abs(scores).sum(axis=(1, 2), where=EDGE).mean()


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def train(
    key: jax.Array, images: jax.Array, labels: jax.Array, weight: float, steps: int, batch: int
) -> Any:
    """Parameters after so many steps of Adam."""
    start, *keys = jax.random.split(key, steps + 1)
    params = NETWORK.init(start, images[0])
    optimizer = optax.adam(3e-3)

    def step(state: Any, key: jax.Array) -> Any:
        params, momenta = state
        chosen = jax.random.choice(key, len(images), (batch,))
        slopes = jax.grad(loss)(params, images[chosen], labels[chosen], weight)
        updates, momenta = optimizer.update(slopes, momenta)
        return (optax.apply_updates(params, updates), momenta), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.stack(keys))
    return params


def marked(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The images with the mark of a class each."""
    images = images.copy()
    images[np.arange(len(images)), *MARKS[classes].T] = 1.0
    return images


@jax.jit
def accuracy(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of images whose largest logit is their label's."""
    return (jax.vmap(logits, (0, None))(images, params).argmax(1) == labels).mean()


@jax.jit
def edge_share(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of all contributions' mass that falls on the edge."""
    mass = jnp.abs(jax.vmap(contributions, (None, 0, 0))(params, images, labels))
    return mass.sum(where=EDGE) / mass.sum()


def run(weight: float, steps: int = 600, batch: int = 128, seed: int = 0) -> dict[str, float]:
    """Trains with this weight of the prior; what the network does on held-out digits."""
    digits = load_digits()
    images = digits.images.astype(np.float32) / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.3, random_state=seed, stratify=digits.target
    )
    others = np.random.default_rng(seed).integers(CLASSES, size=len(test_y))
    true, false = marked(test_x, test_y), marked(test_x, others)
    params = train(jax.random.key(seed), marked(train_x, train_y), train_y, weight, steps, batch)
    return {
        "contributions on the edge": float(edge_share(params, true, test_y)),
        "accuracy, mark tells the class": float(accuracy(params, true, test_y)),
        "accuracy, mark tells any class": float(accuracy(params, false, test_y)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains without and with the prior, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weight", type=float, default=0.3, help="of the prior")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    without = run(0.0, options.steps, seed=options.seed)
    prior = run(options.weight, options.steps, seed=options.seed)
    print(f"{'on held-out digits':32}{'without':>9}{'with the prior':>17}")
    for name in without:
        print(f"{name:32}{without[name]:9.1%}{prior[name]:17.1%}")


if __name__ == "__main__":
    main()
