r"""Owen values: unions of players, and unions of those, enter one after the other.

An order is drawn level by level: unions among the unions they lie in, players within their own.
Player i's predecessors are then, at each level, any set of the siblings of the union it lies in,
of size s among k siblings with probability s! (k-1-s)! / k!.

Source: Owen, "Values of games with a priori unions" (1977), eq. 3; several levels: Winter,
Int. J. Game Theory 18 (1989).
"""

from __future__ import annotations

from math import comb

import jax
import numpy as np

from jaxplain._types import Groups, Tree
from jaxplain.games.coalitions import every
from jaxplain.games.game import Game
from jaxplain.games.players import as_players


def union_of(labels: Groups, game: Game, x: Tree) -> np.ndarray:
    """Each player's union at one level."""
    union, _ = as_players(labels, x)
    pairs = [
        np.stack([np.broadcast_to(part, leaf.shape).ravel() for part in (player, label)], axis=1)
        for player, label, leaf in zip(
            *map(jax.tree.leaves, (game.labels, union, game.shapes)), strict=True
        )
    ]
    found = np.unique(np.concatenate(pairs), axis=0)
    if len(found) > game.players:
        twice = int(found[:-1, 0][np.diff(found[:, 0]) == 0][0])
        raise ValueError(f"player {twice} lies in more than one of the unions in groups")
    return found[:, 1]


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
    """The coalitions visited (k, n), ∅ in front, and the matrix (n, k) that makes Owen values."""
    players = levels.shape[1]
    parts = [_predecessors(levels, player) for player in range(players)]
    of_player = np.repeat(np.arange(players), [len(weights) for _, weights in parts])
    before, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    joined = before | (np.arange(players) == of_player[:, None])
    packed, place = np.unique(
        np.packbits(np.concatenate([before, joined]), axis=1), axis=0, return_inverse=True
    )
    rows = np.unpackbits(packed, axis=1, count=players).astype(bool)
    entries = np.concatenate([-weights, weights])
    flat = np.tile(of_player, 2) * len(rows) + place.reshape(-1)
    counted = np.bincount(flat, entries, minlength=players * len(rows))
    return rows, counted.reshape(players, len(rows))


def _predecessors(levels: np.ndarray, player: int) -> tuple[np.ndarray, np.ndarray]:
    """The sets that may stand before a player (sets, n), with their probabilities."""
    masks, weights = np.zeros((1, levels.shape[1]), bool), np.ones(1)
    around = np.zeros(levels.shape[1], int)
    for level in levels:
        siblings = np.unique(level[(around == around[player]) & (level != level[player])])
        chosen = every(len(siblings))
        subsets = chosen @ (siblings[:, None] == level)  # (sets of siblings, n)
        among = len(siblings) + 1
        by_size = np.array([1 / (among * comb(among - 1, size)) for size in range(among)])
        masks = (masks[:, None] | subsets).reshape(-1, levels.shape[1])
        weights = np.outer(weights, by_size[chosen.sum(1)]).ravel()
        around = level
    return masks, weights
