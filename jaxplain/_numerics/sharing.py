"""A function at many arguments: what they have in common once, and no work on zeros.

`shared` takes out what does not depend on the argument; `at_units` is for arguments that are the
unit vectors, the weights of one output each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives, walk


class _Later(NamedTuple):
    """What is known with the argument only, by number."""

    number: int


class _Step(NamedTuple):
    equation: JaxprEqn
    operands: list[Any]  # arrays, or what is known later
    outputs: list[_Later]


@dataclasses.dataclass(frozen=True)
class _Rest:
    """What of a function depends on its argument."""

    steps: list[_Step]
    results: list[Any]
    tree: Any
    zeros: dict[int, Any]  # arrays of nothing but zeros, by identity

    def __call__(self, leaves: Sequence[Any], visit: Callable[[JaxprEqn, list[Any]], Any]) -> Any:
        env: dict[_Later, Any] = {_Later(i): leaf for i, leaf in enumerate(leaves)}

        def read(operand: Any) -> Any:
            return env[operand] if isinstance(operand, _Later) else operand

        for step in self.steps:
            outputs = visit(step.equation, list(map(read, step.operands)))
            env.update(zip(step.outputs, outputs, strict=True))
        return list(map(read, self.results))

    def is_zero(self, operand: Any) -> bool:
        """Whether it is known to be zero."""
        return _is_zero(operand, self.zeros)


def _rest(function: Callable[[Any], Any], example: Any) -> _Rest:
    """Evaluates what doesn't depend on the argument, and returns what does."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(example)
    count = len(jax.tree.leaves(example))
    steps: list[_Step] = []
    zeros: dict[int, Any] = {}
    made = count

    def later() -> _Later:
        nonlocal made
        made += 1
        return _Later(made - 1)

    def visit(_: int, eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
        if not any(isinstance(operand, _Later) for operand in operands):
            known = compat.bind(eqn, operands)
            if eqn.primitive.name in _OF_ZERO and _is_zero(operands[0], zeros):
                zeros[id(known[0])] = known[0]
            return known
        facts = primitives.facts(eqn.primitive)
        if facts.group == "calls" and not facts.derivative:
            return inside(walk.bodies(eqn)[0], operands)
        outputs = [later() for _ in eqn.outvars]
        steps.append(_Step(eqn, operands, outputs))
        return outputs

    def inside(jaxpr: ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
        return walk.walk(jaxpr, operands, visit)

    results = inside(closed, [_Later(i) for i in range(count)])
    return _Rest(steps, results, jax.tree.structure(shapes), zeros)


_OF_ZERO = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "neg", "name")


def _is_zero(operand: Any, zeros: dict[int, Any]) -> bool:
    """Whether an array is known to be zero: a number, or one made of it."""
    if id(operand) in zeros:
        return True
    if isinstance(operand, jax.core.Tracer | _Row) or jnp.ndim(operand) > 0:
        return False
    return bool(operand == 0)


def shared(function: Callable[[Any], Any], example: Any) -> Callable[[Any], Any]:
    """The same function of one argument, with all that does not depend on it computed here.

    Under `vmap` JAX does so by itself; in a loop over arguments the body would be traced with
    everything in it, a model's forward pass for each of its backward passes.
    """
    rest = _rest(function, example)

    def of(argument: Any) -> Any:
        return jax.tree.unflatten(rest.tree, rest(jax.tree.leaves(argument), compat.bind))

    return of


# Unit vectors.


@dataclasses.dataclass(frozen=True)
class _Row:
    """An array that is zero (False, True) but for one row of an axis: number `start` + i.

    A backward pass from one token's logit stays in the token's row until attention mixes rows, the
    last layer's products with weights included; of the zeros around it nothing is computed.
    """

    value: Any  # of size 1 along the axis
    axis: int
    start: int
    size: int  # of the whole axis
    around: Any = 0  # what the other rows are

    def whole(self, i: Any) -> Any:
        """The array itself."""
        shape = [self.size if a == self.axis else 1 for a in range(self.value.ndim)]
        here = (jnp.arange(self.size) == self.start + i).reshape(shape)
        return jnp.where(here, self.value, jnp.asarray(self.around, self.value.dtype))


def at_units(function: Callable[[Any], Any], count: int, dtype: Any) -> Callable[[Any], Any]:
    """`function(e_i)` of i, with e_i the i-th of `count` unit vectors; shared work is done here."""
    rest = _rest(function, jnp.zeros(count, dtype))

    def of(i: Any) -> Any:
        def dense(operand: Any) -> Any:
            return operand.whole(i) if isinstance(operand, _Row) else operand

        def visit(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
            rows = [operand for operand in operands if isinstance(operand, _Row)]
            if eqn.primitive is jax.lax.optimization_barrier_p:
                values = [o.value if isinstance(o, _Row) else o for o in operands]
                kept = zip(operands, compat.bind(eqn, values), strict=True)
                return [
                    dataclasses.replace(o, value=v) if isinstance(o, _Row) else v for o, v in kept
                ]
            if rows:
                output = _RULES.get(eqn.primitive.name, _elementwise)(rest, eqn, operands, i)
                if output is not None:
                    return [output]
            return compat.bind(eqn, list(map(dense, operands)))

        first = _Row(jnp.ones(1, dtype), 0, 0, count)
        return jax.tree.unflatten(rest.tree, list(map(dense, rest([first], visit))))

    return of


Rule = Callable[[_Rest, JaxprEqn, list[Any], Any], Any]  # an output: a row, an array, or None


def _elementwise(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    if primitives.facts(eqn.primitive).group != "elementwise" and eqn.primitive.name != "add_any":
        return None
    rows = [operand for operand in operands if isinstance(operand, _Row)]
    like = rows[0]
    if any((r.axis, r.start, r.size) != (like.axis, like.start, like.size) for r in rows):
        return None
    around = _around(rest, eqn, operands)
    if around is None:
        return None
    values = [_row_of(operand, like, i) for operand in operands]
    (value,) = compat.bind(eqn, values)
    return dataclasses.replace(like, value=value, around=around)


def _around(rest: _Rest, eqn: JaxprEqn, operands: list[Any]) -> Any:
    """What an elementwise equation makes of the other rows, where that is one known number."""
    name = eqn.primitive.name
    parts = [
        operand.around if isinstance(operand, _Row) else 0 if rest.is_zero(operand) else None
        for operand in operands
    ]
    if name == "mul":
        return 0 if any(part is not None and part == 0 for part in parts) else None
    if name == "div":
        return 0 if parts[0] == 0 and isinstance(operands[0], _Row) else None
    if name == "select_n":
        which, *cases = parts
        if isinstance(operands[0], _Row):
            return cases[1 if which else 0]
        return 0 if all(case is not None and case == 0 for case in cases) else None
    if any(part is None for part in parts):
        return None
    if name in ("neg", "copy", "convert_element_type", "add", "sub", "add_any", "abs", "sign"):
        return 0 if all(part == 0 for part in parts) else None
    if name in ("eq", "le", "ge"):
        return True if all(part == 0 for part in parts) else None
    if name in ("ne", "lt", "gt"):
        return False if all(part == 0 for part in parts) else None
    return None


def _row_of(operand: Any, like: _Row, i: Any) -> Any:
    """The row of an array with the same axes; numbers as they are."""
    if isinstance(operand, _Row):
        return operand.value
    if jnp.ndim(operand) == 0:
        return operand
    return jax.lax.dynamic_slice_in_dim(operand, like.start + i, 1, like.axis)


def _one_row(operands: list[Any]) -> _Row | None:
    """The row of an equation whose other operands are numbers of zero."""
    return operands[0] if isinstance(operands[0], _Row) and operands[0].around == 0 else None


def _broadcast(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row, shape = operands[0], list(eqn.params["shape"])
    axis = eqn.params["broadcast_dimensions"][row.axis]
    if shape[axis] != row.size:
        return None
    shape[axis] = 1
    value = jax.lax.broadcast_in_dim(row.value, shape, eqn.params["broadcast_dimensions"])
    return dataclasses.replace(row, value=value, axis=axis)


def _reshape(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row, shape = operands[0], list(eqn.params["new_sizes"])
    if eqn.params.get("dimensions") is not None:
        return None
    before = _product(row.value.shape[: row.axis])
    for axis, size in enumerate(shape):
        if size == row.size and _product(shape[:axis]) == before:
            shape[axis] = 1
            return dataclasses.replace(row, value=row.value.reshape(shape), axis=axis)
    return None


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _transpose(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row, permutation = operands[0], eqn.params["permutation"]
    value = jax.lax.transpose(row.value, permutation)
    return dataclasses.replace(row, value=value, axis=list(permutation).index(row.axis))


def _squeeze(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row, gone = operands[0], eqn.params["dimensions"]
    if row.axis in gone:
        return None
    axis = row.axis - sum(d < row.axis for d in gone)
    return dataclasses.replace(row, value=jax.lax.squeeze(row.value, gone), axis=axis)


def _reduce_sum(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row, axes = _one_row(operands), eqn.params["axes"]
    if row is None:
        return None
    (value,) = compat.bind(eqn, [row.value])
    if row.axis in axes:
        return value
    return dataclasses.replace(row, value=value, axis=row.axis - sum(a < row.axis for a in axes))


def _pad(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    row = _one_row(operands)
    if row is None or not rest.is_zero(operands[1]):
        return None
    config = [tuple(entry) for entry in eqn.params["padding_config"]]
    low, high, inner = config[row.axis]
    if min(low, high) < 0 or inner:
        return None
    config[row.axis] = (0, 0, 0)
    value = jax.lax.pad(row.value, jnp.asarray(operands[1], row.value.dtype), config)
    return dataclasses.replace(row, value=value, start=row.start + low, size=row.size + low + high)


def _dot_general(rest: _Rest, eqn: JaxprEqn, operands: list[Any], i: Any) -> Any:
    side = 0 if isinstance(operands[0], _Row) else 1
    row, other = operands[side], operands[1 - side]
    if isinstance(other, _Row) or row.around != 0:
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    given = list(operands)
    given[side] = row.value
    for group in (contracted, batch):  # of what it meets the same row is wanted
        if row.axis in group[side]:
            axis = group[1 - side][list(group[side]).index(row.axis)]
            given[1 - side] = jax.lax.dynamic_slice_in_dim(other, row.start + i, 1, axis)
    (value,) = compat.bind(eqn, given)
    if row.axis in contracted[side]:
        return value
    if row.axis in batch[side]:
        axis = list(batch[side]).index(row.axis)
    else:
        free = [a for a in range(row.value.ndim) if a not in (*contracted[side], *batch[side])]
        axis = len(batch[side]) + free.index(row.axis)
        if side == 1:
            axis += jnp.ndim(other) - len(contracted[0]) - len(batch[0])
    return dataclasses.replace(row, value=value, axis=axis)


_RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reduce_sum": _reduce_sum,
    "pad": _pad,
    "dot_general": _dot_general,
}
