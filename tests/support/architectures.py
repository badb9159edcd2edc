"""The architectures of the literature with every operation of the real thing, at small widths.

`ARCHITECTURES` maps a name to a function that builds a `zoo.Model`.  Image models are linen,
sequence models and the rest bare JAX.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax

from tests.support import zoo
from tests.support.checks import readout
from tests.support.zoo import Body, Model, draw, linen, weights

ARCHITECTURES: dict[str, Callable[[], Model]] = {}


def architecture(build):
    ARCHITECTURES[build.__name__] = build
    return build


def image(body, *shape):
    """A linen model of an image."""
    return linen(Body(body), draw(*shape))


def batch_norm(x):
    return nn.BatchNorm(use_running_average=True)(x)


def conv_norm(x, features, size=1, strides=1, **kwargs):
    return batch_norm(nn.Conv(features, (size, size), strides, use_bias=False, **kwargs)(x))


# --- convolutional -------------------------------------------------------------------------------


def bottleneck(x, features, strides=1, **kwargs):
    h = nn.relu(conv_norm(x, features))
    h = nn.relu(conv_norm(h, features, 3, strides, **kwargs))
    h = conv_norm(h, 4 * features)
    if x.shape != h.shape:
        x = conv_norm(x, 4 * features, 1, strides)
    return nn.relu(x + h)


def residual_network(stages, width=2, **kwargs):
    def body(x):
        x = nn.relu(conv_norm(x, width, 7, 2))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(stages):
            for block in range(blocks):
                strides = 2 if stage and not block else 1
                x = bottleneck(x, width * 2**stage, strides, **kwargs)
        return nn.Dense(3)(x.mean((0, 1)))

    return image(body, 32, 32, 3)


@architecture
def resnet50():
    return residual_network((3, 4, 6, 3))


@architecture
def resnext():
    """Grouped convolutions."""
    return residual_network((1, 1), width=4, feature_group_count=2)


@architecture
def densenet():
    def body(x):
        x = nn.max_pool(nn.relu(conv_norm(x, 4, 7, 2)), (3, 3), (2, 2), "SAME")
        for layers in (3, 2):
            for _ in range(layers):
                h = nn.Conv(8, (1, 1), use_bias=False)(nn.relu(batch_norm(x)))
                h = nn.Conv(2, (3, 3), use_bias=False)(nn.relu(batch_norm(h)))
                x = jnp.concatenate([x, h], -1)
            x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(batch_norm(x)))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(3)(nn.relu(batch_norm(x)).mean((0, 1)))

    return image(body, 16, 16, 3)


@architecture
def inception():
    def unit(x, features, size):
        return nn.relu(batch_norm(nn.Conv(features, size, use_bias=False)(x)))

    def body(x):
        for _ in range(2):
            branches = [
                unit(x, 2, (1, 1)),
                unit(unit(x, 2, (1, 1)), 2, (5, 5)),
                unit(unit(unit(x, 2, (1, 1)), 2, (1, 7)), 2, (7, 1)),
                unit(nn.avg_pool(x, (3, 3), (1, 1), "SAME"), 2, (1, 1)),
                unit(nn.max_pool(x, (3, 3), (1, 1), "SAME"), 2, (1, 1)),
            ]
            x = nn.max_pool(jnp.concatenate(branches, -1), (3, 3), (2, 2))
        return nn.Dense(3)(x.mean((0, 1)))

    return image(body, 9, 9, 3)


@architecture
def unet():
    def double(x, features):
        for _ in range(2):
            x = nn.relu(conv_norm(x, features, 3))
        return x

    def body(x):
        skips = []
        for features in (2, 4):
            x = double(x, features)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = double(x, 8)
        for features in (4, 2):
            x = nn.ConvTranspose(features, (2, 2), (2, 2))(x)
            x = double(jnp.concatenate([x, skips.pop()], -1), features)
        return nn.Conv(1, (1, 1))(x)[3, 2:4, 0]

    return image(body, 8, 8, 1)


@architecture
def mobilenet():
    """Depthwise-separable inverted residuals, squeeze and excitation, hard swish."""

    def body(x):
        x = nn.hard_swish(conv_norm(x, 4, 3, 2))
        for activation in (nn.relu6, nn.hard_swish):
            h = activation(conv_norm(x, 8))
            h = activation(conv_norm(h, 8, 3, feature_group_count=8))
            gate = nn.relu(nn.Dense(2)(h.mean((0, 1), keepdims=True)))
            h = h * nn.hard_sigmoid(nn.Dense(8)(gate))
            x = x + conv_norm(h, 4)
        return nn.Dense(3)(x.mean((0, 1)))

    return image(body, 8, 8, 3)


@architecture
def convnext():
    def body(x):
        x = nn.LayerNorm()(nn.Conv(4, (4, 4), 4)(x))
        for layer in range(2):
            h = nn.LayerNorm()(nn.Conv(4, (7, 7), feature_group_count=4)(x))
            h = nn.Dense(4)(nn.gelu(nn.Dense(16)(h)))
            x = x + 0.1 * (layer + 1) * h
        return nn.Dense(3)(nn.LayerNorm()(x.mean((0, 1))))

    return image(body, 16, 16, 3)


@architecture
def generator():
    """Transposed convolutions from a code to an image."""

    def body(x):
        x = nn.Dense(2 * 2 * 4)(x).reshape(2, 2, 4)
        for features in (4, 2):
            x = nn.ConvTranspose(features, (4, 4), (2, 2), use_bias=False)(x)
            x = nn.leaky_relu(batch_norm(x), 0.2)
        return nn.tanh(nn.ConvTranspose(1, (4, 4), (2, 2))(x))[5, 4:6, 0]

    return image(body, 6)


# --- attention ------------------------------------------------------------------------------------


def patches(x, size):
    h, w, c = x.shape
    x = x.reshape(h // size, size, w // size, size, c)
    return x.transpose(0, 2, 1, 3, 4).reshape(-1, size * size * c)


def learned(name, *shape):
    """A parameter of the module around."""
    return Parameter(shape, name=name)()


class Parameter(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        return self.param("value", nn.initializers.normal(1.0), self.shape)


@architecture
def vit():
    """Patches, class token, learned positions, pre-norm blocks."""

    def body(x):
        x = nn.Dense(8)(patches(x, 4))
        x = jnp.concatenate([learned("token", 1, 8).astype(x.dtype), x])
        x = x + learned("positions", 5, 8).astype(x.dtype)
        for _ in range(2):
            x = zoo.Block()(x)
        return nn.Dense(3)(nn.LayerNorm()(x)[0])

    return image(body, 8, 8, 2)


@architecture
def swin():
    """Attention in shifted windows."""

    def body(x):
        x = nn.Dense(8)(x)
        for shift in (0, 1):
            h = jnp.roll(nn.LayerNorm()(x), (-shift, -shift), (0, 1))
            h = h.reshape(2, 2, 2, 2, 8).transpose(0, 2, 1, 3, 4).reshape(4, 4, 8)
            h = nn.MultiHeadDotProductAttention(2, deterministic=True)(h)
            h = h.reshape(2, 2, 2, 2, 8).transpose(0, 2, 1, 3, 4).reshape(4, 4, 8)
            x = x + jnp.roll(h, (shift, shift), (0, 1))
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x).mean((0, 1)))

    return image(body, 4, 4, 3)


@architecture
def mlp_mixer():
    def body(x):
        x = nn.Dense(6)(patches(x, 4))
        for _ in range(2):
            h = nn.gelu(nn.Dense(8)(nn.LayerNorm()(x).T))
            x = x + nn.Dense(4)(h).T
            x = x + nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x).mean(0))

    return image(body, 8, 8, 2)


@architecture
def encoder_decoder():
    """Self-attention in the source, masked self-attention and cross-attention in the target."""

    def body(x):
        source = zoo.Block()(nn.Dense(8)(x["source"]))
        source = nn.LayerNorm()(source)
        h = nn.Dense(8)(x["target"])
        for _ in range(2):
            n = nn.LayerNorm()(h)
            h = h + attend()(n, mask=zoo.causal_mask(3))
            h = h + attend()(nn.LayerNorm()(h), source)
            h = h + nn.Dense(8)(nn.relu(nn.Dense(12)(nn.LayerNorm()(h))))
        return nn.Dense(4)(nn.LayerNorm()(h))[-1]

    attend = partial(nn.MultiHeadDotProductAttention, 2, deterministic=True)
    return linen(Body(body), {"source": draw(4, 5), "target": draw(3, 5, seed=1)})


@architecture
def gpt():
    """Learned positions, causal pre-norm blocks in a scan, logits by the tied embedding."""

    def body(x):
        x = x + learned("positions", 5, 8).astype(x.dtype)
        x = zoo.scan_blocks(Causal)(None)(x)
        x = nn.LayerNorm(use_bias=False)(x)
        return x[-1] @ learned("embedding", 6, 8).astype(x.dtype).T

    return linen(Body(body), draw(5, 8))


class Causal(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return zoo.Block(mask=zoo.causal_mask)(x), None


@architecture
def llama():
    """RMS norms, rotary positions, four query heads on two key-value heads, SwiGLU."""
    return zoo.transformer(
        norm=zoo.rms_norm, rope=True, heads=4, groups=2, ff="swiglu", causal=True, scan=True
    )


def one_hot_gates(logits, k):
    """Softmax weights of the k largest logits, placed by their indices."""
    top, chosen = lax.top_k(logits, k)
    places = jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype)
    return jnp.einsum("tk,tke->te", jax.nn.softmax(top), places)


def threshold_gates(logits, k):
    """The same weights by comparison with the k-th largest logit."""
    least = lax.top_k(logits, k)[0][:, -1:]
    share = jnp.where(logits >= least, jax.nn.softmax(logits), 0)
    return share / share.sum(-1, keepdims=True)


def mixture(x, p, gates, k=2):
    """Top-k routing over gated experts, all of them evaluated."""
    h = jax.nn.silu(jnp.einsum("td,edh->teh", x, p["gate"]))
    h = h * jnp.einsum("td,edh->teh", x, p["up"])
    return jnp.einsum("teh,ehd,te->td", h, p["down"], gates(x @ p["router"], k))


def routed(gates):
    def f(x, p):
        x = x + mixture(zoo.rms_norm(x, p["norm"]), p, gates)
        return readout(x @ p["out"])

    p = weights(
        router=(6, 4), gate=(4, 6, 5), up=(4, 6, 5), down=(4, 5, 6), norm=(1, 6), out=(6, 2)
    )
    return Model(f, p, draw(3, 6))


@architecture
def mixture_of_experts():
    """Routes that differ at the reference are left in the gap, as `test_architectures` checks."""
    return routed(one_hot_gates)


@architecture
def mixture_by_threshold():
    return routed(threshold_gates)


# --- recurrences ----------------------------------------------------------------------------------


def scan_pairs(decay, drive):
    """h_t = decay_t h_{t-1} + drive_t, by an associative scan."""

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return lax.associative_scan(combine, (decay, drive))[1]


@architecture
def mamba():
    """Causal depthwise convolution, selective discretisation, gate, residual."""

    def f(x, p):
        n = zoo.rms_norm(x, p["norm"])
        u, gate = jnp.split(n @ p["in"], 2, -1)
        padded = jnp.pad(u, ((2, 0), (0, 0)))
        u = lax.conv_general_dilated(
            padded[None], p["conv"].astype(x.dtype), (1,), "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=u.shape[-1],
        )[0]  # fmt: skip
        u = jax.nn.silu(u + p["cb"])
        step = jax.nn.softplus(u @ p["step"] + p["sb"])
        b, c = u @ p["b"], u @ p["c"]
        decay = jnp.exp(-step[..., None] * jnp.exp(p["a"]))
        h = scan_pairs(decay, (step * u)[..., None] * b[:, None])
        y = jnp.einsum("tdn,tn->td", h, c) + u * p["skip"]
        return readout((x + (y * jax.nn.silu(gate)) @ p["out"])[-1])

    p = weights(
        norm=(1, 4), conv=(3, 1, 6), cb=6, step=(6, 6), sb=6, b=(6, 3), c=(6, 3), a=(6, 3), skip=6,
        out=(6, 4), **{"in": (4, 12)},
    )  # fmt: skip
    return Model(f, p, draw(5, 4))


@architecture
def linear_recurrent_unit():
    """A complex diagonal recurrence between real maps, gated."""

    def f(x, p):
        rate = lax.complex(-jnp.exp(p["log_decay"]), jnp.exp(p["log_phase"]))
        decay = jnp.exp(rate).astype(lax.complex(x, x).dtype)
        drive = lax.complex(x @ p["b_real"], x @ p["b_imag"])
        h = scan_pairs(jnp.broadcast_to(decay, drive.shape), drive)
        y = jnp.real(h @ lax.complex(p["c_real"], p["c_imag"])) + x * p["skip"]
        y = jax.nn.gelu(y)
        return readout(x + y * jax.nn.sigmoid(y @ p["gate"]))

    p = weights(
        log_decay=5, log_phase=5, b_real=(4, 5), b_imag=(4, 5), c_real=(5, 4), c_imag=(5, 4),
        skip=4, gate=(4, 4),
    )  # fmt: skip
    return Model(f, p, draw(6, 4))


@architecture
def s4_recurrent():
    """The same state as a scan with a complex carry."""

    def f(x, p):
        decay = jnp.exp(lax.complex(-jnp.exp(p["log_decay"]), p["phase"]))

        def step(h, u):
            h = decay.astype(h.dtype) * h + u[:, None]
            return h, jnp.einsum("dn,dn->d", h, lax.complex(p["c"], p["d"])).real

        _, y = lax.scan(step, jnp.zeros((4, 3), lax.complex(x, x).dtype), x)
        return readout(jax.nn.gelu(y) @ p["out"])

    return Model(
        f, weights(log_decay=(4, 3), phase=(4, 3), c=(4, 3), d=(4, 3), out=(4, 2)), draw(5, 4)
    )


@architecture
def s4_convolution():
    """The same as a long convolution by FFT, with its kernel from the parameters."""

    def f(x, p):
        decay = lax.complex(-jnp.exp(p["log_decay"]), p["phase"])
        times = jnp.arange(6)[:, None, None].astype(decay.dtype)
        kernel = jnp.einsum("tdn,dn->td", jnp.exp(decay * times), lax.complex(p["c"], p["d"])).real
        spectrum = jnp.fft.rfft(x, 12, axis=0) * jnp.fft.rfft(kernel, 12, axis=0)
        y = jnp.fft.irfft(spectrum, 12, axis=0)[:6] + x
        return readout(jax.nn.gelu(y) @ p["out"])

    return Model(
        f, weights(log_decay=(4, 3), phase=(4, 3), c=(4, 3), d=(4, 3), out=(4, 2)), draw(6, 4)
    )


# --- graphs, spectra, kernels, orders -------------------------------------------------------------

SENDERS, RECEIVERS = jnp.array([0, 1, 2, 3, 0, 2, 4]), jnp.array([1, 2, 3, 0, 2, 4, 0])


@architecture
def graph_convolution():
    """Symmetric degree norm, two layers, mean over nodes."""

    def f(x, p):
        degree = jax.ops.segment_sum(jnp.ones(7, x.dtype), RECEIVERS, 5) + 1
        scale = lax.rsqrt(degree[SENDERS] * degree[RECEIVERS])[:, None]
        for w in (p["w0"], p["w1"]):
            h = x @ w
            mixed = jax.ops.segment_sum(scale * h[SENDERS], RECEIVERS, 5) + h / degree[:, None]
            x = jax.nn.relu(mixed + p["b"])
        return readout(x.mean(0))

    return Model(f, weights(w0=(4, 6), w1=(6, 6), b=6), draw(5, 4))


@architecture
def graph_attention():
    """Softmax over each node's edges by segment_max and segment_sum."""

    def f(x, p):
        h = x @ p["w"] + p["b"]
        score = jax.nn.leaky_relu(h[SENDERS] @ p["a"] + h[RECEIVERS] @ p["c"], 0.2)
        score = score - jax.ops.segment_max(score, RECEIVERS, 5)[RECEIVERS]
        e = jnp.exp(score)
        share = e / jax.ops.segment_sum(e, RECEIVERS, 5)[RECEIVERS]
        return readout(jax.nn.elu(jax.ops.segment_sum(share[:, None] * h[SENDERS], RECEIVERS, 5)))

    return Model(f, weights(w=(4, 6), b=6, a=6, c=6), draw(5, 4))


@architecture
def message_passing():
    """Edge messages, aggregated by sum, maximum and minimum; a recurrent update."""

    def f(x, p):
        h = x["nodes"] @ p["embed"]
        for _ in range(2):
            both = jnp.concatenate([h[SENDERS], h[RECEIVERS], x["edges"]], -1)
            message = jax.nn.relu(both @ p["m"] + p["mb"])
            pooled = [
                pool(message, RECEIVERS, 5)
                for pool in (jax.ops.segment_sum, jax.ops.segment_max, jax.ops.segment_min)
            ]
            h = h + jnp.tanh(jnp.concatenate(pooled, -1) @ p["u"])
        return readout(jax.ops.segment_max(h, jnp.array([0, 0, 1, 1, 1]), 2))

    p = weights(embed=(3, 4), m=(10, 5), mb=5, u=(15, 4))
    return Model(f, p, {"nodes": draw(5, 3), "edges": draw(7, 2)})


@architecture
def fnet():
    """Fourier mixing of tokens and features in place of attention."""

    def body(x):
        for _ in range(2):
            x = nn.LayerNorm()(x + jnp.fft.fft2(x).real)
            x = nn.LayerNorm()(x + nn.Dense(6)(nn.gelu(nn.Dense(12)(x))))
        return nn.Dense(3)(nn.tanh(nn.Dense(6)(x[0])))

    return linen(Body(body), draw(4, 6))


@architecture
def fourier_neural_operator():
    """Complex weights on the lowest modes, beside a pointwise map."""

    def f(x, p):
        h = x @ p["lift"]
        for _ in range(2):
            modes = jnp.fft.rfft(h, axis=0)[:3]
            modes = jnp.einsum("kc,kcd->kd", modes, lax.complex(p["real"], p["imag"]))
            h = jax.nn.gelu(jnp.fft.irfft(modes, 8, axis=0) + h @ p["w"])
        return readout(h @ p["out"])

    return Model(
        f, weights(lift=(2, 4), real=(3, 4, 4), imag=(3, 4, 4), w=(4, 4), out=(4, 1)), draw(8, 2)
    )


@architecture
def gaussian_process_head():
    """A deep kernel: posterior mean and log-variance at x, whose features enter the Cholesky."""

    def f(x, p):
        h = jnp.tanh(x @ p["w"] + p["b"])
        query, points = h[0], h[1:]

        def kernel(a, b):
            return jnp.exp(-0.5 * jnp.sum((a[:, None] - b[None]) ** 2, -1))

        gram = kernel(points, points) + 0.1 * jnp.eye(4, dtype=x.dtype)
        factor = jnp.linalg.cholesky(gram)
        cross = kernel(points, query[None])[:, 0]
        mean = cross @ jsp.linalg.cho_solve((factor, True), p["y"])
        half = jsp.linalg.solve_triangular(factor, cross, lower=True)
        log_det = 2 * jnp.log(jnp.diagonal(factor)).sum()
        return mean + jnp.log(1.1 - half @ half) + 0.1 * log_det

    return Model(f, weights(w=(3, 4), b=4, y=4), draw(5, 3))


@architecture
def sort_pooling():
    """Each channel's instances in order, and the mean of the largest (multiple instances)."""

    def f(x, p):
        h = jax.nn.relu(x @ p["w"] + p["b"])
        ordered = jnp.sort(h, 0)[::-1]
        largest = lax.top_k(h.T, 3)[0].mean(-1)
        return readout(jnp.tanh(jnp.concatenate([ordered[:2].ravel(), largest]) @ p["out"]))

    return Model(f, weights(w=(4, 5), b=5, out=(15, 3)), draw(6, 4))


@architecture
def einsum_spaghetti():
    """Contractions, diagonals, outer products and batched products of what depends on x."""

    def f(x, p):
        a = jnp.einsum("ij,jkl->ikl", x, p["a"])
        b = jnp.einsum("ikl,ilm->imk", a, jnp.tanh(jnp.einsum("ikl,km->ilm", a, p["b"])))
        c = jnp.einsum("imk,jmk->ij", b, jnp.sin(b))
        d = jnp.einsum("ij,jk,ki->i", c, jax.nn.softmax(c), c)
        e = jnp.einsum("ii->i", c) * d + jnp.einsum("ij,i,j->j", c, d, p["v"])
        return readout(jnp.arcsinh(e))

    return Model(f, weights(a=(4, 3, 2), b=(3, 3), v=5), draw(5, 4))
