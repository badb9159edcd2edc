"""f with a probe of zeros beside each named value: what a method's `at=` stands on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxplain._types import Argnums, Function, Tree
from jaxplain.named.edits import Edit, Values, masked, read_and_edit
from jaxplain.named.sites import At, Site, listing, select, sites
from jaxplain.surrogate import compat, staging
from jaxplain.surrogate.program import TAP
from jaxplain.surrogate.walk import reaches


@dataclasses.dataclass(frozen=True)
class Probed:
    """f with a probe of zeros added to every value that `at` asks for.

    A derivative in the probes is the one in the values: of all of them in one backward pass, and
    nothing below them is differentiated. "x" is here what moves, `x` and `reference(ref)` being its
    ends: f's own x, or for one with integers what `Moving` says.
    """

    function: Callable[[Any, Values], tuple[Any, Values]]  # x, probes → f's scalar, the values
    replaced: Callable[[Any, Values], tuple[Any, Values]]  # x, values in place of theirs → the same
    mixed: Callable[[Any, Values], tuple[Any, Values]]  # x, (values, masks) → the same, if masked
    probes: Values
    sites: Mapping[str, Site]
    single: bool  # one name, rather than several or a pattern
    x: Tree
    reference: Callable[[Any], Any]
    value_at: Callable[[Any], Any]  # a reference → f's scalar there

    def values(self, x: Tree) -> Values:
        """The values at an input."""
        return self.function(x, self.probes)[1]

    def gradient(self, x: Tree) -> Values:
        """∂f/∂value at an input, for all of them."""
        return self.gradient_and_values(x)[0]

    def gradient_and_values(self, x: Tree) -> tuple[Values, Values]:
        """Both, of one forward pass."""
        return jax.grad(lambda probes: self.function(x, probes), has_aux=True)(self.probes)

    def feeds(self) -> dict[str, set[str]]:
        """The names that each name feeds, itself among them where it does by a scan's steps."""
        jaxpr = jax.make_jaxpr(lambda probes: self.function(self.x, probes)[1])(self.probes)
        names = sorted(self.probes)  # as a dict's leaves are

        def fed_by(name: str) -> set[str]:
            reached = reaches(jaxpr, [other == name for other in names])
            return {other for other, fed in zip(names, reached, strict=True) if fed}

        return {name: fed_by(name) for name in names}

    def result(self, values: Mapping[str, Any]) -> Any:
        """What is handed back: the one name's, or {name: its}."""
        return next(iter(values.values())) if self.single else dict(values)


class Moving(NamedTuple):
    """What moves from the reference to an x with integers, which have no way between two values.

    Integers and booleans stay x's, and so does all that they decide, but for the first of the
    values that `at` names, those that no other named one feeds: these go from what they are at the
    reference to what they are at x. One that feeds itself, in a scan, gets there by a shift that is
    added to it, so that its steps still feed each other.
    """

    floats: list[Any]  # x's floating leaves
    own: Values
    shifts: Values


def probe(f: Function, at: At, args: Sequence[Any], argnums: Argnums = 0) -> Probed:
    """f at these arguments, with probes at the floating values that `at` asks for."""
    staged = staging.stage(f, args, argnums, integers=True)
    found = sites(staged.jaxpr)
    single = isinstance(at, str) and at in found
    names = [
        name
        for name in select(found, at)
        if single or jnp.issubdtype(found[name].value.dtype, jnp.floating)
    ]
    values = {name: found[name].value for name in names}
    if not all(jnp.issubdtype(value.dtype, jnp.floating) for value in values.values()) or not names:
        raise TypeError(f"no floating value is named by {at!r}. {listing(found)}")

    def edited(edit: Edit) -> Callable[[Any, Values], tuple[Any, Values]]:
        def function(x: Tree, inputs: Values) -> tuple[Any, Values]:
            outputs, kept = read_and_edit(
                staged.jaxpr,
                jax.tree.leaves(x),
                keep=names,
                edits={name: edit for name in names if name in inputs},
                inputs=inputs,
            )
            y = jax.tree.unflatten(staged.tree, outputs)
            staging.check_scalar(y)
            return y, kept

        return function

    x = jax.tree.unflatten(jax.tree.structure(staging.pick(args, argnums)), staged.leaves)
    probes = compat.vary(compat.zeros(values), staged.varying)
    function = edited(lambda value, probe: value + checkpoint_name(probe, TAP))
    whole = Probed(
        function=function,
        replaced=edited(lambda value, other: other),
        mixed=edited(masked),
        probes=probes,
        sites={name: found[name] for name in names},
        single=single,
        x=x,
        reference=lambda ref: staging.as_reference(ref, x),
        value_at=lambda ref: function(staging.as_reference(ref, x), probes)[0],
    )
    if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in staged.leaves):
        return whole
    return _beside_integers(whole, edited(_moved))


def _moved(value: Any, given: tuple[Any, Any, Any]) -> Any:
    """A value where its own, or a shift, and a probe are put."""
    probe, own, shift = given
    value = value if own is None else own
    return (value if shift is None else value + shift) + checkpoint_name(probe, TAP)


def _beside_integers(whole: Probed, moved: Callable[[Any, Values], tuple[Any, Values]]) -> Probed:
    """The same as a function of `Moving`."""
    leaves, tree = jax.tree.flatten(whole.x)
    is_floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    feeds = whole.feeds()
    first = [v for v in feeds if all(u in feeds[v] for u in feeds if v in feeds[u])]

    def floats_of(x: Tree) -> list[Any]:
        pairs = zip(jax.tree.leaves(x), is_floating, strict=True)
        return [leaf for leaf, floating in pairs if floating]

    def with_floats(floats: list[Any]) -> Any:
        """x with other floating leaves."""
        given = iter(floats)
        pairs = zip(leaves, is_floating, strict=True)
        return jax.tree.unflatten(tree, [next(given) if own else leaf for leaf, own in pairs])

    def function(x: Moving, probes: Values) -> tuple[Any, Values]:
        floats, own, shifts = x
        inputs = {n: (probe, own.get(n), shifts.get(n)) for n, probe in probes.items()}
        y, values = moved(with_floats(floats), inputs)
        return y, {**values, **own, **{name: values[name] + s for name, s in shifts.items()}}

    def end(x: Tree) -> Moving:
        floats, values = floats_of(x), whole.values(x)
        there = {name: values[name] for name in first}
        before = whole.replaced(with_floats(floats), there)[1]
        loops = [name for name in first if name in feeds[name]]
        shifts = {name: there.pop(name) - before[name] for name in loops}
        return Moving(floats, there, shifts)

    return dataclasses.replace(
        whole,
        function=function,
        replaced=lambda x, values: whole.replaced(with_floats(x.floats), values),
        mixed=lambda x, values: whole.mixed(with_floats(x.floats), values),
        x=end(whole.x),
        reference=lambda ref: end(whole.reference(ref)),
    )
