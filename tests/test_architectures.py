"""The literature's architectures are explained completely; what routing can't carry is returned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import ARCHITECTURES, mixture
from zoo import Model, cast, draw, paired, references, weights

import jaxplain as jxp

QUICK = "mobilenet llama mamba graph_attention gaussian_process_head".split()
ALL = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES
]
ROUTED = {"mixture_of_experts"}  # may leave a gap, which is another test's subject


def total(tree):
    return sum(np.sum(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree))


def magnitude(tree):
    return total(jax.tree.map(jnp.abs, tree))


@pytest.mark.parametrize("name", ALL)
def test_complete_in_float32(name, record_property):
    m = ARCHITECTURES[name]()

    @jax.jit
    def explain(x, ref, params):
        scores, gap = jxp.deeplift(m.f, ref, return_gap=True)(x, params)
        return scores, m.f(x, params) - m.f(ref, params), gap

    worst = 0.0
    for ref in references(m.x).values():
        scores, change, gap = explain(m.x, ref, m.params)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(scores))
        missing = float(change) - total(scores) - (float(gap) if name in ROUTED else 0)
        worst = max(worst, abs(missing) / max(1, magnitude(scores)))
    record_property("gap in float32", worst)
    assert worst <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ROUTED])
def test_each_input_sums_to_its_own_part_in_float64(name, record_property, x64):
    m = ARCHITECTURES[name]()
    m, parts = paired(Model(m.f, cast(m.params, jnp.float64), cast(m.x, jnp.float64)))
    explain = jax.jit(
        lambda x, ref, p: (jxp.deeplift(m.f, ref)(x, p), parts(x, p) - parts(ref, p))
    )
    worst = 0.0
    for ref in references(m.x).values():
        scores, changes = explain(m.x, ref, m.params)
        for leaf, change in zip((scores["a"], scores["b"]), changes, strict=True):
            worst = max(worst, abs(total(leaf) - float(change)) / max(1, magnitude(leaf)))
    record_property("gap in float64", worst)
    assert worst <= 1e-12
