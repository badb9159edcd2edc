"""The DeepLIFT paper's two networks (arXiv 1704.02685) as functions of their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
Weights = dict[str, Array]
Net = Callable[[Weights, Array], Array]  # one example → logits
Shapes = dict[str, tuple[int, ...]]

DIGITS: Shapes = {
    "conv2d1": (4, 4, 1, 32), "conv2d2": (4, 4, 32, 64), "dense1": (1600, 128), "dense2": (128, 10),
}  # fmt: skip
GENOMICS: Shapes = {
    "conv1d1": (11, 4, 50), "conv1d2": (11, 50, 50), "dense1": (50, 50), "dense2": (50, 3),
}  # fmt: skip


def digits(weights: Weights, image: Array) -> Array:
    """Ten logits of an image (28, 28, 1)."""
    h = relu_convolution(image, weights, "conv2d1", (2, 2))
    h = relu_convolution(h, weights, "conv2d2", (2, 2))
    return head(h.reshape(-1), weights)


def genomics(weights: Weights, sequence: Array) -> Array:
    """Three logits (both motifs, TAL1, GATA1) of a one-hot sequence (length, 4)."""
    h = relu_convolution(sequence, weights, "conv1d1", (1,))
    h = relu_convolution(h, weights, "conv1d2", (1,))
    return head(h.mean(0), weights)


def relu_convolution(x: Array, weights: Weights, name: str, strides: tuple[int, ...]) -> Array:
    spatial = "HW"[: x.ndim - 1]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    kernel, bias = weights[f"{name}_kernel"], weights[f"{name}_bias"]
    y = jax.lax.conv_general_dilated(x[None], kernel, strides, "VALID", None, None, layout)[0]
    return jax.nn.relu(y + bias)


def head(h: Array, weights: Weights) -> Array:
    h = jax.nn.relu(h @ weights["dense1_kernel"] + weights["dense1_bias"])
    return h @ weights["dense2_kernel"] + weights["dense2_bias"]


def initial(shapes: Shapes, seed: int) -> Weights:
    """He's normal kernels and no biases."""
    key, weights = jax.random.key(seed), {}
    for name, shape in shapes.items():
        key, subkey = jax.random.split(key)
        weights[f"{name}_kernel"] = jax.nn.initializers.he_normal()(subkey, shape)
        weights[f"{name}_bias"] = jnp.zeros(shape[-1])
    return weights


def fit(
    net: Net,
    weights: Weights,
    loss: Callable[[Array, Array], Array],
    xs: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    seed: int,
    rate: float = 2e-3,
    batch: int = 64,
) -> Weights:
    """The weights after Adam on `loss(logits, labels)`; its rate falls to 0 by a cosine."""
    # The steps are a loop outside: inside of one, XLA's convolutions on a CPU are 20 times slower.
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def step(weights: Weights, state: optax.OptState, xs: Array, labels: Array) -> tuple:
        def mean_loss(weights: Weights) -> Array:
            return loss(jax.vmap(net, (None, 0))(weights, xs), labels).mean()

        updates, state = optimiser.update(jax.grad(mean_loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    state = optimiser.init(weights)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.integers(0, len(xs), batch)
        weights, state = step(weights, state, xs[chosen], labels[chosen])
    return weights


def in_blocks(f: Callable[..., Any], size: int, *args: Any) -> Callable[[np.ndarray], Any]:
    """f(*args, xs) over blocks of one size, so that it compiles once and its memory is bounded."""

    def blocked(xs: np.ndarray) -> Any:
        starts = range(0, len(xs), size)
        whole = [np.take(xs, range(s, s + size), axis=0, mode="clip") for s in starts]
        parts = [jax.tree.map(np.asarray, f(*args, block)) for block in whole]
        return jax.tree.map(lambda *p: np.concatenate(p)[: len(xs)], *parts)

    return blocked
