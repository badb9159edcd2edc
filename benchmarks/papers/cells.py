"""Choosing and summing up results' cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.papers.settings import PAPER, Json


def pick(cells: list[Json], **wanted: Any) -> list[Json]:
    return [c for c in cells if all(c[k] == v for k, v in wanted.items())]


def trained(results: Json) -> tuple[list[Json], list[str]]:
    """The cells of networks trained here, and these networks."""
    cells = [c for c in results["cells"] if c["network"] != PAPER]
    return cells, list(dict.fromkeys(c["network"] for c in cells))


def spread(values: list[float], form: str = ".2f", unit: str = "") -> str:
    """Mean ± standard deviation over networks, or the one value."""
    mean = f"{np.mean(values):{form}}{unit}"
    return f"{mean} ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else mean
