"""The benchmarks: models build, costs are what they should be, pages come from JSON alone."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from benchmarks import agreement, evaluations, loops, measure, models, report, speed, tables
from benchmarks.__main__ import main
from benchmarks.methods import BASELINE, METHODS, Method
from benchmarks.models import MODELS
from jaxplain.surrogate.values.lifted import Lifted
from jaxplain.surrogate.values.pair import Pair
from tests.support.marks import some_slow

ROOT = Path(__file__).parents[2]
# What the library exports that explains nothing by itself, or has its row under another name.
NO_METHODS = {
    "embedded", "substitute",
    "names", "capture", "intervene", "neuron", "completeness_gap", "override", "audit",
    "logit", "probability", "log_likelihood", "log_odds", "contrast",
    "expected",  # of DeepLIFT it is deeplift_shap
    "batched",  # a loop around any of them
    "deletion", "insertion", "abpc", "comprehensiveness", "sufficiency", "monotonicity",
    "faithfulness_correlation", "infidelity", "max_sensitivity", "parameter_randomization",
}  # fmt: skip


def tiny(name):
    return models.make(name, 2, tiny=True)


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
        budget=1e3,  # nothing sits out, however slow the machine is
        tiny=True,
        progress=False,
    )
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("name", some_slow(MODELS, ["resnet18"]))
def test_models_give_a_scalar_that_depends_on_x(name):
    model = tiny(name)
    assert model.ref.shape == model.xs.shape[1:]
    both = jnp.stack([model.xs[0], model.ref])
    # Raises unless f is scalar.
    value_and_slope = jax.vmap(jax.value_and_grad(model.f), in_axes=(0, None))
    (y, y0), slopes = jax.jit(value_and_slope)(both, model.params)
    assert jnp.isfinite(slopes).all() and jnp.any(slopes[0] != 0)
    assert not jnp.allclose(y, y0)


def test_every_public_method_has_a_row():
    def explains(value):
        if not inspect.isfunction(value):
            return False
        return next(iter(inspect.signature(value).parameters), None) in ("f", "explain", "method")

    public = {name for name in vars(jxp) if explains(getattr(jxp, name))}
    assert public >= {"deeplift", "smooth", "lime", "shapley_values"}
    assert public - NO_METHODS <= set(METHODS)


def explained(name, method):
    """The explanations of a tiny model's batch, and the model."""
    model = tiny(name)
    explain = jax.jit(speed.batched(METHODS[method], model))
    return explain(model.xs, model.ref, model.params), model


@pytest.mark.parametrize("method", [BASELINE, "deeplift", "ablation", "shapley_values"])
def test_methods_explain_a_batch(method):
    explanations, model = explained("mlp", method)
    assert explanations.shape == model.xs.shape
    one = METHODS[method].make(model)(model.xs[1], model.params)
    assert jnp.allclose(explanations[1], one, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "bpnet", "lstm", "transformer", "gpt2_small"])
def test_every_method_runs_on_every_model(name):
    for key, method in METHODS.items():
        if tiny(name).kind in method.kinds:
            explanations, model = explained(name, key)
            finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(explanations)]
            assert finite and all(finite), key
            if method.shares:
                expected = speed.rises(model)[method.shares]
                shares = speed.shares_of(method, model, explanations)
                assert speed.completeness_gap(expected, shares) < 1, key


@pytest.mark.parametrize(
    ("method", "forward", "backward"),
    [
        (BASELINE, 1, 1),
        ("deeplift", 1.5, 1),  # the reference's one pass on two examples
        ("integrated_gradients", 32, 32),
        ("ablation", 9, 0),  # in a loop over chunks
        ("deeplift_at", 1.5, 1),
        ("permutation_importance", 9, 0),
    ],
)
def test_evaluations_are_counted(method, forward, backward):
    found = speed.evaluations_of(METHODS[method], tiny("mlp"))
    assert found == {"forward": forward, "backward": backward}


def test_evaluations_in_a_loop_of_unknown_length_are_not_counted():
    f = evaluations.marked(jnp.sum)

    def halve(x):
        return jax.lax.while_loop(lambda x: f(x) > 1, lambda x: x * 0.5, x)

    assert evaluations.count(halve, (jnp.ones(4),), 4) is None
    assert evaluations.count(f, (jnp.ones(4),), 4) == {"forward": 1, "backward": 0}


def test_parts_of_an_input():
    image = tiny("cnn")
    assert image.window == (7, 7) and image.groups.shape == (28, 28, 1)
    assert (np.bincount(image.groups.ravel()) == 49).all() and image.groups.max() == 15
    bases = tiny("bpnet")
    assert bases.window == (3,) and bases.groups.shape == (40, 1) and bases.groups[-1] == 13


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_half_precision_stays_half(name):
    model = tiny(name).astype("bfloat16")
    explain = jax.vmap(jax.grad(model.f), (0, None))
    jaxpr = jax.make_jaxpr(explain)(model.xs, model.params).jaxpr
    products = [
        eqn.outvars[0].aval.dtype
        for eqn, _ in evaluations.equations(jaxpr, 1)
        if eqn.primitive is jax.lax.dot_general_p
    ]
    assert products and set(products) == {jnp.dtype("bfloat16")}


@pytest.mark.promotes
def test_the_gap_is_what_is_missing():
    contributions, model = explained("mlp", "deeplift")
    rise = speed.rises(model)["ref"]
    found = np.array(contributions)
    assert speed.completeness_gap(rise, found) < 1e-5
    found[1, 0] += 3.0
    scale = max(1.0, float(abs(found[1]).sum()))
    assert speed.completeness_gap(rise, found) == pytest.approx(3.0 / scale, rel=1e-4)


@pytest.mark.promotes
def test_shares_of_groups_are_added_up_once():
    method = METHODS["shapley_values"]
    found, model = explained("bpnet", "shapley_values")
    rise = speed.rises(model)["ref"]
    assert speed.completeness_gap(rise, speed.shares_of(method, model, found)) < 1e-5
    assert speed.completeness_gap(rise, np.asarray(found)) > 1e-2


@pytest.mark.parametrize("name", some_slow(["mlp", "lstm"], ["lstm"]))
def test_a_second_forward_moves_the_flop_ratio(name):
    model = tiny(name)
    doubled = Method(
        lambda m: lambda x, params: jax.grad(lambda x: m.f(x, params) + m.f(-x, params))(x)
    )
    assert costs(model, doubled) / costs(model, METHODS[BASELINE]) > 1.7


def test_a_rule_that_computes_its_forward_twice_moves_the_flop_ratio():
    model = models.mlp(jax.random.key(0), batch=16, inputs=32, widths=(32, 32))
    table = jxp.rules.rescale()
    rule = table.rules[jax.lax.dot_general_p]

    def wasteful(equation, *operands):
        pair = rule(equation, *operands)[0].settle()
        values = [o.settle().value if isinstance(o, Lifted) else o for o in operands]
        again = equation.bind(*map(jnp.sin, values))
        waste = 0.0 * sum(map(jnp.sum, jax.tree.leaves(again)))
        return [Pair(pair.value + waste, pair.reference)]

    slow = table.register(jax.lax.dot_general_p, wasteful)
    with_rules = lambda rules: Method(lambda m: jxp.deeplift(m.f, m.ref, rules=rules))
    gradient, deeplift = costs(model, METHODS[BASELINE]), costs(model, with_rules(table))
    assert deeplift / gradient < 1.15
    assert costs(model, with_rules(slow)) / gradient > 1.45


@pytest.mark.promotes
def test_what_does_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(measure, "memory_limit", lambda device: 0)
    [cell] = speed.measure_model(tiny("mlp"), {BASELINE: METHODS[BASELINE]}, 2, 1, 1.0, int)
    assert cell["seconds"]["wall"] == [None, None] and cell["bytes"]["peak"] > 0
    assert report.time_ratio(cell, cell) is None and report.wall_time(cell) == "–"


def test_unsteady_ratios_are_marked():
    assert report.marked_ratio({"median": 2.0, "spread": 0.1}) == "2.00"
    assert report.marked_ratio({"median": 20.0, "spread": 0.4}) == "~20.0"
    assert report.marked_ratio({"median": 200.0, "spread": math.nan}) == "~200"
    assert report.marked_ratio(None) == "–"


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


@pytest.mark.parametrize("options", [
    {"padding": "SAME", "window_strides": (2, 1)},
    {"padding": [(1, 2), (0, 3)], "lhs_dilation": (2, 1), "window_strides": (1, 1)},
    {"padding": "VALID", "rhs_dilation": (1, 2), "window_strides": (1, 2)},
])  # fmt: skip
def test_convolutions_in_loops_count_as_outside(options):
    x, kernel = jnp.ones((2, 9, 8, 4)), jnp.ones((3, 2, 4, 5))

    def conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options).sum()

    def loop(x, kernel):
        scales = jnp.arange(6.0)
        return jax.lax.scan(lambda c, a: (c + conv(a * x, kernel), None), 0.0, scales)[0]

    once, six = (measure.compile_program(f, (x, kernel)).compiled for f in (conv, loop))
    assert " while(" in six.as_text()
    assert measure.flops(six) == pytest.approx(6 * measure.flops(once), rel=0.1)


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
        assert measure.memory(Backend(stats=nothing)) == dict.fromkeys(("temp", "own", "peak"))


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


def test_a_page_is_rewritten_between_its_markers(results, tmp_path):
    folder = tmp_path / "results" / "some-cpu"
    folder.mkdir(parents=True)
    (folder / "speed.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    main(["tables", "--page", str(page), "--results", str(tmp_path / "results")])
    text = page.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n") and text.endswith(f"{tables.END}\nafter\n")
    assert "old" not in text and report.cost_table(results) in text
    assert "results/some-cpu/speed.png" in text
    main(["tables", "--page", str(page), "--results", str(tmp_path / "results")])
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="costs:begin"):
        tables.rewrite(page, tmp_path / "results")


def test_runs_that_agree_and_runs_that_do_not(results, tmp_path, capsys):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]

    def compare(*gradients):
        """Two runs in which DeepLIFT takes 0.1 s, and the gradient these seconds."""
        for path, seconds in zip(paths, gradients, strict=True):
            run = json.loads(json.dumps(results))
            for cell in run["cells"]:
                wall = seconds if cell["method"] == "gradient" else [0.1] * 3
                cell["seconds"] = {"wall": wall, "cpu": wall}
            path.write_text(json.dumps(run))
        return agreement.compared(*(json.loads(path.read_text()) for path in paths))

    steady, uneven, key = [0.1] * 3, [0.1, 0.2, 0.4], ("mlp", "gradient")
    assert compare(steady, steady) == {agreement.STEADY: {key: 1}, agreement.MARKED: {}}
    assert compare(steady, uneven) == {agreement.STEADY: {}, agreement.MARKED: {key: 2}}
    compare(steady, [0.2] * 3)
    main(["agree", *map(str, paths)])
    said = capsys.readouterr().out
    assert (
        "MLP, gradient: ×2.00" in said and "steady: 0 of 1" in said and "marked ~: 0 of 0" in said
    )

    for again, shown in (([0.11] * 3, "1.00"), ([0.2] * 3, "~1.00")):
        compare(steady, again)
        main(["agree", *map(str, paths), "--keep"])
        twice, page = json.loads(paths[0].read_text()), (tmp_path / "a.md").read_text()
        cells = report.by_model(twice)["mlp"]
        assert report.marked(cells["gradient"], cells["deeplift"]) == shown
        assert report.UNSTEADY_TWICE in page and f"| {shown} |" in page
        assert f"± 0 % | {0.1 / again[0]:.2f}×" in page  # DeepLIFT in gradients, once more


def test_the_command_says_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--models", "perceptron"])
    assert "'perceptron'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["speed", "--batch", "0"])
    assert "positive" in capsys.readouterr().err
