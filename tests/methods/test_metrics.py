"""Metrics: what their definitions imply, on inputs nobody tuned for, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxplain as jxp
from tests.support.checks import draw

W = jnp.array([1.0, -2.0, 0.5, 3.0, -0.25])
X = jnp.array([0.5, 1.0, -1.5, 2.0, 0.75])
MAP = jnp.array([0.3, -1.0, 0.7, 2.0, 0.1])
MASK = jnp.array([True, False, True, False, False])


def linear(x, scale=1.0):
    return scale * (x @ W) + 1.0


def curved(x):
    return jnp.tanh(x @ W) + jnp.sum(x**2)


CURVES = {
    "deletion": jxp.deletion,
    "insertion": jxp.insertion,
    "abpc": jxp.abpc,
    "comprehensiveness": jxp.comprehensiveness,
    "sufficiency": jxp.sufficiency,
    "monotonicity": jxp.monotonicity,
}
OF_CONTRIBUTIONS = CURVES | {
    "faithfulness_correlation": functools.partial(jxp.faithfulness_correlation, samples=8, size=2),
    "sensitivity_n": functools.partial(jxp.metrics.sensitivity_n, samples=8, sizes=[1, 2]),
    "single_groups": jxp.metrics.single_groups,
}
OF_MAPS = {
    "sparseness": jxp.sparseness,
    "complexity": jxp.complexity,
    "histogram_entropy": jxp.metrics.histogram_entropy,
}
OF_MASKS = {
    "relevance_mass": jxp.relevance_mass,
    "relevance_rank": jxp.relevance_rank,
    "localisation_auc": jxp.localisation_auc,
    "pointing_game": jxp.pointing_game,
}
by_name = lambda table: pytest.mark.parametrize("metric", table.values(), ids=table)


# Ties


@pytest.mark.parametrize("steps", [None, 1, 2, 3.5, 5, 99])
@pytest.mark.parametrize("metric", [jxp.deletion, jxp.insertion])
def test_a_constant_map_scores_the_mean_of_the_ends(metric, steps):
    score = metric(curved, 0.3, steps=steps)(jnp.full(5, -0.7), X)
    np.testing.assert_allclose(score, (curved(X) + curved(jnp.full(5, 0.3))) / 2, rtol=1e-6)


def test_a_constant_map_tells_nothing_else_either():
    assert jxp.abpc(curved, 0.0)(jnp.ones(5), X) == pytest.approx(0, abs=1e-6)
    assert np.isnan(jxp.monotonicity(curved, 0.0)(jnp.ones(5), X))
    half = jxp.comprehensiveness(curved, 0.0, fractions=[0.4])(jnp.ones(5), X)
    assert half == pytest.approx(0.4 * float(curved(X) - curved(jnp.zeros(5))), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)), st.lists(st.integers(-1, 1), min_size=5, max_size=5))
def test_features_may_be_numbered_in_any_order(order, scores):
    """However many are tied."""
    order, scores = np.array(order), jnp.array(scores, float)
    renamed = lambda x: curved(x[np.argsort(order)])
    for metric in (jxp.deletion, jxp.insertion, jxp.abpc, jxp.sufficiency):
        for steps in (None, 2):
            one = metric(curved, 0.0, steps=steps)(scores, X)
            other = metric(renamed, 0.0, steps=steps)(scores[order], X[order])
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_ranks_are_mean_ranks():
    a, b = jnp.array([1.0, 2.0, 2.0, 3.0, 0.5]), jnp.array([3.0, 1.0, 2.0, 2.0, 2.0])
    from scipy.stats import spearmanr

    assert jxp.agreement(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)


def test_tied_elements_share_the_places_at_the_top():
    """The expectation over orders: here of the two that tie for the second place."""
    a, b = jnp.array([3.0, 1.0, 1.0]), jnp.array([3.0, 2.0, 1.0])
    assert jxp.agreement(a, b, kind="feature", k=2) == pytest.approx(0.75)
    assert jxp.agreement(a, b, kind="rank", k=2) == pytest.approx(0.75)
    assert jxp.agreement(a, -b, kind="sign", k=2) == 0
    assert jxp.agreement(a, b, kind="signed_rank", k=3) == pytest.approx(2 / 3)


# References, orders, groups


def test_several_references_are_averaged():
    refs = draw(0, 3, 5)
    each = [jxp.deletion(curved, ref)(MAP, X) for ref in refs]
    for chunk in (None, 2):
        together = jxp.deletion(curved, refs, chunk=chunk)(MAP, X)
        np.testing.assert_allclose(together, jnp.stack(each).mean(), rtol=1e-5)


def test_a_reference_may_be_a_function_of_what_is_removed():
    fill = lambda x, mask, key: jnp.where(mask, 0.3, 1e9)  # what is kept is x's
    by_function = jxp.deletion(curved, fill)(MAP, X, key=jax.random.key(0))
    np.testing.assert_allclose(by_function, jxp.deletion(curved, 0.3)(MAP, X), rtol=1e-6)
    with pytest.raises(TypeError, match="a key is missing"):
        jxp.deletion(curved, fill)(MAP, X)


def test_road_imputes_from_neighbours(x64):
    """A plane is its own imputation: each element is the mean of those around it."""
    ref = jxp.metrics.linear_imputation(noise=0.0, tolerance=1e-10)
    rows, columns = jnp.indices((7, 6)).astype(float)
    image = (2 * rows - columns)[..., None]
    mask = jnp.zeros((7, 6, 1), bool).at[2:5, 2:4].set(True)
    np.testing.assert_allclose(ref(image, mask, jax.random.key(0)), image, atol=1e-6)
    nothing = ref(image, jnp.ones_like(mask), jax.random.key(0))
    np.testing.assert_allclose(nothing, 0, atol=1e-6)
    noisy = jxp.metrics.linear_imputation(noise=0.1)(image, mask, jax.random.key(0))
    assert (noisy[~mask] == image[~mask]).all() and (noisy[mask] != image[mask]).all()
    score = jxp.deletion(lambda x: (x**2).sum(), ref, steps=4)
    assert np.isfinite(score(image, image, key=jax.random.key(0)))


@pytest.mark.parametrize(
    ("order", "first"), [("signed", [3, 2, 0]), ("absolute", [3, 1, 2]), ("positive", [3, 2, 0])]
)
def test_orders(order, first):
    _, values = jxp.metrics.perturbation_curve(linear, 0.0, order=order)(MAP, X)
    gone = [linear(X.at[np.array(first[:k], int)].set(0)) for k in range(4)]
    np.testing.assert_allclose(values[:4], jnp.stack(gone), rtol=1e-5)


def test_groups_score_by_their_sum():
    """IROF: segments, and f relative to f(x)."""
    groups = jnp.array([0, 0, 1, 1, 2])
    fractions, values = jxp.metrics.perturbation_curve(
        linear, 0.0, groups=groups, scale="relative"
    )(MAP, X)
    order = [[2, 3], [4], [0, 1]]  # sums 2.7, 0.1, -0.7
    gone = [X.at[np.hstack([[], *order[:k]]).astype(int)].set(0) for k in range(4)]
    np.testing.assert_allclose(fractions, np.arange(4) / 3, rtol=1e-6)
    np.testing.assert_allclose(values, [linear(x) / linear(X) for x in gone], rtol=1e-5)


def test_integers_are_taken_away_as_they_are():
    table = jnp.array([[0.0, 1.0], [2.0, 5.0], [4.0, -1.0]])
    f = lambda ids, row: (table[ids][:, row] * jnp.array([1.0, 2.0])).sum()
    ids, scores = jnp.array([1, 2]), jnp.array([0.2, 0.1])
    _, values = jxp.metrics.perturbation_curve(f, 0)(scores, ids, 1)
    np.testing.assert_allclose(values, [3, -1, 3])


def test_trees_and_other_arguments():
    x = {"a": X[:2], "b": X[2:]}
    f = lambda p, x: linear(jnp.concatenate([x["a"], x["b"]]), p)
    tree = {"a": MAP[:2], "b": MAP[2:]}
    alone = jxp.abpc(lambda x: linear(x, 2.0), 0.0)(MAP, X)
    np.testing.assert_allclose(jxp.abpc(f, 0.0, argnums=1)(tree, 2.0, x), alone, rtol=1e-5)


# What exact contributions are


def test_exact_contributions_of_a_linear_function_are_faithful():
    exact = jxp.deeplift(linear, 0.0)(X)
    for name in ("faithfulness_correlation", "sensitivity_n", "single_groups"):
        assert OF_CONTRIBUTIONS[name](linear, 0.0)(exact, X) == pytest.approx(1, abs=1e-5)
    worst = jxp.deletion(linear, 0.0)(-exact, X)
    assert jxp.deletion(linear, 0.0)(exact, X) < jxp.deletion(linear, 0.0)(MAP, X) < worst
    assert jxp.monotonicity(linear, 0.0)(exact, X) < 1  # the lowest are negative


def test_infidelity_takes_masks_for_contributions():
    masks = lambda x, key: jax.random.bernoulli(key, 0.5, x.shape)
    options = dict(perturb=masks, samples=16, ref=0.3)
    exact = jxp.infidelity(linear, jxp.deeplift(linear, 0.3), **options)
    other = jxp.infidelity(linear, jxp.gradient(linear), **options)
    key = jax.random.key(0)
    assert exact(X, key=key) == pytest.approx(0, abs=1e-9) and other(X, key=key) > 0.1
    with pytest.raises(ValueError, match="ref="):
        jxp.infidelity(linear, jxp.gradient(linear), perturb=masks, samples=2)(X, key=key)


def test_the_best_scale_makes_units_irrelevant():
    noise = lambda x, key: jax.random.normal(key, x.shape)
    key, options = jax.random.key(1), dict(perturb=noise, samples=8, scale="optimal")
    one = jxp.infidelity(curved, jxp.gradient(curved), **options)(X, key=key)
    scaled = lambda x: -7.0 * jxp.gradient(curved)(x)
    np.testing.assert_allclose(jxp.infidelity(curved, scaled, **options)(X, key=key), one, 1e-5)
    nothing = jxp.infidelity(curved, lambda x: 0 * x, **options)(X, key=key)
    assert nothing > one


# Sensitivity


@pytest.mark.promotes
def test_sensitivity_of_a_linear_explanation_is_known():
    explain, key = lambda x: 3.0 * x, jax.random.key(0)
    at = functools.partial(jxp.max_sensitivity, explain, radius=0.1, samples=5)
    for reduce in ("max", "mean"):
        assert at(per="distance", reduce=reduce)(X, key=key) == pytest.approx(3, rel=1e-4)
        assert at(per="input", reduce=reduce)(X, key=key) == pytest.approx(1, rel=1e-4)
    double = ("representation", lambda x: {"h": 2 * x})
    assert at(per=double)(X, key=key) == pytest.approx(1, rel=1e-4)
    deltas = draw(3, 2, 5, scale=0.01)
    given = jxp.max_sensitivity(explain, radius=deltas, per=("output", lambda x: 2 * x))(X)
    relative = np.linalg.norm(deltas / X, axis=1) / np.linalg.norm(2 * deltas, axis=1)
    assert given == pytest.approx(relative.max(), rel=1e-3)


def test_an_explanation_that_draws_is_drawn_anew():
    noise = lambda x, *, key: jax.random.normal(key, x.shape)
    score = jxp.max_sensitivity(noise, radius=0.0, samples=8)(X, key=jax.random.key(0))
    assert score > 0.5


# Randomisation


def network(params, x, target=0):
    h = jnp.tanh(x @ params["layer_2"]["w"] + params["layer_2"]["b"])
    return (h @ params["layer_10"]["w"])[target]


PARAMS = {
    "layer_2": {"w": draw(1, 5, 4), "b": draw(2, 4)},
    "layer_10": {"w": draw(3, 4, 2)},
}


@pytest.mark.promotes
def test_layers_are_redrawn_from_the_top_from_below_or_each_alone():
    seen = lambda params, x: jnp.concatenate(
        [params["layer_2"]["w"][0], params["layer_10"]["w"][:, 0]]
    )
    key = jax.random.key(0)

    def changed(order):
        """Whether the first half and the second half of the map are as they were."""
        maps = []
        similar = lambda params, x: maps.append(params) or seen(params, x)
        metric = jxp.parameter_randomization(similar, PARAMS, order=order, reduce=None)
        return metric(X, key=key)

    from jaxplain.metrics._example import Example

    def redrawn(order):
        metric = jxp.parameter_randomization(..., PARAMS, order=order)
        explain = functools.partial(seen, PARAMS)
        after = metric.elsewhere(Example((X,), explain=explain, key=key)).explanations(
            Example((X,), explain=explain, key=key)
        )
        before = seen(PARAMS, X)
        return (after != before).reshape(2, 2, 4).all(-1).tolist()

    assert redrawn("top_down") == [[False, True], [True, True]]
    assert redrawn("bottom_up") == [[True, False], [True, True]]
    assert redrawn("independent") == [[True, False], [False, True]]
    assert changed("top_down").shape == (2,)


def test_layers_can_be_named():
    from jaxplain.metrics.randomization import layers_of

    names, places = layers_of(PARAMS)
    assert names == ["['layer_2']", "['layer_10']"] and places == [1, 0, 0]  # 2 before 10
    names, places = layers_of(PARAMS, ["layer_10", "layer_2"])
    assert places == [0, 1, 1]
    assert layers_of([jnp.ones(2), jnp.ones(3)])[1] == [0, 1]
    for wrong in (["layer"], ["layer_2"], ["layer_2", "layer_2"]):
        with pytest.raises(ValueError, match="each layer once"):
            layers_of(PARAMS, wrong)


def test_what_ignores_the_model_is_told():
    key = jax.random.key(0)
    edges = lambda params, x: jnp.abs(jnp.diff(x, append=0.0))
    score = functools.partial(jxp.parameter_randomization, params=PARAMS)
    assert score(edges)(X, key=key) == pytest.approx(1)
    assert score(jxp.gradient(network, argnums=1))(X, key=key) < 0.99
    assert score(edges, similarity="entropy")(X, key=key) == pytest.approx(0)
    smooth = jxp.smooth(jxp.gradient(network, argnums=1), stdev=0.1, samples=3, argnums=1)
    assert -1 <= score(smooth, reduce="last")(X, key=key) <= 1


def test_another_class_is_another_one():
    explain = lambda x, target: jnp.where(target == 1, X, MAP) + 0 * x
    score = jxp.metrics.random_logit(explain, 3, similarity="pearson")
    for seed in range(6):
        assert score(X, 1, key=jax.random.key(seed)) < 0.99  # never itself
    with pytest.raises(ValueError, match="target=2"):
        jxp.metrics.random_logit(explain, 3, target=2)(X, 1, key=jax.random.key(0))


def test_data_randomisation_compares_two_models():
    explain = jxp.gradient(network, argnums=1)
    others = jax.tree.map(lambda v: v + draw(9, *v.shape), PARAMS)
    score = jxp.metrics.data_randomization(explain, PARAMS, others)(X)
    assert score == jxp.agreement(explain(PARAMS, X), explain(others, X))


# Localisation


def test_a_map_that_knows_nothing_scores_the_masks_share():
    flat = jnp.ones(5)
    for metric in (jxp.relevance_mass, jxp.relevance_rank, jxp.pointing_game):
        assert metric(flat, MASK) == pytest.approx(0.4)
    assert jxp.localisation_auc(flat, MASK) == pytest.approx(0.5)


@pytest.mark.promotes
def test_the_tolerance_is_a_distance():
    c = jnp.zeros((9, 9)).at[1, 1].set(1.0)
    for place, distance in (((1, 4), 3), ((3, 3), 8**0.5), ((8, 8), 98**0.5)):
        mask = jnp.zeros((9, 9), bool).at[place].set(True)
        assert jxp.pointing_game(c, mask, tolerance=distance + 0.01) == 1
        assert jxp.pointing_game(c, mask, tolerance=distance - 0.01) == 0
    channels = c[..., None] * jnp.array([1.0, 0.5])
    mask = jnp.zeros((9, 9, 1), bool).at[1, 3].set(True)
    assert jxp.pointing_game(channels, mask, tolerance=2) == 1


# Everywhere


@by_name(OF_CONTRIBUTIONS)
def test_batches_jit_and_chunks_change_nothing(metric):
    xs, maps = draw(5, 3, 5), draw(6, 3, 5)
    whole = metric(curved, 0.1)
    alone = [whole(c, x) for c, x in zip(maps, xs, strict=True)]
    chunked = metric(curved, 0.1, chunk=2)
    np.testing.assert_allclose(jax.jit(jax.vmap(chunked))(maps, xs), alone, rtol=1e-4, atol=1e-5)


@by_name(OF_MAPS | OF_CONTRIBUTIONS)
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_map_that_is_not_finite_has_no_score(metric, bad):
    c = MAP.at[1].set(bad)
    score = metric(c) if metric in OF_MAPS.values() else metric(curved, 0.0)(c, X)
    assert np.isnan(score)


@by_name(OF_MASKS)
def test_bad_masks(metric):
    assert np.isnan(metric(MAP.at[1].set(jnp.nan), MASK))
    assert np.isnan(metric(MAP, jnp.zeros(5, bool)))
    for mask in (MASK.astype(float), 255 * MASK.astype(int)):
        with pytest.raises(TypeError, match="a mask is boolean"):
            metric(MAP, mask)
    with pytest.raises(ValueError, match="broadcast"):
        metric(MAP, MASK[:3])
    assert metric(MAP, MASK.astype(int)) == metric(MAP, MASK)  # 0 and 1


@by_name(OF_CONTRIBUTIONS)
def test_contributions_of_another_shape(metric):
    for wrong in (MAP[:4], MAP[None], {"a": MAP}, jnp.float32(1)):
        with pytest.raises(ValueError, match="shaped like x"):
            metric(curved, 0.0)(wrong, X)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jxp.comprehensiveness(curved, 0.0, fractions=[0.5, 1.5]), "fractions"),
        (lambda: jxp.sufficiency(curved, 0.0, fractions=[0.0]), "fractions"),
        (lambda: jxp.comprehensiveness(curved, 0.0, fractions=[]), "fractions"),
        (lambda: jxp.comprehensiveness(curved, 0.0, fractions=[0.5], steps=2), "not both"),
        (lambda: jxp.sufficiency(curved, 0.0, aggregate="sum"), "aggregate"),
        (lambda: jxp.deletion(curved, 0.0, steps=0), "steps"),
        (lambda: jxp.deletion(curved, 0.0, order="descending"), "order"),
        (lambda: jxp.deletion(curved, 0.0, scale="log"), "scale"),
        (lambda: jxp.deletion(curved, 0.0, chunk=0), "chunk"),
        (lambda: jxp.deletion(curved, jnp.zeros(3))(MAP, X), "broadcast"),
        (lambda: jxp.faithfulness_correlation(curved, 0.0, size=6)(MAP, X), "subsets"),
        (lambda: jxp.faithfulness_correlation(curved, 0.0, samples=1), "samples"),
        (lambda: jxp.faithfulness_correlation(curved, 0.0, correlation="x"), "correlation"),
        (lambda: jxp.faithfulness_correlation(curved, 0.0, subsets=[[0], [9]])(MAP, X), "below 5"),
        (lambda: jxp.max_sensitivity(jnp.abs, radius=0.1, samples=2, reduce="min"), "reduce"),
        (lambda: jxp.max_sensitivity(jnp.abs, radius=0.1, samples=2, per="x"), "per"),
        (lambda: jxp.infidelity(curved, jnp.abs, perturb=0.1, scale="x"), "scale"),
        (lambda: jxp.parameter_randomization(jnp.abs, PARAMS, order="down"), "order"),
        (lambda: jxp.parameter_randomization(jnp.abs, PARAMS, similarity="x"), "similarity"),
        (lambda: jxp.parameter_randomization(jnp.abs, {}), "no leaves"),
        (lambda: jxp.metrics.random_logit(jnp.abs, 1), "classes"),
        (lambda: jxp.agreement(MAP, X, kind="rank"), "needs k"),
        (lambda: jxp.agreement(MAP, X, kind="rank", k=6), "needs k"),
        (lambda: jxp.agreement(MAP, X, kind="x"), "similarity"),
        (lambda: jxp.agreement(MAP, X[:3]), "shaped"),
        (lambda: jxp.agreement(MAP, X, kind="ssim"), "windows"),
        (lambda: jxp.pointing_game(MAP, MASK, tolerance=-1), "tolerance"),
        (lambda: jxp.relevance_mass(MAP, MASK, sign="x"), "sign"),
        (lambda: jxp.sparseness(jnp.ones(0)), "without elements"),
    ],
)
def test_bad_options_are_told_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_function_that_is_not_scalar_is_refused():
    with pytest.raises(TypeError, match="scalar"):
        jxp.deletion(lambda x: x, 0.0)(MAP, X)


def test_metrics_of_an_explanation_need_their_key():
    for metric in (
        jxp.max_sensitivity(jxp.gradient(curved), radius=0.1, samples=2),
        jxp.infidelity(curved, jxp.gradient(curved), perturb=lambda x, key: x, samples=2),
        jxp.parameter_randomization(jxp.gradient(network, argnums=1), PARAMS),
    ):
        with pytest.raises(TypeError, match="key"):
            metric(X)
    with pytest.raises(TypeError, match=r"each method of `jaxplain.evaluate`"):
        jxp.max_sensitivity(..., radius=0.1, samples=2)(X, key=jax.random.key(0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_single(dtype):
    x, c = X.astype(dtype), MAP.astype(dtype)
    f = lambda x: (x * W.astype(x.dtype)).sum()
    score = jxp.deletion(f, 0.0)(c, x)
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(score, jxp.deletion(f, 0.0)(MAP, X), rtol=2e-2)
    assert jxp.sparseness(c).dtype == jnp.float32


def test_every_metric_says_which_way_is_better():
    for metric in OF_CONTRIBUTIONS.values():
        assert metric(curved, 0.0).direction in ("↑", "↓")
    for metric in (OF_MAPS | OF_MASKS).values():
        assert metric.direction in ("↑", "↓", None) and len(metric.range) == 2
