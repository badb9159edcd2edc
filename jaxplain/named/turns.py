"""A method of inputs at named values: each in its turn, or together where none feeds another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.cpu_layout import channels_last
from jaxplain._types import Argnums, Function, Method, Tree
from jaxplain.named.edits import Values
from jaxplain.named.probes import Probed, probe
from jaxplain.named.sites import At


def one_by_one(
    method: Method, f: Function, at: At, ref: Tree, argnums: Argnums = 0
) -> Function:
    """`method(like, value, ref)` for each value by itself, of methods that put elements to `ref`.

    `like` is an array like the named value, `value(mask, ref)` f with `ref` where the mask is
    False; the other elements stay as f computes them: in a scan they follow what was replaced a
    step before.  `ref` is the value's, or {name: its}.
    """

    def explain(*args: Any) -> Any:
        probed = probe(f, at, args, argnums)
        results = {}
        for name, like in probed.probes.items():
            own = ref[name] if isinstance(ref, Mapping) else ref
            value = lambda mask, ref, name=name: probed.mixed(probed.x, {name: (ref, ~mask)})[0]
            results[name] = method(like, value, own)
        return probed.result(results)

    return explain


def straight(
    method: Method, f: Function, at: At, ref: Tree, argnums: Argnums = 0
) -> Function:
    """`method(upper, h_ref)(h)`, where `upper` is f as a function of the values that `at` names.

    Values that do not depend on each other are one cut of f and move together; one that another
    feeds has a turn of its own, and so has each step of a scan that feeds the next.
    """

    def explain(*args: Any) -> Any:
        probed = probe(f, at, args, argnums)
        values, origin = probed.values(probed.x), probed.values(probed.reference(ref))
        results = {}
        for group, by_step in _cuts(probed):
            h, h0 = ({name: v[name] for name in group} for v in (values, origin))
            if by_step:
                scores = _step_by_step(method, probed, h, h0)
            else:
                scores = method(lambda h: probed.replaced(probed.x, h)[0], h0)(h)
            results.update(_by_name(scores, group))
        return _joined(probed, results)

    return explain


def _step_by_step(method: Method, probed: Probed, h: Values, h0: Values) -> Any:
    """`method(upper, h0)(h)` for each step of a scan, while the others follow; stacked."""
    (steps,) = {probed.sites[name].steps for name in h}
    count, depth = math.prod(steps), len(steps)

    def turn(step: Any) -> Any:
        here = (jnp.arange(count) == step).reshape(steps)

        def upper(own: Values) -> Any:
            whole = lambda name: jnp.broadcast_to(own[name], h[name].shape)
            return probed.mixed(probed.x, {name: (whole(name), here) for name in own})[0]

        one = lambda v: v.reshape(count, *v.shape[depth:])[step]
        return method(upper, jax.tree.map(one, h0))(jax.tree.map(one, h))

    stacked = jax.lax.map(channels_last(turn), jnp.arange(count))
    return jax.tree.map(lambda v: v.reshape(*steps, *v.shape[1:]), stacked)


def _cuts(probed: Probed) -> list[tuple[list[str], bool]]:
    """Names of which none feeds another: a cut of f; and whether each feeds itself, in a scan."""
    feeds = probed.feeds()

    def together(a: str, b: str) -> bool:
        loops = [probed.sites[n].steps if n in feeds[n] else None for n in (a, b)]
        return a not in feeds[b] and b not in feeds[a] and loops[0] == loops[1]

    groups: list[list[str]] = []
    for name in probed.probes:
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


def _joined(probed: Probed, results: dict[str, Any]) -> Any:
    """What `_by_name` took apart, with the names inside a tuple of results."""
    if any(isinstance(result, tuple) for result in results.values()):
        return tuple(
            probed.result(dict(zip(results, column, strict=True)))
            for column in zip(*results.values(), strict=True)
        )
    return probed.result(results)
