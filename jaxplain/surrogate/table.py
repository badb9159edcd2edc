"""Rule tables: which rule an equation gets, and on what kind of lifted value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jax.extend.core import Primitive

from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.patterns import Pattern
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted

Rule = Callable[..., list[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class RuleTable:
    r"""An immutable map from primitives (and patterns) to rules.

    A rule is called as `rule(equation, *operands)` and returns the list of the equation's outputs.
    Operands that depend on x are instances of `lifted`; `equation.bind(*arrays)` is the primitive
    itself.  `jaxplain.rules` holds the ready-made rules: `linear`, `path_integral`, `winner` ...

    Args:
      lifted: the class of the lifted values that the rules work on.
      rules: `{primitive: rule}`.
      fallback: the rule of every primitive without one of its own; None refuses them with
        `UnsupportedPrimitive`.

    Example:
      >>> import jax, jaxplain as jxp
      >>> table = jxp.rules.rescale().register(jax.lax.erf_inv_p, jxp.rules.path_integral)
      >>> float(jxp.deeplift(jax.lax.erf_inv, 0.0, rules=table)(0.5)) > 0.47
      True
    """

    lifted: type[Lifted]
    rules: Mapping[Any, Rule] = dataclasses.field(default_factory=dict)
    fallback: Rule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))

    def register(self, primitives: Any, rule: Rule) -> RuleTable:
        """A new table in which `primitives` (one, or an iterable of them) have this rule."""
        keys = tuple(primitives) if isinstance(primitives, Iterable) else (primitives,)
        for key in keys:
            if not isinstance(key, Primitive | Pattern):
                raise TypeError(f"rules are registered for primitives, and {key!r} is none")
        if not callable(rule):
            raise TypeError(f"a rule is called as rule(equation, *operands), and {rule!r} can't be")
        return dataclasses.replace(self, rules={**self.rules, **dict.fromkeys(keys, rule)})

    def __or__(self, other: RuleTable) -> RuleTable:
        """The union; where both have a rule, `other`'s."""
        if not isinstance(other, RuleTable):
            return NotImplemented
        if self.lifted is not other.lifted:
            raise TypeError(
                f"these tables work on different lifted values, {self.lifted.__name__} and "
                f"{other.lifted.__name__}, and cannot be joined"
            )
        return RuleTable(
            self.lifted, {**self.rules, **other.rules}, other.fallback or self.fallback
        )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that the table has rules for, to be looked for in the program."""
        return tuple(key for key in self.rules if isinstance(key, Pattern))

    def rule(self, equation: Equation) -> Rule:
        """The rule of an equation, or an error that says how to register one."""
        rule = self.rules.get(equation.primitive, self.fallback)
        if rule is None:
            name = equation.primitive.name
            raise UnsupportedPrimitive(
                f"no rule for the primitive '{name}', met as {equation} at {equation.line}. "
                "Register one on the table you explain with, e.g. "
                f"`rules=jaxplain.rules.rescale().register({name}_p, jaxplain.rules.linear)` "
                "if it is linear, or with `jaxplain.rules.path_integral` if JAX can "
                "differentiate it."
            )
        return rule
