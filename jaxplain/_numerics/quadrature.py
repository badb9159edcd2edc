"""Gauss-Legendre quadrature on [0, 1]."""

import numpy as np


def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, and weights that sum to 1: exact for polynomials up to degree 2·nodes - 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / weights.sum()
