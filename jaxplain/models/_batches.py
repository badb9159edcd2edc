"""A model that takes a batch, as a function of one example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._types import Tree


def of_one(
    call: Callable[..., Tree], args: tuple[Tree, ...], batched: bool, **kwargs: Any
) -> Tree:
    """`call(*args, **kwargs)`, of a batch of one example where it takes batches."""
    if not batched:
        return call(*args, **kwargs)
    y = call(*jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], args), **kwargs)
    # A loss or another summary of the batch has no axis of its own.
    return jax.tree.map(lambda leaf: leaf[0] if jnp.shape(leaf)[:1] == (1,) else leaf, y)
