"""From the Shapley benchmark's JSON alone: its tables, page and figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pages, report

Json = dict[str, Any]
DEFAULT = "jaxplain shapley_values"
_RESAMPLES = 2000


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over games with its 95 % interval by the bootstrap over games."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def by_estimator(results: Json) -> dict[str, dict[int, Json]]:
    found: dict[str, dict[int, Json]] = {}
    for cell in results["cells"]:
        found.setdefault(cell["estimator"], {})[cell["budget"]] = cell
    return found


def budgets(results: Json) -> list[int]:
    return sorted({cell["budget"] for cell in results["cells"]})


def ratios(results: Json, budget: int) -> dict[str, tuple[float, float, float]]:
    """Each estimator's error in the default's: the geometric mean over games, and its interval.

    No estimator knows a game to better than float32.
    """
    cells = by_estimator(results)
    floor = 1e-12
    own = np.maximum(cells[DEFAULT][budget]["errors"], floor)
    found = {}
    for name, by_budget in cells.items():
        if budget in by_budget and name != DEFAULT:
            logs = np.log(np.maximum(by_budget[budget]["errors"], floor) / own)
            mean, low, high = np.exp(interval(logs))
            found[name] = (float(mean), float(low), float(high))
    return found


def _name(name: str, results: Json) -> str:
    return f"{name} (stored)" if name in results["settings"]["stored"] else name


def error_table(results: Json) -> str:
    """The mean relative squared error, and in brackets its multiple of the default's."""
    cells = by_estimator(results)
    rows = [["estimator", *(f"{b}n evaluations" for b in budgets(results))]]
    for name, by_budget in cells.items():
        row = [f"**{name}**" if name == DEFAULT else _name(name, results)]
        for budget in budgets(results):
            if budget not in by_budget:
                row.append("too few")
                continue
            mean, low, high = interval(np.array(by_budget[budget]["errors"]))
            row.append(f"{mean:.2g} ({low:.2g} – {high:.2g})")
        rows.append(row)
    rows += [[name, *["not measured"] * len(budgets(results))] for name in results["missing"]]
    return report.markdown(rows)


def ratio_table(results: Json) -> str:
    by_budget = {budget: ratios(results, budget) for budget in budgets(results)}
    rows = [["error / the default's, game by game", *(f"{b}n evaluations" for b in by_budget)]]
    for name in by_estimator(results):
        if name != DEFAULT:
            found = [ratio.get(name) for ratio in by_budget.values()]
            row = ["too few" if r is None else "{:.2f} ({:.2f} – {:.2f})".format(*r) for r in found]
            rows.append([_name(name, results), *row])
    return report.markdown(rows)


def time_table(results: Json) -> str:
    networks = list(dict.fromkeys(cell["network"] for cell in results["times"]))
    seconds = {(c["estimator"], c["network"]): c["seconds"] for c in results["times"]}
    rows = [["estimator", *(f"{n}: seconds (× the default's)" for n in networks)]]
    for name in dict.fromkeys(cell["estimator"] for cell in results["times"]):
        row = [_name(name, results)]
        for network in networks:
            own, base = seconds.get((name, network)), seconds[DEFAULT, network]
            row.append("not measured" if own is None else f"{own:.3g} ({own / base:.3g})")
        rows.append(row)
    return report.markdown(rows)


def claims(results: Json) -> str:
    """Where the default is ahead, and how much faster it is, in these numbers."""
    lines = []
    for budget in budgets(results):
        found = ratios(results, budget)
        ahead = [name for name, (_, low, _) in found.items() if low > 1]
        rest = [f"{name} at {found[name][0]:.2f}" for name in found if name not in ahead]
        lines.append(
            f"- {budget}n: the default's error is below that of {len(ahead)} of {len(found)} "
            f"others, game by game and beyond the interval{': not of ' if rest else ''}"
            f"{', '.join(rest)}."
        )
    for package in ("shap ", "shapiq ", "captum "):
        base = {c["network"]: c["seconds"] for c in results["times"] if c["estimator"] == DEFAULT}
        found: dict[str, list[float]] = {}
        for cell in results["times"]:
            if cell["estimator"].startswith(package):
                ratio = cell["seconds"] / base[cell["network"]]
                found.setdefault(cell["network"], []).append(ratio)
        if found:
            spans = [f"{min(r):.3g} to {max(r):.3g} on {name}" for name, r in found.items()]
            lines.append(f"- {package.strip()}, times the default's time: {'; '.join(spans)}.")
    return "\n".join(lines)


def tables(results: Json) -> str:
    return "\n\n".join([
        error_table(results), ratio_table(results), time_table(results), claims(results)
    ])  # fmt: skip


def figure(results: Json, path: Path) -> None:
    """Error against evaluations, and the time for the examples."""
    from matplotlib.figure import Figure

    drawing = Figure((12.5, 5.2), dpi=130, layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=(3, 2))
    places = budgets(results)
    names = list(by_estimator(results))
    for name, by_budget in by_estimator(results).items():
        found = [interval(np.array(by_budget[b]["errors"])) for b in places if b in by_budget]
        mean, low, high = np.array(found).T
        own = [b for b in places if b in by_budget]
        seen = pages.look(names.index(name))
        if name == DEFAULT:
            seen |= {"lw": 3, "zorder": 5, "color": "k"}
        style = "-" if name.startswith("jaxplain") else "--"
        left.errorbar(own, mean, [mean - low, high - mean], ls=style, ms=4, label=name, **seen)
    left.set(xscale="log", yscale="log", xlabel="evaluations by player",
             ylabel="‖φ̂ - φ‖² / ‖φ‖², mean over games", title="error")  # fmt: skip
    left.set_xticks(places, [f"{b}n" for b in places])
    left.minorticks_off()
    networks = list(dict.fromkeys(cell["network"] for cell in results["times"]))
    timed = list(dict.fromkeys(cell["estimator"] for cell in results["times"]))[::-1]
    for i, network in enumerate(networks):
        seconds = {
            c["estimator"]: c["seconds"] for c in results["times"] if c["network"] == network
        }
        right.plot(
            [seconds.get(n, np.nan) for n in timed],
            range(len(timed)),
            ls="",
            label=network,
            **pages.look(i),
        )
    right.set_yticks(range(len(timed)), timed, fontsize=8)
    right.set(xscale="log", xlabel="seconds",
              title=f"time for {results['settings']['examples']} examples, 20n each")  # fmt: skip
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    drawing.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8,
        frameon=False,
    )  # fmt: skip
    drawing.savefig(path)


def page(results: Json, drawing: str) -> str:
    """The benchmark's page in Markdown."""
    settings, games = results["settings"], results["games"]
    families = {family: sum(g["family"] == family for g in games) for family in
                dict.fromkeys(g["family"] for g in games)}  # fmt: skip
    players = [game["players"] for game in games]
    packages = ", ".join(
        f"{name} {version}" if version else f"no {name}"
        for name, version in results["environment"]["packages"].items()
    )
    missing = [f"{name} is not measured: {why}" for name, why in results["missing"].items()]
    parts = [
        "# Estimators of Shapley values",
        f"{report.environment_line(results['environment'])} With {packages}.",
        f"{len(games)} games of trained networks ("
        + ", ".join(f"{count} {family}" for family, count in families.items())
        + f"), {min(players)} to {max(players)} players, {settings['seeds']} seeds each: "
        "‖φ̂ - φ‖²/‖φ‖² at equal numbers of model evaluations, ∅, N and repeated coalitions "
        "counted; the mean over games, with 95 % intervals by the bootstrap over games. φ are the "
        "exact values, from all 2ⁿ coalitions. Every estimator evaluates as many coalitions as its "
        "parameters let fit into the budget (LeverageSHAP draws the number, and shap's "
        "SamplingExplainer rounds each player's share up: about as many); shapiq's with its "
        "pairing trick where there is one, its ProxySPEX without the search over trees' settings, "
        "shap's KernelExplainer without its l1 selection, which is worse.",
        error_table(results),
        "Below, each game's error in units of the default's on the same game, the geometric mean "
        "over games:",
        ratio_table(results),
        f"Time for {settings['examples']} examples at 20n evaluations each: jaxplain vmapped and "
        f"jitted, one call, {settings['chunk']} coalitions of each example at a time, without "
        "compilation; the others example by example, all calling the "
        "same jitted JAX function on batches of masks, every batch shape compiled beforehand.",
        time_table(results),
        f"![errors and times]({drawing})",
        claims(results),
        *missing,
        "`python -m benchmarks shapley`.",
    ]
    return "\n\n".join(parts) + "\n"


write = pages.writer(page, figure)
