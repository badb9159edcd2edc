"""From scores of a game to an explanation of an input: drawn or enumerated, an array per leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxplain._keys import checked, nothing_drawn
from jaxplain._numerics.chunking import check_chunk
from jaxplain._types import Argnums, Explain, Function, Groups, Key, Tree
from jaxplain.games.game import Game, make_game
from jaxplain.surrogate import staging

ENUMERATED = 16  # players at most: 65,536 coalitions, which every further player doubles



def explainer(
    f: Function,
    refs: Tree,
    scores: Callable[..., tuple[Any, Any]],
    samples: int | None,
    groups: Groups,
    chunk: int | None,
    standard_error: bool,
    argnums: Argnums,
    *,
    always_drawn: bool = False,
    with_input: bool = False,
    arranged: Callable[[Game, Any], Any] = Game.per_element,
) -> Explain:
    """An explain of scores(game, key) → (players, *outputs) and their errors, None for zeros.

    The key is None where all coalitions are evaluated, unless orders are `always_drawn`.
    """
    check_chunk(chunk)

    def run(args: tuple[Any, ...], key: Key | None) -> Any:
        game = make_game(f, refs, args, groups=groups, chunk=chunk, argnums=argnums)
        if samples is None or (not always_drawn and samples >= 2**game.players):
            key = None
            if not always_drawn:
                _check_exact(game.players, samples)
        else:
            key = checked(key, "coalitions")
        extra = (staging.pick(args, argnums),) if with_input else ()
        values, errors = scores(game, key, *extra)
        if not standard_error:
            return arranged(game, values)
        errors = jnp.zeros_like(values) if errors is None else errors
        return arranged(game, values), arranged(game, errors)

    def explain(*args: Any) -> Any:
        return run(args, None)

    def explain_drawn(*args: Any, key: Key | None = None) -> Any:
        return run(args, checked(key, "coalitions", optional=True))

    if samples is None:
        return nothing_drawn(explain, "without samples= all coalitions are evaluated")
    return explain_drawn


def _check_exact(players: int, samples: int | None) -> None:
    if players > ENUMERATED and samples is None:
        raise ValueError(
            f"{players} players have 2^{players} = {2.0**players:.3g} coalitions to evaluate, and "
            f"more than {ENUMERATED} players are not enumerated: give samples=, or groups= of "
            "elements"
        )
