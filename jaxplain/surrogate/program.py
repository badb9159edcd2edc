"""The traced program: a flat list of equations, jits and custom derivatives opened up.

A jaxpr nests calls that mean nothing to an explanation (`jit`, `custom_jvp`, `custom_vjp`).  They
are inlined, so that a pattern may span them; scans, conditionals and remat keep their bodies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat

_CALLS = {
    **dict.fromkeys(compat.resolve(["jit"]), "jaxpr"),
    **dict.fromkeys(
        compat.resolve(["custom_jvp_call", "custom_vjp_call", "call", "closed_call", "eval_jaxpr"]),
        "call_jaxpr",
    ),
}

_NAMES = compat.resolve(["name"])
TAP = "jaxplain.tap"  # the name of what is added to a value to receive its multiplier


class Variable:
    """A value of the program, known by its shape and dtype only."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A value that is known: a literal, or an array that the program closed over."""

    value: Any

    @property
    def aval(self) -> Any:
        return jax.typeof(self.value)


Atom = Variable | Constant


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """`outputs = primitive(*inputs, **params)`; a pattern stands in a primitive's place too."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    params: dict[str, Any]
    effects: Any = frozenset()
    origin: tuple[Any, ...] = ()  # the traced equation, and the calls around it

    def bind(self, *values: Any) -> list[Any]:
        """The equation's outputs at these input values, by JAX's own meaning of the primitive."""
        outputs = self.primitive.bind(*values, **self.params)
        return list(outputs) if self.primitive.multiple_results else [outputs]

    def function(self, *values: Any) -> Any:
        """The only output at these values."""
        return self.bind(*values)[0]

    @property
    def aval(self) -> Any:
        return self.outputs[0].aval

    def __str__(self) -> str:
        def names(atoms: Iterable[Atom]) -> str:
            return ", ".join(atom.aval.str_short(short_dtypes=True) for atom in atoms)

        return f"{self.primitive.name}({names(self.inputs)}) -> {names(self.outputs)}"

    @property
    def path(self) -> str:
        """The modules and named scopes around the equation, as in 'encoder/layer_0'."""
        return "/".join(filter(None, map(compat.scope, reversed(self.origin))))

    @property
    def line(self) -> str:
        """The user's source line."""
        return compat.user_line(self.origin)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Equations in order, from input variables to output atoms."""

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]

    def producers(self) -> dict[Variable, Equation]:
        return {output: eqn for eqn in self.equations for output in eqn.outputs}

    def reached(self, active: Sequence[bool]) -> set[Variable]:
        """The variables that depend on these of the inputs."""
        found = {v for v, is_active in zip(self.inputs, active, strict=True) if is_active}
        for equation in self.equations:
            if not found.isdisjoint(a for a in equation.inputs if isinstance(a, Variable)):
                found.update(equation.outputs)
        return found

    def without_dead_code(self) -> Program:
        """The same program less what its outputs and effects do not need."""
        needed = {atom for atom in self.outputs if isinstance(atom, Variable)}
        kept = []
        for equation in reversed(self.equations):
            if equation.effects or not needed.isdisjoint(equation.outputs):
                kept.append(equation)
                needed.update(atom for atom in equation.inputs if isinstance(atom, Variable))
        return dataclasses.replace(self, equations=tuple(reversed(kept)))


def from_jaxpr(closed_jaxpr: Any, calls: tuple[Any, ...] = ()) -> Program:
    """A jaxpr as a flat program; `calls` are the equations around it, if it is a body."""
    jaxpr, _ = compat.open_jaxpr(closed_jaxpr)
    inputs = tuple(Variable(v.aval) for v in jaxpr.invars)
    equations: list[Equation] = []
    outputs = _inline(closed_jaxpr, inputs, equations, calls)
    return Program(inputs, tuple(equations), tuple(outputs)).without_dead_code()


def _inline(
    closed_jaxpr: Any, inputs: Sequence[Atom], equations: list[Equation], calls: tuple[Any, ...]
) -> list[Atom]:
    jaxpr, consts = compat.open_jaxpr(closed_jaxpr)
    env: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
    env.update((v, Constant(c)) for v, c in zip(jaxpr.constvars, consts, strict=True))

    def read(atom: Any) -> Atom:
        return Constant(atom.val) if compat.is_literal(atom) else env[atom]

    for eqn in jaxpr.eqns:
        atoms = [read(atom) for atom in eqn.invars]
        if eqn.primitive in _CALLS:
            outputs = _inline(_body(eqn), atoms, equations, (eqn, *calls))
            env.update(zip(eqn.outvars, outputs, strict=True))
        elif eqn.primitive in _NAMES and eqn.params["name"] != TAP:
            env[eqn.outvars[0]] = atoms[0]  # a name changes nothing, what is explained included
        else:
            fresh = tuple(Variable(v.aval) for v in eqn.outvars)
            env.update(zip(eqn.outvars, fresh, strict=True))
            equations.append(
                Equation(
                    eqn.primitive, tuple(atoms), fresh, dict(eqn.params), eqn.effects, (eqn, *calls)
                )
            )
    return [read(atom) for atom in jaxpr.outvars]


def _body(call: Any) -> Any:
    """A call's jaxpr.

    `jnp.hypot` keeps clear of overflow by scaling with 2^±74 (JAX 0.12) or by the larger of its
    operands: steps that leave a reference near zero without digits. It is written out instead.
    """
    body = call.params[_CALLS[call.primitive]]
    if call.params.get("name") == "hypot":
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in call.invars]
        [jaxs] = compat.open_jaxpr(jax.make_jaxpr(jnp.hypot)(*shapes))[0].eqns
        if str(jaxs.params[_CALLS[jaxs.primitive]]) == str(body):
            return jax.make_jaxpr(lambda a, b: jnp.sqrt(a * a + b * b))(*shapes)
    return body


def trace(fun: Callable[..., Any], *args: Any) -> tuple[Program, Any]:
    """The program of `fun` at these arrays, and the tree of its output."""
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    return from_jaxpr(closed), jax.tree.structure(shapes)


def broadcast(value: Any, shape: Sequence[int]) -> Any:
    """`value`, spread over `shape`, as the elementwise primitives do on their own."""
    return value if jnp.shape(value) == tuple(shape) else jnp.broadcast_to(value, shape)
