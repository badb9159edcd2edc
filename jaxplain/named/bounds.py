"""Rows that are read beyond a table's end, where JAX would clamp the index or fill in NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives, walk

_LARGEST = 2**22  # elements of an array of integers that is worth computing for this


class Beyond(NamedTuple):
    """A row that there is not."""

    row: int
    rows: int
    of_input: bool  # whether the input says which, or its length alone
    line: str


class _Known(NamedTuple):
    """Integers that are computed without the model's numbers."""

    value: np.ndarray
    of_input: bool


def beyond(closed_jaxpr: ClosedJaxpr, leaves: Sequence[Any]) -> Beyond | None:
    """The first row that a program reads beyond the end of a floating table, at a known input."""
    found: list[Beyond] = []

    def visit(_: int, eqn: JaxprEqn, operands: list[_Known | None]) -> Sequence[_Known | None]:
        unknown = [None] * len(eqn.outvars)
        facts = primitives.facts(eqn.primitive)
        if facts.group == "calls" or eqn.primitive.name == "remat2":
            return walk.walk(walk.bodies(eqn)[0], operands, visit, known=_constant)
        if eqn.primitive.name in ("gather", "dynamic_slice"):
            found.extend(_rows_beyond(eqn, operands))
        if any(operand is None for operand in operands) or not all(
            _is_small(var.aval) for var in eqn.outvars
        ):
            return unknown
        known = [operand for operand in operands if operand is not None]
        of_input = any(operand.of_input for operand in known)
        try:
            values = compat.bind(eqn, [jnp.asarray(operand.value) for operand in known])
        except Exception:  # whatever it is, f itself meets it too
            return unknown
        return [_Known(np.asarray(value), of_input) for value in values]

    with jax.ensure_compile_time_eval():
        inputs = [_Known(np.asarray(leaf), True) for leaf in leaves]
        walk.walk(closed_jaxpr, inputs, visit, known=_constant)
    return found[0] if found else None


def _is_small(kind: Any) -> bool:
    whole = any(jnp.issubdtype(kind.dtype, dtype) for dtype in (jnp.integer, jnp.bool_))
    return whole and np.prod(kind.shape, dtype=float) <= _LARGEST


def _constant(array: Any) -> _Known | None:
    if isinstance(array, jax.core.Tracer) or not _is_small(jax.typeof(array)):
        return None
    return _Known(np.asarray(array), False)


def _rows_beyond(eqn: JaxprEqn, operands: list[_Known | None]) -> list[Beyond]:
    table: Any = eqn.invars[0].aval
    indices = [operand for operand in operands[1:] if operand is not None]
    if not jnp.issubdtype(table.dtype, jnp.floating) or len(indices) != len(operands) - 1:
        return []
    if eqn.primitive.name == "gather":
        fill = eqn.params["fill_value"]
        if fill is not None and not np.isnan(fill):
            return []  # what is beyond the end has a value of its own
        axes = eqn.params["dimension_numbers"].start_index_map
        columns = [(axis, indices[0].value[..., i]) for i, axis in enumerate(axes)]
    else:
        columns = [(axis, index.value) for axis, index in enumerate(indices)]
    of_input = any(index.of_input for index in indices)
    worst = []
    for axis, column in columns:
        last = table.shape[axis] - eqn.params["slice_sizes"][axis]
        outside = column[(column < 0) | (column > last)]
        if outside.size:
            line = compat.user_line([eqn])
            worst.append(Beyond(int(outside.ravel()[0]), table.shape[axis], of_input, line))
    return worst
