"""Small models of every kind, none of which the rules were written for.

`ZOO` maps a name to a function that builds a `Model(f, params, x)`; `f(x, params)` is a scalar and
x is what gets explained. Biases are not zero, so every f is finite at a zero reference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from tests.support import checks
from tests.support.checks import readout
from tests.support.functions import ELEMENTWISE, MATHS, VECTOR


class Model(NamedTuple):
    f: Callable[..., jax.Array]
    params: Any
    x: Any


ZOO: dict[str, Callable[[], Model]] = {}


def model(build):
    """Registers a builder under its own name."""
    ZOO[build.__name__] = build
    return build


def family(prefix, members, build):
    """Registers `build(member)` for each named member."""
    ZOO.update({f"{prefix}_{name}": partial(build, member) for name, member in members.items()})


def draw(*shape, seed=0):
    """In float32, as parameters are kept."""
    return checks.draw(seed, *shape).astype(jnp.float32)


def weights(**shapes):
    """Matrices scaled by 1/sqrt(fan-in), vectors by 0.3 and so nonzero biases."""
    shapes = {name: (n,) if isinstance(n, int) else n for name, n in shapes.items()}
    return {
        name: draw(*shape, seed=i + 1) * (0.3 if len(shape) < 2 else shape[-2] ** -0.5)
        for i, (name, shape) in enumerate(shapes.items())
    }


# --- multilayer perceptrons ----------------------------------------------------------------------


def mlp(g):
    """Dense, g, dense, g, dense; g may change the width (glu)."""
    width = jax.eval_shape(g, jnp.zeros(8)).shape[0]

    def f(x, p):
        h = g(x @ p["w0"] + p["b0"])
        h = g(h @ p["w1"] + p["b1"])
        return (h @ p["w2"] + p["b2"])[1]

    p = weights(w0=(6, 8), b0=8, w1=(width, 8), b1=8, w2=(width, 3), b2=3)
    return Model(f, p, draw(6))


@model
def mlp_prelu():
    def f(x, p):
        h = x @ p["w0"] + p["b0"]
        h = jnp.where(h >= 0, h, p["alpha"] * h)
        return (h @ p["w1"])[1]

    return Model(f, weights(w0=(6, 8), b0=8, alpha=8, w1=(8, 3)), draw(6))


@model
def mlp_trainable_swish():
    def f(x, p):
        h = x @ p["w0"] + p["b0"]
        return ((h * jax.nn.sigmoid(p["beta"] * h)) @ p["w1"])[1]

    return Model(f, weights(w0=(6, 8), b0=8, beta=8, w1=(8, 3)), draw(6))


@model
def mlp_wide_input_batch_inside():
    """A model that insists on a batch axis of its own."""

    def f(x, p):
        h = jax.nn.relu(x[None] @ p["w0"] + p["b0"])
        return (h @ p["w1"])[0, 1]

    return Model(f, weights(w0=(6, 8), b0=8, w1=(8, 3)), draw(6))


family("mlp", ELEMENTWISE, mlp)
family("mlp", VECTOR, mlp)


# --- flax ----------------------------------------------------------------------------------------


def fill(shapes):
    """Random variables for abstract ones: scales near one, variances positive, biases nonzero."""
    rng = np.random.default_rng(0)

    def leaf(path, a):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return (
                jax.random.key(0)
                if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
                else a.dtype.type()
            )
        noise, name = rng.normal(size=a.shape), jax.tree_util.keystr(path)
        if "var" in name:
            value = np.exp(0.5 * noise)
        elif "scale" in name:
            value = 1 + 0.3 * noise
        else:
            value = noise * (0.3 if a.ndim < 2 else np.prod(a.shape[:-1]) ** -0.5)
        return jnp.asarray(value, a.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def linen(module, x):
    """The second output of a linen module."""
    variables = fill(jax.eval_shape(module.init, jax.random.key(0), x))
    return Model(lambda x, variables: module.apply(variables, x).ravel()[1], variables, x)


def of_nnx(make, x):
    """The second output of an nnx module; jitted, as nnx's transforms need under `jax.grad`."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return Model(jax.jit(lambda x, state: nnx.merge(graph, state)(x).ravel()[1]), fill(state), x)


class Sequential(nn.Module):
    """Linen layers in turn; plain functions allowed."""

    make: Callable

    @nn.compact
    def __call__(self, x):
        for layer in self.make(x.dtype):
            x = layer(x)
        return x


def chain(*makers):
    """Sequential whose layers are made by each `maker(dtype)`."""
    return Sequential(lambda dtype: [make(dtype) for make in makers])


def given(g):
    """A plain function as a layer maker."""
    return lambda _: g


def dense(n):
    return lambda _: nn.Dense(n)


family(
    "linen_mlp",
    {
        "relu": given(nn.relu),
        "gelu": given(nn.gelu),
        "silu": given(nn.silu),
        "prelu": lambda dtype: nn.PReLU(param_dtype=dtype),
        "geglu": lambda _: lambda x: nn.gelu(nn.Dense(6)(x)) * nn.Dense(6)(x),
        "layer_norm": lambda _: nn.LayerNorm(),
        "layer_norm_slow": lambda _: nn.LayerNorm(use_fast_variance=False),
        "rms_norm": lambda _: nn.RMSNorm(),
        "batch_norm": lambda _: nn.BatchNorm(use_running_average=True),
        "dropout_off": lambda _: nn.Dropout(0.5, deterministic=True),
        "einsum": lambda _: nn.Einsum((8, 5), "...i,io->...o"),
    },
    lambda act: linen(chain(dense(8), act, given(nn.tanh), dense(8), act, dense(3)), draw(6)),
)


# --- convolutions --------------------------------------------------------------------------------


def conv(n, size=(3, 3), **kwargs):
    return lambda _: nn.Conv(n, size, **kwargs)


def cnn(*middle, image=(8, 8, 2)):
    """Conv, relu, the layers under test, conv, relu, dense."""
    layers = [conv(4), given(nn.relu), *middle, conv(4), given(nn.relu), given(jnp.ravel), dense(3)]
    return linen(chain(*layers), draw(*image))


def max_pool_patches(x):
    """Max-pool as patches and a max over them."""
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).max((1, 3))


CNNS = {
    "max_pool": [given(lambda x: nn.max_pool(x, (2, 2), (2, 2)))],
    "max_pool_overlapping_same": [given(lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"))],
    "max_pool_overlapping_valid": [given(lambda x: nn.max_pool(x, (3, 3), (2, 2), "VALID"))],
    "max_pool_stride_one": [given(lambda x: nn.max_pool(x, (3, 3), (1, 1), "SAME"))],
    "max_pool_patches": [given(max_pool_patches)],
    "min_pool": [given(lambda x: nn.pooling.min_pool(x, (2, 2), (2, 2)))],
    "average_pool": [given(lambda x: nn.avg_pool(x, (2, 2), (2, 2)))],
    "average_pool_overlapping": [
        given(lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False))
    ],
    "global_max_pool": [conv(8), given(lambda x: x.max((0, 1), keepdims=True))],
    "global_average_pool": [conv(8), given(lambda x: x.mean((0, 1), keepdims=True))],
    "lp_pool": [given(lambda x: jnp.sqrt(1e-3 + nn.avg_pool(x**2, (2, 2), (2, 2))))],
    "softmax_pool": [given(lambda x: (x * nn.softmax(x, (0, 1))).sum((0, 1), keepdims=True))],
    "batch_norm": [conv(4), lambda _: nn.BatchNorm(use_running_average=True), given(nn.relu)],
    "group_norm": [conv(4), lambda _: nn.GroupNorm(num_groups=2), given(nn.relu)],
    "instance_norm": [conv(4), lambda _: nn.InstanceNorm(), given(nn.relu)],
    "layer_norm": [conv(4), lambda _: nn.LayerNorm(), given(nn.gelu)],
    "local_response_norm": [given(lambda x: x / (1 + nn.avg_pool(x**2, (3, 3), (1, 1), "SAME")))],
    "strided": [conv(4, strides=(2, 2))],
    "dilated": [conv(4, kernel_dilation=(2, 2))],
    "valid": [conv(4, padding="VALID")],
    "circular": [conv(4, padding="CIRCULAR")],
    "reflect": [given(lambda x: jnp.pad(x, ((1, 1), (1, 1), (0, 0)), "reflect"))],
    "depthwise": [conv(4, feature_group_count=4), given(nn.silu), conv(6, (1, 1))],
    "transposed": [lambda _: nn.ConvTranspose(3, (3, 3), strides=(2, 2))],
    "resize": [given(lambda x: jax.image.resize(x, (12, 12, 4), "bilinear"))],
    "pixel_shuffle": [
        given(lambda x: x.reshape(8, 8, 2, 2, 1).transpose(0, 2, 1, 3, 4).reshape(16, 16, 1))
    ],
    "squeeze_excite": [
        given(lambda x: x * nn.sigmoid(2 * x.mean((0, 1), keepdims=True)[..., ::-1] + 0.1))
    ],
    "demodulated": [given(lambda x: x * lax.rsqrt(jnp.mean(x**2, (0, 1), keepdims=True) + 1e-4))],
}
family("cnn", CNNS, lambda middle: cnn(*middle))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        h = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        h = norm()(nn.Conv(4, (3, 3))(h))
        return nn.relu(h + nn.Conv(4, (1, 1))(x))


@model
def cnn_residual():
    layers = [lambda _: Residual(), lambda _: Residual(), given(lambda x: x.mean((0, 1))), dense(3)]
    return linen(chain(*layers), draw(6, 6, 2))


@model
def cnn_sequence():
    """One-hot sequence, dilated residual convolutions, profile and counts (a small BPNet)."""

    def body(x):
        x = nn.relu(nn.Conv(6, (5,))(x))
        for i in (1, 2):
            x = x + nn.relu(nn.Conv(6, (3,), kernel_dilation=(2**i,))(x))
        profile = nn.Conv(1, (7,))(x)[:, 0]
        counts = nn.Dense(2)(x.mean(0))
        profile = profile - profile.mean()
        return jnp.stack([counts[0], jnp.sum(profile * nn.softmax(profile))])

    one_hot = jax.nn.one_hot(jnp.array([0, 2, 1, 3, 3, 0, 1, 2, 2, 0, 1, 1]), 4)
    return linen(Body(body), one_hot)


class Body(nn.Module):
    """A compact linen module whose body is a plain function."""

    body: Callable

    @nn.compact
    def __call__(self, x):
        return self.body(x)


# --- recurrent -----------------------------------------------------------------------------------

CELLS = {
    "lstm": nn.LSTMCell,
    "lstm_optimized": nn.OptimizedLSTMCell,
    "gru": nn.GRUCell,
    "mgu": nn.MGUCell,
    "simple": nn.SimpleCell,
}


def rnn(cell, **kwargs):
    """The default initializer, orthogonal, has no half precision."""
    init = nn.initializers.lecun_normal()
    return lambda dtype: nn.RNN(cell(6, param_dtype=dtype, recurrent_kernel_init=init), **kwargs)


def bidirectional(cell):
    return lambda dtype: nn.Bidirectional(rnn(cell)(dtype), rnn(cell)(dtype))


family(
    "rnn",
    CELLS,
    lambda cell: linen(chain(rnn(cell), given(lambda h: h[-1]), dense(3)), draw(5, 4)),
)
family(
    "rnn_bidirectional",
    {name: CELLS[name] for name in ("lstm", "gru", "simple")},
    lambda cell: linen(
        chain(bidirectional(cell), given(lambda h: h.mean(0)), dense(3)), draw(5, 4)
    ),
)
family(
    "rnn",
    {
        "reverse": [rnn(nn.LSTMCell, reverse=True, keep_order=True)],
        "unroll": [rnn(nn.GRUCell, unroll=2)],
        "stacked": [rnn(nn.LSTMCell), rnn(nn.GRUCell)],
        "attention": [
            rnn(nn.GRUCell),
            given(lambda h: nn.softmax(h @ h[-1]) @ h),
            lambda _: jnp.atleast_2d,
        ],
        "max_over_time": [rnn(nn.GRUCell), given(lambda h: h.max(0, keepdims=True))],
    },
    lambda layers: linen(chain(*layers, given(lambda h: h[-1]), dense(3)), draw(5, 4)),
)


@model
def rnn_conv_lstm():
    def make(dtype):
        return nn.RNN(nn.ConvLSTMCell(2, (3,), param_dtype=dtype))

    return linen(chain(make, given(lambda h: h[-1].ravel()), dense(3)), draw(3, 4, 2))


@model
def rnn_lengths():
    """Padded sequences: the last valid state is picked by a length that is no input."""

    def f(x, p):
        def step(h, inputs):
            u, valid = inputs
            new = jnp.tanh(u @ p["u"] + h @ p["w"] + p["b"])
            h = jnp.where(valid, new, h)
            return h, h

        h, _ = lax.scan(step, p["h0"], (x, jnp.arange(5) < p["length"]))
        return h @ p["out"]

    p = weights(u=(4, 6), w=(6, 6), b=6, h0=6, out=6) | {"length": jnp.int32(3)}
    return Model(f, p, draw(5, 4))


def scan_cell(h, u, p):
    h = jax.nn.silu(u @ p["u"] + h @ p["w"] + p["b"])
    return h, h * jax.nn.sigmoid(h)


def scanned(**kwargs):
    def f(x, p):
        h, ys = lax.scan(lambda h, u: scan_cell(h, u, p), p["h0"], x, **kwargs)
        return jnp.sum(h * p["out"]) + ys[2, 1]

    return Model(f, weights(u=(4, 6), w=(6, 6), b=6, h0=6, out=6), draw(5, 4))


family(
    "scan",
    {
        "forward": {},
        "reverse": {"reverse": True},
        "unroll": {"unroll": 3},
        "whole": {"unroll": True},
    },
    lambda kwargs: scanned(**kwargs),
)


@model
def scan_carry_of_x():
    """x is the initial carry, nothing is scanned over."""

    def f(x, p):
        h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w + p["b"]), None), x, p["w"])
        return h[1]

    return Model(f, weights(w=(3, 6, 6), b=6), draw(6))


@model
def scan_mixed_carry():
    """A carry with a part that never sees x, a counter, and a part that starts constant."""

    def f(x, p):
        def step(carry, u):
            i, decay, h = carry
            h = decay * h + jnp.tanh(u * p["w"]) * (i + 1).astype(h.dtype)
            return (i + 1, decay * p["rate"], h), h.sum()

        start = (jnp.int32(0), jnp.ones_like(p["w"]), jnp.zeros_like(p["w"]))
        (_, decay, h), ys = lax.scan(step, start, x)
        return jnp.sum(h * decay) + jnp.sum(ys**2)

    return Model(f, weights(w=4, rate=4), draw(5, 4))


@model
def scan_no_x_inside():
    """A scan over parameters only: bound as it is."""

    def f(x, p):
        w, _ = lax.scan(lambda w, _: (jnp.tanh(w @ p["v"]), None), p["w"], None, length=3)
        return jnp.tanh(x @ w)[1]

    return Model(f, weights(w=(6, 6), v=(6, 6)), draw(6))


@model
def scan_nested():
    def f(x, p):
        def outer(h, u):
            h, _ = lax.scan(lambda h, v: (jnp.tanh(h * v + p["b"]), None), h, u)
            return h, jnp.max(h)

        h, ys = lax.scan(outer, p["h0"], x.reshape(2, 3, 4))
        return h.sum() + ys.sum()

    return Model(f, weights(b=4, h0=4), draw(6, 4))


@model
def scan_selective():
    """A state-space layer with input-dependent gates, by associative scan (Mamba, minGRU)."""

    def f(x, p):
        gate = jax.nn.sigmoid(x @ p["gate"] + p["b"])
        value = jnp.tanh(x @ p["value"])

        def combine(left, right):
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, h = lax.associative_scan(combine, (1 - gate, gate * value))
        return h[-1] @ p["out"]

    return Model(f, weights(gate=(4, 6), b=6, value=(4, 6), out=6), draw(5, 4))


# --- transformers --------------------------------------------------------------------------------


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6) * p[0] + p[1]


def rms_norm(x, p):
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * p[0]


def rotary(x):
    """Rotary positions on (time, heads, width)."""
    time, _, width = x.shape
    rate = 100.0 ** (-jnp.arange(0, width, 2) / width)
    angle = (jnp.arange(time)[:, None] * rate)[:, None].astype(x.dtype)
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def softmax_scores(scores, mask, fill):
    if mask is None:
        return jax.nn.softmax(scores)
    if fill == "add":
        return jax.nn.softmax(scores + jnp.where(mask, 0, -1e9).astype(scores.dtype))
    low = -jnp.inf if fill == "inf" else jnp.finfo(scores.dtype).min
    return jax.nn.softmax(jnp.where(mask, scores, low))


def attention(
    x, p, *, heads=2, groups=2, mask=None, fill="inf", rope=False, qk_norm=False, cap=None
):
    time, width = x.shape[0], p["q"].shape[-1] // heads
    q = (x @ p["q"] + p["qb"]).reshape(time, heads, width)
    k = (x @ p["k"]).reshape(time, groups, width)
    v = (x @ p["v"] + p["vb"]).reshape(time, groups, width)
    if qk_norm:
        q, k = (3 * z / jnp.sqrt(jnp.sum(z**2, -1, keepdims=True) + 1e-4) for z in (q, k))
    if rope:
        q, k = rotary(q), rotary(k)
    k, v = (jnp.repeat(z, heads // groups, 1) for z in (k, v))
    scores = jnp.einsum("thd,shd->hts", q, k) * width**-0.5
    if cap:
        scores = cap * jnp.tanh(scores / cap)
    mixed = jnp.einsum("hts,shd->thd", softmax_scores(scores, mask, fill), v)
    return mixed.reshape(time, -1) @ p["o"]


def feed_forward(x, p, kind):
    h = x @ p["up"] + p["ub"]
    if kind == "swiglu":
        return (jax.nn.silu(x @ p["gate"]) * h) @ p["down"]
    return {"gelu": jax.nn.gelu, "relu": jax.nn.relu}[kind](h) @ p["down"]


def transformer(
    depth=2, width=8, time=5, norm=layer_norm, place="pre", causal=False, pad=0, ff="gelu",
    scan=False, remat=False, bias=1.0, groups=2, **kwargs,
):  # fmt: skip
    """Blocks over (time, width); the logit of the last valid token after a final norm."""
    kv = groups * width // kwargs.get("heads", 2)
    layer = weights(
        q=(depth, width, width), qb=(depth, width), k=(depth, width, kv), v=(depth, width, kv),
        vb=(depth, kv), o=(depth, width, width), up=(depth, width, 12), ub=(depth, 12),
        gate=(depth, width, 12), down=(depth, 12, width),
        n0=(depth, 2, width), n1=(depth, 2, width),
    )  # fmt: skip
    unit = jnp.array([1.0, 0.0])[:, None]
    for name in ("qb", "vb", "ub"):
        layer[name] = layer[name] * bias
    for name in ("n0", "n1"):
        layer[name] = unit + bias * 0.3 * layer[name]
    p = {"layers": layer, "norm": unit + bias * 0.1 * draw(2, width), "out": draw(width, 3) / 3}
    mask = jnp.ones((time, time), bool)
    mask = jnp.tril(mask) if causal else mask
    mask = mask.at[:, time - pad :].set(False) if causal or pad else None

    def block(x, p):
        mix = partial(attention, p=p, mask=mask, groups=groups, **kwargs)
        feed = partial(feed_forward, p=p, kind=ff)
        if place == "pre":
            x = x + mix(norm(x, p["n0"]))
            return x + feed(norm(x, p["n1"]))
        if place == "parallel":
            h = norm(x, p["n0"])
            return x + mix(h) + feed(h)
        x = norm(x + mix(x), p["n0"])
        return norm(x + feed(x), p["n1"])

    step = jax.checkpoint(block) if remat else block

    def f(x, p):
        if scan:
            x, _ = lax.scan(lambda x, layer: (step(x, layer), None), x, p["layers"])
        else:
            for i in range(depth):
                x = step(x, jax.tree.map(lambda a: a[i], p["layers"]))
        return (norm(x, p["norm"]) @ p["out"])[time - 1 - pad, 1]

    return Model(f, p, draw(time, width))


TRANSFORMERS: dict[str, dict] = {
    "pre_norm": {},
    "post_norm": {"place": "post"},
    "parallel": {"place": "parallel", "causal": True},
    "causal": {"causal": True},
    "causal_lowest": {"causal": True, "fill": "lowest"},
    "causal_added": {"causal": True, "fill": "add"},
    "padded": {"pad": 2},
    "padded_lowest": {"pad": 2, "fill": "lowest"},
    "padded_causal_post": {"pad": 2, "causal": True, "place": "post"},
    "rms_norm": {"norm": rms_norm},
    "rotary": {"rope": True, "causal": True},
    "grouped_queries": {"groups": 1},
    "swiglu": {"ff": "swiglu"},
    "relu": {"ff": "relu"},
    "llama": {
        "norm": rms_norm, "rope": True, "groups": 1, "ff": "swiglu", "causal": True, "scan": True,
    },
    "qk_norm": {"qk_norm": True, "norm": rms_norm},
    "soft_cap": {"cap": 2.0},
    "scan": {"scan": True, "depth": 3},
    "scan_checkpoint": {"scan": True, "remat": True, "depth": 3},
    "checkpoint": {"remat": True},
}  # fmt: skip
family("transformer", TRANSFORMERS, lambda kwargs: transformer(**kwargs))


class Block(nn.Module):
    """Pre- or post-norm block of flax's own layers, with an optional mask."""

    post: bool = False
    mask: Callable | None = None
    attention: Callable = nn.MultiHeadDotProductAttention

    @nn.compact
    def __call__(self, x):
        mask = None if self.mask is None else self.mask(x.shape[0])
        attend = self.attention(num_heads=2, deterministic=True)
        feed = nn.Sequential([nn.Dense(12), nn.gelu, nn.Dense(x.shape[-1])])
        if self.post:
            x = nn.LayerNorm()(x + attend(x, mask=mask))
            return nn.LayerNorm()(x + feed(x))
        h = nn.LayerNorm()(x)
        x = x + attend(h, mask=mask)
        return x + feed(nn.LayerNorm()(x))


class ScanBlock(nn.Module):
    """A block as `nn.scan` wants it: carry in, carry and output out."""

    @nn.compact
    def __call__(self, x, _):
        return Block()(x), None


def scan_blocks(block):
    layers = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return lambda _: lambda x: layers()(x, None)[0]


def causal_mask(time):
    return nn.make_causal_mask(jnp.ones(time))


def padding_mask(time):
    valid = jnp.arange(time) < time - 2
    return nn.make_attention_mask(valid, valid)


def both_masks(time):
    return nn.combine_masks(causal_mask(time), padding_mask(time))


family(
    "linen_transformer",
    {
        "pre_norm": [lambda _: Block(), lambda _: Block()],
        "post_norm": [lambda _: Block(post=True), lambda _: Block(post=True)],
        "causal": [lambda _: Block(mask=causal_mask)],
        "padded": [lambda _: Block(mask=padding_mask)],
        "causal_padded": [lambda _: Block(mask=both_masks, post=True)],
        "scan": [scan_blocks(ScanBlock)],
        "scan_remat": [scan_blocks(nn.remat(ScanBlock))],
        "remat": [lambda _: nn.remat(Block)(), lambda _: Block()],
        "qk_norm": [
            lambda _: Block(attention=partial(nn.MultiHeadDotProductAttention, normalize_qk=True))
        ],
    },
    lambda blocks: linen(chain(*blocks, given(lambda x: x[0]), dense(3)), draw(5, 8)),
)


def fused(x, p, **kwargs):
    """`jax.nn.dot_product_attention`."""
    heads = jnp.einsum("td,dnhe->nthe", x, p["qkv"].astype(x.dtype))
    q, k, v = heads + p["b"].astype(x.dtype)[:, None]
    return readout(jax.nn.dot_product_attention(q, k, v, **kwargs) ** 2)


family(
    "fused_attention",
    {
        "plain": {},
        "causal": {"is_causal": True},
        "window": {"local_window_size": (1, 1)},
        "lengths": {"key_value_seq_lengths": jnp.array([3])},
    },
    lambda kwargs: Model(
        partial(fused, **kwargs), weights(qkv=(8, 3, 2, 4), b=(3, 2, 4)), draw(5, 8)
    ),
)


@model
def attention_linear():
    """Linear attention: positive features and a running normaliser."""

    def f(x, p):
        q, k = (jax.nn.elu(x @ p[name]) + 1 for name in ("q", "k"))
        v = x @ p["v"]
        top = jnp.einsum("tq,tqv->tv", q, jnp.cumsum(k[:, :, None] * v[:, None], 0))
        return readout(top / jnp.sum(q * jnp.cumsum(k, 0), -1, keepdims=True))

    return Model(f, weights(q=(6, 4), k=(6, 4), v=(6, 3)), draw(5, 6))


@model
def attention_cosine():
    def f(x, p):
        q, k, v = (x @ p[name] + p["b"] for name in ("q", "k", "v"))
        q, k = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
        return readout(jax.nn.softmax(5 * q @ k.T) @ v)

    return Model(f, weights(q=(6, 4), k=(6, 4), v=(6, 4), b=4), draw(5, 6))


@model
def attention_sigmoid_relative():
    """Sigmoid attention with a linear position bias (ALiBi)."""

    def f(x, p):
        q, k, v = (x @ p[name] for name in ("q", "k", "v"))
        place = jnp.arange(5)
        bias = -0.5 * jnp.abs(place[:, None] - place).astype(x.dtype)
        return readout(jax.nn.sigmoid(q @ k.T / 2 + bias + p["b"]) @ v)

    return Model(f, weights(q=(6, 4), k=(6, 4), v=(6, 4), b=1), draw(5, 6))


@model
def attention_online():
    """Softmax in blocks with a running maximum (flash attention's recurrence)."""

    def f(x, p):
        q, k, v = (x @ p[name] for name in ("q", "k", "v"))

        def step(carry, block):
            top, total, acc = carry
            k, v = block
            s = q @ k.T
            new = jnp.maximum(top, s.max(-1))
            e, decay = jnp.exp(s - new[:, None]), jnp.exp(top - new)
            return (new, total * decay + e.sum(-1), acc * decay[:, None] + e @ v), None

        start = (q[:, 0] * 0 - 9.0, q[:, 0] * 0, q * 0)
        (_, total, acc), _ = lax.scan(step, start, (k.reshape(2, 3, 4), v.reshape(2, 3, 4)))
        return readout(acc / total[:, None])

    return Model(f, weights(q=(6, 4), k=(6, 4), v=(6, 4)), draw(6, 6))


@model
def vision_transformer():
    def body(x):
        x = nn.Conv(8, (4, 4), (4, 4), "VALID")(x).reshape(-1, 8)
        x = jnp.concatenate([jnp.ones((1, 8), x.dtype), x])
        return nn.Dense(3)(nn.LayerNorm()(Block()(x))[0])

    return linen(Body(body), draw(8, 8, 2))


@model
def mixer():
    def body(x):
        h = nn.LayerNorm()(x)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(h.T))).T
        return nn.Dense(3)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))).mean(0))

    return linen(Body(body), draw(4, 6))


# --- nnx -----------------------------------------------------------------------------------------


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.act = nnx.PReLU()
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.gelu(self.norm(self.act(self.first(x)))))


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.group = nnx.GroupNorm(4, 2, rngs=rngs)
        self.last = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x[None])))
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        x = nnx.avg_pool(nnx.silu(self.group(self.second(x))), (2, 2), (2, 2))
        return self.last(x.ravel())


class NnxRNN(nnx.Module):
    def __init__(self, rngs, cell=nnx.LSTMCell):
        self.rnn = nnx.RNN(cell(4, 6, rngs=rngs))
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        carry = self.rnn.cell.initialize_carry(x.shape[1:], rngs=nnx.Rngs(0))
        carry = jax.tree.map(lambda a: a.astype(x.dtype), carry)
        return self.last(self.rnn(x, initial_carry=carry)[-1])


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.RMSNorm(8, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.attend(self.norm(x), mask=nnx.make_causal_mask(jnp.ones(x.shape[0])))
        return x + self.down(nnx.silu(self.up(x)))


class NnxTransformer(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = NnxBlock(rngs), NnxBlock(rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.remat(lambda block, x: block(x))(self.second, self.first(x))[-1])


class NnxScan(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def blocks(rngs):
            return NnxBlock(rngs)

        self.blocks = blocks(rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.last(step(x, self.blocks)[-1])


ZOO["nnx_mlp"] = partial(of_nnx, NnxMLP, draw(6))
ZOO["nnx_cnn"] = partial(of_nnx, NnxCNN, draw(8, 8, 2))
ZOO["nnx_lstm"] = partial(of_nnx, NnxRNN, draw(5, 4))
ZOO["nnx_gru"] = partial(of_nnx, partial(NnxRNN, cell=nnx.GRUCell), draw(5, 4))
ZOO["nnx_simple"] = partial(
    of_nnx, partial(NnxRNN, cell=partial(nnx.SimpleCell, dtype=None)), draw(5, 4)
)
ZOO["nnx_transformer"] = partial(of_nnx, NnxTransformer, draw(5, 8))
ZOO["nnx_scan"] = partial(of_nnx, NnxScan, draw(5, 8))


# --- program structure ---------------------------------------------------------------------------


def structured(body):
    """`body(h, p)` between two dense layers; p carries a flag and an index that are no inputs."""

    def f(x, p):
        return readout(jnp.tanh(body(x @ p["w"] + p["b"], p)))

    p = weights(w=(6, 8), b=8, v=(8, 8)) | {"flag": jnp.bool_(True), "index": jnp.int32(1)}
    return Model(f, p, draw(6))


def inner_gradient(h, p):
    """A model that differentiates inside (an energy and its force)."""
    return jax.grad(lambda h: jnp.sum(jnp.tanh(h @ p["v"]) ** 2))(h)


def counted(h, p):
    """A while loop that never sees x sets the scale."""
    scale = lax.while_loop(lambda s: s < 3, lambda s: 1.5 * s, jnp.ones((), h.dtype))
    return scale * jnp.sin(h)


def custom_jvp_with_static(h, p):
    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def scaled(scale, h):
        return jnp.tanh(scale * h)

    @scaled.defjvp
    def _(scale, primals, tangents):
        return scaled(scale, *primals), scale * tangents[0]

    return scaled(2.0, h)


def custom_vjp_of_two(h, p):
    @jax.custom_vjp
    def dot(a, w):
        return jnp.tanh(a @ w)

    dot.defvjp(
        lambda a, w: (dot(a, w), (a, w)), lambda res, ct: (ct @ res[1].T, jnp.outer(*(res[0], ct)))
    )
    return dot(h, p["v"])


def runge_kutta(h, p):
    def slope(h):
        return jnp.tanh(h @ p["v"]) - h

    def step(h, _):
        k1 = slope(h)
        k2 = slope(h + 0.05 * k1)
        k3 = slope(h + 0.05 * k2)
        return h + 0.1 / 6 * (k1 + 2 * k2 + 3 * k3 + slope(h + 0.1 * k3)), None

    return lax.scan(step, h, None, length=3)[0]


def detached_gate(h, p):
    """A frozen gate: shared by both passes, as a constant would be."""
    return lax.stop_gradient(p["v"][0]) * jnp.tanh(h)


STRUCTURES = {
    "jit": lambda h, p: jax.jit(lambda h: jnp.sin(h) @ p["v"])(h),
    "jit_nested": lambda h, p: jax.jit(lambda h: jax.jit(jnp.tanh)(h) * jax.jit(jnp.exp)(h))(h),
    "checkpoint": lambda h, p: jax.checkpoint(lambda h: jax.nn.gelu(h @ p["v"]))(h),
    "checkpoint_policy": lambda h, p: jax.checkpoint(
        lambda h: jnp.exp(jnp.sin(h)), policy=jax.checkpoint_policies.everything_saveable
    )(h),
    "cond": lambda h, p: lax.cond(p["flag"], jnp.tanh, lambda h: h**2, h),
    "cond_not": lambda h, p: lax.cond(~p["flag"], jnp.tanh, lambda h: h**2, h),
    "cond_constant_branch": lambda h, p: lax.cond(p["flag"], lambda h: h**2, jnp.ones_like, h),
    "switch": lambda h, p: lax.switch(p["index"], [jnp.sin, jax.nn.relu, jnp.exp], h),
    "where_flag": lambda h, p: jnp.where(p["flag"], h**2, jnp.exp(h)),
    "platform": lambda h, p: lax.platform_dependent(h, cpu=jnp.tanh, default=jnp.tanh),
    "fori_loop": lambda h, p: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["v"]), h),
    "fori_loop_index": lambda h, p: lax.fori_loop(0, 3, lambda i, h: h * jnp.sin(h + i), h),
    "fori_loop_update": lambda h, p: lax.fori_loop(
        1, 8, lambda i, h: h.at[i].set(jnp.tanh(h[i] + h[i - 1])), h
    ),
    "while_without_x": counted,
    "map": lambda h, p: lax.map(lambda v: jnp.tanh(v * h), h),
    "vmap": lambda h, p: jax.vmap(lambda v, w: jax.nn.relu(v @ w))(
        h.reshape(2, 4), p["v"].reshape(2, 4, 8)
    ),
    "inner_gradient": inner_gradient,
    "inner_jacobian": lambda h, p: jax.jacfwd(lambda h: jnp.sin(h @ p["v"]))(h),
    "custom_jvp": custom_jvp_with_static,
    "custom_vjp": custom_vjp_of_two,
    "runge_kutta": runge_kutta,
    "linearize": lambda h, p: jax.jvp(jnp.tanh, (h,), (p["b"],))[1],
    "detached_gate": detached_gate,
    "named": lambda h, p: checkpoint_name(jnp.tanh(h), "here"),
    "named_scope": lambda h, p: jax.named_call(jnp.tanh, name="scope")(h),
    "random_noise": lambda h, p: jnp.tanh(
        h + jax.random.normal(jax.random.key(0), h.shape, h.dtype)
    ),
    "static_index": lambda h, p: jnp.tanh(h[p["index"]] * h[jnp.array([0, 3, 3])]),
    "dead_code": lambda h, p: (jnp.argmax(h), jnp.tanh(h))[1],
    "reused": lambda h, p: (t := jnp.tanh(h)) * t + t @ t + t,
    "unused_params": lambda h, p: jnp.ones_like(h) + h,
}  # fmt: skip
family("structure", STRUCTURES, structured)


# --- mathematics ----------------------------------------------------------------------------------


def maths(op):
    """op after a dense layer; the arcsinh makes its multipliers differ and does not saturate."""

    def f(x, p):
        return readout(jnp.arcsinh(op(x @ p["w"] + p["b"])))

    return Model(f, weights(w=(6, 12), b=12), draw(6))


family("maths", MATHS, maths)


# --- trees of inputs -----------------------------------------------------------------------------


@model
def tree_two_towers():
    def f(x, p):
        a, b = jnp.tanh(x["a"] @ p["a"] + p["ab"]), jax.nn.relu(x["b"][0] @ p["b"] + p["bb"])
        return a @ b / (1 + jnp.sum(x["b"][1] ** 2))

    x = {"a": draw(4), "b": (draw(5), draw(3))}
    return Model(f, weights(a=(4, 6), ab=6, b=(5, 6), bb=6), x)


@model
def tree_scalars():
    def f(x, p):
        u, v, w = x
        return jnp.sin(u) * v + w / (1 + v**2) + p["b"][0]

    return Model(f, weights(b=1), [jnp.float32(0.3), jnp.float32(-1.2), jnp.float32(0.7)])


@model
def tree_unused_leaf():
    def f(x, p):
        return jnp.tanh(x["used"] @ p["w"])

    return Model(f, weights(w=4), {"used": draw(4), "unused": draw(3)})


@model
def tree_state_space():
    """An initial state and a drive, both explained."""

    def f(x, p):
        h, _ = lax.scan(lambda h, u: (jnp.tanh(h @ p["w"] + u), None), x["state"], x["drive"])
        return h @ p["out"]

    return Model(f, weights(w=(4, 4), out=4), {"state": draw(4), "drive": draw(3, 4)})


# --- helpers for tests ---------------------------------------------------------------------------


def random_like(tree, seed):
    """Another input of the same shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def cast(tree, dtype):
    """The tree with its floating leaves in another dtype."""

    def leaf(a):
        a = jnp.asarray(a)
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(leaf, tree)


def references(x):
    """The zero reference, a random one, and the mean of four inputs."""
    inputs = [random_like(x, seed) for seed in range(11, 15)]
    return {
        "zero": jax.tree.map(jnp.zeros_like, x),
        "random": random_like(x, 10),
        "mean": jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *inputs),
    }


def paired(m):
    """The same model on two inputs through the same batched equations; returns the two parts."""
    x = {"a": m.x, "b": random_like(m.x, 5)}

    def parts(x, p):
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), x["a"], x["b"])
        return jax.vmap(m.f, (0, None))(both, p) * jnp.asarray([1, -2], jax.tree.leaves(x)[0].dtype)

    return Model(lambda x, p: parts(x, p).sum(), m.params, x), parts
