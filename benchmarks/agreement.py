"""How well two runs of `speed` agree: every ratio to DeepLIFT's time, in both."""

from typing import Any

from benchmarks.report import AGAIN, SUBJECT, UNSTEADY, by_model, time_ratio, title

Json = dict[str, Any]
STEADY = "steady"  # measured often enough, with a spread below UNSTEADY
MARKED = "marked ~"


def compared(results: Json, other: Json) -> dict[str, dict[tuple[str, str], float]]:
    """{steady or marked: {(model, method): the other's ratio ÷ ours}}."""
    found: dict[str, dict[tuple[str, str], float]] = {STEADY: {}, MARKED: {}}
    theirs = by_model(other)
    for model, cells in by_model(results).items():
        for method in cells:
            if method == SUBJECT or method not in theirs.get(model, {}):
                continue
            pair = [time_ratio(run[method], run[SUBJECT]) for run in (cells, theirs[model])]
            if None in pair:
                continue
            steady = all(ratio["spread"] / 2 <= UNSTEADY for ratio in pair)
            a, b = (ratio["median"] for ratio in pair)
            found[STEADY if steady else MARKED][model, method] = b / a
    return found


def shown(results: Json, other: Json) -> str:
    """How many ratios agree within UNSTEADY, and which don't."""
    lines = []
    for kind, quotients in compared(results, other).items():
        apart = {key: q for key, q in quotients.items() if max(q, 1 / q) > 1 + UNSTEADY}
        lines.append(
            f"{kind}: {len(quotients) - len(apart)} of {len(quotients)} ratios to DeepLIFT's time "
            f"agree within {100 * UNSTEADY:.0f} %"
        )
        lines += [
            f"  {title(model)}, {title(method)}: ×{quotient:.2f}"
            for (model, method), quotient in apart.items()
        ]
    return "\n".join(lines)


def kept(results: Json, other: Json) -> Json:
    """`results` with the times of a second run in its cells, for its page to mark what moved."""
    theirs = by_model(other)
    cells = [
        cell | {AGAIN: theirs[model][method]["seconds"]}
        if method in theirs.get(model, {})
        else cell
        for model, ours in by_model(results).items()
        for method, cell in ours.items()
    ]
    return results | {"cells": cells}
