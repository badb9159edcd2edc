"""Averages over references and noise: what they equal, what they cost, what they refuse."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain._numerics.chunking import moments, weighted_sum
from tests.support.checks import flops
from tests.support.marks import slow_but, some_slow

KEY = jax.random.key(0)
WIDTH, REFERENCES = 6, 7


@pytest.fixture(scope="module")
def params():
    first, second = jax.random.split(KEY)
    return {
        "w": jax.random.normal(first, (WIDTH, 16)) / 2,
        "v": jax.random.normal(second, (16,)) / 4,
    }


def f(x, params):
    h = x["a"].sum(1) if isinstance(x, dict) else x
    h = jnp.concatenate([h, x["b"]]) if isinstance(x, dict) else h
    return jnp.tanh(h @ params["w"]) @ params["v"]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def tree(seed, *leading):
    return {"a": normal(seed, *leading, 4, 3), "b": normal(seed + 1, *leading, 2)}


def trees_close(got, expected, **tolerance):
    tolerance = {"rtol": 2e-6, "atol": 2e-6} | tolerance
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, **tolerance), got, expected)


def each(method, refs, x, params, **options):
    """Every reference's explanation, stacked, by a loop."""
    count = len(jax.tree.leaves(refs)[0])
    all_refs = [jax.tree.map(lambda r: r[i], refs) for i in range(count)]
    results = [method(f, ref, **options)(x, params) for ref in all_refs]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def mean(results):
    return jax.tree.map(lambda r: r.mean(0), results)


def temporary(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


METHODS = {
    "deeplift": (jxp.deeplift, {}),
    "multipliers": (jxp.deeplift, {"multiply": False}),
    "with_gap": (jxp.deeplift, {"return_gap": True}),
    "integrated_gradients": (jxp.integrated_gradients, {"steps": 4, "chunk": None}),
    "input_x_gradient": (jxp.input_x_gradient, {}),
}


@pytest.mark.parametrize("method, options", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("chunk", slow_but([None, 1, 3, 7, 100], [3]))
def test_expected_is_the_mean_over_references(method, options, chunk, params):
    x, refs = tree(1), tree(3, REFERENCES)
    explain = jxp.expected(functools.partial(method, **options))(f, refs, chunk=chunk)
    trees_close(jax.jit(explain)(x, params), mean(each(method, refs, x, params, **options)))


def test_expected_of_a_complete_method_is_complete(params):
    x, refs = normal(1, WIDTH), normal(2, REFERENCES, WIDTH)
    scores = jxp.deeplift_shap(f, refs)(x, params)
    change = f(x, params) - jax.vmap(f, (0, None))(refs, params).mean()
    np.testing.assert_allclose(scores.sum(), change, atol=1e-6)


def test_deeplift_shap_is_expected_deeplift(params):
    x, refs = normal(1, WIDTH), normal(2, REFERENCES, WIDTH)
    options = {"chunk": 3, "standard_error": True, "multiply": False, "return_gap": True}
    ours = jxp.deeplift_shap(f, refs, **options)(x, params)
    trees_close(ours, jxp.expected(jxp.deeplift)(f, refs, **options)(x, params), rtol=0, atol=0)
    means, errors = ours
    assert [len(means), len(errors)] == [2, 2] and means[0].shape == errors[0].shape == (WIDTH,)


def test_sizes_of_one_broadcast(params):
    x = normal(1, 3, WIDTH)
    g = lambda x, params: f(x.sum(0), params)
    refs = normal(2, REFERENCES, 1, WIDTH)
    spread = jnp.broadcast_to(refs, (REFERENCES, 3, WIDTH))
    explain = jxp.expected(jxp.deeplift)
    trees_close(explain(g, refs)(x, params), explain(g, spread)(x, params), rtol=0, atol=0)


def test_arguments_are_chosen_by_argnums(params):
    g = lambda params, a, b: f(jnp.concatenate([a, b]), params)
    x = (normal(1, 4), normal(2, 2))
    refs = (normal(3, REFERENCES, 4), normal(4, REFERENCES, 2))
    got = jxp.deeplift_shap(g, refs, argnums=(1, 2))(params, *x)
    joined = jxp.deeplift_shap(f, jnp.concatenate(refs, 1))(jnp.concatenate(x), params)
    trees_close(jnp.concatenate(got), joined)
    sampled = jxp.deeplift_shap(g, lambda x, key: refs, argnums=(1, 2))(params, *x, key=KEY)
    trees_close(sampled, got, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [None, 1, 3, 7])
def test_standard_error_is_that_of_the_mean(chunk, params):
    x, refs = tree(1), tree(3, REFERENCES)
    options = {"standard_error": True, "chunk": chunk, "return_gap": True}
    means, errors = jax.jit(jxp.deeplift_shap(f, refs, **options))(x, params)
    results = each(jxp.deeplift, refs, x, params, return_gap=True)
    trees_close(means, mean(results))
    spread = lambda r: r.std(0, ddof=1) / np.sqrt(REFERENCES)
    trees_close(errors[0], jax.tree.map(spread, results[0]), rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 10, 128])
def test_standard_error_survives_a_large_mean(chunk):
    """1e4 ± 1e-1 in float32, whose squares round to 8."""
    noise = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    refs = jnp.asarray(1e4 + 0.1 * noise)
    explain = jxp.expected(jxp.deeplift)(lambda x: x[0], refs, standard_error=True, chunk=chunk)
    got, error = explain(jnp.zeros(1))
    exact = np.asarray(refs, np.float64)
    np.testing.assert_allclose(got, -exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(error, exact.std(0, ddof=1) / np.sqrt(1000), rtol=1e-3)


def test_half_precision_is_averaged_in_single():
    refs = jnp.asarray(np.random.default_rng(0).uniform(size=(3000, 2)), jnp.bfloat16)
    for chunk in (None, 7):
        explain = jax.jit(jxp.expected(jxp.deeplift)(lambda x: x.sum(), refs, chunk=chunk))
        scores = explain(jnp.ones(2, jnp.bfloat16))
        assert scores.dtype == jnp.bfloat16
        contributions = np.asarray(1 - refs, np.float64)  # rounded to bfloat16, one at a time
        np.testing.assert_allclose(scores, contributions.mean(0), rtol=2**-8)


@pytest.mark.slow
def test_double_precision(x64):
    x, refs = normal(1, WIDTH), normal(2, REFERENCES, WIDTH)
    weights = {"w": normal(3, WIDTH, 16), "v": normal(4, 16)}
    whole, chunked = (jxp.deeplift_shap(f, refs, chunk=chunk)(x, weights) for chunk in (None, 3))
    assert whole.dtype == jnp.float64
    trees_close(whole, mean(each(jxp.deeplift, refs, x, weights)), rtol=1e-13, atol=1e-14)
    trees_close(whole, chunked, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("chunk", [None, 3])
def test_transformations(chunk, params):
    xs, refs = normal(1, 4, WIDTH), normal(2, REFERENCES, WIDTH)
    explain = jxp.deeplift_shap(f, refs, chunk=chunk)
    eager = jnp.stack([explain(x, params) for x in xs])
    trees_close(jax.jit(jax.vmap(explain, (0, None)))(xs, params), eager)
    by_refs = lambda refs: jxp.deeplift_shap(f, refs, chunk=chunk)(xs[0], params)
    trees_close(jax.vmap(by_refs)(jnp.stack([refs, 2 * refs]))[0], eager[0])


@pytest.mark.promotes
@pytest.mark.parametrize("standard_error", some_slow([True, False], [False]))
def test_losses_over_averages_train(standard_error, params):
    x, refs = normal(1, WIDTH), normal(2, REFERENCES, WIDTH)

    def loss(params, chunk):
        options = {"standard_error": standard_error, "chunk": chunk}
        scores = jxp.deeplift_shap(f, refs, **options)(x, params)
        return sum(jnp.abs(s).sum() for s in jax.tree.leaves(scores))

    def loop(params):
        results = each(jxp.deeplift, refs, x, params)
        error = results.std(0, ddof=1) / np.sqrt(REFERENCES)
        return jnp.abs(results.mean(0)).sum() + standard_error * error.sum()

    expected = jax.grad(loop)(params)
    for chunk in (None, 3):
        trees_close(jax.grad(loss)(params, chunk), expected, rtol=1e-4, atol=1e-5)


def test_equal_references_have_no_error_and_a_finite_slope(params):
    x, refs = normal(1, WIDTH), jnp.ones((3, WIDTH))
    explain = jxp.deeplift_shap(f, refs, standard_error=True)
    total = lambda params: explain(x, params)[1].sum()
    assert total(params) < 1e-6
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(params)))


@pytest.mark.parametrize("chunk", [None, 2, 3])
def test_f_is_traced_once_a_shape(chunk, params):
    refs = normal(2, REFERENCES, WIDTH)
    chex.clear_trace_counter()
    once = chex.assert_max_traces(lambda x, params: f(x, params), n=1)
    explain = jax.jit(jax.vmap(jxp.deeplift_shap(once, refs, chunk=chunk), (0, None)))
    explain(normal(1, 4, WIDTH), params)
    explain(normal(3, 4, WIDTH), params)


# Costs.


@pytest.fixture(scope="module")
def wide():
    weights = [normal(i, 256, 256) / 16 for i in range(4)]

    def f(x, weights):
        for w in weights:
            x = jax.nn.relu(x @ w)
        return x.sum()

    return f, weights


def test_halves_are_computed_once(wide):
    """Forward once an example and once a reference; only the backward pass is of pairs."""
    f, weights = wide
    batch, count = 8, 20
    xs, refs = normal(0, batch, 256), normal(1, count, 256)
    explain = lambda xs, refs, w: jax.vmap(jxp.deeplift_shap(f, refs), (0, None))(xs, w)
    forward = 2 * 256**2 * len(weights)
    least = forward * (batch + count + batch * count)
    assert flops(explain, xs, refs, weights) < 1.05 * least


@pytest.mark.parametrize("of_loss", [False, True])
def test_chunks_bound_memory(wide, of_loss):
    f, weights = wide
    x, refs = normal(0, 256), normal(1, 400, 256)

    def explain(chunk, x, refs, weights):
        return jxp.deeplift_shap(f, refs, chunk=chunk)(x, weights)

    def loss(chunk, x, refs, weights):
        loss = lambda weights: jnp.square(explain(chunk, x, refs, weights)).sum()
        return jax.grad(loss)(weights)

    function = loss if of_loss else explain
    whole, chunked = (
        temporary(functools.partial(function, chunk), x, refs, weights) for chunk in (None, 10)
    )
    assert chunked < whole / 3


def test_the_program_does_not_grow_with_the_number_of_chunks(wide):
    f, weights = wide
    x = normal(0, 256)

    def size(count):
        refs = normal(1, count, 256)
        explain = jax.jit(jxp.deeplift_shap(f, refs, chunk=4))
        return len(explain.lower(x, weights).as_text().splitlines())

    assert size(4000) == size(8)


# References that are drawn.


def nearby(x, key):
    return x + jax.random.normal(key, (5, *x.shape))


@pytest.mark.promotes
def test_drawn_references(params):
    xs, keys = normal(1, 3, WIDTH), jax.random.split(KEY, 3)
    explain = jxp.deeplift_shap(f, nearby)
    looped = [explain(x, params, key=key) for x, key in zip(xs, keys, strict=True)]
    trees_close(looped[0], jxp.deeplift_shap(f, nearby(xs[0], keys[0]))(xs[0], params), rtol=1e-5)
    trees_close(explain(xs[0], params, key=keys[0]), looped[0], rtol=0, atol=0)
    assert abs(explain(xs[0], params, key=keys[1]) - looped[0]).max() > 1e-3
    mapped = jax.vmap(lambda x, key: explain(x, params, key=key))(xs, keys)
    trees_close(mapped, jnp.stack(looped), rtol=1e-5)
    chunked = jxp.deeplift_shap(f, nearby, chunk=2)(xs[0], params, key=keys[0])
    trees_close(chunked, looped[0])


@pytest.mark.promotes
def test_noise_and_drawn_references_compose(params):
    x = normal(1, WIDTH)
    explain = jxp.deeplift_shap(f, nearby)
    smooth = jxp.smooth(explain, stdev=0.1, samples=500, chunk=100)
    got = smooth(x, params, key=KEY)
    trees_close(smooth(x, params, key=KEY), got, rtol=0, atol=0)
    many = jxp.deeplift_shap(f, lambda x, key: x + jax.random.normal(key, (3000, *x.shape)))
    np.testing.assert_allclose(got, many(x, params, key=KEY), atol=0.1)


# Errors.


def test_errors_of_references(params):
    x = tree(1)
    of = lambda refs, **options: jxp.deeplift_shap(f, refs, **options)(x, params)
    ragged = {"a": normal(1, 5, 4, 3), "b": normal(2, 4, 2)}
    with pytest.raises(ValueError, match=r"same, non-empty leading axis.*\(5, 4, 3\).*\(4, 2\)"):
        of(ragged)
    with pytest.raises(ValueError, match=r"same, non-empty leading axis.*\(0, 4, 3\)"):
        of(tree(1, 0))
    with pytest.raises(ValueError, match="no leaves"):
        jxp.deeplift_shap(lambda x: 1.0, {})({})
    both = r"leading reference axis[\s\S]*refs: .*\(4, 3\)[\s\S]*x: .*\(4, 3\)[\s\S]*ref\[None\]"
    with pytest.raises(ValueError, match=both):
        of(tree(2))
    with pytest.raises(ValueError, match=r"refs: \(5, 4, 3\)[\s\S]*x: .*'a': \(4, 3\)"):
        of(normal(1, 5, 4, 3))
    with pytest.raises(ValueError, match="leading reference axis"):
        of({"a": normal(1, 5, 4, 2), "b": normal(1, 5, 2)})
    with pytest.raises(ValueError, match="leading reference axis"):  # a list of references
        of([tree(1), tree(2)])
    with pytest.raises(ValueError, match="leading reference axis"):  # not five scalars
        jxp.deeplift_shap(lambda x: x.sum(), jnp.ones(5))(jnp.ones(5))
    with pytest.raises(ValueError, match="chunk must be at least 1, and is 0"):
        of(tree(1, 5), chunk=0)
    with pytest.raises(ValueError, match="at least two references"):
        of(tree(1, 1), standard_error=True)
    with pytest.raises(ValueError, match="unknown rules"):
        of(tree(1, 2), rules="rescaled")


@pytest.mark.promotes
def test_errors_of_keys(params):
    x = normal(1, WIDTH)
    with pytest.raises(TypeError, match=r"key=jax.random.key\(0\).*refs, which is a function"):
        jxp.deeplift_shap(f, nearby)(x, params)
    with pytest.raises(TypeError, match=r"got \['key'\], and refs is not a function"):
        jxp.deeplift_shap(f, nearby(x, KEY))(x, params, key=KEY)
    with pytest.raises(ValueError, match="leading reference axis"):  # the function forgot it
        jxp.deeplift_shap(f, lambda x, key: 0 * x)(x, params, key=KEY)
    assert "key" in inspect.signature(jxp.deeplift_shap(f, nearby)).parameters
    assert "key" not in inspect.signature(jxp.deeplift_shap(f, nearby(x, KEY))).parameters


# Noise.


@pytest.mark.parametrize("chunk", slow_but([None, 1, 4, 9], [4]))
@pytest.mark.parametrize("reduce", ["mean", "square", "variance"])
def test_smooth_is_a_moment_over_noise(reduce, chunk, params):
    x, stdev = tree(1), {"a": 0.5, "b": jnp.array([0.0, 2.0])}
    explain = jxp.gradient(f)
    seen = []

    def recorded(x, params):
        jax.debug.callback(lambda x: seen.append(x), x)
        return explain(x, params)

    smooth = jxp.smooth(recorded, stdev=stdev, samples=9, reduce=reduce, chunk=chunk)
    got = smooth(x, params, key=KEY)
    jax.effects_barrier()
    assert len(seen) == 9
    assert all((noisy["b"][0] == x["b"][0]).all() for noisy in seen)
    results = [explain(noisy, params) for noisy in seen]
    moment = {
        "mean": lambda r: r.mean(0),
        "square": lambda r: jnp.square(r).mean(0),
        "variance": lambda r: r.var(0),
    }[reduce]
    trees_close(got, jax.tree.map(lambda *r: moment(jnp.stack(r)), *results), rtol=1e-5)


def test_noise_is_normal_of_the_given_width():
    x = jnp.array([1.0, -2.0])
    identity = lambda x: x
    smooth = functools.partial(jxp.smooth, identity, stdev=jnp.array([0.5, 3.0]), samples=20_000)
    np.testing.assert_allclose(smooth()(x, key=KEY), x, atol=0.1)
    variance = smooth(reduce="variance")(x, key=KEY)
    np.testing.assert_allclose(jnp.sqrt(variance), [0.5, 3.0], rtol=0.02)
    assert abs(smooth()(x, key=KEY) - smooth()(x, key=jax.random.key(1))).max() > 1e-4


def test_errors_of_smooth():
    with pytest.raises(ValueError, match="samples must be at least 1"):
        jxp.smooth(jnp.sum, stdev=1.0, samples=0)
    with pytest.raises(ValueError, match="unknown reduce 'median'"):
        jxp.smooth(jnp.sum, stdev=1.0, samples=1, reduce="median")
    with pytest.raises(ValueError, match="does not broadcast"):
        jxp.smooth(jnp.sum, stdev=jnp.ones(2), samples=1)(jnp.ones(3), key=KEY)
    with pytest.raises(TypeError, match="key"):
        jxp.smooth(jnp.sum, stdev=1.0, samples=1)(jnp.ones(3))


# Sums.


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", [None, 1, 4, 10])
def test_sums_in_chunks(chunk):
    items = {"a": normal(1, 10, 3), "b": jnp.arange(10)}
    weights = normal(2, 10)
    function = lambda item: {"y": item["a"] * item["b"], "z": item["b"].astype(float)}
    outputs = jax.vmap(function)(items)
    expected = jax.tree.map(lambda y: jnp.tensordot(weights, y, 1), outputs)
    trees_close(weighted_sum(function, items, weights, chunk), expected, rtol=1e-5)
    means, variances = moments(function, items, chunk)
    trees_close(means, jax.tree.map(lambda y: y.mean(0), outputs), rtol=1e-5)
    trees_close(variances, jax.tree.map(lambda y: y.var(0), outputs), rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 1, 64, 5000])
def test_rounding_does_not_grow_with_the_number_of_items(chunk):
    items = jnp.full(10_000, 0.1)
    means, variances = jax.jit(lambda items: moments(lambda item: item, items, chunk))(items)
    np.testing.assert_allclose(means, items[0], rtol=2**-23)
    assert variances < 1e-16


def test_constant_weights_and_many_items():
    """XLA's CPU backend returns 2500 for (a @ b).sum(0) here (jax issue 39103)."""
    a, b = jnp.ones((2500, 4)), jnp.ones((4, 3))
    total = jax.jit(lambda a: weighted_sum(lambda row: row @ b, a, jnp.ones(2500)))
    np.testing.assert_allclose(total(a), 10_000)
    means, variances = jax.jit(lambda a: moments(lambda row: row @ b, a))(a)
    np.testing.assert_allclose(means, 4, rtol=1e-6)
    np.testing.assert_allclose(variances, 0, atol=1e-9)
