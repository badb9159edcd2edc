"""From the faithfulness study's JSON alone: its Markdown table, page and figure."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks import pages, report

Json = dict[str, Any]


def by_method(results: Json) -> dict[str, dict[str, Json]]:
    """{method: {family: cell}} in the order measured."""
    methods: dict[str, dict[str, Json]] = {}
    for cell in results["cells"]:
        methods.setdefault(cell["method"], {})[cell["family"]] = cell
    return methods


def errors(cells: dict[str, Json]) -> list[float]:
    """The distances of all families' networks together."""
    return [error for cell in cells.values() for error in cell["error"]]


def gradients(cells: dict[str, Json]) -> float:
    """The method's cost in gradients, the median over families."""
    return statistics.median(cell["gradients"] for cell in cells.values())


def table(results: Json) -> str:
    """One line per method: its median distance in each family and in all, and its cost."""
    methods = by_method(results)
    families = list(next(iter(methods.values())))
    best = {
        family: min(statistics.median(cells[family]["error"]) for cells in methods.values())
        for family in families
    }
    rows = [["method", *families, "all networks", "gradients"]]
    for method, cells in methods.items():
        row = [method]
        for family in families:
            median = statistics.median(cells[family]["error"])
            row.append(f"**{median:.2f}**" if median == best[family] else f"{median:.2f}")
        rows.append([*row, f"{statistics.median(errors(cells)):.2f}", f"{gradients(cells):.1f}"])
    return report.markdown(rows)


def page(results: Json, figure: str) -> str:
    """The study as a Markdown page."""
    parts = [
        "# How near Shapley values each method comes",
        report.environment_line(results["environment"]),
        f"{results['networks']} random networks of {results['features']} features (seed "
        f"{results['seed']}): the median of ‖C − φ‖/‖φ‖, φ the exact Shapley values of x against "
        "its reference, all coalitions evaluated; the last column is the compiled program's FLOPs "
        "in units of a gradient's, the median over families. Every network has a reference of its "
        "own here, so no method's reference pass is shared, and on networks this small elementwise "
        "arithmetic weighs more than in a real one. LRP and AttnLRP know no reference.",
        table(results),
        f"![Distance from Shapley values]({figure})",
    ]
    return "\n\n".join(parts) + "\n"


def draw(results: Json, path: Path) -> None:
    """Two panels: the distances by family, and over all networks beside the cost."""
    from matplotlib.figure import Figure

    methods = by_method(results)
    families = list(next(iter(methods.values())))
    fig = Figure(figsize=(11, 5), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for index, (method, cells) in enumerate(methods.items()):
        shift = 0.85 * (index - (len(methods) - 1) / 2) / len(methods)
        seen = pages.look(index) | {"ls": ""}
        quartiles = [statistics.quantiles(cells[family]["error"], n=4) for family in families]
        low, median, high = map(list, zip(*quartiles, strict=True))
        spread = [[m - q for m, q in zip(median, low, strict=True)],
                  [q - m for q, m in zip(high, median, strict=True)]]  # fmt: skip
        places = [place + shift for place in range(len(families))]
        left.errorbar(places, median, spread, markersize=4, elinewidth=1, label=method, **seen)
        right.plot(gradients(cells), statistics.median(errors(cells)), **seen)
    left.set_xticks(range(len(families)), families)
    left.set_ylim(0, 1.5)
    left.set_ylabel("distance from the Shapley values, ‖C − φ‖/‖φ‖")
    left.set_title("by family: median and quartiles")
    right.set_xscale("log")
    right.set_xlabel("cost in gradients (FLOPs)")
    right.set_title("all networks: median")
    for axis in (left, right):
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    fig.savefig(path, dpi=150)


write = pages.writer(page, draw)
