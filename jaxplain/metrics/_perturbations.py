"""Perturbations of x, drawn or given, and metrics that explain there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.chunking import chunked_map, leading_size
from jaxplain.metrics._example import Example, Explain, draws, token
from jaxplain.metrics._metric import Metric
from jaxplain.surrogate import staging

Tree = Any


@dataclass(frozen=True)
class Perturbations:
    """Several of x: within a radius, from a function (x, key), or given with a leading axis."""

    spec: Any
    samples: int | None
    argnums: staging.Argnums

    def name(self) -> Hashable:
        """Equal for equal ones."""
        return "perturbations", token(self.spec), self.samples, self.argnums

    def x(self, example: Example) -> Tree:
        """What is perturbed."""
        return staging.as_input(staging.pick(example.args, self.argnums))

    def of(self, example: Example) -> Tree:
        """A tree like x with an axis of samples in front; masks where the function returns such."""
        # Not kept beyond a program: drawn again from the key, they are the same.
        return self._of(example)

    def count(self, example: Example) -> int:
        """How many there are."""
        return leading_size(self.of(example))

    def _drawn(self, x: Tree) -> bool:
        if callable(self.spec) or not staging.same_tree(self.spec, x):
            return True
        leaves = zip(jax.tree.leaves(self.spec), jax.tree.leaves(x), strict=True)
        return not any(jnp.ndim(given) == leaf.ndim + 1 for given, leaf in leaves)

    def _of(self, example: Example) -> Tree:
        x = self.x(example)
        if not self._drawn(x):
            return staging.as_references(self.spec, x)
        if self.samples is None or self.samples < 1:
            raise ValueError(f"samples must be at least 1, and is {self.samples}")
        keys = jax.random.split(example.drawn("the perturbations"), self.samples)
        if callable(self.spec):
            return jax.vmap(lambda key: self.spec(x, key))(keys)
        with staging.watched_references():  # a radius is not one of the method's
            radius = staging.as_reference(self.spec, x)
        leaves, tree = jax.tree.flatten(x)

        def draw(key: Any) -> Tree:
            split = jax.random.split(key, len(leaves))
            noise = [
                jax.random.uniform(k, v.shape, v.dtype, -1, 1)
                for k, v in zip(split, leaves, strict=True)
            ]
            return jax.tree.map(jnp.multiply, radius, jax.tree.unflatten(tree, noise))

        return jax.vmap(draw)(keys)


def explained_at(
    example: Example,
    name: Hashable,
    args_of: Callable[[Any], tuple[Any, ...]],
    items: Any,
    chunk: int | None,
) -> Tree:
    """The example's explanation at other arguments, stacked; each with a key of its own."""
    count = leading_size(items)

    def explanations() -> Tree:
        explain = asked(example)
        if not draws(explain):
            return chunked_map(lambda item: explain(*args_of(item)), items, chunk)
        keys = jax.random.split(example.drawn("the explanations"), count)
        one = lambda pair: explain(*args_of(pair[0]), key=pair[1])
        return chunked_map(one, (items, keys), chunk)

    return example.once(("explained", name), explanations, explanations=count)


def asked(example: Example) -> Explain:
    """The explanation that is to be made elsewhere."""
    if example.explain is None:
        raise TypeError("contributions alone are given where a metric explains other inputs, too")
    return example.explain


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
