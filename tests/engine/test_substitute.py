"""Functions in the place of kernels, by the names of their calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

import jaxplain as jxp

X = jnp.array([0.5, -1.0, 0.3])


def kernel(x):
    """For an accelerator: it can't run here, and what stands in for it must not ask it to."""

    def body(x_ref, o_ref):
        o_ref[...] = jnp.tanh(x_ref[...])

    return pl.pallas_call(body, jax.ShapeDtypeStruct(x.shape, x.dtype), name="fused_tanh")(x)


def foreign(x):
    return jax.ffi.ffi_call("fused_tanh", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


@jax.custom_vjp
def with_derivative(x):
    return kernel(x)


with_derivative.defvjp(lambda x: (kernel(x), x), lambda x, g: (jnp.nan * g,))


def stack(layer):
    """Layers in a scan, a remat and a jit; one in a branch."""

    def f(x):
        step = lambda h, _: (jax.checkpoint(lambda h: 1.5 * jax.jit(layer)(h))(h), None)
        h = jax.lax.scan(step, x, length=2)[0]
        return jax.lax.cond(jnp.sum(x) > 9, lambda h: h, layer, h).sum()

    return f


@pytest.mark.parametrize("layer", [kernel, foreign, with_derivative])
def test_every_call_of_a_name_is_substituted_wherever_it_stands(layer):
    f, plain = jxp.substitute(stack(layer), {"fused_tanh": jnp.tanh}), stack(jnp.tanh)
    np.testing.assert_allclose(f(X), plain(X), rtol=1e-6)
    scores = jax.jit(jxp.deeplift(f, 0.1))(X)
    np.testing.assert_allclose(scores, jax.jit(jxp.deeplift(plain, 0.1))(X), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(f)(jnp.stack([X, -X])), [plain(X), plain(-X)], rtol=1e-5)


def test_the_outermost_call_of_several_operands_and_outputs():
    @jax.jit
    def attention(q, kv, scale):
        return {"out": kernel(q * kv["k"]), "sum": kernel(scale * kv["v"]).sum()}

    f = lambda x: (lambda y: y["out"] @ x + y["sum"])(attention(x, {"k": 2 * x, "v": x + 1}, 3.0))

    def instead(q, k, v, scale):
        return jnp.tanh(q * k), jnp.tanh(scale * v).sum()

    both = {"attention": instead, "fused_tanh": jnp.tanh}
    a, b = (jxp.substitute(f, {name: both[name]})(X) for name in both)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(jxp.substitute(f, both)(X), a, rtol=1e-6)


def test_a_kernel_without_a_derivative_is_refused_with_the_way_out():
    with pytest.raises(jxp.UnsupportedPrimitive, match=r"substitute\(f, \{'fused_tanh': function"):
        jax.make_jaxpr(jxp.deeplift(lambda x: foreign(x).sum(), 0.0))(X)
    jxp.deeplift(jxp.substitute(lambda x: foreign(x).sum(), {"fused_tanh": jnp.tanh}), 0.0)(X)


def test_errors():
    with pytest.raises(ValueError, match=r"named 'tanh'.*kernels \['fused_tanh'\]"):
        jxp.substitute(stack(kernel), {"tanh": jnp.tanh})(X)
    with pytest.raises(ValueError, match=r"named 'tanh'\. It calls nothing"):
        jxp.substitute(lambda x: 2 * x, {"tanh": jnp.tanh})(X)
    with pytest.raises(ValueError, match=r"must return float32\[3\].* and returned float32\[2\]"):
        jxp.substitute(stack(kernel), {"fused_tanh": lambda x: x[:2]})(X)
    with pytest.raises(TypeError, match="'fused_tanh' is a str"):
        jxp.substitute(stack(kernel), {"fused_tanh": "tanh"})
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: kernel(x) + 1, x)
    with pytest.raises(ValueError, match=r"'while'.*can't be opened"):
        jxp.substitute(loop, {"fused_tanh": jnp.tanh})(X)
