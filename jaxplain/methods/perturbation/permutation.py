"""What a score of a data set loses when a feature is shuffled."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import drawn
from jaxplain._numerics.chunking import (
    average,
    check_chunk,
    check_samples,
    chunked_map,
    leading_size,
)
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Groups, Key
from jaxplain.games.players import as_players, per_element
from jaxplain.surrogate import staging


@speaks
def permutation_importance(
    f: Function,
    *,
    groups: Groups = None,
    samples: int = 1,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""What a score of many examples loses when a feature is shuffled among them.

    C_g = E_π[f(X) - f(X, X_g := X_g[π])], π a permutation of the examples.

    Args:
      f: `f(xs, *args)` → the score of all examples together, such as an accuracy, or an array of
        scores.
      groups: features shuffled together: a tree like one example, of integer labels that
        broadcast to it. None shuffles each by itself.
      samples: how many permutations for each group, ≥ 1.
      chunk: how many evaluations of f are in memory at once; None all.
      standard_error: also return the standard error of the mean, from at least two samples.
      argnums: which argument(s) of f are xs.

    Returns:
      `explain(xs, *args, key=)` → a tree like one example; positive where the score needs the
      feature. Axes of f's outputs are in front. With `standard_error` a pair of trees.

    Raises:
      TypeError: f does not return real numbers; a key is missing.
      ValueError: groups do not broadcast to an example; xs have no common leading axis; too few
        samples; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> xs = jax.random.normal(jax.random.key(0), (500, 2))
      >>> score = lambda xs, ys: -jnp.mean((xs[:, 0] - ys) ** 2)
      >>> explain = jxp.permutation_importance(score, samples=10)
      >>> explain(xs, xs[:, 0], key=jax.random.key(1)).round(0)
      Array([2., 0.], dtype=float32)

    Source: Breiman, "Random forests", Machine Learning 45 (2001), section 10; Fisher et al.,
    arXiv 1801.01489, section 3.2.
    """
    check_chunk(chunk)
    check_samples(samples, standard_error=standard_error)

    @drawn("permutations")
    def explain(*args: Any, key: Key) -> Any:
        xs = staging.as_numbers(staging.pick(args, argnums))
        count = leading_size(xs)
        example = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), xs)
        labels, players = as_players(groups, example)
        value = staging.array(f, args, argnums)
        whole = value(xs)

        def lost(group: Any, key: Key) -> Any:
            order = jax.random.permutation(key, count)
            own = lambda at, v: jnp.broadcast_to((at == group)[None], v.shape)
            mixed = jax.tree.map(lambda at, v: jnp.where(own(at, v), v[order], v), labels, xs)
            return whole - value(mixed)

        def score(group: Any) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, group), samples)
            lost_by = functools.partial(lost, group)
            return average(lost_by, keys, chunk, standard_error=standard_error)

        at_once = None if chunk is None else max(1, chunk // samples)
        scores = chunked_map(score, jnp.arange(players), at_once)
        return jax.tree.map(functools.partial(per_element, labels, example), scores)

    return explain
