"""The one traversal of a jaxpr, and the one place where equations with bodies are emitted again.

Everything that looks into a program is a visitor of `walk`: flattening it for the rules
(`program`), reading and replacing named values (`named`), asking what depends on what (`reaches`),
re-laying convolutions (`_numerics.cpu_layout`).  Which equations have bodies stands in the table
of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives

Visit = Callable[[int, JaxprEqn, list[Any]], Sequence[Any]]  # number, eqn, operands → outputs
Address = tuple[int, ...]  # of an equation: its number and, below a call, which body, its number …
Body = Callable[[list[Any], Any], tuple[list[Any], Any]]  # operands, extra → outputs, extra


def walk(
    closed_jaxpr: ClosedJaxpr,
    operands: Sequence[Any],
    visit: Visit,
    known: Callable[[Any], Any] = lambda array: array,
) -> list[Any]:
    """A jaxpr's outputs, where `visit(number, equation, operands)` gives those of each equation.

    What flows along is the visitor's (arrays, atoms, booleans); `known` makes it of a constant.
    """
    jaxpr, consts = compat.open_jaxpr(closed_jaxpr)
    env = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*map(known, consts), *operands], strict=True)
    )

    def read(atom: Any) -> Any:
        return known(atom.val) if compat.is_literal(atom) else env[atom]

    for number, equation in enumerate(jaxpr.eqns):
        outputs = visit(number, equation, list(map(read, equation.invars)))
        env.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def bodies(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The jaxprs inside an equation: of a call, of a loop, of each branch."""
    found = [equation.params[name] for name in primitives.facts(equation.primitive).bodies]
    if not found:  # another library's primitive may have some, too
        return compat.jaxprs_in(equation.params)
    return [body for item in found for body in _flat(item)]


def _flat(item: Any) -> list[Any]:
    if isinstance(item, tuple | list):
        return [body for part in item if part is not None for body in _flat(part)]
    return [item]


def equations(
    closed_jaxpr: ClosedJaxpr, within: Address = ()
) -> Iterator[tuple[Address, JaxprEqn]]:
    """(address, equation) of a program and of everything inside it, in order."""
    found: list[tuple[Address, JaxprEqn]] = []

    def visit(number: int, equation: JaxprEqn, _: list[Any]) -> list[None]:
        found.append(((*within, number), equation))
        for j, body in enumerate(bodies(equation)):
            found.extend(equations(body, (*within, number, j)))
        return [None] * len(equation.outvars)

    walk(closed_jaxpr, [None] * len(compat.open_jaxpr(closed_jaxpr)[0].invars), visit)
    return iter(found)


# Emitting equations again around other bodies.


def emit(
    equation: JaxprEqn, bodies: Sequence[Body], operands: Sequence[Any], extra: Any = None
) -> tuple[list[Any], Any]:
    """An equation's outputs with other bodies in place of its own, each `(operands, extra) → both`.

    Operands may be pytrees in the place of arrays.  `extra` goes in beside them and another one
    comes out: into a scan one step of it at a time, and stacked out of it; of a conditional what a
    branch does not give counts as zero.
    """
    name = equation.primitive.name
    if name not in _EMIT:
        raise NotImplementedError(f"an equation of {name!r} can't be emitted again")
    with compat.source_of(equation):
        return _EMIT[name](equation.params, bodies, list(operands), extra)


def emits(equation: JaxprEqn) -> bool:
    """Whether `emit` knows the equation's primitive."""
    return equation.primitive.name in _EMIT


def _call(params: Any, bodies: Any, operands: list[Any], extra: Any) -> Any:
    return bodies[0](operands, extra)


def _scan(params: Any, bodies: Any, operands: list[Any], extra: Any) -> Any:
    num_consts, num_carry = compat.scan_arity(params)
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]

    def body(carry: list[Any], slices: Any) -> Any:
        xs, extra = slices
        outputs, extra = bodies[0]([*consts, *carry, *xs], extra)
        return outputs[:num_carry], (outputs[num_carry:], extra)

    final, (ys, extra) = jax.lax.scan(
        body,
        carry,
        (operands[num_consts + num_carry :], extra),
        **{key: params[key] for key in ("length", "reverse", "unroll")},
    )
    return [*final, *ys], extra


def _cond(params: Any, bodies: Any, operands: list[Any], extra: Any) -> Any:
    index, *rest = operands
    shapes = [jax.eval_shape(body, rest, extra)[1] for body in bodies if extra is not None]
    wanted = {name: shape for shape in shapes if shape for name, shape in shape.items()}

    def branch(body: Body) -> Any:
        def function(operands: list[Any], extra: Any) -> Any:
            outputs, given = body(operands, extra)
            if not wanted:
                return outputs, given
            absent = {n: compat.zeros(s) for n, s in wanted.items() if n not in given}
            return outputs, {**given, **absent}

        return function

    return jax.lax.switch(index, list(map(branch, bodies)), rest, extra)


def _remat(params: Any, bodies: Any, operands: list[Any], extra: Any) -> Any:
    options = {key: params[key] for key in ("prevent_cse", "policy")}
    return jax.checkpoint(bodies[0], **options)(operands, extra)


def _shard_map(params: Any, bodies: Any, operands: list[Any], extra: Any) -> Any:
    if extra:
        raise NotImplementedError("nothing goes into a shard_map beside its operands")

    def body(*operands: Any) -> Any:
        return tuple(bodies[0](list(operands), None)[0])

    mapped = compat.shard_map(body, params)
    return list(mapped(*operands)), None


_EMIT: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(["jit", "call", "closed_call", "eval_jaxpr"], _call),
    "scan": _scan,
    "cond": _cond,
    "remat2": _remat,
    "shard_map": _shard_map,
}


# What depends on what.


def reaches(closed_jaxpr: ClosedJaxpr, active: Sequence[bool]) -> list[bool]:
    """Which outputs of a jaxpr depend on its active inputs."""

    def visit(_: int, equation: JaxprEqn, mask: list[bool]) -> list[bool]:
        return reached(equation, mask)

    return walk(closed_jaxpr, active, visit, known=lambda _: False)


def reached(equation: JaxprEqn, active: Sequence[bool]) -> list[bool]:
    """Which outputs of an equation depend on its active operands."""
    if not any(active):
        return [False] * len(equation.outvars)
    name = equation.primitive.name
    if name == "scan":
        return _through_scan(equation.params, active)
    if name == "cond":
        index, *rest = active
        columns = zip(*(reaches(body, rest) for body in bodies(equation)), strict=True)
        return [index or any(column) for column in columns]
    if name in _EMIT or primitives.facts(equation.primitive).derivative:
        return reaches(bodies(equation)[0], active)
    return [True] * len(equation.outvars)


def _through_scan(params: Any, active: Sequence[bool]) -> list[bool]:
    """The least fixpoint over the carry."""
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
