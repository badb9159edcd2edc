"""Lifted values: what an array that depends on x carries through the surrogate.

The walker knows only this base class: whether a value is lifted, how to make one, and how to
settle one whose computation was put off.  Each method's table names the kind it works on.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import jax


class Lifted:
    """An array that depends on x, with what a rule needs to know of it."""

    needs_reference = False
    # Whether what is differentiated is not the value itself but parts of it (`parts`, `merge`).
    detached = False
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
    def constant(cls, value: Any) -> Self:
        """A value that does not depend on x, among values that do (a scan's initial carry)."""
        return cls.lift(value, value)

    def settle(self) -> Any:
        """Itself with its arrays computed; a plain array if it turns out not to depend on x."""
        return self


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
class Single(Lifted):
    """The value alone: all that a rule without a reference needs."""

    def __init__(self, value: Any):
        self.value = value

    @classmethod
    def lift(cls, value: Any, reference: Any = None, parts: Any = None) -> Single:
        del reference, parts
        return cls(value)

    @classmethod
    def parts(cls, value: Any, reference: Any) -> Any:
        """What is differentiated of an input, if not the input itself."""
        raise NotImplementedError(f"{cls.__name__} is differentiated as a whole")

    @classmethod
    def merge(cls, multipliers: Any, value: Any, reference: Any) -> Any:
        """The input's multiplier from those of its parts."""
        raise NotImplementedError(f"{cls.__name__} is differentiated as a whole")

    @classmethod
    def constant(cls, value: Any) -> Single:
        return cls(value)


def settled(operand: Any) -> Any:
    """A lifted operand settled; anything else as it is."""
    return operand.settle() if isinstance(operand, Lifted) else operand


def value(operand: Any) -> Any:
    """The operand's own value, lifted or not."""
    return operand.value if isinstance(operand, Lifted) else operand
