"""A model as a game: groups of the input as players, the mean over references as what is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import _frames as frames
from jaxplain._numerics.chunking import chunked_map, leading_size, weighted_sum
from jaxplain._numerics.trees import wide
from jaxplain._types import Argnums, Function, Groups, Tree
from jaxplain.games.players import as_players, per_element
from jaxplain.surrogate import staging

Mask = Any  # (players,) of booleans: who is present


@dataclass(frozen=True)
class Game:
    """v(S) = E_r f(x_S, r_∖S), an array for an f with an array of outputs."""

    players: int
    labels: Any  # a tree like x: each element's player
    shapes: Any  # x's
    value: Callable[[Mask], Any]
    chunk: int | None  # coalitions at once

    def values(self, mask_of: Callable[[Any], Mask], count: int) -> Any:
        """v of coalitions 0 … count-1, (count, *outputs), in float32 at least."""

        def value(index: Any) -> Any:
            y = self.value(mask_of(index))
            return wide(y)

        values = chunked_map(value, jnp.arange(count), self.chunk)
        if not isinstance(values, jax.core.Tracer):  # in a compiled program NaN is the result
            self._check_finite(values, mask_of)
        return values

    def per_element(self, scores: Any) -> Any:
        """Scores (players, *outputs) as a tree like x behind the outputs' axes."""
        return per_element(self.labels, self.shapes, scores)

    def _check_finite(self, values: Any, mask_of: Callable[[Any], Mask]) -> None:
        finite = np.isfinite(np.asarray(values)).reshape(len(values), -1).all(1)
        if not finite.all():
            worst = int(np.argmin(finite))
            present = np.flatnonzero(np.asarray(mask_of(jnp.asarray(worst)))).tolist()
            raise FloatingPointError(
                f"f is {values[worst]} with the players {present} of {self.players} present, the "
                f"others at the reference ({int((~finite).sum())} of {len(values)} coalitions are "
                "not finite): choose references inside f's domain"
            )


@dataclass(frozen=True)
class HostGame(Game):
    """A game whose coalitions are run on the host, all masks (coalitions, players) at once."""

    run: Callable[[np.ndarray], Any]

    @classmethod
    def of(cls, game: Game, run: Callable[[np.ndarray], Any]) -> HostGame:
        """The game with other values."""
        return cls(game.players, game.labels, game.shapes, game.value, game.chunk, run)

    def values(self, mask_of: Callable[[Any], Mask], count: int) -> Any:
        """As of a game; the masks must be known numbers, so not inside jit."""
        masks = jax.vmap(mask_of)(jnp.arange(count))
        if isinstance(masks, jax.core.Tracer):
            raise TypeError("what runs on the host can't run inside jit: call it outside")
        values = wide(jnp.asarray(self.run(np.asarray(masks, bool))))
        self._check_finite(values, mask_of)
        return values


@dataclass(frozen=True)
class Shown:
    """What is shown element by element, or put to a reference: an input, or a value inside f."""

    example: Any  # a tree of its shapes and dtypes
    value: Callable[[Any, Any], Any]  # (mask, ref) → f, an array, with ref where the mask is False


def shown_input(f: Function, args: tuple[Any, ...], argnums: Argnums) -> Shown:
    """f's input x."""
    x = staging.as_numbers(staging.pick(args, argnums))
    value = staging.array(f, args, argnums)
    return Shown(x, lambda mask, ref: value(jax.tree.map(jnp.where, mask, x, ref)))


def make_game(
    f: Function,
    refs: Tree,
    args: tuple[Any, ...],
    *,
    groups: Groups = None,
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Game:
    """The game of f at these arguments; `chunk` evaluations of f at once."""
    return game_of(shown_input(f, args, argnums), refs, groups=groups, chunk=chunk)


def game_of(shown: Shown, refs: Tree, *, groups: Groups = None, chunk: int | None = None) -> Game:
    """The game of groups that are shown."""
    x = shown.example
    labels, players = as_players(groups, x)
    refs = as_background(refs, x)
    count = leading_size(refs)

    def value(mask: Mask) -> Any:
        def against(ref: Tree) -> Any:
            # Labels broadcast to their leaf, and so must masks, with as many axes.
            present = jax.tree.map(lambda at, v: jnp.broadcast_to(mask[at], v.shape), labels, x)
            return shown.value(present, ref)

        if count == 1:
            return against(jax.tree.map(lambda r: r[0], refs))
        return weighted_sum(against, refs, jnp.full(count, 1 / count), chunk)

    coalitions = None if chunk is None else max(1, chunk // count)
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x)
    return Game(players, labels, shapes, value, coalitions)


def as_background(refs: Tree, x: Tree) -> Any:
    """References with a leading axis; one reference, which has none, gets it."""
    refs = frames.as_arrays(refs)
    leaves = jax.tree.leaves(x)
    if staging.same_tree(refs, x):
        ranks = [
            np.ndim(ref) - leaf.ndim
            for ref, leaf in zip(jax.tree.leaves(refs), leaves, strict=True)
        ]
        if 1 in ranks:
            return staging.as_references(refs, x)
    return jax.tree.map(lambda ref: ref[None], staging.as_reference(refs, x))
