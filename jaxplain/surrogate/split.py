"""RevealCancel's lifted value: (value, reference, Δ⁺, Δ⁻), the parts told apart by their sign.

What is differentiated are the parts; value and reference are computed beside them by JAX's own
operations.  `total` is the same value as a `Pair`, and `from_pair` the way back, so that every
rule on pairs serves here too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.pair import Pair, Paired


class Split(Paired):
    """A value and its reference with value - reference = positive + negative."""

    detached = True

    def __init__(
        self,
        value: Any,
        reference: Any,
        positive: Any,
        negative: Any,
        fed: str | None = None,
        *,
        reduced: bool = False,
        scale: bool = False,
    ):
        self.value = value
        self.reference = reference
        self.positive = positive
        self.negative = negative
        self.fed = fed  # the primitive of the last learned map, seen through shapes and scalings
        self.roots = (self,)
        self.linear = True
        self.reduced = reduced
        self.scale = scale

    @classmethod
    def parts(cls, value: Any, reference: Any) -> tuple[Any, Any]:
        """(Δ⁺, Δ⁻) of an input: all of Δ in the part of its sign."""
        delta = value - reference
        return jnp.maximum(delta, 0), jnp.minimum(delta, 0)

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Split:
        positive, negative = cls.parts(value, reference) if parts is None else parts
        return cls(value, reference, positive, negative)

    @classmethod
    def merge(cls, multipliers: Any, value: Any, reference: Any) -> Any:
        """The input's multiplier: that of the part which its Δ is in, their mean where Δ = 0."""
        return weigh(multipliers, value - reference)

    @functools.cached_property
    def total(self) -> Pair:
        """The value as a pair: what arrives at it goes to both parts."""
        value = _join((self.positive, self.negative), self.value)
        return Pair(value, self.reference, reduced=self.reduced, scale=self.scale)


jax.tree_util.register_pytree_node(
    Split,
    lambda s: ((s.value, s.reference, s.positive, s.negative), None),
    lambda _, leaves: Split(*leaves),
)


def weigh(multipliers: Any, delta: Any) -> Any:
    """m⁺ where Δ > 0, m⁻ where Δ < 0, ½(m⁺ + m⁻) where Δ = 0; m⁺ where Δ has no sign."""
    of_positive, of_negative = multipliers
    if jnp.issubdtype(jnp.result_type(delta), jnp.complexfloating):
        return of_positive
    share = jnp.where(delta > 0, 1, jnp.where(delta < 0, 0, 0.5)).astype(of_positive.dtype)
    return share * of_positive + (1 - share) * of_negative


_join = attach(
    lambda parts, value: value,
    lambda parts, value: None,
    lambda _, cotangent: (cotangent, cotangent),
)


def from_pair(pair: Any, value: Any) -> Any:
    """A settled pair as a split value: all of Δ in the part of its sign."""
    if not isinstance(pair, Pair):
        return pair
    if not jnp.issubdtype(pair.dtype, jnp.inexact):
        return Split(value, pair.reference, value, value)

    def parts(active: Any, passive: Any) -> Any:
        delta = passive[0] - passive[1]
        if jnp.issubdtype(delta.dtype, jnp.complexfloating):
            return delta, jnp.zeros_like(delta)
        return jnp.maximum(delta, 0), jnp.minimum(delta, 0)

    surrogate = attach(
        parts,
        lambda active, passive: passive[0] - passive[1],
        lambda delta, cotangents: weigh(cotangents, delta),
    )
    positive, negative = surrogate(pair.value, (value, pair.reference))
    return Split(value, pair.reference, positive, negative, reduced=pair.reduced, scale=pair.scale)
