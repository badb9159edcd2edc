"""Lifted values whose Δ is carried in two parts, each with a multiplier of its own.

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
from jaxplain.surrogate.values.pair import Pair, Paired

Parts = tuple[Any, Any]


class Parted(Paired):
    """A value, its reference, and two parts of their difference; each kind says which."""

    detached = True

    def __init__(
        self,
        value: Any,
        reference: Any,
        parts: Parts,
        fed: str | None = None,
        *,
        reduced: bool = False,
        scale: bool = False,
    ):
        self.value = value
        self.reference = reference
        self.both = parts
        self.fed = fed  # the primitive of the last learned map, seen through shapes and scalings
        self.roots = (self,)
        self.linear = True
        self.reduced = reduced
        self.scale = scale

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(
            cls,
            lambda parted: ((parted.value, parted.reference, parted.both), None),
            lambda _, leaves: cls(*leaves),
        )

    @staticmethod
    def divide(delta: Any) -> Parts:
        """The parts of a difference about which nothing else is known."""
        raise NotImplementedError

    @staticmethod
    def weigh(multipliers: Parts, delta: Any) -> Any:
        """The multiplier of such a difference from those of its parts."""
        raise NotImplementedError

    @staticmethod
    def scaled(parts: Parts, factor: Any) -> Parts:
        """The parts of factor · Δ."""
        raise NotImplementedError

    @staticmethod
    def subtracted(parts: Parts) -> Parts:
        """What is subtracted from another value's parts, one from the first, one from the second,
        where Δ is subtracted from its Δ."""
        raise NotImplementedError

    @classmethod
    def parts(cls, value: Any, reference: Any) -> Parts:
        return cls.divide(value - reference)

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Parted:
        return cls(value, reference, cls.parts(value, reference) if parts is None else parts)

    @classmethod
    def merge(cls, multipliers: Any, value: Any, reference: Any) -> Any:
        return cls.weigh(multipliers, value - reference)

    @functools.cached_property
    def total(self) -> Pair:
        """The value as a pair: what arrives at it goes to its difference."""
        value = self._join(self.both, self.value)
        return Pair(value, self.reference, reduced=self.reduced, scale=self.scale)

    @staticmethod
    def whole(cotangent: Any) -> Parts:
        """The parts' multipliers where their difference as a whole has this one."""
        raise NotImplementedError

    @property
    def _join(self) -> Any:
        return attach(
            lambda parts, value: value,
            lambda parts, value: None,
            lambda _, cotangent: self.whole(cotangent),
        )

    @classmethod
    def from_pair(cls, pair: Any, value: Any) -> Any:
        """A settled pair as a value in parts."""
        if not isinstance(pair, Pair):
            return pair
        if not jnp.issubdtype(pair.dtype, jnp.inexact):
            return cls(value, pair.reference, (value, value))
        surrogate = attach(
            lambda active, passive: cls.divide(passive[0] - passive[1]),
            lambda active, passive: passive[0] - passive[1],
            lambda delta, cotangents: cls.weigh(cotangents, delta),
        )
        parts = surrogate(pair.value, (value, pair.reference))
        return cls(value, pair.reference, parts, reduced=pair.reduced, scale=pair.scale)
