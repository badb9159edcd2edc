"""RevealCancel's lifted value: the parts Δ⁺ and Δ⁻, told apart by their sign."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.values.parted import Parted, Parts


class Split(Parted):
    """A value and its reference with value - reference = Δ⁺ + Δ⁻."""

    @staticmethod
    def divide(delta: Any) -> Parts:
        """All of Δ in the part of its sign; in the first where it has none."""
        if jnp.issubdtype(delta.dtype, jnp.complexfloating):
            return delta, jnp.zeros_like(delta)
        return jnp.maximum(delta, 0), jnp.minimum(delta, 0)

    @staticmethod
    def weigh(multipliers: Parts, delta: Any) -> Any:
        """m⁺ where Δ > 0, m⁻ where Δ < 0, ½(m⁺ + m⁻) where Δ = 0; m⁺ where Δ has no sign."""
        of_positive, of_negative = multipliers
        if jnp.issubdtype(jnp.result_type(delta), jnp.complexfloating):
            return of_positive
        share = jnp.where(delta > 0, 1, jnp.where(delta < 0, 0, 0.5)).astype(of_positive.dtype)
        return share * of_positive + (1 - share) * of_negative

    @staticmethod
    def whole(cotangent: Any) -> Parts:
        return cotangent, cotangent

    @staticmethod
    def scaled(parts: Parts, factor: Any, number: float | None = None) -> Parts:
        """The parts are kept, and exchanged where the factor is negative."""
        positive, negative = (factor * part for part in parts)
        if number is not None:
            return (negative, positive) if number < 0 else (positive, negative)
        return jnp.where(factor < 0, negative, positive), jnp.where(factor < 0, positive, negative)

    @staticmethod
    def subtracted(parts: Parts) -> Parts:
        """What is subtracted changes sides."""
        positive, negative = parts
        return negative, positive
