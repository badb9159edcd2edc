"""The way from a reference to the input, and a gradient integrated along it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.adaptive import Node, integrate
from jaxplain._numerics.trees import between, minus
from jaxplain._types import Path, Tree
from jaxplain.surrogate import staging


class Way:
    """The points from a reference to x, straight where no path is given."""

    def __init__(self, reference: Tree, x: Tree, path: Path | None = None):
        if path is not None:
            _check_ends(path, reference, x)
        self.delta = minus(x, reference)
        self._reference, self._x, self._path = reference, x, path

    def point(self, alpha: Any) -> Any:
        """The point at α."""
        if self._path is None:
            return between(self._reference, self.delta, alpha)
        return self._path(self._reference, self._x, alpha)

    def point_and_velocity(self, alpha: Any) -> tuple[Any, Any]:
        """The point at α, and its derivative in α."""
        if self._path is None:
            return self.point(alpha), self.delta
        return jax.jvp(self.point, (alpha,), (jnp.ones_like(alpha),))


def _check_ends(path: Path, reference: Tree, x: Tree) -> None:
    """An error where a path's shapes, or known ends, are not those of ref and x."""
    for alpha, end, name in ((0.0, reference, "ref"), (1.0, x, "x")):
        point = path(reference, x, jnp.asarray(alpha))
        if not staging.same_tree(point, x) or jax.tree.map(jnp.shape, point) != jax.tree.map(
            jnp.shape, x
        ):
            raise ValueError(
                f"path(ref, x, {alpha}) is {jax.tree.map(jnp.shape, point)}, and x "
                f"{jax.tree.map(jnp.shape, x)}"
            )
        leaves = jax.tree.leaves((point, end))
        near = jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3, atol=1e-3), point, end)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) and not jax.tree.all(near):
            raise ValueError(f"path(ref, x, {alpha}) is not {name}")


def refined(
    node_at: Callable[[Any], Node],
    value_at: Callable[[Any], Any],
    parts: Callable[[Any], Any],
    tolerance: float,
    max_steps: int,
) -> tuple[Any, Any, Any]:
    """An average gradient within the tolerance, its gap, and how many gradients it took.

    `parts` makes an average gradient the contributions that it stands for.
    """
    ends = jax.vmap(value_at)(jnp.array([0.0, 1.0]))
    found = integrate(node_at, ends, parts, tolerance, max_steps)
    good = found.good(tolerance)
    if not isinstance(good, jax.core.Tracer) and not good:
        warnings.warn(
            f"{int(found.count)} gradients leave a gap of {float(found.gap):.2g} in f(x) - f(ref) "
            f"= {float(found.change):.4g}, and contributions in doubt by {float(found.doubt):.2g} "
            f"of {float(found.scale):.4g} in all, more than the tolerance {tolerance:g}: raise "
            "max_steps",
            RuntimeWarning,
            stacklevel=3,
        )
    return found.average, found.gap, found.count
