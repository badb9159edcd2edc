"""One table: whose scores are those of each metric alone, whoever else is in it."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.metrics.table import Evaluations, Table
from tests.support.checks import draw
from tests.support.marks import slow_but

PARAMS = {"first": {"w": draw(0, 6, 8), "b": draw(1, 8)}, "second": {"w": draw(2, 8, 3)}}
XS, TARGETS = draw(3, 5, 6), jnp.array([0, 1, 2, 1, 0])
MASKS = np.asarray(XS) > 0
KEY = jax.random.key(7)
quiet = functools.partial(jxp.evaluate, progress=False)
partial = functools.partial


def network(params, x, target):
    h = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return (h @ params["second"]["w"])[target]


def f(x, target):
    return network(PARAMS, x, target)


def noise(x, key):
    return 0.1 * jax.random.normal(key, x.shape)


METHODS = {
    "gradient": partial(jxp.gradient(network, argnums=1), PARAMS),
    "DeepLIFT": partial(jxp.deeplift(network, 0.3, argnums=1), PARAMS),
    "smooth": partial(
        jxp.smooth(jxp.gradient(network, argnums=1), stdev=0.1, samples=2, argnums=1), PARAMS
    ),
}
METRICS = {
    "deletion": jxp.deletion(f, 0.0),
    "insertion": jxp.insertion(f, 0.0),
    "half": jxp.deletion(f, 0.0, steps=3),
    "abpc": jxp.abpc(f, 0.0, order="absolute"),
    "comprehensiveness": jxp.comprehensiveness(f, 0.0),
    "sufficiency": jxp.sufficiency(f, 0.0),
    "monotonicity": jxp.monotonicity(f, 0.0),
    "faithfulness": jxp.faithfulness_correlation(f, 0.0, size=2, samples=8),
    "infidelity": jxp.infidelity(f, ..., perturb=noise, samples=4),
    "sensitivity": jxp.max_sensitivity(..., radius=0.1, samples=3),
    "lipschitz": partial(jxp.max_sensitivity, radius=0.1, samples=3, per="distance"),
    "randomisation": jxp.parameter_randomization(..., PARAMS),
    "each layer": jxp.parameter_randomization(..., PARAMS, order="independent"),
    "another class": jxp.metrics.random_logit(..., 3),
    "sparseness": jxp.sparseness,
    "mass": jxp.relevance_mass,
    "absolute mass": partial(jxp.relevance_mass, sign="absolute"),
    "gap": jxp.completeness_gap(f, 0.3),
    "own": lambda contributions, x, target: (contributions * x).sum() + target,
}


@functools.cache
def whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no reference is shared
        return quiet(METHODS, METRICS, XS, TARGETS, key=KEY, masks=MASKS)


@pytest.mark.promotes
def test_its_parts():
    table = whole()
    assert table.scores.shape == (4, len(METRICS), 5)
    assert table.methods == (*METHODS, "random") and table.controls == ("random",)
    assert table.metrics == tuple(METRICS)
    assert not np.isnan(table.scores).any() and not table.undefined.any()
    assert dict(zip(table.metrics, table.directions, strict=True))["gap"] == "0"


ALONE = ["deletion", "infidelity", "sensitivity", "randomisation", "mass"]


@pytest.mark.promotes
@pytest.mark.parametrize("name", slow_but(METRICS, ALONE))
def test_a_metric_alone_gives_its_column(name):
    """Though in company curves share points, perturbations and explanations."""
    table = quiet(METHODS, {name: METRICS[name]}, XS, TARGETS, key=KEY, masks=MASKS)
    column = whole().scores[:, whole().metrics.index(name)]
    np.testing.assert_allclose(table.scores[:, 0], column, rtol=2e-4, atol=1e-5)


@pytest.mark.promotes
def test_a_metric_called_by_itself_gives_the_same():
    table, c = whole(), jxp.deeplift(f, 0.3)(XS[1], TARGETS[1])
    row = table.scores[table.methods.index("DeepLIFT"), :, 1]
    for name in ("deletion", "half", "abpc", "comprehensiveness", "monotonicity"):
        alone = METRICS[name](c, XS[1], TARGETS[1])
        np.testing.assert_allclose(alone, row[table.metrics.index(name)], rtol=1e-4)
    mass = jxp.relevance_mass(c, MASKS[1])
    np.testing.assert_allclose(mass, row[table.metrics.index("mass")], rtol=1e-4)


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", slow_but([1, 2, None], [2]))
def test_neither_chunk_nor_neighbours_nor_their_order_change_a_score(chunk):
    few = {n: METRICS[n] for n in ("deletion", "faithfulness", "infidelity", "sensitivity")}
    order = np.array([4, 2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = quiet(METHODS, few, XS[order], TARGETS[order], key=KEY, chunk=chunk)
    places = [whole().metrics.index(name) for name in few]
    expected = whole().scores[:, places][..., order]
    np.testing.assert_allclose(table.scores, expected, rtol=2e-4, atol=1e-5)


def test_the_same_key_gives_the_same_table_and_another_key_another():
    few = {n: METRICS[n] for n in ("faithfulness", "infidelity")}
    run = lambda key: quiet({"gradient": METHODS["gradient"]}, few, XS, TARGETS, key=key).scores
    np.testing.assert_array_equal(run(KEY), run(KEY))
    assert (run(KEY) != run(jax.random.key(8))).all()


@pytest.mark.promotes
def test_perturbations_are_the_same_for_all_methods():
    twice = {"one": METHODS["DeepLIFT"], "other": METHODS["DeepLIFT"]}
    table = quiet(twice, METRICS, XS, TARGETS, key=KEY, masks=MASKS)
    np.testing.assert_array_equal(table.scores[0], table.scores[1])


@pytest.mark.promotes
def test_what_is_equal_is_evaluated_once():
    e = whole().evaluations
    # Subsets and perturbations once for all methods, with f(x) and f(ref).
    assert e.once == 8 + 4 + 2
    # Of the signed order all five positions and of both curves; of the absolute one, too.
    assert e.each == 2 * 5 + 2 * 5
    # x, three perturbed inputs, another class, two layers from the top, and each alone.
    assert e.explanations == 1 + 3 + 1 + 2 + 2
    assert e.made == 5 * (14 + 4 * 20) and e.shared == 5 * 4 * e.alone - e.made > e.made
    assert e.per_method == 20 + 14 / 4


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", [2, None])
def test_each_method_is_traced_once(chunk):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def explain(params, x, target):
        return jxp.gradient(network, argnums=1)(params, x, target)

    quiet({"it": partial(explain, PARAMS)}, METRICS, XS, TARGETS, masks=MASKS, chunk=chunk)


def test_the_random_control_is_where_it_must_be():
    xs, targets = draw(5, 200, 6), jnp.arange(200) % 3
    some = ("abpc", "faithfulness", "another class", "randomisation")
    metrics = {name: METRICS[name] for name in some} | {"auc": jxp.localisation_auc}
    chance = [0, 0, 0, 0, 0.5]
    table = quiet({}, metrics, xs, targets, key=KEY, masks=np.asarray(xs) > 0)
    low, high = np.moveaxis(table.interval(0.999), -1, 0)[:, 0]
    assert (low <= chance).all() and (chance <= high).all()
    constant = quiet({}, metrics, XS, TARGETS, masks=MASKS, controls=("constant",))
    assert constant.mean()[0, 0] == pytest.approx(0, abs=1e-5)
    assert (constant.undefined[0] == [0, 5, 5, 5, 0]).all()
    assert constant.mean()[0, -1] == pytest.approx(0.5)


def test_contributions_made_before():
    maps = jax.vmap(jxp.deeplift(f, 0.3))(XS, TARGETS)
    few = {n: METRICS[n] for n in ("deletion", "infidelity", "sparseness")}
    table = quiet({"maps": maps, "DeepLIFT": METHODS["DeepLIFT"]}, few, XS, TARGETS, key=KEY)
    np.testing.assert_allclose(table.scores[0], table.scores[1], rtol=1e-3)
    with pytest.raises(TypeError, match="contributions alone"):
        quiet({"maps": maps}, {"it": METRICS["sensitivity"]}, XS, TARGETS)
    with pytest.raises(ValueError, match=r"'maps'.*shaped like x"):
        quiet({"maps": maps[:, :2]}, few, XS, TARGETS)


def test_groups_are_those_of_all_metrics_without_their_own():
    groups = np.array([0, 0, 1, 1, 2, 2])
    metrics = {"it": jxp.deletion(f, 0.0), "own": jxp.deletion(f, 0.0, groups=groups)}
    table = quiet({"gradient": METHODS["gradient"]}, metrics, XS, TARGETS, groups=groups)
    np.testing.assert_array_equal(table.scores[:, 0], table.scores[:, 1])
    assert table.evaluations.each == 2


def test_trees_shared_numbers_and_jitted_methods():
    xs = {"a": XS[:, :2], "b": XS[:, 2:]}
    g = lambda x, target: f(jnp.concatenate([x["a"], x["b"]]), target)
    metrics = {"it": jxp.deletion(g, 0.0), "sensitivity": METRICS["sensitivity"]}
    table = quiet({"gradient": jax.jit(jxp.gradient(g))}, metrics, xs, 1, key=KEY)
    ones, alone = jnp.ones(5, int), {"it": METRICS["deletion"]}
    flat = quiet({"gradient": jxp.gradient(f)}, alone, XS, ones, key=KEY)
    np.testing.assert_allclose(table.scores[0, 0], flat.scores[0, 0], rtol=1e-4)


def test_shared_references_are_told_whoever_hides_them():
    hidden = lambda x, target: jxp.integrated_gradients(f, 0.0, steps=2)(x, target)
    compiled = jax.jit(jxp.deeplift(f, 0.0))
    compiled(XS[0], 0)  # JAX remembers it
    methods = {"gradient": jxp.gradient(f), "hidden": hidden, "compiled": compiled}
    metrics = {n: METRICS[n] for n in ("deletion", "faithfulness", "sparseness", "sensitivity")}
    with pytest.warns(UserWarning, match="deletion, faithfulness with 'hidden', 'compiled'"):
        quiet(methods, metrics, XS, TARGETS)
    refs = draw(4, 3, 6)
    with pytest.warns(UserWarning, match="deletion with 'it'"):
        quiet({"it": jxp.deeplift_shap(f, refs)}, {"deletion": jxp.deletion(f, refs)}, XS, TARGETS)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(metrics={"m": jxp.relevance_mass}), ValueError, "'m' takes masks"),
        (dict(masks=MASKS.astype(float)), TypeError, "a mask is boolean"),
        (dict(masks=MASKS[:, :2]), ValueError, "broadcast"),
        (dict(args=(TARGETS[:2],)), ValueError, "5 examples"),
        (dict(methods={"m": lambda x, t: x[:2]}), ValueError, "'m'.*shaped like x"),
        (dict(methods={"random": jxp.gradient(f)}), ValueError, "name methods and controls"),
        (dict(controls=("noise",)), ValueError, "unknown controls"),
        (dict(metrics={}), ValueError, "at least one"),
        (dict(metrics={"m": 3.0}), TypeError, "'m' is a float"),
        (dict(metrics={"m": lambda c, x, t: c}), ValueError, "a number for each metric"),
        (dict(chunk=0), ValueError, "chunk"),
        (dict(key=3), TypeError, "no key"),
        (
            dict(metrics={"m": jxp.max_sensitivity(jxp.gradient(f), radius=0.1, samples=2)}),
            ValueError,
            r"write \.\.\. in its place",
        ),
        (
            dict(
                methods={"m": jxp.gradient(f)},
                metrics={"m": jxp.parameter_randomization(..., PARAMS)},
            ),
            TypeError,
            "functools.partial",
        ),
    ],
)
def test_bad_input_is_told_in_words(options, error, words):
    args = options.pop("args", (TARGETS,))
    methods = options.pop("methods", {"gradient": jxp.gradient(f)})
    metrics = options.pop("metrics", {"deletion": METRICS["deletion"]})
    with pytest.raises(error, match=words):
        quiet(methods, metrics, XS, *args, **options)


def test_what_is_not_finite_is_counted():
    broken = lambda x, target: jxp.gradient(f)(x, target) / jnp.where(target == 1, 0.0, 1.0)
    few = {n: METRICS[n] for n in ("deletion", "sparseness", "sensitivity", "infidelity")}
    table = quiet({"broken": broken}, few, XS, TARGETS, key=KEY)
    assert (table.undefined[0] == 2).all() and np.isfinite(table.mean()).all()
    assert "(2 undefined)" in table.to_markdown()


@pytest.mark.slow
def test_the_whole_suite_of_a_digit_costs_at_most_80_evaluations_and_11_explanations():
    from jaxplain import demo

    images, labels = (jnp.asarray(v[:40]) for v in jxp.datasets.digits())
    params = demo.CNN().init(jax.random.key(0), images[:1])
    f = lambda params, x, target: demo.CNN().apply(params, x[None])[0, target]
    logit, mean = partial(f, params), images.mean(0)
    by_two = {"IG": partial(jxp.integrated_gradients, steps=8), "DeepLIFT": jxp.deeplift}
    made = {
        "gradient": jxp.gradient(f, argnums=1),
        "saliency": jxp.saliency(f, argnums=1),
        "guided": jxp.guided_backprop(f, argnums=1),
        "smooth": jxp.smooth(jxp.gradient(f, argnums=1), stdev=0.1, samples=4, argnums=1),
        "gradient × input": jxp.input_x_gradient(f, argnums=1),
        "ablation": jxp.ablation(f, 0.0, argnums=1),
        **{n: method(f, 0.0, argnums=1) for n, method in by_two.items()},
        **{f"{n}, mean": method(f, mean, argnums=1) for n, method in by_two.items()},
    }
    steps = dict(steps=16)
    curves = {n: m(logit, 0.5, **steps) for n, m in {
        "deletion": jxp.deletion, "insertion": jxp.insertion, "abpc": jxp.abpc,
        "monotonicity": jxp.monotonicity,
    }.items()}  # fmt: skip
    sensitivity = {
        per or "relative": jxp.max_sensitivity(..., radius=0.05, samples=4, per=per)
        for per in (None, "distance", "input")
    }
    metrics = curves | sensitivity | {
        "comprehensiveness": jxp.comprehensiveness(logit, 0.5),
        "sufficiency": jxp.sufficiency(logit, 0.5),
        "faithfulness": jxp.faithfulness_correlation(logit, 0.5),
        "infidelity": jxp.infidelity(logit, ..., perturb=noise, samples=32, scale="optimal"),
        "mean sensitivity": jxp.max_sensitivity(..., radius=0.05, samples=4, reduce="mean"),
        "randomisation": jxp.parameter_randomization(..., params),
        "another class": jxp.metrics.random_logit(..., 10),
        "sparseness": jxp.sparseness, "complexity": jxp.complexity, "mass": jxp.relevance_mass,
        "rank": jxp.relevance_rank, "auc": jxp.localisation_auc, "point": jxp.pointing_game,
        "gap": jxp.completeness_gap(logit, 0.0),
    }  # fmt: skip
    methods = {name: partial(explain, params) for name, explain in made.items()}
    masks = np.asarray(images) > 0.3
    table = quiet(methods, metrics, images, labels, key=KEY, masks=masks)
    assert table.scores.shape == (11, 21, 40) and len(made) == 10
    cost = table.evaluations
    assert cost.each + cost.once / 10 <= 80 and cost.explanations <= 11
    assert cost.alone > 150 and cost.explanations_alone > 30


# The table's statistics


def of(scores, directions=None, controls=0):
    scores = np.asarray(scores, float)
    methods = tuple(f"m{i}" for i in range(len(scores)))
    metrics = tuple(f"k{i}" for i in range(scores.shape[1]))
    cost = Evaluations(0, 0, 0, 0, 0, *scores.shape[::2])
    directions = directions or ("↑",) * len(metrics)
    return Table(scores, methods, metrics, directions, methods[len(methods) - controls :], cost)


@pytest.mark.parametrize("count", [10, 40])
@pytest.mark.parametrize("draw_scores", ["normal", "uniform"])
def test_intervals_cover(count, draw_scores):
    """Of 400 tables that are drawn, about 95 % have the true mean inside."""
    rng = np.random.default_rng(count)
    draws = getattr(rng, draw_scores)(size=(400, 1, count))
    truth = 0.0 if draw_scores == "normal" else 0.5
    low, high = np.moveaxis(of(draws).interval(samples=500), -1, 0)[:, :, 0]
    assert 0.92 <= ((low <= truth) & (truth <= high)).mean() <= 0.98


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    common, apart = rng.normal(scale=10, size=(1, 1, 60)), rng.normal(scale=0.1, size=(2, 1, 60))
    table = of(common + apart + np.array([0, 0.2])[:, None, None])
    difference = table.difference("m1", "m0")
    assert difference.mean[0] == pytest.approx(0.2, abs=0.05)
    assert 0 < difference.interval[0, 0] < difference.interval[0, 1] < 0.3
    (low, _), (_, high) = table.interval()[:, 0]
    assert high - low > 2  # alone neither is known so well
    with pytest.raises(ValueError, match="no method 'x'"):
        table.difference("x", "m0")


def test_best_and_ranks_go_by_direction():
    table = of(
        [[[1, 1], [1, 1], [-3, -3], [0, 0]], [[2, 2], [2, 2], [1, 1], [0, 0]]],
        ("↑", "↓", "0", None),
    )
    assert table.best() == {"k0": "m1", "k1": "m0", "k2": "m1", "k3": None}
    np.testing.assert_array_equal(table.ranks()[:, :3], [[2, 1, 2], [1, 2, 1]])
    assert np.isnan(table.ranks()[:, 3]).all()


def test_metrics_agree_on_methods_and_not_on_controls():
    table = of([[[1], [3], [1]], [[2], [2], [2]], [[3], [1], [2]], [[-9], [-9], [-9]]], controls=1)
    agreement = table.agreement()
    assert agreement[0, 1] == pytest.approx(-1) and agreement[0, 0] == pytest.approx(1)
    assert agreement[0, 2] == pytest.approx(3**0.5 / 2) and (agreement == agreement.T).all()


def test_undefined_scores_are_left_out():
    table = of([[[1.0, np.nan, 3.0]], [[np.nan] * 3]])
    np.testing.assert_array_equal(table.mean(), [[2.0], [np.nan]])
    np.testing.assert_array_equal(table.undefined, [[1], [3]])
    assert np.isnan(table.interval()[1]).all() and np.isfinite(table.interval()[0]).all()
    assert table.best() == {"k0": "m0"}


@pytest.mark.promotes
def test_markdown_pandas_and_a_picture():
    table = whole()
    text = table.to_markdown()
    assert str(table) == text and len(text.splitlines()) == 2 + len(table.methods)
    assert repr(table) == f"Table(4 methods, {len(METRICS)} metrics, 5 examples)"
    assert "| deletion ↓ |" in text and "| *random* |" in text and "**" in text
    frame = table.to_pandas()
    assert len(frame) == table.scores.size
    means = frame.groupby(["method", "metric"]).score.mean()
    assert means["DeepLIFT", "deletion"] == pytest.approx(table.mean()[1, 0])
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    ax = table.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table.methods)
    assert len(ax.texts) == table.mean().size
    plt.close(ax.figure)


def test_a_bar_shows_how_far_it_is(capsys):
    jxp.evaluate({"gradient": jxp.gradient(f)}, {"it": jxp.sparseness}, XS, TARGETS, chunk=2)
    assert "evaluate" in capsys.readouterr().err
