"""Calls by name, and other functions in their place: open ones for fused kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.surrogate import compat, primitives, walk

Calls = Mapping[str, Callable[..., Any]]


def substituted(closed_jaxpr: ClosedJaxpr, operands: Sequence[Any], calls: Calls) -> list[Any]:
    """A program's outputs with these functions in the place of the calls of their names."""
    found = list(_names(closed_jaxpr))
    for name in calls:
        if name not in dict(found):
            raise ValueError(f"nothing that f calls is named {name!r}. {_listing(found)}")
    return _evaluate(closed_jaxpr, operands, calls)


def _names(closed_jaxpr: ClosedJaxpr) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a kernel) of every call, in order, less what is inside a kernel."""
    kernels: set[walk.Address] = set()
    for address, equation in walk.equations(closed_jaxpr):
        inside = any(address[: len(kernel)] == kernel for kernel in kernels)
        name = compat.call_name(equation)
        if name is None or inside:
            continue
        is_kernel = primitives.facts(equation.primitive).group == "foreign"
        if is_kernel:
            kernels.add(address)
        yield name, is_kernel


def _listing(found: Sequence[tuple[str, bool]]) -> str:
    kernels = sorted({name for name, is_kernel in found if is_kernel})
    others = sorted({name for name, is_kernel in found} - set(kernels))
    if not found:
        return "It calls nothing."
    named = [f"kernels {kernels}"] if kernels else []
    return "There are " + " and ".join([*named, *([f"functions {others}"] if others else [])]) + "."


def _evaluate(closed_jaxpr: ClosedJaxpr, operands: Sequence[Any], calls: Calls) -> list[Any]:
    def visit(_: int, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        name = compat.call_name(equation)
        if name is not None and name in calls:
            return _instead(equation, values, name, calls[name])
        bodies = walk.bodies(equation)
        if not any(other in calls for body in bodies for other, _ in _names(body)):
            return compat.bind(equation, values)
        return _opened(equation, values, bodies, calls)

    return walk.walk(closed_jaxpr, operands, visit)


def _opened(
    equation: JaxprEqn, values: list[Any], bodies: Sequence[ClosedJaxpr], calls: Calls
) -> list[Any]:
    """An equation around a call: its own derivative, where it has one, goes with the call's."""
    if primitives.facts(equation.primitive).derivative:
        return _evaluate(bodies[0], values, calls)
    if not walk.emits(equation):
        raise ValueError(
            f"a call that is to be substituted stands inside a {compat.inner_name(equation)!r} at "
            f"{compat.user_line([equation])}, which can't be opened: substitute what is around it"
        )

    def again(body: ClosedJaxpr) -> walk.Body:
        return lambda operands, extra: (_evaluate(body, operands, calls), extra)

    return walk.emit(equation, list(map(again, bodies)), values)[0]


def _instead(
    equation: JaxprEqn, values: list[Any], name: str, function: Callable[..., Any]
) -> list[Any]:
    """What the function gives for the call's operands, checked to be like the call's outputs."""
    with compat.source_of(equation):
        outputs = list(map(jax.numpy.asarray, jax.tree.leaves(function(*values))))
    wanted, given = (_kinds(var.aval for var in equation.outvars), _kinds(outputs))
    if wanted != given:
        operands = _kinds(map(jax.numpy.asarray, values))
        raise ValueError(
            f"what stands in for {name!r} must return {_described(wanted)}, of operands "
            f"{_described(operands)}, and returned {_described(given)}"
        )
    return outputs


def _kinds(values: Iterable[Any]) -> list[tuple[tuple[int, ...], Any]]:
    return [(value.shape, value.dtype) for value in values]


def _described(kinds: Sequence[tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{dtype.name}{list(shape)}" for shape, dtype in kinds) or "nothing"
