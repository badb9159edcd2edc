"""The benchmarks of Shapley estimators and of paths: what they count, and pages from results."""

import copy
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from benchmarks import estimators, games, paths, shapley, shapley_report

N = 5
TABLE = np.random.default_rng(0).normal(size=2**N)


def test_exact_values_of_a_table():
    f = lambda x: jnp.asarray(TABLE)[(x > 0.5).astype(int) @ (1 << jnp.arange(N))]
    expected = jax.jit(jxp.shapley_values(f, 0.0))(jnp.ones(N))
    np.testing.assert_allclose(games.shapley(TABLE, N), expected, atol=1e-5)


@pytest.mark.promotes
def test_a_network_s_values_are_means_over_its_background():
    f = lambda x, target: jnp.tanh(x[target]) * x[2]
    xs, refs = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.5, -1.0, 1.0], [0.0, 1.0, 2.0]])
    network = games.Network("", f, xs, jnp.array([1]), refs, np.arange(3))
    (values,), (phi,) = games.tables(network, 1)
    present = [[b if i >> j & 1 else None for j, b in enumerate(xs[0])] for i in range(8)]
    for row, value in zip(present, values, strict=True):
        mixed = [jnp.array([r[j] if b is None else b for j, b in enumerate(row)]) for r in refs]
        np.testing.assert_allclose(value, np.mean([f(x, 1) for x in mixed]), rtol=1e-5)
    expected = jax.jit(jxp.shapley_values(lambda x: f(x, 1), refs))(xs[0])
    np.testing.assert_allclose(phi, expected, atol=1e-5)


def test_leverage_shap_by_its_paper():
    """Exact for additive games, and its evaluations number the budget in the mean."""
    n, asked, w = 9, [], np.arange(9.0)

    def game(masks):
        asked.append(len(masks))
        return masks @ w + 3

    for seed in range(30):
        np.testing.assert_allclose(estimators.leverage_shap(game, n, 90, seed), w, atol=1e-8)
    assert abs(sum(asked) / 30 - 90) < 5


def test_scores_count_what_is_asked(monkeypatch):
    def absent(game, n, budget, seed):
        raise ImportError("No module named 'peer'\nat all")

    def greedy(game, n, budget, seed):
        return game(np.ones((budget + 1, n)))

    monkeypatch.setattr(
        estimators, "PEERS", {"absent": absent, estimators.LEVERAGE: estimators.leverage_shap}
    )
    phi = games.shapley(TABLE, N)
    cells = shapley.score(TABLE, phi, 2, budgets=(5,))
    assert cells["absent", 5] == "No module named 'peer'"
    error, evaluations = cells["jaxplain shapley_values", 5]
    assert 0 < error < 1 and evaluations == 25
    monkeypatch.setattr(estimators, "PEERS", {"greedy": greedy})
    with pytest.raises(RuntimeError, match="greedy took 26 evaluations, and 25 were given"):
        shapley.score(TABLE, phi, 2, budgets=(5,))


def test_what_another_version_of_shapiq_lacks_is_missing(monkeypatch):
    class OddSHAP:
        def __init__(self, n, random_state):
            pass

        def approximate(self, budget, game):
            return {(player,): player for player in range(N)}

    approximator = types.SimpleNamespace(OddSHAP=OddSHAP)
    monkeypatch.setitem(sys.modules, "shapiq", types.SimpleNamespace(approximator=approximator))
    monkeypatch.setattr(estimators, "version", lambda package: "1.0")
    np.testing.assert_array_equal(estimators.shapiq("OddSHAP")(None, N, 10, 0), range(N))
    for name, options in (("ProxySHAP", {}), ("OddSHAP", {"hpo": False})):
        with pytest.raises(ImportError, match=r"shapiq 1.0 has none"):
            estimators.shapiq(name, **options)(None, N, 10, 0)


@pytest.fixture
def results():
    names = [*shapley.OWN, "shap KernelExplainer"]
    return {
        "environment": {
            "python": "3", "jax": "0", "jaxlib": "0", "flax": "0", "numpy": "0", "platform": "cpu",
            "device": "test", "cores": 1, "x64": False, "matmul_precision": "default",
            "date": "2000-01-01", "packages": {"shap": "1", "captum": None},
        },
        "settings": {"seeds": 2, "examples": 3, "chunk": 4, "stored": []},
        "games": [{"family": "text", "players": n} for n in (10, 12)],
        "cells": [
            {"estimator": name, "budget": b, "errors": [(i + 1) / b, (i + 2) / b], "evaluations": b}
            for i, name in enumerate(names)
            for b in (5, 20)
        ],
        "times": [
            {"estimator": name, "network": "wine", "seconds": 10.0**i}
            for i, name in enumerate(names)
        ],
        "missing": {"captum KernelShap": "No module named 'captum'"},
    }  # fmt: skip


def test_shapley_page_comes_from_results_alone(results, tmp_path):
    page = shapley_report.page(results, "shapley.png")
    assert "captum KernelShap is not measured: No module named 'captum'" in page
    assert "2 games of trained networks (2 text), 10 to 12 players" in page
    assert "below that of 3 of 3 others" in page and "1e+03 to 1e+03 on wine" in page
    assert shapley_report.interval(np.array([1.0, 3.0])) == (2.0, 1.0, 3.0)
    shapley_report.figure(results, tmp_path / "shapley.png")
    assert (tmp_path / "shapley.png").stat().st_size > 10_000


def test_missing_packages_keep_their_stored_figures(results):
    now = copy.deepcopy(results)
    now["cells"] = [c for c in now["cells"] if c["estimator"] != "shap KernelExplainer"]
    now["times"] = [c for c in now["times"] if c["estimator"] != "shap KernelExplainer"]
    now["missing"]["shap KernelExplainer"] = "No module named 'shap'"
    both = shapley.with_stored(now, results)
    assert list(both["missing"]) == ["captum KernelShap"]
    assert "shap KernelExplainer (stored)" in shapley_report.error_table(both)
    with pytest.raises(ValueError, match="of other games"):
        shapley.check_games({"games": []}, [("wine", 0)])
    shapley.check_games({"games": [{"network": "wine", "number": 0}]}, [("wine", 0)])


def test_fixed_rules_of_a_path():
    """Slopes 2α rise by 1: midpoint is exact with one step, left is 1/n short."""
    along = np.linspace(0, 1, 101)
    slopes, rise = np.stack([2 * along, 4 * along]), np.array([1.0, 2.0])
    assert paths.fixed("midpoint", slopes, rise) == paths.fixed("gauss-legendre", slopes, rise) == 1
    np.testing.assert_allclose(paths.gap("left", 10, slopes, rise), 0.1)
    assert paths.fixed("left", slopes, rise) is None


def test_paths_page_comes_from_results_alone(results, tmp_path):
    rules = dict.fromkeys(paths.RULES, 9) | {"riemann_left": None}
    cell = {"fixed": rules, "after_50": dict.fromkeys(paths.RULES, 0.5), "unmet": 0}
    costs = {"batch": 4, "flops": 1.01, "memory": 1.2, "time": {"median": 0.97, "spread": 0.1}}
    cells = [
        {"model": "mlp", "trained": False, "steps": [7, 9], **costs, **cell},
        {"model": "wine", "trained": True, "steps": [9, 11], **cell},
    ]
    settings = {"steps": 8, "chunk": 2}
    found = {"environment": results["environment"], "settings": settings, "cells": cells}
    page = paths.page(found, "paths.png")
    assert "best fixed rule: mlp; as many: nowhere; more: wine" in page
    assert "at most 1.010 ×" in page and "at most 0.97 ×" in page and "> 400 (50%)" in page
    paths.figure(found, tmp_path / "paths.png")
    assert (tmp_path / "paths.png").stat().st_size > 10_000
