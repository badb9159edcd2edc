"""Scan, cond, while and remat over lifted values: each is emitted again around a lifted body.

A rule here gets `walk(jaxpr, *operands)`, which interprets a body under the table in force, and
the class of the lifted values.  Which carries are active is a fixpoint over the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxplain.surrogate import compat, program
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted

Walk = Callable[..., list[Any]]


def _scan(walk: Walk, lifted: type[Lifted], equation: Equation, *operands: Any) -> list[Any]:
    params = equation.params
    num_consts, num_carry = compat.scan_arity(params)
    consts, carry, xs = _split(operands, num_consts, num_carry)
    active = _through_scan(params, _lifted(operands))
    num_carry_active = active[:num_carry]

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = _uniform(lifted, walk(params["jaxpr"], *consts, *carry, *xs), active)
        return outputs[:num_carry], outputs[num_carry:]

    final, ys = jax.lax.scan(
        body,
        _uniform(lifted, carry, num_carry_active),
        list(xs),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*final, *ys]


def _cond(
    walk: Walk, lifted: type[Lifted], equation: Equation, index: Any, *operands: Any
) -> list[Any]:
    if isinstance(index, Lifted):
        raise UnsupportedPrimitive(
            f"'cond' at {equation.line} branches on a value that depends on x: which branch runs "
            "may differ between x and the reference, and no multiplier can carry that. Write the "
            "choice as `jnp.where(predicate, a, b)`, or compute the predicate from something "
            "that is not attributed."
        )
    branches = equation.params["branches"]
    active = _through_cond(equation.params, [False, *_lifted(operands)])

    def branch(jaxpr: Any) -> Callable[..., list[Any]]:
        return lambda *args: _uniform(lifted, walk(jaxpr, *args), active)

    return list(jax.lax.switch(index, [branch(jaxpr) for jaxpr in branches], *operands))


def _while(walk: Walk, lifted: type[Lifted], equation: Equation, *operands: Any) -> list[Any]:
    raise UnsupportedPrimitive(
        f"'while' at {equation.line} carries a value that depends on x, and a while loop has no "
        "reverse mode. Use `jax.lax.fori_loop` with a trip count known at trace time, or "
        "`jax.lax.scan`."
    )


def _remat(walk: Walk, lifted: type[Lifted], equation: Equation, *operands: Any) -> list[Any]:
    params = equation.params
    active = _through_remat(params, _lifted(operands))

    def body(*args: Any) -> list[Any]:
        return _uniform(lifted, walk(params["jaxpr"], *args), active)

    checkpointed = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return list(checkpointed(*operands))


RULES: dict[Any, Callable[..., list[Any]]] = {
    primitive: rule
    for name, rule in [("scan", _scan), ("cond", _cond), ("while", _while), ("remat2", _remat)]
    for primitive in compat.resolve([name])
}


def _split(operands: Sequence[Any], *sizes: int) -> list[Sequence[Any]]:
    parts, start = [], 0
    for size in sizes:
        parts.append(operands[start : start + size])
        start += size
    return [*parts, operands[start:]]


def _uniform(lifted: type[Lifted], values: Sequence[Any], active: Sequence[bool]) -> list[Any]:
    """The values, those lifted that must be so although they happen not to depend on x."""
    return [
        lifted.constant(v) if is_active and not isinstance(v, Lifted) else v
        for v, is_active in zip(values, active, strict=True)
    ]


def _lifted(operands: Sequence[Any]) -> list[bool]:
    return [isinstance(operand, Lifted) for operand in operands]


def _through_scan(params: dict[str, Any], active: Sequence[bool]) -> list[bool]:
    """Which outputs of a scan depend on its active operands: the least fixpoint over its carry."""
    num_consts, num_carry = compat.scan_arity(params)
    mask = list(active)
    while True:
        outputs = reaches(params["jaxpr"], mask)
        carry = [
            before or after
            for before, after in zip(mask[num_consts:][:num_carry], outputs, strict=False)
        ]
        if carry == mask[num_consts : num_consts + num_carry]:
            return carry + outputs[num_carry:]
        mask[num_consts : num_consts + num_carry] = carry


def _through_cond(params: dict[str, Any], active: Sequence[bool]) -> list[bool]:
    index, *operands = active
    columns = zip(*(reaches(branch, operands) for branch in params["branches"]), strict=True)
    return [index or any(column) for column in columns]


def _through_remat(params: dict[str, Any], active: Sequence[bool]) -> list[bool]:
    return reaches(params["jaxpr"], active)


_THROUGH = {
    primitive: rule
    for name, rule in [("scan", _through_scan), ("cond", _through_cond), ("remat2", _through_remat)]
    for primitive in compat.resolve([name])
}


def reaches(closed_jaxpr: Any, active: Sequence[bool]) -> list[bool]:
    """Which outputs of a jaxpr depend on its active inputs."""
    prog = program.from_jaxpr(closed_jaxpr)
    found = {v for v, is_active in zip(prog.inputs, active, strict=True) if is_active}
    for equation in prog.equations:
        mask = [atom in found for atom in equation.inputs]
        if not any(mask):
            continue
        if equation.primitive in _THROUGH:
            reached = _THROUGH[equation.primitive](equation.params, mask)
        else:
            reached = [True] * len(equation.outputs)
        found.update(v for v, r in zip(equation.outputs, reached, strict=True) if r)
    return [output in found for output in prog.outputs]
