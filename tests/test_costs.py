"""What an explanation costs beside a gradient, counted in the compiled programs."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

import jaxplain as jxp
from benchmarks import measure
from benchmarks.models import MODELS

pytestmark = pytest.mark.slow


@cache
def model(name, batch):
    return MODELS[name](jax.random.key(0), batch=batch)


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


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_twenty_references_cost_less_than_twenty_runs(name, record_property):
    m = model(name, 8)
    refs = jnp.stack([m.ref + 0.01 * i for i in range(20)])
    one = count(lambda x, ref, p: jxp.deeplift(m.f, ref)(x, p), m.xs, m.ref, m.params)
    many = count(lambda x, refs, p: jxp.deeplift_shap(m.f, refs)(x, p), m.xs, refs, m.params)
    flops, memory = compare(record_property, many, one)
    assert flops <= 20
    assert memory < 20
