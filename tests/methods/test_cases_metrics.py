"""The numbers of the metrics' papers: Quantus, Captum, OpenXAI, AIX360 or a closed form agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.cases import array, load, sequential
from tests.support.marks import one_of_each

CASES = load("metrics")
GIVEN = {"gradient": jxp.gradient, "zero": lambda f: lambda x: 0 * x}


def function(case):
    model = sequential(case["model"])
    softmax = case["options"].get("output") == "probability"
    return (jxp.probability if softmax else jxp.logit)(model, case["target"])


def curve_options(case):
    options = case["options"]
    moved = options.get("features_per_step", 1)
    x, groups = array(case["input"]), options.get("groups")
    found = {} if moved == 1 else {"steps": x.size / moved}
    return found if groups is None else found | {"groups": np.asarray(groups)}


def curve(case, method):
    f, ref, scores = function(case), case["options"]["reference"], array(case["attributions"])
    return method(f, ref, **curve_options(case))(scores, array(case["input"]))


def by_fractions(method):
    def score(case):
        chosen = {k: case["options"][k] for k in ("fractions", "aggregate")}
        metric = method(function(case), case["options"]["reference"], **chosen)
        return metric(array(case["attributions"]), array(case["input"]))

    return score


def infidelity(case):
    f, options = function(case), case["options"]
    explain = lambda x: array(case["attributions"])
    given = array(options["perturbations"])
    return jxp.infidelity(f, explain, perturb=given, scale=options.get("scale"))(
        array(case["input"])
    )


def max_sensitivity(case):
    explain = GIVEN[case["options"]["explain"]](function(case))
    given = array(case["options"]["perturbations"])
    return jxp.max_sensitivity(explain, radius=given)(array(case["input"]))


def faithfulness_correlation(case):
    options = case["options"]
    metric = jxp.faithfulness_correlation(
        function(case),
        options["reference"],
        subsets=options["subsets"],
        correlation=options.get("correlation", "pearson"),
    )
    return metric(array(case["attributions"]), array(case["input"]))


def masked(method):
    def score(case):
        options = dict(case["options"])
        mask = np.array(options.pop("mask"), bool)
        options.pop("ties", None)
        return method(array(case["attributions"]), jnp.asarray(mask), **options)

    return score


def parameter_randomization(case):
    """The model of one parameter, whose map is the other as soon as that is redrawn."""
    options = dict(case["options"])
    maps = array(case["attributions"]), array(case["other"])
    explain = lambda drawn, x: jnp.where(drawn == 1.0, *maps)
    similarity = options.pop("similarity")
    if similarity == "ssim":
        assert jxp.agreement(*maps, kind="ssim", **options) == pytest.approx(
            case["expected"], abs=2e-5
        )
    metric = jxp.parameter_randomization(
        explain, array(1.0), similarity=similarity, sign=options["sign"]
    )
    return metric(jnp.zeros(1), key=jax.random.key(0))


def agreement(case):
    maps = array(case["attributions"]), array(case["other"])
    if "k" not in case["options"]:
        return jxp.agreement(*maps, kind=case["options"]["kind"])
    kinds = case["expected"]
    return [jxp.agreement(*maps, kind=kind, k=case["options"]["k"]) for kind in kinds]


SCORES = {
    "deletion": lambda case: curve(case, jxp.deletion),
    "insertion": lambda case: curve(case, jxp.insertion),
    "abpc": lambda case: curve(case, jxp.abpc),
    "monotonicity": lambda case: curve(case, jxp.monotonicity),
    "comprehensiveness": by_fractions(jxp.comprehensiveness),
    "sufficiency": by_fractions(jxp.sufficiency),
    "completeness_gap": lambda case: curve(case, lambda f, ref: jxp.completeness_gap(f, ref)),
    "infidelity": infidelity,
    "max_sensitivity": max_sensitivity,
    "faithfulness_correlation": faithfulness_correlation,
    "sparseness": lambda case: jxp.sparseness(array(case["attributions"])),
    "complexity": lambda case: jxp.complexity(array(case["attributions"])),
    "relevance_mass": masked(jxp.relevance_mass),
    "relevance_rank": masked(jxp.relevance_rank),
    "localisation_auc": masked(jxp.localisation_auc),
    "pointing_game": masked(jxp.pointing_game),
    "parameter_randomization": parameter_randomization,
    "agreement": agreement,
}


def expected(case):
    value = case.get("auc", case["expected"])
    if isinstance(value, dict):
        value = list(value.values())
    return np.asarray(np.nan if value is None else value, np.float64)


def check(case, tolerance):
    got = np.asarray(SCORES[case["metric"]](case), np.float64)
    wanted = expected(case)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


def test_every_case_is_scored():
    assert len(CASES) == 47 and {case["metric"] for case in CASES} == set(SCORES)


QUICK = one_of_each(CASES, lambda case: case["metric"])


@pytest.mark.promotes
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case["id"])
def test_in_double_precision(case, x64):
    check(case, case["tolerance"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_in_single_precision(case):
    check(case, 2e-5)


CURVES = [case for case in CASES if "fractions" in case]


@pytest.mark.promotes
@pytest.mark.parametrize("case", CURVES, ids=lambda case: case["id"])
def test_the_curve_itself(case, x64):
    metric = jxp.metrics.perturbation_curve(
        function(case),
        case["options"]["reference"],
        insert=case["metric"] == "insertion",
        **curve_options(case),
    )
    fractions, values = metric(array(case["attributions"]), array(case["input"]))
    np.testing.assert_allclose(fractions, case["fractions"], atol=1e-9)
    np.testing.assert_allclose(values, case["expected"], atol=1e-6)
