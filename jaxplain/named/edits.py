"""Named values read and replaced, wherever they stand.

A program is evaluated again equation by equation only around the names that are asked for;
everything else is bound as it was traced, custom derivatives included.  Into a scan a replacement
goes one step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.named.sites import NAME, Site, sites
from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.walk import Address

Edit = Callable[..., Any]  # (value) or (value, input) → what stands in its place
Values = dict[str, Any]


def read_and_edit(
    closed_jaxpr: ClosedJaxpr,
    operands: Sequence[Any],
    *,
    keep: Sequence[str] = (),
    edits: Mapping[str, Edit] | None = None,
    inputs: Mapping[str, Any] | None = None,
    found: Mapping[str, Site] | None = None,
) -> tuple[list[Any], Values]:
    """The program's outputs, and the values of the names in `keep`, as they were before an edit.

    Names are the program's own, unless others are given for what its equations compute.

    `edits[name]` is called with the value (of one step, inside scans), and with `inputs[name]`
    (the step's, which is stacked like the value) where there is one.
    """
    edits, inputs = dict(edits or {}), dict(inputs or {})
    if not edits and not keep:
        return compat.evaluate(closed_jaxpr, operands), {}
    found = sites(closed_jaxpr) if found is None else found
    asked = {name: found[name] for name in found if name in edits or name in keep}
    outputs, kept = _Editor(asked, keep, edits).evaluate(closed_jaxpr, operands, (), inputs)
    return outputs, {name: kept[name] for name in keep}


class _Editor:
    """The visitor that reads and replaces the values of names."""

    def __init__(self, asked: Mapping[str, Site], keep: Sequence[str], edits: Mapping[str, Edit]):
        self.names = {site.address: name for name, site in asked.items()}
        self.keep = frozenset(keep)
        self.edits = edits

    def below(self, around: Address) -> list[str]:
        """The names that are asked for inside an equation."""
        depth = len(around)
        return [name for where, name in self.names.items() if where[:depth] == around]

    def evaluate(
        self, closed_jaxpr: ClosedJaxpr, operands: Sequence[Any], around: Address, inputs: Values
    ) -> tuple[list[Any], Values]:
        kept: Values = {}

        def visit(number: int, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
            here = (*around, number)
            if here in self.names:
                outputs, inner = self._visit(eqn, values, self.names[here], inputs)
            elif self.below(here):
                outputs, inner = self._enter(eqn, values, here, inputs)
            else:
                outputs, inner = compat.bind(eqn, values), {}
            kept.update(inner)
            return outputs

        return walk.walk(closed_jaxpr, operands, visit), kept

    def _visit(
        self, eqn: JaxprEqn, values: list[Any], name: str, inputs: Values
    ) -> tuple[list[Any], Values]:
        is_tag = eqn.primitive is NAME
        (value,) = values if is_tag else compat.bind(eqn, values)
        kept = {name: value} if name in self.keep else {}
        if name in self.edits:
            given = (inputs[name],) if name in inputs else ()
            with compat.source_of(eqn):
                value = replacement(self.edits[name](value, *given), value, name)
        return compat.bind(eqn, [value]) if is_tag else [value], kept

    def _enter(
        self, eqn: JaxprEqn, values: list[Any], here: Address, inputs: Values
    ) -> tuple[list[Any], Values]:
        """An equation with names inside, emitted again around the visit of its bodies."""
        names = self.below(here)
        inputs = {name: inputs[name] for name in names if name in inputs}

        def again(body: ClosedJaxpr, j: int) -> walk.Body:
            return lambda operands, inputs: self.evaluate(body, operands, (*here, j), inputs)

        inner = [again(body, j) for j, body in enumerate(walk.bodies(eqn))]
        if primitives.facts(eqn.primitive).derivative:
            self._refuse_edits(eqn, names)
            # Read from the body, while the outputs keep their own derivative.
            return compat.bind(eqn, values), inner[0](values, inputs)[1]
        if not walk.emits(eqn) or eqn.primitive.name == "shard_map":
            raise ValueError(
                f"{names[0]!r} stands inside a {compat.inner_name(eqn)!r} at "
                f"{compat.user_line([eqn])}, which no value can be read from or put into"
                + (": use `jax.lax.scan`, or `fori_loop` with a trip count known at trace time."
                   if eqn.primitive.name == "while" else ".")
            )  # fmt: skip
        return walk.emit(eqn, inner, values, inputs)

    def _refuse_edits(self, eqn: JaxprEqn, names: list[str]) -> None:
        if any(name in self.edits for name in names):
            raise ValueError(
                f"{names[0]!r} stands inside a function with a derivative of its own "
                f"({eqn.primitive.name} at {compat.user_line([eqn])}): what is put in its place "
                "could not be differentiated. Put the tag around the function."
            )


def replacement(array: Any, value: Any, name: str) -> Any:
    """The array, like the value in whose place it is put."""
    try:
        return jnp.broadcast_to(jnp.asarray(array).astype(value.dtype), value.shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"what stands in for {name!r} must broadcast to its shape {value.shape} (of one step, "
            f"for a function inside a scan), and has the shape {jnp.shape(array)}"
        ) from None


def masked_input(array: Any, mask: Any, value: Any, name: str) -> tuple[Any, Any]:
    """What `masked` puts in a value's place, and where, both spread over the value."""
    shape = jax.ShapeDtypeStruct(value.shape, bool)
    return replacement(array, value, name), replacement(mask, shape, name)


def masked(value: Any, given: tuple[Any, Any]) -> Any:
    """An edit of a value's elements where a mask is True; the others stay as they are computed."""
    array, mask = given
    return jnp.where(mask, array, value)
