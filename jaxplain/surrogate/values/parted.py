"""Lifted values whose Δ is carried in two parts, each with a multiplier of its own.

What is differentiated are the parts; value and reference are computed beside them by JAX's own
operations.  `total` is the same value as a `Pair`, and `from_pair` the way back, so that every
rule on pairs serves here too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.divided_difference import difference
from jaxplain.surrogate.values.lifted import Lifted, Outputs, settled, value
from jaxplain.surrogate.values.pair import Pair, Paired, is_inexact, is_real
from jaxplain.surrogate.values.region import Made, Region, Waiting, made

Parts = tuple[Any, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Parted(Paired):
    """A value, its reference, and two parts of their difference; each kind says which.

    `fed` is the primitive of the last learned map, seen through shapes and scalings; `note` is
    that of a `Pair`.
    """

    detached = True

    value: Any
    reference: Any
    both: Parts
    fed: str | None = None
    note: str = ""

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_dataclass(
            cls, data_fields=["value", "reference", "both"], meta_fields=["fed", "note"]
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
    def scaled(parts: Parts, factor: Any, number: float | None = None) -> Parts:
        """The parts of factor · Δ; the factor is everywhere of the sign of the number, if any."""
        raise NotImplementedError

    @staticmethod
    def subtracted(parts: Parts) -> Parts:
        """What is subtracted from another value's parts, one from the first, one from the second,
        where Δ is subtracted from its Δ."""
        raise NotImplementedError

    @classmethod
    def parts(cls, value: Any, reference: Any) -> Parts:
        return cls.divide(difference(value, reference))

    @classmethod
    def plain(cls, lifted: Any) -> Parted:
        return cls(lifted.value, lifted.reference, lifted.both)

    @classmethod
    def discrete(cls, value: Any, reference: Any) -> Parted:
        return cls(value, reference, (value, value))

    @classmethod
    def lift(cls, value: Any, reference: Any, parts: Any = None) -> Parted:
        return cls(value, reference, cls.parts(value, reference) if parts is None else parts)

    @classmethod
    def merge(cls, multipliers: Any, value: Any, reference: Any) -> Any:
        return cls.weigh(multipliers, difference(value, reference))

    @functools.cached_property
    def total(self) -> Pair:
        """The value as a pair: what arrives at it goes to its difference."""
        return Pair(self._join(self.both, self.value), self.reference, self.note)

    @property
    def output(self) -> Any:
        return self.total.value

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
        if not is_inexact(pair):
            return cls.discrete(value, pair.reference)
        surrogate = attach(
            lambda active, passive: cls.divide(difference(*passive)),
            lambda active, passive: difference(*passive),
            lambda delta, cotangents: cls.weigh(cotangents, delta),
        )
        parts = surrogate(pair.value, (value, pair.reference))
        return cls(value, pair.reference, parts, note=pair.note)

    @classmethod
    def adapt(cls, rule: Callable[..., Outputs], of: type[Lifted]) -> Callable[..., Outputs]:
        return functools.partial(on_totals, cls, rule) if of is Pair else super().adapt(rule, of)

    @classmethod
    def made(cls, equation: Any, operands: Sequence[Any], number: int, output: Any) -> Any:
        if isinstance(output, Parted) and not is_inexact(output):
            known: Any = Pair(output.value, output.reference)
        elif isinstance(output, Paired):
            return output
        else:
            known = output
        paired = made(equation, list(map(as_pair, operands)), number, known)
        return WaitingParts(cls, paired, value(output)) if isinstance(paired, Made) else output


@dataclasses.dataclass(frozen=True, eq=False)
class WaitingParts(Waiting):
    """A value that the rules on pairs put off (a product, a decision), divided when asked for."""

    lifted: type[Parted]
    paired: Any
    value: Any

    @property
    def reference(self) -> Any:
        return self.paired.reference

    @property
    def roots(self) -> tuple[Any, ...]:
        return self.paired.roots

    @property
    def frozen(self) -> bool:
        return self.paired.frozen

    @property
    def underivable(self) -> bool:
        return self.paired.underivable

    @property
    def linear(self) -> bool:
        return False

    @functools.cached_property
    def _settled(self) -> Any:
        return self.lifted.from_pair(self.paired.settle(), self.value)

    def settle(self) -> Any:
        return self._settled


def on_totals(
    lifted: type[Parted], rule: Callable[..., Outputs], equation: Any, *operands: Any
) -> list[Any]:
    """A rule on pairs, for the totals of values in parts; its outputs are divided again."""
    outputs = rule(equation, *map(as_pair, operands))
    values = equation.bind(*map(value, operands))
    return [divided(lifted, output, v) for output, v in zip(outputs, values, strict=True)]


def divided(lifted: type[Parted], output: Any, value: Any) -> Any:
    """A rule's output on pairs as one in parts; what waits goes on waiting."""
    if isinstance(output, Waiting):
        return WaitingParts(lifted, output, value)
    return lifted.from_pair(output, value)


def as_pair(operand: Any) -> Any:
    """The total of a value in parts; what waits goes on waiting where nothing flows back."""
    if isinstance(operand, WaitingParts):
        return operand.paired
    if isinstance(operand, Region) and (operand.frozen or not is_real(operand)):
        # A predicate: the same expression over the roots' totals, still a function of them.
        return _rebuilt(operand)
    operand = settled(operand)
    if not isinstance(operand, Parted):
        return operand
    return operand.total if is_inexact(operand) else Pair(operand.value, operand.reference)


def _rebuilt(region: Region) -> Region:
    inner = tuple(_rebuilt(o) if isinstance(o, Region) else as_pair(o) for o in region.operands)
    settle_by = region.on_pairs or region.settle_by
    return dataclasses.replace(region, operands=inner, settle_by=settle_by)
