"""Players: which group each element of an input belongs to, and groups' scores per element."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Groups, Tree
from jaxplain.surrogate import staging


def as_players(groups: Groups, x: Tree) -> tuple[Any, int]:
    """Each element's player as a tree of indices that broadcasts to x, and how many there are.

    Without groups every element is a player; labels are numbered in their order, gaps closed.
    """
    leaves, tree = jax.tree.flatten(x)
    if groups is None:
        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        labels = [
            np.arange(start, start + leaf.size).reshape(leaf.shape)
            for start, leaf in zip(ends[:-1], leaves, strict=True)
        ]
        players = int(ends[-1])
    else:
        given = _check_labels(groups, x)
        names = np.unique(np.concatenate([g.ravel() for g in given]))
        labels, players = [np.searchsorted(names, g) for g in given], len(names)
    if players == 0:
        raise ValueError("x has no elements, so there are no players")
    return jax.tree.unflatten(tree, labels), players


def _check_labels(groups: Groups, x: Tree) -> list[np.ndarray]:
    def fits(label: np.ndarray, leaf: Any) -> bool:
        try:
            return np.broadcast_shapes(label.shape, leaf.shape) == leaf.shape
        except ValueError:
            return False

    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(groups)):
        raise TypeError("groups must be known numbers, not values of a jitted function's argument")
    if staging.same_tree(groups, x):
        labels = [np.asarray(leaf) for leaf in jax.tree.leaves(groups)]
        if all(map(fits, labels, jax.tree.leaves(x))):
            if not all(np.issubdtype(label.dtype, np.integer) for label in labels):
                raise TypeError(f"groups must be integers: {jax.tree.map(np.asarray, groups)}")
            if any((label < 0).any() for label in labels):
                raise ValueError("groups must be at least 0: every element of x has a group")
            return labels
    raise ValueError(
        "groups must be a tree like x with integer labels that broadcast to every leaf.\n"
        f"  groups: {jax.tree.map(np.shape, groups)}\n"
        f"  x:      {jax.tree.map(np.shape, x)}"
    )


def per_element(labels: Any, example: Any, scores: Any) -> Any:
    """Groups' scores (groups, *outputs) as a tree like an example behind the outputs' axes."""
    scores = jnp.moveaxis(scores, 0, -1)

    def leaf(at: Any, v: Any) -> Any:
        at = np.reshape(at, (1,) * (v.ndim - np.ndim(at)) + np.shape(at))  # with all axes
        return jnp.broadcast_to(scores[..., at], (*scores.shape[:-1], *v.shape))

    return jax.tree.map(leaf, labels, example)
