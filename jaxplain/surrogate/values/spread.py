"""The central-limit rule's lifted value: Δ, and the sum of squares of what it is a sum of."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.values.parted import Parted, Parts


class Spread(Parted):
    """A value and its reference with Δ = Σ d_j and V = Σ d_j², the d_j joining one by one."""

    @staticmethod
    def divide(delta: Any) -> Parts:
        """One summand: V = Δ²."""
        return delta, delta * delta

    @staticmethod
    def weigh(multipliers: Parts, delta: Any) -> Any:
        """m + n Δ, for m Δ + n V = (m + n Δ) Δ."""
        of_delta, of_squares = multipliers
        return of_delta + of_squares * delta

    @staticmethod
    def whole(cotangent: Any) -> Parts:
        return cotangent, jnp.zeros_like(cotangent)

    @staticmethod
    def scaled(parts: Parts, factor: Any, number: float | None = None) -> Parts:
        delta, squares = parts
        return factor * delta, factor * factor * squares

    @staticmethod
    def subtracted(parts: Parts) -> Parts:
        """The squares of a difference are added all the same."""
        delta, squares = parts
        return delta, -squares
