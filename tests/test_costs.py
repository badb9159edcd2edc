"""What an explanation costs beside a gradient, counted in the compiled programs."""

import jax
import pytest

from benchmarks import measure
from benchmarks.methods import BASELINE, METHODS
from benchmarks.models import MODELS
from benchmarks.speed import batched


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_deeplift_costs_one_gradient(name, record_property):
    """One shared reference, its one forward pass counted: FLOPs and temporary memory."""
    model = MODELS[name](jax.random.key(0), batch=64)
    args = (model.xs, model.ref, model.params)
    programs = {
        method: jax.jit(batched(METHODS[method], model)).lower(*args).compile()
        for method in (BASELINE, "deeplift")
    }
    flops = {method: measure.flops(program) for method, program in programs.items()}
    temporary = {method: measure.memory(program)["temp"] for method, program in programs.items()}
    ratios = {
        key: count["deeplift"] / count[BASELINE]
        for key, count in (("flops", flops), ("temporary memory", temporary))
    }
    for key, ratio in ratios.items():
        record_property(f"ratio of {key}", ratio)
    assert ratios["flops"] <= 1.06
    assert ratios["temporary memory"] <= 1.1
