"""Equations with bodies over lifted values: each is emitted again around lifted bodies.

A rule here gets `walk(jaxpr, operands)`, which interprets a body under the table in force, and the
kind of the lifted values.  Which carries and outputs are lifted is what depends on what is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted

Walk = Callable[[Any, Sequence[Any]], list[Any]]


def _again(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    """Any of them: the same equation, whose bodies carry lifted values."""
    traced = equation.origin[0]
    active = walk.reached(traced, _lifted(operands))

    repeats = equation.primitive.name in ("scan", "cond")

    def body(jaxpr: ClosedJaxpr) -> walk.Body:
        def again(operands: Sequence[Any], extra: Any) -> Any:
            outputs = _uniform(lifted, visit(jaxpr, operands), active)
            return _plain(lifted, outputs) if repeats else outputs, extra

        return again

    return walk.emit(traced, list(map(body, walk.bodies(traced))), operands)[0]


def _scan(
    visit: Walk, lifted: type[Lifted], equation: Equation, operands: Sequence[Any]
) -> list[Any]:
    num_consts, num_carry = compat.scan_arity(equation.params)
    behind = num_consts + num_carry
    active = walk.reached(equation.origin[0], _lifted(operands))
    carry = _plain(lifted, _uniform(lifted, operands[num_consts:behind], active[:num_carry]))
    return _again(
        visit, lifted, equation, [*operands[:num_consts], *carry, *operands[behind:]]
    )


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


def _uniform(lifted: type[Lifted], values: Sequence[Any], active: Sequence[bool]) -> list[Any]:
    """The values, those lifted that must be so although they happen not to depend on x."""
    return [
        lifted.constant(v) if is_active and not isinstance(v, Lifted) else v
        for v, is_active in zip(values, active, strict=True)
    ]


def _plain(lifted: type[Lifted], values: Sequence[Any]) -> list[Any]:
    """The values as every pass through a body has them."""
    return [lifted.plain(v) if isinstance(v, Lifted) else v for v in values]


def _lifted(operands: Sequence[Any]) -> list[bool]:
    return [isinstance(operand, Lifted) for operand in operands]
