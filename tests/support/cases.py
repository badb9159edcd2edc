"""The reference numbers in tests/data/cases: loading them and reading their models as JAX.

Every interpreter returns a function of one example, without a batch axis.
"""

import functools
import json
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

TESTS = Path(__file__).parents[1]
PAPERS = TESTS.parents[1] / "shared" / "papers"  # the papers' weights, beside the checkout if here


@cache
def load(file):
    """The cases of one file, each metric's under `method` as in the other files."""
    cases = json.loads((TESTS / "data" / "cases" / f"{file}.json").read_text())
    return [{"method": case.get("metric")} | case for case in cases]


def array(value):
    """A floating array of the precision now enabled."""
    return jnp.asarray(value, dtype=float)


def assert_close(got, expected, tolerance, mode="max"):
    """The largest absolute error, or with mode "sum" their sum, is within the tolerance."""
    error = jnp.abs(array(got) - array(expected))
    assert np.shape(got) == np.shape(expected)
    assert (error.sum() if mode == "sum" else error.max()) <= tolerance, f"got {got}"


# The layer lists of deeplift.json: dense kernels (in, out), channels last.


def _dense(layer, x):
    return x @ array(layer["kernel"]) + array(layer["bias"])


def _conv(layer, x):
    kernel = array(layer["kernel"])
    return convolve(x, kernel, _strides(layer, kernel.ndim - 2), layer["padding"]) + array(
        layer["bias"]
    )


def _strides(layer, dimensions):
    return tuple(layer["strides"]) if "strides" in layer else (layer["stride"],) * dimensions


def convolve(x, kernel, strides, padding="VALID"):
    """A convolution of one example, channels last, by a kernel (..., in, out)."""
    spatial = "HW"[: x.ndim - 1]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return jax.lax.conv_general_dilated(x[None], kernel, strides, padding, None, None, layout)[0]


def _pool(pool):
    def apply(layer, x):
        size = layer["size"] if isinstance(layer["size"], list) else [layer["size"]]
        return pool(x, tuple(size), _strides(layer, len(size)), layer["padding"])

    return apply


def _batchnorm(layer, x):
    gamma, beta, mean, var = (array(layer[k]) for k in ("gamma", "beta", "mean", "var"))
    return gamma * (x - mean) / jnp.sqrt(var + layer["epsilon"]) + beta


def _maxout(layer, x):
    pieces = array(layer["W"]) @ x + array(layer["b"])
    return pieces[jnp.argmax(pieces)]  # among tied pieces the first, where jnp.max takes their mean


LAYERS = {
    "dense": _dense,
    "conv1d": _conv,
    "conv2d": _conv,
    "avgpool1d": _pool(nn.avg_pool),
    "avgpool2d": _pool(nn.avg_pool),
    "maxpool2d": _pool(nn.max_pool),
    "gap1d": lambda layer, x: x.mean(0),
    "gmp1d": lambda layer, x: x.max(0),
    "batchnorm": _batchnorm,
    "batchnorm_scale": lambda layer, x: array(layer["scale"]) * x + array(layer["offset"]),
    "flatten": lambda layer, x: x.reshape(-1),
    "relu": lambda layer, x: jax.nn.relu(x),
    "prelu": lambda layer, x: jax.nn.leaky_relu(x, layer["alpha"]),
    "sigmoid": lambda layer, x: jax.nn.sigmoid(x),
    "tanh": lambda layer, x: jnp.tanh(x),
    "mul": lambda layer, x: x[0] * x[1],
    "maxout": _maxout,
    "elementwise_max": lambda layer, x: x.max(0),
    # relevance.json: torch's (out, in)
    "linear": lambda layer, x: array(layer["W"]) @ x + array(layer["b"]),
}


def sequential(layers, named=lambda value, name: value):
    """A list of layers as a function of one example; `named` is called on output i as "layer_i"."""

    def f(x):
        for i, layer in enumerate(layers, 1):
            x = named(LAYERS[layer["type"]](layer, x), f"layer_{i}")
        return x

    return f


# The layers of relevance.json: torch's, of one example with channels first.


def _torch_conv(layer, x):
    kernel = jnp.moveaxis(array(layer["W"]), (0, 1), (-1, -2))
    padding = [(layer["padding"],) * 2] * 2
    y = convolve(jnp.moveaxis(x, 0, -1), kernel, (1, 1), padding) + array(layer["b"])
    return jnp.moveaxis(y, -1, 0)


def _torch_pool(pool):
    return lambda _, x: jnp.moveaxis(pool(jnp.moveaxis(x, 0, -1), (2, 2), (2, 2)), -1, 0)


def _torch_batchnorm(layer, x):
    return _batchnorm(layer | {"epsilon": layer["eps"]}, x)


TORCH_LAYERS = {
    "conv2d": _torch_conv,
    "avgpool2": _torch_pool(nn.avg_pool),
    "maxpool2": _torch_pool(nn.max_pool),
    "batchnorm": _torch_batchnorm,
}


def torch_sequential(layers):
    """A list of torch's layers as a function of one example."""

    def f(x):
        for layer in layers:
            x = (TORCH_LAYERS | {k: LAYERS[k] for k in ("linear", "relu", "flatten")})[
                layer["type"]
            ](layer, x)
        return x

    return f


def residual_block(model):
    """y = Lc(relu(Lb(relu(La(x))) + x))."""
    a, b, c = (functools.partial(LAYERS["linear"], model[name]) for name in ("La", "Lb", "Lc"))
    return lambda x: c(jax.nn.relu(b(jax.nn.relu(a(x))) + x))


# The graphs of captum.json: linear weights (out, in), channels first; axes count the batch.


def _linear(op, w, x):
    return x @ w[op["w"]].T + w.get(op.get("b"), 0)


def _conv_first(op, w, x):
    kernel = jnp.moveaxis(w[op["w"]], (0, 1), (-1, -2))
    y = convolve(jnp.moveaxis(x, 0, -1), kernel, (1,) * (x.ndim - 1)) + w[op["b"]]
    return jnp.moveaxis(y, -1, 0)


def _maxpool_first(op, w, x):
    window = (op["k"],) * (x.ndim - 1)
    return jnp.moveaxis(nn.max_pool(jnp.moveaxis(x, 0, -1), window, window), -1, 0)


def _layernorm(op, w, x):
    return layernorm(x, op["eps"])


UNARY = {
    "linear": _linear,
    "conv1d": _conv_first,
    "conv2d": _conv_first,
    "maxpool1d": _maxpool_first,
    "maxpool2d": _maxpool_first,
    "layernorm": _layernorm,
    "affine": lambda op, w, x: op["scale"] * x + op["shift"],
    "relu": lambda op, w, x: jax.nn.relu(x),
    "sigmoid": lambda op, w, x: jax.nn.sigmoid(x),
    "gelu_erf": lambda op, w, x: jax.nn.gelu(x, approximate=False),
    "softmax": lambda op, w, x: jax.nn.softmax(x, axis=op["axis"] - 1),
    "reshape": lambda op, w, x: x.reshape(op["shape"]),
    "index": lambda op, w, x: x[op["i"]],
}
BINARY = {"add": jnp.add, "sub": jnp.subtract}
JOIN = {"stack": jnp.stack, "concat": jnp.concatenate}


def graph(model, named=lambda value, name: value):
    """A graph of operations as a function of the tuple of its inputs x0, x1, …

    `named` is called on each operation's output, with its name.  A layer is in its weights' scope.
    """
    weights = {name: array(value) for name, value in model["weights"].items()}

    def f(xs):
        values = {f"x{i}": x for i, x in enumerate(xs)}
        for op in model["graph"]:
            kind = op["op"]
            if kind in UNARY:
                with jax.named_scope(op.get("w", op["out"])):  # a layer goes by its weights
                    y = UNARY[kind](op, weights, values[op["x"]])
            elif kind in BINARY:
                y = BINARY[kind](values[op["a"]], values[op["b"]])
            else:
                y = JOIN[kind]([values[x] for x in op["xs"]], axis=op["axis"] - 1)
            values[op["out"]] = y = named(y, op["out"])
        return y

    return f


# The operations and language models of relevance.json.


def rmsnorm(x, eps, scale=1.0):
    """Scale · x / √(mean x² + ε)."""
    return scale * (x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps))


def layernorm(x, eps, scale=1.0, shift=0.0):
    """Scale · (x − mean x) / √(var x + ε) + shift."""
    return rmsnorm(x - x.mean(-1, keepdims=True), eps, scale) + shift


def attention(q, k, v):
    """Causal attention of (position, head, channel) arrays, heads side by side in the result."""
    scores = jnp.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    causal = jnp.tri(len(q), dtype=bool)
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    return jnp.einsum("hqk,khd->qhd", weights, v).reshape(len(q), -1)


def llama(model):
    """A Llama's last logits as a function of its token embeddings (position, channel)."""
    config = model["hf_config"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, eps = config["head_dim"], config["rms_norm_eps"]
    w = {k.removeprefix("model."): array(v).T for k, v in model["state_dict"].items()}

    def rotate(x):
        frequency = 1e4 ** (-jnp.arange(0, size, 2, dtype=float) / size)
        angle = jnp.tile(jnp.outer(jnp.arange(len(x)), frequency), 2)[:, None]
        a, b = jnp.split(x, 2, axis=-1)
        return x * jnp.cos(angle) + jnp.concatenate([-b, a], -1) * jnp.sin(angle)

    def block(x, p):
        split = lambda name: (h @ p(f"self_attn.{name}_proj")).reshape(len(x), -1, size)
        share = lambda y: jnp.repeat(y, heads // groups, axis=1)
        h = rmsnorm(x, eps, p("input_layernorm"))
        mixed = attention(rotate(split("q")), share(rotate(split("k"))), share(split("v")))
        x = x + mixed @ p("self_attn.o_proj")
        h = rmsnorm(x, eps, p("post_attention_layernorm"))
        gate, up = jax.nn.silu(h @ p("mlp.gate_proj")), h @ p("mlp.up_proj")
        return x + (gate * up) @ p("mlp.down_proj")

    def f(x):
        for i in range(config["num_hidden_layers"]):
            x = block(x, lambda name: w[f"layers.{i}.{name}.weight"])
        return rmsnorm(x, eps, w["norm.weight"])[-1] @ w["lm_head.weight"]

    return f


def gpt2(model):
    """A GPT-2's last logits as a function of its token embeddings (position, channel)."""
    config = model["hf_config"]
    heads, eps = config["n_head"], config["layer_norm_epsilon"]
    w = {k.removeprefix("transformer."): array(v) for k, v in model["state_dict"].items()}

    def norm(x, name):
        return layernorm(x, eps, w[f"{name}.weight"], w[f"{name}.bias"])

    def dense(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def block(x, name):
        qkv = dense(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn")
        q, k, v = (t.reshape(len(x), heads, -1) for t in jnp.split(qkv, 3, axis=-1))
        x = x + dense(attention(q, k, v), f"{name}.attn.c_proj")
        h = jax.nn.gelu(dense(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate=True)
        return x + dense(h, f"{name}.mlp.c_proj")

    def f(x):
        x = x + w["wpe.weight"][: len(x)]
        for i in range(config["n_layer"]):
            x = block(x, f"h.{i}")
        return norm(x, "ln_f")[-1] @ w["lm_head.weight"].T

    return f
