"""A model as a game: groups of the input as players, the mean over references as what is absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics import frames
from jaxplain._numerics.chunking import chunked_map, leading_size, weighted_sum
from jaxplain._numerics.trees import wide
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

    def spread(self, scores: Any) -> Any:
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
class Shown:
    """What is shown element by element, or put to a reference: an input, or a value inside f."""

    example: Any  # a tree of its shapes and dtypes
    value: Callable[[Any, Any], Any]  # (mask, ref) → f with ref where the mask is False


def shown_input(f: Callable[..., Any], args: tuple[Any, ...], argnums: staging.Argnums) -> Shown:
    """f's input x."""
    x = staging.as_numbers(staging.pick(args, argnums))

    def value(mask: Any, ref: Any) -> Any:
        mixed = jax.tree.map(jnp.where, mask, x, ref)
        return staging.call(f, *staging.place(args, argnums, mixed))

    return Shown(x, value)


def make_game(
    f: Callable[..., Any],
    refs: Any,
    args: tuple[Any, ...],
    *,
    groups: Any = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Game:
    """The game of f at these arguments; `chunk` evaluations of f at once."""
    return game_of(shown_input(f, args, argnums), refs, groups=groups, chunk=chunk)


def game_of(shown: Shown, refs: Any, *, groups: Any = None, chunk: int | None = None) -> Game:
    """The game of groups that are shown."""
    x = shown.example
    labels, players = as_players(groups, x)
    refs = _as_background(refs, x)
    count = leading_size(refs)

    def value(mask: Mask) -> Any:
        def of(ref: Any) -> Any:
            # Labels broadcast to their leaf, and so must masks, with as many axes.
            present = jax.tree.map(lambda at, v: jnp.broadcast_to(mask[at], v.shape), labels, x)
            return as_value(shown.value(present, ref))

        if count == 1:
            return of(jax.tree.map(lambda r: r[0], refs))
        return weighted_sum(of, refs, jnp.full(count, 1 / count), chunk)

    coalitions = None if chunk is None else max(1, chunk // count)
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), x)
    return Game(players, labels, shapes, value, coalitions)


def per_element(labels: Any, example: Any, scores: Any) -> Any:
    """Groups' scores (groups, *outputs) as a tree like an example behind the outputs' axes."""
    scores = jnp.moveaxis(scores, 0, -1)

    def leaf(at: Any, v: Any) -> Any:
        at = np.reshape(at, (1,) * (v.ndim - np.ndim(at)) + np.shape(at))  # with all axes
        return jnp.broadcast_to(scores[..., at], (*scores.shape[:-1], *v.shape))

    return jax.tree.map(leaf, labels, example)


def as_players(groups: Any, x: Any) -> tuple[Any, int]:
    """Each element's player as a tree of indices that broadcasts to x, and how many there are.

    Without groups every element is a player; labels are numbered in their order, gaps closed.
    """
    leaves, tree = jax.tree.flatten(x)
    if groups is None:
        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        labels = [
            np.arange(start, start + leaf.size).reshape(leaf.shape)
            for start, leaf in zip(ends[:-1], leaves, strict=True)
        ]
        players = int(ends[-1])
    else:
        given = _check_labels(groups, x)
        names = np.unique(np.concatenate([g.ravel() for g in given]))
        labels, players = [np.searchsorted(names, g) for g in given], len(names)
    if players == 0:
        raise ValueError("x has no elements, so there are no players")
    return jax.tree.unflatten(tree, labels), players


def _check_labels(groups: Any, x: Any) -> list[np.ndarray]:
    def fits(label: np.ndarray, leaf: Any) -> bool:
        try:
            return np.broadcast_shapes(label.shape, leaf.shape) == leaf.shape
        except ValueError:
            return False

    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(groups)):
        raise TypeError("groups must be known numbers, not values of a jitted function's argument")
    if staging.same_tree(groups, x):
        labels = [np.asarray(leaf) for leaf in jax.tree.leaves(groups)]
        if all(map(fits, labels, jax.tree.leaves(x))):
            if not all(np.issubdtype(label.dtype, np.integer) for label in labels):
                raise TypeError(f"groups must be integers: {jax.tree.map(np.asarray, groups)}")
            if any((label < 0).any() for label in labels):
                raise ValueError("groups must be at least 0: every element of x has a group")
            return labels
    raise ValueError(
        "groups must be a tree like x with integer labels that broadcast to every leaf.\n"
        f"  groups: {jax.tree.map(np.shape, groups)}\n"
        f"  x:      {jax.tree.map(np.shape, x)}"
    )


def _as_background(refs: Any, x: Any) -> Any:
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


def as_value(y: Any) -> Any:
    """One real array, floating; whether a coalition wins, or counts, are numbers too."""
    if not staging.same_tree(y, 0) or jnp.issubdtype(jnp.result_type(y), jnp.complexfloating):
        raise TypeError(
            "f must return a real number or one array of them, and returned "
            f"{jax.tree.map(lambda leaf: jax.typeof(jnp.asarray(leaf)), y)}"
        )
    y = jnp.asarray(y)
    return y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(float)
