"""Perturbations of x, drawn or given."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.chunking import leading_size
from jaxplain.metrics._example import Example, token
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
        return example.once(self.name(), lambda: self._of(example))

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
