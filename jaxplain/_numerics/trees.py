"""Arithmetic of pytrees whose leaves correspond."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any  # a pytree of arrays


def times(a: Tree, b: Tree) -> Tree:
    """a ⊙ b."""
    return jax.tree.map(jnp.multiply, a, b)


def minus(a: Tree, b: Tree) -> Tree:
    """a - b."""
    return jax.tree.map(jnp.subtract, a, b)


def between(start: Tree, delta: Tree, alpha: jax.Array) -> Tree:
    """The point start + α delta of a straight line, in the leaves' own dtypes."""
    return jax.tree.map(lambda v, d: v + alpha.astype(d.dtype) * d, start, delta)


def total(tree: Tree, like: jax.Array) -> jax.Array:
    """Σ over all elements of all leaves, in the dtype of `like`; 0 of no leaves."""
    sums = [jnp.sum(leaf).astype(like.dtype) for leaf in jax.tree.leaves(tree)]
    return sum(sums, jnp.zeros_like(like))


def root(square: jax.Array) -> jax.Array:
    """√ with the slope 0 at 0, where what is squared is the same everywhere."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def wide_dtype(dtype: Any) -> Any:
    """A floating dtype, or float32 where it has fewer digits than that; also where none is."""
    enough = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return jnp.dtype(dtype if enough else jnp.float32)


def wide(y: jax.Array) -> jax.Array:
    """In float32 at least: what is summed over many evaluations."""
    return y.astype(wide_dtype(y.dtype))
