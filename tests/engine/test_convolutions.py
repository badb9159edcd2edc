"""Convolutions inside loops: the form that is fast on a CPU, and the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from jaxplain._numerics.chunking import chunked_map
from jaxplain._numerics.cpu_layout import channels_last

KEY = jax.random.key(0)
FAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # batch, height, width, channels; h, w, in, out
KERNEL = jax.random.normal(KEY, (3, 3, 1, 4))
IMAGE = jax.random.normal(KEY, (8, 8, 1))


def conv(x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_general_dilated(x[None], KERNEL, (2, 2), "SAME", dimension_numbers=dimensions)
    return jnp.tanh(h).sum()


def layouts(program):
    """The dimension numbers of every convolution in a program, at any depth."""
    found = []
    for equation in program.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            numbers = equation.params["dimension_numbers"]
            found.append((numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec))
        for body in jax.tree.leaves(list(equation.params.values())):
            body = getattr(body, "jaxpr", body)
            found += layouts(body) if hasattr(body, "eqns") else []
    return found


@pytest.mark.parametrize(
    "explain",
    [
        lambda f: jxp.integrated_gradients(f, 0.0, steps=3, chunk=1),
        lambda f: jxp.integrated_gradients(f, 0.0, tolerance=1e-2),
        lambda f: jxp.guided_integrated_gradients(f, 0.0, steps=3),
        lambda f: jxp.idgi(f, 0.0, steps=3, chunk=1),
        lambda f: jxp.deeplift_shap(f, jnp.zeros((4, 8, 8, 1)), chunk=2),
        lambda f: lambda x: jxp.smooth(jxp.gradient(f), stdev=0.1, samples=3, chunk=1)(x, key=KEY),
    ],
    ids=["steps", "tolerance", "guided", "idgi", "references", "noise"],
)
def test_the_convolutions_of_every_loop_have_the_fast_layout(explain):
    program = jax.make_jaxpr(lambda xs: jax.vmap(explain(conv))(xs))(IMAGE[None])
    inside = [body for body in loops(program.jaxpr) if layouts(body)]
    assert inside
    for body in inside:
        assert len(set(layouts(body))) == 1 and layouts(body)[0] == FAST


def loops(program):
    for equation in program.eqns:
        for body in jax.tree.leaves(list(equation.params.values())):
            body = getattr(body, "jaxpr", body)
            if hasattr(body, "eqns"):
                if equation.primitive.name in ("scan", "while"):
                    yield body
                else:
                    yield from loops(body)


@pytest.mark.parametrize("dimensions, image, kernel, options", [
    (("NCHW", "OIHW", "NCHW"), (2, 4, 7, 6), (6, 4, 3, 2), {"window_strides": (2, 1)}),
    (("NHWC", "OIHW", "CHWN"), (2, 7, 6, 4), (6, 2, 3, 2), {"feature_group_count": 2}),
    (("CWHN", "IOWH", "NHWC"), (4, 6, 7, 2), (4, 6, 3, 2), {"lhs_dilation": (1, 2)}),
    (("NCHW", "HWIO", "NHWC"), (4, 3, 5, 5), (2, 2, 3, 4), {"batch_group_count": 2}),
    (("NCH", "OIH", "NCH"), (2, 3, 9), (5, 3, 4), {"rhs_dilation": (2,), "padding": [(0, 3)]}),
    (("NCDHW", "OIDHW", "NDHWC"), (1, 2, 4, 5, 3), (3, 2, 2, 1, 2), {}),
    (("NC", "OI", "CN"), (2, 3), (4, 3), {}),
])  # fmt: skip
def test_every_convolution_and_its_derivatives_are_the_same(dimensions, image, kernel, options):
    x, w = jax.random.normal(KEY, image), jax.random.normal(KEY, kernel)

    def f(x, w):
        strides = (1,) * (x.ndim - 2)
        defaults = {"window_strides": strides, "padding": [(1, 1)] * (x.ndim - 2)}
        return lax.conv_general_dilated(
            x, w, dimension_numbers=dimensions, precision="highest", **(defaults | options)
        )

    def scalar(x, w):
        return jnp.sin(jax.jit(f)(x, w)).sum()

    np.testing.assert_allclose(channels_last(f)(x, w), f(x, w), rtol=1e-5, atol=1e-5)
    both = jax.grad(scalar, (0, 1))
    for found, expected in zip(channels_last(both)(x, w), both(x, w), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    forms = layouts(jax.make_jaxpr(channels_last(both))(x, w).jaxpr)
    last = (0, x.ndim - 1, *range(1, x.ndim - 1))
    fast = (last, (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)), last)
    assert len(forms) == 3 and set(forms) == {fast}


def test_what_else_the_function_does_is_left_alone():
    @jax.custom_jvp
    def half(x):
        return x

    half.defjvp(lambda primals, tangents: (primals[0], tangents[0] / 2))

    def f(tree, n):
        out = lax.scan(lambda c, _: (half(c) * 1.5, c), tree["a"], None, length=3)[0]
        return {"y": out + n, "n": n}, conv(tree["image"])

    tree = {"a": jnp.float32(2.0), "image": IMAGE}
    same = lambda a, b: jax.tree.map(np.testing.assert_allclose, a, b)
    same(channels_last(f)(tree, 3), f(tree, 3))
    slope = lambda g: jax.grad(lambda a: g({**tree, "a": a}, 3)[0]["y"])(2.0)
    same(slope(channels_last(f)), slope(f))
    batch = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), tree)
    same(jax.vmap(channels_last(f), (0, None))(batch, 3), jax.vmap(f, (0, None))(batch, 3))


@pytest.mark.parametrize("explain", [
    jxp.guided_integrated_gradients, jxp.integrated_gradients, jxp.idgi,
])  # fmt: skip
def test_what_is_no_array_stays_as_it_is(explain):
    def f(x, times, activation):
        for _ in range(times):
            x = activation(x)
        return x.sum()

    options = {} if explain is jxp.guided_integrated_gradients else {"chunk": 1}
    x = jnp.array([0.5, 1.0])
    found = explain(f, 0.0, steps=3, **options)(x, 2, jnp.tanh)
    expected = explain(lambda x: f(x, 2, jnp.tanh), 0.0, steps=3, **options)(x)
    np.testing.assert_allclose(found, expected)


def test_chunks_bound_memory_and_leave_the_numbers():
    def compiled(**options):
        return jax.jit(jxp.integrated_gradients(conv, 0.0, **options)).lower(IMAGE).compile()

    whole = compiled(steps=32)
    for chunk in (1, 3):
        np.testing.assert_allclose(compiled(steps=32, chunk=chunk)(IMAGE), whole(IMAGE), atol=1e-5)
    memory = lambda program: program.memory_analysis().temp_size_in_bytes
    assert memory(compiled(steps=32, chunk=2)) < memory(whole) / 4
    f = lambda x: (conv(x), x.sum())
    for a, b in zip(chunked_map(f, IMAGE[None], 1), f(IMAGE), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-6)
