"""What f loses by a mask, and the masks' shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Tree
from jaxplain.games.game import Shown
from jaxplain.surrogate import staging


def loss(shown: Shown, ref: Tree) -> Callable[[Any], Any]:
    """A mask, a tree like what is shown, → what f loses when its elements are at the reference."""
    ref = staging.as_reference(ref, shown.example)
    everything = jax.tree.map(lambda v: jnp.ones(v.shape, bool), shown.example)
    whole = shown.value(everything, ref)

    def lost(mask: Any) -> Any:
        return whole - shown.value(jax.tree.map(jnp.logical_not, mask), ref)

    return lost


def placed(lost: Any, mask: Any) -> Any:
    """Losses (*outputs) at a mask's elements, 0 elsewhere."""
    return jnp.multiply.outer(lost, mask.astype(lost.dtype))


def behind(array: Any, rank: int) -> Any:
    """Axes of size 1 behind, up to this rank."""
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def one_array(x: Tree, method: str) -> Any:
    """`x`, which `method` takes only as one array."""
    if not staging.same_tree(x, 0):
        raise TypeError(f"{method} explains one array, and x is {jax.tree.map(np.shape, x)}")
    return x
