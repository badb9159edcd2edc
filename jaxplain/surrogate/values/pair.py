"""DeepLIFT's lifted value: an array and its reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.values.lifted import Lifted


class Paired(Lifted):
    """A value with a reference, computed or waiting.

    The reference half never touches the value, so that under `vmap` over examples with one
    reference it is computed once.
    """

    needs_reference = True
    reference: Any

    @property
    def note(self) -> str:
        """What it is made of; see `Pair`."""
        return ""

    @property
    def repeated(self) -> tuple[int, ...]:
        """The axes along which its only root is the same; see `Pair`."""
        return ()

    @property
    def roots(self) -> tuple[Any, ...]:
        """The computed values that it is an elementwise function of."""
        return (self,)

    @property
    def frozen(self) -> bool:
        """Whether it is constant to differentiation."""
        return False

    @property
    def underivable(self) -> bool:
        """Whether it is made of real numbers that JAX can't differentiate."""
        return False

    @property
    def linear(self) -> bool:
        """Whether it is linear in its roots."""
        return True

    @classmethod
    def discrete(cls, value: Any, reference: Any) -> Paired:
        """An integer or boolean of this kind, which nothing flows back from."""
        return Pair(value, reference)

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.reference)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.reference)

    @property
    def at_reference(self) -> Any:
        return self.reference


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "reference"],
    meta_fields=["note", "repeated"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Pair(Paired):
    """(value, reference), both computed; the root of what follows.

    `note` says that it is made of sums over elements ("sum"), or divides by them ("scale"). It
    tells the compiler what few numbers many read, and `rescale(norm_theta=)` what a norm's scale
    is; no number depends on it otherwise, for it may be lost in a loop.  `repeated` are axes along
    which all elements are one: what is told by the sizes of numbers is told once for all of them.
    """

    value: Any
    reference: Any
    note: str = ""
    repeated: tuple[int, ...] = ()

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Pair:
        return cls(value, reference)

    @classmethod
    def made(cls, equation: Any, operands: Sequence[Any], number: int, output: Any) -> Any:
        from jaxplain.surrogate.values.region import made  # which stands on pairs

        return made(equation, operands, number, output)

    @classmethod
    def plain(cls, lifted: Pair) -> Pair:
        return cls(lifted.value, lifted.reference)


def is_real(operand: Any) -> bool:
    """Whether an active operand is made of real numbers."""
    return jnp.issubdtype(operand.dtype, jnp.floating)


def is_inexact(operand: Any) -> bool:
    """Whether an active operand is made of real or complex numbers."""
    return jnp.issubdtype(operand.dtype, jnp.inexact)


def reference(operand: Any) -> Any:
    """The operand's reference; a constant is its own."""
    return operand.reference if isinstance(operand, Paired) else operand


def actives(operands: Any) -> list[Paired]:
    """The operands that depend on x."""
    return [operand for operand in operands if isinstance(operand, Paired)]


def active_roots(operands: Any) -> tuple[Paired, ...]:
    """The roots of all of them, each once."""
    return unique(root for operand in actives(operands) for root in operand.roots)


def unique(items: Any) -> tuple[Any, ...]:
    """The items without repetition, by identity."""
    return tuple({id(item): item for item in items}.values())
