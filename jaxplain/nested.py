r"""Integrals on [0, 1] by nested rules: nodes are added until the result is good enough.

Nodes are a Leja sequence, ½ first and then pairs (α, 1-α), each where the product of distances to
those before is largest; the weights of the first n integrate polynomials of degree n-1 exactly. No
evaluation is thrown away.

Source: Narayan & Jakeman, arXiv 1404.5663, section 2 (quadrature by Leja sequences).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_GRID = 20001  # points that nodes are chosen from


def integrate(
    function: Callable[[Any], Any],
    gap: Callable[[Any], Any],
    good: Callable[[Any], Any],
    most: int,
) -> tuple[Any, Any]:
    """∫ function(α) dα by the fewest nodes whose gap is good, and how many.

    Args:
      function: α → a tree of arrays.
      gap: what an integral leaves unexplained, affine in it.
      good: whether a gap is.
      most: nodes at most.
    """
    if most < 1:
        raise ValueError(f"max_steps must be at least 1, and is {most}")
    nodes, weights = _rule(most)
    alphas, table = jnp.asarray(nodes), jnp.asarray(weights)

    def total(values: Any, level: Any) -> Any:
        row = table[level]
        return jax.tree.map(lambda v: jnp.tensordot(row.astype(v.dtype), v, 1), values)

    def evaluate(values: Any, start: Any, count: int) -> Any:
        window = jax.lax.dynamic_slice(alphas, (start,), (count,))
        return jax.tree.map(
            lambda v, new: jax.lax.dynamic_update_slice_in_dim(v, new, start, 0),
            values,
            jax.vmap(function)(window),
        )

    def unfinished(state: Any) -> Any:
        values, level = state
        return (level + 1 < len(weights)) & ~good(gap(total(values, level)))

    def refine(state: Any) -> Any:
        values, level = state
        return evaluate(values, 2 * level + 1, 2), level + 1

    shapes = jax.eval_shape(function, jax.ShapeDtypeStruct((), alphas.dtype))
    empty = jax.tree.map(lambda s: jnp.zeros((len(nodes), *s.shape), s.dtype), shapes)
    start = (evaluate(empty, 0, 1), jnp.asarray(0))
    values, level = jax.lax.while_loop(unfinished, refine, start)
    return total(values, level), 2 * level + 1


@functools.cache
def _rule(most: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, and the weights of the first 1, 3, 5, … of them as rows."""
    grid = (1 - np.cos(np.linspace(0, np.pi, _GRID))) / 2
    nodes = [0.5]
    with np.errstate(divide="ignore"):
        distance = np.log(np.abs(grid - 0.5))
        while len(nodes) + 2 <= most:
            alpha = grid[np.argmax(2 * distance + np.log(np.abs(2 * grid - 1)))]
            nodes += [alpha, 1 - alpha]
            distance += np.log(np.abs(grid - alpha)) + np.log(np.abs(grid - 1 + alpha))
    points = np.array(nodes)
    powers = np.polynomial.legendre.legvander(2 * points - 1, len(points) - 1).T
    table = np.zeros(((len(points) + 1) // 2, len(points)))
    for row, count in enumerate(range(1, len(points) + 1, 2)):
        table[row, :count] = np.linalg.solve(powers[:count, :count], np.eye(count)[0])
    return points, table
