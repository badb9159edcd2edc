"""Look-ups: the rows of tables that a program reads by its integer input.

A table does not depend on x; its indices are elementwise functions of x's integers, wherever their
elements were moved to.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxplain.named.sites import NAME, Site
from jaxplain.surrogate import compat, primitives, walk
from jaxplain.surrogate.walk import Address

# An axis of x as (leaf, axis); None: nothing of x changes along it; UNKNOWN: elements were moved.
Axis = tuple[int, int] | str | None
UNKNOWN = "unknown"

_PASSED_ON = frozenset(
    "device_put sharding_constraint mesh_cast reshard optimization_barrier pvary pcast copy".split()
)
_REARRANGED = frozenset(
    "split stack unstack tile rev gather dynamic_slice dynamic_update_slice scatter".split()
)
_CALLS = ("calls", "control_flow")


class Each(NamedTuple):
    """An elementwise function of x's integers."""

    along: tuple[Axis, ...]  # which of x's axes each of its own is along
    steps: tuple[Axis, ...]  # and the steps of the scans around it
    hot: bool = False  # whether it is 1 where an integer equals the place along an axis, else 0


class Other(NamedTuple):
    """What depends on x in another way, or the elements of one look-up."""

    look_up: Address | None = None


State = Each | Other | None  # None: nothing of x


@dataclasses.dataclass(frozen=True)
class LookUp:
    """Where rows are read, and which of x's axes each of theirs is along, scans' steps in front."""

    site: Site
    along: tuple[Axis, ...]


def look_ups(closed_jaxpr: ClosedJaxpr, leaves: Sequence[Any]) -> dict[str, LookUp]:
    """The look-ups of a program by its integer inputs, in order of use.

    They are called as a tag right behind them says, else by the modules around them, else "table".
    """
    search = _Search()
    search.outputs(closed_jaxpr, [_of_input(i, leaf) for i, leaf in enumerate(leaves)], (), "", ())
    total = collections.Counter(found.name for found in search.found.values())
    seen: collections.Counter[str] = collections.Counter()
    named = {}
    for address in sorted(search.found):
        name, look_up = search.found[address].name, search.found[address].look_up
        named[f"{name}#{seen[name]}" if total[name] > 1 else name] = look_up
        seen[name] += 1
    return named


def _of_input(number: int, leaf: Any) -> State:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return Other()
    return Each(tuple((number, axis) for axis in range(leaf.ndim)), ())


@dataclasses.dataclass
class _Found:
    look_up: LookUp
    name: str
    tagged: bool = False


class _Search:
    """The visitor that follows x's integers to the tables that they are looked up in."""

    def __init__(self) -> None:
        self.found: dict[Address, _Found] = {}

    def outputs(
        self,
        jaxpr: ClosedJaxpr,
        states: Sequence[State],
        around: Address,
        scope: str,
        lengths: tuple[int, ...],
    ) -> list[State]:
        uses = _uses(jaxpr)

        def visit(number: int, eqn: JaxprEqn, states: list[State]) -> Sequence[State]:
            here = (*around, number)
            self.found.pop(here, None)  # of a pass over a loop's body that knew less
            states = [self.squeezed(eqn, here, state, uses) for state in states]
            if all(state is None for state in states):
                return [None] * len(eqn.outvars)
            inner = "/".join(filter(None, [scope, compat.scope(eqn)]))
            body = _Body(self, eqn, here, inner, lengths)
            name = eqn.primitive.name
            if name in _LOOPS:
                return _LOOPS[name](body, eqn, states)
            if primitives.facts(eqn.primitive).group in _CALLS:
                return body(0, states)
            return self.of_equation(eqn, states, here, inner, lengths)

        return walk.walk(jaxpr, states, visit, known=lambda _: None)

    def of_equation(
        self,
        eqn: JaxprEqn,
        states: list[State],
        here: Address,
        scope: str,
        lengths: tuple[int, ...],
    ) -> Sequence[State]:
        moved = primitives.facts(eqn.primitive).moves or eqn.primitive.name in (
            *_PASSED_ON, "convert_element_type", "reduce_precision",
        )  # fmt: skip
        if any(isinstance(state, Other) for state in states):
            if moved and isinstance(states[0], Other):
                self.tag(eqn, states[0])
                return [states[0]] * len(eqn.outvars)
            return [Other()] * len(eqn.outvars)
        row = _looked_up(eqn, states)
        if row is not None:
            aval: Any = eqn.outvars[0].aval
            if not jnp.issubdtype(aval.dtype, jnp.floating):
                return [row]  # a table of other codes
            value = jax.ShapeDtypeStruct(
                (*lengths, *aval.shape), aval.dtype, manual_axis_type=aval.manual_axis_type
            )
            site = Site(here, value, lengths)
            self.found[here] = _Found(LookUp(site, (*row.steps, *row.along)), _module(scope))
            return [Other(here)]
        return [_elementwise(eqn, states, out.aval) for out in eqn.outvars]

    def squeezed(
        self, eqn: JaxprEqn, here: Address, state: State, uses: Mapping[Any, int]
    ) -> State:
        """A row that was read as a slice of one, once that is the row itself."""
        if (
            eqn.primitive.name not in ("squeeze", "reshape")
            or not isinstance(state, Other)
            or state.look_up not in self.found
        ):
            return state
        found, (atom, *_) = self.found[state.look_up], eqn.invars
        before, after = (var.aval.shape for var in (atom, eqn.outvars[0]))  # type: ignore[attr-defined]
        if (
            found.tagged
            or state.look_up[:-1] != here[:-1]
            or uses.get(atom) != 1
            or len(after) >= len(before)
            or [size for size in after if size > 1] != [size for size in before if size > 1]
        ):
            return state
        del self.found[state.look_up]
        look_up = found.look_up
        depth = len(look_up.site.steps)
        along = _reshape({}, look_up.along[depth:], eqn.invars[0].aval, eqn.outvars[0].aval)
        value = jax.ShapeDtypeStruct(
            (*look_up.site.steps, *after), look_up.site.value.dtype,
            manual_axis_type=look_up.site.value.manual_axis_type,
        )  # fmt: skip
        moved = LookUp(Site(here, value, look_up.site.steps), (*look_up.along[:depth], *along))
        self.found[here] = _Found(moved, found.name)
        return Other(here)

    def tag(self, eqn: JaxprEqn, state: Other) -> None:
        """The name of a look-up by the first tag on its elements."""
        found = self.found.get(state.look_up) if state.look_up is not None else None
        if eqn.primitive is NAME and found is not None and not found.tagged:
            found.name, found.tagged = eqn.params["name"], True


def _uses(jaxpr: ClosedJaxpr) -> Mapping[Any, int]:
    """How often each variable of a body is read."""
    body, _ = compat.open_jaxpr(jaxpr)
    read = list(body.outvars)

    def visit(_: int, eqn: JaxprEqn, __: list[Any]) -> list[None]:
        read.extend(eqn.invars)
        return [None] * len(eqn.outvars)

    walk.walk(jaxpr, [None] * len(body.invars), visit)
    return collections.Counter(atom for atom in read if not compat.is_literal(atom))


def _module(scope: str) -> str:
    """The path of modules; what JAX adds to it has brackets, commas or arrows."""
    return "/".join(part for part in scope.split("/") if re.fullmatch(r"[\w.-]+", part)) or "table"


# One equation.


def _looked_up(eqn: JaxprEqn, states: list[State]) -> Each | None:
    """What an equation reads from a table, if it does."""
    name, rank = eqn.primitive.name, eqn.outvars[0].aval.ndim  # type: ignore[attr-defined]
    if name == "gather" and states[0] is None:
        index = states[1]
        assert isinstance(index, Each)
        offset = eqn.params["dimension_numbers"].offset_dims
        batch = iter(index.along[:-1])
        along = tuple(None if axis in offset else next(batch) for axis in range(rank))
        return Each(along, index.steps)
    if name == "dynamic_slice" and states[0] is None:
        return Each((None,) * rank, _merged([s.steps for s in states if isinstance(s, Each)]))
    if name == "dot_general" and None in states:
        return _of_one_hot(eqn, states, rank)
    return None


def _of_one_hot(eqn: JaxprEqn, states: list[State], rank: int) -> Each | None:
    side = 0 if states[1] is None else 1
    hot = states[side]
    contracted, batch = (axes[side] for axes in eqn.params["dimension_numbers"])
    if (
        not isinstance(hot, Each)
        or not hot.hot
        or any(hot.along[a] is not None for a in contracted)
    ):
        return None
    free = [a for i, a in enumerate(hot.along) if i not in (*contracted, *batch)]
    others: list[Axis] = [None] * (rank - len(batch) - len(free))
    rest = [*free, *others] if side == 0 else [*others, *free]
    return Each((*(hot.along[a] for a in batch), *rest), hot.steps)


def _elementwise(eqn: JaxprEqn, states: list[State], aval: Any) -> State:
    """An output of an equation that computes or moves elements, each by itself."""
    name, rank = eqn.primitive.name, aval.ndim
    active = [state for state in states if isinstance(state, Each)]
    steps = _merged([state.steps for state in active])
    if primitives.facts(eqn.primitive).group == "elementwise":
        own = [state.along for state in active if len(state.along) == rank]  # others are numbers
        alone = len(active) == 1
        hot = alone and (name == "eq" or active[0].hot)
        return Each(_merged(own) if own else (None,) * rank, steps, hot)
    first = states[0]
    if name in _PASSED_ON:
        return Each(active[0].along, steps, active[0].hot)
    if name in _MOVES and isinstance(first, Each):
        before: Any = eqn.invars[0].aval
        return Each(tuple(_MOVES[name](eqn.params, first.along, before, aval)), steps, first.hot)
    if name == "slice":
        return active[0]
    if name in ("concatenate", "pad"):
        own = [s.along for s in active if len(s.along) == rank]
        changed = _changed(eqn, rank)
        merged = _merged(own) if own else (None,) * rank
        return Each(tuple(UNKNOWN if i in changed else a for i, a in enumerate(merged)), steps)
    if name in _REARRANGED:
        unknown = tuple(UNKNOWN if size > 1 else None for size in aval.shape)
        by_step = tuple(UNKNOWN if step is None else step for step in steps)
        return Each(unknown, by_step if name in ("gather", "dynamic_slice") else steps)
    return Other()


def _changed(eqn: JaxprEqn, rank: int) -> list[int]:
    """The axes that `concatenate` or `pad` makes longer."""
    if "dimension" in eqn.params:
        return [eqn.params["dimension"]]
    config = eqn.params["padding_config"]
    return [axis for axis in range(rank) if tuple(config[axis]) != (0, 0, 0)]


def _merged(rows: list[tuple[Axis, ...]]) -> tuple[Axis, ...]:
    """Axis by axis what several agree on."""

    def one(axes: tuple[Axis, ...]) -> Axis:
        known = {axis for axis in axes if axis is not None}
        return None if not known else known.pop() if len(known) == 1 else UNKNOWN

    return tuple(map(one, zip(*rows, strict=True)))


def _broadcast(params: Any, along: Any, before: Any, after: Any) -> list[Axis]:
    axes: list[Axis] = [None] * after.ndim
    for source, target in enumerate(params["broadcast_dimensions"]):
        if before.shape[source] == after.shape[target]:
            axes[target] = along[source]
    return axes


def _reshape(params: Any, along: Any, before: Any, after: Any) -> list[Axis]:
    kept = [(axis, size) for axis, size in zip(along, before.shape, strict=True) if size > 1]
    if [size for _, size in kept] == [size for size in after.shape if size > 1]:
        following = iter(kept)
        return [next(following)[0] if size > 1 else None for size in after.shape]
    return [UNKNOWN if size > 1 else None for size in after.shape]


def _squeeze(params: Any, along: Any, before: Any, after: Any) -> list[Axis]:
    return [axis for i, axis in enumerate(along) if i not in params["dimensions"]]


def _transpose(params: Any, along: Any, before: Any, after: Any) -> list[Axis]:
    return [along[i] for i in params["permutation"]]


_MOVES: dict[str, Callable[..., list[Axis]]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "name": lambda params, along, before, after: list(along),
}


# Equations with bodies.


@dataclasses.dataclass(frozen=True)
class _Body:
    """The bodies of an equation, as functions of states."""

    search: _Search
    eqn: JaxprEqn
    here: Address
    scope: str
    lengths: tuple[int, ...]

    def __call__(
        self, number: int, states: Sequence[State], lengths: tuple[int, ...] = ()
    ) -> list[State]:
        body = walk.bodies(self.eqn)[number]
        inside = (*self.lengths, *lengths)
        return self.search.outputs(body, states, (*self.here, number), self.scope, inside)


def _scan(body: _Body, eqn: JaxprEqn, states: list[State]) -> list[State]:
    num_consts, num_carry = compat.scan_arity(eqn.params)
    behind, length = num_consts + num_carry, eqn.params["length"]

    def enter(state: State, sliced: bool) -> State:
        if not isinstance(state, Each):
            return state if state is None else Other()
        step = state.along[0] if sliced else None
        return Each(state.along[sliced:], (*state.steps, step), state.hot)

    def leave(state: State) -> State:
        if not isinstance(state, Each):
            return state if state is None else Other()
        return Each((state.steps[-1], *state.along), state.steps[:-1], state.hot)

    # What is carried is a function of all steps before: not elementwise, once x has a part in it.
    inside = [enter(s, sliced=i >= behind) for i, s in enumerate(states)]
    carry, given = _carried(
        lambda carry: body(0, [*inside[:num_consts], *carry, *inside[behind:]], (length,)),
        inside[num_consts:behind],
        compat.carried_on(eqn.params["jaxpr"], num_consts, num_carry),
    )
    final = [states[num_consts + i] if isinstance(s, Each) else s for i, s in enumerate(carry)]
    return [*final, *map(leave, given[num_carry:])]


def _while(body: _Body, eqn: JaxprEqn, states: list[State]) -> list[State]:
    skip, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts, carry = states[skip : skip + num_consts], states[skip + num_consts :]
    kept = compat.carried_on(eqn.params["body_jaxpr"], num_consts, len(carry))
    return _carried(lambda carry: body(1, [*consts, *carry]), carry, kept)[0]


def _carried(
    step: Callable[[list[State]], list[State]], carry: list[State], kept: list[bool]
) -> tuple[list[State], list[State]]:
    """The least fixpoint of a loop's carry, and the outputs of a step there."""
    carry = [s if s is None or k else Other() for s, k in zip(carry, kept, strict=True)]
    while True:
        given = step(carry)
        after = [
            before if k or out is None else Other()
            for before, out, k in zip(carry, given, kept, strict=False)
        ]
        if after == carry:
            return carry, given
        carry = after


def _cond(body: _Body, eqn: JaxprEqn, states: list[State]) -> list[State]:
    index, *rest = states
    branches = [body(j, rest) for j in range(len(walk.bodies(eqn)))]

    def joined(outputs: tuple[State, ...]) -> State:
        same = all(output == outputs[0] for output in outputs)
        return outputs[0] if index is None and same else Other()

    return list(map(joined, zip(*branches, strict=True)))


_LOOPS: dict[str, Callable[[_Body, JaxprEqn, list[State]], list[State]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
