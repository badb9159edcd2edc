"""Trained networks as games of few enough players to evaluate every coalition."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models import MLP, Transformer
from benchmarks.neurons import Digits, fit
from jaxplain import datasets
from jaxplain.datasets._split import split

Array = jax.Array
_TOKENS = 24  # of the text's vocabulary; 0 negates the next word, 1 doubles it
_EXAMPLES = 100  # of every network


@dataclass(frozen=True)
class Network:
    """A classifier, examples with the class explained at each, and what is absent.

    Args:
      f: f(x, target) → the target's logit.
      xs: examples, leading axis the batch.
      targets: the predicted classes.
      refs: the background, with a leading axis.
      groups: each element's player, broadcasting to x.
    """

    family: str
    f: Callable[[Array, Any], Array]
    xs: Array
    targets: Array
    refs: Array
    groups: np.ndarray

    @property
    def players(self) -> int:
        return int(self.groups.max()) + 1

    def value(self, mask: Array, x: Array, target: Any) -> Array:
        """v(S) = E_r f(x_S, r_∖S)."""
        shown = jnp.broadcast_to(mask.astype(bool)[self.groups], x.shape)
        return jax.vmap(lambda r: self.f(jnp.where(shown, x, r), target))(self.refs).mean()


def _network(
    family: str, model: nn.Module, xs: Any, labels: Any, refs: Any, groups: Any, steps: int
) -> Network:
    """A network trained on all of (xs, labels), its first examples explained."""
    xs, refs = jnp.asarray(xs, jnp.float32), jnp.asarray(refs, jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels
    variables = fit(model, xs, loss, jnp.asarray(labels), steps, jax.random.key(0))
    classify = jax.jit(jax.vmap(model.apply, (None, 0)))
    xs = xs[:_EXAMPLES]
    targets = classify(variables, xs).argmax(-1)

    def f(x: Array, target: Any) -> Array:
        return model.apply(variables, x)[target]

    return Network(family, f, xs, targets, refs, np.asarray(groups))


def tabular(name: str, columns: slice, steps: int) -> Network:
    """An MLP on one of scikit-learn's tables; the background is sixteen of its rows."""
    from sklearn import datasets

    table = getattr(datasets, f"load_{name}")()
    xs, labels = table.data[:, columns], table.target
    if name == "diabetes":  # a regression: its terciles
        labels = np.searchsorted(np.quantile(labels, [1 / 3, 2 / 3]), labels)
    xs = (xs - xs.mean(0)) / xs.std(0)
    order = np.random.default_rng(0).permutation(len(xs))
    xs, labels = xs[order], labels[order]
    groups = np.arange(xs.shape[1])
    return _network("tabular", MLP((64, 64)), xs, labels, xs[-16:], groups, steps)


def sentences(count: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with a mood each, negated and doubled by the words before, and the sum's sign."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, _TOKENS, (count, length))
    mood = np.concatenate([[0, 0], rng.normal(size=_TOKENS - 2)])
    before = np.pad(tokens, ((0, 0), (1, 0)), constant_values=2)[:, :-1]
    factor = np.select([before == 0, before == 1], [-1, 2], 1)
    return tokens, ((mood[tokens] * factor).sum(1) > 0).astype(int)


def text(length: int, steps: int) -> Network:
    """A transformer on embedded words, each a player; absent ones are zero vectors."""
    tokens, labels = sentences(6000, length, 0)
    embedding = np.random.default_rng(1).normal(size=(_TOKENS, 16))
    groups = np.arange(length)[:, None]
    model = Transformer(layers=2, heads=2)
    refs = np.zeros((1, length, 16))
    return _network("text", model, embedding[tokens], labels, refs, groups, steps)


def image(rows: int, columns: int, steps: int) -> Network:
    """A CNN on handwritten digits, in superpixels: a grid; absent ones are blank."""
    training, held_out = split(*datasets.digits(), seed=0)
    images, labels = map(np.concatenate, zip(held_out, training, strict=True))
    size = images.shape[1]
    row, column = (np.arange(size) * cells // size for cells in (rows, columns))
    groups = (row[:, None] * columns + column)[..., None]
    refs = np.zeros_like(images[:1])
    return _network("image", Digits(), images, labels, refs, groups, steps)


NETWORKS: dict[str, Callable[[], Network]] = {
    "diabetes": functools.partial(tabular, "diabetes", slice(None), 600),
    "wine": functools.partial(tabular, "wine", slice(None), 300),
    "cancer": functools.partial(tabular, "breast_cancer", slice(None, None, 2), 600),
    "short text": functools.partial(text, 10, 1500),
    "long text": functools.partial(text, 14, 1500),
    "digits 3x4": functools.partial(image, 3, 4, 500),
    "digits 4x4": functools.partial(image, 4, 4, 500),
}


def tables(network: Network, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Games of the first examples: every coalition's value (games, 2ⁿ), and Shapley values.

    Bit i of a coalition's number is player i.
    """
    n = network.players
    masks = jnp.arange(2**n)[:, None] >> jnp.arange(n) & 1

    @jax.jit
    def table(x: Array, target: Any) -> Array:
        value = lambda mask: network.value(mask, x, target)
        return jax.lax.map(value, masks, batch_size=256)

    values = np.stack([
        np.asarray(table(x, target), np.float64)
        for x, target in zip(network.xs[:count], network.targets, strict=False)
    ])  # fmt: skip
    return values, np.stack([shapley(v, n) for v in values])


def shapley(values: np.ndarray, n: int) -> np.ndarray:
    """Σ_{S ∌ i} (v(S ∪ i) - v(S)) / (n C(n-1, |S|)), from all 2ⁿ values."""
    from scipy.special import comb

    number = np.arange(2**n)
    size = (number[:, None] >> np.arange(n) & 1).sum(1)

    def of(player: int) -> float:
        without = number[number >> player & 1 == 0]
        added = values[without | 1 << player] - values[without]
        return float((added / (n * comb(n - 1, size[without]))).sum())

    return np.array([of(player) for player in range(n)])
