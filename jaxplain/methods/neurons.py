"""The importance of neurons: gradients at hidden values, collected along the input's path."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.adaptive import Node
from jaxplain._numerics.chunking import check_chunk, chunked_map, weighted_sum
from jaxplain._numerics.trees import times
from jaxplain._quadrature import nodes_and_weights
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.methods.paths import Path, Way, refined
from jaxplain.named import probes
from jaxplain.surrogate import staging


@speaks
def neuron_integrated_gradients(
    f: Function,
    ref: Tree,
    *,
    at: At,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    chunk: int | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Neuron integrated gradients: C_h = Σ_k ∂f/∂h(α_k) ⊙ [h(c_k) - h(c_{k-1})].

    The input moves from ref to x; α_k and w_k are the quadrature's nodes and weights, and
    c_k = w_1 + … + w_k the steps that they stand in.  As steps grow it is the total conductance,
    without a forward-mode derivative: for all the values that `at` names in one backward pass a
    step.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`). For an x with integers
        (token ids) the path is the straight one of the first of these values, as in `deeplift`.
      steps: number of gradient evaluations.
      quadrature: as `integrated_gradients`; `"right"` is the paper's form, whose nodes are the
        steps' ends: no evaluation of f but the gradients', at an error of order 1/steps.
      chunk: how many steps are evaluated at once; None all. Bounds memory, changes nothing else.
      return_gap: also return f(x) - f(ref) - Σ C, for each name.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → contributions shaped like the value for one name, {name: array} for
      several.  Those of values that cut f sum to f(x) - f(ref) up to the quadrature's error.

    Raises:
      TypeError: f is not scalar-valued; x, or the named value, is not made of floating arrays.
      ValueError: there is no such name; as `integrated_gradients`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(jax.nn.relu(x), "hidden") @ jnp.array([1.0, 3.0])
      >>> jxp.neuron_integrated_gradients(f, 0.0, at="hidden")(jnp.array([2.0, -1.0]))
      Array([2., 0.], dtype=float32)

    Source: Shrikumar, Su & Kundaje, "Computationally efficient measures of internal neuron
    importance", arXiv 1807.09946, section 2.
    """
    check_chunk(chunk)
    alphas, weights = nodes_and_weights(quadrature, steps)
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    ends_are_nodes = np.allclose(alphas, ends[1:], rtol=0, atol=1e-9)
    # Whole chunks, the last one filled up with steps of no length.
    size = min(chunk or steps, steps)
    missing = -steps % size
    alphas = np.concatenate([alphas, np.ones(missing)]).reshape(-1, size)
    ends = np.concatenate([ends, np.full(missing, ends[-1])])
    windows = ends[np.arange(len(alphas))[:, None] * size + np.arange(size + 1)]

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed, way = _probed_way(f, ref, at, args, argnums)

        def contributions(window: tuple[Any, Any]) -> Any:
            alphas, ends = window
            both = jax.vmap(lambda alpha: probed.gradient_and_values(way.point(alpha)))
            multipliers, values = both(alphas)
            if ends_are_nodes:
                start = probed.values(way.point(ends[0]))
                values = jax.tree.map(lambda h0, h: jnp.concatenate([h0[None], h]), start, values)
            else:
                values = jax.vmap(lambda c: probed.values(way.point(c)))(ends)
            return jax.tree.map(lambda m, h: (m * jnp.diff(h, axis=0)).sum(0), multipliers, values)

        items = (jnp.asarray(alphas), jnp.asarray(windows))
        total = weighted_sum(contributions, items, jnp.ones(len(alphas)), 1 if chunk else None)
        return _with_gap(probed, total, ref, return_gap)

    return explain


@speaks
def conductance(
    f: Function,
    ref: Tree,
    *,
    at: At,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    tolerance: float | None = None,
    chunk: int | None = None,
    return_gap: bool = False,
    path: Path | None = None,
    max_steps: int = 201,
    argnums: Argnums = 0,
) -> Explain:
    r"""Conductance of neurons: C_h = ∫₀¹ ∂f/∂h ⊙ dh/dα dα along x(α) = ref + α (x - ref).

    dh/dα is one derivative in the direction x - ref (jvp), so that a whole layer, or all of them,
    costs about one run of integrated gradients, not one for each neuron.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`). For an x with integers
        (token ids) the path is the straight one of the first of these values, as in `deeplift`.
      steps: number of gradient evaluations.
      quadrature: as `integrated_gradients`.
      tolerance: as `integrated_gradients`, for all names at once.
      chunk: how many steps are evaluated at once; None all. Bounds memory, changes nothing else.
      return_gap: also return f(x) - f(ref) - Σ C, for each name.
      path: as `integrated_gradients`: the input's way, in place of the straight one.
      max_steps: as `integrated_gradients`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → contributions shaped like the value for one name, {name: array} for
      several.  Those of values that cut f sum to f(x) - f(ref) up to the quadrature's error.  With
      `return_gap` or a tolerance a tuple, as `integrated_gradients`.

    Raises:
      TypeError: f is not scalar-valued; x, or the named value, is not made of floating arrays;
        f has a function with a custom vjp, which has no forward mode.
      ValueError: there is no such name; as `integrated_gradients`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (jxp.tag(2 * x, "hidden") ** 2).sum()
      >>> jxp.conductance(f, 0.0, at="hidden")(jnp.array([1.0, 2.0]))
      Array([ 4., 16.], dtype=float32)

    Source: Dhamdhere, Sundararajan & Yan, "How important is a neuron?", arXiv 1805.12233, eq. 3.
    """
    check_chunk(chunk)
    alphas, weights = nodes_and_weights(quadrature, steps)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed, way = _probed_way(f, ref, at, args, argnums, path)

        def node_at(alpha: Any) -> Node:
            # One forward pass for both: its linear map moves h, and its transpose is the gradient.
            point, velocity = way.point_and_velocity(alpha)
            probes = probed.probes
            (y, values), linear = jax.linearize(probed.function, point, probes)
            slope, moved = linear(velocity, probes)
            transposed = jax.linear_transpose(linear, point, probes)
            nothing = jax.tree.map(jnp.zeros_like, values)
            _, multipliers = transposed((jnp.ones_like(y), nothing))
            return Node(y, slope, times(multipliers, moved))

        if tolerance is not None:
            along = lambda alpha: probed.function(way.point(alpha), probed.probes)[0]
            total, _, taken = refined(node_at, along, lambda parts: parts, tolerance, max_steps)
            result = _with_gap(probed, total, ref, return_gap)
            return (*result, taken) if return_gap else (result, taken)
        flow = lambda alpha: node_at(alpha).average
        total = weighted_sum(flow, jnp.asarray(alphas), jnp.asarray(weights), chunk)
        return _with_gap(probed, total, ref, return_gap)

    return explain


@speaks
def neuron_conductance(
    f: Function,
    ref: Tree,
    *,
    at: str,
    index: Any = None,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    chunk: int | None = None,
    neuron_chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""Conductance of each input through each neuron: C_ji = Δx_i ∫₀¹ ∂f/∂h_j · ∂h_j/∂x_i dα.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      at: the name of the layer (`jaxplain.tag`).
      index: one neuron of it (int, or a tuple with an entry an axis); None takes all.
      steps: number of gradient evaluations.
      quadrature: as `integrated_gradients`.
      chunk: how many steps are evaluated at once; None all.
      neuron_chunk: how many neurons are, at each step; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a tree like x with the layer's shape in front of each leaf (without it,
      for one neuron).  Summed over inputs it is the `conductance` of each neuron.

    Raises:
      TypeError: as `conductance`.
      ValueError: there is no such name, or several; as `integrated_gradients`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> w = jnp.array([[1.0, 2.0], [0.0, 3.0]])
      >>> f = lambda x: jxp.tag(w @ x, "hidden").sum()
      >>> jxp.neuron_conductance(f, 0.0, at="hidden")(jnp.ones(2))
      Array([[1., 2.],
             [0., 3.]], dtype=float32)

    Source: arXiv 1805.12233, eq. 2.
    """
    check_chunk(chunk)
    check_chunk(neuron_chunk, "neuron_chunk")
    alphas, weights = nodes_and_weights(quadrature, steps)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        staging.as_input(staging.pick(args, argnums))  # whose each part has a conductance
        probed, way = _probed_way(f, ref, at, args, argnums)
        if not probed.single:
            raise ValueError(f"the layer is one name, and at={at!r} asks for {list(probed.probes)}")
        shape = probed.probes[at].shape
        count = math.prod(shape)

        def through(alpha: Any) -> Any:
            point = way.point(alpha)
            multiplier = probed.gradient(point)[at]
            _, pull = jax.vjp(lambda x: probed.values(x)[at], point)

            def neuron(one_hot: Any) -> Any:
                return pull(one_hot * multiplier)[0]

            if index is not None:
                return neuron(jnp.zeros_like(multiplier).at[index].set(1))

            def numbered(j: Any) -> Any:
                return neuron(jax.nn.one_hot(j, count, dtype=multiplier.dtype).reshape(shape))

            rows = chunked_map(numbered, jnp.arange(count), neuron_chunk)
            return jax.tree.map(lambda r: r.reshape(*shape, *r.shape[1:]), rows)

        average = weighted_sum(through, jnp.asarray(alphas), jnp.asarray(weights), chunk)
        return times(average, way.delta)

    return explain


@speaks
def internal_influence(
    f: Function,
    ref: Tree,
    *,
    at: At,
    steps: int = 32,
    quadrature: str = "gauss-legendre",
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""Internal influence: ∫₀¹ ∂f/∂h dα along x(α) = ref + α (x - ref).

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      ref: the reference input: a scalar, or a tree that broadcasts to x.
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`). For an x with integers
        (token ids) the path is the straight one of the first of these values, as in `deeplift`.
      steps: number of gradient evaluations.
      quadrature: as `integrated_gradients`.
      chunk: how many steps are evaluated at once; None all. Bounds memory, changes nothing else.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → average gradients shaped like the value for one name, {name: array} for
      several; no completeness.

    Raises:
      TypeError, ValueError: as `neuron_integrated_gradients`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (jxp.tag(2 * x, "hidden") ** 2).sum()
      >>> jxp.internal_influence(f, 0.0, at="hidden")(jnp.array([1.0, 2.0]))
      Array([2., 4.], dtype=float32)

    Source: Leino et al., "Influence-directed explanations for deep convolutional networks",
    arXiv 1802.03788, definition 1, with the distribution of interest uniform on the segment.
    """
    check_chunk(chunk)
    alphas, weights = nodes_and_weights(quadrature, steps)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed, way = _probed_way(f, ref, at, args, argnums)
        influence = weighted_sum(
            lambda alpha: probed.gradient(way.point(alpha)),
            jnp.asarray(alphas),
            jnp.asarray(weights),
            chunk,
        )
        return probed.result(influence)

    return explain


def _probed_way(
    f: Function, ref: Tree, at: At, args: Any, argnums: Argnums, path: Path | None = None
) -> tuple[probes.Probed, Way]:
    """f probed, and the way of what moves."""
    probed = probes.probe(f, at, args, argnums)
    if path is not None:
        staging.as_input(staging.pick(args, argnums))  # a path is one of x's own
    return probed, Way(probed.reference(ref), probed.x, path)


def _with_gap(probed: probes.Probed, contributions: Tree, ref: Tree, return_gap: bool) -> Any:
    if not return_gap:
        return probed.result(contributions)
    change = probed.function(probed.x, probed.probes)[0] - probed.value_at(ref)
    gaps = {name: change - jnp.sum(c) for name, c in contributions.items()}
    return probed.result(contributions), probed.result(gaps)
