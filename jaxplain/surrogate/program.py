"""The traced program: a flat list of equations, calls opened up.

A jaxpr nests calls that mean nothing to an explanation (`jit`, most functions with a derivative of
their own).  They are inlined, so that a pattern may span them; scans, conditionals, remat and the
calls that a table keeps whole keep their bodies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Primitive

from jaxplain.surrogate import compat, known_calls, primitives, walk

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
        if self.facts.derivative:  # a user's derivative may index what it was given
            values = tuple(map(jnp.asarray, values))
        if isinstance(self.primitive, Primitive):
            return compat.bind_primitive(self.primitive, values, self.params)
        outputs = self.primitive.bind(*values, **self.params)
        return list(outputs) if self.primitive.multiple_results else [outputs]

    def function(self, *values: Any) -> Any:
        """The only output at these values."""
        return self.bind(*values)[0]

    @property
    def aval(self) -> Any:
        return self.outputs[0].aval

    @property
    def facts(self) -> primitives.Facts:
        """What is known of the primitive."""
        return primitives.facts(self.primitive)

    def __str__(self) -> str:
        def names(atoms: Iterable[Atom]) -> str:
            return ", ".join(atom.aval.str_short(short_dtypes=True) for atom in atoms)

        return f"{compat.inner_name(self)}({names(self.inputs)}) -> {names(self.outputs)}"

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
    """Equations in order, from input variables to output atoms; `active` ones depend on x."""

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    active: frozenset[Variable] = frozenset()

    def producers(self) -> dict[Variable, Equation]:
        return {output: eqn for eqn in self.equations for output in eqn.outputs}

    def evaluate(self, *values: Any) -> list[Any]:
        """The outputs at these values of the inputs."""
        env: dict[Any, Any] = dict(zip(self.inputs, values, strict=True))

        def read(atom: Atom) -> Any:
            return atom.value if isinstance(atom, Constant) else env[atom]

        for equation in self.equations:
            outputs = equation.bind(*map(read, equation.inputs))
            env.update(zip(equation.outputs, outputs, strict=True))
        return list(map(read, self.outputs))

    def without_dead_code(self) -> Program:
        """The same program less what its outputs and effects do not need."""
        needed = {atom for atom in self.outputs if isinstance(atom, Variable)}
        kept = []
        for equation in reversed(self.equations):
            if equation.effects or not needed.isdisjoint(equation.outputs):
                kept.append(equation)
                needed.update(atom for atom in equation.inputs if isinstance(atom, Variable))
        return dataclasses.replace(self, equations=tuple(reversed(kept)))


Keeps = Callable[[Any, list[bool]], bool]  # a traced call, which of its operands are active


def from_jaxpr(
    closed_jaxpr: ClosedJaxpr,
    active: Sequence[bool],
    calls: tuple[Any, ...] = (),
    keeps: Keeps = lambda call, active: False,
) -> Program:
    """A jaxpr as a flat program.

    `calls` are the equations around it, if it is a body; `keeps` says which of the calls with a
    derivative of their own stay as they are.
    """
    flat = _Flat(keeps)
    inputs = tuple(Variable(v.aval) for v in compat.open_jaxpr(closed_jaxpr)[0].invars)
    flat.active.update(v for v, is_active in zip(inputs, active, strict=True) if is_active)
    outputs = flat.inline(closed_jaxpr, inputs, calls)
    found = Program(inputs, tuple(flat.equations), tuple(outputs), frozenset(flat.active))
    return found.without_dead_code()


class _Flat:
    """The visitor that collects equations."""

    def __init__(self, keeps: Keeps):
        self.keeps = keeps
        self.equations: list[Equation] = []
        self.active: set[Variable] = set()

    def inline(
        self, jaxpr: ClosedJaxpr, inputs: Sequence[Atom], calls: tuple[Any, ...]
    ) -> list[Atom]:
        def visit(_: int, eqn: JaxprEqn, atoms: list[Atom]) -> Sequence[Atom]:
            mask = [atom in self.active for atom in atoms]
            call = known_calls.of(eqn)
            if call is not None:
                return self.add(eqn, atoms, mask, calls, call, {"call": eqn})
            if any(mask) and is_short(eqn):
                return self.inline(written_out(eqn), atoms, (eqn, *calls))
            if self.opens(eqn, mask):
                return self.inline(walk.bodies(eqn)[0], atoms, (eqn, *calls))
            if eqn.primitive in _NAMES and eqn.params["name"] != TAP:
                return atoms  # a name changes nothing, what is explained included
            return self.add(eqn, atoms, mask, calls, eqn.primitive, dict(eqn.params))

        return walk.walk(jaxpr, inputs, visit, known=Constant)

    def opens(self, eqn: JaxprEqn, mask: list[bool]) -> bool:
        known = primitives.facts(eqn.primitive)
        return known.group == "calls" and not (known.derivative and self.keeps(eqn, mask))

    def add(
        self,
        eqn: JaxprEqn,
        atoms: Sequence[Atom],
        mask: list[bool],
        calls: tuple[Any, ...],
        primitive: Any,
        params: dict[str, Any],
    ) -> list[Variable]:
        outputs = [Variable(v.aval) for v in eqn.outvars]
        reached = walk.reached(eqn, mask)
        self.active.update(v for v, is_active in zip(outputs, reached, strict=True) if is_active)
        equation = Equation(
            primitive, tuple(atoms), tuple(outputs), params, eqn.effects, (eqn, *calls)
        )
        self.equations.append(equation)
        return outputs


_MOST_EQUATIONS = 200  # of a loop that is written out: more are felt in tracing and compiling


def is_short(eqn: JaxprEqn) -> bool:
    """Whether an equation is a short loop of elementwise equations.

    Written out, what waits for further factors or for the rest of a scalar function goes on waiting
    from step to step: a product in a loop is the product of as many factors.
    """
    if eqn.primitive.name != "scan" or eqn.params["length"] == 0:
        return False
    inside = [inner for _, inner in walk.equations(eqn.params["jaxpr"])]
    known = [primitives.facts(inner.primitive) for inner in inside]
    fits = all(f.group in ("elementwise", "calls") or f.moves for f in known)
    return fits and not any(inner.effects for inner in inside) and (
        eqn.params["length"] * len(inside) <= _MOST_EQUATIONS
    )  # fmt: skip


def written_out(eqn: JaxprEqn) -> Any:
    """The jaxpr of a scan's steps one after another."""
    params = eqn.params
    num_consts, num_carry = compat.scan_arity(params)
    behind, length = num_consts + num_carry, params["length"]

    def steps(*operands: Any) -> list[Any]:
        carry, ys = list(operands[num_consts:behind]), list[Any]([None] * length)
        for i in reversed(range(length)) if params["reverse"] else range(length):
            xs = [x[i] for x in operands[behind:]]
            outputs = compat.evaluate(params["jaxpr"], [*operands[:num_consts], *carry, *xs])
            carry, ys[i] = outputs[:num_carry], outputs[num_carry:]
        return [*carry, *map(jnp.stack, zip(*ys, strict=True))]

    avals: list[Any] = [atom.aval for atom in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    return jax.make_jaxpr(steps)(*shapes)


def trace(fun: Callable[..., Any], *args: Any) -> tuple[Program, Any]:
    """The program of `fun` at these arrays, and the tree of its output."""
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    return from_jaxpr(closed, [False] * len(jax.tree.leaves(args))), jax.tree.structure(shapes)


def broadcast(value: Any, shape: Sequence[int]) -> Any:
    """`value`, spread over `shape`, as the elementwise primitives do on their own."""
    return value if jnp.shape(value) == tuple(shape) else jnp.broadcast_to(value, shape)
