"""Rule tables: which rule an equation gets, and on what kind of lifted value."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from jax.extend.core import Primitive

from jaxplain.surrogate import compat, known_calls, patterns, primitives
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.known_calls import KnownCall
from jaxplain.surrogate.patterns import Pattern
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted
from jaxplain.surrogate.values.pair import Pair, Paired


class Rule(Protocol):
    """What an equation becomes on lifted values.

    An operand is a plain array where it does not depend on x, and otherwise a lifted value with its
    arrays computed: on the tables of DeepLIFT a `Pair` of `value` and `reference`.  Outputs are of
    the same two kinds, as many as the equation has, with its shapes and dtypes; that is checked
    after each call.  `equation.bind(*arrays)` is the equation itself, `equation.function` its only
    output, `equation.params` its parameters.  A rule on pairs owes that the multipliers that it
    sends back, times the differences of its operands, sum to the difference of its outputs.
    """

    def __call__(self, equation: Equation, *operands: Any) -> Sequence[Any]:
        """The equation's outputs at these operands."""


@dataclasses.dataclass(frozen=True)
class Takes:
    """The operands that a rule is written for: of which kind, and whether they may wait."""

    of: type[Lifted]
    waiting: bool = False


Keeps = Callable[[Any, Sequence[bool]], bool]


def _looks_into_all(call: Any, active: Sequence[bool]) -> bool:
    return False


@dataclasses.dataclass(frozen=True, eq=False)
class RuleTable:
    r"""An immutable map from primitives (and patterns) to rules.

    `jaxplain.rules` holds the ready-made tables and rules, and what a rule of one's own is made
    of.  A rule is written for one kind of lifted value and serves every table that can adapt it: a
    rule on pairs works on the tables of RevealCancel and central limit, too.

    Args:
      lifted: the kind of the lifted values.
      rules: `{primitive: rule}`.
      fallback: the rule of every primitive without one of its own; None refuses them with
        `UnsupportedPrimitive`.
      rescue: the rule of an equation whose own rule refuses it; None lets the refusal stand.
      takes: `{primitive: Takes}` of the rules that take other operands than computed pairs (or the
        table's own kind, where that has no reference).
      keeps: which calls with a derivative of their own (`custom_jvp`, `custom_vjp`) stay whole,
        `(call, which operands depend on x) -> bool`; others are looked into.
      remembers: whether integers and frozen values remember what made them, so that what they
        decide is a function of it.

    Example:
      >>> import jax, jaxplain as jxp
      >>> table = jxp.rules.rescale().register(jax.lax.erf_inv_p, jxp.rules.path_integral)
      >>> float(jxp.deeplift(jax.lax.erf_inv, 0.0, rules=table)(0.5)) > 0.47
      True
    """

    lifted: type[Lifted]
    rules: Mapping[Any, Rule] = dataclasses.field(default_factory=dict)
    fallback: Rule | None = None
    rescue: Rule | None = None
    takes: Mapping[Any, Takes] = dataclasses.field(default_factory=dict)
    keeps: Keeps = _looks_into_all
    remembers: bool = True

    def __post_init__(self) -> None:
        for name in ("rules", "takes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def register(
        self,
        keys: Any,
        rule: Rule,
        *,
        of: type[Lifted] | None = None,
        waiting: bool = False,
    ) -> RuleTable:
        """A new table in which these primitives (one, or an iterable of them) have this rule.

        Args:
          keys: a primitive, or several.
          rule: called as `rule(equation, *operands)`; see `Rule`.
          of: the kind of lifted value that the rule is written for; by default pairs, or the
            table's own kind where that has no reference.
          waiting: whether the rule takes values that wait (elementwise regions), too; others get
            them computed.

        Raises:
          TypeError: a key is no primitive, the rule can't be called, or the table can't adapt it.
        """
        several = isinstance(keys, Iterable) and not isinstance(keys, str)
        found = tuple(keys) if several else (keys,)
        for key in found:
            if not isinstance(key, Primitive | Pattern | KnownCall) and not _is_hidden(key):
                raise TypeError(f"rules are registered for primitives, and {key!r} is none")
        if not callable(rule):
            raise TypeError(f"a rule is called as rule(equation, *operands), and {rule!r} can't be")
        takes = Takes(of or self._kind, waiting)
        self.lifted.adapt(rule, takes.of)  # or it says why not
        return dataclasses.replace(
            self,
            rules={**self.rules, **dict.fromkeys(found, rule)},
            takes={**self.takes, **dict.fromkeys(found, takes)},
        )

    @property
    def _kind(self) -> type[Lifted]:
        pairs = issubclass(self.lifted, Paired) and self.lifted.needs_reference
        return Pair if pairs else self.lifted

    def __or__(self, other: RuleTable) -> RuleTable:
        """The union; where both have a rule, `other`'s."""
        if not isinstance(other, RuleTable):
            return NotImplemented
        return RuleTable(
            _common(self, other),
            {**self.rules, **other.rules},
            other.fallback or self.fallback,
            other.rescue or self.rescue,
            {**self.takes, **{key: other.taking(key) for key in other.rules}},
            self.keeps if other.keeps is _looks_into_all else other.keeps,
            self.remembers and other.remembers,
        )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that the table has rules for, to be looked for in the program."""
        return tuple(key for key in self.rules if isinstance(key, Pattern))

    def taking(self, key: Any) -> Takes:
        """The operands that the rule of a key is written for."""
        return self.takes.get(key, Takes(self._kind))

    def own_rule(self, equation: Equation) -> Rule:
        """The rule of an equation, or an error that says how to register one."""
        found = self.rules.get(primitives.key(equation.primitive), self.fallback)
        if found is None:
            name, called = compat.inner_name(equation), compat.call_name(equation)
            kernel = (
                f"a function of JAX's operations that computes the same in its place, "
                f"`jaxplain.substitute(f, {{{called!r}: function}})` (`substitute=` of the bridges "
                "to model libraries); or give "
                if called is not None
                else ""
            )
            raise UnsupportedPrimitive(
                f"no rule for the primitive '{name}', met as {equation} at {equation.line}. "
                f"Give {kernel}the function around it a derivative by `jax.custom_vjp`, which is "
                "then integrated, or register a rule of your own on the table you explain with: "
                f"`rules=jaxplain.rules.rescale().register({name}_p, my_rule)`."
            )
        return found

    def rule(self, equation: Equation) -> Rule:
        """The rule of an equation on the table's own kind of value."""
        rule = self.own_rule(equation)
        return self.lifted.adapt(rule, self.taking(primitives.key(equation.primitive)).of)

    def __reduce__(self) -> Any:
        # Primitives and patterns are known by identity: pickled by name, they are again after a
        # trip to another process.
        by_name = [
            [(_name(key), item) for key, item in known.items()]
            for known in (self.rules, self.takes)
        ]
        rest = self.fallback, self.rescue, self.keeps, self.remembers
        return _again, (self.lifted, by_name, *rest)


def _common(a: RuleTable, b: RuleTable) -> type[Lifted]:
    """The kind of value that serves the rules of both tables."""
    for kind in (a.lifted, b.lifted):
        with contextlib.suppress(TypeError):
            for table in (a, b):
                for key, rule in table.rules.items():
                    kind.adapt(rule, table.taking(key).of)
            return kind
    raise TypeError(
        f"these tables work on different lifted values, {a.lifted.__name__} and "
        f"{b.lifted.__name__}, and cannot be joined"
    )


def _name(key: Any) -> Any:
    """A key that can be pickled: (what it is, its name, which of that name)."""
    if isinstance(key, Pattern | KnownCall):
        return type(key).__name__, key.name, 0
    if isinstance(key, Primitive):
        known = compat.resolve([key.name])
        if key in known:
            return "Primitive", key.name, known.index(key)
        return "foreign", *compat.home(key)
    return "hidden", key, 0


def _again(
    lifted: type[Lifted], by_name: Any, fallback: Any, rescue: Any, keeps: Keeps, remembers: bool
) -> RuleTable:
    rules, takes = ({_key(*name): item for name, item in named} for named in by_name)
    return RuleTable(lifted, rules, fallback, rescue, takes, keeps, remembers)


def _is_hidden(key: Any) -> bool:
    """Whether a primitive that JAX does not list is meant by its name."""
    return isinstance(key, str) and key in primitives.FACTS and not compat.resolve([key])


def _key(kind: str, name: str, number: Any) -> Any:
    if kind == "Primitive":
        return compat.resolve([name])[number]
    if kind == "foreign":
        return getattr(importlib.import_module(name), number)
    if kind == "hidden":
        return name
    module = patterns if kind == "Pattern" else known_calls
    return next(v for v in vars(module).values() if getattr(v, "name", None) == name)
