"""Designs: which coalitions are evaluated.

Designs of pairs (S, N∖S) are drawn once for a number of players and of pairs, in NumPy, while a
program is traced. A key then renames the players, so what is computed of a design, such as an
estimator's matrix, is shared by all keys.
"""

from __future__ import annotations

import functools
import itertools
from math import comb

import numpy as np

from jaxplain.methods.shapley.gaussian_process import Kernel

_SEED = 0
_TRIES = 100  # draws of a design of few pairs, of which nearly all tell the players apart
# About so many a greedy design is chosen from. On three networks of 10 to 13 players its squared
# errors are half those of pairs drawn by leverage; chosen from 300 they are up to a third larger,
# from 6000, which takes four times as long, up to a fifth smaller.
_CANDIDATES = 1500
_GREEDY = 1024  # pairs beyond which a design takes too long: its time grows with their square
# The prior's variance of the linear part, finite while a design is chosen: were it flat, as in the
# estimator, no pair would tell anything before the last that tells players apart. On the same
# networks a tenth or ten times as much changes squared errors by less than a third, either way.
_LINEAR = 3.0
_ROUNDING = 1e-9  # beside 1: far above float64's, far below what any pair tells


def pairs_of(players: int) -> int:
    """How many pairs there are beside (∅, N)."""
    return 2 ** (players - 1) - 1


@functools.lru_cache(maxsize=32)
def paired(players: int, pairs: int, sizes: str) -> np.ndarray:
    r"""One coalition of each of `pairs` distinct pairs, behind the row of N: (1 + pairs, n).

    Sizes are drawn by `"leverage"`, uniformly, or by `"kernel"`, ∝ 1/s(n-s), every pair of a size
    being as likely as another, and none twice.
    """
    for seed in range(_TRIES):
        rng = np.random.default_rng(seed)
        drawn = [
            distinct(players, size, count, rng)
            for size, count in zip(*_allocate(players, pairs, sizes), strict=True)
        ]
        masks = np.concatenate([np.ones((1, players), bool), *drawn])
        few = pairs < 2 * players  # pairs that may, by chance, not tell all players apart
        if not few or np.linalg.matrix_rank(np.where(masks, 1.0, -1.0)) == min(masks.shape):
            break
    return masks


@functools.lru_cache(maxsize=32)
def greedy(players: int, pairs: int) -> np.ndarray:
    r"""As `paired` by leverage, each pair chosen for what it tells beyond those before.

    That is the largest decrease, under the prior of `gaussian_process.Kernel`, in the variance that
    Shapley values have left, summed over players: Σ_i cov(φ_i, h_S)² / var(h_S), both given the
    pairs chosen before; by Cholesky's decomposition of the covariance of some thousands of
    candidates.
    """
    if pairs > _GREEDY:
        return paired(players, pairs, "leverage")
    rng = np.random.default_rng(_SEED)
    sizes, counts = _allocate(players, pairs, "leverage")
    times = max(_CANDIDATES // max(pairs, 1), 2)
    stock = np.concatenate(
        [np.ones((1, players), bool)]
        + [
            distinct(players, size, min(times * count, _capacity(players, size)), rng)
            for size, count in zip(sizes, counts, strict=True)
        ]
    )
    kernel = Kernel("SII", players, 1, odd=True)
    flat = kernel.flat(stock)
    news = kernel.functional(stock) + _LINEAR * flat.T
    variance = kernel(stock[:1], stock[:1])[0, 0] + _LINEAR * np.square(flat).sum(1)
    factor = np.zeros((1 + pairs, len(stock)))
    size_of = np.minimum(stock.sum(1), players - stock.sum(1))
    free = np.ones(len(stock), bool)
    chosen: list[int] = []
    for size in [0, *rng.permutation(np.repeat(sizes, counts))]:
        worth = np.square(news).sum(0) / np.maximum(variance, _ROUNDING)
        best = int(np.argmax(np.where(free & (size_of == size), worth, -1)))
        covariance = kernel(stock[best : best + 1], stock)[0] + _LINEAR * flat @ flat[best]
        known = factor[: len(chosen)]
        row = (covariance - known[:, best] @ known) / max(variance[best], _ROUNDING) ** 0.5
        news -= np.outer(news[:, best] / max(variance[best], _ROUNDING) ** 0.5, row)
        variance -= row**2
        factor[len(chosen)] = row
        free[best] = False
        chosen.append(best)
    return stock[chosen]


def _capacity(players: int, size: int) -> int:
    """How many pairs have a coalition of this size."""
    return comb(players, size) // (2 if 2 * size == players else 1)


def _allocate(players: int, pairs: int, weighting: str) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs each size 1 … ⌊n/2⌋ gets: by weight, at most all there are."""
    sizes = np.arange(1, players // 2 + 1)
    capacity = np.array([float(_capacity(players, int(size))) for size in sizes])
    weights = {"leverage": np.ones(len(sizes)), "kernel": 1 / (sizes * (players - sizes))}[
        weighting
    ]
    weights = np.where(2 * sizes == players, weights / 2, weights)

    # Shares of the sizes that are not exhausted; a size once exhausted stays so.
    counts = np.zeros(len(sizes))
    open_ = np.ones(len(sizes), bool)
    while open_.any():
        left = pairs - counts[~open_].sum()
        counts[open_] = left * weights[open_] / weights[open_].sum()
        over = open_ & (counts > capacity)
        if not over.any():
            break
        counts[over], open_ = capacity[over], open_ & ~over

    whole = np.floor(counts + _ROUNDING)
    by_rest = np.argsort(whole - counts, kind="stable")
    by_rest = by_rest[(whole < capacity)[by_rest]]
    whole[by_rest[: round(pairs - whole.sum())]] += 1
    return sizes, whole.astype(int)


def distinct(players: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Coalitions (count, n) of one size, each of another pair."""
    capacity = _capacity(players, size)
    halved = 2 * size == players  # then S and N∖S are of one size, and player 0 is in S
    if 2 * count > capacity:
        members = itertools.combinations(range(players), size)
        chosen = np.array(list(itertools.islice(members, capacity)))  # those with player 0 first
        masks = np.zeros((capacity, players), bool)
        np.put_along_axis(masks, chosen, True, axis=1)
        return masks[rng.permutation(capacity)[:count]]
    masks = np.zeros((0, players), bool)
    while len(masks) < count:
        ranks = rng.random((count, players)).argsort(1)
        more = ranks < size
        if halved:
            more = np.where(more[:, :1], more, ~more)
        _, first = np.unique(
            np.packbits(np.concatenate([masks, more]), axis=1), axis=0, return_index=True
        )
        masks = np.concatenate([masks, more])[np.sort(first)]
    return masks[:count]
