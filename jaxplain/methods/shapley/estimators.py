"""Values and standard errors of a game's players, (players or sets, *outputs), each one way.

Errors are None where nothing is left to chance.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import root
from jaxplain._types import Key
from jaxplain.games import coalitions
from jaxplain.games.game import Game
from jaxplain.methods.shapley import designs, indices, kernel_shap, permutations
from jaxplain.methods.shapley.gaussian_process import Estimator, Kernel, estimator

_BLOCK = 2048  # pairs of one design at most: an estimator's matrices grow with their square
_HIGHEST = jax.lax.Precision.HIGHEST


def index(
    game: Game, name: str, order: int, samples: int | None, key: Key | None, with_error: bool
) -> tuple[Any, Any]:
    """An index of all sets of `order` players: exact without a key."""
    if key is None:
        return _exact(game, name, order), None
    pairs = _pairs(game, samples)
    blocks = -(-pairs // _BLOCK)
    masks, parts = _estimators(name, order, game.players, pairs // blocks)
    places, values = _paired_values(game, masks, blocks, key)
    # An array of JAX: of one of NumPy, which is kept, JAX remembers the integers of x64 mode.
    sets = jnp.asarray(indices.sets(game.players, order))

    def block(places: Any, values: Any) -> tuple[Any, Any]:
        """One design's estimates, for the sets of players by their own names."""
        scores: Any = 0.0
        squares: Any = 0.0
        for sign, part in parts:
            h = (values[:, 0] + sign * values[:, 1]) / 2
            scores = scores + _linear(part.matrix, h)
            if with_error and blocks == 1:
                squares = squares + _predicted_square(part, h)
        at = _number(jnp.sort(places[sets], axis=1), game.players)
        return scores[at], squares[at] if with_error and blocks == 1 else scores[at]

    scores, squares = jax.vmap(block)(places, values)
    if blocks > 1:
        return scores.mean(0), permutations.standard_error(scores)
    return scores[0], root(squares[0]) if with_error else None


def by_regression(game: Game, samples: int, key: Key | None, with_error: bool) -> tuple[Any, Any]:
    """Shapley values by KernelSHAP: exact without a key."""
    if key is None:
        return _exact(game, "SII", 1), None
    masks = designs.paired(game.players, _pairs(game, samples), "kernel")
    (place,), (values,) = _paired_values(game, masks, 1, key)
    odd = (values[:, 0] - values[:, 1]) / 2
    scores, errors = kernel_shap.kernel_shap(masks, odd, with_error)
    return scores[place], errors[place] if with_error else None


def by_orders(
    game: Game, levels: np.ndarray, samples: int, key: Key, with_error: bool
) -> tuple[Any, Any]:
    """The mean of what players add, over random orders of a tree of unions and their reverses."""
    if game.players == 1:
        return _exact(game, "SII", 1), None
    count, least = (samples - 2) // (2 * (game.players - 1)), 2 if with_error else 1
    if count < least:
        raise ValueError(
            f"{least} order(s) of {game.players} players and the reverse take "
            f"{permutations.count(least, game.players)} samples, and samples is {samples}"
        )
    ranks = permutations.draw_ranks(levels, count, key)
    values = game.values(permutations.mask_of(ranks), permutations.count(count, game.players))
    added = permutations.marginals(values, ranks)
    return added.mean(0), permutations.standard_error(added) if with_error else None


def by_matrix(game: Game, masks: np.ndarray, matrix: np.ndarray) -> Any:
    """A linear function, blind to constants, of the values of known coalitions."""
    rows = jnp.asarray(masks)
    values = game.values(lambda number: rows[number], len(masks))
    return _linear(matrix, values - values[:1])


def _exact(game: Game, name: str, order: int) -> Any:
    players = jnp.arange(game.players)
    values = game.values(lambda number: coalitions.numbered(number, players), 2**game.players)
    return _index_of_all(values, name, game.players, order)


@functools.partial(jax.jit, static_argnames=("name", "players", "order"))
def _index_of_all(values: Any, name: str, players: int, order: int) -> Any:
    """An index of all sets from the values of all coalitions."""
    values = values - values[:1]
    masks = jnp.asarray(coalitions.every(players))
    sizes = masks.sum(1)
    table = jnp.asarray(indices.coefficients(name, players, order), values.dtype)

    def of_set(members: Any) -> Any:
        common = masks[:, members].sum(1)
        return jnp.tensordot(table[common, sizes], values, 1, precision=_HIGHEST)

    return jax.lax.map(of_set, jnp.asarray(indices.sets(players, order)))


def _pairs(game: Game, samples: int | None) -> int:
    """How many pairs beside (∅, N) the samples make, enough to tell the players apart."""
    assert samples is not None
    if samples < 2 * game.players:
        raise ValueError(
            f"{game.players} players take at least {2 * game.players} samples, and samples is "
            f"{samples}"
        )
    return min((samples - 2) // 2, designs.pairs_of(game.players))


@functools.lru_cache(maxsize=16)
def _estimators(
    name: str, order: int, players: int, pairs: int
) -> tuple[np.ndarray, list[tuple[int, Estimator]]]:
    """A design, and the estimators of the parts of v that count: -1 the odd, 1 the even one."""
    masks = designs.greedy(players, pairs)
    functions = 1 + players * (players - 1) // 2
    with_pairs = order > 1 and 2 * functions <= len(masks)
    signs = (-1, 1) if name == "STII" else ((-1) ** order,)
    kernels = [(sign, Kernel(name, players, order, sign < 0, with_pairs)) for sign in signs]
    return masks, [(sign, estimator(kernel, masks)) for sign, kernel in kernels]


def _paired_values(game: Game, masks: np.ndarray, blocks: int, key: Key) -> tuple[Any, Any]:
    """v of a design's pairs, (blocks, pairs, 2, *outputs), with players renamed by the key.

    In front of it the renaming, (blocks, n): which of the design's each player is.
    """
    pairs = len(masks) - 1
    places = jax.vmap(lambda key: jax.random.permutation(key, game.players))(
        jax.random.split(key, blocks)
    )
    design = jnp.asarray(masks)

    def mask_of(number: Any) -> Any:
        inner = jnp.maximum(number - 2, 0) // 2
        block, row = inner // max(pairs, 1), inner % max(pairs, 1)
        mask = design[jnp.where(number < 2, 0, row + 1)][places[block]]
        return mask ^ (number % 2).astype(bool)

    values = game.values(mask_of, 2 + 2 * pairs * blocks)
    outputs = values.shape[1:]
    ends = jnp.broadcast_to(values[:2], (blocks, 1, 2, *outputs))
    inner = values[2:].reshape(blocks, pairs, 2, *outputs)
    return places, jnp.concatenate([ends, inner], axis=1)


def _predicted_square(part: Estimator, h: Any) -> Any:
    """The squared standard error of a part's indices, from how its values predict each other."""
    own = jnp.asarray(np.diag(part.residual), h.dtype)
    rough = jnp.square(_linear(part.residual, h))
    scale = jnp.tensordot(1 / own, rough, 1, precision=_HIGHEST) / len(h)
    return jnp.multiply.outer(jnp.asarray(part.variance, h.dtype), scale)


def _number(sets: Any, players: int) -> Any:
    """The place of sorted sets (count, order) among `indices.sets`."""
    places = players ** np.arange(sets.shape[1])[::-1]
    all_sets = indices.sets(players, sets.shape[1])
    return jnp.searchsorted(jnp.asarray(all_sets @ places), sets @ jnp.asarray(places))


def _linear(matrix: np.ndarray, values: Any) -> Any:
    return jnp.tensordot(jnp.asarray(matrix, values.dtype), values, 1, precision=_HIGHEST)
