"""From a benchmark's JSON alone: its ratios, its Markdown tables and its figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure

Json = dict[str, Any]
BASELINE = "gradient"
SUBJECT = "deeplift"
COSTS = {
    "time": "time",
    "flops": "FLOPs",
    "memory": "temporary memory",
    "compile": "trace + compile",
}
TITLES = {
    "mlp": "MLP",
    "cnn": "CNN",
    "bpnet": "BPNet",
    "resnet18": "ResNet-18",
    "lstm": "LSTM",
    "transformer": "transformer",
    "gradient": "gradient",
    "deeplift": "DeepLIFT",
    "reveal_cancel": "DeepLIFT, RevealCancel",
    "central_limit": "DeepLIFT, central limit",
    "input_x_gradient": "input × gradient",
    "guided_backprop": "guided backprop",
    "integrated_gradients": "integrated gradients",
}


def title(name: str) -> str:
    return TITLES.get(name, name)


def by_model(results: Json) -> dict[str, dict[str, Json]]:
    """{model: {method: cell}} in the order measured."""
    models: dict[str, dict[str, Json]] = {}
    for cell in results["cells"]:
        models.setdefault(cell["model"], {})[cell["method"]] = cell
    return models


def time_ratio(cell: Json, base: Json, clock: str = "wall") -> dict[str, float]:
    """Median and spread of time over `base`'s, round by round: drift cancels within a round.

    A method too slow for three rounds is set against the median of all of `base`'s.
    """
    times, bases = cell["seconds"][clock], base["seconds"][clock]
    ratios = [a / b for a, b in zip(times, bases, strict=True) if a is not None and b is not None]
    if len(ratios) < 3:
        usual = measure.summary(bases)["median"]
        ratios = [a / usual for a in times if a is not None]
    return measure.summary(ratios)


def compile_seconds(cell: Json) -> float:
    """Trace and compile together, the median over repeats."""
    stages = cell["compiling_seconds"]
    pairs = zip(stages["trace"], stages["compile"], strict=True)
    return measure.summary([trace + compile_ for trace, compile_ in pairs])["median"]


def ratios(cell: Json, base: Json) -> dict[str, float | None]:
    """What `cell` costs in units of `base`; None where the backend doesn't tell."""

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a is not None and b else None

    return {
        "time": time_ratio(cell, base)["median"],
        "flops": over(cell["flops"], base["flops"]),
        "memory": over(cell["bytes"]["temp"], base["bytes"]["temp"]),
        "compile": over(compile_seconds(cell), compile_seconds(base)),
    }


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head, the first column its names."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def size(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:.1f} MiB"


def cost_table(results: Json, subject: str = SUBJECT) -> str:
    """One line per model: what one batch of `subject` costs in gradients.

    CPU seconds of the process stand beside wall time where the program runs on the CPU: they
    hold still when other processes take the cores.
    """
    on_cpu = results["environment"]["platform"] == "cpu"
    head = ["model", "batch", "gradient", title(subject), "time", "spread"]
    head += ["CPU time"] * on_cpu
    head += ["FLOPs", "temporary memory", "trace + compile", "completeness gap"]
    rows = [head]
    for name, cells in by_model(results).items():
        if subject not in cells:
            continue
        cell, base = cells[subject], cells[BASELINE]
        ratio = ratios(cell, base)
        rows.append(
            [
                title(name),
                str(cell["batch"]),
                *(seconds(measure.summary(c["seconds"]["wall"])["median"]) for c in (base, cell)),
                f"**{ratio['time']:.2f}×**",
                f"± {50 * time_ratio(cell, base)['spread']:.0f} %",
                *[f"{time_ratio(cell, base, 'cpu')['median']:.2f}×"] * on_cpu,
                *(times(ratio[key]) for key in ("flops", "memory", "compile")),
                number(cell["gap"], ".0e"),
            ]
        )
    return markdown(rows)


def method_table(results: Json, base: str = SUBJECT) -> str:
    """One line per method: its time on each model in units of `base`'s."""
    models = by_model(results)
    methods = list(dict.fromkeys(cell["method"] for cell in results["cells"]))
    if any(base not in cells for cells in models.values()):
        return ""
    rows = [["method", "settings", *map(title, models)]]
    for method in methods:
        settings = next(c[method]["settings"] for c in models.values() if method in c)
        row = [title(method), settings]
        for cells in models.values():
            value = time_ratio(cells[method], cells[base])["median"] if method in cells else None
            row.append(number(value, ".2f"))
        rows.append(row)
    return markdown(rows)


def detail_table(results: Json) -> str:
    """One line per model and method with everything measured."""
    head = ["model and method", "batch", "time", "÷ gradient", "trace + compile"]
    head += ["GFLOP", "temporary", "peak", "completeness gap"]
    rows = [head]
    for name, cells in by_model(results).items():
        for method, cell in cells.items():
            wall = measure.summary(cell["seconds"]["wall"])
            flops = cell["flops"]
            rows.append(
                [
                    f"{title(name)}, {title(method)}",
                    str(cell["batch"]),
                    f"{seconds(wall['median'])} ± {50 * wall['spread']:.0f} %",
                    number(ratios(cell, cells[BASELINE])["time"]),
                    seconds(compile_seconds(cell)),
                    number(flops / 1e9 if flops is not None else None, ".3g"),
                    size(cell["bytes"]["temp"]),
                    size(cell["bytes"]["peak"]),
                    number(cell["gap"], ".0e"),
                ]
            )
    return markdown(rows)


def environment_line(environment: Mapping[str, Any]) -> str:
    """Where and when, in one sentence."""
    e = environment
    where = f"{e['cores']} cores" if e["platform"] == "cpu" else e["platform"]
    precision = "float64" if e["x64"] else "float32"
    return (
        f"Measured on {e['device']} ({where}), {precision}, JAX {e['jax']}, Flax {e['flax']}, "
        f"Python {e['python']}, {e['date']}."
    )


def page(results: Json) -> str:
    """The results as a Markdown page."""
    parts = [
        "# What explanations cost",
        environment_line(results["environment"]),
        "DeepLIFT's cost in gradients (jitted, the same model, batch and run):",
        cost_table(results),
        "Time of each method in units of DeepLIFT's:",
        method_table(results),
        "![Costs](speed.png)",
        "Everything measured:",
        detail_table(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figure(results: Json, path: Path) -> None:
    """Two panels: DeepLIFT's four costs in gradients, and every method's time in gradients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = by_model(results)
    places = range(len(models))
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 0.6 * len(models) + 2), sharey=True)
    for index, (key, marker) in enumerate(zip(COSTS, "osD^", strict=True)):
        values = [
            ratios(cells[SUBJECT], cells[BASELINE])[key] if SUBJECT in cells else None
            for cells in models.values()
        ]
        left.plot(_nan(values), _dodge(places, index), marker, label=COSTS[key])
    left.set_title("DeepLIFT in gradients")
    left.set_xlim(left=0)
    methods = list(dict.fromkeys(cell["method"] for cell in results["cells"]))
    for index, method in enumerate(m for m in methods if m != BASELINE):
        values, errors = [], []
        for cells in models.values():
            ratio = time_ratio(cells[method], cells[BASELINE]) if method in cells else None
            values.append(ratio and ratio["median"])
            errors.append(ratio and ratio["median"] * ratio["spread"] / 2)
        right.errorbar(
            _nan(values), _dodge(places, index), xerr=_nan(errors), fmt="osDv^Px*"[index % 8],
            label=title(method), capsize=3,
        )  # fmt: skip
    right.set_xscale("log")
    right.set_title("time in gradients, by method")
    left.set_yticks(list(places), [title(name) for name in models])
    left.invert_yaxis()
    for axis in (left, right):
        axis.axvline(1, color="black", linewidth=1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("× one gradient")
        axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(environment_line(results["environment"]), fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _dodge(places: Sequence[int], index: int) -> list[float]:
    """Marks of one model side by side instead of on top of each other."""
    return [place + 0.12 * (index - 1.5) for place in places]


def _nan(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def write(path: Path) -> None:
    """Writes the page and the figure beside the JSON file at `path`."""
    results = json.loads(path.read_text())
    figure(results, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(page(results).replace("(speed.png)", f"({path.stem}.png)"))
