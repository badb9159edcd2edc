"""What the perturbations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.methods.shapley.game import as_value
from jaxplain.surrogate import staging


def loss(
    f: Callable[..., Any], ref: Any, args: tuple[Any, ...], argnums: staging.Argnums
) -> Callable[[Any], Any]:
    """A mask, a tree like x, → what f loses when its elements are at the reference."""
    x = staging.as_numbers(staging.pick(args, argnums))
    ref = staging.as_reference(ref, x)
    whole = as_value(staging.call(f, *args))

    def lost(mask: Any) -> Any:
        mixed = jax.tree.map(jnp.where, mask, ref, x)
        return whole - as_value(staging.call(f, *staging.place(args, argnums, mixed)))

    return lost


def times(lost: Any, mask: Any) -> Any:
    """Losses (*outputs) at a mask's elements."""
    return jnp.multiply.outer(lost, mask.astype(lost.dtype))


def per_element(labels: Any, example: Any, scores: Any) -> Any:
    """Groups' scores (groups, *outputs) as a tree like an example behind the outputs' axes."""
    scores = jnp.moveaxis(scores, 0, -1)
    return jax.tree.map(
        lambda at, v: jnp.broadcast_to(scores[..., at], (*scores.shape[:-1], *v.shape)),
        labels,
        example,
    )


def behind(array: Any, rank: int) -> Any:
    """Axes of size 1 behind, up to this rank."""
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def one_array(x: Any, method: str) -> Any:
    """`x`, which `method` takes only as one array."""
    if not staging.same_tree(x, 0):
        raise TypeError(f"{method} explains one array, and x is {jax.tree.map(np.shape, x)}")
    return x
