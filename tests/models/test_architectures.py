"""The literature's architectures are explained completely; what routing can't carry is returned."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jxp
from tests.support.architectures import ARCHITECTURES, mixture, one_hot_gates, threshold_gates
from tests.support.checks import magnitude, total
from tests.support.marks import slow_but
from tests.support.zoo import Model, cast, draw, paired, references, weights

QUICK = ("mobilenet", "mamba", "graph_attention")
ROUTED = {"mixture_of_experts"}  # may leave a gap, which is another test's subject



@pytest.mark.promotes
@pytest.mark.parametrize("name", slow_but(ARCHITECTURES, QUICK))
def test_complete_in_float32(name, record_property):
    m = ARCHITECTURES[name]()

    @jax.jit
    def explain(x, ref, params):
        scores, gap = jxp.deeplift(m.f, ref, return_gap=True)(x, params)
        return scores, m.f(x, params) - m.f(ref, params), gap

    worst = 0.0
    for ref in references(m.x).values():
        scores, change, gap = explain(m.x, ref, m.params)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(scores))
        missing = float(change) - total(scores) - (float(gap) if name in ROUTED else 0)
        worst = max(worst, abs(missing) / max(1, magnitude(scores)))
    record_property("gap in float32", float(worst))
    assert worst <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ROUTED])
def test_each_input_sums_to_its_own_part_in_float64(name, record_property, x64):
    m = ARCHITECTURES[name]()
    m, parts = paired(Model(m.f, cast(m.params, jnp.float64), cast(m.x, jnp.float64)))
    explain = jax.jit(lambda x, ref, p: (jxp.deeplift(m.f, ref)(x, p), parts(x, p) - parts(ref, p)))
    worst = 0.0
    for ref in references(m.x).values():
        scores, changes = explain(m.x, ref, m.params)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(scores))
        for leaf, change in zip((scores["a"], scores["b"]), changes, strict=True):
            worst = max(worst, abs(total(leaf) - float(change)) / max(1, magnitude(leaf)))
    record_property("gap in float64", float(worst))
    assert worst <= 1e-12


# Routing.


def routed(gates, k=2):
    p = weights(router=(4, 4), gate=(4, 4, 5), up=(4, 4, 5), down=(4, 5, 4))
    return jax.jit(lambda x: jnp.tanh(mixture(x[None], p, gates, k)).sum()), p


def test_both_ways_to_gate_are_one_function():
    x = draw(5, 4)
    np.testing.assert_allclose(one_hot_gates(x, 2), threshold_gates(x, 2), rtol=1e-5)


@pytest.mark.promotes
@pytest.mark.parametrize("seed", range(2))
def test_routing_by_threshold_is_carried_where_it_flips(seed, x64):
    f, p = routed(threshold_gates, k=1)
    x = cast(draw(4, seed=seed), jnp.float64)
    assert np.argmax(x @ p["router"]) != np.argmax(-x @ p["router"])
    scores, gap = jxp.deeplift(f, -x, return_gap=True)(x)
    assert abs(gap) <= 1e-12 and jnp.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(), f(x) - f(-x), rtol=1e-9)


@pytest.mark.promotes
def test_routing_that_agrees_leaves_no_gap(x64):
    f, p = routed(one_hot_gates)
    x, ref = (cast(draw(4, seed=seed), jnp.float64) for seed in (0, 1))
    ref = x + 0.1 * ref
    chosen, chosen0 = (set(np.argsort(v @ p["router"])[-2:].tolist()) for v in (x, ref))
    assert chosen == chosen0
    scores, gap = jxp.deeplift(f, ref, return_gap=True)(x)
    assert abs(gap) <= 1e-12 and scores.any()
    np.testing.assert_allclose(scores.sum(), f(x) - f(ref), rtol=1e-9)


@pytest.mark.promotes
def test_a_route_is_part_of_f_and_frozen_on_request(x64):
    """Its flip is explained with it; where it is x's own, the flip stays an explicit rest."""
    f, p = routed(one_hot_gates, k=1)
    x = cast(draw(4), jnp.float64)
    ref = -x
    assert np.argmax(x @ p["router"]) != np.argmax(ref @ p["router"])
    _, gap = jxp.deeplift(f, ref, return_gap=True)(x)
    assert abs(gap) < 1e-9
    frozen = jxp.rules.freeze_choices(jxp.rules.rescale())
    scores, gap = jxp.deeplift(f, ref, rules=frozen, return_gap=True)(x)
    assert jnp.isfinite(scores).all() and abs(gap) > 1e-3
    np.testing.assert_allclose(scores.sum() + gap, f(x) - f(ref), rtol=1e-9)


def test_experts_looked_up_by_their_route_are_complete():
    _, p = routed(one_hot_gates)

    def f(x):
        _, chosen = jax.lax.top_k(x @ p["router"], 2)
        return jnp.tanh(jnp.einsum("d,kdh->kh", x, p["up"][chosen])).sum()

    x, ref = draw(4), -draw(4)
    scores = jxp.deeplift(f, ref)(x)
    np.testing.assert_allclose(scores.sum(), f(x) - f(ref), rtol=1e-4, atol=1e-5)


# One architecture, five ways to write it.


def by_hand(x, p):
    """Convolution, batch norm in inference mode, relu, max-pool, dense, gelu, layer norm, dense."""
    h = jax.lax.conv_general_dilated(
        x[None], p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = (h[0] + p["conv_bias"] - p["mean"]) / jnp.sqrt(p["var"] + 1e-5) * p["scale"] + p["offset"]
    h = jax.nn.relu(h)
    h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    h = jax.nn.gelu(h.ravel() @ p["hidden"] + p["hidden_bias"])
    h = (h - h.mean()) * jax.lax.rsqrt(h.var() + 1e-5) * p["norm_scale"] + p["norm_offset"]
    return (h @ p["out"] + p["out_bias"])[1]


def by_linen(p):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Conv(4, (3, 3))(x)
            h = nn.relu(nn.BatchNorm(use_running_average=True)(h))
            h = nn.max_pool(h, (2, 2), (2, 2)).ravel()
            h = nn.LayerNorm(epsilon=1e-5)(nn.gelu(nn.Dense(6)(h)))
            return nn.Dense(3)(h)

    variables = {
        "params": {
            "Conv_0": {"kernel": p["conv"], "bias": p["conv_bias"]},
            "BatchNorm_0": {"scale": p["scale"], "bias": p["offset"]},
            "Dense_0": {"kernel": p["hidden"], "bias": p["hidden_bias"]},
            "LayerNorm_0": {"scale": p["norm_scale"], "bias": p["norm_offset"]},
            "Dense_1": {"kernel": p["out"], "bias": p["out_bias"]},
        },
        "batch_stats": {"BatchNorm_0": {"mean": p["mean"], "var": p["var"]}},
    }
    return lambda x: Network().apply(variables, x)[1]


def by_nnx(p):
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.hidden = nnx.Linear(36, 6, rngs=rngs)
            self.layer_norm = nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs)
            self.out = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            h = nnx.max_pool(nnx.relu(self.norm(self.conv(x[None]))), (2, 2), (2, 2))
            return self.out(self.layer_norm(nnx.gelu(self.hidden(h.ravel()))))

    network = Network(nnx.Rngs(0))
    values = {
        ("conv", "kernel"): "conv", ("conv", "bias"): "conv_bias",
        ("norm", "scale"): "scale", ("norm", "bias"): "offset",
        ("norm", "mean"): "mean", ("norm", "var"): "var",
        ("hidden", "kernel"): "hidden", ("hidden", "bias"): "hidden_bias",
        ("layer_norm", "scale"): "norm_scale", ("layer_norm", "bias"): "norm_offset",
        ("out", "kernel"): "out", ("out", "bias"): "out_bias",
    }  # fmt: skip
    for (module, leaf), name in values.items():
        variable = getattr(getattr(network, module), leaf)
        setattr(getattr(network, module), leaf, type(variable)(p[name]))
    return lambda x: network(x)[1]


def by_equinox(p):
    """Channels first, weights (out, in); batch norm merged, for its own wants a state."""
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)
    scale = p["scale"] / jnp.sqrt(p["var"] + 1e-5)
    conv = eqx.nn.Conv2d(2, 4, 3, padding=1, key=key)
    pool, norm = eqx.nn.MaxPool2d(2, 2), eqx.nn.LayerNorm(6)
    hidden, out = eqx.nn.Linear(36, 6, key=key), eqx.nn.Linear(6, 3, key=key)

    def filled(layer, weight, bias):
        return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))

    kernel = (p["conv"] * scale).transpose(3, 2, 0, 1)
    bias = ((p["conv_bias"] - p["mean"]) * scale + p["offset"])[:, None, None]
    conv = filled(conv, kernel, bias)
    channels_first = p["hidden"].reshape(3, 3, 4, 6).transpose(2, 0, 1, 3).reshape(36, 6)
    hidden = filled(hidden, channels_first.T, p["hidden_bias"])
    norm = filled(norm, p["norm_scale"], p["norm_offset"])
    out = filled(out, p["out"].T, p["out_bias"])
    network = eqx.nn.Sequential(
        [
            conv, eqx.nn.Lambda(jax.nn.relu), pool, eqx.nn.Lambda(jnp.ravel), hidden,
            eqx.nn.Lambda(jax.nn.gelu), norm, out,
        ]
    )  # fmt: skip
    return lambda x: network(x.transpose(2, 0, 1))[1]


def by_haiku(p):
    hk = pytest.importorskip("haiku")

    def network(x):
        h = hk.Conv2D(4, 3)(x[None])
        h = hk.BatchNorm(True, True, 0.9)(h, is_training=False)
        h = hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID")(jax.nn.relu(h))
        h = jax.nn.gelu(hk.Linear(6)(h.ravel()))
        return hk.Linear(3)(hk.LayerNorm(-1, True, True)(h))

    transformed = hk.transform_with_state(network)
    params = {
        "conv2_d": {"w": p["conv"], "b": p["conv_bias"]},
        "batch_norm": {name: p[name].reshape(1, 1, 1, 4) for name in ("scale", "offset")},
        "linear": {"w": p["hidden"], "b": p["hidden_bias"]},
        "layer_norm": {"scale": p["norm_scale"], "offset": p["norm_offset"]},
        "linear_1": {"w": p["out"], "b": p["out_bias"]},
    }
    averages = {
        f"batch_norm/~/{name}_ema": {"average": p[name].reshape(1, 1, 1, 4)}
        for name in ("mean", "var")
    }
    return lambda x: transformed.apply(params, averages, None, x)[0][1]


@pytest.mark.promotes
@pytest.mark.parametrize("write", [by_linen, by_nnx, by_equinox, by_haiku])
def test_one_architecture_has_one_explanation(write):
    p = weights(
        conv=(3, 3, 2, 4), conv_bias=4, mean=4, var=4, scale=4, offset=4, hidden=(36, 6),
        hidden_bias=6, norm_scale=6, norm_offset=6, out=(6, 3), out_bias=3,
    )  # fmt: skip
    p["var"] = jnp.exp(p["var"])
    x, ref = draw(6, 6, 2), 0.3 * draw(6, 6, 2, seed=1)
    f = write(p)

    @jax.jit
    def explain(x, ref, p):
        return jxp.deeplift(by_hand, ref)(x, p), jxp.deeplift(f, ref, return_gap=True)(x)

    expected, (scores, gap) = explain(x, ref, p)
    size = float(jnp.abs(expected).max())
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5 * size)
    assert abs(gap) <= 1e-5 * max(1, magnitude(scores))
