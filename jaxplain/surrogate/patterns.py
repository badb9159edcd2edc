"""Softmax, logsumexp, relu and taps, found in the traced program whatever spells them.

Each is one operation to a rule, though several equations spell it: softmax's shift by the maximum
cancels, so neither half of a lifted value need follow it, and no exponential overflows.
A match replaces the equation that yields its result; what nothing else needs is dropped as dead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.surrogate.program import TAP, Atom, Constant, Equation, Program, Variable

Producers = dict[Variable, Equation]
Match = tuple[tuple[Atom, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """Several equations that mean one operation; stands where a primitive does."""

    name: str
    match: Callable[[Equation, Producers], Match | None]
    multiple_results: bool = False
    active: int = 1  # how many of its operands may depend on x

    def bind(self, *values: Any, spelling: Program, **params: Any) -> Any:
        """The value as the program itself computes it, to the last bit."""
        return spelling.evaluate(*values)[0]


def replace(prog: Program, wanted: Sequence[Pattern], active: Container[Atom] = ()) -> Program:
    """The program with the wanted patterns put in place of the equations that spell them.

    A pattern has one operand that depends on x (is `active`), or as many as it says; others are
    constants to its rule.
    """
    if not wanted:
        return prog
    producers = prog.producers()
    places = {equation: place for place, equation in enumerate(prog.equations)}

    def rewrite(equation: Equation) -> Equation:
        for pattern in wanted:
            found = pattern.match(equation, producers)
            if found is not None and not any(o in active for o in found[0][pattern.active :]):
                inputs, params = found
                spelling, others = _spelling(prog, equation, inputs, places, producers)
                return dataclasses.replace(
                    equation,
                    primitive=pattern,
                    inputs=(*inputs, *others),
                    params=params | {"spelling": spelling},
                )
        return equation

    rewritten = tuple(rewrite(equation) for equation in prog.equations)
    return dataclasses.replace(prog, equations=rewritten).without_dead_code()


def _spelling(
    prog: Program,
    equation: Equation,
    inputs: Sequence[Atom],
    places: dict[Equation, int],
    producers: Producers,
) -> tuple[Program, tuple[Variable, ...]]:
    """The equations from a match's inputs to its result, and the variables that they read besides.

    A shift that does not depend on the inputs is such a variable.
    """
    makers = [producers.get(atom) for atom in inputs if isinstance(atom, Variable)]
    begin = min(-1 if maker is None else places[maker] for maker in makers)
    between = prog.equations[begin + 1 : places[equation] + 1]
    known: set[Atom] = set(inputs)
    steps = []
    for step in between:
        if not known.isdisjoint(step.inputs) and known.isdisjoint(step.outputs):
            steps.append(step)
            known.update(step.outputs)
    needed, kept = {equation.outputs[0]}, []
    for step in reversed(steps):
        if not needed.isdisjoint(step.outputs):
            kept.append(step)
            needed.update(atom for atom in step.inputs if isinstance(atom, Variable))
    made = {output for step in kept for output in step.outputs}
    free = [atom for atom in needed if atom not in made and atom not in inputs]
    fills = [step for atom in free for step in _fill(atom, producers)]
    others = tuple(atom for atom in free if not _fill(atom, producers))
    names = [a if isinstance(a, Variable) else Variable(a.aval) for a in (*inputs, *others)]
    return Program(tuple(names), (*fills, *reversed(kept)), equation.outputs), others


# How a number becomes an array of it; the last two say that it may differ between devices, and are
# what becomes of a literal under `jax.shard_map`.
_FILLS = ("broadcast_in_dim", "convert_element_type", "pvary", "pcast")


def _fill(atom: Atom, producers: Producers) -> list[Equation]:
    """The equations that spread a constant, if that is what a value is."""
    steps = []
    while (maker := _producer(atom, producers, *_FILLS)) is not None:
        steps.append(maker)
        atom = maker.inputs[0]
    return steps[::-1] if isinstance(atom, Constant) else []


# Looking backwards through a program.


def _producer(atom: Atom, producers: Producers, *names: str) -> Equation | None:
    """The equation that makes this value, if its primitive is one of these."""
    equation = producers.get(atom) if isinstance(atom, Variable) else None
    return equation if equation is not None and equation.primitive.name in names else None


def _unwrap(atom: Atom, producers: Producers, *names: str) -> Atom:
    """The value under any number of equations of these names."""
    while (equation := _producer(atom, producers, *names)) is not None:
        atom = equation.inputs[0]
    return atom


def _unshape(atom: Atom, producers: Producers) -> Atom:
    return _uncast(atom, producers, "broadcast_in_dim", "reshape", "squeeze")


def _uncast(atom: Atom, producers: Producers, *names: str) -> Atom:
    """The value under equations of these names, and casts between real numbers."""
    while (equation := _producer(atom, producers, "convert_element_type", *names)) is not None:
        if not jnp.issubdtype(equation.inputs[0].aval.dtype, jnp.floating):
            break
        atom = equation.inputs[0]
    return atom


def _is_constant_along(atom: Atom, axes: Sequence[int], ndim: int, producers: Producers) -> bool:
    """Whether a value provably does not vary along these axes of the array it is combined with."""
    shape = atom.aval.shape
    if len(shape) != ndim or all(shape[axis] == 1 for axis in axes):
        return len(shape) == 0 or len(shape) == ndim
    equation = _producer(atom, producers, "broadcast_in_dim", "stop_gradient")
    if equation is None:
        return False
    inner = equation.inputs[0]
    if equation.primitive.name == "stop_gradient":
        return _is_constant_along(inner, axes, ndim, producers)
    source = {
        target: inner.aval.shape[position]
        for position, target in enumerate(equation.params["broadcast_dimensions"])
    }
    return all(source.get(axis, 1) == 1 for axis in axes)


def _unshifted(atom: Atom, axes: Sequence[int], producers: Producers) -> Atom:
    """x for x - shift, where the shift is one number along `axes`."""
    equation = _producer(atom, producers, "sub")
    if equation is not None:
        x, shift = equation.inputs
        ndim = len(atom.aval.shape)
        if x.aval.shape == atom.aval.shape and _is_constant_along(shift, axes, ndim, producers):
            return x
    return atom


def _sum_of_exp(atom: Atom, producers: Producers) -> tuple[Atom, tuple[int, ...]] | None:
    """(t, axes) for a reshaped sum(exp(t), axes); `where=` masks both t and its exponential."""
    total = _producer(_unshape(atom, producers), producers, "reduce_sum")
    if total is None:
        return None
    axes = tuple(total.params["axes"])
    summed = _uncast(total.inputs[0], producers)  # half sums in float32
    chosen = _producer(summed, producers, "select_n")
    if chosen is not None and len(chosen.inputs) == 3:
        mask, masked, summed = chosen.inputs
        exp = _producer(summed, producers, "exp")
        t = None if exp is None else _unshifted(exp.inputs[0], axes, producers)
        inner = None if t is None else _producer(t, producers, "select_n")
        if inner is None or inner.inputs[0] is not mask or len(inner.inputs) != 3:
            return None
        if not (_is(masked, 0, producers) and _is(inner.inputs[1], -np.inf, producers)):
            return None
    exp = _producer(summed, producers, "exp")
    return None if exp is None else (exp.inputs[0], axes)


def _spreads(atom: Atom, shape: Sequence[int], axes: Sequence[int], producers: Producers) -> bool:
    """Whether `atom`, a reduction over `axes`, is spread back over them and nowhere else."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    while isinstance(atom, Variable):
        dims = atom.aval.shape
        if not dims and not kept:
            return True
        if len(dims) != len(shape) or any(dims[axis] != shape[axis] for axis in kept):
            return False
        equation = _producer(atom, producers, "broadcast_in_dim", "reshape", "convert_element_type")
        if equation is None:
            return all(dims[axis] == 1 for axis in axes)
        if equation.primitive.name == "convert_element_type":
            atom = equation.inputs[0]
            continue
        inner = equation.inputs[0]
        if len(inner.aval.shape) == len(kept):
            return equation.primitive.name == "reshape" or (
                list(equation.params["broadcast_dimensions"]) == kept
            )
        atom = inner
    return False


# The matchers: the equation that ends the pattern, looked at backwards.


def _match_softmax(equation: Equation, producers: Producers) -> Match | None:
    """exp(t) / sum(exp(t))."""
    if equation.primitive.name != "div":
        return None
    numerator, denominator = equation.inputs
    found = _sum_of_exp(denominator, producers)
    exp = _producer(numerator, producers, "exp")
    if found is None or exp is None or exp.inputs[0] is not found[0]:
        return None
    t, axes = found
    if equation.aval.shape != t.aval.shape:
        return None
    if not _spreads(denominator, t.aval.shape, axes, producers):
        return None
    return (_unshifted(t, axes, producers),), {"axes": axes}


def _match_log_softmax(equation: Equation, producers: Producers) -> Match | None:
    """t - log(sum(exp(t))), or x - logsumexp(x)."""
    if equation.primitive.name != "sub":
        return None
    t, subtracted = equation.inputs
    total = _producer(_unshape(subtracted, producers), producers, "log", "add")
    found = None if total is None else _match_logsumexp(total, producers)
    if found is None or found[0] != (t,):
        return None
    axes = found[1]["axes"]
    # Where the sum was reshaped before the logarithm it must still line up with t.
    if total is None or not _less_than(equation, total, axes, producers):
        return None
    return (_unshifted(t, axes, producers),), {"axes": axes}


def _match_shifted(equation: Equation, producers: Producers) -> Match | None:
    """x - max(x)."""
    if equation.primitive.name != "sub":
        return None
    x, subtracted = equation.inputs
    top = _producer(_unshape(subtracted, producers), producers, "reduce_max")
    if top is None or top.inputs[0] is not x:
        return None
    axes = tuple(top.params["axes"])
    return ((x,), {"axes": axes}) if _less_than(equation, top, axes, producers) else None


def _less_than(
    equation: Equation, total: Equation, axes: tuple[int, ...], producers: Producers
) -> bool:
    """Whether a difference is of an array and of a reduction of it, spread over these axes."""
    x, subtracted = equation.inputs
    kept = tuple(size for axis, size in enumerate(x.aval.shape) if axis not in axes)
    keepdims = tuple(1 if axis in axes else size for axis, size in enumerate(x.aval.shape))
    return (
        total.aval.shape in (kept, keepdims)
        and equation.aval.shape == x.aval.shape
        and _spreads(subtracted, x.aval.shape, axes, producers)
    )


def _weighted_sum_of_exp(atom: Atom, producers: Producers) -> tuple[Any, ...] | None:
    """(t, axes, *weight) for a reshaped sum(weight · exp(t), axes); a mask is a weight."""
    found = _sum_of_exp(atom, producers)
    total = _producer(_unshape(atom, producers), producers, "reduce_sum")
    if found is not None or total is None:
        return found
    summed = _uncast(total.inputs[0], producers)
    combined = _producer(summed, producers, "mul", "select_n")
    if combined is None:
        return None
    candidates = [combined.inputs, combined.inputs[::-1]]
    if combined.primitive.name == "select_n":
        mask, masked, chosen, *more = combined.inputs
        if more or mask.aval.dtype != bool or not _is_zero(masked, producers):
            return None
        candidates = [(chosen, mask)]
    for chosen, weight in candidates:
        exp = _producer(chosen, producers, "exp")
        if exp is None or exp.aval.shape != combined.aval.shape:
            continue
        if jnp.broadcast_shapes(weight.aval.shape, exp.aval.shape) == exp.aval.shape:
            return exp.inputs[0], tuple(total.params["axes"]), weight
    return None


def _match_logsumexp(equation: Equation, producers: Producers) -> Match | None:
    """log(sum(w exp(t))), or log(sum(w exp(x - shift))) + shift, with or without weights w."""
    if equation.primitive.name == "select_n":
        return _match_guarded(equation, producers)
    shift: Atom | None = None
    ending: Equation | None = equation
    if equation.primitive.name == "add":
        first, shift = equation.inputs
        ending = _producer(first, producers, "log")
    if ending is None or ending.primitive.name != "log":
        return None
    total = _unwrap(ending.inputs[0], producers, "abs")
    found = _weighted_sum_of_exp(total, producers)
    if found is None:
        return None
    t, axes, *weight = found
    if shift is not None:
        inner = _producer(t, producers, "sub")
        x = _unshifted(t, axes, producers)
        if inner is None or x is t:
            return None
        same = _unshape(inner.inputs[1], producers) is _unshape(shift, producers)
        if not same or not shift.aval.shape == ending.aval.shape == equation.aval.shape:
            return None
        t = x
    if equation.aval.size * math.prod(t.aval.shape[axis] for axis in axes) != t.aval.size:
        return None  # spread again, before the logarithm
    signed = total is not ending.inputs[0]
    return (t, *weight), {"axes": axes, "weighted": bool(weight), "signed": signed}


def _match_guarded(equation: Equation, producers: Producers) -> Match | None:
    """where(sign(sum) < 0, nan, logsumexp): JAX's guard of a weighted one."""
    if len(equation.inputs) != 3 or not _is(equation.inputs[2], np.nan, producers):
        return None
    guarded = _producer(equation.inputs[1], producers, "add", "log")
    compare = _producer(equation.inputs[0], producers, "lt")
    sign = None if compare is None else _producer(compare.inputs[0], producers, "sign")
    found = None if guarded is None else _match_logsumexp(guarded, producers)
    if sign is None or found is None or guarded is None:
        return None
    log = (
        guarded
        if guarded.primitive.name == "log"
        else _producer(guarded.inputs[0], producers, "log")
    )
    if log is None or _unwrap(log.inputs[0], producers, "abs") is not sign.inputs[0]:
        return None
    return found[0], found[1] | {"signed": False}


def _match_relu(equation: Equation, producers: Producers) -> Match | None:
    """max(x, 0), or where(x > 0, x, 0)."""
    if equation.primitive.name == "max":
        for x, zero in (equation.inputs, equation.inputs[::-1]):
            if _is_zero(zero, producers) and x.aval.shape == equation.aval.shape:
                return (x,), {}
    if equation.primitive.name == "select_n" and len(equation.inputs) == 3:
        predicate, when_false, when_true = equation.inputs
        compare = _producer(predicate, producers, "gt", "ge", "lt", "le")
        if compare is None:
            return None
        left, right = compare.inputs
        if compare.primitive.name in ("lt", "le"):
            left, right = right, left
        if _is_zero(right, producers):  # left > 0
            x, chosen, other = left, when_true, when_false
        elif _is_zero(left, producers):  # 0 > right
            x, chosen, other = right, when_false, when_true
        else:
            return None
        if chosen is x and _is_zero(other, producers):
            return (x,), {}
    return None


def _match_tap(equation: Equation, producers: Producers) -> Match | None:
    """value + probe, where the probe is named as one."""
    if equation.primitive.name != "add":
        return None
    value, probe = equation.inputs
    named = _producer(probe, producers, "name")
    if named is None or named.params["name"] != TAP:
        return None
    return (value, named.inputs[0]), {}


def _is_zero(atom: Atom, producers: Producers) -> bool:
    return _is(atom, 0, producers)


def _is(atom: Atom, number: float, producers: Producers) -> bool:
    """Whether a value is known to be this number everywhere."""
    atom = _unwrap(atom, producers, *_FILLS)
    if not isinstance(atom, Constant) or isinstance(atom.value, jax.core.Tracer):
        return False
    values = np.asarray(atom.value)
    return bool(np.all(np.isnan(values) if np.isnan(number) else values == number))


def logsumexp_of(x: Any, weight: Any, *, axes: tuple[int, ...], signed: bool = False) -> Any:
    """log |Σ w exp(x)| over `axes`, which are kept; a weight of 0 hides whatever x is there.

    Unless `signed`: nan where the sum is negative.
    """
    seen = jnp.broadcast_to(weight != 0, x.shape)
    top = jnp.max(jnp.where(seen, x, -jnp.inf), axis=axes, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    terms = jnp.where(seen, weight * jnp.exp(jnp.where(seen, x - top, 0)), 0)
    total = jnp.sum(terms, axis=axes, keepdims=True)
    return jnp.log(jnp.abs(total) if signed else total) + top


softmax = Pattern("softmax", _match_softmax)
log_softmax = Pattern("log_softmax", _match_log_softmax)
logsumexp = Pattern("logsumexp", _match_logsumexp)
shifted = Pattern("shifted", _match_shifted)
relu = Pattern("relu", _match_relu)
tap = Pattern("tap", _match_tap, active=2)
