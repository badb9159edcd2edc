"""Shapley values from propagated moments: a few backward passes in place of coalitions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.trees import wide
from jaxplain._quadrature import gauss_legendre
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Groups, Tree
from jaxplain.games.players import as_players, per_element
from jaxplain.named import turns
from jaxplain.surrogate import staging
from jaxplain.surrogate.interpreter import interpret
from jaxplain.surrogate.rules.moments import moments
from jaxplain.surrogate.values.lifted import settled
from jaxplain.surrogate.values.moments import Moments, Nodes, Segment


@speaks
def moment_shapley(
    f: Function,
    ref: Tree,
    *,
    nodes: int = 2,
    anchors: int = 0,
    repair: bool = True,
    groups: Groups = None,
    at: At | None = None,
    return_gap: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Shapley values by moments, the nearest at a few gradients: nodes + 1 of them.

    Let each player be at x with probability q_i, else at the reference. The Shapley value is

      φ_i = ∫₀¹ ∂F/∂q_i (t, …, t) dt,   F(q) = E f(x_S).

    Every value of the program is taken as normal and its elements as independent, so that a mean
    and a variance of each describe it; they are propagated through f at the Gauss-Legendre nodes of
    the integral, all of which share one variance, and ∂F/∂q_i comes back in one backward pass:

      φ_i = Δ_i Σ_k m̄_ki + Δ_i² V̄_i,   Δ = x - ref.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays. A batch is `jax.vmap`, which shares
        the reference's part.
      ref: the reference, a scalar or a tree that broadcasts to x. A background is
        `jaxplain.expected(jaxplain.moment_shapley)(f, refs)`.
      nodes: how many nodes; 2 are enough but for strongly saturated functions. Each costs a
        gradient, and the variance another one.
      anchors: so many players, those of largest change |Δ|, are put to x and to the reference by
        themselves instead of being averaged over: 1 + anchors times the nodes. 1 or 2 help;
        more do not.
      repair: φ_i + g |φ_i|/Σ|φ| with the gap g, so that they sum to f(x) - f(ref).
      groups: the players: a tree like x of integer labels that broadcast to it. Elements of one
        label, in one leaf or several, join together. None makes every element one. As many
        forward passes of f's first linear map as there are groups.
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`): the players are the
        elements of these values, which go from what f computes at ref to what it computes at x;
        all else stays x's. x and ref may then hold integers (token ids).
      return_gap: also return f(x) - f(ref) - Σ φ. Without `repair` it tells how far the moments are
        off.
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      `explain(x, *args)` → a pytree like x; with `groups` each element is its player's value, as in
      `shapley_values`. Players' values sum to f(x) - f(ref); they are NaN where it is not 0 and no
      player is seen to have an effect. They are exact for f linear in x, 0
      for a player without effect, linear in f (before the repair) and, without anchors, alike for
      players that f can't tell apart. With `return_gap` the pair (values, gap). With `at` as in
      `integrated_gradients`.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.
      ValueError: nodes < 1, anchors < 0; ref or groups do not broadcast to x; groups with `at`;
        nothing is named as in `at`.
      UnsupportedPrimitive: x meets an operation that JAX can't differentiate either.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jax.nn.relu(x @ jnp.array([2.0, -1.0, -1.0]) + 0.5)
      >>> jxp.moment_shapley(f, 0.0)(jnp.ones(3))  # Shapley: 4/3, -2/3, -2/3
      Array([ 1.3935, -0.6968, -0.6968], dtype=float32)

    Source: this library; the integral is Owen's (Management Science 18, 1972), moments as in
    Ancona, Öztireli & Gross, arXiv 1903.10992, which takes a pass for every player.
    """
    if nodes < 1 or anchors < 0:
        raise ValueError(f"nodes must be at least 1 and anchors 0, and are {nodes} and {anchors}")
    if at is not None:
        if groups is not None:
            raise ValueError("groups are of x: with `at` every element is a player")
        method = functools.partial(
            moment_shapley, nodes=nodes, anchors=anchors, repair=repair, return_gap=return_gap
        )
        return nothing_drawn(turns.straight(method, f, at, ref, argnums))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        staged = staging.stage(f, args, argnums)
        tree = jax.tree.structure(staging.pick(args, argnums))
        x = jax.tree.unflatten(tree, list(staged.leaves))
        reference = staging.as_reference(ref, x)
        game = _Game(staged, x, reference, groups)
        values = game.values(_Plan.of(nodes, min(anchors, game.count)))
        y, y0 = map(staging.scalar(f, args, argnums), (x, reference))
        rise = wide(y) - wide(y0)
        if repair:
            values = _repaired(values, rise, _rounding(y, y0))
        result = game.like_x(values)
        return (result, (rise - jnp.sum(values)).astype(y.dtype)) if return_gap else result

    return explain


_LOST = 1e-2  # of f(x) - f(ref): far beyond any rounding of a sum that could be repaired


def _rounding(y: Any, y0: Any) -> Any:
    """That of y - y0."""
    return float(jnp.finfo(y.dtype).eps) / 2 * (jnp.abs(wide(y)) + jnp.abs(wide(y0)))


def _repaired(values: Any, rise: Any, rounding: Any) -> Any:
    """φ_i + g |φ_i|/Σ|φ|: what has no effect gets nothing of the gap.

    As far as the gap is more than rounding: of a small change the values have all their digits.
    Where nobody is seen to have an effect, or values of a mask's size cancel, there is no repair.
    """
    gap = rise - jnp.sum(values)
    gap = jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - rounding, 0)
    sizes = jnp.abs(values)
    total = jnp.sum(sizes)
    repaired = values + gap * (sizes / jnp.where(total == 0, 1, total))
    missed = jnp.abs(rise - jnp.sum(repaired)) > _LOST * jnp.abs(rise) + 2 * rounding
    return jnp.where(missed, jnp.nan, repaired)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """At which states of the anchors, and which probabilities of the others, means are taken.

    At a node t < ½ the anchors are all at the reference, and each in turn at x; at the others they
    are all at x, and each in turn at the reference.  What two of them do together is left out, so
    that f's mean over their states is (1 - r p) y_0 + p Σ_j y_j with p = min(t, 1 - t).
    """

    t: tuple[float, ...]  # of each state
    seeds: tuple[float, ...]  # what the state's value weighs
    anchored: np.ndarray  # (states, anchors): whether an anchor is at x
    of_anchors: np.ndarray  # (anchors, states): an anchor's value from the states'

    @classmethod
    def of(cls, nodes: int, anchors: int) -> _Plan:
        t, seeds, anchored, of_anchors = [], [], [], []
        turned = np.eye(anchors, dtype=bool)
        for node, weight in zip(*gauss_legendre(nodes), strict=True):
            late = node > 0.5
            p = min(node, 1 - node)
            t += [float(node)] * (anchors + 1)
            seeds += [weight * (1 - anchors * p)] + [weight * p] * anchors
            anchored += [np.full((1, anchors), late), turned ^ late]
            sign = -weight if late else weight
            of_anchors.append(sign * np.concatenate([-np.ones((anchors, 1)), np.eye(anchors)], 1))
        return cls(
            tuple(t),
            tuple(map(float, seeds)),
            np.concatenate(anchored),
            np.concatenate(of_anchors, 1),
        )

    @property
    def places(self) -> tuple[tuple[float, ...], ...]:
        """Of each state: how far along the common direction, and along each anchor's."""
        return tuple((p, *map(float, row)) for p, row in zip(self.t, self.anchored, strict=True))

    @property
    def nodes(self) -> Nodes:
        weights = np.maximum(self.seeds, 0)
        return Nodes(
            tuple(p * (1 - p) for p in self.t),
            tuple(1 - 2 * p for p in self.t),
            tuple(map(float, weights / weights.sum())),
            drifts=bool(self.anchored.size),  # which pay beside anchors only
        )


class _Game:
    """f between its reference and x, with elements or groups of them as players."""

    def __init__(self, staged: staging.Staged, x: Tree, reference: Tree, groups: Groups):
        self.staged, self.x = staged, x
        self.starts = jax.tree.leaves(reference)
        self.deltas = [v - v0 for v, v0 in zip(jax.tree.leaves(x), self.starts, strict=True)]
        self.labels, self.count = as_players(groups, x)
        spread = zip(jax.tree.leaves(self.labels), self.deltas, strict=True)
        self.players = [np.broadcast_to(label, d.shape) for label, d in spread]
        sizes = np.bincount(np.concatenate([p.ravel() for p in self.players]))
        self.grouped = bool(sizes.max() > 1)

    def values(self, plan: _Plan) -> Any:
        """The players' values, before the repair."""
        nodes = plan.nodes
        anchors = self._largest(plan.anchored.shape[1])
        free = [
            self._without(anchors, p, d) for p, d in zip(self.players, self.deltas, strict=True)
        ]
        columns = [
            jnp.concatenate([d[None], self._apart(anchors, p, delta)])
            for d, p, delta in zip(free, self.players, self.deltas, strict=True)
        ]
        joint = [
            self._apart(np.arange(self.count), p, d) if self.grouped else None
            for p, d in zip(self.players, free, strict=True)
        ]

        def means(starts: Any, variances: Any) -> Any:
            leaves = zip(starts, columns, variances, joint, strict=True)
            return self._at_nodes([Segment(*leaf, plan.places, nodes) for leaf in leaves], nodes)

        if self.grouped:
            ones = [jnp.ones(self.count, d.dtype) for d in free]
        else:
            ones = [d * d for d in free]
        y, vjp = jax.vjp(means, self.starts, ones)
        of_means, of_variances = vjp(jnp.asarray(plan.seeds, y.dtype))
        values = self._gathered([wide(d * m) for d, m in zip(free, of_means, strict=True)])
        if self.grouped:
            values += sum(map(wide, of_variances))
        else:
            curved = [wide(d) * wide(d * v) for d, v in zip(free, of_variances, strict=True)]
            values += self._gathered(curved)
        return values.at[anchors].set(plan.of_anchors @ wide(y)) if len(anchors) else values

    def _at_nodes(self, operands: list[Segment], nodes: Nodes) -> Any:
        """f's mean at every node."""
        outputs = list(map(settled, interpret(moments(), self.staged.jaxpr, operands)))
        plain = [y.at_reference if isinstance(y, Moments) else y for y in outputs]
        staging.check_scalar(jax.tree.unflatten(self.staged.tree, plain))
        (y,) = outputs
        return y.means if isinstance(y, Moments) else jnp.broadcast_to(y, len(nodes))

    def _gathered(self, parts: list[Any]) -> Any:
        """The sum of each player's elements."""
        flat = jnp.concatenate([part.ravel() for part in parts])
        if not self.grouped:
            return flat
        at = np.concatenate([p.ravel() for p in self.players])
        return jnp.zeros(self.count, flat.dtype).at[at].add(flat)

    def _largest(self, number: int) -> Any:
        """The players that change most."""
        if not number:
            return np.zeros(0, int)
        sizes = self._gathered([wide(d) ** 2 for d in self.deltas])
        return jax.lax.top_k(sizes, number)[1]

    def _without(self, anchors: Any, players: Any, delta: Any) -> Any:
        """The change of all but these players."""
        if not len(anchors):
            return delta
        anchored = jnp.asarray(anchors).reshape(*(1,) * players.ndim, -1)
        return jnp.where((players[..., None] == anchored).any(-1), 0, delta)

    def _apart(self, anchors: Any, players: Any, delta: Any) -> Any:
        """The change that each of these players makes."""
        of_each = jnp.asarray(anchors).reshape(-1, *(1,) * delta.ndim)
        return jnp.where(players[None] == of_each, delta[None], 0)

    def like_x(self, values: Any) -> Any:
        """Players' values as a tree like x."""
        typed = per_element(self.labels, self.x, values)
        return jax.tree.map(lambda v, leaf: v.astype(leaf.dtype), typed, self.x)
