"""Perturbation curves: f while groups of the input go to a reference, in the order of their scores.

One engine for all of them. A position p is a place in the descending order of scores: at it f is
known with the p highest groups removed, or with those alone kept. Tied groups go together, so a
position among them moves to the nearer end of theirs, and a curve is straight between the positions
that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.chunking import check_chunk
from jaxplain.metrics._example import (
    Example,
    check_sign,
    finite,
    flat,
    signed,
    undefined_unless,
)
from jaxplain.metrics._metric import Metric, of_contributions
from jaxplain.metrics._removal import Removal
from jaxplain.surrogate import staging

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)  # of DeYoung et al., section 5
Positions = Callable[[int], list[int]]  # of so many groups


class Curve(NamedTuple):
    """Where it is known: ascending positions, the first 0 and the last all groups; and f there."""

    positions: jax.Array
    values: jax.Array

    def area(self) -> jax.Array:
        """∫ over the fraction of groups."""
        x = self.positions.astype(self.values.dtype)
        x = x / x[-1]
        return ((x[1:] - x[:-1]) * (self.values[1:] + self.values[:-1])).sum() / 2

    def at(self, positions: Sequence[int]) -> jax.Array:
        """Straight lines between."""
        dtype = self.values.dtype
        wanted = jnp.asarray(positions, dtype)
        return jnp.interp(wanted, self.positions.astype(dtype), self.values)


@dataclass(frozen=True)
class Plan:
    """Curves of one removal in one order."""

    removal: Removal
    order: str

    def name(self, example: Example) -> tuple[Any, ...]:
        """Equal where the same is evaluated."""
        return "curve", self.order, *self.removal.name(example)

    def announce(self, example: Example, removed: Positions, kept: Positions) -> None:
        """Adds positions to those at which f will be evaluated."""
        _, groups = self.removal.players(example)
        wanted = example.positions.setdefault(self.name(example), (set(), set()))
        for have, positions in zip(wanted, (removed, kept), strict=True):
            have.update(p for p in positions(groups) if 0 < p < groups)

    def scores(self, example: Example) -> jax.Array:
        """Each group's score: the sum of its elements'."""
        contributions = example.contributions(self.removal.argnums)
        labels, groups = self.removal.players(example)
        at = jax.tree.map(lambda a, c: jnp.broadcast_to(a, c.shape).ravel(), labels, contributions)
        elements = signed(flat(contributions), self.order)
        places = jnp.concatenate(jax.tree.leaves(at))
        if groups == elements.size:  # one element each: nothing is added
            return jnp.zeros_like(elements).at[places].set(elements)
        return jax.ops.segment_sum(elements, places, groups)

    def curves(self, example: Example, removed: Positions, kept: Positions) -> tuple[Curve, Curve]:
        """The curve of the highest groups removed, and that of them alone kept."""
        _, groups = self.removal.players(example)
        name = self.name(example)
        wanted = tuple(sorted(positions) for positions in example.positions[name])
        ends = jnp.stack([self.removal.whole(example), self.removal.nothing(example)])
        inside = [
            [p for p in positions(groups) if 0 < p < groups] for positions in (removed, kept)
        ]
        cost = self.removal.cost(example)
        moved, values = example.once(
            name,
            lambda: self._evaluate(example, wanted),
            alone={"evaluations": cost * sum(len(set(own)) for own in inside)},
            evaluations=cost * sum(map(len, wanted)),
        )
        found = []
        for i, own in enumerate(inside):
            places = np.searchsorted(wanted[i], own) + i * len(wanted[0])
            before, behind = (ends[i : i + 1], ends[1 - i : 2 - i])
            low, high = jnp.zeros(1, moved.dtype), jnp.full(1, groups, moved.dtype)
            where = jnp.concatenate([low, moved[places], high])
            found.append(Curve(where, jnp.concatenate([before, values[places], behind])))
        return found[0], found[1]

    def _evaluate(
        self, example: Example, wanted: tuple[list[int], ...]
    ) -> tuple[jax.Array, jax.Array]:
        """Where the wanted positions move to, and f there; NaN where scores are not numbers."""
        scores = self.scores(example)
        falling = -jnp.sort(-scores)
        above = jnp.searchsorted(-falling, -scores, side="left")  # groups that score higher
        positions = jnp.asarray([*wanted[0], *wanted[1]], above.dtype)
        if not positions.size:
            return positions, jnp.zeros(0, scores.dtype)
        moved = jax.vmap(lambda p: _nearer_end(falling, p))(positions)
        top = above[None] < moved[:, None]
        keeps = np.arange(positions.size) >= len(wanted[0])
        values = self.removal.values(example, top != keeps[:, None])
        return moved, undefined_unless(finite(scores), values)


def _nearer_end(falling: jax.Array, position: jax.Array) -> jax.Array:
    """A position, or the nearer end of the tied scores that it stands among."""
    tied = falling[position]
    start, end = (
        jnp.searchsorted(-falling, -tied, side=side).astype(position.dtype)
        for side in ("left", "right")
    )
    nearer = jnp.where(position - start < end - position, start, end)
    return jnp.where(start < position, nearer, position)


def _steps(steps: float | None) -> Positions:
    """Equal steps from no group to all, the last with what is left."""

    def positions(groups: int) -> list[int]:
        each = 1.0 if steps is None else max(1.0, groups / steps)
        count = math.ceil(groups / each - 1e-9)
        return [min(round(k * each), groups) for k in range(count + 1)]

    return positions


def _highest(fractions: Sequence[float]) -> Positions:
    """As many groups as a fraction of them is, and one where it is less."""
    # Rounded first, for 0.1 · 30 is more than 3 in binary numbers.
    return lambda groups: [math.ceil(round(q * groups, 9)) for q in fractions]


def _turned(positions: Positions) -> Positions:
    """The same steps from the lowest."""
    return lambda groups: [groups - p for p in reversed(positions(groups))]


def _no_positions(groups: int) -> list[int]:
    return []


Summary = Callable[[Curve, Curve, int], jax.Array]  # of both curves and the number of groups


def _metric(
    f: Callable[..., Any],
    ref: Any,
    options: dict[str, Any],
    summary: Summary,
    *,
    removed: Positions = _no_positions,
    kept: Positions = _no_positions,
    direction: str = "↑",
    low: float = -math.inf,
    high: float = math.inf,
) -> Metric:
    """A summary of curves that go through these positions."""
    order, steps, scale = options["order"], options.get("steps"), options.get("scale")
    check_sign(order, "order")
    check_chunk(options["chunk"])
    if steps is not None and not steps > 0:
        raise ValueError(f"steps must be more than 0, and is {steps!r}")
    if scale not in (None, "relative"):
        raise ValueError(f"unknown scale {scale!r}: None or 'relative'")
    removal = Removal(f, ref, options["groups"], options["chunk"], options["argnums"])
    plan = Plan(removal, order)

    def announce(example: Example) -> None:
        plan.announce(example, removed, kept)

    def share(example: Example) -> None:
        removal.whole(example)
        removal.nothing(example)

    def score(example: Example) -> jax.Array:
        _, groups = removal.players(example)
        curves = plan.curves(example, removed, kept)
        if scale == "relative":
            whole = removal.whole(example)
            without, only = (Curve(c.positions, c.values / whole) for c in curves)
            curves = without, only
        # Not all curves read the scores, so what is no number says so here.
        defined = finite(plan.scores(example))
        return undefined_unless(defined, summary(*curves, groups))

    return Metric(
        score, of_contributions, direction, (low, high), ref=ref, announce=announce, share=share
    )


def perturbation_curve(
    f: Callable[..., Any],
    ref: Any,
    *,
    insert: bool = False,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    scale: str | None = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Callable[..., Any]:
    r"""The curve itself: f with the highest groups removed, or with `insert` these alone kept.

    Args:
      f: as in `deletion`, and so are ref, groups, steps, order, scale, chunk and argnums.
      ref: the reference.
      insert: whether groups are shown rather than taken away.
      groups: a tree like x of integer labels.
      steps: how many steps there are.
      order: which groups come first.
      scale: None, or `"relative"` for f's share of f(x).
      chunk: evaluations of f at once.
      argnums: which argument(s) of f are x.

    Returns:
      `curve(contributions, x, *args, key=None)` → (fractions, values), each (steps + 1,): the share
      of groups moved, from 0 to 1, and f there.

    Raises:
      ValueError: as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0])
      >>> fractions, values = jxp.metrics.perturbation_curve(jnp.sum, 0.0)(x, x)
      >>> values
      Array([7., 3., 1., 0.], dtype=float32)

    Source: Samek et al., arXiv 1509.06321, eq. 12; Petsiuk et al., arXiv 1806.07421, section 3.2.
    """
    options = dict(
        groups=groups, steps=steps, order=order, scale=scale, chunk=chunk, argnums=argnums
    )
    positions = _steps(steps)

    def read(removed: Curve, kept: Curve, count: int) -> Any:
        where = positions(count)
        values = (kept if insert else removed).at(where)
        return jnp.stack([jnp.asarray(where, values.dtype) / count, values])

    moved = (_no_positions, positions) if insert else (positions, _no_positions)
    curve = _metric(f, ref, options, read, removed=moved[0], kept=moved[1])
    return lambda *args, key=None: tuple(curve(*args, key=key))


def deletion(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    scale: str | None = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Area under f while groups go to the reference, the highest first: ↓.

    ∫₀¹ f(x with the share q of groups that score highest at ref) dq, by trapezoids. Tied groups
    move together, and the curve is straight between: a constant map scores (f(x) + f(ref))/2.

    Args:
      f: `f(x, *args)` → scalar, a logit or a probability as you please: nothing is added to it. x
        may hold integers.
      ref: what groups are put to: a number or a tree that broadcasts to x; several with a leading
        axis, over which f is averaged; or a function `ref(x, mask, key)` → a tree like x of what
        stands where the boolean mask, a tree like x, is True (`metrics.linear_imputation`). **The
        choice decides who wins**: methods do best by the reference that they explain against.
      groups: a tree like x of integer labels that broadcast to it; a group's score is the sum of
        its elements'. None: each element is a group. Superpixels and `scale="relative"` are IROF.
      steps: in how many equal steps groups go, each with n/steps of n groups, the last with what
        is left; None: one by one. It need not be whole, and more than n are n.
      order: by scores as they are ("signed"), by "absolute" or by "positive" scores, taken before
        they are added within groups.
      scale: None, or `"relative"`: f divided by f(x).
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in f's units, NaN where contributions
      are not finite; in steps + 1 evaluations of f. A key is for a ref that is a function.

    Raises:
      TypeError: f is not scalar-valued; a key is missing.
      ValueError: contributions are not shaped like x; ref or groups do not broadcast to x; steps
        not above 0; unknown order or scale; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0])
      >>> jxp.deletion(jnp.sum, 0.0)(x, x).round(3)
      Array(2.5, dtype=float32)

    Source: Petsiuk et al. (RISE), arXiv 1806.07421, section 3.2; Rieger & Hansen (IROF), arXiv
    2003.08747, eq. 1; Rong et al. (ROAD), arXiv 2202.00449, section 4.
    """
    options = dict(
        groups=groups, steps=steps, order=order, scale=scale, chunk=chunk, argnums=argnums
    )
    area = lambda removed, kept, groups: removed.area()
    return _metric(f, ref, options, area, removed=_steps(steps), direction="↓")


def insertion(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    scale: str | None = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Area under f while groups are shown, the highest first, on the reference: ↑.

    ∫₀¹ f(ref with the share q of groups that score highest from x) dq, by trapezoids.

    Args:
      f: as in `deletion`, and so are groups, steps, order, scale, chunk and argnums.
      ref: what is not shown is at it, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      steps: in how many equal steps groups are shown; None: one by one.
      order: which come first: by "signed", "absolute" or "positive" scores.
      scale: None, or `"relative"`: f divided by f(x).
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in f's units, as in `deletion`.

    Raises:
      ValueError, TypeError: as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0])
      >>> jxp.insertion(jnp.sum, 0.0)(x, x).round(3)
      Array(4.5, dtype=float32)

    Source: Petsiuk et al. (RISE), arXiv 1806.07421, section 3.2.
    """
    options = dict(
        groups=groups, steps=steps, order=order, scale=scale, chunk=chunk, argnums=argnums
    )
    area = lambda removed, kept, groups: kept.area()
    return _metric(f, ref, options, area, kept=_steps(steps))


def abpc(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    scale: str | None = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Area between the curves of the lowest and of the highest groups removed first: ↑.

    Mean over k = 0 … L of f(x without the k lowest) - f(x without the k highest). Both curves
    have the same ends, so a random order scores 0 in the mean, and so does a constant map.

    Args:
      f: as in `deletion`, and so are groups, steps, order, scale, chunk and argnums.
      ref: what groups are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      steps: L, in how many equal steps groups go; None: one by one.
      order: what is high: "signed", "absolute" or "positive" scores.
      scale: None, or `"relative"`: f divided by f(x).
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in f's units, in 2 steps evaluations
      of f; all but none are those of `deletion` and `insertion`, which `evaluate` shares.

    Raises:
      ValueError, TypeError: as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0])
      >>> jxp.abpc(jnp.sum, 0.0)(x, x)
      Array(1.5, dtype=float32)

    Source: Samek et al., arXiv 1509.06321, eq. 12 (the curves); Schulz et al. and the M4 benchmark
    (NeurIPS 2023) take the area between the two.
    """
    options = dict(
        groups=groups, steps=steps, order=order, scale=scale, chunk=chunk, argnums=argnums
    )
    forward = _steps(steps)

    def between(removed: Curve, kept: Curve, groups: int) -> jax.Array:
        gone = forward(groups)
        return (kept.at([groups - p for p in gone]) - removed.at(gone)).mean()

    return _metric(f, ref, options, between, removed=forward, kept=_turned(forward))


def _by_fractions(
    f: Callable[..., Any],
    ref: Any,
    fractions: Sequence[float] | None,
    aggregate: str,
    options: dict[str, Any],
    loss_at: Callable[[Curve, Curve, list[int]], jax.Array],
    *,
    keep: bool,
    direction: str,
) -> Metric:
    """What f loses at fractions of groups, aggregated."""
    steps = options["steps"]
    if fractions is not None and steps is not None:
        raise ValueError("give fractions or steps, not both")
    if aggregate not in ("mean", "bins", "aopc_paper"):
        raise ValueError(f"unknown aggregate {aggregate!r}: 'mean', 'bins' or 'aopc_paper'")
    if steps is None:
        shares = FRACTIONS if fractions is None else tuple(map(float, np.atleast_1d(fractions)))
        if not shares or not all(0 < q <= 1 for q in shares):
            raise ValueError(f"fractions must be more than 0 and at most 1, and are {shares}")
        positions = _highest(shares)
    else:
        whole = _steps(steps)
        positions = lambda groups: whole(groups)[1:]

    def losses(removed: Curve, kept: Curve, groups: int) -> jax.Array:
        lost = loss_at(removed, kept, positions(groups))
        if aggregate == "bins":
            return lost
        return lost.mean() if aggregate == "mean" else lost.sum() / (len(lost) + 1)

    moved = (_no_positions, positions) if keep else (positions, _no_positions)
    return _metric(f, ref, options, losses, removed=moved[0], kept=moved[1], direction=direction)


def comprehensiveness(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    fractions: Sequence[float] | None = None,
    aggregate: str = "mean",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""What f loses without the highest groups: ↑.

    Mean over fractions q of f(x) - f(x without the ⌈q n⌉ highest).

    Args:
      f: as in `deletion`, and so are groups, order, chunk and argnums; the paper's is a
        probability.
      ref: what groups are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      steps: fractions 1/steps … 1, in place of `fractions`.
      order: what is high: "signed", "absolute" or "positive" scores.
      fractions: of the n groups, in (0, 1]; None: 0.01, 0.05, 0.1, 0.2 and 0.5.
      aggregate: `"mean"`; `"bins"`, one value for each fraction; `"aopc_paper"`, their sum over
        one more than their number, as the paper's formula counts the fraction 0.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in f's units, or (fractions,); in two
      more evaluations of f than there are fractions.

    Raises:
      ValueError: fractions out of range, or beside steps; and as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0, 1.0])
      >>> jxp.comprehensiveness(jnp.sum, 0.0, fractions=[0.25, 0.5], aggregate="bins")(x, x)
      Array([4., 6.], dtype=float32)

    Source: DeYoung et al. (ERASER), arXiv 1911.03429, eq. 1 and section 5.
    """
    options = dict(groups=groups, steps=steps, order=order, chunk=chunk, argnums=argnums)
    lost = lambda removed, kept, at: removed.values[0] - removed.at(at)
    return _by_fractions(f, ref, fractions, aggregate, options, lost, keep=False, direction="↑")


def sufficiency(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    fractions: Sequence[float] | None = None,
    aggregate: str = "mean",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""What f loses where the highest groups alone are kept: ↓.

    Mean over fractions q of f(x) - f(the ⌈q n⌉ highest of x, the others at ref).

    Args:
      f: as in `deletion`, and so are groups, order, chunk and argnums; the paper's is a
        probability.
      ref: what groups are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      steps: fractions 1/steps … 1, in place of `fractions`.
      order: what is high: "signed", "absolute" or "positive" scores.
      fractions: of the n groups, in (0, 1]; None: 0.01, 0.05, 0.1, 0.2 and 0.5.
      aggregate: as in `comprehensiveness`.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → as of `comprehensiveness`.

    Raises:
      ValueError: fractions out of range, or beside steps; and as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, 2.0, 4.0, 1.0])
      >>> jxp.sufficiency(jnp.sum, 0.0, fractions=[0.25, 0.5], aggregate="bins")(x, x)
      Array([4., 2.], dtype=float32)

    Source: DeYoung et al. (ERASER), arXiv 1911.03429, eq. 2 and section 5.
    """
    options = dict(groups=groups, steps=steps, order=order, chunk=chunk, argnums=argnums)
    lost = lambda removed, kept, at: kept.values[-1] - kept.at(at)
    return _by_fractions(f, ref, fractions, aggregate, options, lost, keep=True, direction="↓")


def monotonicity(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    steps: float | None = None,
    order: str = "signed",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""The share of steps at which f does not fall while groups are shown, the lowest first: ↑.

    From the first step's groups on the reference to x; 1 is the verdict "monotonic".

    Args:
      f: as in `deletion`, and so are groups, steps, order, chunk and argnums; the paper's is a
        probability.
      ref: what is not shown yet is at it, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      steps: in how many equal steps groups are shown; None: one by one.
      order: what is low: "signed", "absolute" or "positive" scores.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a share in [0, 1], NaN where there is no step,
      as of a constant map, whose groups are shown together.

    Raises:
      ValueError, TypeError: as in `deletion`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x = jnp.array([1.0, -2.0, 4.0])
      >>> jxp.monotonicity(jnp.sum, 0.0)(jnp.array([1.0, 2.0, 3.0]), x)
      Array(0.5, dtype=float32)

    Source: Luss et al., arXiv 1905.12698, section 4; Arya et al. (AIX360), arXiv 1909.03012.
    """
    options = dict(groups=groups, steps=steps, order=order, chunk=chunk, argnums=argnums)

    def rises(removed: Curve, kept: Curve, groups: int) -> jax.Array:
        fewer, more = removed.positions[:-1], removed.positions[1:]
        step = (fewer < more) & (more < groups)
        change = removed.values[:-1] - removed.values[1:]
        count = step.sum()
        share = (step & (change >= 0)).sum() / count
        defined = (count > 0) & ~jnp.isnan(removed.values).any()
        return undefined_unless(defined, share.astype(change.dtype))

    lowest_first = _turned(_steps(steps))
    return _metric(f, ref, options, rises, removed=lowest_first, low=0.0, high=1.0)
