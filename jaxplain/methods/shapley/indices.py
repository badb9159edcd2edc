r"""Indices of a game: measures on [0, 1] at which the multilinear extension is differentiated.

Let every player be present with probability q, and V(q) = E v. The index of a set T of players is

  I(T) = ∫ ∂^|T| V / ∂T (q, …, q) dμ(q) = Σ_{S ⊆ N∖T} w_|S| Δ_T v(S),
  w_s = ∫ q^s (1-q)^{n-|T|-s} dμ(q),  Δ_T v(S) = Σ_{U ⊆ T} (-1)^{|T|-|U|} v(S ∪ U),

with μ uniform for Shapley values and SII, the point ½ for Banzhaf values, Beta(1, |T|) for STII and
Beta(|T|, |T|) for FSII.

Source: Owen, "Multilinear extensions of games", Management Science 18 (1972); Grabisch & Roubens,
Int. J. Game Theory 28 (1999) (SII); Sundararajan et al., arXiv 1902.05622, eq. 5 (STII); Tsai et
al., arXiv 2203.00870, theorem 8 (FSII).
"""

from __future__ import annotations

import functools
import itertools
from math import comb, exp, lgamma

import numpy as np

from jaxplain._quadrature import gauss_legendre


def _beta(index: str, order: int) -> tuple[int, int]:
    """The parameters of the index's measure, a Beta distribution."""
    return {"SII": (1, 1), "STII": (1, order), "FSII": (order, order)}[index]


def weights(index: str, players: int, order: int) -> np.ndarray:
    """w_s for the sizes s = 0 … n - |T| of coalitions outside T."""
    rest = players - order
    if index == "BII":
        return np.full(rest + 1, 0.5**rest)
    a, b = _beta(index, order)
    sizes = range(rest + 1)
    return np.array([exp(_log_beta(a + s, b + rest - s) - _log_beta(a, b)) for s in sizes])


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def coefficients(index: str, players: int, order: int) -> np.ndarray:
    """The weight of v(R) in I(T), by |R ∩ T| and |R|: (order + 1, players + 1)."""
    w = weights(index, players, order)
    table = np.zeros((order + 1, players + 1))
    for common in range(order + 1):
        sizes = np.arange(common, common + len(w))
        table[common, sizes] = (-1) ** (order - common) * w
    return table


@functools.lru_cache(maxsize=64)
def measure(index: str, players: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1] that integrate polynomials of V's degree against μ exactly."""
    if index == "BII":
        return np.array([0.5]), np.array([1.0])
    a, b = _beta(index, order)
    nodes, weights = gauss_legendre(players // 2 + order + 1)
    density = nodes ** (a - 1) * (1 - nodes) ** (b - 1) / exp(_log_beta(a, b))
    return nodes, weights * density


@functools.lru_cache(maxsize=64)
def sets(players: int, order: int) -> np.ndarray:
    """All sets of `order` players, (sets, order)."""
    count = comb(players, order)
    entries = itertools.chain.from_iterable(itertools.combinations(range(players), order))
    return np.fromiter(entries, int, count * order).reshape(count, order)
