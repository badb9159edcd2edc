"""Metrics: how far an explanation can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import staging


def completeness_gap(
    f: Callable[..., Any], ref: Any, *, argnums: staging.Argnums = 0
) -> Callable[..., Any]:
    r"""f(x) - f(ref) - Σ C, what an explanation leaves out of the change that it explains.

    Args:
      f: `f(x, *args)` → scalar.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      argnums: which argument(s) of f are x.

    Returns:
      `gap(contributions, x, *args)` → a scalar in f's units; 0 for a complete method.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: ref does not broadcast to x.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f, x = jnp.sum, jnp.array([1.0, 2.0])
      >>> float(jxp.completeness_gap(f, 0.0)(jxp.deeplift(f, 0.0)(x), x))
      0.0

    Source: Sundararajan et al., arXiv 1703.01365, section 3 (the axiom); Shrikumar et al.,
    arXiv 1704.02685, eq. 1 (summation to delta).
    """

    def gap(contributions: Any, *args: Any) -> Any:
        x = staging.as_numbers(staging.pick(args, argnums))
        reference = staging.as_reference(ref, x)
        y = staging.call(f, *staging.place(args, argnums, x))
        staging.check_scalar(y)
        y0 = staging.call(f, *staging.place(args, argnums, reference))
        total = sum((jnp.sum(c) for c in jax.tree.leaves(contributions)), jnp.zeros_like(y))
        return y - y0 - total

    gap.direction = "0"  # type: ignore[attr-defined]
    return gap
