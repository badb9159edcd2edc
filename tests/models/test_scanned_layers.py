"""Layers in a scan are explained as the same layers written out, step by step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.marks import some_slow

LAYERS, TOKENS, WIDTH = 3, 4, 5
KEYS = jax.random.split(jax.random.key(0), 8)
PARAMS = {
    name: jax.random.normal(key, (LAYERS, *shape)) / 2
    for name, key, shape in zip(
        ["query", "key", "up", "down"], KEYS, [(5, 5), (5, 5), (5, 8), (8, 5)], strict=False
    )
}
X, REF = jax.random.normal(KEYS[5], (2, TOKENS, WIDTH))
NAMES = ["attention", "mlp", "stream"]


def block(x, p):
    """A transformer layer: softmax attention and an MLP, each added to the stream."""
    normal = jax.nn.standardize(x, epsilon=0.1)
    weights = jax.nn.softmax((normal @ p["query"]) @ (normal @ p["key"]).T)
    x = x + jxp.tag(weights @ normal, "attention")
    x = x + jxp.tag(jax.nn.gelu(jax.nn.standardize(x, epsilon=0.1) @ p["up"]) @ p["down"], "mlp")
    return jxp.tag(x, "stream"), None


def scanned(x):
    return jnp.tanh(jax.lax.scan(jax.checkpoint(block), x, PARAMS)[0]).sum()


def written_out(x):
    for i in range(LAYERS):
        x, _ = block(x, jax.tree.map(lambda p: p[i], PARAMS))
    return jnp.tanh(x).sum()


def by_layer(values):
    return {name: jnp.stack([values[f"{name}#{i}"] for i in range(LAYERS)]) for name in NAMES}


METHODS = {
    "gradient": jxp.gradient,
    "input_x_gradient": jxp.input_x_gradient,
    "guided_backprop": jxp.guided_backprop,
    "attn_lrp": jxp.attn_lrp,
    "deeplift": lambda f, **at: jxp.deeplift(f, REF, **at),
    "reveal_cancel": lambda f, **at: jxp.deeplift(f, REF, rules="reveal_cancel", **at),
    "conductance": lambda f, **at: jxp.conductance(f, REF, steps=3, **at),
    "neuron_ig": lambda f, **at: jxp.neuron_integrated_gradients(f, REF, steps=3, **at),
    "influence": lambda f, **at: jxp.internal_influence(f, REF, steps=3, **at),
    "integrated_gradients": lambda f, **at: jxp.integrated_gradients(f, REF, steps=3, **at),
    "idgi": lambda f, **at: jxp.idgi(f, REF, steps=3, **at),
    "patching": lambda f, **at: jxp.attribution_patching(f, REF, **at),
    "ablation": lambda f, **at: jxp.ablation(f, 0.0, **at),
}
QUICK = ["gradient", "deeplift", "integrated_gradients", "ablation"]


@pytest.mark.parametrize("method", some_slow(METHODS, METHODS.keys() - QUICK))
def test_each_step_is_its_layer(method):
    inside = partial(METHODS[method], at=["stream*", "mlp*"])
    ours, own = jax.jit(lambda x: (inside(scanned)(x), inside(written_out)(x)))(X)
    for name in ("stream", "mlp"):
        each = jnp.stack([own[f"{name}#{i}"] for i in range(LAYERS)])
        assert abs(each).max() > 1e-2
        np.testing.assert_allclose(ours[name], each, atol=1e-4 * abs(each).max())


def test_values_are_stacked_and_edited_by_step():
    y, values = jax.jit(jxp.capture(scanned))(X)
    want, each = jax.jit(jxp.capture(written_out))(X)
    np.testing.assert_allclose(y, want, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), values, by_layer(each))
    other = values["mlp"] + 1
    one_step = (jnp.arange(LAYERS) == 1).reshape(-1, 1, 1)
    edited = jax.jit(lambda x: jxp.intervene(scanned, {"mlp": (other, one_step)})(x))(X)
    want = jax.jit(lambda x: jxp.intervene(written_out, {"mlp#1": other[1]})(x))(X)
    np.testing.assert_allclose(edited, want, rtol=1e-5)


def test_every_cut_by_steps_is_complete():
    change = scanned(X) - scanned(REF)
    scores = jax.jit(jxp.deeplift(scanned, REF, at="stream"))(X)
    np.testing.assert_allclose(scores.sum((1, 2)), change, rtol=1e-4)
    explain = jxp.integrated_gradients(scanned, REF, at="stream", steps=64, return_gap=True)
    scores, gaps = jax.jit(explain)(X)
    assert gaps.shape == (LAYERS,)
    np.testing.assert_allclose(scores.sum((1, 2)), change, rtol=1e-2)


def test_steps_that_do_not_feed_one_another_are_one_cut():
    def f(x):
        rows = jax.lax.map(lambda row: jxp.tag(jnp.tanh(row), "row"), x)
        return jnp.prod(rows.sum(1))

    explain = jxp.integrated_gradients(f, 0.0, at="row", steps=4)
    x = jnp.arange(1.0, 7.0).reshape(3, 2) / 5
    np.testing.assert_allclose(jax.jit(explain)(x).sum(), f(x), rtol=1e-5)


@pytest.mark.slow
def test_edges_go_from_step_to_step():
    edges = jax.jit(jxp.edge_attributions(scanned, REF, at=["attention", "mlp"]))(X)
    nodes = jax.jit(jxp.attribution_patching(scanned, REF, at=["attention", "mlp"]))(X)
    assert ("mlp", "mlp") in edges  # of one layer to that of the next
    for name, score in nodes.items():
        total = sum(score for (u, _), score in edges.items() if u == name)
        np.testing.assert_allclose(total, score, atol=1e-4)
