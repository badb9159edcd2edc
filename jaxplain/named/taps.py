"""Named values of a traced program: found, read and replaced, wherever they stand.

A name is an equation (`name`, JAX's own of `checkpoint_name`) that is the identity.  A program is
evaluated again equation by equation only around the names that are asked for; everything else is
bound as it was traced, custom derivatives included.  Out of a scan a value comes with the steps
stacked in front, and into a scan a replacement goes one step at a time.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxplain import _patterns
from jaxplain._numerics.cpu_layout import channels_last
from jaxplain.surrogate import compat, primitives, staging, walk
from jaxplain.surrogate.program import TAP
from jaxplain.surrogate.walk import reaches

At = str | Sequence[str]
Path = tuple[int, ...]  # of equations and, below a call, of its bodies
Edit = Callable[..., Any]  # (value) or (value, input) → what stands in its place
Values = dict[str, Any]

(_NAME,) = compat.resolve(["name"])


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a name stands, and the value that it names, with the steps of scans in front."""

    path: Path
    value: jax.ShapeDtypeStruct
    steps: tuple[int, ...]


def sites(closed_jaxpr: Any) -> dict[str, Site]:
    """The program's names in order; one that occurs several times is numbered, as in 'h#0'."""
    found = list(_sites(closed_jaxpr))
    total = collections.Counter(name for name, _ in found)
    seen: collections.Counter[str] = collections.Counter()
    numbered = {}
    for name, site in found:
        numbered[f"{name}#{seen[name]}" if total[name] > 1 else name] = site
        seen[name] += 1
    return numbered


def _sites(jaxpr: Any) -> Iterator[tuple[str, Site]]:
    scans: dict[Path, int] = {}
    for path, eqn in walk.equations(jaxpr):
        if eqn.primitive.name == "scan":
            scans[path] = eqn.params["length"]
        if eqn.primitive is _NAME:
            steps = tuple(n for around, n in scans.items() if path[: len(around)] == around)
            aval = eqn.outvars[0].aval
            value = jax.ShapeDtypeStruct(
                (*steps, *aval.shape), aval.dtype, manual_axis_type=aval.manual_axis_type
            )
            yield eqn.params["name"], Site(path, value, steps)


def select(found: Mapping[str, Site], at: At) -> list[str]:
    """The names that `at` asks for, a name or a pattern, or several of them, in their order."""
    asked = [at] if isinstance(at, str) else list(at)
    matched = set()
    for pattern in asked:
        matches = _patterns.fitting(found, pattern)
        if not matches:
            wider = pattern.replace("**", "*").replace("*", "**")
            deeper = _patterns.fitting(found, wider)
            hint = f", but by {wider!r} is, for `*` stops at a slash" if deeper else ""
            raise ValueError(f"nothing is named {pattern!r}{hint}. {_listing(found)}")
        matched.update(matches)
    return [name for name in found if name in matched]


def _listing(found: Mapping[str, Site]) -> str:
    if not found:
        return "There are no names: put `jaxplain.tag(value, name)` around values of interest."
    lines = (f"  {n}: {s.value.dtype.name}{list(s.value.shape)}" for n, s in found.items())
    return "The names there are:\n" + "\n".join(lines)


def evaluate(
    closed_jaxpr: Any,
    operands: Sequence[Any],
    *,
    keep: Sequence[str] = (),
    edits: Mapping[str, Edit] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[list[Any], Values]:
    """The program's outputs, and the values of the names in `keep`, as they were before an edit.

    `edits[name]` is called with the value (of one step, inside scans), and with `inputs[name]`
    (the step's, which is stacked like the value) where there is one.
    """
    edits, inputs = dict(edits or {}), dict(inputs or {})
    if not edits and not keep:
        return compat.evaluate(closed_jaxpr, operands), {}
    found = sites(closed_jaxpr)
    asked = {name: found[name] for name in found if name in edits or name in keep}
    outputs, kept = _Editor(asked, keep, edits).evaluate(closed_jaxpr, operands, (), inputs)
    return outputs, {name: kept[name] for name in keep}


class _Editor:
    """The visitor that reads and replaces the values of names."""

    def __init__(self, asked: Mapping[str, Site], keep: Sequence[str], edits: Mapping[str, Edit]):
        self.names = {site.path: name for name, site in asked.items()}
        self.keep = frozenset(keep)
        self.edits = edits

    def below(self, path: Path) -> list[str]:
        """The names that are asked for inside an equation."""
        depth = len(path)
        return [name for where, name in self.names.items() if where[:depth] == path]

    def evaluate(
        self, closed_jaxpr: Any, operands: Sequence[Any], path: Path, inputs: Values
    ) -> tuple[list[Any], Values]:
        kept: Values = {}

        def visit(number: int, eqn: Any, values: list[Any]) -> list[Any]:
            here = (*path, number)
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
        self, eqn: Any, values: list[Any], name: str, inputs: Values
    ) -> tuple[list[Any], Values]:
        (value,) = values
        kept = {name: value} if name in self.keep else {}
        if name in self.edits:
            given = (inputs[name],) if name in inputs else ()
            with compat.source_of(eqn):
                values = [replacement(self.edits[name](value, *given), value, name)]
        return compat.bind(eqn, values), kept

    def _enter(
        self, eqn: Any, values: list[Any], here: Path, inputs: Values
    ) -> tuple[list[Any], Values]:
        """An equation with names inside, emitted again around the visit of its bodies."""
        names = self.below(here)
        inputs = {name: inputs[name] for name in names if name in inputs}

        def again(body: Any, j: int) -> walk.Body:
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

    def _refuse_edits(self, eqn: Any, names: list[str]) -> None:
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


# What a method's `at=` stands on.


@dataclasses.dataclass(frozen=True)
class Tapped:
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
    x: Any
    reference: Callable[[Any], Any]
    value_at: Callable[[Any], Any]  # a reference → f's scalar there

    def values(self, x: Any) -> Values:
        """The values at an input."""
        return self.function(x, self.probes)[1]

    def gradient(self, x: Any) -> Values:
        """∂f/∂value at an input, for all of them."""
        return self.gradient_and_values(x)[0]

    def gradient_and_values(self, x: Any) -> tuple[Values, Values]:
        """Both, of one forward pass."""
        return jax.grad(lambda probes: self.function(x, probes), has_aux=True)(self.probes)

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


def tapped(f: Callable[..., Any], at: At, args: Sequence[Any], argnums: Any = 0) -> Tapped:
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
        raise TypeError(f"no floating value is named by {at!r}. {_listing(found)}")

    def edited(edit: Edit) -> Callable[[Any, Values], tuple[Any, Values]]:
        def function(x: Any, inputs: Values) -> tuple[Any, Values]:
            outputs, kept = evaluate(
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
    whole = Tapped(
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


def _beside_integers(tap: Tapped, moved: Callable[[Any, Values], tuple[Any, Values]]) -> Tapped:
    """The same as a function of `Moving`."""
    leaves, tree = jax.tree.flatten(tap.x)
    is_floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    feeds = _feeds(tap)
    first = [v for v in feeds if all(u in feeds[v] for u in feeds if v in feeds[u])]

    def floats_of(x: Any) -> list[Any]:
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

    def end(x: Any) -> Moving:
        floats, values = floats_of(x), tap.values(x)
        there = {name: values[name] for name in first}
        before = tap.replaced(with_floats(floats), there)[1]
        loops = [name for name in first if name in feeds[name]]
        shifts = {name: there.pop(name) - before[name] for name in loops}
        return Moving(floats, there, shifts)

    return dataclasses.replace(
        tap,
        function=function,
        replaced=lambda x, values: tap.replaced(with_floats(x.floats), values),
        mixed=lambda x, values: tap.mixed(with_floats(x.floats), values),
        x=end(tap.x),
        reference=lambda ref: end(tap.reference(ref)),
    )


def one_by_one(
    method: Callable[..., Any], f: Callable[..., Any], at: At, ref: Any, argnums: Any = 0
) -> Callable[..., Any]:
    """`method(like, value, ref)` for each value by itself, of methods that put elements to `ref`.

    `like` is an array like the named value, `value(mask, ref)` f with `ref` where the mask is
    False; the other elements stay as f computes them: in a scan they follow what was replaced a
    step before.  `ref` is the value's, or {name: its}.
    """

    def explain(*args: Any) -> Any:
        tap = tapped(f, at, args, argnums)
        results = {}
        for name, probe in tap.probes.items():
            own = ref[name] if isinstance(ref, Mapping) else ref
            value = lambda mask, ref, name=name: tap.mixed(tap.x, {name: (ref, ~mask)})[0]
            results[name] = method(probe, value, own)
        return tap.result(results)

    return explain


def straight(
    method: Callable[..., Any], f: Callable[..., Any], at: At, ref: Any, argnums: Any = 0
) -> Callable[..., Any]:
    """`method(upper, h_ref)(h)`, where `upper` is f as a function of the values that `at` names.

    Values that do not depend on each other are one cut of f and move together; one that another
    feeds has a turn of its own, and so has each step of a scan that feeds the next.
    """

    def explain(*args: Any) -> Any:
        tap = tapped(f, at, args, argnums)
        values, origin = tap.values(tap.x), tap.values(tap.reference(ref))
        results = {}
        for group, by_step in _apart(tap):
            h, h0 = ({name: v[name] for name in group} for v in (values, origin))
            if by_step:
                scores = _step_by_step(method, tap, h, h0)
            else:
                scores = method(lambda h: tap.replaced(tap.x, h)[0], h0)(h)
            results.update(_by_name(scores, group))
        return _joined(tap, results)

    return explain


def _step_by_step(method: Callable[..., Any], tap: Tapped, h: Values, h0: Values) -> Any:
    """`method(upper, h0)(h)` for each step of a scan, while the others follow; stacked."""
    (steps,) = {tap.sites[name].steps for name in h}
    count, depth = math.prod(steps), len(steps)

    def turn(step: Any) -> Any:
        here = (jnp.arange(count) == step).reshape(steps)

        def upper(own: Values) -> Any:
            spread = lambda name: jnp.broadcast_to(own[name], h[name].shape)
            return tap.mixed(tap.x, {name: (spread(name), here) for name in own})[0]

        one = lambda v: v.reshape(count, *v.shape[depth:])[step]
        return method(upper, jax.tree.map(one, h0))(jax.tree.map(one, h))

    stacked = jax.lax.map(channels_last(turn), jnp.arange(count))
    return jax.tree.map(lambda v: v.reshape(*steps, *v.shape[1:]), stacked)


def _feeds(tap: Tapped) -> dict[str, set[str]]:
    """The names that each name feeds, itself among them where it does by the steps of a scan."""
    jaxpr = jax.make_jaxpr(lambda probes: tap.function(tap.x, probes)[1])(tap.probes)
    names = sorted(tap.probes)  # as a dict's leaves are
    return {
        name: {
            other
            for other, fed in zip(names, reaches(jaxpr, [n == name for n in names]), strict=True)
            if fed
        }
        for name in names
    }


def _apart(tap: Tapped) -> list[tuple[list[str], bool]]:
    """Names of which none feeds another, and whether each feeds itself, by the steps of a scan."""
    feeds = _feeds(tap)

    def together(a: str, b: str) -> bool:
        loops = [tap.sites[n].steps if n in feeds[n] else None for n in (a, b)]
        return a not in feeds[b] and b not in feeds[a] and loops[0] == loops[1]

    groups: list[list[str]] = []
    for name in tap.probes:
        for group in groups:
            if all(together(name, other) for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return [(group, group[0] in feeds[group[0]]) for group in groups]


def _by_name(result: Any, group: list[str]) -> dict[str, Any]:
    """{name: contributions, or (contributions, what else the method returned)}."""
    if isinstance(result, tuple):
        scores, *rest = result
        return {name: (scores[name], *rest) for name in group}
    return {name: result[name] for name in group}


def _joined(tap: Tapped, results: dict[str, Any]) -> Any:
    """What `_by_name` took apart, with the names inside a tuple of results."""
    if any(isinstance(result, tuple) for result in results.values()):
        return tuple(
            tap.result(dict(zip(results, column, strict=True)))
            for column in zip(*results.values(), strict=True)
        )
    return tap.result(results)
