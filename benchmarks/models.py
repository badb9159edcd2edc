"""The models every benchmark runs on: flax linen, random weights, one logit of one example."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


@dataclass(frozen=True)
class Model:
    """A scalar function of one example, with a batch to explain and one shared reference.

    Args:
      f: f(x, params) -> scalar; the weights are an argument, never constants of the program.
      params: the weights, a pytree.
      xs: a batch of inputs, leading axis the batch.
      ref: one reference, shaped like one input.
    """

    f: Callable[[Array, Any], Array]
    params: Any
    xs: Array
    ref: Array


def logit(module: nn.Module) -> Callable[[Array, Any], Array]:
    """The first output of `module` as f(x, params)."""
    return lambda x, params: module.apply(params, x)[0]


def build(module: nn.Module, xs: Array, ref: Array, key: Array) -> Model:
    """A `Model` of `module` with weights drawn from `key`."""
    return Model(logit(module), jax.jit(module.init)(key, xs[0]), xs, ref)


class MLP(nn.Module):
    """Dense relu layers and ten logits."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def mlp(key: Array, batch: int = 256, inputs: int = 784, widths: tuple[int, ...] = (512, 512)):
    """784-512-512-10."""
    xs = jax.random.uniform(key, (batch, inputs))
    return build(MLP(widths), xs, jnp.zeros(inputs), key)


class CNN(nn.Module):
    """The MNIST network of the DeepLIFT paper (1704.02685, section 4.1)."""

    features: tuple[int, int]
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features in self.features:
            x = nn.relu(nn.Conv(features, (4, 4), strides=2, padding="VALID")(x))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(-1)))
        return nn.Dense(10)(x)


def cnn(key: Array, batch: int = 128, features: tuple[int, int] = (32, 64), hidden: int = 128):
    """28x28: conv 32, conv 64 (4x4, stride 2, valid), dense 128, dense 10."""
    xs = jax.random.uniform(key, (batch, 28, 28, 1))
    return build(CNN(features, hidden), xs, jnp.zeros((28, 28, 1)), key)


class BPNet(nn.Module):
    """Dilated residual convolutions over one-hot DNA, a count head and a profile head."""

    features: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nn.relu(nn.Conv(self.features, (21,))(x))
        for layer in range(1, self.layers + 1):
            x = x + nn.relu(nn.Conv(self.features, (3,), kernel_dilation=2**layer)(x))
        count = nn.Dense(1)(x.mean(axis=0))
        profile = nn.Conv(1, (75,))(x)
        return count[0], profile[:, 0]


def bpnet(key: Array, batch: int = 32, length: int = 1000, features: int = 64, layers: int = 8):
    """1000x4: stem of width 21, eight dilated residual convs of width 3; the count head."""
    bases = jax.random.randint(key, (batch, length), 0, 4)
    return build(
        BPNet(features, layers), jax.nn.one_hot(bases, 4), jnp.full((length, 4), 0.25), key
    )


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
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(self.width * 2**stage, stride)(x)
        return nn.Dense(10)(x.mean(axis=(0, 1)))


def resnet18(key: Array, batch: int = 32, size: int = 32, width: int = 64):
    """32x32x3, widths 64 to 512."""
    xs = jax.random.uniform(key, (batch, size, size, 3))
    return build(ResNet18(width), xs, jnp.zeros((size, size, 3)), key)


class LSTM(nn.Module):
    """One LSTM layer, ten logits from its last state."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(self.hidden))(x)[-1])


def lstm(key: Array, batch: int = 32, steps: int = 64, inputs: int = 64, hidden: int = 128):
    """64 steps of 64 features, 128 hidden."""
    xs = jax.random.normal(key, (batch, steps, inputs))
    return build(LSTM(hidden), xs, jnp.zeros((steps, inputs)), key)


class Transformer(nn.Module):
    """Pre-norm transformer encoder over embeddings, ten logits from the mean token."""

    layers: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        x = x + self.param("positions", nn.initializers.normal(1.0), x.shape)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            y = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(width)(y)
        return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=0))


def transformer(
    key: Array, batch: int = 32, tokens: int = 64, width: int = 128, layers: int = 4, heads: int = 4
):
    """64 tokens x 128, four layers: four heads, an MLP of 512 gelu; embeddings are the input."""
    xs = jax.random.normal(key, (batch, tokens, width))
    return build(Transformer(layers, heads), xs, jnp.zeros((tokens, width)), key)


MODELS: dict[str, Callable[..., Model]] = {
    maker.__name__: maker for maker in (mlp, cnn, bpnet, resnet18, lstm, transformer)
}
