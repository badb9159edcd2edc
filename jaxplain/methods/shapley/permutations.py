"""Estimators from orders in which players enter, each order beside its reverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Key


def draw_ranks(levels: np.ndarray, count: int, key: Key) -> Any:
    """Places of players in `count` random orders, in which unions stay together: (count, n).

    Args:
      levels: each player's union at every level, coarse to fine, the players last: (levels, n).
      count: how many orders.
      key: a PRNG key.
    """

    def order(key: Key) -> Any:
        drawn = [
            jax.random.uniform(k, (len(level),))[level]
            for k, level in zip(jax.random.split(key, len(levels)), levels, strict=True)
        ]
        return jnp.argsort(jnp.lexsort(drawn[::-1]))

    return jax.vmap(order)(jax.random.split(key, count))


def mask_of(ranks: Any) -> Callable[[Any], Any]:
    """The coalitions that orders visit, by their number: ∅, N, then each order's both ways."""
    players = ranks.shape[1]

    def mask(index: Any) -> Any:
        inner = jnp.maximum(index - 2, 0)
        order, rest = inner // (2 * (players - 1)), inner % (2 * (players - 1))
        size, reverse = rest // 2 + 1, rest % 2
        rank = ranks[order]
        prefix = jnp.where(reverse, rank >= players - size, rank < size)
        return jnp.where(index < 2, index == 1, prefix)

    return mask


def count(orders: int, players: int) -> int:
    """How many coalitions so many orders and their reverses visit."""
    return 2 + 2 * orders * (players - 1)


def marginals(values: Any, ranks: Any) -> Any:
    """What each player adds, the mean of an order's two ways: (orders, players, *outputs)."""
    orders, players = ranks.shape
    outputs = values.shape[1:]
    inner = values[2:].reshape(orders, players - 1, 2, *outputs)
    ends = jnp.broadcast_to(values[:2, None], (2, 2, *outputs))
    ends = jnp.broadcast_to(ends[:, None], (2, orders, 2, *outputs))
    chain = jnp.concatenate([ends[0][:, None], inner, ends[1][:, None]], axis=1)
    steps = jnp.diff(chain, axis=1)  # (orders, players, ways, *outputs)
    take = jax.vmap(lambda steps, at: steps[at])
    return (take(steps[:, :, 0], ranks) + take(steps[:, :, 1], players - 1 - ranks)) / 2


def standard_error(samples: Any) -> Any:
    """Of the mean over the leading axis."""
    return jnp.std(samples, axis=0, ddof=1) / len(samples) ** 0.5
