"""References that are made of what is left: for metrics, a `ref` (x, mask, key) → x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

Tree = Any


def linear_imputation(
    *, noise: float = 0.01, axes: tuple[int, ...] = (0, 1), tolerance: float = 1e-5
) -> Callable[[Tree, Tree, Any], Tree]:
    r"""Removed elements as weighted means of their neighbours, ROAD's reference.

    x_i = Σ_j w_ij x_j / Σ_j w_ij + noise · N(0, 1) over the neighbours j of i, direct ones with
    weight 1/6 and diagonal ones with 1/12, as one linear system, solved by conjugate gradients.

    Args:
      noise: the standard deviation of what is added, in the units of x.
      axes: the axes of space, one or two; removed elements of other axes, channels say, are
        imputed each from its own.
      tolerance: of the solution, relative to what the system is given.

    Returns:
      `ref(x, mask, key)` → a tree like x: its own values where the mask is False, imputed ones
      where it is True. Nothing left to impute from gives 0.

    Raises:
      ValueError: not one or two axes; an array that has not got them.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> ref = jxp.metrics.linear_imputation(noise=0.0, axes=(0,))
      >>> x, gone = jnp.array([1.0, 9.0, 3.0]), jnp.array([False, True, False])
      >>> ref(x, gone, jax.random.key(0))
      Array([1., 2., 3.], dtype=float32)

    Source: Rong et al. (ROAD), arXiv 2202.00449, section 4.2 and appendix.
    """
    if len(axes) not in (1, 2) or len(set(axes)) != len(axes):
        raise ValueError(f"axes must be one or two axes of space, and are {axes}")
    offsets = np.indices((3,) * len(axes)).reshape(len(axes), -1).T - 1
    near = [tuple(map(int, o)) for o in offsets if o.any()]
    weights = [1 / 6 if np.abs(o).sum() == 1 else 1 / 12 for o in near]

    def leaf(x: jax.Array, mask: jax.Array, key: Any) -> jax.Array:
        if x.ndim <= max(axes):
            raise ValueError(f"axes {axes} of space, and x is {x.shape}")

        def neighbours(v: jax.Array) -> jax.Array:
            """Σ_j w_ij v_j, 0 beyond the edges."""
            width = [(1, 1) if axis in axes else (0, 0) for axis in range(v.ndim)]
            padded, total = jnp.pad(v, width), jnp.zeros_like(v)
            for offset, weight in zip(near, weights, strict=True):
                begin = [0] * v.ndim
                for axis, o in zip(axes, offset, strict=True):
                    begin[axis] = 1 + o
                total = total + weight * jax.lax.dynamic_slice(padded, begin, v.shape)
            return total

        total = neighbours(jnp.ones_like(x))
        known = jnp.where(mask, 0, x)

        def system(v: jax.Array) -> jax.Array:
            """Σ_j w_ij (v_i - v_j) of removed elements: symmetric, and definite by those left."""
            return jnp.where(mask, total * v - neighbours(jnp.where(mask, v, 0)), v)

        # Of what is left: a start nearby.
        mean = known.sum() / jnp.maximum((~mask).sum(), 1).astype(x.dtype)
        filled, _ = cg(
            system,
            jnp.where(mask, neighbours(known), 0),
            jnp.where(mask, mean, 0).astype(x.dtype),
            tol=tolerance,
            maxiter=x.size,
        )
        added = noise * jax.random.normal(key, x.shape, x.dtype)
        return jnp.where(mask, filled + added, x)

    def ref(x: Tree, mask: Tree, key: Any) -> Tree:
        leaves, tree = jax.tree.flatten(x)
        keys = jax.random.split(key, len(leaves))
        masks = jax.tree.leaves(mask)
        return jax.tree.unflatten(tree, list(map(leaf, leaves, masks, keys)))

    return ref
