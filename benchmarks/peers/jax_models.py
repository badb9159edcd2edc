"""The same architectures in JAX, one example at a time, on the weights torch holds.

f(x, p) → logits; p is torch's state by name, with Flax's order of axes, and channels are last in
x.  What `layer` names is the value that `torch_models` has there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn

import jaxplain as jxp

Array = jax.Array


def weights(state: dict[str, np.ndarray]) -> dict[str, Array]:
    """Torch's state, kernels as (places, inputs, outputs) and matrices as (inputs, outputs)."""

    def turned(name: str, value: np.ndarray) -> np.ndarray:
        return np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value

    return {
        name: jnp.asarray(turned(name, value))
        for name, value in state.items()
        if "batches" not in name
    }


def dense(x: Array, p: dict, name: str) -> Array:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(x: Array, p: dict, name: str, stride: int = 1, pad: int = 0, dilation: int = 1) -> Array:
    n = x.ndim - 1
    numbers = ("NWC", "WIO", "NWC") if n == 1 else ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x[None], p[f"{name}.weight"], (stride,) * n, [(pad, pad)] * n,
        rhs_dilation=(dilation,) * n, dimension_numbers=numbers,
    )[0]  # fmt: skip
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def max_pool(x: Array, size: int, stride: int) -> Array:
    window, strides = (size, size, 1), (stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")


def flat(x: Array) -> Array:
    """In torch's order, channels first."""
    return jnp.moveaxis(x, -1, 0).reshape(-1)


def batch_norm(x: Array, p: dict, name: str) -> Array:
    scale = p[f"{name}.weight"] * lax.rsqrt(p[f"{name}.running_var"] + 1e-5)
    return (x - p[f"{name}.running_mean"]) * scale + p[f"{name}.bias"]


def layer_norm(x: Array, p: dict, name: str) -> Array:
    return nn.standardize(x, epsilon=1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def mlp(x: Array, p: dict) -> Array:
    x = nn.relu(dense(x, p, "0"))
    return dense(jxp.tag(nn.relu(dense(x, p, "2")), "layer"), p, "4")


def cnn(x: Array, p: dict) -> Array:
    x = nn.relu(conv(x, p, "0", 2))
    x = jxp.tag(nn.relu(conv(x, p, "2", 2)), "layer")
    return dense(nn.relu(dense(flat(x), p, "5")), p, "7")


def bpnet(x: Array, p: dict) -> Array:
    x = jxp.tag(nn.relu(conv(x, p, "stem", pad=10)), "layer")
    layers = sum(name.startswith("convs.") for name in p) // 2
    for i in range(layers):
        x = x + nn.relu(conv(x, p, f"convs.{i}", pad=2 ** (i + 1), dilation=2 ** (i + 1)))
    return dense(x.mean(0), p, "count")


def vgg(x: Array, p: dict) -> Array:
    x = nn.relu(conv(x, p, "0", pad=1))
    x = max_pool(nn.relu(conv(x, p, "2", pad=1)), 3, 2)
    x = max_pool(nn.relu(conv(x, p, "5", pad=1)), 2, 2)
    x = max_pool(jxp.tag(nn.relu(conv(x, p, "8", pad=1)), "layer"), 2, 2)
    return dense(x.mean((0, 1)), p, "13")


def lstm(x: Array, p: dict) -> Array:
    inward = x @ p["lstm.weight_ih_l0"] + p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]

    def step(state: tuple[Array, Array], u: Array) -> Any:
        h, c = state
        z = u + h @ p["lstm.weight_hh_l0"]
        g = jnp.tanh(jnp.split(z, 4)[2])
        i, f, _, o = jnp.split(nn.sigmoid(z), 4)  # at once, g's too: XLA's loops are faster
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros(p["lstm.weight_hh_l0"].shape[0], x.dtype)
    _, hs = lax.scan(step, (start, start), inward)
    return dense(jxp.tag(hs, "layer")[-1], p, "out")


def attention(x: Array, p: dict, name: str, heads: int) -> Array:
    joint = x @ p[f"{name}.in_proj_weight"] + p[f"{name}.in_proj_bias"]
    q, k, v = (y.reshape(len(x), heads, -1) for y in jnp.split(joint, 3, -1))
    scores = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    y = jnp.einsum("hqk,khd->qhd", nn.softmax(scores), v)
    return dense(y.reshape(x.shape), p, f"{name}.out_proj")


def transformer(x: Array, p: dict, heads: int = 4) -> Array:
    for i in range(sum(name.endswith("norm1.bias") for name in p)):
        layer = f"layers.{i}"
        x = x + attention(layer_norm(x, p, f"{layer}.norm1"), p, f"{layer}.self_attn", heads)
        h = nn.gelu(dense(layer_norm(x, p, f"{layer}.norm2"), p, f"{layer}.linear1"), False)
        x = x + dense(h, p, f"{layer}.linear2")
        x = jxp.tag(x, "layer") if i == 0 else x
    return dense(x.mean(0), p, "out")


def resnet18(x: Array, p: dict) -> Array:
    x = nn.relu(batch_norm(conv(x, p, "stem", pad=1), p, "norm"))
    for i in range(8):
        block, stride = f"blocks.{i}", 2 if i in (2, 4, 6) else 1
        y = nn.relu(batch_norm(conv(x, p, f"{block}.conv1", stride, 1), p, f"{block}.norm1"))
        y = batch_norm(conv(y, p, f"{block}.conv2", pad=1), p, f"{block}.norm2")
        if f"{block}.shortcut.weight" in p:
            x = conv(x, p, f"{block}.shortcut", stride)
        x = nn.relu(y + x)
    return dense(jxp.tag(x, "layer").mean((0, 1)), p, "out")
