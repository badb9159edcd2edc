"""A rule table whose rules report: what each was given, and what its multipliers gave back.

Every operand that a rule reads, and every output that it gives, is watched: the identity, whose
backward pass also sends what arrives, times the value's change, to the row's probe. One backward
pass then fills all rows; steps of a loop add up. A region reports when it is settled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain._numerics.trees import wide
from jaxplain.methods.audit.choices import Choice, chosen
from jaxplain.surrogate import compat, walk
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.divided_difference import difference
from jaxplain.surrogate.patterns import Pattern
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.products import Product
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled
from jaxplain.surrogate.values.pair import Pair, Paired, actives, is_inexact, is_real
from jaxplain.surrogate.values.parted import Parted
from jaxplain.surrogate.values.region import Expression, Made, Region

Key = tuple[Any, ...]  # of an equation and the calls around it

class Probe(NamedTuple):
    """What a row receives, in the backward pass; zeros before."""

    sent: Any  # Σ m Δ and Σ|m Δ| of the operands
    arrived: Any  # both of the outputs, how many times anything arrived, a choice's three numbers


def _silent() -> Probe:
    return Probe(jnp.zeros(2), jnp.zeros(6))


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a row when the program is traced."""

    line: str
    path: str
    primitive: str
    rule: str
    equations: tuple[str, ...]
    says: str  # the choice in words, with a place for each of its numbers


class Watch:
    """One reading of the program: the rows that it met, and the probes that they send to."""

    def __init__(self, program: Any, probes: dict[Key, Probe]):
        self._known = {id(equation) for _, equation in walk.equations(program)}
        self._probes = probes
        self.entries: dict[Key, Entry] = {}

    def probes(self) -> dict[Key, Probe]:
        """Zeros for every row."""
        return {key: _silent() for key in self.entries}

    def table(self, table: RuleTable) -> RuleTable:
        """The same table, whose rules report."""

        def reporting(rule: Rule | None, waiting: bool) -> Any:
            return rule and self._reporting(rule, waiting)

        rules = {k: reporting(r, table.taking(k).waiting) for k, r in table.rules.items()}
        fallback = reporting(table.fallback, False)
        rescue = reporting(table.rescue, True)
        return dataclasses.replace(table, rules=rules, fallback=fallback, rescue=rescue)

    def key(self, equation: Equation) -> Key:
        """The same in every reading; what was made on the way is known by its primitive."""
        return tuple(id(e) if id(e) in self._known else e.primitive.name for e in equation.origin)

    def _reporting(self, rule: Rule, waiting: bool) -> Rule:
        def reports(equation: Equation, *operands: Any) -> Sequence[Any]:
            if waiting:  # what it puts off is read later, from where its values begin
                outputs = rule(equation, *operands)
                if any(isinstance(output, Lifted) and output.waiting for output in outputs):
                    return [self._later(equation, output) for output in outputs]
            return self._now(equation, rule, operands)

        reports.__name__, reports.__qualname__ = _name(rule), _name(rule)
        return reports

    def _now(self, equation: Equation, rule: Rule, operands: Sequence[Any]) -> list[Any]:
        key = self.key(equation)
        read = self.reader(key)
        operands = list(map(read, operands))
        outputs = rule(equation, *operands)
        name = _used(equation, rule, operands)
        choice = chosen(name, equation, rule, operands)
        entry = _entry(equation, name, (compat.inner_name(equation),), choice)
        # A sum of a product is one of its value now, hence a region that could wait: not again.
        outputs = [settled(o) if _is_number(o) else self._later(equation, o) for o in outputs]
        return self.given(key, entry, choice, outputs)

    def _later(self, equation: Equation, output: Any) -> Any:
        """A value that waits, which reports when it is asked for."""
        if isinstance(output, Region):
            inner = output.settle_by
            inner = inner.settle_by if isinstance(inner, _Settling) else inner
            return dataclasses.replace(output, settle_by=_Settling(self, equation, inner))
        if isinstance(output, Product):
            return _WatchedProduct(output.equation, output.factors, self, equation)
        return output

    def reader(self, key: Key) -> Callable[[Any], Any]:
        """Operand → the same, whose multipliers the row hears; one object stays one."""
        known: dict[int, Any] = {}

        def read(operand: Any) -> Any:
            if not isinstance(operand, Paired):
                return operand
            if id(operand) not in known:
                known[id(operand)] = self._begun(key, operand, read)
            return known[id(operand)]

        return read

    def _begun(self, key: Key, operand: Any, read: Callable[[Any], Any]) -> Any:
        """What waits without flowing (a predicate) goes on waiting, from watched values."""
        if isinstance(operand, Made) or (
            isinstance(operand, Region) and (operand.frozen or not is_real(operand))
        ):
            return dataclasses.replace(operand, operands=tuple(map(read, operand.operands)))
        operand = settled(operand)
        if not _flows(operand):
            return operand
        return _watched([operand], self._probe(key).sent, _sent, ())[0]

    def given(
        self, key: Key, entry: Entry, choice: Choice | None, outputs: Sequence[Any]
    ) -> list[Any]:
        """A row's outputs, which hear what arrives at them."""
        active = [output for output in outputs if _flows(output)]
        if not active:
            return list(outputs)
        self.entries[key] = entry
        numbers = (0.0, 0.0, 0.0) if choice is None else choice.numbers
        watched = iter(_watched(active, self._probe(key).arrived, _arrived, (1.0, *numbers)))
        return [next(watched) if _flows(output) else output for output in outputs]

    def _probe(self, key: Key) -> Probe:
        return self._probes[key] if key in self._probes else _silent()


@dataclasses.dataclass(frozen=True)
class _Settling:
    """Settles a region as it would be, and reports."""

    watch: Watch
    equation: Equation
    settle_by: Callable[[Region], Any]

    def __call__(self, region: Region) -> Any:
        key = self.watch.key(self.equation)
        region = _rooted(region, self.watch.reader(key))
        value = self.settle_by(region)
        choice = chosen("region", region.equation, self.settle_by, [region])
        names = tuple(compat.inner_name(node.equation) for node in Expression(region).nodes)
        entry = _entry(self.equation, "region", names, choice)
        return self.watch.given(key, entry, choice, [value])[0]


def _rooted(region: Region, read: Callable[[Any], Any]) -> Region:
    """The same expression of other roots."""
    known: dict[int, Any] = {}

    def visit(operand: Any) -> Any:
        if not isinstance(operand, Region):
            return read(operand)
        if id(operand) not in known:
            inner = tuple(map(visit, operand.operands))
            known[id(operand)] = dataclasses.replace(operand, operands=inner)
        return known[id(operand)]

    return visit(region)


@dataclasses.dataclass(frozen=True, eq=False)
class _WatchedProduct(Product):
    """A product that reports when it is computed."""

    watch: Watch
    last: Equation

    @functools.cached_property
    def _settled(self) -> Any:
        key = self.watch.key(self.last)
        factors = tuple(map(self.watch.reader(key), self.factors))
        value = Product(self.equation, factors).settle()
        choice = chosen("product", self.equation, None, factors)
        entry = _entry(self.last, "product", (compat.inner_name(self.last),), choice)
        return self.watch.given(key, entry, choice, [value])[0]


def _entry(
    equation: Equation, rule: str, equations: tuple[str, ...], choice: Choice | None
) -> Entry:
    says = "" if choice is None else choice.says
    name = compat.inner_name(equation)
    return Entry(equation.line, equation.path, name, rule, equations, says)


def _name(rule: Any) -> str:
    return getattr(rule, "__name__", None) or getattr(rule, "func", type(rule)).__name__


_RENAMED = {"reshaped": "linear", "counted": "linear", "counts": "linear"}


def _used(equation: Equation, rule: Rule, operands: Sequence[Any]) -> str:
    """The name of the mathematics that an equation got."""
    name = _name(rule)
    if name == "bilinear" and len(actives(operands)) < 2:
        return "linear"
    if name == "rule":  # made by a function, or one for each pattern
        if isinstance(equation.primitive, Pattern):
            return equation.primitive.name
        return getattr(rule, "__qualname__", name).partition(".")[0]
    if name == "elementwise":  # of several roots, where it did not wait
        return {"div": "quotient", "mul": "product"}.get(equation.primitive.name, "linear")
    return _RENAMED.get(name, name)


# Taps.


def _is_number(value: Any) -> bool:
    return isinstance(value, Paired) and bool(is_inexact(value))


def _flows(value: Any) -> bool:
    return isinstance(value, Pair | Parted) and bool(is_inexact(value))


def _watched(values: Sequence[Any], probe: Array, receive: Any, passive: Any) -> list[Any]:
    """The values themselves, with `receive(cotangents, changes, passive)` sent to the probe."""
    axes = [compat.varying(array) for value in values for array in _arrays(value)]
    probe = compat.vary(probe, frozenset().union(*axes))
    watch = attach(
        lambda active, _: active[0],
        lambda _, passive: passive,
        lambda passive, cotangents: (cotangents, receive(cotangents, *passive)),
    )
    arrays = [list(_arrays(value)) for value in values]
    changes = [list(map(jax.lax.stop_gradient, _changes(value))) for value in values]
    outputs = watch((arrays, probe), (changes, passive))
    return list(map(_with, values, outputs))


def _arrays(value: Any) -> Sequence[Any]:
    return value.both if isinstance(value, Parted) else (value.value,)


def _changes(value: Any) -> Sequence[Any]:
    return value.both if isinstance(value, Parted) else (difference(value.value, value.reference),)


def _with(value: Any, arrays: Sequence[Any]) -> Any:
    if isinstance(value, Parted):
        return dataclasses.replace(value, both=tuple(arrays))
    return dataclasses.replace(value, value=arrays[0])


def _sent(cotangents: Any, changes: Any, _: Any) -> Array:
    return jnp.stack(_sums(cotangents, changes))


def _arrived(cotangents: Any, changes: Any, numbers: Sequence[Any]) -> Array:
    return jnp.stack([*_sums(cotangents, changes), *map(_number, numbers)])


def _number(found: Any) -> Array:
    return jnp.asarray(found).astype(float)


def _sums(multipliers: Any, changes: Any) -> list[Array]:
    """Σ m Δ and Σ|m Δ| over all elements, where m Δ is that of all parts of a value together."""
    products = [
        sum(_product(m, d) for m, d in zip(own, own_changes, strict=True))
        for own, own_changes in zip(multipliers, changes, strict=True)
    ]
    total: Any = sum(jnp.sum(product) for product in products)
    size: Any = sum(jnp.sum(jnp.abs(product)) for product in products)
    return [_number(total), _number(size)]


def _product(multiplier: Any, change: Any) -> Any:
    product = jnp.real(wide(multiplier) * wide(change))
    return jnp.where(multiplier == 0, 0, product)  # of an infinity that nobody asks for
