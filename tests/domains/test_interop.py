"""Bridges: shap draws what it is handed, Quantus's calls give what the methods give."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

SCORES = np.array([[1.0, -2.0], [0.5, 4.0], [0.0, 1.0]])


@pytest.fixture
def shap():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    plt.close("all")  # shap draws into the current figure, and another test may have left one
    yield pytest.importorskip("shap")
    plt.close("all")


def test_one_example_falls_down_the_waterfall(shap):
    one = jxp.interop.to_shap(jnp.array([1.0, -2.5]), jnp.array([3.0, 4.0]), 10.0, names=["a", "b"])
    assert isinstance(one.base_values, float) and one.feature_names == ["a", "b"]
    bars, base, end = shap.plots.waterfall(one, show=False).figure.axes
    assert [text.get_text() for text in bars.texts] == ["+1", "−2.5"]
    assert "= 10$" in base.get_xticklabels()[1].get_text()
    assert "= 8.5$" in end.get_xticklabels()[1].get_text()


def test_a_batch_is_drawn_by_each_of_shaps_plots(shap):
    batch = jxp.interop.to_shap(SCORES, 2 * SCORES, base=3.0)
    assert batch.shape == (3, 2) and batch.base_values.tolist() == [3.0] * 3
    assert batch[1].base_values == 3.0 and batch[1].data.tolist() == [1.0, 8.0]
    ax = shap.plots.beeswarm(batch, show=False, plot_size=None)
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == "feature 1"
    shap.plots.waterfall(batch[0], show=False)
    shap.plots.bar(batch, show=False)
    shap.plots.scatter(batch[:, 0], show=False)


def test_a_base_for_each_example(shap):
    batch = jxp.interop.to_shap(SCORES, base=np.arange(3.0))
    assert batch.base_values.tolist() == [0, 1, 2] and batch.data is None


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.ones((2, 2, 2)),), {}, "must be"),
        ((np.ones(0),), {}, "must be"),
        ((SCORES, SCORES[:2]), {}, r"x \(2, 2\) for scores \(3, 2\)"),
        ((SCORES, SCORES, np.ones(2)), {}, r"base \(2,\)"),
        ((SCORES,), {"names": ["a"]}, "1 names for 2"),
    ],
)
def test_what_shap_would_misread_is_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        jxp.interop.to_shap(*arguments, **options)


class Net(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(nn.relu(nn.Conv(2, (2, 2))(image)).reshape(-1))


IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))  # channels last
FIRST = np.moveaxis(np.asarray(IMAGES), -1, 1)  # as Quantus has them
TARGETS = np.array([0, 2, 1, 1])
MASKS = FIRST > 0.3


def apply(variables, x):
    return Net().apply(variables, x)


def explain(variables, x, target):
    return jxp.deeplift(jxp.logit(lambda x: apply(variables, x), target), 0.0)(x)


@pytest.fixture(scope="module")
def quantus():
    pytest.importorskip("torch")
    return pytest.importorskip("quantus")


@pytest.fixture(scope="module")
def bridge(quantus):
    variables = Net().init(jax.random.key(1), IMAGES[0])
    return variables, *jxp.interop.to_quantus(explain, apply, variables, channels_last=True)


def measured(quantus, bridge, name, softmax=False, **options):
    """Quantus's metric of our explanation of our model."""
    _, model, explain_func = bridge
    metric = getattr(quantus, name)(disable_warnings=True, display_progressbar=False, **options)
    scores = metric(
        model=model, x_batch=FIRST.copy(), y_batch=TARGETS, s_batch=MASKS,
        explain_func=explain_func, device="cpu", softmax=softmax, channel_first=True,
    )  # fmt: skip
    return next(iter(scores.values())) if isinstance(scores, dict) else scores


QUANTUS = {
    "FaithfulnessCorrelation": dict(nr_runs=4, subset_size=8),
    "FaithfulnessEstimate": dict(features_in_step=16),
    "PixelFlipping": dict(features_in_step=16),
    "RegionPerturbation": dict(patch_size=4, regions_evaluation=2),
    "Monotonicity": dict(features_in_step=16),
    "MonotonicityCorrelation": dict(nr_samples=2, features_in_step=16),
    "Selectivity": dict(patch_size=4),
    "SensitivityN": dict(features_in_step=16),
    "IROF": {},
    "ROAD": dict(percentages=[10, 50]),
    "Infidelity": dict(n_perturb_samples=2, perturb_patch_sizes=[4]),
    "Sufficiency": {},
    "Continuity": dict(nr_steps=2),
    "LocalLipschitzEstimate": dict(nr_samples=2),
    "MaxSensitivity": dict(nr_samples=2),
    "AvgSensitivity": dict(nr_samples=2),
    "Consistency": {},
    "RelativeInputStability": dict(nr_samples=2),
    "RelativeOutputStability": dict(nr_samples=2),
    "RelativeRepresentationStability": dict(nr_samples=2),
    "PointingGame": {},
    "TopKIntersection": dict(k=5),
    "RelevanceMassAccuracy": {},
    "RelevanceRankAccuracy": {},
    "AttributionLocalisation": {},
    "AUC": {},
    "Sparseness": {},
    "Complexity": {},
    "EffectiveComplexity": {},
    "MPRT": {},
    "EfficientMPRT": dict(softmax=True),  # the entropy of probabilities
    "RandomLogit": dict(num_classes=3),
    "Completeness": {},
    "NonSensitivity": {},
}


@pytest.mark.parametrize("name", QUANTUS)
def test_quantus_measures(quantus, bridge, name):
    scores = measured(quantus, bridge, name, **QUANTUS[name])
    # Some return the mean over examples.
    assert np.size(scores) >= 1 and np.shape(scores)[:1] in ((), (1,), (len(IMAGES),))


def test_quantus_and_our_metrics_agree_where_quantus_is_right(quantus, bridge):
    variables, _, _ = bridge
    f = lambda x, target: apply(variables, x)[target]
    scores = jax.vmap(lambda x, k: explain(variables, x, k))(IMAGES, TARGETS)
    # Quantus breaks ties by index and leaves the first point out.
    theirs = measured(
        quantus, bridge, "PixelFlipping", features_in_step=16, abs=False, normalise=False,
        perturb_baseline=0.25,
    )  # fmt: skip
    curve = jxp.metrics.perturbation_curve(f, 0.25, steps=4)
    _, ours = jax.vmap(curve)(scores, IMAGES, TARGETS)
    np.testing.assert_allclose(np.stack(theirs), ours[:, 1:], atol=1e-4)
    options = dict(abs=True, normalise=False)
    for name, metric in {"Sparseness": jxp.sparseness, "Complexity": jxp.complexity}.items():
        theirs = measured(quantus, bridge, name, **options)
        np.testing.assert_allclose(theirs, jax.vmap(metric)(scores), atol=1e-4)
    theirs = measured(quantus, bridge, "AUC", abs=False, normalise=False)
    masks = np.moveaxis(MASKS, 1, -1)
    np.testing.assert_allclose(theirs, jax.vmap(jxp.localisation_auc)(scores, masks), atol=1e-5)


def test_one_program_serves_all_variables_and_batches(quantus, bridge):
    variables, _, _ = bridge
    traced = []

    def counted(variables, x, target):
        traced.append(x.shape)
        return explain(variables, x, target)

    model, explain_func = jxp.interop.to_quantus(counted, apply, variables, channels_last=True)
    before = explain_func(model=model, inputs=FIRST, targets=TARGETS, device="cpu")
    np.testing.assert_allclose(
        np.moveaxis(before[1], 0, -1), explain(variables, IMAGES[1], 2), atol=1e-5
    )
    for name, other in quantus.helpers.model.pytorch_model.PyTorchModel(
        model
    ).get_random_layer_generator("top_down", 42):
        after = explain_func(other, FIRST[:3], TARGETS[:3])
        assert name and not np.allclose(after, before[:3])
    assert len(traced) == 1
    np.testing.assert_allclose(explain_func(model, FIRST, TARGETS), before)  # as it was


def test_maps_without_channels_and_of_another_shape(quantus, bridge):
    variables, _, _ = bridge
    without = lambda variables, x, target: explain(variables, x, target).sum(-1)
    model, explain_func = jxp.interop.to_quantus(without, apply, variables, channels_last=True)
    assert explain_func(model, FIRST, TARGETS).shape == (4, 1, 8, 8)
    wrong = lambda variables, x, target: x.sum()
    model, explain_func = jxp.interop.to_quantus(wrong, apply, variables)
    with pytest.raises(ValueError, match=r"contributions \(4,\) for inputs \(4, 1, 8, 8\)"):
        explain_func(model, FIRST, TARGETS)
