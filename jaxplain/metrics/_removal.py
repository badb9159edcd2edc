"""f with groups of its input put to a reference: what curves and correlations evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import checked
from jaxplain._numerics.chunking import chunked_map, leading_size
from jaxplain.games.game import as_background
from jaxplain.games.players import as_players
from jaxplain.metrics._example import Example, fold, token, value_of
from jaxplain.surrogate import staging

Tree = Any


@dataclass(frozen=True)
class Removal:
    """How elements are taken away: by groups, to a reference."""

    f: Callable[..., Any]
    ref: Any  # a value, a tree, several with a leading axis, or a function (x, mask, key) → x
    groups: Any
    chunk: int | None
    argnums: staging.Argnums

    def name(self, example: Example) -> tuple[Any, ...]:
        """Equal where the same is evaluated."""
        groups = self.labels(example)
        return id(self.f), token(self.ref), None if groups is None else token(groups), self.argnums

    def labels(self, example: Example) -> Any:
        """The groups, this metric's own or those of all."""
        return example.groups if self.groups is None else self.groups

    def players(self, example: Example) -> tuple[Tree, int]:
        """Each element's group, and how many there are."""
        x = staging.as_numbers(staging.pick(example.args, self.argnums))
        return as_players(self.labels(example), x)

    def values(self, example: Example, removed: jax.Array) -> jax.Array:
        """f without these groups, (sets, groups) of booleans, `chunk` evaluations at once."""
        x = staging.as_numbers(staging.pick(example.args, self.argnums))
        labels, _ = self.players(example)

        def without(ref: Callable[[Tree], Tree], mask: Tree) -> jax.Array:
            put = jax.tree.map(jnp.where, mask, ref(mask), x)
            return value_of(self.f, staging.place(example.args, self.argnums, put))

        def spread(gone: jax.Array) -> Tree:
            return jax.tree.map(lambda at, v: jnp.broadcast_to(gone[at], v.shape), labels, x)

        if callable(self.ref):
            key = fold(checked(example.key, "ref, which is a function of (x, mask, key)"), "ref")

            def drawn(mask: Tree) -> Tree:
                return staging.as_reference(self.ref(x, mask, key), x)

            return chunked_map(lambda gone: without(drawn, spread(gone)), removed, self.chunk)

        refs = as_background(self.ref, x)
        count = leading_size(refs)

        def mean(gone: jax.Array) -> jax.Array:
            mask = spread(gone)
            return jax.vmap(lambda ref: without(lambda _: ref, mask))(refs).mean()

        chunk = None if self.chunk is None else max(1, self.chunk // count)
        return chunked_map(mean, removed, chunk)

    def cost(self, example: Example) -> int:
        """Evaluations of f for one set."""
        if callable(self.ref):
            return 1
        x = staging.as_numbers(staging.pick(example.args, self.argnums))
        return leading_size(as_background(self.ref, x))

    def whole(self, example: Example) -> jax.Array:
        """f(x)."""
        return example.once(
            ("f(x)", id(self.f), self.argnums),
            lambda: value_of(self.f, example.args),
            evaluations=1,
        )

    def nothing(self, example: Example) -> jax.Array:
        """f with everything at the reference."""
        _, players = self.players(example)
        return example.once(
            ("f(ref)", *self.name(example)),
            lambda: self.values(example, jnp.ones((1, players), bool))[0],
            evaluations=self.cost(example),
        )
