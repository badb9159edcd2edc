r"""A line integral of a gradient, refined where it does not explain f's change.

Between any two nodes the change of f is known, so what a rule misses of it need not be estimated.
Patterson's nested rules of 1, 3 and 7 nodes come first, which smooth functions are done with. Then
the cell between neighbouring nodes that misses most is halved, one gradient at a time: a cell's
integral is that of the cubic through the slopes at the four nodes around it, or of the line through
two where they lie so unevenly that the cubic would overshoot. No evaluation is thrown away, and
kinks are closed in on.

Source: Patterson, "The optimum addition of points to quadrature formulae", Math. Comp. 22 (1968),
table 1; Gill & Miller, "An algorithm for the integration of unequally spaced data", Computer
Journal 15 (1972), for the cubics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.cpu_layout import channels_last
from jaxplain.surrogate import compat

# Nodes in the order of their evaluation, and the weights of the first 1, 3 and 7 of them.
_NODES = (1 + np.array([0, -1, 1, 0, 0, 0, 0]) * 0.6**0.5) / 2
_NODES[3:] = (1 + np.outer([0.9604912687080202, 0.4342437493468026], [-1, 1]).ravel()) / 2
_COUNTS = (1, 3, 7)
_OVERSHOOT = 4.0  # of a cubic's weights, beyond a cell's width


class Node(NamedTuple):
    """What is known at α."""

    value: Any  # f
    slope: Any  # df/dα
    average: Any  # the tree to be averaged over α


class _State(NamedTuple):
    count: Any  # of nodes
    alphas: Any  # in the order of their evaluation; 2 for those to come
    nodes: Node  # with a leading axis
    weights: Any  # of the nodes
    gap: Any
    next: Any  # the α to evaluate


def integrate(
    node_at: Callable[[Any], Node],
    ends: Any,
    good: Callable[[Any, Any], Any],
    most: int,
) -> tuple[Any, Any, Any, Any]:
    """∫ average dα over [0, 1], f's change, the gap, and the number of nodes, 1, 3, 7, 8 … ≤ most.

    Args:
      node_at: what is known at α.
      ends: f at α = 0 and at 1, (2,).
      good: whether a gap in a change is small enough.
      most: nodes at most.
    """
    if most < 1:
        raise ValueError(f"max_steps must be at least 1, and is {most}")
    most = most if most > _COUNTS[-1] else max(c for c in _COUNTS if c <= most)
    node_at = channels_last(node_at)
    low, high = _wide(ends)
    change = high - low
    dtype = change.dtype
    nested = _nested(most)

    def refined(state: _State) -> _State:
        """One node more; where a rule is complete with it, its weights and its gap."""
        node, count = node_at(state.next), state.count + 1
        put = lambda room, new: room.at[state.count].set(new)
        nodes = jax.tree.map(put, state.nodes, node)
        alphas = put(state.alphas, state.next)
        slopes = _wide(nodes.slope)
        local, cells, middles = _cells(alphas, nodes, count, low, high)
        by_table = count <= _COUNTS[-1]
        weights = jnp.where(by_table, jnp.asarray(nested, dtype)[count], local)
        at = jnp.argmax(jnp.abs(cells))
        planned = jnp.asarray(_NODES, dtype)[jnp.minimum(count, len(_NODES) - 1)]
        following = jnp.where(count < len(_NODES), planned, middles[at])
        return _State(count, alphas, nodes, weights, change - weights @ slopes, following)

    def unfinished(state: _State) -> Any:
        complete = state.count >= _COUNTS[-1]
        for count in _COUNTS:
            complete = complete | (state.count == count)
        return (state.count < most) & ~(complete & good(state.gap, change))

    middle = jnp.asarray(0.5, dtype)
    shapes = jax.eval_shape(jax.vmap(node_at), jnp.full(most, middle))
    axes = compat.varying(change)
    start = _State(
        jnp.asarray(0),
        compat.vary(jnp.full(most, 2, dtype), axes),
        compat.vary(compat.zeros(shapes), axes),
        compat.vary(jnp.zeros(most, dtype), axes),
        change,
        compat.vary(middle, axes),
    )
    state = jax.lax.while_loop(unfinished, refined, start)
    average = jax.tree.map(
        lambda v: jnp.tensordot(
            state.weights.astype(v.dtype), v, 1, precision=jax.lax.Precision.HIGHEST
        ),
        state.nodes.average,
    )
    return average, change, state.gap, state.count


def _nested(most: int) -> np.ndarray:
    """Weights by the number of nodes, where that many make a rule: (8, most)."""
    weights = np.zeros((len(_NODES) + 1, most))
    for count in _COUNTS:
        if count <= most:
            moments = np.polynomial.legendre.legvander(2 * _NODES[:count] - 1, count - 1).T
            weights[count, :count] = np.linalg.solve(moments, np.eye(count)[0])
    return weights


def _cells(alphas: Any, nodes: Node, count: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
    """The local rule's weights (most,); of the cells between nodes, what each misses, and middles.

    Cells too narrow to be halved miss nothing.
    """
    most, dtype = len(alphas), alphas.dtype
    order = jnp.argsort(alphas)
    places = jnp.minimum(alphas[order], 1)
    cell = jnp.arange(most + 1)
    known = cell <= count
    edges = jnp.concatenate([jnp.zeros(1, dtype), places, jnp.ones(1, dtype)])
    left, right = edges[:-1], edges[1:]
    width = jnp.where(known, right - left, 0)

    def rule(points: int, beside: int) -> tuple[Any, Any]:
        """The nodes around each cell, and the integral there of the polynomial through them."""
        first = jnp.clip(cell - beside, 0, jnp.maximum(count - points, 0))
        near = jnp.minimum(first[:, None] + jnp.arange(points), most - 1)
        at = places[near]
        apart = at[:, :, None] - at[:, None, :] + jnp.eye(points, dtype=dtype)
        total: Any = 0.0
        for sign in (-1, 1):  # Gauss's two nodes are exact for cubics
            node = left + (right - left) * (1 + sign / 3**0.5) / 2
            away = (node[:, None] - at)[:, None, :]
            others = jnp.where(jnp.eye(points, dtype=bool), 1, away / apart)
            total = total + others.prod(-1) / 2
        return near, width[:, None] * total

    near, cubic = rule(4, 2)
    pair, line = rule(2, 1)
    # Constant beyond the outermost nodes, a line between neighbours.
    outside = (cell == 0) | (cell == count)
    line = jnp.where(outside[:, None], width[:, None] / 2, line)
    line_near = jnp.where((cell == 0)[:, None], 0, pair)
    line_near = jnp.where((cell == count)[:, None], jnp.maximum(count - 1, 0), line_near)
    fits = jnp.isfinite(cubic).all(1) & (jnp.abs(cubic).sum(1) <= _OVERSHOOT * width)
    fits = (fits & (count >= 4))[:, None]
    cubic = jnp.where(fits, cubic, 0)
    line = jnp.where(fits | (width <= 0)[:, None], 0, line)
    by_place = jnp.zeros(most, dtype).at[near].add(cubic).at[line_near].add(line)
    weights = jnp.zeros(most, dtype).at[order].set(by_place)

    slopes = _wide(nodes.slope)[order]
    values = jnp.where(jnp.arange(most) < count, _wide(nodes.value)[order], high)
    values = jnp.concatenate([low[None], values, high[None]])
    explained = (cubic * slopes[near]).sum(1) + (line * slopes[line_near]).sum(1)
    missed = jnp.diff(values) - explained
    wide = width > 64 * jnp.finfo(dtype).eps
    return weights, jnp.where(wide & known, missed, 0), (left + right) / 2


def _wide(y: Any) -> Any:
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))
