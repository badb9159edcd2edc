"""Captum's numbers, and those of its test-suite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.cases import array, assert_close, graph, load
from tests.support.marks import one_of_each

NEURONS = {
    "sum of neurons 0 and 1": slice(0, 2),
    "sum of neurons 2 and 3": slice(2, 4),
    "sum of all neurons": slice(None),
}
QUADRATURES = {
    "gausslegendre": "gauss-legendre",
    "riemann_left": "left",
    "riemann_middle": "midpoint",
    "riemann_right": "right",
}


def deeplift(case, f, ref):
    return jxp.deeplift(f, ref, multiply=case["options"].get("multiply_by_inputs", True))


def deeplift_shap(case, f, refs):
    multiply = case["options"].get("multiply_by_inputs", True)
    method = lambda f, ref: jxp.deeplift(f, ref, multiply=multiply)
    return jxp.expected(method)(f, refs)


def integrated_gradients(case, f, ref):
    options = case["options"]
    return jxp.integrated_gradients(
        f,
        ref,
        steps=options["n_steps"],
        quadrature=QUADRATURES[options["method"]],
        multiply=options.get("multiply_by_inputs", True),
    )


def expected_gradients(case, f, refs):
    """A number of samples that uses every reference equally often; the case's model is linear."""
    explain = jxp.expected_gradients(f, refs, samples=case["options"]["n_samples"])
    return lambda x, *args: explain(x, *args, key=jax.random.key(0))


def smoothed(case, f, ref):
    options = case["options"]
    explain = integrated_gradients(case, f, ref)
    smooth = jxp.smooth(explain, stdev=options["stdevs"], samples=options["nt_samples"])
    return lambda x, *args: smooth(x, *args, key=jax.random.key(0))


def groups(case):
    """Labels of one example, or none."""
    return tuple(np.asarray(label)[0] for label in labels(case)) or None


def by_groups(method, **options):
    """Of a case with groups; KernelShap's samples are more than there are coalitions."""
    return lambda case, f, ref: method(f, ref, groups=groups(case), **options)


def occlusion(case, f, ref):
    options = case["options"]
    per_leaf = lambda sizes: tuple(tuple(np.atleast_1d(size).tolist()) for size in sizes)
    strides = options.get("strides", 1)
    if not isinstance(strides, int):
        strides = per_leaf(strides)
    return jxp.occlusion(f, ref, window=per_leaf(options["sliding_window_shapes"]), strides=strides)


def at(case):
    """The value inside, or the several of a layer that returns a tuple."""
    return case["attribute_at"]


def layer_deeplift(case, f, ref):
    multiply = case["options"].get("multiply_by_inputs", True)
    return jxp.deeplift(f, ref, at=at(case), multiply=multiply)


def along_the_path(method):
    """A method at a layer along the input's path; where it has kinks, with four times the nodes.

    Equally spaced: at a kink no quadrature is better, and 2000 Gauss nodes take long to find.
    """

    def explainer(case, f, ref):
        steps = (4 if case["id"].endswith("two_branch") else 1) * case["options"]["n_steps"]
        return method(f, ref, at=at(case), steps=steps, quadrature="midpoint")

    return explainer


def neuron_conductance(case, f, ref):
    return along_the_path(functools.partial(jxp.neuron_conductance, index=case["neuron"]))(
        case, f, ref
    )


def layer_integrated_gradients(case, f, ref):
    options = case["options"]
    rule = QUADRATURES[options["method"]]
    return jxp.integrated_gradients(f, ref, at=at(case), steps=options["n_steps"], quadrature=rule)


def layer_expected_gradients(case, f, refs):
    explain = jxp.expected_gradients(
        f, refs, samples=60, at=at(case), multiply=case["options"].get("multiply_by_inputs", True)
    )
    return lambda *args: explain(*args, key=jax.random.key(0))


def layer_reference(case):
    """The baseline is the layer's own."""
    baseline = array(case["baseline"])
    return baseline[0] if baseline.ndim else baseline


def grad_cam(case, f, ref):
    """Captum keeps an axis for the channel."""
    explain = jxp.grad_cam(f, at=at(case), channel_axis=0)
    return lambda *args: explain(*args)[None]


def guided_grad_cam(case, f, ref):
    return jxp.guided_grad_cam(f, at=at(case), channel_axis=0, input_channel_axis=0)


def lrp(case, f, ref):
    """A rule for each layer, by the scope that its weights name."""
    f, rules = (lambda *args, f=f: f(*args).sum()), case["options"]["rules"]  # one pool is left
    if isinstance(rules, str):
        return jxp.lrp(f)
    table = {name: layer_rule(rule) for name, rule in rules.items()}
    return jxp.lrp(f, rules=jxp.rules.composite(jxp.rules.epsilon(), within=table))


def layer_rule(spelled):
    if spelled == "alpha1beta0":
        return jxp.rules.alpha_beta(1.0, 0.0)
    name, _, number = spelled.replace("=", " ").partition(" ")
    return getattr(jxp.rules, name)(*([float(number)] if number else []))


METHODS = {
    "LRP": lrp,
    "LayerDeepLift": layer_deeplift,
    "LayerDeepLiftShap": lambda case, f, refs: jxp.deeplift_shap(f, refs, at=at(case)),
    "LayerConductance": along_the_path(jxp.conductance),
    "LayerIntegratedGradients": layer_integrated_gradients,
    "LayerGradientXActivation": lambda case, f, ref: jxp.input_x_gradient(f, at=at(case)),
    "LayerGradCam": grad_cam,
    "InternalInfluence": along_the_path(jxp.internal_influence),
    "NeuronDeepLift": deeplift,
    "NeuronDeepLiftShap": lambda case, f, refs: deeplift_shap(case, f, refs),
    "NeuronGradient": lambda case, f, ref: jxp.gradient(f),
    "NeuronIntegratedGradients": integrated_gradients,
    "NeuronConductance": neuron_conductance,
    "GuidedGradCam": guided_grad_cam,
    "DeepLift": deeplift,
    "DeepLiftShap": deeplift_shap,
    "IntegratedGradients": integrated_gradients,
    "NoiseTunnel(IntegratedGradients)": smoothed,
    "Saliency": lambda case, f, ref: jxp.saliency(f),
    "InputXGradient": lambda case, f, ref: jxp.input_x_gradient(f),
    "GuidedBackprop": lambda case, f, ref: jxp.guided_backprop(f),
    "Deconvolution": lambda case, f, ref: jxp.deconvnet(f),
    "GradientShap": expected_gradients,
    "LayerGradientShap": layer_expected_gradients,
    "LayerFeatureAblation": lambda case, f, ref: jxp.ablation(
        f, layer_reference(case), at=at(case)
    ),
    "NeuronFeatureAblation": by_groups(jxp.ablation),
    "FeatureAblation": by_groups(jxp.ablation),
    "Occlusion": occlusion,
    "ShapleyValues": by_groups(jxp.shapley_values),
    "KernelShap": by_groups(jxp.kernel_shap, samples=2000),
    "Lime": by_groups(jxp.lime, samples=500, penalty="lasso", strength=1.0, width=10.0),
}
def comparable(case):
    """Captum's trapezoid weights sum to (n − 1)/n, which at a layer its tests allow for."""
    return "trapezoid" not in case["options"].get("method", "") or is_layer(case)


def attributed(case):
    """The attributed inputs, and the others, each a tuple of arrays with the batch in front."""
    inputs = [array(x) for x in case["input"]]
    chosen = case["options"].get("attributed_inputs", range(len(inputs)))
    assert list(chosen) == list(range(len(chosen)))  # the others follow
    return tuple(inputs[: len(chosen)]), tuple(inputs[len(chosen) :])


def references(case, x):
    """One reference an example (broadcast), or for DeepLiftShap the whole set for every example."""
    baseline = case["baseline"]
    if baseline is None or case["options"].get("baseline_is") == "layer baseline":
        return None, None
    if isinstance(baseline, int | float):
        baseline = [baseline] * len(x)
    elif len(x) == 1:
        baseline = [baseline]
    if "DeepLiftShap" in case["method"] or "GradientShap" in case["method"]:
        return tuple(array(b) for b in baseline), None
    ref = tuple(jnp.broadcast_to(array(b), v.shape) for b, v in zip(baseline, x, strict=True))
    return ref, 0


def target(case, batch):
    """The output's index for each example, a row of one integer per output axis, or none."""
    if case["target"] is None:
        return None
    index = np.asarray(case["target"])
    return jnp.asarray(np.broadcast_to(index, (batch, *index.shape[1:])).reshape(batch, -1))


def scalar(case):
    """The model as f(x, others, index), the sum of its output where the case has no target."""
    model = graph(case["model"], jxp.tag if "attribute_at" in case else lambda value, name: value)
    neuron = case.get("neuron") if case["method"] != "NeuronConductance" else None

    def f(x, others, index):
        y = lambda x: model((*x, *others))
        if neuron is not None:
            return jxp.neuron(y, at(case), ...)(x)[NEURONS.get(neuron, neuron)].sum()
        return y(x).sum() if index is None else jxp.logit(y, tuple(index))(x)

    return f


def labels(case):
    """Each attributed input's labels, an array an example, or one for all; none without groups."""
    masks = case["options"].get("feature_mask") or []
    return masks if len(case["input"]) > 1 or not masks else [masks]


def rows(case):
    """A case whose examples have labels of their own, as one case an example."""
    only = lambda parts, row: [[part[row % len(part)]] for part in parts]
    single = len(case["input"]) == 1
    for row in range(len(case["input"][0])):
        masks = only(labels(case), row)
        options = case["options"] | {"feature_mask": masks[0] if single else masks}
        yield case | {"input": only(case["input"], row), "options": options}


def attributions(case):
    if any(len(label) > 1 for label in labels(case)):
        return jax.tree.map(lambda *rows: jnp.concatenate(rows), *map(attributions, rows(case)))
    x, others = attributed(case)
    ref, ref_axis = references(case, x)
    index = target(case, len(x[0]))

    def explain(x, others, index, ref):
        return METHODS[case["method"]](case, scalar(case), ref)(x, others, index)

    return jax.jit(jax.vmap(explain, in_axes=(0, 0, 0, ref_axis)))(x, others, index, ref)


def is_layer(case):
    """Whether scores are those of a hidden layer rather than the inputs."""
    return "Layer" in case["method"] or case["method"] == "InternalInfluence"


def value(case, key):
    """Captum's attributions, one array an attributed input (or value inside)."""
    inputs = len(attributed(case)[0])
    several = isinstance(at(case), list) if is_layer(case) else inputs > 1
    return case[key] if several else [case[key]]


CASES = [case for case in load("captum") if comparable(case)]
QUADRATURE = [case for case in CASES if case["method"] == "quadrature"]
METRICS = ("infidelity", "sensitivity_max")
MEASURED = [case for case in CASES if case["method"] in METRICS]
SCORED = [case for case in CASES if case["method"] not in ("quadrature", *METRICS)]
# Captum's convergence delta is Σ attributions − (f(x) − f(ref)); multipliers have none.
WITH_DELTA = [
    case
    for case in SCORED
    if case["method"] in ("DeepLift", "IntegratedGradients") and "captum_convergence_delta" in case
]


def row_sums(scores):
    return sum(np.asarray(array(s)).reshape(len(s), -1).sum(-1) for s in scores)


@pytest.mark.promotes
@pytest.mark.parametrize("case", WITH_DELTA, ids=lambda case: case["id"])
def test_model(case):
    x, others = attributed(case)
    ref, _ = references(case, x)
    f = jax.jit(jax.vmap(scalar(case)))
    index = target(case, len(x[0]))
    delta = f(x, others, index) - f(ref, others, index)
    expected = row_sums(value(case, "captum_value")) - array(case["captum_convergence_delta"])
    np.testing.assert_allclose(delta, expected, rtol=1e-4, atol=1e-4)


QUICK = one_of_each(SCORED, lambda case: (case["method"], is_layer(case)))


@pytest.mark.promotes
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case["id"])
def test_scores(case):
    scores = attributions(case)
    if is_layer(case):
        scores = [scores[name] for name in at(case)] if isinstance(scores, dict) else [scores]
        if np.ndim(case["expected"]) < scores[0].ndim:  # of the one example, without its axis
            scores = [score[0] for score in scores]
    if "DO NOT MATCH" in case["kind"]:
        assert_close(row_sums(scores), case["expected_row_sum"], case["tolerance"])
        return
    expected = value(case, "captum_value" if case["expected"] is None else "expected")
    for got, wanted in zip(scores, expected, strict=True):
        assert_close(got, wanted, case["tolerance"], case["tolerance_mode"])


@pytest.mark.promotes
@pytest.mark.parametrize("case", QUADRATURE, ids=lambda case: case["id"])
def test_quadrature(case):
    """Integrated gradients of Σ x_kᵏ⁺¹/(k+1) from 0 to 1 are Σ_i w_i α_iᵏ: all the moments of
    n weights and nodes that 2n numbers can tell apart."""
    steps, rule = case["options"]["n_steps"], QUADRATURES[case["options"]["method"]]
    power = jnp.arange(2.0 * steps)
    f = lambda x: jnp.sum(x ** (power + 1) / (power + 1))
    moments = jxp.integrated_gradients(f, 0.0, steps=steps, quadrature=rule)(jnp.ones(2 * steps))
    weights, nodes = (array(case["captum_value"][k]) for k in ("step_sizes", "alphas"))
    assert_close(moments, weights @ nodes[:, None] ** power, case["tolerance"])


def measured(case, x, others, index, ref, given):
    """One example's infidelity of given scores, or the sensitivity of a method."""
    f, options = scalar(case), case["options"]
    if case["method"] == "infidelity":
        apart = tuple(jnp.full((1, *v.shape), i) for v, i in zip(x, (0.0009, 0.0121), strict=True))
        scale = "optimal" if options.get("normalize") else None
        metric = jxp.infidelity(f, lambda *args: given, perturb=apart, scale=scale)
    else:
        steps = {"IG, 50 gausslegendre steps": jxp.integrated_gradients(f, ref, steps=50)}
        explain = steps.get(options["explanation"], jxp.deeplift(f, ref))
        apart = tuple(jnp.arange(-2.0, 1.0)[None] / 100 for _ in x)
        metric = jxp.max_sensitivity(explain, radius=apart)
    return metric(x, others, index)


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case["id"])
def test_metrics(case):
    x, others = attributed(case)
    ref, ref_axis = references(case, x)
    if x[0].ndim != 2:  # three examples of one number each
        x = tuple(v[:, None] for v in x)
    index = target(case, len(x[0]))
    given = case["options"].get("attributions")
    given = None if given is None else tuple(array(a)[:, None] for a in given)
    run = jax.vmap(lambda *args: measured(case, *args), in_axes=(0, 0, 0, ref_axis, 0))
    assert_close(run(x, others, index, ref, given), case["captum_value"], 1e-5)
