"""Equations with bodies over lifted values: each is emitted again around lifted bodies.

A rule here gets `walk(jaxpr, operands)`, which interprets a body under the table in force, and the
kind of the lifted values.  Which carries and outputs are lifted is what depends on what is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted

Walk = Callable[[Any, Sequence[Any]], list[Any]]


def _again(
    visit: Walk,
    lifted: type[Lifted],
    equation: Equation,
    operands: Sequence[Any],
    unchanged: Sequence[int] = (),
) -> list[Any]:
    """Any of them: the same equation, whose bodies carry lifted values.

    Outputs that are `unchanged` are the operands of a body, in whatever pass.
    """
    traced = equation.origin[0]
    active = walk.reached(traced, _lifted(operands))

    repeats = equation.primitive.name in ("scan", "cond")

    def body(jaxpr: ClosedJaxpr) -> walk.Body:
        def again(operands: Sequence[Any], extra: Any) -> Any:
            outputs = _uniform(lifted, visit(jaxpr, operands), active, operands)
            return _plain(lifted, outputs, unchanged) if repeats else outputs, extra

        return again

    return walk.emit(traced, list(map(body, walk.bodies(traced))), operands)[0]


def _scan(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    num_consts, num_carry = compat.scan_arity(equation.params)
    behind = num_consts + num_carry
    consts, carry, xs = operands[:num_consts], operands[num_consts:behind], operands[behind:]
    unchanged = _unchanged(equation.origin[0], num_consts, num_carry)
    begins = [isinstance(v, Lifted) and v.begins for v in carry]
    if any(b and i not in unchanged for i, b in enumerate(begins)) and equation.params["length"]:
        return _first_step_apart(visit, lifted, equation, operands)
    active = walk.reached(equation.origin[0], _lifted(operands))
    uniform = _uniform(lifted, carry, active[:num_carry], operands)
    carry = _plain(lifted, uniform, unchanged)
    xs = _each(lifted.rows, xs)
    outputs = _again(visit, lifted, equation, [*consts, *carry, *xs], unchanged)
    return [*outputs[:num_carry], *_each(lifted.stacked, outputs[num_carry:])]


def _unchanged(traced: JaxprEqn, num_consts: int, num_carry: int) -> list[int]:
    """The carries that every step hands on as they are."""
    jaxpr, _ = compat.open_jaxpr(walk.bodies(traced)[0])
    carried = jaxpr.invars[num_consts : num_consts + num_carry]
    return [i for i, (v, out) in enumerate(zip(carried, jaxpr.outvars, strict=False)) if v is out]


def _first_step_apart(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    """A scan whose first step meets what no other does: that step, and a scan of the others."""
    num_consts, num_carry = compat.scan_arity(equation.params)
    behind, length = num_consts + num_carry, equation.params["length"]
    consts, xs = operands[:num_consts], operands[behind:]
    backwards = equation.params["reverse"]
    at, others = (-1, slice(None, -1)) if backwards else (0, slice(1, None))

    def rows(which: Any) -> list[Any]:
        return [jax.tree.map(lambda v: v[which], x) for x in xs]

    traced = equation.origin[0]
    (body,) = walk.bodies(traced)
    active = walk.reached(traced, _lifted(operands))
    first = _uniform(lifted, visit(body, [*operands[:behind], *rows(at)]), active, operands)
    carry, ys = first[:num_carry], _plain(lifted, first[num_carry:])
    stacked = jax.tree.map(lambda v: v[None], ys)
    if length == 1:
        return [*carry, *stacked]
    params = {**equation.params, "length": length - 1}
    origin = (traced.replace(params={**traced.params, "length": length - 1}), *equation.origin[1:])
    rest = dataclasses.replace(equation, params=params, origin=origin)
    later = _scan(visit, lifted, rest, [*consts, *carry, *rows(others)])

    def join(step: Any, steps: Any) -> Any:
        return jnp.concatenate([steps, step] if backwards else [step, steps])

    return [*later[:num_carry], *jax.tree.map(join, stacked, later[num_carry:])]


def _cond(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    """With an index that depends on x: all branches, and a choice between what they give."""
    index, *rest = operands
    if not isinstance(index, Lifted):
        return _again(visit, lifted, equation, operands)
    if any(map(_calls_out, equation.params["branches"])):
        raise UnsupportedPrimitive(
            f"'cond' at {equation.line} branches on a value that depends on x, and a branch does "
            "more than compute: it can't be run for both"
        )
    cases = [visit(branch, rest) for branch in equation.params["branches"]]
    return [_chosen(visit, index, column) for column in zip(*cases, strict=True)]


def _calls_out(branch: Any) -> bool:
    """Whether a branch has effects, or a callback (which may raise), or what else isn't JAX's."""
    return any(
        equation.effects or primitives.facts(equation.primitive).group == "foreign"
        for _, equation in walk.equations(branch)
    )


def _chosen(visit: Walk, index: Any, cases: Sequence[Any]) -> Any:
    def choose(index: Any, *cases: Any) -> Any:
        return jax.lax.select_n(jnp.clip(index, 0, len(cases) - 1), *cases)

    shapes = [jax.ShapeDtypeStruct(jnp.shape(c), jnp.result_type(c)) for c in map(_array, cases)]
    closed = jax.make_jaxpr(choose)(jax.ShapeDtypeStruct((), index.dtype), *shapes)
    return visit(closed, [index, *cases])[0]


def _array(operand: Any) -> Any:
    return operand.at_reference if isinstance(operand, Lifted) else operand


def _while(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    raise UnsupportedPrimitive(
        f"'while' at {equation.line} carries a value that depends on x, and a while loop has no "
        "reverse mode. Use `jax.lax.fori_loop` with a trip count known at trace time, or "
        "`jax.lax.scan`, or give the function around it a derivative by `jax.custom_vjp`."
    )


RULES: dict[str, Callable[..., list[Any]]] = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "remat2": _again,
    "shard_map": _again,
}


def _uniform(
    lifted: type[Lifted], values: Sequence[Any], active: Sequence[bool], operands: Sequence[Any]
) -> list[Any]:
    """The values, those lifted that must be so although they happen not to depend on x.

    Among the equation's `operands` are values that do.
    """
    like = next((o for o in operands if isinstance(o, Lifted)), None)
    return [
        lifted.constant(v, like) if is_active and not isinstance(v, Lifted) else v
        for v, is_active in zip(values, active, strict=True)
    ]


def _each(move: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """The values, those moved that are lifted."""
    return [move(v) if isinstance(v, Lifted) else v for v in values]


def _plain(
    lifted: type[Lifted], values: Sequence[Any], unchanged: Sequence[int] = ()
) -> list[Any]:
    """The values as every pass through a body has them."""
    return [
        lifted.plain(v) if isinstance(v, Lifted) and i not in unchanged else v
        for i, v in enumerate(values)
    ]


def _lifted(operands: Sequence[Any]) -> list[bool]:
    return [isinstance(operand, Lifted) for operand in operands]
