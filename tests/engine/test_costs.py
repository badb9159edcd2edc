"""What an explanation costs beside a gradient, counted in the compiled programs."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxplain as jxp
from benchmarks import measure
from benchmarks.models import MODELS
from jaxplain.surrogate import walk

pytestmark = pytest.mark.slow


@cache
def model(name, batch):
    few = {"vocabulary": 100} if name == "gpt2_small" else {}  # its readout is one matrix
    return MODELS[name](jax.random.key(0), batch=batch, **few)


def count(explain, xs, refs, params, ref_axis=None):
    """FLOPs and bytes of temporary memory of a batch; `explain(x, ref, params)`."""
    batched = jax.jit(jax.vmap(explain, (0, ref_axis, None)))
    program = batched.lower(xs, refs, params).compile()
    return measure.flops(program), measure.memory(program)["temp"]


def compare(record_property, one, other):
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    for key, ratio in zip(("FLOPs", "temporary memory"), ratios, strict=True):
        record_property(f"ratio of {key}", float(ratio))
    return ratios


@pytest.mark.parametrize("name", MODELS)
def test_deeplift_costs_one_gradient(name, record_property):
    """With one shared reference, its one forward pass counted."""
    m = model(name, 64)
    gradient = count(lambda x, ref, p: jax.grad(m.f)(x, p), m.xs, m.ref, m.params)
    deeplift = count(lambda x, ref, p: jxp.deeplift(m.f, ref)(x, p), m.xs, m.ref, m.params)
    flops, memory = compare(record_property, deeplift, gradient)
    assert flops <= 1.06
    assert memory <= 1.1


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "transformer"])
def test_a_reference_for_each_example_and_other_rules(name, record_property):
    m = model(name, 32)
    refs = jnp.broadcast_to(m.ref, m.xs.shape)
    gradient = count(lambda x, ref, p: jax.grad(m.f)(x, p), m.xs, m.ref, m.params)
    for limit, axis, rules in [
        (1.6, 0, "rescale"),
        (4, None, "reveal_cancel"),
        (4, None, "central_limit"),
    ]:
        explain = lambda x, ref, p, rules=rules: jxp.deeplift(m.f, ref, rules=rules)(x, p)
        own = count(explain, m.xs, refs if axis == 0 else m.ref, m.params, axis)
        assert compare(record_property, own, gradient)[0] <= limit


@pytest.mark.parametrize(("name", "limit"), [("mlp", 3.2), ("cnn", 4), ("bpnet", 4)])
def test_moments_cost_three_gradients_and_f_itself(name, limit, record_property):
    """Means at two nodes, one variance, and f(x); elementwise arithmetic on top."""
    m = model(name, 16)
    gradient = count(lambda x, ref, p: jax.grad(m.f)(x, p), m.xs, m.ref, m.params)
    moments = count(lambda x, ref, p: jxp.moment_shapley(m.f, ref)(x, p), m.xs, m.ref, m.params)
    assert compare(record_property, moments, gradient)[0] <= limit


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_twenty_references_cost_less_than_twenty_runs(name, record_property):
    m = model(name, 8)
    refs = jnp.stack([m.ref + 0.01 * i for i in range(20)])
    one = count(lambda x, ref, p: jxp.deeplift(m.f, ref)(x, p), m.xs, m.ref, m.params)
    many = count(lambda x, refs, p: jxp.deeplift_shap(m.f, refs)(x, p), m.xs, refs, m.params)
    flops, memory = compare(record_property, many, one)
    assert flops <= 20
    assert memory < 20


def of_x(explain):
    """A method without a reference, as `count` calls one."""
    return lambda x, ref, params: explain(x, params)


@pytest.mark.parametrize("method", [jxp.attn_lrp, jxp.cp_lrp])
def test_attention_relevance_costs_a_forward_and_a_backward_pass(method, record_property):
    m = model("transformer", 32)
    forward = count(of_x(m.f), m.xs, m.ref, m.params)
    own = count(of_x(method(m.f)), m.xs, m.ref, m.params)
    assert compare(record_property, own, forward)[0] <= 2.1


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_composites_cost_their_sums_of_one_sign(name, record_property):
    """Beside f's own product one of positive weights for z⁺ and γ: three products for two.

    αβ takes those of negative ones, too, and two products on the way back: five for two.
    """
    m = model(name, 8)
    gradient = count(of_x(jax.grad(m.f)), m.xs, m.ref, m.params)
    limits = {"epsilon": 1.05, "epsilon_plus": 1.65, "epsilon_alpha2_beta1_flat": 2.7}
    for rules, limit in limits.items():
        own = count(of_x(jxp.lrp(m.f, rules=rules)), m.xs, m.ref, m.params)
        assert compare(record_property, own, gradient)[0] <= limit, rules


class Block(nn.Module):
    """A pre-norm transformer layer, what it adds to the stream named."""

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(4)
        x = x + jxp.tag(attend(nn.LayerNorm()(x)), "attention")
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        x = x + jxp.tag(nn.Dense(x.shape[-1])(y), "mlp")
        return jxp.tag(x, "stream")


@cache
def twelve_layers(in_a_scan):
    """f(x, params) with the layers written out or in a scan; a batch of inputs; params."""
    xs = jax.random.normal(jax.random.key(0), (32, 32, 64))
    keys = jax.random.split(jax.random.key(1), 12)
    params = jax.jit(jax.vmap(Block().init, (0, None)))(keys, xs[0])

    def f(x, params):
        if in_a_scan:
            x, _ = jax.lax.scan(lambda x, p: (Block().apply(p, x), None), x, params)
        else:
            for i in range(12):
                x = Block().apply(jax.tree.map(lambda leaf: leaf[i], params), x)
        return jnp.tanh(x).mean()

    return f, xs, params


@pytest.mark.parametrize("in_a_scan", [False, True], ids=["written out", "in a scan"])
def test_all_layers_of_a_transformer_cost_about_one_gradient(in_a_scan, record_property):
    f, xs, params = twelve_layers(in_a_scan)
    shape = (12, 32, 64) if in_a_scan else (32, 64)
    assert {v.shape for v in jxp.names(f)(xs[0], params).values()} == {shape}
    ref = jnp.zeros_like(xs[0])
    gradient = count(lambda x, ref, p: jax.grad(f)(x, p), xs, ref, params)
    for method in (
        lambda f, ref: jxp.deeplift(f, ref, at="*"),
        lambda f, ref: jxp.gradient(f, at="*"),
        lambda f, ref: jxp.attribution_patching(f, ref, at="*"),
    ):
        explain = lambda x, ref, p, method=method: method(f, ref)(x, p)
        flops, memory = compare(record_property, count(explain, xs, ref, params), gradient)
        assert flops <= 1.5
        assert memory <= 1.5


@pytest.mark.parametrize("in_a_scan", [False, True], ids=["written out", "in a scan"])
def test_conductance_costs_one_run_of_integrated_gradients(in_a_scan, record_property):
    f, xs, params = twelve_layers(in_a_scan)
    xs, ref = xs[:1], jnp.zeros_like(xs[0])
    layer = "stream" if in_a_scan else "stream#5"
    of = lambda method: lambda x, ref, p: method(f, ref, steps=32)(x, p)
    path = count(of(jxp.integrated_gradients), xs, ref, params)
    for method in (jxp.conductance, jxp.neuron_integrated_gradients):
        inside = count(of(partial(method, at=layer)), xs, ref, params)
        # In the scan all twelve layers at once: a derivative along them all is added to two passes.
        limit = 1.6 if in_a_scan else 1.3
        assert compare(record_property, inside, path)[0] <= limit


@pytest.mark.parametrize("name, rescale, in_parts", [
    ("mlp", 3.5, 18.5), ("cnn", 2.8, 14), ("lstm", 4.5, 23), ("transformer", 4.6, 13),
])  # fmt: skip
def test_the_program_grows_no_further(name, rescale, in_parts, record_property):
    """Tracing and compiling take their time by the equation: how many for one of a gradient's."""
    m = MODELS[name](jax.random.key(0), batch=1)

    def size(explain):
        program = jax.make_jaxpr(jax.vmap(explain, (0, None, None)))(m.xs, m.ref, m.params)
        return sum(not walk.bodies(equation) for _, equation in walk.equations(program))

    gradient = size(lambda x, ref, p: jax.grad(m.f)(x, p))
    for rules, limit in (("rescale", rescale), ("reveal_cancel", in_parts)):
        ratio = size(lambda x, ref, p, r=rules: jxp.deeplift(m.f, ref, rules=r)(x, p)) / gradient
        record_property(f"ratio of equations, {rules}", ratio)
        assert ratio <= limit
