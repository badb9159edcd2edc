"""What the experiments are run with, and the papers' files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]
PAPER = "the paper's"


@dataclass(frozen=True)
class Options:
    """`data` is the folder of the papers' weights, test data and published numbers, if any."""

    data: Path | None = None
    trained: bool = True  # explain networks trained here
    published: bool = False  # explain the papers' own
    seeds: int = 5
    examples: int = 200  # explained, of a digit or of sequences, by a network trained here
    quick: bool = False  # networks of a few steps, for tests
    progress: bool = False

    @cached_property
    def networks(self) -> list[str]:
        return [PAPER] * self.published + [f"seed {s}" for s in range(self.seeds)] * self.trained


def load(folder: Path, name: str) -> Json:
    """One of the papers' files, .npz or .json."""
    path = folder / name
    return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))
