"""Closed forms of single operations, and a tiny Llama's and GPT-2's numbers, in float64."""

import itertools
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
    load_all,
    rmsnorm,
    sequential,
)

pytestmark = pytest.mark.usefixtures("x64")

CASES = load("relevance")
BY_ID = {case["id"]: case for case in load_all("relevance")}

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


CHECKS = {
    "attribution-patching": check_patching,
    "deeplift-rule": check_operation,
    "deeplift-invariance": check_product,
    "deeplift": check_deeplift,
    "deeplift-pathology": check_zero_reference,
    "input_x_gradient": check_input_x_gradient,
    "guided-backprop": partial(check_relu_override, jxp.guided_backprop),
    "deconvnet": partial(check_relu_override, jxp.deconvnet),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case):
    CHECKS[case["method"]](case)
