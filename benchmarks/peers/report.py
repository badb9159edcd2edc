"""From the JSON of `peers` alone: its tables, what they show, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import measure, pages
from benchmarks.report import environment_line, markdown, marked_ratio, seconds, time_ratio, title

Json = dict[str, Any]
OURS = "jaxplain"
INCOMPLETE = 0.02  # the part of Δf from which on it is missed
EXACT = ("DeepLIFT", "DeepLIFT-SHAP")
ALIKE = 1e-5  # of the largest score
CLOCK = "cpu"


KEY = (
    "CPU time in units of the same framework's gradient (jax.grad for jaxplain, autograd for "
    f"the others). ✗: more than {100 * INCOMPLETE:.0f} % of f(x) - f(ref) is missed; ~: the "
    "spread is large, or it ran less than three times."
)


def key(cell: Json) -> tuple[str, str, str]:
    return cell["family"], cell["package"], cell["method"]


def by_row(results: Json) -> dict[tuple[str, str, str], dict[str, Json]]:
    """{(family, package, method): {model: cell}}, families in order."""
    rows: dict[tuple[str, str, str], dict[str, Json]] = {}
    for cell in results["cells"]:
        rows.setdefault(key(cell), {})[cell["model"]] = cell
    families = list(dict.fromkeys(family for family, *_ in rows))
    return dict(sorted(rows.items(), key=lambda row: families.index(row[0][0])))


def models_of(results: Json) -> list[str]:
    return list(dict.fromkeys(cell["model"] for cell in results["cells"]))


def ratio(results: Json, cell: Json) -> dict[str, float] | None:
    """A cell's CPU time in units of its own framework's gradient."""
    package = OURS if cell["package"] == OURS else "torch"
    base = by_row(results)["gradient", package, "gradient"][cell["model"]]
    return time_ratio(cell, base, CLOCK)


def time_of(cell: Json) -> float | None:
    kept = [second for second in cell["seconds"][CLOCK] if second is not None]
    return measure.summary(kept)["median"] if kept else None


def table(results: Json, show: Any) -> str:
    """One line per method, one column per model; `show(cell)` is what stands there."""
    models = models_of(results)
    rows = [["family", "method", "settings", *map(title, models)]]
    for (family, package, method), cells in by_row(results).items():
        name = f"**{OURS}**" if package == OURS else f"{package} {method}"
        settings = next(iter(cells.values()))["settings"]
        shown = [show(cells[model]) if model in cells else "" for model in models]
        rows.append([family, name, settings, *shown])
    for package, why in results["absent"].items():
        rows.append(["–", package, f"not installed: {why}", *[""] * len(models)])
    return markdown(rows)


def ratio_table(results: Json) -> str:
    def show(cell: Json) -> str:
        if cell["message"]:
            return "fails"
        missed = cell["error"] is not None and cell["error"] > INCOMPLETE
        return marked_ratio(ratio(results, cell)) + " ✗" * missed

    return table(results, show)


def time_table(results: Json) -> str:
    def show(cell: Json) -> str:
        time = time_of(cell)
        return "–" if time is None else seconds(time)

    return table(results, show)


def error_table(results: Json) -> str:
    return table(results, lambda c: "–" if c["error"] is None else f"{c['error']:.0e}")


def memory_table(results: Json) -> str:
    def show(cell: Json) -> str:
        return "–" if cell["bytes"] is None else f"{max(cell['bytes'], 0) / 2**20:.1f}"

    return table(results, show)


def messages(results: Json) -> str:
    """What methods said where they failed, or while they ran."""
    said: dict[tuple[str, str], list[str]] = {}
    for cell in results["cells"]:
        name = f"{cell['package']} {cell['method']}"
        for kind, text in [("fails", cell["message"]), *(("warns", w) for w in cell["warnings"])]:
            if text:
                said.setdefault((name, f"{kind}: {text}"), []).append(title(cell["model"]))
    rows = [["method", "models", "message"]]
    rows += [
        [name, ", ".join(where), text.replace("|", "/")] for (name, text), where in said.items()
    ]
    return markdown(rows) if said else "None."


def pairs(results: Json) -> list[tuple[Json, Json]]:
    """(ours, a peer's) for every peer's cell with a counterpart."""
    own = {(c["family"], c["model"]): c for c in results["cells"] if c["package"] == OURS}
    return [
        (own[c["family"], c["model"]], c)
        for c in results["cells"]
        if c["package"] != OURS and c["family"] != "gradient"
    ]


def claims(results: Json) -> str:
    """What the comparison is to show, each with how often it does, and where not."""
    both = [(a, b) for a, b in pairs(results) if not a["message"] and not b["message"]]
    exact = [(a, b) for a, b in both if a["family"] in EXACT]

    def median(cell: Json) -> float:
        found = ratio(results, cell)
        return found["median"] if found else float("nan")

    checks = [
        (
            "DeepLIFT's time over its framework's gradient is below the peer's",
            [(b, median(a) < median(b)) for a, b in exact],
        ),
        (
            "the absolute CPU time of the same family is below the peer's",
            [(b, time_of(a) < time_of(b)) for a, b in both],  # type: ignore[operator]
        ),
        (
            "DeepLIFT's completeness error is below the peer's",
            [(b, a["error"] < b["error"]) for a, b in exact],
        ),
        (
            "it is below the peer's, or within f's own rounding",
            [(b, a["error"] < max(b["error"], a["rounding"])) for a, b in exact],
        ),
        (
            "jaxplain works where the peer does",
            [(b, not a["message"]) for a, b in pairs(results) if not b["message"]],
        ),
    ]
    for digits, key in (("float64", "apart_float64"), ("float32", "apart")):
        found = [(b, b[key]) for _, b in both if key in b]
        if found:
            worst = max(value for _, value in found)
            text = f"LRP's composites have the peer's scores in {digits}, to {ALIKE:.0e}"
            compared = [(b, value <= ALIKE) for b, value in found]
            checks.append((f"{text} of the largest (at most {worst:.1e} off)", compared))
    lines = []
    for text, found in checks:
        missing = [
            f"{title(b['model'])} {b['package']} {b['method']}" for b, holds in found if not holds
        ]
        where = f"; not on: {', '.join(missing)}" if missing else ""
        lines.append(f"- {text}: {len(found) - len(missing)} of {len(found)} cells{where}")
    return "\n".join(lines)


def shown(results: Json) -> str:
    return f"{ratio_table(results)}\n\n{claims(results)}"


def page(results: Json, image: str) -> str:
    e = results["environment"]
    packages = ", ".join(f"{name} {number}" for name, number in e["packages"].items())
    batch = results["cells"][0]["batch"]
    parts = [
        "# jaxplain beside its peers",
        f"{environment_line(e)} One thread; torch {e['torch']}, {packages}. Batches of {batch}.",
        claims(results),
        KEY,
        "What takes evaluations in chunks has as many of the batch in memory at once as were "
        "fastest in a trial, all, eight or one; what took a whole budget was tried once.",
        ratio_table(results),
        f"![Ratios]({image})",
        "CPU time of a batch:",
        time_table(results),
        "Completeness error, Σ |Δf - Σ C| / Σ |Δf| over the batch:",
        error_table(results),
        "Memory in MiB: the rise of the process's peak above what it held; of compiled programs no "
        "less than their buffers by XLA's analysis.",
        memory_table(results),
        "What methods said:",
        messages(results),
    ]
    return "\n\n".join(parts) + "\n"


def figure(results: Json, path: Path) -> None:
    """Every method's CPU time in gradients of its framework; crosses are incomplete."""
    from matplotlib.figure import Figure

    rows = {name: cells for name, cells in by_row(results).items() if name[0] != "gradient"}
    models = models_of(results)
    fig = Figure(figsize=(9, 0.27 * len(rows) + 1.5), layout="constrained")
    axis = fig.subplots()
    for index, model in enumerate(models):
        xs, ys, cross = [], [], []
        for place, cells in enumerate(rows.values()):
            found = ratio(results, cells[model]) if model in cells else None
            if found:
                xs.append(found["median"])
                ys.append(place)
                cross.append((cells[model]["error"] or 0) > INCOMPLETE)
        seen = pages.look(index)
        axis.plot(xs, ys, ls="", label=title(model), alpha=0.8, markersize=5, **seen)
        axis.plot(
            [x for x, c in zip(xs, cross, strict=True) if c],
            [y for y, c in zip(ys, cross, strict=True) if c],
            "x", color="black", markersize=7, label="incomplete" if model == models[-1] else None,
        )  # fmt: skip
    labels = [
        f"{OURS}: {family}" if package == OURS else f"{package} {method}"
        for family, package, method in rows
    ]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    for tick, (_, package, _) in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if package == OURS else "normal")
    families = [family for family, *_ in rows]
    for place in range(1, len(rows)):
        if families[place] != families[place - 1]:
            axis.axhline(place - 0.5, color="grey", linewidth=0.5)
    axis.set_xscale("log")
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.axvline(1, color="black", linewidth=1)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("CPU time, × one gradient of the same framework")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(environment_line(results["environment"]), fontsize=8)
    fig.savefig(path, dpi=150)


write = pages.writer(page, figure)
