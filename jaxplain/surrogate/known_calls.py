"""Functions of JAX's own that are one operation to a rule, whatever their bodies do.

`jnp.hypot` keeps clear of overflow by scaling with powers of two or by the larger of its operands:
steps that leave a reference near zero without digits.  Its value is still what its body computes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxplain.surrogate import compat, primitives, walk


@dataclasses.dataclass(frozen=True)
class KnownCall:
    """A call that stands where a primitive does."""

    name: str
    function: Callable[..., Any]
    multiple_results: bool = False

    def bind(self, *values: Any, call: Any) -> Any:
        return compat.bind(call, values)[0]

    def matches(self, equation: JaxprEqn) -> bool:
        """Whether a call is this function: it has its name, and prints as its trace does."""
        avals: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
        shapes = {(aval.shape, str(aval.dtype)) for aval in avals}
        if equation.params.get("name") != self.name or len(shapes) != 1:
            return False
        return str(_body(equation)) in _spelled(self, *map(_weakly_typed, equation.invars))


def _weakly_typed(atom: Any) -> tuple[tuple[int, ...], Any, bool]:
    return atom.aval.shape, atom.aval.dtype, atom.aval.weak_type


@functools.lru_cache(maxsize=256)
def _spelled(known: KnownCall, *operands: tuple[tuple[int, ...], Any, bool]) -> tuple[str, ...]:
    """How the function's body prints at such operands."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in operands
    ]
    calls = walk.equations(jax.make_jaxpr(known.function)(*shapes))
    return tuple(str(_body(call)) for _, call in calls if call.params.get("name") == known.name)


def _body(call: Any) -> Any:
    return walk.bodies(call)[0]


hypot = KnownCall("hypot", jnp.hypot)
_KNOWN = (hypot,)


def of(equation: JaxprEqn) -> KnownCall | None:
    """The known function that a traced call is, if it is one."""
    if primitives.facts(equation.primitive).group != "calls":
        return None
    return next((known for known in _KNOWN if known.matches(equation)), None)
