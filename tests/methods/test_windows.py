"""Substitutions and covered windows: only what they reach is computed, and it is f's own value."""

import functools

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxplain as jxp
from benchmarks import measure
from jaxplain._numerics.windows import after_a_change

LENGTH = 61
X = jax.nn.one_hot(jax.random.randint(jax.random.key(0), (LENGTH,), 0, 4), 4)


def conv(features, width, **options):
    return nn.Conv(features, (width,), **options)


class Heads(nn.Module):
    """Layers that keep places apart, and one of many ways to end."""

    end: str

    @nn.compact
    def __call__(self, x):
        h = nn.relu(conv(6, 5)(x))
        h = nn.LayerNorm()(h + nn.gelu(conv(6, 3, kernel_dilation=2)(h)))
        if self.end == "profile":
            return conv(1, 3)(h)[4:-5, 0].sum() ** 2 + h[7, 1]
        if self.end == "pools":
            h = nn.max_pool(h, (3,), strides=(2,), padding="SAME")
            h = nn.avg_pool(h, (2,), strides=(2,))
        if self.end == "strides":
            h = conv(6, 4, strides=3, padding="VALID")(jnp.pad(h, ((2, 1), (0, 0))))
            h = conv(6, 3, padding=[(4, 0)], feature_group_count=2)(h)[1::2]
        if self.end in ("flat", "pools", "strides"):
            h = h.reshape(-1)
        elif self.end == "largest":
            h = h.max(0)
        elif self.end == "sorted":
            h = jnp.cumsum(jnp.sort(h, 1), 0)[-1]
        elif self.end == "attention":
            h = nn.MultiHeadDotProductAttention(2)(h).mean(0)
        elif self.end == "scan":
            h = nn.RNN(nn.SimpleCell(4))(h)[-1]
        elif self.end == "transposed":
            h = jnp.concatenate([h.T, 2 * h.T[:2]]) @ jnp.cos(jnp.arange(float(LENGTH)))
        else:
            h = jax.nn.softmax(h, axis=-1).mean(0)
        return nn.Dense(2)(h)[0]


ENDS = [
    "mean",
    "strides",
    *(
        pytest.param(end, marks=pytest.mark.slow)
        for end in "flat pools largest sorted attention scan transposed profile".split()
    ),
]


@functools.cache
def network(end):
    net = Heads(end)
    params = net.init(jax.random.key(1), X)
    return lambda x, params=params: net.apply(params, x)


def all_mutants(f, x):
    """One by one, by the definition."""
    length, letters = x.shape
    numbers = jnp.arange(length * letters)

    def gain(number):
        letter = jax.nn.one_hot(number % letters, letters, dtype=x.dtype)
        return f(x.at[number // letters].set(letter)) - f(x)

    return jax.vmap(gain)(numbers).reshape(length, letters)


@pytest.mark.parametrize("end", ENDS)
def test_every_substitution_gains_what_f_gains(end):
    f = network(end)
    explain = jax.jit(jxp.in_silico_mutagenesis(f, chunk=16))
    wanted = jax.jit(lambda x: all_mutants(f, x))(X)
    assert jnp.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(explain(X), wanted, rtol=1e-5, atol=3e-6 * (1 + abs(f(X))))


def test_double_precision_batches_and_int8(x64):
    f = lambda x: jnp.tanh(nn.relu(x[2:] - x[:-2] @ jnp.ones((4, 4), x.dtype)).sum(0)).sum()
    xs = jnp.stack([X, X[::-1]]).astype(jnp.float64)
    wanted = jnp.stack([all_mutants(f, x) for x in xs])
    explain = jax.jit(jax.vmap(jxp.in_silico_mutagenesis(f)))
    np.testing.assert_allclose(explain(xs), wanted, atol=1e-12)
    np.testing.assert_allclose(explain(xs.astype(jnp.int8)), wanted, atol=1e-5)


@pytest.mark.slow
def test_scores_have_the_gradients_of_the_definition():
    net = Heads("mean")
    params = net.init(jax.random.key(1), X)

    def loss(scores):
        return lambda params: jnp.sum(scores(lambda x: net.apply(params, x)) ** 2)

    x = X[:20]
    own = jax.grad(loss(lambda f: jxp.in_silico_mutagenesis(f)(x)))(params)
    wanted = jax.grad(loss(lambda f: all_mutants(f, x)))(params)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


def test_a_derivative_of_the_users_own_is_kept():
    @jax.custom_vjp
    def reversed_tanh(x):
        return jnp.tanh(x)

    reversed_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, ct: (-ct * (1 - jnp.tanh(x) ** 2),))

    def loss(scale, tanh):
        f = lambda x: tanh(scale * x).sum()
        # A letter more at a place that had one half: not all letters gain nothing.
        return jxp.in_silico_mutagenesis(f)(X[:3] / 2).sum()

    kept, plain = (float(jax.grad(loss)(0.7, tanh)) for tanh in (reversed_tanh, jnp.tanh))
    assert kept == pytest.approx(-plain, rel=1e-5) and abs(plain) > 1e-2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_window_of_any_sliding_operation(data):
    """Sizes, dilations, strides, paddings (negative ones cut) and windows at every edge."""
    draw = lambda low, high: data.draw(st.integers(low, high))
    length = draw(12, 30)
    x = jax.random.normal(jax.random.key(draw(0, 9)), (length, 2))

    def layer(h, i):
        size, dilation, stride = draw(1, 4), draw(1, 3), draw(1, 3)
        low, high = draw(-2, 4), draw(-2, 4)
        if h.shape[0] + low + high < (size - 1) * dilation + 1:
            return h
        kind = data.draw(st.sampled_from(["conv", "max", "sum"]))
        padding, strides = [(low, high)], (stride,)
        if kind == "conv":
            kernel = jnp.cos(jnp.arange(1.0, 1 + size * 4)).reshape(size, 2, 2)
            return jax.lax.conv_general_dilated(
                h[None], kernel, strides, padding, rhs_dilation=(dilation,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )[0]  # fmt: skip
        start, combine = (-jnp.inf, jax.lax.max) if kind == "max" else (0.0, jax.lax.add)
        return jax.lax.reduce_window(
            jnp.pad(h, ((max(low, 0), max(high, 0)), (0, 0))), start, combine, (size, 1),
            (stride, 1), ((0, 0), (0, 0)), window_dilation=(dilation, 1),
        )  # fmt: skip

    # Drawn once: f is traced more often than that.
    layers = [jax.make_jaxpr(lambda h: layer(h, 0))(x)]
    for i in range(2):
        shape = layers[-1].out_avals[0]
        layers.append(jax.make_jaxpr(lambda h, i=i: layer(h, i))(shape))
    outputs = layers[-1].out_avals[0].shape

    def f(h):
        for program in layers:
            [h] = jax.extend.core.jaxpr_as_fun(program)(h)
        return jnp.sin(h).sum()

    width = draw(1, 5)
    window = jax.random.normal(jax.random.key(1), (width, 2))
    after = jax.jit(after_a_change(f, x, (width, 2)))
    for start in {0, length - width, draw(0, length - width)}:
        mutant = x.at[start : start + width].set(window)
        found = after(window, jnp.array([start, 0]))
        np.testing.assert_allclose(found, f(mutant), atol=1e-4, err_msg=f"{start} {outputs}")


class Photo(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(1)(nn.relu(nn.Conv(4, (3, 3))(h)).reshape(-1))[0]


@pytest.mark.parametrize(
    ("window", "strides"),
    [pytest.param((3, 3), 2, marks=pytest.mark.slow), ((4, 5), (3, 4)), ((2,), 1)],
)
def test_covered_windows_of_an_image(window, strides):
    net, x = Photo(), jax.random.normal(jax.random.key(0), (14, 12, 2))
    params = net.init(jax.random.key(1), x)
    f, ref = (lambda x: net.apply(params, x)), 0.1 * jnp.ones((14, 12, 2))
    found = jax.jit(jxp.occlusion(f, ref, window=window, strides=strides, chunk=4))(x)
    steps = (strides,) * len(window) if isinstance(strides, int) else strides
    total, count = np.zeros(x.shape), np.zeros(x.shape)
    axes = [np.arange(0, n - w + s, s) for n, w, s in zip(x.shape, window, steps, strict=False)]
    for corner in np.stack(np.meshgrid(*axes), -1).reshape(-1, len(window)):
        part = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        total[part] += f(x) - f(x.at[part].set(ref[part]))
        count[part] += 1
    np.testing.assert_allclose(found, total / np.maximum(count, 1), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("dilations", "share"), [((1, 2, 4), 0.2), ((2, 4, 8, 16), 0.45)])
def test_the_more_local_the_cheaper(dilations, share):
    """FLOPs of all substitutions beside those of as many evaluations of f."""

    class Local(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = conv(16, 3)(x)
            for dilation in dilations:
                h = h + nn.relu(conv(16, 3, kernel_dilation=dilation)(h))
            return nn.Dense(1)(h.mean(0))[0]

    net, x = Local(), jnp.tile(X, (4, 1))[:200]
    params = net.init(jax.random.key(1), x)
    f = lambda x: net.apply(params, x)
    flops = lambda g: measure.flops(jax.jit(g).lower(x).compile())
    own, mutants = flops(jxp.in_silico_mutagenesis(f)), flops(lambda x: all_mutants(f, x))
    assert own < share * mutants
