"""Where a program names its values, and which of the names are asked for.

A name is an equation (`name`, JAX's own of `checkpoint_name`) that is the identity, anywhere in the
program: out of a scan its value comes with the steps stacked in front.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from jaxplain import _patterns
from jaxplain._types import At
from jaxplain.surrogate import compat, walk
from jaxplain.surrogate.walk import Address

(NAME,) = compat.resolve(["name"])


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a name stands, and the value that it names, with the steps of scans in front."""

    address: Address
    value: jax.ShapeDtypeStruct
    steps: tuple[int, ...]


def sites(closed_jaxpr: ClosedJaxpr) -> dict[str, Site]:
    """The program's names in order; one that occurs several times is numbered, as in 'h#0'."""
    found = list(_sites(closed_jaxpr))
    total = collections.Counter(name for name, _ in found)
    seen: collections.Counter[str] = collections.Counter()
    numbered = {}
    for name, site in found:
        numbered[f"{name}#{seen[name]}" if total[name] > 1 else name] = site
        seen[name] += 1
    return numbered


def _sites(jaxpr: ClosedJaxpr) -> Iterator[tuple[str, Site]]:
    scans: dict[Address, int] = {}
    for address, eqn in walk.equations(jaxpr):
        if eqn.primitive.name == "scan":
            scans[address] = eqn.params["length"]
        if eqn.primitive is NAME:
            steps = tuple(n for around, n in scans.items() if address[: len(around)] == around)
            aval: Any = eqn.outvars[0].aval
            value = jax.ShapeDtypeStruct(
                (*steps, *aval.shape), aval.dtype, manual_axis_type=aval.manual_axis_type
            )
            yield eqn.params["name"], Site(address, value, steps)


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
            raise ValueError(f"nothing is named {pattern!r}{hint}. {listing(found)}")
        matched.update(matches)
    return [name for name in found if name in matched]


def listing(found: Mapping[str, Site]) -> str:
    """What an error says of the names that there are."""
    if not found:
        return "There are no names: put `jaxplain.tag(value, name)` around values of interest."
    lines = (f"  {n}: {s.value.dtype.name}{list(s.value.shape)}" for n, s in found.items())
    return "The names there are:\n" + "\n".join(lines)
