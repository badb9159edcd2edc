"""From a benchmark's JSON alone: its ratios, its Markdown tables and its figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure, pages

Json = dict[str, Any]
BASELINE = "gradient"
SUBJECT = "deeplift"
COSTS = {
    "time": "time",
    "flops": "FLOPs",
    "memory": "temporary memory",
    "compile": "trace + compile",
}
UNSTEADY = 0.15  # a spread above which a ratio is marked
AGAIN = "seconds_again"  # a cell's times in a second run
TITLES = {
    "mlp": "MLP",
    "vgg": "VGG",
    "cnn": "CNN",
    "bpnet": "BPNet",
    "resnet18": "ResNet-18",
    "lstm": "LSTM",
    "gpt2_small": "GPT-2 small",
    "deeplift": "DeepLIFT",
    "reveal_cancel": "DeepLIFT, RevealCancel",
    "genomics": "DeepLIFT, genomics",
    "central_limit": "DeepLIFT, central limit",
    "deeplift_shap": "DeepLIFT-SHAP",
    "input_x_gradient": "input × gradient",
    "idgi": "IDGI",
    "deeplift_at": "DeepLIFT of a layer",
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "guided_grad_cam": "guided Grad-CAM",
    "rise": "RISE",
    "lime": "LIME",
    "sobol": "Sobol indices",
    "shapley_values": "Shapley values",
    "permutation_shapley": "permutation Shapley",
    "kernel_shap": "KernelSHAP",
    "owen_values": "Owen values",
    "banzhaf_values": "Banzhaf values",
    "shapley_interactions": "Shapley interactions",
}


def title(name: str) -> str:
    """What a model (its type of numbers behind it) or a method is called on the page."""
    name, *dtype = name.split(" ")
    return ", ".join([TITLES.get(name, name.replace("_", " ")), *dtype])


def by_model(results: Json) -> dict[str, dict[str, Json]]:
    """{model: {method: cell}} in the order measured; "model bfloat16" for other numbers."""
    models: dict[str, dict[str, Json]] = {}
    for cell in results["cells"]:
        dtype = cell.get("dtype", "float32")
        key = cell["model"] if dtype == "float32" else f"{cell['model']} {dtype}"
        models.setdefault(key, {})[cell["method"]] = cell
    return models


def time_ratio(cell: Json, base: Json, clock: str = "wall") -> dict[str, float] | None:
    """Median and spread of time over `base`'s, round by round: drift cancels within a round.

    A method too slow for three rounds is set against the median of all of `base`'s, and has no
    spread. None where one did not run.
    """
    times, bases = cell["seconds"][clock], base["seconds"][clock]
    if all(a is None for a in times) or all(b is None for b in bases):
        return None
    ratios = [a / b for a, b in zip(times, bases, strict=True) if a is not None and b is not None]
    if len(ratios) < 3:
        usual = measure.summary(bases)["median"]
        ratios = [a / usual for a in times if a is not None]
        return {"median": measure.summary(ratios)["median"], "spread": math.nan}
    return measure.summary(ratios)


def half_spread(ratio: dict[str, float] | None) -> str:
    """± half the interquartile range, of the median."""
    if ratio is None or math.isnan(ratio["spread"]):
        return "–"
    return f"± {50 * ratio['spread']:.0f} %"


def second_ratio(cell: Json, base: Json) -> dict[str, float] | None:
    """`time_ratio` as a second run found it, where its times are kept."""
    if AGAIN not in cell or AGAIN not in base:
        return None
    return time_ratio(*({"seconds": c[AGAIN]} for c in (cell, base)))


def marked_ratio(ratio: dict[str, float] | None, again: dict[str, float] | None = None) -> str:
    """A ratio, after "~" where its spread is large or unknown, or a second run is far from it."""
    if ratio is None:
        return "–"
    value = ratio["median"]
    text = format(value, ".2f" if value < 9.995 else ".1f" if value < 99.95 else ".0f")
    steady = ratio["spread"] / 2 <= UNSTEADY and (again is None or agree(ratio, again))
    return text if steady else f"~{text}"


def agree(ratio: dict[str, float], again: dict[str, float]) -> bool:
    a, b = ratio["median"], again["median"]
    return max(a / b, b / a) <= 1 + UNSTEADY


def marked(cell: Json, base: Json | None) -> str:
    """`cell`'s time in units of `base`'s, where that was measured."""
    return marked_ratio(time_ratio(cell, base), second_ratio(cell, base)) if base else "–"


def compile_seconds(cell: Json) -> float:
    """Trace and compile together, the median over repeats."""
    stages = cell["compiling_seconds"]
    pairs = zip(stages["trace"], stages["compile"], strict=True)
    return measure.summary([trace + compile_ for trace, compile_ in pairs])["median"]


def ratios(cell: Json, base: Json) -> dict[str, float | None]:
    """What `cell` costs in units of `base`; None where the backend doesn't tell."""

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a is not None and b else None

    time = time_ratio(cell, base)
    return {
        "time": time and time["median"],
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
    twice = any(AGAIN in cell for cell in results["cells"])
    head = ["model", "batch", "gradient", title(subject), "time", "spread"]
    head += ["second run"] * twice + ["CPU time"] * on_cpu
    head += ["FLOPs", "temporary memory", "trace + compile", "completeness gap"]
    rows = [head]
    for name, cells in by_model(results).items():
        if subject not in cells:
            continue
        cell, base = cells[subject], cells[BASELINE]
        ratio = ratios(cell, base)
        cpu, again = time_ratio(cell, base, "cpu"), second_ratio(cell, base)
        rows.append(
            [
                title(name),
                str(cell["batch"]),
                *(wall_time(c) for c in (base, cell)),
                f"**{times(ratio['time'])}**",
                half_spread(time_ratio(cell, base)),
                *[times(again and again["median"])] * twice,
                *[times(cpu and cpu["median"])] * on_cpu,
                *(times(ratio[key]) for key in ("flops", "memory", "compile")),
                number(cell["gap"], ".0e"),
            ]
        )
    return markdown(rows)


def wall_time(cell: Json) -> str:
    """The median of a cell's seconds."""
    kept = [second for second in cell["seconds"]["wall"] if second is not None]
    return seconds(measure.summary(kept)["median"]) if kept else "–"


def passes(cell: Json) -> str:
    """Evaluations of the model, forward + backward."""
    counted = cell.get("evaluations")
    return f"{counted['forward']:.3g} + {counted['backward']:.3g}" if counted else "–"


def method_table(results: Json, base: str = SUBJECT) -> str:
    """One line per method: its time on each model in units of `base`'s.

    The evaluations are those of the model it ran on with the largest batch, over which passes
    that need no example are shared.
    """
    models = by_model(results)
    methods = list(dict.fromkeys(cell["method"] for cell in results["cells"]))
    if any(base not in cells for cells in models.values()):
        return ""
    rows = [["method", "settings", "evaluations", *map(title, models)]]
    for method in methods:
        measured = [cells[method] for cells in models.values() if method in cells]
        usual = max(measured, key=lambda cell: cell["batch"])
        row = [title(method), usual["settings"], passes(usual)]
        for cells in models.values():
            row.append(marked(cells[method], cells[base]) if method in cells else "")
        rows.append(row)
    return markdown(rows)


def detail_table(results: Json) -> str:
    """One line per model and method with everything measured."""
    head = ["model and method", "batch", "evaluations", "time", "÷ gradient", "÷ DeepLIFT"]
    head += ["trace + compile", "GFLOP", "temporary", "peak", "completeness gap"]
    rows = [head]
    for name, cells in by_model(results).items():
        for method, cell in cells.items():
            kept = [second for second in cell["seconds"]["wall"] if second is not None]
            spread = measure.summary(kept) if len(kept) > 2 else None
            flops = cell["flops"]
            bases = [cells.get(base) for base in (BASELINE, SUBJECT)]
            rows.append(
                [
                    f"{title(name)}, {title(method)}",
                    str(cell["batch"]),
                    passes(cell),
                    f"{wall_time(cell)} {half_spread(spread)}",
                    *(marked(cell, base) for base in bases),
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
    cores = f"{e['cores']} core{'s' * (e['cores'] > 1)}"
    where = cores if e["platform"] == "cpu" else e["platform"]
    precision = "float64" if e["x64"] else "float32 unless said otherwise"
    return (
        f"Measured on {e['device']} ({where}), JAX {e['jax']}, Flax {e['flax']}, "
        f"Python {e['python']}, {precision}, {e['date']}."
    )


def key(results: Json) -> str:
    """What the table of methods means."""
    chunk = results["settings"].get("chunk")
    twice = any(AGAIN in cell for cell in results["cells"])
    parts = [KEY, UNSTEADY_TWICE if twice else UNSTEADY_ONCE]
    if chunk is not None:  # one that holds for all methods
        parts.append(
            f"Steps, samples and coalitions are in memory {chunk} at a time, times the batch."
        )
    return " ".join(parts)


KEY = (
    "Evaluations: passes through the model per example, forward + backward, counted in the traced "
    "program (a pass at the reference is shared by the batch)."
)
UNSTEADY_ONCE = (
    f"~: the spread is above ± {100 * UNSTEADY:.0f} %, or the method ran less than three times."
)
UNSTEADY_TWICE = (
    f"~: the spread is above ± {100 * UNSTEADY:.0f} %, a second run of everything differs by more "
    "than that, or the method ran less than three times."
)


def page(results: Json) -> str:
    """The results as a Markdown page."""
    parts = [
        "# What explanations cost",
        environment_line(results["environment"]),
        "DeepLIFT's cost in gradients (jitted, the same model, batch and run):",
        cost_table(results),
        "![Costs](speed.png)",
        f"Time of each method in units of DeepLIFT's. {key(results)}",
        method_table(results),
        "In units of one gradient's:",
        method_table(results, BASELINE),
        "Everything measured:",
        detail_table(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figure(results: Json, path: Path) -> None:
    """DeepLIFT's four costs in gradients, by model; every method's time in gradients."""
    from matplotlib.figure import Figure

    models = by_model(results)
    methods = [m for m in dict.fromkeys(c["method"] for c in results["cells"]) if m != BASELINE]
    heights = [0.4 * len(models) + 0.5, 0.23 * len(methods) + 0.5]
    fig = Figure(figsize=(9, sum(heights) + 1.6), layout="constrained")
    top, bottom = fig.subplots(2, 1, height_ratios=heights)
    for index, key in enumerate(COSTS):
        values = [
            ratios(cells[SUBJECT], cells[BASELINE])[key] if SUBJECT in cells else None
            for cells in models.values()
        ]
        places = _dodge(len(models), index)
        top.plot(_nan(values), places, ls="", label=COSTS[key], **pages.look(index))
    top.set_title("DeepLIFT's costs")
    top.set_ylim(-0.5, len(models) - 0.5)
    top.set_xlim(left=0)
    top.set_yticks(range(len(models)), [title(name) for name in models])
    for index, (name, cells) in enumerate(models.items()):
        found = [
            time_ratio(cells[method], cells[BASELINE]) if method in cells else None
            for method in methods
        ]
        bottom.plot(
            _nan([ratio and ratio["median"] for ratio in found]), range(len(methods)),
            ls="", markersize=5, alpha=0.8, label=title(name), **pages.look(index),
        )  # fmt: skip
    bottom.set_title("Time of every method")
    bottom.set_ylim(-0.7, len(methods) - 0.3)
    bottom.set_xscale("log")
    bottom.set_yticks(range(len(methods)), [title(name) for name in methods])
    bottom.grid(axis="y", alpha=0.2)
    for axis in (top, bottom):
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("× one gradient")
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(environment_line(results["environment"]), fontsize=8)
    fig.savefig(path, dpi=150)


def _dodge(places: int, index: int) -> list[float]:
    """Marks of one model side by side instead of on top of each other."""
    return [place + 0.15 * (index - 1.5) for place in range(places)]


def _nan(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


write = pages.writer(
    lambda results, picture: page(results).replace("(speed.png)", f"({picture})"), figure
)
