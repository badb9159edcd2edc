"""Whether a map points where the answer is known to lie."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.metrics._example import check_sign, finite, flat, signed, undefined_unless
from jaxplain.metrics._metric import of_map
from jaxplain.metrics.agreement import ranks
from jaxplain.surrogate import staging

Tree = Any


def mask_like(mask: Tree, c: Tree) -> Tree:
    """The mask as booleans shaped like the map, or an error."""

    def boolean(m: Any) -> Any:
        if jnp.result_type(m) == jnp.bool_:
            return m
        zeros_and_ones = (
            jnp.issubdtype(jnp.result_type(m), jnp.integer)
            and not isinstance(m, jax.core.Tracer)
            and np.isin(np.asarray(m), (0, 1)).all()
        )
        if not zeros_and_ones:
            raise TypeError(
                f"a mask is boolean, and this one is {jnp.result_type(m)}: `mask > 0`, say, makes "
                "it so"
            )
        return np.asarray(m, bool)

    if staging.same_tree(mask, c):
        mask = jax.tree.map(boolean, mask)
        try:
            return jax.tree.map(lambda m, v: jnp.broadcast_to(m, jnp.shape(v)), mask, c)
        except ValueError:
            pass
    raise ValueError(
        "a mask must be a tree like the map, with leaves that broadcast to its.\n"
        f"  mask: {jax.tree.map(jnp.shape, mask)}\n  map:  {jax.tree.map(jnp.shape, c)}"
    )


def _rows(c: Tree, mask: Tree) -> tuple[jax.Array, jax.Array]:
    """The map's elements, and which are inside."""
    inside = jnp.concatenate([m.ravel() for m in jax.tree.leaves(mask_like(mask, c))])
    return flat(c), inside


@of_map("↑", 0.0, 1.0)
def relevance_mass(c: Tree, mask: Tree, *, sign: str = "positive") -> jax.Array:
    r"""The share of the map's mass inside the mask: ↑.

    Σ_{i ∈ mask} c⁺_i / Σ_i c⁺_i.

    Args:
      c: contributions, a tree of arrays.
      mask: booleans, a tree like c that broadcasts to it: True where the answer lies.
      sign: what counts as mass: the "positive" part, "absolute" values, or scores as they are.

    Returns:
      A scalar in [0, 1] (of signed mass anything); NaN where the mask is empty, there is no mass,
      or the map is not finite. A map that knows nothing scores the mask's share of elements.

    Raises:
      TypeError: the mask is not boolean.
      ValueError: it does not broadcast to the map; unknown sign.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.relevance_mass(jnp.array([3.0, -5.0, 1.0]), jnp.array([True, True, False]))
      Array(0.75, dtype=float32)

    Source: Arras et al. (CLEVR-XAI), arXiv 2003.07258, eq. 3.
    """
    check_sign(sign)
    values, inside = _rows(c, mask)
    mass = signed(values, sign)
    total = mass.sum()
    share = jnp.where(inside, mass, 0).sum() / jnp.where(total == 0, 1, total)
    return undefined_unless(inside.any() & (total != 0) & finite(values), share)


@of_map("↑", 0.0, 1.0)
def relevance_rank(c: Tree, mask: Tree, *, sign: str = "signed") -> jax.Array:
    r"""The share of the K highest scores that lie inside the mask of K elements: ↑.

    Scores tied at the K-th place share what is left of the K.

    Args:
      c: contributions, a tree of arrays.
      mask: booleans, a tree like c that broadcasts to it: True where the answer lies.
      sign: what is high: scores as they are ("signed"), "absolute" or "positive".

    Returns:
      A scalar in [0, 1]; NaN where the mask is empty or the map is not finite. A map that knows
      nothing scores the mask's share of elements.

    Raises:
      TypeError: the mask is not boolean.
      ValueError: it does not broadcast to the map; unknown sign.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.relevance_rank(jnp.array([3.0, 1.0, 2.0]), jnp.array([True, True, False]))
      Array(0.5, dtype=float32)

    Source: Arras et al. (CLEVR-XAI), arXiv 2003.07258, eq. 4.
    """
    check_sign(sign)
    values, inside = _rows(c, mask)
    scores, size = signed(values, sign), inside.sum()
    last = -jnp.sort(-scores)[jnp.maximum(size, 1) - 1]
    higher, tied = scores > last, scores == last
    count = lambda which: which.sum().astype(values.dtype)
    size = count(inside)
    share = (size - count(higher)) / count(tied)
    hits = count(higher & inside) + share * count(tied & inside)
    score = hits / jnp.maximum(size, 1)
    return undefined_unless((size > 0) & finite(values), score)


@of_map("↑", 0.0, 1.0)
def localisation_auc(c: Tree, mask: Tree, *, sign: str = "signed") -> jax.Array:
    r"""The ROC curve's area of scores as a classifier of the mask: ↑, ½ by chance.

    P(c_i > c_j) + ½ P(c_i = c_j) for i inside and j outside (Mann and Whitney's U).

    Args:
      c: contributions, a tree of arrays.
      mask: booleans, a tree like c that broadcasts to it: True where the answer lies.
      sign: scores as they are ("signed"), "absolute" or "positive".

    Returns:
      A scalar in [0, 1]; NaN where nothing or everything is inside, or the map is not finite.

    Raises:
      TypeError: the mask is not boolean.
      ValueError: it does not broadcast to the map; unknown sign.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.localisation_auc(jnp.array([3.0, 1.0, 2.0]), jnp.array([True, True, False]))
      Array(0.5, dtype=float32)

    Source: Fawcett (2006), "An introduction to ROC analysis", section 7.
    """
    check_sign(sign)
    values, inside = _rows(c, mask)
    place = ranks(signed(values, sign))
    count = inside.sum().astype(place.dtype)
    pairs = count * (place.size - count)
    # The mean rank inside, for a sum of ranks is large.
    mean = jnp.where(inside, place, 0).sum() / jnp.maximum(count, 1)
    area = (mean - (count + 1) / 2) / jnp.maximum(place.size - count, 1)
    return undefined_unless((pairs > 0) & finite(values), area)


@of_map("↑", 0.0, 1.0)
def pointing_game(
    c: Tree, mask: Tree, *, tolerance: float = 0, axes: tuple[int, ...] | None = None
) -> jax.Array:
    r"""Whether the highest score lies inside the mask, or near it: ↑.

    Among several highest scores the share that does: a constant map scores the mask's share.

    Args:
      c: contributions, a tree of arrays.
      mask: booleans, a tree like c that broadcasts to it: True where the answer lies.
      tolerance: how far from the mask is near, a Euclidean distance in elements along `axes`; the
        paper's is 15 pixels.
      axes: of space; None: the first two.

    Returns:
      0 or 1, between them where highest scores tie; NaN where the mask is empty or the map is not
      finite.

    Raises:
      TypeError: the mask is not boolean.
      ValueError: it does not broadcast to the map; tolerance < 0.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> c, mask = jnp.array([3.0, 1.0, 2.0]), jnp.array([False, True, False])
      >>> jxp.pointing_game(c, mask), jxp.pointing_game(c, mask, tolerance=1)
      (Array(0., dtype=float32), Array(1., dtype=float32))

    Source: Zhang et al., arXiv 1608.00507, section 4.1.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, and is {tolerance}")
    near = jax.tree.map(lambda m: _grown(m, tolerance, axes), mask_like(mask, c))
    values, inside = _rows(c, near)
    highest = values == values.max()
    share = (highest & inside).sum() / jnp.maximum(highest.sum(), 1)
    return undefined_unless(inside.any() & finite(values), share.astype(values.dtype))


def _grown(mask: jax.Array, tolerance: float, axes: tuple[int, ...] | None) -> jax.Array:
    """The mask and all that is at most so far from it."""
    axes = tuple(range(min(mask.ndim, 2))) if axes is None else axes
    reach = int(tolerance)
    if not reach or not axes:
        return mask
    sides = [2 * reach + 1 if axis in axes else 1 for axis in range(mask.ndim)]
    offsets = np.indices(sides).reshape(mask.ndim, -1).T - (np.asarray(sides) - 1) // 2
    near = offsets[np.square(offsets).sum(1) <= tolerance**2]
    padded = jnp.pad(mask, [((side - 1) // 2,) * 2 for side in sides])
    # One dimension of the ball at a time would grow a square, so each offset is moved to.
    starts = near + (np.asarray(sides) - 1) // 2
    cut = functools.partial(jax.lax.dynamic_slice, padded, slice_sizes=mask.shape)
    grow = lambda grown, start: (grown | cut(tuple(start)), None)
    return jax.lax.scan(grow, jnp.zeros_like(mask), jnp.asarray(starts))[0]
