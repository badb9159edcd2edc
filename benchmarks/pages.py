"""A benchmark's page and figure, beside the JSON file of its numbers and from that alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def writer(
    page: Callable[[Any, str], str], draw: Callable[[Any, Path], Any]
) -> Callable[[Path], None]:
    """`write(path)` of a JSON file: the page (results, the figure's name), the figure drawn."""

    def write(path: Path) -> None:
        results, picture = json.loads(path.read_text()), path.with_suffix(".png")
        draw(results, picture)
        path.with_suffix(".md").write_text(page(results, picture.name))

    return write


# Okabe and Ito's colours, which the colour-blind tell apart, but for yellow on white.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vP*Xh<>dp"


def look(index: int) -> dict[str, str]:
    """Colour and marker of a figure's series: no two of 91 have both alike."""
    return {"color": HUES[index % len(HUES)], "marker": MARKERS[index % len(MARKERS)]}
