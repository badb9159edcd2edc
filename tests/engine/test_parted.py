"""RevealCancel and the central-limit rule on every model: the parts' multipliers stay complete."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.zoo import ZOO, references

QUICK = ("cnn_max_pool_overlapping_same", "rnn_lstm")
RULES = ("reveal_cancel", "central_limit")


IN_TURN = {name: RULES[i % len(RULES)] for i, name in enumerate(ZOO)}  # neighbours are alike


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rules"), IN_TURN.items())
def test_every_model_is_complete_in_float32(name, rules, record_property):
    assert_complete(name, rules, record_property)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", QUICK)
def test_complete_in_float32(name, rules, record_property):
    assert_complete(name, rules, record_property)


def assert_complete(name, rules, record_property):
    m = ZOO[name]()

    @jax.jit
    def explain(x, ref, params):
        return jxp.deeplift(m.f, ref, rules=rules, return_gap=True)(x, params)

    worst = 0.0
    for ref in references(m.x).values():
        contributions, gap = explain(m.x, ref, m.params)
        leaves = jax.tree.leaves(contributions)
        assert all(jnp.isfinite(c).all() for c in leaves)
        worst = max(worst, abs(float(gap)) / max(1, sum(float(abs(c).sum()) for c in leaves)))
    record_property(f"gap of {rules}", worst)
    assert worst <= 1e-5


# The central-limit rule.


def unit(g, seed=0, summands=5):
    rng = np.random.default_rng(seed)
    w, x, ref = rng.normal(size=(3, summands))
    return (lambda x: g(x @ w + 0.3)), w, x, ref


def explain(f, ref, **options):
    return jxp.deeplift(f, ref, rules="central_limit", **options)


@pytest.mark.parametrize("g", [jax.nn.relu, jnp.tanh, jax.nn.gelu])
def test_a_unit_follows_the_formula(g, x64):
    """m_j = A w_j + B w_j² Δx_j with A = [g(z̄ + H) - g(z̄ - H)]/2H and B = (Δy - A Δz)/V."""
    f, w, x, ref = unit(g)
    z, z0, squares = x @ w + 0.3, ref @ w + 0.3, np.sum((w * (x - ref)) ** 2)
    half, middle = np.sqrt((z - z0) ** 2 / 4 + squares / 2), (z + z0) / 2
    mean = (g(middle + half) - g(middle - half)) / (2 * half)
    curved = (g(z) - g(z0) - mean * (z - z0)) / squares
    expected = mean * w + curved * w**2 * (x - ref)
    np.testing.assert_allclose(explain(f, ref, multiply=False)(x), expected, rtol=1e-9)


def test_squares_get_exact_shapley_values(x64):
    """Up to the second order the expansion is exact."""
    f, w, x, ref = unit(lambda z: 0.5 * z**2 - z)
    d = w * (x - ref)
    expected = d * (ref @ w + 0.3 - 1) + d * d.sum() / 2
    np.testing.assert_allclose(explain(f, ref)(x), expected, rtol=1e-9)


def test_one_summand_is_rescale(x64):
    x, ref = np.array([1.3, -0.4, 0.7]), np.array([-0.2, 0.5, 0.7])
    f = lambda x: jnp.tanh(2 * x).sum() + jax.nn.gelu(x)[0]
    np.testing.assert_allclose(explain(f, ref)(x), jxp.deeplift(f, ref)(x), rtol=1e-9)


def test_scalings_and_layouts_do_not_matter(x64):
    """A batch norm after the map, a convolution in place of a product, a sum of two maps."""
    rng = np.random.default_rng(0)
    w, scale, x, ref = rng.normal(size=(6, 4)), rng.normal(size=4), *rng.normal(size=(2, 6))
    plain = lambda x: jnp.tanh((x @ w) * scale + 0.1).sum()
    others = [
        lambda x: jnp.tanh(x @ (w * scale) + 0.1).sum(),
        lambda x: jnp.tanh((x[:3] @ w[:3] - x[3:] @ -w[3:]) * scale + 0.1).sum(),
        lambda x: jnp.tanh(
            jax.lax.conv(x.reshape(1, 6, 1), (w * scale).T.reshape(4, 6, 1), (1,), "VALID") + 0.1
        ).sum(),
        lambda x: jnp.tanh((x[:, None] * (w * scale)).sum(0) + 0.1).sum(),
    ]
    expected = explain(plain, ref)(x)
    for f in others:
        np.testing.assert_allclose(explain(f, ref)(x), expected, rtol=1e-9)


def test_the_gradient_where_x_is_the_reference():
    f, _, x, _ = unit(jnp.tanh)
    np.testing.assert_allclose(explain(f, x, multiply=False)(x), jax.grad(f)(x), rtol=1e-5)
    again = jax.grad(lambda v: (explain(f, x, multiply=False)(v) ** 2).sum())(jnp.asarray(x))
    assert jnp.isfinite(again).all()


def test_places_are_chosen_as_for_reveal_cancel():
    rng = np.random.default_rng(0)
    w0, w1, x, ref = *rng.normal(size=(2, 5, 5)), *rng.normal(size=(2, 5))

    def f(x):
        with jax.named_scope("below"):
            h = jnp.tanh(x @ w0)
        with jax.named_scope("head"):
            return jax.nn.relu(h @ w1).sum()

    def scores(**chosen):
        return jxp.deeplift(f, ref, rules=jxp.rules.central_limit(**chosen))(x)

    np.testing.assert_allclose(scores(within="nowhere"), jxp.deeplift(f, ref)(x), rtol=1e-4)
    np.testing.assert_allclose(scores(after="conv"), jxp.deeplift(f, ref)(x), rtol=1e-4)
    np.testing.assert_allclose(scores(after="dense"), explain(f, ref)(x), rtol=1e-4)
    head, below = scores(within="head"), scores(within="below")
    assert not np.allclose(head, below, rtol=1e-2)
    with pytest.raises(ValueError, match="after must be one of"):
        jxp.rules.central_limit(after="norm")


def test_a_choice_of_a_module_is_one_of_all_that_is_inside():
    w = np.random.default_rng(0).normal(size=(3, 5, 5))

    def f(x):
        with jax.named_scope("a"), jax.named_scope("b"):
            h = jnp.tanh(x @ w[0])
            with jax.named_scope("c"):
                h = jnp.tanh(h @ w[1])
        with jax.named_scope("ab"):
            return jax.nn.relu(h @ w[2]).sum()

    x, ref = np.random.default_rng(1).normal(size=(2, 5))
    scores = {
        within: jax.jit(jxp.deeplift(f, ref, rules=jxp.rules.reveal_cancel(within=within)))(x)
        for within in ("a", "a/*", "a/b/c", "*/c", "**/c", "ab", "*")
    }
    same = lambda a, b: np.allclose(scores[a], scores[b], rtol=1e-4)
    assert same("a", "a/*") and same("a/b/c", "**/c")
    assert not any(same("a", other) for other in ("a/b/c", "*/c", "ab", "*"))


@pytest.mark.slow
def test_nearer_to_shapley_values_than_its_neighbours():
    """On the study's perceptrons of tanh, in the median over networks."""
    faithfulness = pytest.importorskip("benchmarks.faithfulness")
    family = faithfulness.FAMILIES["tanh"]
    keys = jax.random.split(jax.random.key(1), (3, 16))
    weights = jax.vmap(family.init)(keys[0])
    x, ref = (
        jax.vmap(lambda k: jax.random.normal(k, (faithfulness.FEATURES,)))(k) for k in keys[1:]
    )
    exact = jax.jit(
        jax.vmap(lambda x, r, w: faithfulness.shapley(lambda x: family.apply(x, w), x, r))
    )(x, ref, weights)
    error = {
        name: np.median(
            faithfulness.errors(family, faithfulness.METHODS[name], (x, ref, weights), exact)[
                "error"
            ]
        )
        for name in ("Rescale", "RevealCancel", "central limit")
    }
    assert error["central limit"] < 0.8 * min(error["Rescale"], error["RevealCancel"])
