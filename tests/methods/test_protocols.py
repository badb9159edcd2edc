"""What all methods have in common: keys, chunks, classes, strict promotion, tolerances on parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.marks import slow_but

V, X = jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([0.3, -0.2, 0.5, 1.0])
GROUPS, KEY = np.array([0, 0, 1, 1]), jax.random.key(0)
REFS = jnp.stack([0 * X, 0 * X + 0.1])


def f(x):
    return jnp.tanh(jxp.tag(x * V, "h")).sum()


DRAWN = {
    "smooth": lambda **o: jxp.smooth(jxp.gradient(f), stdev=0.1, samples=4, **o),
    "expected_gradients": lambda **o: jxp.expected_gradients(f, REFS, samples=4, **o),
    "shapley_values": lambda **o: jxp.shapley_values(f, 0.0, samples=12, **o),
    "kernel_shap": lambda **o: jxp.kernel_shap(f, 0.0, samples=12, **o),
    "permutation": lambda **o: jxp.permutation_shapley(f, 0.0, samples=12, **o),
    "lime": lambda **o: jxp.lime(f, 0.0, samples=10, **o),
    "rise": lambda **o: jxp.rise(f, 0.0, grid=(2,), samples=4, **o),
    "sobol": lambda **o: jxp.sobol(f, 0.0, samples=4, **o),
    "deeplift_shap": lambda **o: jxp.deeplift_shap(f, lambda x, key: REFS, **o),
}
FIXED = {
    "integrated": lambda **o: jxp.integrated_gradients(f, 0.0, **o),
    "idgi": lambda **o: jxp.idgi(f, 0.0, **o),
    "conductance": lambda **o: jxp.conductance(f, 0.0, at="h", **o),
    "ablation": lambda **o: jxp.ablation(f, 0.0, **o),
    "occlusion": lambda **o: jxp.occlusion(f, 0.0, window=2, **o),
    "shapley": lambda **o: jxp.shapley_values(f, 0.0, groups=GROUPS, **o),
}


@pytest.mark.parametrize("name", DRAWN)
def test_one_sentence_for_a_missing_key(name):
    explain = DRAWN[name]()
    with pytest.raises(TypeError, match=r"^a key is missing: call .*key=jax.random.key\(0\)"):
        explain(X)
    with pytest.raises(TypeError, match=r"^0 is no key: call .*key=jax.random.key\(0\)"):
        explain(X, key=0)
    with pytest.raises(TypeError, match=r"^one key is wanted, and these are \(3,\).*jax.vmap"):
        explain(X, key=jax.random.split(KEY, 3))


@pytest.mark.parametrize("name", FIXED)
def test_one_sentence_for_a_surplus_key(name):
    with pytest.raises(TypeError, match=r"^explain got \['key'\].*nothing to draw"):
        FIXED[name]()(X, key=KEY)


@pytest.mark.parametrize("name", [*DRAWN, *FIXED])
def test_chunks_are_checked_when_a_method_is_built(name):
    for chunk in (0, -1, 0.5):
        with pytest.raises(ValueError, match=r"^chunk must be at least 1, and is"):
            (DRAWN | FIXED)[name](chunk=chunk)


@pytest.mark.parametrize("name", [*DRAWN, *FIXED])
def test_methods_run_where_promotion_is_forbidden(name, strict_promotion):
    options = {"key": KEY} if name in DRAWN else {}
    jax.jit((DRAWN | FIXED)[name]())(X, **options)


TARGETS = {
    "logit": jxp.logit,
    "probability": jxp.probability,
    "log_likelihood": jxp.log_likelihood,
    "contrast": jxp.contrast,
    "log_odds": lambda f, k: jxp.log_odds(f, k, 0),
}


@pytest.mark.parametrize("name", slow_but(TARGETS, ["logit", "log_odds"]))
def test_a_class_that_there_is_not(name):
    net, target = lambda x: x * V, TARGETS[name]
    for index in (4, -5, np.int64(4), jnp.array(9), jnp.array(-9), (np.int8(4),)):
        with pytest.raises(IndexError, match="out of range"):
            target(net, index)(X)
    explain = jax.jit(lambda k: jxp.deeplift(target(net, k), 0.0)(X))
    value = jax.jit(lambda k: target(net, k)(X))
    for index in (4, -5):
        assert jnp.isnan(value(index)) and jnp.isnan(explain(index)).all()
    scores = jax.vmap(lambda k: jxp.deeplift(target(net, k), 0.0)(X))(jnp.array([1, -1, 7]))
    for row, index in zip(scores, (1, -1), strict=False):
        expected = jxp.deeplift(target(net, index), 0.0)(X)
        np.testing.assert_allclose(row, expected, atol=1e-6)
    assert jnp.isnan(scores[2]).all()


def test_targets_of_one_logit_name_the_sigmoid():
    for target in (jxp.probability, jxp.log_likelihood, jxp.contrast):
        with pytest.raises(ValueError, match=r"always [01], .*sigmoid"):
            jxp.deeplift(target(lambda x: x[:1], 0), 0.0)(X)
    with pytest.raises(ValueError, match="always 0"):
        jxp.log_odds(lambda x: x[:1], 0, -1)(X)


@pytest.mark.parametrize("samples", [4, 50, 5000])
def test_lime_of_all_sets_is_as_of_drawn_ones(samples):
    linear = lambda x: x[0] + 2 * x[1]
    for penalty in ("ridge", "lasso"):
        for unit in (1.0, 0.01):
            g = lambda x: unit * linear(x)
            got = jxp.lime(g, 0.0, samples=samples, penalty=penalty)(jnp.ones(2))
            np.testing.assert_allclose(got / unit, [1, 2], rtol=0.01)


def test_values_are_ablated_to_infinity():
    decay = lambda x: jnp.exp(-jxp.tag(x, "h")).sum()
    got = jxp.ablation(decay, jnp.inf, at="h")(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [1, np.exp(-1)], rtol=1e-6)


def test_a_tolerance_is_one_on_parts():
    cubes = lambda x: x[0] ** 3 - x[1] ** 3
    scores, _ = jxp.integrated_gradients(cubes, 0.0, tolerance=1e-6)(jnp.ones(2))
    np.testing.assert_allclose(scores, [1, -1], atol=2e-6)
    kinks = lambda x: jnp.abs(x[0] - 0.3) - jnp.abs(x[1] - 0.3) + x[2] ** 3
    scores, _ = jax.jit(jxp.integrated_gradients(kinks, 0.0, tolerance=1e-3))(jnp.ones(3))
    np.testing.assert_allclose(scores, [0.4, -0.4, 1], atol=2e-3)


WEIGHTS = jnp.linspace(-1.0, 1.0, 20).reshape(4, 5)
MODELS = {
    "dense": lambda x: jnp.tanh(jax.nn.relu(x @ WEIGHTS) + 0.5).sum(),
    "softmax": lambda x: jax.nn.log_softmax(x @ WEIGHTS)[0] + jax.nn.softmax(x)[1],
    "products": lambda x: jnp.prod(x) + jnp.max(x) + (x * jax.nn.gelu(x)).sum() / (1 + x @ x),
    "norm": lambda x: (x * jax.lax.rsqrt(x.var() + 1e-5)).sum() + jnp.cumsum(x)[2],
}


@pytest.mark.parametrize("rules", ["rescale", "reveal_cancel", "central_limit"])
@pytest.mark.parametrize("model", MODELS)
def test_rules_run_where_promotion_is_forbidden(model, rules, strict_promotion):
    scores = jax.jit(jxp.deeplift(MODELS[model], 0.1, rules=rules))(X)
    assert jnp.isfinite(scores).all()
