"""Lifted values: what an array that depends on x carries through the surrogate.

The walker knows only this base class: whether a value is lifted, how to make one, and how to
settle one whose computation was put off.  Each table names the kind that its rules work on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax.numpy as jnp

Outputs = Sequence[Any]


class Lifted:
    """An array that depends on x, with what a rule needs to know of it.

    A kind whose `value` is not computed yet is waiting: `settle` computes it.
    """

    needs_reference: ClassVar[bool] = False
    # Whether what is differentiated is not the value itself but parts of it (`parts`, `merge`).
    detached: ClassVar[bool] = False
    waiting: ClassVar[bool] = False
    value: Any

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Self:
        """An input x and its reference (and its parts, where those are differentiated)."""
        raise NotImplementedError(f"{cls.__name__} does not say how an input is lifted")

    @classmethod
    def parts(cls, value: Any, reference: Any) -> Any:
        """What is differentiated of an input, if not the input itself."""
        raise NotImplementedError(f"{cls.__name__} is differentiated as a whole")

    @classmethod
    def merge(cls, multipliers: Any, value: Any, reference: Any) -> Any:
        """The input's multiplier from those of its parts."""
        raise NotImplementedError(f"{cls.__name__} is differentiated as a whole")

    @classmethod
    def constant(cls, value: Any, like: Lifted | None = None) -> Self:
        """A value that does not depend on x, among values that do (a scan's initial carry).

        `like` is one of these.
        """
        return cls.lift(value, value)

    @classmethod
    def rows(cls, lifted: Self) -> Self:
        """The value with the axis in front that a scan takes its steps' values from."""
        return lifted

    @classmethod
    def stacked(cls, lifted: Self) -> Self:
        """What a scan's steps gave, stacked in front, as a value."""
        return lifted

    @classmethod
    def adapt(cls, rule: Callable[..., Outputs], of: type[Lifted]) -> Callable[..., Outputs]:
        """A rule on another kind of value as one on this kind."""
        if of is cls:
            return rule
        raise TypeError(
            f"a rule on {of.__name__} can't serve a table whose values are {cls.__name__}"
        )

    @classmethod
    def plain(cls, lifted: Self) -> Self:
        """The value without what is not in its arrays, as a loop's carry has it."""
        return lifted

    @classmethod
    def made(cls, equation: Any, operands: Sequence[Any], number: int, output: Any) -> Any:
        """An equation's output, which may remember what it was made of."""
        return output

    @property
    def begins(self) -> bool:
        """Whether what meets it first has a rule of its own, so that no loop may carry it on."""
        return False

    @property
    def dtype(self) -> Any:
        """The array's type."""
        return jnp.result_type(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return jnp.shape(self.value)

    @property
    def at_reference(self) -> Any:
        """The array where x is the reference; itself for kinds that know none."""
        return self.value

    @property
    def output(self) -> Any:
        """What the surrogate gives back, differentiable in what was lifted."""
        return self.value

    def settle(self) -> Any:
        """Itself with its arrays computed; a plain array if it turns out not to depend on x."""
        return self


def settled(operand: Any) -> Any:
    """A lifted operand settled; anything else as it is."""
    return operand.settle() if isinstance(operand, Lifted) else operand


def value(operand: Any) -> Any:
    """The operand's own value, lifted or not."""
    return operand.value if isinstance(operand, Lifted) else operand
