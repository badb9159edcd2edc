"""Closed forms of single operations, and a tiny Llama's and GPT-2's numbers, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from cases import array, assert_close, gpt2, layernorm, llama, load, params, rmsnorm, sequential

import jaxplain as jxp

pytestmark = pytest.mark.usefixtures("x64")

CASES = load("relevance")
BY_ID = {case["id"]: case for case in CASES}

PENDING = {  # by the start of a method: why it cannot run yet
    "lrp": "needs lrp",
    "excitation-backprop": "needs lrp",
    "attnlrp": "needs attn_lrp",
    "cp-lrp": "needs cp_lrp",
    "attribution-patching": "needs attribution_patching",
}
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


def pending(case):
    return next((PENDING[m] for m in PENDING if case["method"].startswith(m)), None)


def rules(case):
    """Rescale with the θ of the norm rule that the case's numbers were computed with."""
    return jxp.rules.rescale(norm_theta=1.0 if "theta1.0" in case["id"] else 0.5)


def check_operation(case):
    """The multiplier m of each operand and, where they are given, their contributions C."""
    given, tolerance = case["input"], case["tol"]
    operation = OPERATIONS[case["id"].removeprefix("dl-op-").split("-theta")[0]]
    operands = [name for name in given if f"{name}0" in given]
    x, ref = ({name: array(given[name + end]) for name in operands} for end in ("", "0"))
    norm = (given["eps"], array(given["gamma"])) if "gamma" in given else ()
    f = lambda x: jnp.sum(array(given.get("m_out", 1.0)) * operation(*x.values(), *norm))
    m = jxp.deeplift(f, ref, rules=rules(case), multiply=False)(x)
    for name in operands:
        expected = case["expected"]["m" if "m" in case["expected"] else f"m_{name}"]
        assert_close(m[name], expected, tolerance)
        if f"C_{name}" in case["expected"]:
            contributions = m[name] * (x[name] - ref[name])
            assert_close(contributions, case["expected"][f"C_{name}"], tolerance)


def check_product(case):
    """Three factors share alike, however the product is bracketed."""
    x, ref = array(case["input"]["x"]), array(case["input"]["x0"])
    for f in (lambda x: (x[0] * x[1]) * x[2], lambda x: x[0] * (x[1] * x[2]), jnp.prod):
        assert_close(jxp.deeplift(f, ref)(x), case["expected"]["nary_shapley"], case["tol"])


def check_deeplift(case):
    if "llama" in case["id"]:
        check_llama(case)
        return
    explain = jxp.deeplift(mlp_logit(case), array(case["reference"]))
    assert_close(explain(array(case["input"])), case["expected"], case["tol"])


def check_relu_override(method, case):
    """The case starts its backward pass from the logit itself instead of from 1."""
    f, x = mlp_logit(case), array(case["input"])
    scores = method(lambda z: f(x) * f(z))(x)
    assert_close(scores, case["expected"], case["tol"])


def mlp_logit(case):
    """The 3-4-3-2 network's target, once its outputs are seen to be the case's."""
    layers = case["model"]["layers"]
    if "act" in case["model"]:  # the list then holds the linear layers alone
        act = {"type": case["model"]["act"].lower()}
        layers = [layers[0], act, layers[1], act, layers[2]]
    model = sequential(layers)
    assert_close(model(array(case["input"])), case["output"], case["tol"])
    return jxp.logit(model, case["target"])


def language_model(case):
    """The target's logit as a function of the token embeddings, and those embeddings."""
    name, build, tokens = (
        ("gpt2", gpt2, "transformer.wte")
        if "gpt2" in case["id"]
        else ("llama", llama, "model.embed_tokens")
    )
    model = BY_ID[f"lxt-tiny-{name}-attnlrp"]["model"]
    table = array(model["state_dict"][f"{tokens}.weight"])
    [ids] = case["input"]["input_ids"]
    return jax.jit(jxp.logit(build(model), case["target"]["token"])), table[jnp.array(ids)]


def check_llama(case):
    f, x = language_model(case)
    ref, expected, tolerance = array(case["reference"]), case["expected"], case["tol"]
    assert_close(f(x), case["output"]["logit"], tolerance)
    assert_close(f(ref), case["output"]["logit_ref"], tolerance)
    scores = jax.jit(jxp.deeplift(f, ref, rules=rules(case)))(x)
    assert_close(scores.sum(), expected["sum"], tolerance)
    if "exp_sum_div" not in case["id"]:  # that softmax rule is complete too, but not ours
        assert_close(scores, expected["C_embed"], tolerance)
        assert_close(scores.sum(-1), expected["C_token"], tolerance)


def check_zero_reference(case):
    """θ = 1/2 blows up where the reference's norm is 1/√ε; the default sees it and takes θ = 1."""
    f, x = language_model(case)
    explain = lambda **options: jax.jit(jxp.deeplift(f, 0.0, **options))(x)
    blown_up, scores = explain(rules=rules(case)), explain()
    assert jnp.abs(blown_up).max() > case["expected"]["max_abs_C_greater_than"]
    total = case["expected"]["sum_approx"]
    assert_close(blown_up.sum(), total, case["tol"] * jnp.abs(blown_up).sum())
    assert_close(scores.sum(), total, case["tol"] * max(1.0, jnp.abs(scores).sum()))
    settled = BY_ID["dl-tiny-llama-zero-theta1.0-logmean"]
    assert_close(scores, settled["expected"]["C_embed"], settled["tol"])


def check_input_x_gradient(case):
    f, x = language_model(case)
    assert_close(f(x), case["output"]["logits_last"][case["target"]["token"]], case["tol"])
    scores = jax.jit(jxp.input_x_gradient(f))(x)
    assert_close(scores, case["expected"]["R_embed"], case["tol"])
    assert_close(scores.sum(-1), case["expected"]["R_token"], case["tol"])


CHECKS = {
    "deeplift-rule": check_operation,
    "deeplift-invariance": check_product,
    "deeplift": check_deeplift,
    "deeplift-pathology": check_zero_reference,
    "input_x_gradient": check_input_x_gradient,
    "guided-backprop": partial(check_relu_override, jxp.guided_backprop),
    "deconvnet": partial(check_relu_override, jxp.deconvnet),
}


@pytest.mark.parametrize("case", params(CASES, pending))
def test_case(case):
    CHECKS[case["method"]](case)


def test_every_case_is_checked_or_says_why_not():
    assert not {case["id"] for case in CASES if not pending(case) and case["method"] not in CHECKS}
    assert all(any(case["method"].startswith(m) for case in CASES) for m in PENDING)
