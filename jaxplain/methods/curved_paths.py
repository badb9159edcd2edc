"""Path methods whose way from the reference is chosen by the model or the image, and IDGI."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxplain._keys import nothing_drawn
from jaxplain._numerics import blur as blurring
from jaxplain._numerics.chunking import check_chunk, chunked_map
from jaxplain._numerics.cpu_layout import channels_last
from jaxplain._numerics.loops import compiled
from jaxplain._numerics.trees import total, wide_dtype
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.methods.gradients import gradient
from jaxplain.methods.integrated_gradients import integrated_gradients
from jaxplain.methods.neurons import conductance
from jaxplain.methods.paths import Path, Way
from jaxplain.named import turns
from jaxplain.surrogate import staging


@speaks
def guided_integrated_gradients(
    f: Function,
    ref: Tree,
    *,
    steps: int = 200,
    fraction: float = 0.25,
    max_distance: float = 0.02,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Guided integrated gradients: along a path that moves the least sensitive elements first.

    C = Σ_k ∇f(γ_k) ⊙ (γ_{k+1} - γ_k). Each step brings x's L1 distance from γ down by a
    `steps`-th of ‖x - ref‖₁, moving the `fraction` of elements with the smallest |∂f/∂x|, then the
    next, each at most `max_distance` of its way ahead or behind the straight line.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      steps: number of gradient evaluations, ≥ 1, one after another.
      fraction: of elements that move at a time, in (0, 1].
      max_distance: from the straight line, in [0, 1]; 0 is the straight line.
      at: a name, several or a pattern: contributions of these values h inside f
        (`jaxplain.tag`). The path is in their own space, from h(ref) to h(x), everything else
        staying at x; values that do not feed one another move together, as one cut of f. x and
        ref may then hold integers (token ids). Names and patterns as in `jaxplain.names`.
      return_gap: also return f(x) - f(ref) - Σ C.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → contributions, a tree like x, summing to f(x) - f(ref) up to the steps'
      error, of order 1/steps; with `return_gap` the pair. It has no reverse mode.  With `at` one
      array like the value for one name, {name: array} for several; those of values that cut f sum
      to f(x) - f(ref), of others to f(x) less f with the values of ref in their place.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: ref does not broadcast to x; an option out of range; there is no name like `at`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.guided_integrated_gradients(lambda x: 3 * x[0] - x[1], 0.0, steps=10)
      >>> explain(jnp.array([1.0, 2.0]))
      Array([ 3., -2.], dtype=float32)

    Source: Kapishnikov et al., arXiv 2106.09788, algorithm 1.
    """
    if steps < 1 or not 0 < fraction <= 1 or not 0 <= max_distance <= 1:
        raise ValueError(
            f"steps={steps} must be ≥ 1, fraction={fraction} in (0, 1] and "
            f"max_distance={max_distance} in [0, 1]"
        )
    if at is not None:
        method = functools.partial(
            guided_integrated_gradients,
            steps=steps,
            fraction=fraction,
            max_distance=max_distance,
            return_gap=return_gap,
        )
        return nothing_drawn(turns.straight(method, f, at, ref, argnums))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = staging.attributed(f, args, argnums)
        end, unravel = ravel_pytree(x)
        start, _ = ravel_pytree(staging.as_reference(ref, x))
        # A way of many small steps needs more digits than half precision has.
        dtype, start = end.dtype, start.astype(wide_dtype(end.dtype))
        delta = end.astype(start.dtype) - start
        length = jnp.abs(delta)
        explain_gradient = gradient(f, argnums=argnums)

        def place(ways: Any) -> tuple[Any, ...]:
            return staging.place(args, argnums, unravel((start + ways * delta).astype(dtype)))

        @channels_last
        def slope_at(ways: Any) -> Any:
            return ravel_pytree(explain_gradient(*place(ways)))[0].astype(start.dtype)

        def step(state: Any, number: Any) -> Any:
            """How far each element has come, and what it has contributed."""
            ways, scores = state
            slope = slope_at(ways)
            target = (number + 1).astype(start.dtype) / steps
            low = jnp.maximum(target - max_distance, 0)
            high = jnp.minimum(target + max_distance, 1)
            moved = _advance(
                jnp.maximum(ways, low),
                jnp.abs(slope),
                length,
                high,
                length.sum() * target,
                fraction,
            )
            return (moved, scores + slope * (moved - ways) * delta), None

        start_state = (jnp.zeros_like(delta), jnp.zeros_like(delta))
        (_, scores), _ = compiled(
            lambda state: jax.lax.scan(step, state, jnp.arange(steps)), start_state
        )
        result = unravel(scores.astype(dtype))
        if not return_gap:
            return result
        change = f(*place(jnp.ones_like(delta))) - f(*place(jnp.zeros_like(delta)))
        return result, change - scores.sum().astype(change.dtype)

    return explain


def _advance(ways: Any, slopes: Any, length: Any, high: Any, target: Any, fraction: float) -> Any:
    """The least sensitive elements moved ahead, at most to `high`, until Σ ways·length = target."""
    if not ways.size:
        return ways
    slopes = jnp.where(jnp.isnan(slopes), jnp.inf, slopes)  # NaN has no rank: they move last
    left = target - ways @ length
    free = (ways < high) & (length > 0)
    count = free.sum()
    room = jnp.where(free, (high - ways) * length, 0)
    ranked, room = jax.lax.sort((jnp.where(free, slopes, jnp.inf), room), num_keys=1)
    reach = jnp.concatenate([jnp.zeros_like(room[:1]), jnp.cumsum(room)])

    def batch_from(first: Any) -> tuple[Any, Any]:
        """The fraction of what is still free that moves next, and its equals: from, to."""
        left = (count - first - 1).astype(length.dtype)
        last = first + jnp.floor(fraction * left).astype(count.dtype)
        return first, (ranked <= ranked[jnp.maximum(last, 0)]).sum(dtype=count.dtype)

    def moves_wholly(batch: tuple[Any, Any]) -> Any:
        _, end = batch
        return (end < count) & (reach[end] < left)

    start = batch_from(jnp.zeros_like(count))
    first, end = jax.lax.while_loop(moves_wholly, lambda batch: batch_from(batch[1]), start)
    tiny = jnp.finfo(length.dtype).tiny
    share = jnp.clip((left - reach[first]) / jnp.maximum(reach[end] - reach[first], tiny), 0, 1)
    before = jnp.where(first > 0, ranked[first - 1], -1)
    share = jnp.where(slopes <= before, 1, jnp.where(slopes <= ranked[end - 1], share, 0))
    return jnp.where(free, jnp.where(share < 1, ways + share * (high - ways), high), ways)


@speaks
def blur_integrated_gradients(
    f: Function,
    *,
    stdev: float,
    axes: int | Sequence[int],
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    tolerance: float | None = None,
    chunk: int | None = None,
    at: At | None = None,
    return_gap: bool = False,
    max_steps: int = 201,
    argnums: Argnums = 0,
) -> Explain:
    r"""Blur integrated gradients: from x blurred to x sharp.

    C = ∫₀¹ ∇f(γ(α)) ⊙ γ'(α) dα, γ(α) x blurred by a Gaussian of standard deviation (1-α)σ, its
    values beyond the edges mirrored. No reference but x without its detail.

    Args:
      f: `f(x, *args)` → scalar; x an array, such as an image.
      stdev: σ in elements, a Python number > 0.
      axes: the axes to blur, such as (0, 1) for an image (height, width, channels).
      steps: as in `integrated_gradients`.
      quadrature: as in `integrated_gradients`.
      tolerance: as in `integrated_gradients`.
      chunk: as in `integrated_gradients`.
      at: a name, several or a pattern: contributions of these values h inside f
        (`jaxplain.tag`, `jaxplain.names`), ∫₀¹ ∂f/∂h ⊙ dh/dα dα as x becomes sharp: their
        `conductance` along γ.
      return_gap: as in `integrated_gradients`; with `at` for each name.
      max_steps: as in `integrated_gradients`.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args)` → contributions, an array like x, summing to f(x) - f(x blurred by σ) up
      to the quadrature's error; with `return_gap` or a tolerance as `integrated_gradients`.  With
      `at` one array like the value for one name, {name: array} for several: those of values that
      cut f have the same sum.

    Raises:
      TypeError: f is not scalar-valued, or x is not one floating array; with `at` as `conductance`.
      ValueError: σ ≤ 0; as `integrated_gradients`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> image = jnp.zeros((9, 9)).at[4, 4].set(1.0)
      >>> explain = jxp.blur_integrated_gradients(lambda x: x[4, 4], stdev=2.0, axes=(0, 1))
      >>> scores = explain(image)
      >>> jnp.unravel_index(scores.argmax(), (9, 9))[0].item(), round(float(scores.sum()), 2)
      (4, 0.96)

    Source: Xu, Venugopalan & Sundararajan, arXiv 2004.03383, eq. 6.
    """
    check_chunk(chunk)
    if stdev <= 0:
        raise ValueError(f"stdev must be positive, and is {stdev}")
    blurred_axes = (axes,) if isinstance(axes, int) else tuple(axes)

    def blur(x: Tree, sigma: Any) -> Any:
        for axis in blurred_axes:
            x = blurring.blur(x, sigma, blurring.radius(stdev), axis)
        return x

    def sharpen(ref: Tree, x: Tree, alpha: Any) -> Any:
        return blur(x, (1 - alpha) * stdev)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = staging.attributed(f, args, argnums)
        if not staging.same_tree(x, 0):
            raise TypeError(f"one array can be blurred, and x is {jax.tree.map(jnp.shape, x)}")
        method = integrated_gradients if at is None else functools.partial(conductance, at=at)
        return method(
            f,
            blur(x, jnp.asarray(stdev, x.dtype)),
            steps=steps,
            quadrature=quadrature,
            tolerance=tolerance,
            chunk=chunk,
            return_gap=return_gap,
            max_steps=max_steps,
            path=sharpen,
            argnums=argnums,
        )(*args)

    return explain


@speaks
def idgi(
    f: Function,
    ref: Tree,
    *,
    steps: int = 32,
    path: Path | None = None,
    chunk: int | None = None,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""IDGI: each step's change of f, shared out by the squared gradient, on any path.

    C = Σ_j g_j² / ‖g_j‖² (f(γ_{j+1}) - f(γ_j)), g_j = ∇f(γ_j), γ_j = γ(j / steps).

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      steps: number of steps, ≥ 1, a gradient each.
      path: `path(ref, x, α)` → a tree like x; None is the straight line.
      chunk: how many steps are evaluated at once; None all.
      at: as `guided_integrated_gradients`, along the straight line.
      return_gap: also return f(x) - f(ref) - Σ C.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → contributions, a tree like x, that sum to f(x) - f(ref) but for the
      steps that start where the gradient is 0, which nobody gets; with `return_gap` the pair.
      With `at` as `guided_integrated_gradients`.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: ref does not broadcast to x; steps < 1; chunk < 1; a path that does not lead from
        ref to x, or one with `at`; there is no name like `at`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.idgi(lambda x: x @ jnp.array([1.0, 2.0]), 0.0)(jnp.array([1.0, 1.0]))
      Array([0.6, 2.4], dtype=float32)

    Source: Yang, Wang & Bilgic, arXiv 2303.14242, eq. 10 and algorithm 1.
    """
    check_chunk(chunk)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, and is {steps}")
    if at is not None:
        if path is not None:
            raise ValueError("the path to a value inside is straight: give `at` or `path`")
        method = functools.partial(idgi, steps=steps, chunk=chunk, return_gap=return_gap)
        return nothing_drawn(turns.straight(method, f, at, ref, argnums))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = staging.attributed(f, args, argnums)
        way = Way(staging.as_reference(ref, x), x, path)
        value = staging.scalar(f, args, argnums)

        def share(alpha: Any) -> Any:
            """f, and its squared gradient as shares, from the gradient over its largest element."""
            y, slopes = jax.value_and_grad(value)(way.point(alpha))
            largest = functools.reduce(
                jnp.maximum,
                [jnp.abs(s).max(initial=0) for s in jax.tree.leaves(slopes)],
                jnp.zeros((), y.dtype),
            )
            safe = jnp.where(largest > 0, largest, 1)
            squares = jax.tree.map(lambda s: jnp.square(s / safe.astype(s.dtype)), slopes)
            norm = jnp.where(largest > 0, total(squares, y), 1)
            return y, jax.tree.map(lambda s: s / norm.astype(s.dtype), squares)

        values, shares = chunked_map(share, jnp.arange(steps, dtype=float) / steps, chunk)
        last = value(way.point(jnp.ones(())))
        rises = jnp.diff(jnp.append(values, last))
        scores = jax.tree.map(lambda s: jnp.tensordot(rises.astype(s.dtype), s, 1), shares)
        if not return_gap:
            return scores
        return scores, last - values[0] - total(scores, last)

    return explain
