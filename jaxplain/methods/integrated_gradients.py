"""Path methods: gradients integrated along a way from the reference to the input."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.adaptive import Node
from jaxplain._numerics.chunking import check_chunk, weighted_sum
from jaxplain._numerics.trees import times, total
from jaxplain._quadrature import nodes_and_weights
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.methods.gradients import gradient
from jaxplain.methods.paths import Path, Way, refined
from jaxplain.named import turns
from jaxplain.surrogate import staging


@speaks
def integrated_gradients(
    f: Function,
    ref: Tree,
    *,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    tolerance: float | None = None,
    chunk: int | None = None,
    multiply: bool = True,
    at: At | None = None,
    return_gap: bool = False,
    path: Path | None = None,
    max_steps: int = 201,
    argnums: Argnums = 0,
) -> Explain:
    r"""Integrated gradients: C = (x - ref) ⊙ ∫₀¹ ∇f(ref + α(x - ref)) dα.

    Along a path of one's own γ from γ(0) = ref to γ(1) = x, C = ∫₀¹ ∇f(γ(α)) ⊙ γ'(α) dα.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      steps: number of gradient evaluations, n ≥ 1 (2 for the trapezoid).
      quadrature: nodes and weights on [0, 1], the weights summing to 1: `"gauss-legendre"`
        (exact for gradients polynomial in α up to degree 2n-1), `"midpoint"` ((k+½)/n), `"left"`
        (k/n), `"right"` ((k+1)/n), or `"trapezoid"` (k/(n-1), both ends at half weight).
      tolerance: take as few gradients as make |gap| ≤ tolerance · |f(x) - f(ref)|, and every
        contribution known to tolerance · Σ|C| (one more rule moves it by no more), whatever
        `steps`, `quadrature` and `chunk` say: nested rules of 1, 3, 7 and 15, or from 7 on one
        more at a time where most is missed. explain also returns how many it took, beside which f
        itself is evaluated at x and ref; it has no reverse mode.
      max_steps: the most gradients for a tolerance, ≥ 1, all kept until the end.
      chunk: how many steps are evaluated at once; None all. Bounds memory, changes nothing else.
      multiply: False returns the averaged gradient without (x - ref).
      at: a name, several or a pattern: contributions of these values h inside f
        (`jaxplain.tag`). The path is straight in their own space, from h(ref) to h(x), everything
        else staying at x; values that do not feed one another move together, as one cut of f, and
        each step of a scan that feeds the next moves by itself. x and ref may then hold integers
        (token ids). Names and patterns as in `jaxplain.names`. (Along the input's path, and all
        layers at once: `conductance`.)
      return_gap: also return f(x) - f(ref) - Σ C, the quadrature's error.
      path: `path(ref, x, α)` → a tree like x, differentiable in α; None is ref + α(x - ref).
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      `explain(x, *args)` → contributions, a pytree like x, summing to f(x) - f(ref) up to the
      quadrature's error; with `return_gap` the pair (contributions, gap); with a tolerance
      (contributions, steps) or (contributions, gap, steps).  With `at` each is one array for one
      name, {name: array} for several; contributions of values that do not cut f sum to f(x) less f
      with the values of ref in their place, and the gap is what is left of that.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: ref does not broadcast to x; unknown quadrature; too few steps; chunk < 1; a path
        without `multiply` or with `at`, or one that does not lead from ref to x; there is no name
        like `at`.

    Warns:
      RuntimeWarning: outside jit, where `max_steps` did not meet the tolerance; compiled programs
        tell by the gap alone.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.integrated_gradients(lambda x: x[0] * x[1], ref=0.0)(jnp.array([2.0, 3.0]))
      Array([3., 3.], dtype=float32)

    Source: Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks",
    arXiv 1703.01365, eq. 1 (and eq. 3 for the sum).
    """
    check_chunk(chunk)
    alphas, weights = nodes_and_weights(quadrature, steps)
    if path is not None and not multiply:
        raise ValueError("along a path of one's own there is no common factor to leave out")
    if at is not None:
        if path is not None:
            raise ValueError("the path to a value inside is straight: give `at` or `path`")
        method = functools.partial(
            integrated_gradients,
            steps=steps,
            quadrature=quadrature,
            tolerance=tolerance,
            chunk=chunk,
            multiply=multiply,
            return_gap=return_gap,
            max_steps=max_steps,
        )
        return nothing_drawn(turns.straight(method, f, at, ref, argnums))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = staging.attributed(f, args, argnums)
        reference = staging.as_reference(ref, x)
        way = Way(reference, x, path)
        value_at = staging.scalar(f, args, argnums)
        explain_gradient = gradient(f, argnums=argnums)

        def gradient_at(alpha: Any) -> Any:
            point, velocity = way.point_and_velocity(alpha)
            slope = explain_gradient(*staging.place(args, argnums, point))
            return slope if path is None else times(slope, velocity)

        def node_at(alpha: Any) -> Node:
            point, velocity = way.point_and_velocity(alpha)
            value, slope = jax.value_and_grad(value_at)(point)
            parts = times(slope, velocity)
            return Node(value, total(parts, value), slope if path is None else parts)

        def contributions(average: Any) -> Any:
            return times(average, way.delta) if path is None else average

        if tolerance is not None:
            along = lambda alpha: value_at(way.point(alpha))
            average, gap, taken = refined(node_at, along, contributions, tolerance, max_steps)
            result = contributions(average) if multiply else average
            return (result, gap, taken) if return_gap else (result, taken)
        average = weighted_sum(gradient_at, jnp.asarray(alphas), jnp.asarray(weights), chunk)
        result = contributions(average) if multiply else average
        if not return_gap:
            return result
        rise = value_at(x) - value_at(reference)
        return result, rise - total(contributions(average), rise)

    return explain
