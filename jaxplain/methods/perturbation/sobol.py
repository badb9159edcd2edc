"""Sobol indices: shares of f's variance under random masks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import drawn
from jaxplain._numerics.chunking import check_chunk, chunked_map
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Groups, Key, Tree
from jaxplain.games.players import as_players, per_element
from jaxplain.surrogate import staging


@speaks
def sobol(
    f: Function,
    ref: Tree = 0.0,
    *,
    groups: Groups = None,
    samples: int,
    order: str = "total",
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""Sobol indices: the share of f's variance under random masks that a group has a part in.

    f at m x + (1-m) ref, m_g uniform in [0, 1]; integers and booleans are x's where m_g ≥ ½ and the
    reference's below. Total: E Var(f | m_∖g) / Var f, interactions included; first:
    Var E(f | m_g) / Var f.

    Args:
      f: as in `ablation`.
      ref: a scalar, or a tree that broadcasts to x.
      groups: a tree like x of integer labels that broadcast to it; None: each element is a
        group.
      samples: N, ≥ 2, a power of two for the evenest; (groups + 2) N evaluations of f.
      order: `"total"` or `"first"`.
      chunk: how many of the N are evaluated at once, each for all groups; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → a tree like x of shares, total ones ≥ 0 and over groups summing
      to 1 or more, first ones to 1 or less; 0 for a constant f. Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; a key is missing.
      ValueError: samples < 2; unknown order; groups or ref do not broadcast to x; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.sobol(lambda x: 2 * x[0] + x[1], samples=512)
      >>> explain(jnp.ones(3), key=jax.random.key(0)).round(2)
      Array([0.8, 0.2, 0. ], dtype=float32)

    Source: Fel et al., arXiv 2111.04138, eqs. 1-5; estimators of Jansen (1999).
    """
    check_chunk(chunk)
    if samples < 2 or order not in ("total", "first"):
        raise ValueError(f"samples={samples} must be ≥ 2 and order={order!r} 'total' or 'first'")

    @drawn("masks")
    def explain(*args: Any, key: Key) -> Any:
        x = staging.as_numbers(staging.pick(args, argnums))
        reference = staging.as_reference(ref, x)
        labels, players = as_players(groups, x)
        points = jnp.asarray(_sobol_points(samples, 2 * players), jnp.float32)
        points = (points + jax.random.uniform(key, (1, 2 * players), points.dtype)) % 1

        value_at = staging.array(f, args, argnums)

        def value(mask: Any) -> Any:
            mixed = jax.tree.map(lambda at, v, r: _mixed(mask[at], v, r), labels, x, reference)
            return value_at(mixed)

        def compare(point: Any) -> Any:
            a, b = point[:players], point[players:]
            base, other = value(a), value(b)
            changed = jax.vmap(lambda i: value(a.at[i].set(b[i])))(jnp.arange(players))
            # Total: what changing g alone changes; first: what is left when g alone is shared.
            difference = changed - (base if order == "total" else other)[None]
            return (base, other), jnp.square(difference) / 2

        (bases, others), halves = chunked_map(compare, points, chunk)
        variance = jnp.concatenate([bases, others]).var(0)
        part = halves.mean(0)
        variance = jnp.broadcast_to(variance, part.shape)
        part = part if order == "total" else variance - part
        share = jnp.where(variance > 0, part / jnp.where(variance > 0, variance, 1), 0)
        return per_element(labels, x, share)

    return explain


def _mixed(mask: Any, value: Any, ref: Tree) -> Any:
    """Between the two; of integers and booleans the one that is nearer."""
    mask = jnp.broadcast_to(mask, value.shape)
    if jnp.issubdtype(value.dtype, jnp.floating):
        return ref + mask.astype(value.dtype) * (value - ref)
    return jnp.where(mask >= 0.5, value, ref)


@functools.cache
def _sobol_points(count: int, dimensions: int) -> np.ndarray:
    from scipy.stats import qmc  # type: ignore[import-untyped]

    bits = max(count - 1, 1).bit_length()
    return qmc.Sobol(dimensions, scramble=True, rng=0).random_base2(bits)[:count]
