"""Path methods: gradients integrated along a way from the reference to the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.chunking import weighted_sum
from jaxplain.gradients import gradient
from jaxplain.surrogate import staging
from jaxplain.surrogate.quadrature import gauss_legendre


def integrated_gradients(
    f: Callable[..., Any],
    ref: Any,
    *,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    chunk: int | None = None,
    multiply: bool = True,
    return_gap: bool = False,
    argnums: staging.Argnums = 0,
) -> Callable[..., Any]:
    r"""Integrated gradients: C = (x - ref) ⊙ ∫₀¹ ∇f(ref + α(x - ref)) dα.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      steps: number of gradient evaluations, n ≥ 1 (2 for the trapezoid).
      quadrature: nodes and weights on [0, 1], the weights summing to 1: `"gauss-legendre"`
        (exact for gradients polynomial in α up to degree 2n-1), `"midpoint"` ((k+½)/n), `"left"`
        (k/n), `"right"` ((k+1)/n), or `"trapezoid"` (k/(n-1), both ends at half weight).
      chunk: how many steps are evaluated at once; None all. Bounds memory, changes nothing else.
      multiply: False returns the averaged gradient without (x - ref).
      return_gap: also return f(x) - f(ref) - Σ C, the quadrature's error.
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      `explain(x, *args)` → contributions, a pytree like x, summing to f(x) - f(ref) up to the
      quadrature's error; with `return_gap` the pair (contributions, gap).

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: ref does not broadcast to x; unknown quadrature; too few steps; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.integrated_gradients(lambda x: x[0] * x[1], ref=0.0)(jnp.array([2.0, 3.0]))
      Array([3., 3.], dtype=float32)

    Source: Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks",
    arXiv 1703.01365, eq. 1 (and eq. 3 for the sum).
    """
    alphas, weights = _quadrature(quadrature, steps)

    def explain(*args: Any) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        reference = staging.as_reference(ref, x)
        delta = jax.tree.map(jnp.subtract, x, reference)
        explain_gradient = gradient(f, argnums=argnums)

        def gradient_at(alpha: Any) -> Any:
            point = jax.tree.map(lambda v, d: v + alpha.astype(d.dtype) * d, reference, delta)
            return explain_gradient(*staging.place(args, argnums, point))

        average = weighted_sum(gradient_at, jnp.asarray(alphas), jnp.asarray(weights), chunk)
        contributions = jax.tree.map(jnp.multiply, average, delta)
        result = contributions if multiply else average
        if not return_gap:
            return result
        change = f(*staging.place(args, argnums, x)) - f(*staging.place(args, argnums, reference))
        total = sum((jnp.sum(c) for c in jax.tree.leaves(contributions)), jnp.zeros_like(change))
        return result, change - total

    return explain


def _quadrature(name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]; the weights sum to 1."""
    least = 2 if name == "trapezoid" else 1
    if name not in _NODES:
        raise ValueError(f"unknown quadrature {name!r}: one of {sorted(_NODES)}")
    if steps < least:
        raise ValueError(f"{name} needs at least {least} step(s), and steps is {steps}")
    nodes, weights = _NODES[name](steps)
    return nodes, weights / weights.sum()


def _trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.ones(n)
    weights[[0, -1]] = 0.5
    return np.linspace(0, 1, n), weights


_NODES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gauss-legendre": gauss_legendre,
    "midpoint": lambda n: ((np.arange(n) + 0.5) / n, np.ones(n)),
    "left": lambda n: (np.arange(n) / n, np.ones(n)),
    "right": lambda n: ((np.arange(n) + 1) / n, np.ones(n)),
    "trapezoid": _trapezoid,
}
