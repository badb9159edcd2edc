"""What goes into a model's submodules and comes out of them, named by their paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._patterns import matches
from jaxplain.named.api import tag


class Namer:
    """Names what goes into a module and comes out of it."""

    def __init__(
        self, patterns: Sequence[str], batched: bool, unnamed: Callable[[Any], bool] | None = None
    ):
        self.patterns = patterns
        self.batched = batched
        self.unnamed = unnamed  # what has no name, whatever it is made of: a layer's state

    def inputs(self, args: tuple[Any, ...], path: str) -> tuple[Any, ...]:
        """The arguments, the first one named where a pattern asks for the module's path."""
        if not args or not any(matches(path, pattern) for pattern in self.patterns):
            return args
        return (self.named(args[0], f"{path}:input"), *args[1:])

    def named(self, value: Any, path: str) -> Any:
        """The value with its floating leaves named, each without the batch axis of one example."""
        leaves, tree = jax.tree.flatten(value, self.unnamed)
        floating = [i for i, v in enumerate(leaves) if _is_floating(v)]
        alone = [self.batched and leaves[i].shape[:1] == (1,) for i in floating]
        bare = [leaves[i][0] if one else leaves[i] for i, one in zip(floating, alone, strict=True)]
        # The tree again, for the paths of its leaves, without what has no name.
        kept = jax.tree.unflatten(
            tree, [bare[floating.index(i)] if i in floating else None for i in range(len(leaves))]
        )
        for i, one, leaf in zip(floating, alone, jax.tree.leaves(tag(kept, path)), strict=True):
            leaves[i] = leaf[None] if one else leaf
        return jax.tree.unflatten(tree, leaves)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
