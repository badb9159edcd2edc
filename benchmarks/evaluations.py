"""How often a method evaluates the model, counted in the program it traces to.

The model's input passes through a cumulative sum over an axis of size 1: the identity, which every
method takes for the linear map it is, which stands in the traced program as often as f is
evaluated, with its batch axes in its shape, and which is reversed on a way back.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax


def marked(f: Callable) -> Callable:
    """f of an input that leaves its mark in the program."""
    return lambda x, *args: f(jax.lax.cumsum(x[None], axis=0)[0], *args)


def count(fn: Callable, args: Sequence[Any], size: int) -> dict[str, float] | None:
    """Passes through a marked model in fn(*args), by direction, per input of `size` elements.

    None where a loop of unknown length has the model in it.
    """
    passes: Counter[str] = Counter()
    for eqn, times in equations(jax.make_jaxpr(fn)(*args).jaxpr, 1):
        if is_mark(eqn):
            if times is None:
                return None
            direction = "backward" if eqn.params["reverse"] else "forward"
            passes[direction] += times * eqn.outvars[0].aval.size // size
    return {"forward": passes["forward"], "backward": passes["backward"]}


def is_mark(eqn: Any) -> bool:
    return eqn.primitive is jax.lax.cumsum_p and eqn.outvars[0].aval.shape[eqn.params["axis"]] == 1


def equations(jaxpr: Any, times: int | None) -> Iterator[tuple[Any, int | None]]:
    """Every equation at any depth, with how often it runs (None: unknown)."""
    for eqn in jaxpr.eqns:
        yield eqn, times
        rounds: int | None = times
        if eqn.primitive is jax.lax.scan_p and times is not None:
            rounds = times * eqn.params["length"]
        elif eqn.primitive is jax.lax.while_p:
            rounds = None
        for inner in jaxprs(list(eqn.params.values())):
            yield from equations(inner, rounds)


def jaxprs(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from jaxprs(value)
        elif hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
            yield inner
