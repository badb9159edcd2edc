"""Coalitions: masks of players, by number."""

from __future__ import annotations

from typing import Any

import numpy as np


def numbered(number: Any, players: Any) -> Any:
    """Who of the players is in the coalition of a number: bit i is player i."""
    return (number >> players & 1).astype(bool)


def every(players: int) -> np.ndarray:
    """All coalitions (2^n, n), by their number."""
    return numbered(np.arange(2**players)[:, None], np.arange(players)[None])
