"""Quadrature on [0, 1]: nodes, and weights that sum to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rule = tuple[np.ndarray, np.ndarray]  # nodes, weights


def gauss_legendre(nodes: int) -> Rule:
    """Exact for polynomials up to degree 2·nodes - 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / weights.sum()


def nodes_and_weights(name: str, steps: int) -> Rule:
    """A rule by its name."""
    least = 2 if name == "trapezoid" else 1
    if name not in _RULES:
        raise ValueError(f"unknown quadrature {name!r}: one of {sorted(_RULES)}")
    if steps < least:
        raise ValueError(f"{name} needs at least {least} step(s), and steps is {steps}")
    nodes, weights = _RULES[name](steps)
    return nodes, weights / weights.sum()


def _trapezoid(n: int) -> Rule:
    weights = np.ones(n)
    weights[[0, -1]] = 0.5
    return np.linspace(0, 1, n), weights


_RULES: dict[str, Callable[[int], Rule]] = {
    "gauss-legendre": gauss_legendre,
    "midpoint": lambda n: ((np.arange(n) + 0.5) / n, np.ones(n)),
    "left": lambda n: (np.arange(n) / n, np.ones(n)),
    "right": lambda n: ((np.arange(n) + 1) / n, np.ones(n)),
    "trapezoid": _trapezoid,
}
