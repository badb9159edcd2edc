"""The models every benchmark runs on: flax linen, random weights, one logit of one example.

In each, "early" and "late" name what comes out of the first hidden layer, and of the last one
that has places (if any); all of f passes through either.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp

Array = jax.Array
PARTS = 16  # players of a game: segments of a sequence, or 4 × 4 patches of an image


@dataclass(frozen=True)
class Model:
    """A scalar function of one example, with a batch to explain and one shared reference.

    Args:
      f: f(x, params) -> scalar; the weights are an argument, never constants of the program.
      params: the weights, a pytree.
      xs: a batch of inputs, leading axis the batch.
      ref: one reference, shaped like one input.
      kind: "vector", "image", "bases" (one-hot) or "sequence": what the axes of x are.
    """

    f: Callable[[Array, Any], Array]
    params: Any
    xs: Array
    ref: Array
    kind: str

    @property
    def places(self) -> tuple[int, ...]:
        """Sizes of the leading axes of x, those that are not channels."""
        return self.ref.shape[: 2 if self.kind == "image" else 1]

    @property
    def window(self) -> tuple[int, ...]:
        """Sizes of one part of x along its places."""
        parts = round(PARTS ** (1 / len(self.places)))
        return tuple(math.ceil(size / parts) for size in self.places)

    @property
    def groups(self) -> np.ndarray:
        """The parts of x as integer labels that broadcast to it."""
        indices = np.indices(self.places)
        parts = [index // width for index, width in zip(indices, self.window, strict=True)]
        counts = [part.max() + 1 for part in parts]
        labels = np.ravel_multi_index(parts, counts)
        return labels.reshape(self.places + (1,) * (self.ref.ndim - labels.ndim))

    def refs(self, count: int) -> Array:
        """Several references, near `ref`."""
        shifts = 0.01 * jnp.arange(count, dtype=self.ref.dtype)
        return self.ref + shifts.reshape(-1, *[1] * self.ref.ndim)

    def astype(self, dtype: Any) -> "Model":
        """The same with weights, inputs and reference of another type."""

        def cast(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

        parts = {name: cast(getattr(self, name)) for name in ("params", "xs", "ref")}
        return replace(self, **parts)


def logit(module: nn.Module) -> Callable[[Array, Any], Array]:
    """The first output of `module` as f(x, params)."""
    return lambda x, params: module.apply(params, x)[0]


def build(module: nn.Module, xs: Array, ref: Array, key: Array, kind: str) -> Model:
    """A `Model` of `module` with weights drawn from `key`."""
    return Model(logit(module), jax.jit(module.init)(key, xs[0]), xs, ref, kind)


class MLP(nn.Module):
    """Dense relu layers and ten logits."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        first, *others = self.widths
        x = jxp.tag(nn.relu(nn.Dense(first)(x)), "early")
        for width in others:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(jxp.tag(x, "late"))


def mlp(key: Array, batch: int = 256, inputs: int = 784, widths: tuple[int, ...] = (512, 512)):
    """784-512-512-10."""
    xs = jax.random.uniform(key, (batch, inputs))
    return build(MLP(widths), xs, jnp.zeros(inputs), key, "vector")


class CNN(nn.Module):
    """The MNIST network of the DeepLIFT paper (1704.02685, section 4.1)."""

    features: tuple[int, int]
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features, name in zip(self.features, ("early", "late"), strict=True):
            x = nn.relu(nn.Conv(features, (4, 4), strides=2, padding="VALID")(x))
            x = jxp.tag(x, name)
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(-1)))
        return nn.Dense(10)(x)


def cnn(key: Array, batch: int = 128, features: tuple[int, int] = (32, 64), hidden: int = 128):
    """28x28: conv 32, conv 64 (4x4, stride 2, valid), dense 128, dense 10."""
    xs = jax.random.uniform(key, (batch, 28, 28, 1))
    return build(CNN(features, hidden), xs, jnp.zeros((28, 28, 1)), key, "image")


class BPNet(nn.Module):
    """Dilated residual convolutions over one-hot DNA, a count head and a profile head."""

    features: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = jxp.tag(nn.relu(nn.Conv(self.features, (21,))(x)), "early")
        for layer in range(1, self.layers + 1):
            x = x + nn.relu(nn.Conv(self.features, (3,), kernel_dilation=2**layer)(x))
        x = jxp.tag(x, "late")
        count = nn.Dense(1)(x.mean(axis=0))
        profile = nn.Conv(1, (75,))(x)
        return count[0], profile[:, 0]


def bpnet(key: Array, batch: int = 16, length: int = 1000, features: int = 64, layers: int = 8):
    """1000x4: stem of width 21, eight dilated residual convs of width 3; the count head."""
    bases = jax.random.randint(key, (batch, length), 0, 4)
    xs, ref = jax.nn.one_hot(bases, 4), jnp.full((length, 4), 0.25)
    return build(BPNet(features, layers), xs, ref, key, "bases")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def norm(y: Array) -> Array:
            return nn.BatchNorm(use_running_average=True)(y)

        y = nn.Conv(self.features, (3, 3), self.stride, use_bias=False)(x)
        y = nn.Conv(self.features, (3, 3), use_bias=False)(nn.relu(norm(y)))
        if x.shape != y.shape:
            x = norm(nn.Conv(self.features, (1, 1), self.stride, use_bias=False)(x))
        return nn.relu(x + norm(y))


class ResNet18(nn.Module):
    """ResNet-18 with the CIFAR stem, batch norm in inference mode."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        x = jxp.tag(nn.relu(nn.BatchNorm(use_running_average=True)(x)), "early")
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(self.width * 2**stage, stride)(x)
        return nn.Dense(10)(jxp.tag(x, "late").mean(axis=(0, 1)))


def resnet18(key: Array, batch: int = 16, size: int = 32, width: int = 64):
    """32x32x3, widths 64 to 512."""
    xs = jax.random.uniform(key, (batch, size, size, 3))
    return build(ResNet18(width), xs, jnp.zeros((size, size, 3)), key, "image")


class LSTM(nn.Module):
    """One LSTM layer, ten logits from its last state."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        zeros = lambda key, shape, dtype: jnp.zeros(shape, x.dtype)
        cell = nn.OptimizedLSTMCell(self.hidden, carry_init=zeros)
        h = jxp.tag(nn.RNN(cell)(x), "early")
        return nn.Dense(10)(jxp.tag(h[-1], "late"))


def lstm(key: Array, batch: int = 32, steps: int = 64, inputs: int = 64, hidden: int = 128):
    """64 steps of 64 features, 128 hidden."""
    xs = jax.random.normal(key, (batch, steps, inputs))
    return build(LSTM(hidden), xs, jnp.zeros((steps, inputs)), key, "sequence")


class Block(nn.Module):
    """Pre-norm attention and a gelu MLP of four times the width."""

    heads: int
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        tokens, width = x.shape
        mask = nn.make_causal_mask(jnp.ones(tokens)) if self.causal else None
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    """Pre-norm transformer encoder over embeddings, ten logits from the mean token."""

    layers: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x + self.param("positions", nn.initializers.normal(1.0), x.shape)
        for layer in range(self.layers):
            x = Block(self.heads)(x)
            x = jxp.tag(x, "early") if layer == 0 else x
        return nn.Dense(10)(nn.LayerNorm()(jxp.tag(x, "late")).mean(axis=0))


def transformer(
    key: Array, batch: int = 32, tokens: int = 64, width: int = 128, layers: int = 4, heads: int = 4
):
    """64 tokens x 128, four layers: four heads, an MLP of 512 gelu; embeddings are the input."""
    xs = jax.random.normal(key, (batch, tokens, width))
    return build(Transformer(layers, heads), xs, jnp.zeros((tokens, width)), key, "sequence")


class GPT(nn.Module):
    """Causal pre-norm blocks in one scan, next-token logits by the embedding's transpose."""

    layers: int
    heads: int
    vocabulary: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        small = nn.initializers.normal(0.02)
        x = jxp.tag(x + self.param("positions", small, x.shape), "early")
        blocks = nn.scan(
            lambda block, x: (block(x), None),
            variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers,
        )  # fmt: skip
        x, _ = blocks(Block(self.heads, causal=True), x)
        x = nn.LayerNorm()(jxp.tag(x, "late"))
        return self.param("embedding", small, (self.vocabulary, x.shape[-1])) @ x[-1]


def gpt2_small(
    key: Array,
    batch: int = 4,
    tokens: int = 256,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    vocabulary: int = 50257,
):
    """GPT-2 small's shapes: 12 layers of 768, 12 heads, 256 tokens; the last token's logit."""
    xs = 0.02 * jax.random.normal(key, (batch, tokens, width))
    module = GPT(layers, heads, vocabulary)
    return build(module, xs, jnp.zeros((tokens, width)), key, "sequence")


MODELS: dict[str, Callable[..., Model]] = {
    maker.__name__: maker for maker in (mlp, cnn, bpnet, resnet18, lstm, transformer, gpt2_small)
}
LARGE = {"gpt2_small"}  # by default on accelerators only

# The same models with few units, for tests and --quick.
TINY: dict[str, dict[str, Any]] = {
    "mlp": {"inputs": 8, "widths": (6, 4)},
    "cnn": {"features": (2, 3), "hidden": 4},
    "bpnet": {"length": 40, "features": 3, "layers": 2},
    "resnet18": {"size": 8, "width": 2},
    "lstm": {"steps": 9, "inputs": 3, "hidden": 4},
    "transformer": {"tokens": 9, "width": 8, "layers": 1, "heads": 2},
    "gpt2_small": {"tokens": 9, "width": 8, "layers": 2, "heads": 2, "vocabulary": 11},
}


def make(name: str, batch: int | None = None, *, tiny: bool = False) -> Model:
    """A model by name, with its own batch by default."""
    sizes = {**(TINY[name] if tiny else {}), **({"batch": batch} if batch else {})}
    return MODELS[name](jax.random.key(0), **sizes)
