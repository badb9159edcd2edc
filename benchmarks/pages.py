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
