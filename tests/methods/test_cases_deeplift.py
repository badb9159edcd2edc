"""The original DeepLIFT package's numbers, from its tests and the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.surrogate.interpreter import interpret
from tests.support.cases import array, assert_close, load, sequential

# An experiment of 2016 that no released version kept.
DROPPED = "MaxMerge temp=1"
CASES = [case for case in load("deeplift") if case["rule"] != DROPPED]

RULES = {
    "Rescale": "rescale",
    "elementwise product": "rescale",
    "RevealCancel": "reveal_cancel",
    "DeepLIFT_GenomicsDefault": "genomics",
}
# Plain gradients through a max-pool, and float32 noise of ±1e-7 in the original: only the sum.
ONLY_COMPLETE = {"globalmaxpool", "maxpool2d_gradient", "genomics_cnn_RevealCancel"}
ROWS = {"near_zero_RevealCancel": [0, 2]}  # that noise again, where x == ref


def deeplift(case, f, ref, multiply):
    return jxp.deeplift(f, ref, rules=RULES[case["rule"]], multiply=multiply)


def deeplift_shap(case, f, refs, multiply):
    return jxp.expected(jxp.deeplift)(f, refs)


def midpoint(case, f, ref, multiply):
    steps = case.get("n_steps", 40)  # 40: every kink of the maxout paths falls between two nodes
    return jxp.integrated_gradients(f, ref, steps=steps, quadrature="midpoint", multiply=multiply)


def neuron_integrated_gradients(case, f, ref, multiply):
    """With 20000 steps to 2e-3 only, in float32."""
    at, steps = f"layer_{case['score_layer']}", case["n_steps"]
    return jxp.neuron_integrated_gradients(
        f, ref, at=at, steps=steps, quadrature="right", chunk=2000
    )


def gradient_like(method):
    def explainer(case, f, ref, multiply):
        if multiply:
            return lambda x: (x - ref) * method(f)(x)
        return method(f)

    return explainer


METHODS = {
    "neuron_integrated_gradients / total conductance": neuron_integrated_gradients,
    "deeplift": deeplift,
    "deeplift_shap": deeplift_shap,
    "integrated_gradients": midpoint,
    "deeplift(maxout)=integrated_gradients": midpoint,
    "gradient": gradient_like(jxp.gradient),
    "gradient / gradient*(x-ref)": gradient_like(jxp.gradient),
    "guided_backprop": gradient_like(jxp.guided_backprop),
    "deconvnet": gradient_like(jxp.deconvnet),
}
ATOL = {"mlp_neuron_ig_n20000": 2e-3}
NORMALISED = [case for case in CASES if case["expected"]["what"] == "normalised_contributions"]
IN_PARTS = [case for case in CASES if case["rule"] == "Linear(pos/neg)"]
SCORED = [case for case in CASES if case not in NORMALISED + IN_PARTS]


def reference(case, x):
    """The case's reference for one example, without the batch axis that two cases give it."""
    ref = array(case["reference"])
    return ref[0] if ref.ndim > x.ndim and case["method"] != "deeplift_shap" else ref


def scalar(case):
    model = sequential(case["model"], jxp.tag)
    return lambda x: jnp.ravel(model(x))[case["target"]]


@pytest.mark.promotes
@pytest.mark.parametrize("case", [c for c in SCORED if "output" in c], ids=lambda c: c["id"])
def test_model(case):
    x = array(case["input"])
    ref = jnp.broadcast_to(reference(case, x[0]), x.shape)
    f = jax.jit(jax.vmap(scalar(case)))
    np.testing.assert_allclose(f(x), case["output"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(f(ref), case["reference_output"], rtol=1e-6, atol=1e-6)


@pytest.mark.promotes
@pytest.mark.parametrize("case", SCORED, ids=lambda c: c["id"])
def test_scores(case):
    x = array(case["input"])
    f, ref, tolerance = (
        scalar(case),
        reference(case, x[0]),
        ATOL.get(case["id"], case.get("atol", 1e-5)),
    )
    only_complete = case["id"] in ONLY_COMPLETE
    multiply = only_complete or "contributions" in case["expected"]["what"]
    scores = jax.jit(jax.vmap(METHODS[case["method"]](case, f, ref, multiply)))(x)
    if only_complete:
        delta = array(case["output"]) - array(case["reference_output"])
        assert_close(scores.reshape(len(x), -1).sum(-1), delta, tolerance)
    else:
        rows = np.array(ROWS.get(case["id"], range(len(x))))
        assert_close(scores[rows], array(case["expected"]["value"])[rows], tolerance)


@pytest.mark.promotes
@pytest.mark.parametrize("case", IN_PARTS, ids=lambda c: c["id"])
def test_parts_of_an_affine_map(case):
    """The positive and the negative part of what it returns, and their multipliers."""
    x, expected = array(case["input"]), case["expected"]
    ref = jnp.full_like(x, case["reference"])
    table, jaxpr = jxp.rules.reveal_cancel(), jax.make_jaxpr(sequential(case["model"]))(x)

    def parts_after(parts):
        [out] = interpret(table, jaxpr, [table.lifted.lift(x, ref, parts)])
        return out.settle().both

    parts, vjp = jax.vjp(parts_after, table.lifted.parts(x, ref))
    if "given" in case:
        given = case["given"]
        arriving = [array(given[f"{sign}_multipliers_on_output"]) for sign in ("pos", "neg")]
        (parts,) = vjp(tuple(arriving))
    for part, sign in zip(parts, ("pos", "neg"), strict=True):
        assert_close(part, expected[sign], 1e-6)


@pytest.mark.parametrize("case", NORMALISED, ids=lambda c: c["id"])
def test_contrast_subtracts_the_mean_over_classes(case):
    weights = array(case["input"]["class_contribs"])
    explain = lambda k: jxp.deeplift(jxp.contrast(lambda x: weights @ x, k), 0.0)(
        jnp.ones(weights.shape[1])
    )
    scores = jax.vmap(explain)(jnp.arange(len(weights)))
    assert_close(scores, case["expected"]["value"], 1e-6)
