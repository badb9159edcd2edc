r"""Owen values: unions of players, and unions of those, enter one after the other.

An order is drawn level by level: unions among the unions they lie in, players within their own.
Player i's predecessors are then, at each level, any set of the siblings of the union it lies in,
of size s among k siblings with probability s! (k-1-s)! / k!.

Source: Owen, "Values of games with a priori unions" (1977), eq. 3; several levels: Winter,
Int. J. Game Theory 18 (1989).
"""

from __future__ import annotations

import itertools
from math import comb
from typing import Any

import numpy as np


def nested(levels: list[np.ndarray]) -> np.ndarray:
    """Each player's union at every level, those in different unions told apart: (levels, n)."""
    nested, path = [], np.zeros((len(levels[0]), 0), int)
    for level in levels:
        path = np.column_stack([path, level])
        nested.append(np.unique(path, axis=0, return_inverse=True)[1].reshape(-1))
    return np.stack(nested)


def coalitions(levels: np.ndarray) -> int:
    """How many coalitions the orders of a tree of unions visit."""

    def partial(players: np.ndarray, depth: int) -> int:
        """Those of a union that are neither empty nor whole."""
        if depth == len(levels):
            return 0
        children = np.unique(levels[depth, players])
        inside = sum(partial(players[levels[depth, players] == c], depth + 1) for c in children)
        return 2 ** len(children) - 2 + 2 ** (len(children) - 1) * inside

    return 2 + partial(np.arange(levels.shape[1]), 0)


def matrix(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coalitions visited (k, n), and the matrix (n, k) that makes their values Owen values."""
    players = levels.shape[1]
    numbers: dict[bytes, int] = {}
    rows: list[np.ndarray] = []
    entries: list[tuple[int, int, float]] = []

    def number(mask: np.ndarray) -> int:
        key = mask.tobytes()
        if key not in numbers:
            numbers[key] = len(rows)
            rows.append(mask)
        return numbers[key]

    for player in range(players):
        around = np.zeros(players, int)
        choices: list[Any] = []
        for level in levels:
            siblings = np.unique(level[(around == around[player]) & (level != level[player])])
            choices.append(list(_subsets(level, siblings)))
            around = level
        for combination in itertools.product(*choices):
            mask = np.any([mask for mask, _ in combination], axis=0)
            weight = float(np.prod([weight for _, weight in combination]))
            entries.append((player, number(mask), -weight))
            joined = mask.copy()
            joined[player] = True
            entries.append((player, number(joined), weight))
    weights = np.zeros((players, len(rows)))
    at_player, at_row, adds = zip(*entries, strict=True)
    np.add.at(weights, (np.array(at_player), np.array(at_row)), adds)
    return np.array(rows), weights


def _subsets(level: np.ndarray, siblings: np.ndarray) -> Any:
    """Every set of siblings as a mask of players, with its probability."""
    among = len(siblings) + 1
    for size in range(among):
        for subset in itertools.combinations(siblings, size):
            yield np.isin(level, subset), 1 / (among * comb(among - 1, size))
