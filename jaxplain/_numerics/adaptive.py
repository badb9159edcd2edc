r"""A line integral of a gradient, refined where it does not explain f's change.

Between any two nodes the change of f is known, so what a rule misses of it need not be estimated.
What it misses of the parts is not known, and may cancel in their sum: parts count as right once one
more rule agrees. Patterson's nested rules of 1, 3 and 7 nodes come first, then the one of 15 if f's
change is met and the parts are not known to be. Otherwise the cell between neighbouring nodes that
misses most of f's change, or of whose parts least is known, is halved, one gradient at a time: a
cell's integral is that of the cubic through the slopes at the four nodes around it, or of the line
through two where they lie so unevenly that the cubic would overshoot. No evaluation is thrown away,
and kinks are closed in on.

Source: Patterson, "The optimum addition of points to quadrature formulae", Math. Comp. 22 (1968),
table 1; Gill & Miller, "An algorithm for the integration of unequally spaced data", Computer
Journal 15 (1972), for the cubics.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.cpu_layout import channels_last
from jaxplain._numerics.loops import compiled
from jaxplain._numerics.trees import wide
from jaxplain.surrogate import compat

# Nodes on [-1, 1] that each rule adds to the one before, beside their negatives.
_ADDED = (
    (0.6**0.5,),
    (0.9604912687080202, 0.4342437493468026),
    (0.9938319632127550, 0.8884592328722570, 0.6211029467372264, 0.2233866864289670),
)
# In the order of their evaluation, on [0, 1]; so many make a rule.
_NODES = (1 + np.array([0.0, *(s * v for added in _ADDED for v in added for s in (-1, 1))])) / 2
_COUNTS = (1, 3, 7, 15)
_FIRST = 7  # then one decides between 15 and halving cells
_OVERSHOOT = 4.0  # of a cubic's weights, beyond a cell's width


class Node(NamedTuple):
    """What is known at α."""

    value: Any  # f
    slope: Any  # df/dα
    average: Any  # the tree to be averaged over α


class Integral(NamedTuple):
    """∫ average dα over [0, 1], and how far it can be trusted."""

    average: Any
    change: Any  # of f
    gap: Any  # what the slopes' integral misses of it
    doubt: Any  # how far parts may be off: the largest disagreement of the last two rules
    scale: Any  # Σ |parts|
    count: Any  # of nodes

    def good(self, tolerance: float) -> Any:
        """Whether the sum is within the tolerance of f's change, and every part of all parts'."""
        met = jnp.abs(self.gap) <= tolerance * jnp.abs(self.change)
        return met & (self.doubt <= tolerance * self.scale)


class _State(NamedTuple):
    count: Any  # of nodes
    planned: Any  # how many of them are the nested rules'
    alphas: Any  # in the order of their evaluation; 2 for those to come
    nodes: Node  # with a leading axis
    weights: Any  # of the nodes, by the last rule
    gap: Any
    doubts: Any  # each cell's share of the doubt, by its left node; the first cell's in front
    scale: Any
    next: Any  # the α to evaluate
    cell: Any  # the cell that it halves, by its left node


def integrate(
    node_at: Callable[[Any], Node],
    ends: Any,
    parts: Callable[[Any], Any],
    tolerance: float,
    most: int,
) -> Integral:
    """The integral with the fewest of 1, 3, 7, 8 … ≤ most nodes that are good.

    Args:
      node_at: what is known at α.
      ends: f at α = 0 and at 1, (2,).
      parts: a linear function of an average: the tree that sums to the slopes' integral.
      tolerance: as `Integral.good` takes it.
      most: nodes at most.
    """
    if most < 1:
        raise ValueError(f"max_steps must be at least 1, and is {most}")
    most = most if most > _FIRST else max(c for c in _COUNTS if c <= most)
    # All traced values are operands: the program is of shapes alone.
    return compiled(lambda ends: _integral(node_at, ends, parts, tolerance, most), ends)


def _integral(
    node_at: Callable[[Any], Node],
    ends: Any,
    parts: Callable[[Any], Any],
    tolerance: float,
    most: int,
) -> Integral:
    node_at = channels_last(node_at)
    low, high = wide(ends)
    change, dtype = high - low, wide(ends).dtype
    nested = jnp.asarray(_nested(most), dtype)
    room = compat.zeros(jax.eval_shape(jax.vmap(node_at), jnp.full(most, 0.5, dtype)))
    ones = jax.tree.map(lambda v: jnp.ones_like(v[0]), room.average)
    reach = _extremes(parts(ones), dtype)[0]
    single = sum(leaf.size for leaf in jax.tree.leaves(ones)) == 1

    def integral(state: _State) -> Integral:
        average = _weighted(state.weights, state.nodes.average)
        doubt = jnp.zeros((), dtype) if single else state.doubts.sum()  # one part is the sum
        return Integral(average, change, state.gap, doubt, state.scale, state.count)

    def refined(state: _State) -> _State:
        """One node more; where a rule is complete with it, its weights, gap and doubts."""
        node, count = node_at(state.next), state.count + 1
        put = lambda room, new: room.at[state.count].set(new)
        nodes = jax.tree.map(put, state.nodes, node)
        alphas = put(state.alphas, state.next)
        slopes = wide(nodes.slope)
        cells = _cells(alphas, nodes, count, low, high)
        by_table = count <= state.planned
        new = jnp.where(by_table, _row(nested, count), cells.weights)
        moved = _extremes(parts(_weighted(new - state.weights, nodes.average)), dtype)[0]
        scale = _extremes(parts(_weighted(new, nodes.average)), dtype)[1]
        was_by_table = state.count <= state.planned
        # What does not cancel in the sum is told by f's change; else each half may miss as much.
        summed = jnp.abs((new - state.weights) @ slopes)
        left = jnp.zeros(most + 1, dtype).at[cells.left].add(jnp.abs(cells.missed))
        share = jnp.where(summed >= moved, left / jnp.where(summed > 0, summed, 1), 0.5)
        share = jnp.minimum(share, 1) * moved
        halved = state.doubts.at[state.cell].set(share[state.cell]).at[count].set(share[count])
        # One node agrees with nothing yet: it is right only where no part can move.
        moved = jnp.where(count == 1, jnp.where(reach > 0, jnp.inf, 0), moved)
        by_width = (
            jnp.zeros_like(halved)
            .at[cells.left]
            .add(jnp.where(cells.width > 0, moved * cells.width, 0))
        )
        doubts = jnp.where(was_by_table, by_width, halved)
        complete = _complete(count, state.planned)
        after = _State(
            count=count,
            planned=state.planned,
            alphas=alphas,
            nodes=nodes,
            weights=jnp.where(complete, new, state.weights),
            gap=jnp.where(complete, change - new @ slopes, state.gap),
            doubts=jnp.where(complete, doubts, state.doubts),
            scale=jnp.where(complete, scale, state.scale),
            next=state.next,
            cell=state.cell,
        )
        met = jnp.abs(after.gap) <= tolerance * jnp.abs(change)
        if most >= _COUNTS[-1]:
            verify = (count == _FIRST) & met & ~integral(after).good(tolerance)
            after = after._replace(planned=jnp.where(verify, _COUNTS[-1], state.planned))
        worth = jnp.where(met, after.doubts[cells.left] * cells.halvable, jnp.abs(cells.missed))
        at = jnp.argmax(worth)
        by_plan = count < after.planned
        table = _row(jnp.asarray(_NODES, dtype), count)
        following = jnp.where(by_plan, table, cells.middle[at])
        return after._replace(next=following, cell=cells.left[at])

    def unfinished(state: _State) -> Any:
        complete = _complete(state.count, state.planned)
        return (state.count < most) & ~(complete & integral(state).good(tolerance))

    start = _State(
        count=jnp.asarray(0),
        planned=jnp.asarray(min(_FIRST, most)),
        alphas=jnp.full(most, 2, dtype),
        nodes=room,
        weights=jnp.zeros(most, dtype),
        gap=change,
        doubts=jnp.full(most + 1, jnp.inf, dtype),
        scale=jnp.zeros((), dtype),
        next=jnp.asarray(0.5, dtype),
        cell=jnp.asarray(0),
    )
    # Of a batch each example has a state of its own from the first step on: a gather from what all
    # share by an index of their own is refused where the batch lies on an explicit mesh.
    start = jax.tree.map(lambda v: jnp.where(change == change, v, v), start)
    start = compat.vary(start, compat.varying(change))
    return integral(jax.lax.while_loop(unfinished, refined, start))


def _row(table: Any, number: Any) -> Any:
    """A row of a constant, its last where there are fewer; by a choice, as no gather may."""
    chosen = jnp.arange(len(table)) == jnp.minimum(number, len(table) - 1)
    return jnp.where(chosen.reshape(-1, *[1] * (table.ndim - 1)), table, 0).sum(0)


def _complete(count: Any, planned: Any) -> Any:
    """Whether so many nodes make a rule."""
    by_table = functools.reduce(operator.or_, (count == known for known in _COUNTS))
    return (count > planned) | by_table


def _weighted(weights: Any, nodes: Any) -> Any:
    """Σ_j w_j v_j over the leading axis of every leaf."""
    return jax.tree.map(
        lambda v: jnp.tensordot(weights.astype(v.dtype), v, 1, precision=jax.lax.Precision.HIGHEST),
        nodes,
    )


def _extremes(parts: Any, dtype: Any) -> tuple[Any, Any]:
    """The largest |part|, and Σ |parts|."""
    sizes = [jnp.abs(leaf).astype(dtype) for leaf in jax.tree.leaves(parts)]
    zero = jnp.zeros((), dtype)
    largest = functools.reduce(jnp.maximum, [s.max(initial=0) for s in sizes], zero)
    return largest, sum((s.sum() for s in sizes), zero)


def _nested(most: int) -> np.ndarray:
    """Weights by the number of nodes, where that many make a rule: (16, most)."""
    weights = np.zeros((len(_NODES) + 1, most))
    for count in _COUNTS:
        if count <= most:
            moments = np.polynomial.legendre.legvander(2 * _NODES[:count] - 1, count - 1).T
            weights[count, :count] = np.linalg.solve(moments, np.eye(count)[0])
    return weights


class _Cells(NamedTuple):
    """What lies between neighbouring nodes, (most + 1,) from left to right."""

    weights: Any  # the local rule's, of the nodes (most,)
    missed: Any  # of f's change; cells too narrow to be halved miss nothing
    middle: Any
    width: Any
    left: Any  # the node at the left end, from 1 on in the order of evaluation; 0 is the end itself
    halvable: Any  # 1, or 0 where a cell is too narrow


def _cells(alphas: Any, nodes: Node, count: Any, low: Any, high: Any) -> _Cells:
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
        near = jnp.minimum(first[:, None] + jnp.arange(points)[None], most - 1)
        at = places[near]
        apart = at[:, :, None] - at[:, None, :] + jnp.eye(points, dtype=dtype)[None]
        total = jnp.zeros((most + 1, points), dtype)
        for sign in (-1, 1):  # Gauss's two nodes are exact for cubics
            node = left + (right - left) * (1 + sign / 3**0.5) / 2
            away = (node[:, None] - at)[:, None, :]
            others = jnp.where(jnp.eye(points, dtype=bool)[None], 1, away / apart)
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

    slopes = wide(nodes.slope)[order]
    values = jnp.where(jnp.arange(most) < count, wide(nodes.value)[order], high)
    values = jnp.concatenate([low[None], values, high[None]])
    explained = (cubic * slopes[near]).sum(1) + (line * slopes[line_near]).sum(1)
    missed = jnp.diff(values) - explained
    halvable = known & (width > 64 * jnp.finfo(dtype).eps)
    left_node = jnp.concatenate([jnp.zeros(1, order.dtype), order + 1])
    return _Cells(
        weights=weights,
        missed=jnp.where(halvable, missed, 0),
        middle=(left + right) / 2,
        width=width,
        left=left_node,
        halvable=halvable.astype(dtype),
    )
