"""The benchmarks: models build, costs are what they should be, pages come from JSON alone."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import loops, measure, readme, report, speed
from benchmarks.__main__ import main
from benchmarks.methods import BASELINE, METHODS, Method
from benchmarks.models import MODELS

ROOT = Path(__file__).parents[1]
TINY = {
    "mlp": {"inputs": 8, "widths": (4,)},
    "cnn": {"features": (2, 3), "hidden": 4},
    "bpnet": {"length": 40, "features": 3, "layers": 2},
    "resnet18": {"size": 8, "width": 2},
    "lstm": {"steps": 5, "inputs": 3, "hidden": 4},
    "transformer": {"tokens": 4, "width": 8, "layers": 1, "heads": 2},
}


def tiny(name):
    return MODELS[name](jax.random.key(0), batch=2, **TINY[name])


def costs(model, method):
    args = (model.xs, model.ref, model.params)
    return measure.flops(measure.compile_program(speed.batched(method, model), args).compiled)


@pytest.fixture(scope="module")
def results():
    """A real run of two methods on the MLP, after a trip through text."""
    found = speed.run(
        ["mlp"],
        ["deeplift"],
        device=jax.devices()[0],
        batch=2,
        rounds=3,
        compiles=2,
        budget=1.0,
        progress=False,
    )
    return json.loads(json.dumps(found))


LARGE = "resnet18"


@pytest.mark.parametrize(
    "name", [n if n != LARGE else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_models_give_a_scalar_that_depends_on_x(name):
    model = tiny(name)
    assert model.ref.shape == model.xs.shape[1:]
    both = jnp.stack([model.xs[0], model.ref])
    # Raises unless f is scalar.
    value_and_slope = jax.vmap(jax.value_and_grad(model.f), in_axes=(0, None))
    (y, y0), slopes = jax.jit(value_and_slope)(both, model.params)
    assert jnp.isfinite(slopes).all() and jnp.any(slopes[0] != 0)
    assert not jnp.allclose(y, y0)


@pytest.mark.parametrize("method", METHODS)
def test_methods_explain_a_batch(method):
    model = tiny("mlp")
    explain = jax.jit(speed.batched(METHODS[method], model))
    explanations = explain(model.xs, model.ref, model.params)
    assert explanations.shape == model.xs.shape
    one = METHODS[method].make(model.f, model.ref)(model.xs[1], model.params)
    assert jnp.allclose(explanations[1], one, atol=1e-6)


def test_the_gap_is_what_is_missing():
    model = tiny("mlp")
    explain = speed.batched(METHODS["deeplift"], model)
    contributions = explain(model.xs, model.ref, model.params)
    rise = speed.rises(model)
    assert speed.completeness_gap(rise, contributions) < 1e-5
    lost = contributions.at[1, 0].add(3.0)
    scale = max(1.0, float(abs(lost[1]).sum()))
    assert speed.completeness_gap(rise, lost) == pytest.approx(3.0 / scale, rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_second_forward_moves_the_flop_ratio(name):
    model = tiny(name)
    doubled = Method(
        lambda f, ref: lambda x, params: jax.grad(lambda x: f(x, params) + f(-x, params))(x)
    )
    assert costs(model, doubled) / costs(model, METHODS[BASELINE]) > 1.7


def test_flops_of_a_product():
    a = jnp.ones((8, 16))
    program = measure.compile_program(lambda a, b: a @ b, (a, a.T))
    assert measure.flops(program.compiled) == 2 * 8 * 8 * 16


def test_loops_count_all_their_rounds():
    matrix = jnp.full((8, 8), 0.1)

    def loop(x, length):
        return jax.lax.scan(lambda c, _: (c @ matrix, None), x, None, length=length)[0]

    def nested(x):
        return jax.lax.scan(lambda c, _: (loop(c, 6), None), x, None, length=5)[0]

    def counted(fn):
        return measure.flops(measure.compile_program(fn, (matrix,)).compiled)

    product = 2 * 8**3
    assert counted(lambda x: loop(x, 7)) == pytest.approx(7 * product, rel=0.01)
    assert counted(nested) == pytest.approx(30 * product, rel=0.01)


def test_loops_of_unknown_length_have_no_count():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x * 0.5, x)

    compiled = measure.compile_program(halve, (jnp.ones(4),)).compiled
    assert " while(" in compiled.as_text()
    assert loops.further_flops(compiled.as_text()) is None
    assert measure.flops(compiled) is None


class Backend:
    """A compiled program of a backend that answers `cost` and `stats`, or refuses to."""

    def __init__(self, cost=None, stats=None):
        self.cost, self.stats = cost, stats

    def cost_analysis(self):
        if isinstance(self.cost, Exception):
            raise self.cost
        return self.cost

    def memory_analysis(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats

    def as_text(self):
        return ""


def test_analyses_in_every_form():
    assert measure.flops(Backend({"flops": 3.0})) == 3.0
    assert measure.flops(Backend([{"flops": 3.0}])) == 3.0
    for nothing in (None, [], {}, {"flops": -1.0}, NotImplementedError()):
        assert measure.flops(Backend(nothing)) is None
    for nothing in (None, [], NotImplementedError()):
        assert measure.memory(Backend(stats=nothing)) == {"temp": None, "peak": None}


def test_rounds_are_interleaved_and_budgeted():
    order = []
    fast, slow = (lambda: order.append("fast")), (lambda: order.append("slow"))
    ticks = []
    samples = measure.time_rounds(
        {"fast": fast, "slow": slow}, rounds=4, budget=1e9, tick=lambda: ticks.append(1)
    )
    assert len(ticks) == 8
    assert all(len(samples[name]["wall"]) == 4 for name in samples)
    groups = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert groups == ["fast", "slow", "fast", "slow", "fast", "slow", "fast"]
    spent = measure.time_rounds({"fast": fast}, rounds=4, budget=0.0, tick=lambda: None)
    assert [wall is None for wall in spent["fast"]["wall"]] == [False, True, True, True]


def test_summary_is_median_and_relative_interquartile_range():
    assert measure.summary([None, 2.0]) == {"median": 2.0, "spread": 0.0}
    found = measure.summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found["median"] == 3.0 and found["spread"] == pytest.approx(1.0)


def test_time_ratios_are_taken_within_rounds():
    drifting = {"seconds": {"wall": [1.0, 2.0, 4.0, 8.0]}}
    double = {"seconds": {"wall": [2.0, 4.0, None, 16.0]}}
    assert report.time_ratio(double, drifting) == {"median": 2.0, "spread": 0.0}


def test_results_hold_what_was_measured(results):
    assert {cell["method"] for cell in results["cells"]} == {"gradient", "deeplift"}
    assert results["environment"]["jax"] == jax.__version__
    for cell in results["cells"]:
        assert cell["batch"] == 2
        assert cell["flops"] > 0 and cell["bytes"]["peak"] >= cell["bytes"]["temp"] > 0
        assert len(cell["seconds"]["wall"]) == 3 and len(cell["compiling_seconds"]["trace"]) == 2
    gaps = {cell["method"]: cell["gap"] for cell in results["cells"]}
    assert gaps["gradient"] is None and gaps["deeplift"] < 1e-5


def test_page_and_figure_come_from_the_json_alone(results, tmp_path):
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(results))
    code = "import sys; sys.modules['jaxplain'] = None; from benchmarks import report; "
    code += f"from pathlib import Path; report.write(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    page = path.with_suffix(".md").read_text()
    assert "| MLP | 2 |" in page and "MLP, gradient" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_missing_figures_show_as_dashes(results):
    bare = json.loads(json.dumps(results))
    for cell in bare["cells"]:
        cell["flops"], cell["bytes"] = None, {"temp": None, "peak": None}
    assert "| –× | –× |" not in report.cost_table(bare)
    assert "| – | – |" in report.cost_table(bare)


def test_readme_is_rewritten_between_its_markers(results, tmp_path):
    folder = tmp_path / "results" / "some-cpu"
    folder.mkdir(parents=True)
    (folder / "speed.json").write_text(json.dumps(results))
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    main(["readme", "--readme", str(page), "--results", str(tmp_path / "results")])
    text = page.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n") and text.endswith(f"{readme.END}\nafter\n")
    assert "old" not in text and report.cost_table(results) in text
    assert "results/some-cpu/speed.png" in text
    main(["readme", "--readme", str(page), "--results", str(tmp_path / "results")])
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="costs:begin"):
        readme.rewrite(page, tmp_path / "results")


def test_the_command_says_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--models", "perceptron"])
    assert "'perceptron'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["speed", "--batch", "0"])
    assert "positive" in capsys.readouterr().err
