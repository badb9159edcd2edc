"""Shapley values by hand: where cheaper methods give the same, and how they part.

Of a linear f of independent features the Shapley values are w(x - E x), and so is everything else.
The values by hand stand beside what the library computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp
from benchmarks import report

Array = jax.Array
Json = dict[str, Any]
TITLE = "Shapley values by hand"
EQUAL = 1e-5  # errors below are rounding
WEIGHTS = np.array([2.0, -1.0, 0.5])
CORRELATION = 0.8


@dataclass(frozen=True)
class Case:
    """A function, an input, the references absent features come from; the answer by hand."""

    f: Callable[[Array], Array]
    formula: str
    x: list[float]
    refs: np.ndarray
    by_hand: Any
    why: str


def grid(*levels: tuple[float, ...]) -> np.ndarray:
    """All combinations of the features' levels: independent in the sample too."""
    return np.array([*itertools.product(*levels)])


def correlated(correlation: float) -> np.ndarray:
    """Four points with mean 0, variance 1 and exactly this correlation."""
    spread = np.linalg.cholesky([[1, correlation], [correlation, 1]])
    return grid((-1, 1), (-1, 1)) @ spread.T


CASES = {
    "linear, independent": Case(
        lambda x: x @ jnp.asarray(WEIGHTS, x.dtype) + 1,
        "2x₁ − x₂ + ½x₃ + 1",
        [3.0, 1.0, 2.0],
        grid((0, 1, 2), (-1, 1), (0, 2, 4)),
        WEIGHTS * ([3.0, 1.0, 2.0] - np.array([1.0, 0.0, 2.0])),
        "φ = w(x − E x): all methods agree.",
    ),
    "linear, correlated": Case(
        lambda x: 2 * x[0],
        "2x₁, x₂ unused, correlation 0.8",
        [1.0, 2.0],
        correlated(CORRELATION),
        [2.0, 0.0],
        "Absent features are drawn without regard to those present (interventional): a feature f "
        "does not use gets 0. Conditional Shapley values, v(S) = E[f | x_S] of a Gaussian, move "
        "w₁ρx₂/2 to the unused x₂.",
    ),
    "product, independent": Case(
        lambda x: x[0] * x[1],
        "x₁x₂",
        [3.0, 2.0],
        grid((0, 1, 2), (-1, 1)),
        [(3 - 1) * (2 + 0) / 2, (2 - 0) * (3 + 1) / 2],
        "φ₁ = (x₁ − E x₁)(x₂ + E x₂)/2. Gradient and occlusion count the joint part twice.",
    ),
    "square, independent": Case(
        lambda x: x[0] ** 2 + x[1],
        "x₁² + x₂",
        [3.0, 1.0],
        grid((-1, 0, 1), (0, 2)),
        [9 - 2 / 3, 0.0],
        "φ₁ = x₁² − E x₁². One mean reference misses the variance; the mean over references "
        "doesn't.",
    ),
    "saturated sum": Case(
        lambda x: 1 - jax.nn.relu(1 - x[0] - x[1]),
        "1 − relu(1 − x₁ − x₂)",
        [1.0, 1.0],
        np.zeros((1, 2)),
        [0.5, 0.5],
        "Either feature alone is enough: gradient and occlusion see nothing.",
    ),
    "minimum": Case(
        lambda x: x[0] - jax.nn.relu(x[0] - x[1]),
        "min(x₁, x₂) = x₁ − relu(x₁ − x₂)",
        [2.0, 1.0],
        np.zeros((1, 2)),
        [0.5, 0.5],
        "Both are needed. Rescale and integrated gradients give all to the smaller one, "
        "RevealCancel half each.",
    ),
}
METHODS: dict[str, Callable[..., Any]] = {
    "Shapley values": lambda f, refs, mean: jxp.shapley_values(f, refs),
    "gradient × (x − mean)": lambda f, refs, mean: jxp.input_x_gradient(f, mean),
    "occlusion by the mean": lambda f, refs, mean: jxp.ablation(f, mean),
    "integrated gradients": lambda f, refs, mean: jxp.integrated_gradients(f, mean),
    "DeepLIFT, Rescale": lambda f, refs, mean: jxp.deeplift(f, mean),
    "DeepLIFT, RevealCancel": lambda f, refs, mean: jxp.deeplift(f, mean, rules="reveal_cancel"),
    "DeepLIFT-SHAP": lambda f, refs, mean: jxp.deeplift_shap(f, refs),
}
CONDITIONAL = "conditional Shapley values"
ALL = [*METHODS, CONDITIONAL]


def conditional(x: Array) -> Array:
    """Shapley values of v(S) = E[2x₁ | x_S], x Gaussian with mean 0, variance 1, correlated."""
    expected = lambda known: (
        2 * jnp.where(known[0] > 0, x[0], jnp.where(known[1] > 0, CORRELATION * x[1], 0))
    )
    return jxp.shapley_values(expected, 0.0)(jnp.ones(2))


def explained(name: str, x: Array, refs: Array) -> tuple[Array, dict[str, Array]]:
    """What is to be shared out, f(x) − E f(r), and every method's shares."""
    f = CASES[name].f
    found = {method: make(f, refs, refs.mean(0))(x) for method, make in METHODS.items()}
    if name == "linear, correlated":
        found[CONDITIONAL] = conditional(x)
    return f(x) - jax.vmap(f)(refs).mean(), found


def measure(options: Any) -> Json:
    """Every method in every case, and its largest error against the values by hand."""
    cells = []
    for name, case in CASES.items():
        x, refs = jnp.asarray(case.x), jnp.asarray(case.refs, float)
        rise, found = jax.jit(partial(explained, name))(x, refs)
        for method in [m for m in ALL if m in found]:
            values = found[method]
            error = jnp.abs(values - jnp.asarray(case.by_hand, values.dtype)).max()
            cells.append({
                "case": name, "method": method, "values": np.asarray(values, float).tolist(),
                "by_hand": np.asarray(case.by_hand, float).tolist(), "error": float(error),
                "missing": float(rise - values.sum()),
            })  # fmt: skip
    return {"settings": {}, "cells": cells}


def vector(values: list[float]) -> str:
    return "(" + ", ".join(f"{round(v, 2) + 0.0:.2f}".replace("-", "−") for v in values) + ")"


def table(cells: list[Json]) -> str:
    """Methods by cases; bold where they are the Shapley values."""
    cases = [name for name in CASES if any(c["case"] == name for c in cells)]
    found = {(c["method"], c["case"]): c for c in cells}
    rows = [["method", *cases]]
    rows.append(["by hand", *(vector(found["Shapley values", c]["by_hand"]) for c in cases)])
    for method in ALL:
        row = [method]
        for case in cases:
            cell = found.get((method, case))
            text = vector(cell["values"]) if cell else ""
            row.append(f"**{text}**" if cell and cell["error"] < EQUAL else text)
        rows.append(row)
    return report.markdown(rows)


def claims(cells: list[Json]) -> str:
    """Where each method is the Shapley value, and what its sum misses elsewhere."""
    lines = []
    for method in METHODS:
        own = [c for c in cells if c["method"] == method]
        equal = [c["case"] for c in own if c["error"] < EQUAL]
        missing = [f"{c['case']} ({-c['missing']:+.2f})" for c in own if abs(c["missing"]) > EQUAL]
        line = f"- {method}: the Shapley values in {len(equal)} of {len(own)} cases"
        line += "" if len(equal) == len(own) else f" ({'; '.join(equal)})"
        if missing:
            line += f"; its sum is not f(x) − E f(r) in {'; '.join(missing)}"
        lines.append(line + ".")
    return "\n".join(lines)


def section(results: Json, figure: str) -> str:
    """The experiment's part of the page."""
    cells = results["cells"]
    cases = "\n".join(
        f"- **{name}**: f = {case.formula} at x = {vector(case.x)}. {case.why}"
        for name, case in CASES.items()
    )
    return "\n\n".join([
        "Shapley values take the absent features from a few references (independent ones: all "
        "combinations of the features' levels); the methods of one reference take their mean. "
        "Each vector holds the contributions of x₁, x₂, …; bold where they are the values by hand.",
        table(cells), cases, claims(cells), f"![Contributions by case]({figure})",
    ])  # fmt: skip


def draw(results: Json, path: Path) -> None:
    """A panel a case: bars by feature and method, black lines at the values by hand."""
    from matplotlib.figure import Figure

    drawing = Figure((12, 6), dpi=130, layout="constrained")
    for ax, name in zip(drawing.subplots(2, 3).flat, CASES, strict=True):
        cells = {c["method"]: c for c in results["cells"] if c["case"] == name}
        width = 0.86 / len(cells)
        by_hand = next(iter(cells.values()))["by_hand"]
        places = np.arange(len(by_hand))
        ax.axhline(0, color="0.5", linewidth=0.8)
        for i, (method, cell) in enumerate(cells.items()):
            shift = (i - (len(cells) - 1) / 2) * width
            color = f"C{ALL.index(method)}"
            ax.bar(places + shift, cell["values"], 0.85 * width, color=color, label=method)
        for place, value in zip(places, by_hand, strict=True):
            ax.plot([place - 0.45, place + 0.45], [value] * 2, "k", linewidth=1.6, label="by hand")
        ax.set_xticks(places, [f"$x_{i + 1}$" for i in places])
        ax.set_title(f"{name}\nf = {CASES[name].formula}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    handles = {}
    for ax in drawing.axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        ax.margins(y=0.12)
    drawing.supylabel("contribution", fontsize=10)
    drawing.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False
    )
    drawing.savefig(path)
