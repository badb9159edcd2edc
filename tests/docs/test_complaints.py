"""When it complains: the errors listed are the real ones, and what is said of the rest is so."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jxp

COMPLAINTS = (Path(__file__).parents[2] / "docs" / "complaints.md").read_text()
X = jnp.array([1.0, 2.0, 3.0])


def doubling(x):
    return jax.lax.while_loop(lambda c: c.sum() < 100, lambda c: 2 * c + 1, x).sum()


def outside_jax(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(lambda x: np.asarray(x).sum(), shape, x)


DROPOUT = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


ERRORS = {
    "f must return a scalar": (lambda x: 2 * x, 0.0, X),
    "f must return one scalar": (lambda x: (x.sum(), x), 0.0, X),
    "only floating inputs have attributions": (jnp.sum, 0.0, jnp.arange(3)),
    "changes the state of a Flax nnx model": (lambda x: DROPOUT(x).sum(), 0.0, X),
    "the reference does not broadcast to the input": (jnp.sum, jnp.zeros(2), X),
    "no rule for the primitive": (outside_jax, 0.0, X),
    "carries a value that depends on x": (doubling, 0.0, X),
    "branches on a value that depends on x": (
        lambda x: jax.lax.cond(x[0] > 0, outside_jax, jnp.sum, x),
        0.0,
        X,
    ),
    "is not differentiable, and depends on x": (
        lambda x: jax.vmap(lambda v: jax.lax.pmax(v, "i"), axis_name="i")(x).sum(),
        0.0,
        X,
    ),
    "broke its contract": (
        lambda x: jnp.sum(jnp.tanh(x)),
        0.0,
        X,
        jxp.rules.rescale().register(jax.lax.tanh_p, lambda equation, x: [x, x]),
    ),
}


def test_the_errors_listed_are_the_errors_tested():
    assert re.findall(r"^\| `(.*?)` \|", COMPLAINTS, re.M) == [*ERRORS]


@pytest.mark.parametrize("words", ERRORS)
def test_an_error_says_what_the_page_says(words):
    f, ref, x, *rules = ERRORS[words]
    with pytest.raises((TypeError, ValueError, jxp.UnsupportedPrimitive), match=words):
        jxp.deeplift(f, ref, rules=[*rules, "rescale"][0])(x)


@pytest.mark.parametrize("f", [
    lambda x: jax.lax.cond(x[0] > 0, jnp.sum, jnp.prod, x),
    lambda x: x[jnp.argmax(x)] * x[0],
    lambda x: (jax.nn.one_hot(x.argmax(), 3) * x).sum(),
    lambda x: jnp.argsort(x).astype(float) @ x,
    lambda x: jnp.arange(5.0)[x[0].astype(int)] * x[1],
])  # fmt: skip
def test_branches_and_indices_that_depend_on_x_are_explained(f):
    contributions, gap = jxp.deeplift(f, -1.0, return_gap=True)(X)
    assert abs(gap) < 1e-5
    np.testing.assert_allclose(contributions.sum(), f(X) - f(-jnp.ones(3)), rtol=1e-5)


def test_advice_on_a_loop_holds():
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda _, c: c * c, x).sum()

    np.testing.assert_allclose(jxp.deeplift(f, 0.0)(X), X**8, rtol=1e-5)


def test_a_reference_outside_the_domain_is_not_finite():
    assert not jnp.isfinite(jxp.deeplift(lambda x: jnp.log(x).sum(), 0.0)(X)).any()


def test_float64_is_as_exact_as_it_allows(x64):
    x = jnp.linspace(-1.0, 2.0, 7)
    _, gap = jxp.deeplift(lambda x: jnp.tanh(x @ jnp.sin(x)) * x.sum(), 0.5, return_gap=True)(x)
    assert gap.dtype == jnp.float64 and abs(gap) < 1e-13
