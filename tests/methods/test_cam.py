"""Class activation maps against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (6, 6, 2))
KERNEL = jax.random.normal(KEYS[1], (3, 3, 2, 5))
HEAD = jax.random.normal(KEYS[2], (5,))


def layer(x):
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x[None], KERNEL, (2, 2), "SAME", dimension_numbers=layout)
    return jax.nn.relu(y[0])


def f(x):
    return jnp.tanh(jxp.tag(layer(x), "layer").sum((0, 1)) / 9) @ HEAD


A = layer(X)
G = jax.grad(lambda a: jnp.tanh(a.sum((0, 1)) / 9) @ HEAD)(A)


def plus_plus():
    alpha = G**2 / (2 * G**2 + A.sum((0, 1)) * G**3)
    return (A * (alpha * np.maximum(G, 0)).sum((0, 1))).sum(-1)


MAPS = {
    jxp.grad_cam: (A * G.mean((0, 1))).sum(-1),
    jxp.hires_cam: (A * G).sum(-1),
    jxp.layer_cam: (A * np.maximum(G, 0)).sum(-1),
    jxp.grad_cam_plus_plus: plus_plus(),
}


@pytest.mark.parametrize("method", MAPS, ids=lambda method: method.__name__)
def test_maps_follow_their_formulas(method):
    heat = jax.jit(method(f, at="layer"))(X)
    assert heat.shape == (3, 3)
    assert jnp.ptp(heat) > 0
    np.testing.assert_allclose(heat, MAPS[method], rtol=1e-4, atol=1e-6)
    first = lambda x: jnp.tanh(jxp.tag(jnp.moveaxis(layer(x), -1, 0), "layer").sum((1, 2)) / 9)
    channels_first = method(lambda x: first(x) @ HEAD, at="layer", channel_axis=0)
    np.testing.assert_allclose(channels_first(X), heat, rtol=1e-4, atol=1e-6)


def test_maps_are_signed():
    negative = jxp.grad_cam(lambda x: -f(x), at="layer")(X)
    np.testing.assert_allclose(negative, -MAPS[jxp.grad_cam], rtol=1e-4, atol=1e-6)


def test_a_channel_without_gradient_weighs_nothing_in_plus_plus():
    dead = lambda x: jxp.tag(x, "layer")[..., 0].sum()
    x = jnp.array([[1.0, 2.0], [3.0, jnp.finfo(jnp.float32).max]])
    heat = jxp.grad_cam_plus_plus(dead, at="layer")(x)
    np.testing.assert_allclose(heat, np.array([1, 3]) * 2 / (2 + 4), rtol=1e-6)


def test_guided_grad_cam_is_guided_backprop_under_the_map():
    heat = jxp.cam.upsample(MAPS[jxp.grad_cam], (6, 6), "nearest")
    np.testing.assert_array_equal(heat[::2, 1::2], MAPS[jxp.grad_cam])
    expected = jxp.guided_backprop(f)(X) * heat[..., None]
    np.testing.assert_allclose(jxp.guided_grad_cam(f, at="layer")(X), expected, rtol=1e-4)
    grey = lambda x: f(jnp.stack([x, x], -1))
    scores = jxp.guided_grad_cam(grey, at="layer", input_channel_axis=None)(X[..., 0])
    assert scores.shape == (6, 6)


def test_errors():
    with pytest.raises(ValueError, match=r"nothing is named 'conv'"):
        jxp.grad_cam(f, at="conv")(X)
    with pytest.raises(ValueError, match="the layer is one name"):
        jxp.grad_cam(f, at="lay*")(X)
    with pytest.raises(ValueError, match="channel_axis is 3"):
        jxp.grad_cam(f, at="layer", channel_axis=3)(X)
    with pytest.raises(ValueError, match="does not spread"):
        jxp.cam.upsample(jnp.ones((3, 3)), (6,))
