"""Path methods: gradients integrated along a way from the reference to the input."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.adaptive import Node, integrate
from jaxplain._numerics.chunking import check_chunk, weighted_sum
from jaxplain._numerics.quadrature import gauss_legendre
from jaxplain._numerics.trees import between, minus, times, total
from jaxplain.methods.gradients import gradient
from jaxplain.named import sites, turns
from jaxplain.surrogate import staging

Path = Callable[[Any, Any, Any], Any]  # (ref, x, α) → a tree like x


def integrated_gradients(
    f: Callable[..., Any],
    ref: Any,
    *,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    tolerance: float | None = None,
    chunk: int | None = None,
    multiply: bool = True,
    at: sites.At | None = None,
    return_gap: bool = False,
    path: Path | None = None,
    max_steps: int = 201,
    argnums: staging.Argnums = 0,
) -> Callable[..., Any]:
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
        delta = minus(x, reference)
        explain_gradient = gradient(f, argnums=argnums)

        def point_at(alpha: Any) -> tuple[Any, Any]:
            """The path's point and velocity."""
            if path is None:
                return between(reference, delta, alpha), delta
            return jax.jvp(lambda a: path(reference, x, a), (alpha,), (jnp.ones_like(alpha),))

        def gradient_at(alpha: Any) -> Any:
            point, velocity = point_at(alpha)
            slope = explain_gradient(*staging.place(args, argnums, point))
            return slope if path is None else times(slope, velocity)

        def value_at(point: Any) -> Any:
            y = staging.call(f, *staging.place(args, argnums, point))
            staging.check_scalar(y)
            return y

        def node_at(alpha: Any) -> Node:
            point, velocity = point_at(alpha)

            value, slope = jax.value_and_grad(value_at)(point)
            parts = times(slope, velocity)
            return Node(value, total(parts, value), slope if path is None else parts)

        def contributions(average: Any) -> Any:
            return times(average, delta) if path is None else average

        if path is not None:
            check_path(path, reference, x)
        if tolerance is not None:
            along = lambda alpha: value_at(point_at(alpha)[0])
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


def check_path(path: Path, reference: Any, x: Any) -> None:
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


def nodes_and_weights(name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
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
