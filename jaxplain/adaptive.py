r"""A line integral of a gradient, refined where it does not explain f's change.

Between any two nodes the change of f is known, so what Simpson's rule misses of it on an interval
need not be estimated: gap = f(b) - f(a) - (b-a)/6 (f'(a) + 4 f'(m) + f'(b)). The interval with the
largest gap is halved, until the sum of gaps is small enough. No evaluation is thrown away, and
kinks are closed in on.

Source: McKeeman, "Adaptive numerical integration by Simpson's rule", CACM 5 (1962), with the error
measured in place of its estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Node(NamedTuple):
    """What is known at α."""

    value: Any  # f
    slope: Any  # df/dα
    average: Any  # the tree to be averaged over α


class _State(NamedTuple):
    count: Any  # of nodes
    nodes: Any  # Node with a leading axis
    ends: Any  # (intervals, 3) numbers of nodes: left, middle, right
    starts: Any  # (intervals,)
    widths: Any  # (intervals,), 0 for those to come
    gaps: Any  # (intervals,)


def integrate(
    node_at: Callable[[Any], Node], good: Callable[[Any, Any], Any], most: int
) -> tuple[Any, Any, Any, Any]:
    """∫ average dα over [0, 1], f's change, the gap, and the number of nodes, 3, 5, … ≤ most.

    Args:
      node_at: what is known at α.
      good: whether a gap in a change is small enough.
      most: nodes at most.
    """
    if most < 3:
        raise ValueError(f"max_steps must be at least 3, and is {most}")
    most -= (most + 1) % 2
    first = jax.vmap(node_at)(jnp.array([0.0, 0.5, 1.0]))
    room = jax.tree.map(lambda v: jnp.zeros((most, *v.shape[1:]), v.dtype).at[:3].set(v), first)
    intervals = (most - 1) // 2
    zeros = jnp.zeros(intervals, _wide(first.slope).dtype)
    ends = jnp.zeros((intervals, 3), int).at[0].set(jnp.array([0, 1, 2]))
    widths = zeros.at[0].set(1)
    gap = _gap(room, ends[0], widths[0])
    start = _State(jnp.asarray(3), room, ends, zeros, widths, zeros.at[0].set(gap))

    change = _wide(first.value[2]) - _wide(first.value[0])

    def unfinished(state: _State) -> Any:
        return (state.count < most) & ~good(state.gaps.sum(), change)

    def halve(state: _State) -> _State:
        at, new = jnp.argmax(jnp.abs(state.gaps)), (state.count - 1) // 2
        low, half = state.starts[at], state.widths[at] / 2
        pair = jax.vmap(node_at)(low + half * jnp.array([0.5, 1.5], half.dtype))
        nodes = jax.tree.map(
            lambda v, p: jax.lax.dynamic_update_slice_in_dim(v, p, state.count, 0),
            state.nodes,
            pair,
        )
        left, middle, right = state.ends[at]
        halves = jnp.array([at, new])
        ends = jnp.array([[left, state.count, middle], [middle, state.count + 1, right]])
        gaps = jax.vmap(lambda ends: _gap(nodes, ends, half))(ends)
        return _State(
            state.count + 2,
            nodes,
            state.ends.at[halves].set(ends),
            state.starts.at[halves].set(jnp.array([low, low + half])),
            state.widths.at[halves].set(half),
            state.gaps.at[halves].set(gaps),
        )

    state = jax.lax.while_loop(unfinished, halve, start)
    shares = state.widths[:, None] * jnp.array([1.0, 4.0, 1.0]) / 6
    weights = jnp.zeros(most, shares.dtype).at[state.ends].add(shares)
    average = jax.tree.map(
        lambda v: jnp.tensordot(weights.astype(v.dtype), v, 1), state.nodes.average
    )
    return average, change, state.gaps.sum(), state.count


def _gap(nodes: Node, ends: Any, width: Any) -> Any:
    """What Simpson's rule leaves of an interval's change."""
    value, slope = _wide(nodes.value[ends]), _wide(nodes.slope[ends])
    return value[2] - value[0] - width / 6 * (slope[0] + 4 * slope[1] + slope[2])


def _wide(y: Any) -> Any:
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))
