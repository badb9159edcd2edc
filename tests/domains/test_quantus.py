"""Quantus measures explanations of models that are JAX's, where it is installed."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxplain as jxp

pytestmark = pytest.mark.slow


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
