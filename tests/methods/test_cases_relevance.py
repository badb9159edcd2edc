"""Closed forms of single operations, and a tiny Llama's and GPT-2's numbers, in float64."""

import itertools
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

import jaxplain as jxp
from tests.support.cases import (
    array,
    assert_close,
    gpt2,
    layernorm,
    llama,
    load,
    residual_block,
    rmsnorm,
    sequential,
    torch_sequential,
)
from tests.support.marks import one_of_each

pytestmark = pytest.mark.usefixtures("x64")

# Clipped stabilisers, batch norm that is not merged, and Captum's γ and α1β0 of negative inputs
# are other rules than ours.
OTHER_RULES = ("stabilizer clip", "no merge", "GammaRule", "Alpha1_Beta0")
CASES = [c for c in load("relevance") if not any(r in c.get("rule", "") for r in OTHER_RULES)]
BY_ID = {case["id"]: case for case in load("relevance")}

OPERATIONS = {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "div": lambda a, b: a / b,
    "matmul": lambda a, b: a @ b,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "exp": jnp.exp,
    "relu": jax.nn.relu,
    "leaky_relu(0.01)": partial(jax.nn.leaky_relu, negative_slope=0.01),
    "logistic": jax.nn.sigmoid,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_erf": partial(jax.nn.gelu, approximate=False),
    "rmsnorm": rmsnorm,
    "layernorm": layernorm,
}


def thetas(case):
    """The norm rule's θ for a case's numbers, and None for the default where it chooses that θ."""
    if "theta" not in case["id"]:
        return [None]
    theta = 1.0 if "theta1.0" in case["id"] else 0.5
    chosen = 1.0 if "-zero-" in case["id"] else 0.5
    return [theta, None] if theta == chosen else [theta]


def table(theta):
    return "rescale" if theta is None else jxp.rules.rescale(norm_theta=theta)


def check_operation(case):
    """The multiplier m of each operand and, where they are given, their contributions C."""
    given, tolerance = case["input"], case["tol"]
    operation = OPERATIONS[case["id"].removeprefix("dl-op-").split("-theta")[0]]
    operands = [name for name in given if f"{name}0" in given]
    x, ref = ({name: array(given[name + end]) for name in operands} for end in ("", "0"))
    norm = (given["eps"], array(given["gamma"])) if "gamma" in given else ()
    f = lambda x: jnp.sum(array(given.get("m_out", 1.0)) * operation(*x.values(), *norm))
    for theta, name in itertools.product(thetas(case), operands):
        m = jax.jit(jxp.deeplift(f, ref, rules=table(theta), multiply=False))(x)
        expected = case["expected"]["m" if "m" in case["expected"] else f"m_{name}"]
        assert_close(m[name], expected, tolerance)
        if f"C_{name}" in case["expected"]:
            contributions = m[name] * (x[name] - ref[name])
            assert_close(contributions, case["expected"][f"C_{name}"], tolerance)


def check_product(case):
    """Three factors share alike, however the product is bracketed."""
    x, ref = array(case["input"]["x"]), array(case["input"]["x0"])
    for f in (lambda x: (x[0] * x[1]) * x[2], lambda x: x[0] * (x[1] * x[2]), jnp.prod):
        assert_close(
            jax.jit(jxp.deeplift(f, ref))(x), case["expected"]["nary_shapley"], case["tol"]
        )


def check_deeplift(case):
    if "llama" in case["id"]:
        check_llama(case)
        return
    explain = jxp.deeplift(mlp_logit(case), array(case["reference"]))
    assert_close(jax.jit(explain)(array(case["input"])), case["expected"], case["tol"])


def check_relu_override(method, case):
    """The case starts its backward pass from the logit itself instead of from 1."""
    f, x = mlp_logit(case), array(case["input"])
    scores = jax.jit(method(lambda z: f(x) * f(z)))(x)
    assert_close(scores, case["expected"], case["tol"])


def mlp_logit(case):
    """The 3-4-3-2 network's target, once its outputs are seen to be the case's."""
    layers = case["model"]["layers"]
    if "act" in case["model"]:  # the list then holds the linear layers alone
        act = {"type": case["model"]["act"].lower()}
        layers = [layers[0], act, layers[1], act, layers[2]]
    model = sequential(layers)
    assert_close(jax.jit(model)(array(case["input"])), case["output"], case["tol"])
    return jxp.logit(model, case["target"])


@cache
def language_model(name, token):
    """A logit of the last position as a function of the token embeddings, and the embeddings."""
    build, tokens = {
        "gpt2": (gpt2, "transformer.wte.weight"),
        "llama": (llama, "model.embed_tokens.weight"),
    }[name]
    model = BY_ID[f"lxt-tiny-{name}-attnlrp"]["model"]
    return jxp.logit(build(model), token), array(model["state_dict"][tokens])


def embedded(case, embeddings):
    [ids] = case["input"]["input_ids"]
    return embeddings[jnp.array(ids)]


@cache
def llama_deeplift(token, theta):
    """f(x), f(ref) and the contributions as one compiled function of x and ref."""
    f, embeddings = language_model("llama", token)
    explain = lambda x, ref: (f(x), f(ref), jxp.deeplift(f, ref, rules=table(theta))(x))
    return jax.jit(explain), embeddings


def check_llama(case):
    ref, expected, tolerance = array(case["reference"]), case["expected"], case["tol"]
    for theta in thetas(case):
        explain, embeddings = llama_deeplift(case["target"]["token"], theta)
        y, y_ref, scores = explain(embedded(case, embeddings), ref)
        assert_close(y, case["output"]["logit"], tolerance)
        assert_close(y_ref, case["output"]["logit_ref"], tolerance)
        assert_close(scores.sum(), expected["sum"], tolerance)
        if "exp_sum_div" not in case["id"]:  # that softmax rule is complete too, but not ours
            assert_close(scores, expected["C_embed"], tolerance)
            assert_close(scores.sum(-1), expected["C_token"], tolerance)


def check_zero_reference(case):
    """θ = 1/2 blows up where the reference's norm is 1/√ε; the default sees it and takes θ = 1."""
    explain, embeddings = llama_deeplift(case["target"]["token"], 0.5)
    x = embedded(case, embeddings)
    scores = explain(x, jnp.zeros_like(x))[-1]
    assert jnp.abs(scores).max() > case["expected"]["max_abs_C_greater_than"]
    total = case["expected"]["sum_approx"]
    assert_close(scores.sum(), total, case["tol"] * jnp.abs(scores).sum())
    default = llama_deeplift(case["target"]["token"], None)[0](x, jnp.zeros_like(x))[-1]
    assert_close(default.sum(), total, case["tol"] * max(1.0, jnp.abs(default).sum()))
    assert jnp.abs(default).max() <= 100 * max(1.0, abs(total))


def check_input_x_gradient(case):
    token = case["target"]["token"]
    f, embeddings = language_model("gpt2" if "gpt2" in case["id"] else "llama", token)
    x = embedded(case, embeddings)
    assert_close(jax.jit(f)(x), case["output"]["logits_last"][token], case["tol"])
    scores = jax.jit(jxp.input_x_gradient(f))(x)
    assert_close(scores, case["expected"]["R_embed"], case["tol"])
    assert_close(scores.sum(-1), case["expected"]["R_token"], case["tol"])


def check_patching(case):
    """Of each hidden unit: the gradient's estimate, the straight path's, and the true effect."""
    layers = [(array(layer["W"]), array(layer["b"])) for layer in case["model"]["layers"]]
    clean, corrupt = (array(case["input"][name]) for name in ("clean", "corrupt"))
    expected, tolerance = case["expected"], case["tol"]

    def metric(x):
        (w0, b0), (w1, b1), (w2, b2) = layers
        hidden = jxp.tag(jax.nn.relu(w0 @ x + b0), "hidden")
        logits = w2 @ jax.nn.relu(w1 @ hidden + b1) + b2
        return logits[0] - logits[1]

    assert_close(metric(clean), expected["metric_clean"], tolerance)
    assert_close(metric(corrupt), expected["metric_corrupt"], tolerance)
    estimate = jxp.attribution_patching(metric, corrupt, at="hidden", multipliers="gradient")
    assert_close(jax.jit(estimate)(clean), expected["atp"], tolerance)
    path = jxp.integrated_gradients(metric, clean, at="hidden", steps=5, quadrature="midpoint")
    assert_close(jax.jit(path)(corrupt), expected["ig_act_midpoint5"], tolerance)
    other = jxp.capture(metric, "hidden")(corrupt)[1]["hidden"]
    for i, effect in enumerate(expected["exact_activation_patching_single_unit"]):
        patched = jxp.intervene(metric, {"hidden": lambda h, i=i: h.at[i].set(other[i])})(clean)
        assert_close(patched - metric(clean), effect, tolerance)


FIRST = {"WSquare": jxp.rules.w_square, "Flat": jxp.rules.flat, "ZBox": jxp.rules.zbox}


def layer_rule(text, **options):
    """A rule as the cases spell it: "AlphaBeta(2,1)", "epsilon=0.25", "Gamma(0.25)"."""
    options |= {"bias": False} if "zero_params=bias" in text else {}
    number = float(next(iter(re.findall(r"(?:gamma=|epsilon=|\()([\d.e-]+)", text)), "nan"))
    if "alphabeta" in text.lower():
        return jxp.rules.alpha_beta(2.0, 1.0, **options)
    if "zplus" in text.lower():
        return jxp.rules.zplus(**options)
    if "gamma" in text.lower():
        return jxp.rules.gamma(number, **options)
    return jxp.rules.epsilon(number, **options)


def rules_of(case):
    """The table of a case's rule."""
    text, method = case["rule"], case["method"]
    if "composite:" in method:
        return composite(method.partition(":")[2], bias="zero_params=bias" not in text)
    if text.startswith("first linear: "):
        first, rest = text.removeprefix("first linear: ").split("; rest: ")
        name = re.match(r"\w+", first).group()
        bias = {"bias": "zero_params" not in first}
        box = (-1.0, 1.0) if name == "ZBox" else ()
        return layer_rule(rest, first=FIRST[name](*box, **bias))
    return layer_rule(text.partition(";")[0])


def composite(name, bias):
    ready = {
        "EpsilonPlus": jxp.rules.epsilon_plus,
        "EpsilonPlusFlat": jxp.rules.epsilon_plus_flat,
        "EpsilonAlpha2Beta1": jxp.rules.epsilon_alpha2_beta1,
        "EpsilonAlpha2Beta1Flat": jxp.rules.epsilon_alpha2_beta1_flat,
        "EpsilonGammaBox": partial(jxp.rules.epsilon_gamma_box, -1.0, 1.0),
    }[name]()
    if bias:
        return ready
    assert name == "EpsilonGammaBox"  # the only one that is given without biases, too
    return jxp.rules.composite(
        jxp.rules.epsilon(bias=False),
        conv=jxp.rules.gamma(0.25, bias=False),
        first=jxp.rules.zbox(-1.0, 1.0, bias=False),
    )


def check_lrp(case):
    build = residual_block if "Lc" in case["model"] else torch_sequential
    model = build(case["model"] if build is residual_block else case["model"]["layers"])
    x = array(case["input"])
    batched = case["id"].startswith("z-cnn")
    x = x[0] if batched else x
    f = jxp.logit(model, case["target"])
    expected = array(case["expected"])
    scores, gap = jax.jit(jxp.lrp(f, rules=rules_of(case), return_gap=True))(x)
    # What is left of batch norm's √(1 + 1e-5) in the reference is no rule's.
    tolerance = 2e-5 if case["id"].startswith("z-bn") else case["tol"]
    assert_close(scores, expected[0] if batched else expected, tolerance)
    assert_close(scores.sum() + gap, f(x), 1e-12)


LXT_OPERATIONS = {
    "lxt-op-softmax": lambda x: jax.nn.softmax(x),
    "lxt-op-softmax-mask": lambda x: jax.nn.softmax(x),
    "lxt-op-add2": lambda a, b: a + b,
    "lxt-op-mul2": lambda a, b: a * b,
    "lxt-op-matmul-nearzero": lambda A, B: A @ B,
}


def check_attn_operation(case):
    """R_out = y · m_out gives each operand its relevance."""
    given = dict(case["input"])
    R_out = array(given.pop("R_out", None) or case["init"]["R_out"])
    if case["id"] == "lxt-op-rmsnorm":
        eps, gamma = given.pop("eps"), array(given.pop("gamma"))
        operation = lambda x: rmsnorm(x, eps, gamma)
    else:
        operation = LXT_OPERATIONS[case["id"]]
    masked = [None in value if isinstance(value[0], float) else False for value in given.values()]
    x = {k: array([-jnp.inf if n is None else n for n in v] if m else v)
         for (k, v), m in zip(given.items(), masked, strict=True)}  # fmt: skip
    # R_out does not vanish with the output in two cases: their ε is in what is sent.
    epsilon = {"lxt-op-matmul-nearzero": 0.5e-8, "lxt-op-add2": 1e-8}.get(case["id"], 0.0)
    y = operation(**x) + epsilon
    m = jnp.where(y == 0, 0, R_out / jnp.where(y == 0, 1, y))
    f = lambda x: jnp.sum(m * operation(**x))
    finite = jax.tree.map(lambda v: jnp.where(jnp.isfinite(v), v, 0), x)
    keep = {k: jnp.isfinite(v) for k, v in x.items()}
    shown = lambda z: {k: jnp.where(keep[k], z[k], -jnp.inf) for k in z}
    scores = jax.jit(jxp.attn_lrp(lambda z: f(shown(z))))(finite)
    for name, score in scores.items():
        expected = array(case["expected"][f"R_{name}"])
        relative = case["id"] == "lxt-op-matmul-nearzero"
        tolerance = 1e-6 * jnp.abs(expected).max() if relative else case["tol"]
        assert_close(score, expected, tolerance)


def check_attn(method, case):
    token = case["target"]["token"]
    f, embeddings = language_model("gpt2" if "gpt2" in case["id"] else "llama", token)
    x = embedded(case, embeddings)
    assert_close(jax.jit(f)(x), case["output"]["logits_last"][token], case["tol"])
    scores, gap = jax.jit(method(f, return_gap=True))(x)
    assert_close(scores, case["expected"]["R_embed"], case["tol"])
    assert_close(scores.sum(-1), case["expected"]["R_token"], case["tol"])
    assert_close(scores.sum() + gap, f(x), 1e-12)


CHECKS = {
    **dict.fromkeys(
        """lrp-0 lrp-epsilon lrp-gamma lrp-zplus lrp-alphabeta lrp-wsquare lrp-flat lrp-zbox
        lrp-canonized lrp-residual lrp-captum excitation-backprop""".split(),
        check_lrp,
    ),
    **{
        f"lrp-composite:{name}": check_lrp
        for name in """EpsilonPlus EpsilonPlusFlat EpsilonAlpha2Beta1 EpsilonAlpha2Beta1Flat
        EpsilonGammaBox""".split()
    },
    "attnlrp-rule": check_attn_operation,
    "attnlrp": partial(check_attn, jxp.attn_lrp),
    "cp-lrp": partial(check_attn, jxp.cp_lrp),
    "attribution-patching": check_patching,
    "deeplift-rule": check_operation,
    "deeplift-invariance": check_product,
    "deeplift": check_deeplift,
    "deeplift-pathology": check_zero_reference,
    "input_x_gradient": check_input_x_gradient,
    "guided-backprop": partial(check_relu_override, jxp.guided_backprop),
    "deconvnet": partial(check_relu_override, jxp.deconvnet),
}


QUICK = one_of_each(CASES, lambda case: (case["method"], case.get("rule")))


@pytest.mark.promotes
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case["id"])
def test_case(case):
    CHECKS[case["method"]](case)
