"""A function of one example, traced once: what is compiled, and what its digests are of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax

from jaxplain._types import Tree
from jaxplain.surrogate import compat, staging

# A constant's numbers in StableHLO, where it is more than one number.
_CONSTANT = re.compile(r'dense<("[^"]*"|[^>]*)> : (tensor<\d[^>]*>)')


class Traced:
    """A function's program at arguments of these kinds.

    The arrays that it closes over are its arguments here: XLA would otherwise fold them while it
    compiles, and a program's text would hold them.

    Args:
      function: of trees of arrays.
      kinds: its arguments, as `jax.ShapeDtypeStruct`s.
    """

    def __init__(self, function: Callable[..., Any], *kinds: Any):
        with staging.watched_references() as references, staging.watched_tables() as tables:
            closed, self.result = jax.make_jaxpr(function, return_shape=True)(*kinds)
        self._body, self.constants = compat.open_jaxpr(closed)
        self._kinds = kinds
        self.references, self.tables = references, tables

    def __call__(self, constants: list[Any], *args: Any) -> Tree:
        """The function's value; `constants` are its own, wherever they lie."""
        closed = compat.close_jaxpr(self._body, constants)
        values = compat.evaluate(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(self.result), values)

    def text(self) -> tuple[str, list[str]]:
        """The StableHLO without arrays' numbers, and digests of those that stood in it."""
        lowered = jax.jit(self).trace(list(map(kind_of, self.constants)), *self._kinds)
        numbers: list[str] = []

        def elided(match: re.Match[str]) -> str:
            numbers.append(hashlib.sha256(match[0].encode()).hexdigest())
            return f"dense<…> : {match[2]}"

        return _CONSTANT.sub(elided, _stable_hlo(lowered)), numbers


def kind_of(leaf: Any) -> Any:
    """A value's form, as `jax.ShapeDtypeStruct`."""
    kind = jax.typeof(leaf)
    weak = getattr(kind, "weak_type", False)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=weak)


def _stable_hlo(traced: Any) -> str:
    """As for a CPU, the same wherever the run is; where there is none, for this device."""
    try:
        return traced.lower(lowering_platforms=("cpu",)).as_text()
    except Exception:  # a kernel for one kind of device
        return traced.lower().as_text()
