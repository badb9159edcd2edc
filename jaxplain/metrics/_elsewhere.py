"""Explanations elsewhere: at other inputs, of other targets, with other parameters.

A metric says where by an `Elsewhere`. By itself it explains there at once; `evaluate` explains at
x and wherever all metrics ask in one loop, so a method is traced and compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.chunking import chunked_map, leading_size
from jaxplain._numerics.cpu_layout import channels_last
from jaxplain._numerics.loops import compiled
from jaxplain.metrics._example import MAP, Example, Explain, draws, fold
from jaxplain.metrics._metric import Metric

Tree = Any


@dataclass(frozen=True)
class Drawn:
    """Parameters, and the same drawn anew; each leaf's layer."""

    params: Tree
    fresh: Sequence[jax.Array]
    layers: Sequence[int]

    def mixed(self, anew: jax.Array) -> Tree:
        """With these layers, (layers,) of booleans, drawn anew."""
        leaves, tree = jax.tree.flatten(self.params)
        pairs = zip(self.layers, self.fresh, leaves, strict=True)
        return jax.tree.unflatten(tree, [jnp.where(anew[at], new, old) for at, new, old in pairs])


@dataclass(frozen=True)
class Elsewhere:
    """Several explanations: their arguments, with a leading axis, or their parameters."""

    name: Hashable
    args: tuple[Any, ...] | None = None  # None: the example's own
    anew: Any = None  # (explanations, layers) of booleans
    drawn: Drawn | None = None
    chunk: int | None = None

    @property
    def count(self) -> int:
        """How many they are."""
        return leading_size(self.args if self.anew is None else self.anew)

    def explanations(self, example: Example) -> Tree:
        """Stacked."""
        name = ("explained", self.name)
        return example.once(name, lambda: self._explained(example), explanations=self.count)

    def keys(self, example: Example) -> Any:
        """One for each."""
        return jax.random.split(example.drawn("the explanations"), self.count)

    def _explained(self, example: Example) -> Tree:
        explain = asked(example) if self.drawn is None else by_params(asked(example))
        random = draws(explain)
        keys = self.keys(example) if random else None

        def one(item: tuple[Any, Any, Any]) -> Tree:
            args, anew, key = item
            args = example.args if args is None else args
            args = args if self.drawn is None else (self.drawn.mixed(anew), *args)
            return explain(*args, key=key) if random else explain(*args)

        items = (self.args, self.anew, keys)
        if self.drawn is None:
            return chunked_map(one, items, self.chunk)
        return _one_by_one(one, items)


def _one_by_one(one: Callable[[Any], Tree], items: Any) -> Tree:
    """In a loop, so that no model's parameters get an axis."""
    return compiled(lambda items: jax.lax.map(channels_last(one), items), items)


def explain_everywhere(example: Example, wanted: Sequence[Elsewhere]) -> None:
    """The explanation of x, and all that metrics want beside, in one loop that knows them by name.

    Parameters drawn in different ways, which is rare, have loops of their own.
    """
    explain = example.explain
    unique = list({each.name: each for each in wanted}.values())
    if explain is None or not unique:
        example.contributions_anywhere()
        for each in unique:
            each.explanations(example)
        return
    drawn = next((each.drawn for each in unique if each.drawn is not None), None)
    apart = [each for each in unique if each.drawn is not None and not _same(each.drawn, drawn)]
    together = [each for each in unique if each not in apart]
    for each in apart:
        each.explanations(example)
    random = draws(explain)
    explain = explain if drawn is None else by_params(explain)

    def repeated(count: int, tree: Tree) -> Tree:
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (count, *jnp.shape(v))), tree)

    def joined(parts: Sequence[Tree]) -> Tree:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    counts = [1, *(each.count for each in together)]
    args = [
        repeated(count, example.args) if args is None else args
        for count, args in zip(counts, [None, *(each.args for each in together)], strict=True)
    ]
    layers = 0 if drawn is None else max(drawn.layers) + 1
    anew = [
        jnp.zeros((count, layers), bool) if flags is None else jnp.asarray(flags)
        for count, flags in zip(counts, [None, *(each.anew for each in together)], strict=True)
    ]
    keys = None
    if random:
        first = fold(example.key, MAP)[None]
        keys = jnp.concatenate([first, *(each.keys(example) for each in together)])

    def one(item: tuple[Any, Any, Any]) -> Tree:
        args, anew, key = item
        args = args if drawn is None else (drawn.mixed(anew), *args)
        return explain(*args, key=key) if random else explain(*args)

    maps = _one_by_one(one, (joined(args), joined(anew), keys))
    example.once(MAP, lambda: jax.tree.map(lambda v: v[0], maps), explanations=1)
    start = 1
    for each in together:
        part = functools.partial(_part, maps, start, start + each.count)
        example.once(("explained", each.name), part, explanations=each.count)
        start += each.count


def _part(maps: Tree, start: int, end: int) -> Tree:
    return jax.tree.map(lambda v: v[start:end], maps)


def _same(a: Drawn, b: Drawn | None) -> bool:
    """Whether the parameters are one draw: the fresh ones are then the same traced values."""
    return b is not None and a.fresh is b.fresh


def asked(example: Example) -> Explain:
    """The explanation that is to be made elsewhere."""
    if example.explain is None:
        raise TypeError("contributions alone are given where a metric explains other inputs, too")
    return example.explain


def by_params(method: Explain) -> Explain:
    """A method that is given as a partial, `explain` with its parameters, as a function of them."""
    if getattr(method, "control", False):
        return lambda params, *args, key: method(*args, key=key)
    if isinstance(method, functools.partial) and len(method.args) == 1:
        return functools.partial(method.func, **method.keywords)
    raise TypeError(
        "parameter_randomization redraws the parameters of a method given as "
        "`functools.partial(explain, params)` with explain(params, x, *args), and one of "
        "`evaluate`'s methods is none"
    )


def of_explanation(explain: Explain | EllipsisType) -> Callable[..., Any]:
    """`metric(x, *args, key=)` of this explanation; `...` is for `evaluate` to fill in."""

    def called(metric: Metric, *args: Any, key: Any = None) -> Any:
        if isinstance(explain, EllipsisType):
            raise TypeError(
                "explain is ..., which stands for each method of `jaxplain.evaluate`; to call the "
                "metric itself give it an explanation"
            )
        return metric.of(Example(args, explain=explain, key=key))

    return called
