r"""Shapley values and their kin: an input's groups as players, what is absent at the references.

v(S) = E_r f(x_S, r_∖S), the mean over references of f with the players in S at x. A game of one's
own is a function of a vector of zeros and ones: `shapley_values(v, 0.0)(jnp.ones(n))`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Array, Explain, Function, Groups, Key, Tree
from jaxplain.games.game import Game, HostGame
from jaxplain.methods.shapley import estimators, indices, unions
from jaxplain.methods.shapley.explainer import ENUMERATED, explainer
from jaxplain.surrogate import staging


@speaks
def shapley_values(
    f: Function,
    refs: Tree,
    *,
    groups: Groups = None,
    samples: int | None = None,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Shapley values: φ_i = Σ_{S ∌ i} |S|! (n-1-|S|)!/n! (v(S ∪ i) - v(S)).

    With `samples` they are those of a Gaussian process's mean, given the values of pairs (S, N∖S)
    that tell most: a linear part, and interactions of 3, 5, … players that a priori weaken by
    θ² = 0.01 (even ones do not count). Linear in v and exact for linear v; all of v(N) - v(∅) is
    shared out.

    Args:
      f: `f(x, *args)` → a number, or an array of them: all are explained from the same
        evaluations. x may hold integers and booleans (categories), which f gets as they are, x's
        or the reference's.
      refs: what is absent is at these references, a tree like x with a leading axis in front; or
        one reference: a scalar, or a tree that broadcasts to x.
      groups: the players: a tree like x of integer labels that broadcast to it. Elements of one
        label, in one leaf or several, are one player. None makes every element one.
      samples: how many coalitions are evaluated, each at all references, ∅ and N among them;
        ≥ 2n, and an odd one is left. None, or 2ⁿ and more: all. Beyond 4096 the
        mean of several estimates is taken.
      chunk: about how many evaluations of f are in memory at once; None all. It changes the
        result by rounding only.
      standard_error: also return the standard error, 0 where all coalitions are evaluated. Of the
        estimate it is the process's own, at the scale by which the values given predict each other.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a tree like x, each element its player's value; with `samples`
      `explain(x, *args, key=)`. Players' values sum to f(x) - E_r f(r), and without groups so does
      the tree. The axes of f's outputs are in front. With `standard_error` a pair of trees.

    Raises:
      TypeError: f does not return floating numbers; a key is missing, or given without samples.
      ValueError: more than 16 players and no samples; fewer samples than 2n; groups or
        refs do not broadcast to x; chunk < 1.
      FloatingPointError: outside jit, where f is not finite; names the coalition.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.shapley_values(lambda x: x[0] * x[1] + x[2], 0.0)(jnp.array([2.0, 3.0, 1.0]))
      Array([3., 3., 1.], dtype=float32)

    Source: Shapley, "A value for n-person games" (1953); Lundberg & Lee, arXiv 1705.07874, eq. 8;
    pairs and sizes of coalitions by Musco & Witter, arXiv 2410.01917, algorithm 1.
    """

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        return estimators.index(game, "SII", 1, samples, key, standard_error)

    return explainer(f, refs, scores, samples, groups, chunk, standard_error, argnums)


def shapley_values_of_runs(
    run: Callable[[np.ndarray], Any],
    players: int,
    *,
    samples: int | None = None,
    key: Key | None = None,
) -> Array:
    """Shapley values (players, *outputs) of a game whose coalitions are run on the host.

    `run` takes all masks at once, (runs, players), and returns their values (runs, *outputs): what
    can't be a program of one shape, such as a text without some of its words.
    """

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        return estimators.index(HostGame.of(game, run), "SII", 1, samples, key, False)

    blank = lambda x: x.sum()
    explain = explainer(blank, 0.0, scores, samples, None, None, False, 0, arranged=_as_they_are)
    return explain(jnp.ones(players)) if key is None else explain(jnp.ones(players), key=key)


def _as_they_are(game: Game, values: Any) -> Any:
    return values


@speaks
def banzhaf_values(
    f: Function,
    refs: Tree,
    *,
    groups: Groups = None,
    samples: int | None = None,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Banzhaf values: β_i = 2^{1-n} Σ_{S ∌ i} (v(S ∪ i) - v(S)).

    With `samples`, as `shapley_values`.

    Args:
      f: as in `shapley_values`.
      refs: as in `shapley_values`.
      groups: as in `shapley_values`.
      samples: as in `shapley_values`.
      chunk: as in `shapley_values`.
      standard_error: as in `shapley_values`.
      argnums: which argument(s) of f are x.

    Returns:
      As `shapley_values`; without an invariant of the sum.

    Raises:
      TypeError, ValueError, FloatingPointError: as `shapley_values`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.banzhaf_values(lambda x: x.prod(), 0.0)(jnp.ones(3))
      Array([0.25, 0.25, 0.25], dtype=float32)

    Source: Banzhaf, "Weighted voting doesn't work" (1965); Wang & Jia, arXiv 2205.15466, eq. 2.
    """

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        return estimators.index(game, "BII", 1, samples, key, standard_error)

    return explainer(f, refs, scores, samples, groups, chunk, standard_error, argnums)


@speaks
def kernel_shap(
    f: Function,
    refs: Tree,
    *,
    groups: Groups = None,
    samples: int,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""KernelSHAP: the additive game that fits v best under the Shapley kernel.

    min_φ Σ_S w_S (v(S) - v(∅) - Σ_{i∈S} φ_i)² s.t. Σ φ = v(N) - v(∅), over pairs (S, N∖S) that
    are drawn without replacement, sizes ∝ 1/s(n-s).

    Args:
      f: as in `shapley_values`.
      refs: as in `shapley_values`.
      groups: as in `shapley_values`.
      samples: how many coalitions are evaluated, ∅ and N among them; ≥ 2n. All of them
        give the Shapley values, without a key.
      chunk: as in `shapley_values`.
      standard_error: also return the fit's standard error, robust to unequal variances.
      argnums: which argument(s) of f are x.

    Returns:
      As `shapley_values`.

    Raises:
      TypeError, ValueError, FloatingPointError: as `shapley_values`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.kernel_shap(lambda x: x @ jnp.arange(20.0), 0.0, samples=100)
      >>> explain(jnp.ones(20), key=jax.random.key(0))[17:]
      Array([17., 18., 19.], dtype=float32)

    Source: Lundberg & Lee, arXiv 1705.07874, theorem 2; Covert & Lee, arXiv 2012.01536, eq. 7
    (the constraint) and section 3.2 (pairs).
    """

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        return estimators.by_regression(game, samples, key, standard_error)

    return explainer(f, refs, scores, samples, groups, chunk, standard_error, argnums)


@speaks
def permutation_shapley(
    f: Function,
    refs: Tree,
    *,
    groups: Groups = None,
    samples: int,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Shapley values as the mean, over random orders and their reverses, of what a player adds.

    φ_i = E_π[v(P_i ∪ i) - v(P_i)], P_i the players before i; unbiased, and exact where no more
    than two players interact.

    Args:
      f: as in `shapley_values`.
      refs: as in `shapley_values`.
      groups: as in `shapley_values`.
      samples: how many coalitions are evaluated: 2 and 2(n-1) for every order with its
        reverse, of which there are as many as fit, at least one.
      chunk: as in `shapley_values`.
      standard_error: also return the standard error of the mean, from at least two orders.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → as `shapley_values`.

    Raises:
      TypeError, ValueError, FloatingPointError: as `shapley_values`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.permutation_shapley(lambda x: x[0] * x[1] + x[2], 0.0, samples=6)
      >>> explain(jnp.array([2.0, 3.0, 1.0]), key=jax.random.key(0))
      Array([3., 3., 1.], dtype=float32)

    Source: Mitchell et al., arXiv 2104.12199, section 3 (antithetic sampling).
    """

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        levels = np.arange(game.players)[None]
        return estimators.by_orders(game, levels, samples, key, standard_error)

    return explainer(
        f, refs, scores, samples, groups, chunk, standard_error, argnums, always_drawn=True
    )


@speaks
def owen_values(
    f: Function,
    refs: Tree,
    *,
    groups: Groups,
    players: Any = None,
    samples: int | None = None,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Owen values: Shapley values where players enter union by union.

    φ_i = E_π[v(P_i ∪ i) - v(P_i)] over the orders π in which no union is interrupted.

    Args:
      f: as in `shapley_values`.
      refs: as in `shapley_values`.
      groups: the unions: labels as in `shapley_values`; or a list of such, coarse to fine, for
        unions of unions.
      players: labels of the players within the unions; None makes every element of x one.
      samples: None evaluates all coalitions that such orders visit, far fewer than 2ⁿ.
        Otherwise orders and their reverses are drawn, as in `permutation_shapley`.
      chunk: as in `shapley_values`.
      standard_error: as in `permutation_shapley`.
      argnums: which argument(s) of f are x.

    Returns:
      As `shapley_values`: players' values sum to f(x) - E_r f(r), and within a union to its
      Shapley value among the unions beside it.

    Raises:
      TypeError, ValueError, FloatingPointError: as `shapley_values`; ValueError also where a
        player lies in two unions.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> glove = lambda x: jnp.minimum(jnp.maximum(x[0], x[1]), x[2])
      >>> jxp.owen_values(glove, 0.0, groups=jnp.array([0, 0, 1]))(jnp.ones(3))
      Array([0.25, 0.25, 0.5 ], dtype=float32)

    Source: Owen, "Values of games with a priori unions" (1977); Winter (1989) for several levels.
    """

    def levels_of(game: Game, x: Tree) -> np.ndarray:
        several = isinstance(groups, list | tuple) and not staging.same_tree(groups, x)
        levels = [unions.union_of(level, game, x) for level in (groups if several else [groups])]
        return unions.nested([*levels, np.arange(game.players)])

    def scores(game: Game, key: Key, x: Tree) -> tuple[Any, Any]:
        levels = levels_of(game, x)
        if samples is not None:
            return estimators.by_orders(game, levels, samples, key, standard_error)
        count = unions.coalitions(levels)
        if count > 2**ENUMERATED:
            raise ValueError(
                f"these unions take {count} evaluations, more than {2**ENUMERATED}: give samples="
            )
        masks, weights = unions.matrix(levels)
        return estimators.by_matrix(game, masks, weights), None

    return explainer(
        f,
        refs,
        scores,
        samples,
        players,
        chunk,
        standard_error,
        argnums,
        always_drawn=True,
        with_input=True,
    )


@speaks
def shapley_interactions(
    f: Function,
    refs: Tree,
    *,
    order: int = 2,
    index: str = "SII",
    groups: Groups = None,
    samples: int | None = None,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Interactions of pairs or triples: I(T) = Σ_{S ⊆ N∖T} w_|S| Σ_{U ⊆ T} (-1)^|T∖U| v(S ∪ U).

    With n players and t = |T|, w_s = s!(n-t-s)!/(n-t+1)! for SII, (t/n)/C(n-1, s) for STII,
    (2t-1)!/(t-1)!² (t+s-1)!(n-s-1)!/(n+t-1)! for FSII.

    Args:
      f: as in `shapley_values`.
      refs: as in `shapley_values`.
      order: t, 2 or 3.
      index: `"SII"`, the Shapley interaction index; `"STII"`, Shapley-Taylor; `"FSII"`,
        Faith-Shap; the last two of maximal order t, of which these are the top-order terms.
      groups: as in `shapley_values`.
      samples: as in `shapley_values`; 2(n(n-1)/2 + 1) and more tell a quadratic v exactly.
      chunk: as in `shapley_values`.
      standard_error: as in `shapley_values`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)`, with `samples` `explain(x, *args, key=)` → the symmetric array
      (*outputs, n, n), or (*outputs, n, n, n), of players by number: T's whole interaction at
      each arrangement of T, 0 where indices coincide. Half of it, for SII, is what shap's matrix
      has off its diagonal.

    Raises:
      TypeError, ValueError, FloatingPointError: as `shapley_values`; ValueError also for an
        unknown index or order.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.shapley_interactions(lambda x: x[0] * x[1] + x[2], 0.0)(jnp.array([2.0, 3.0, 1.0]))
      Array([[0., 6., 0.],
             [6., 0., 0.],
             [0., 0., 0.]], dtype=float32)

    Source: Grabisch & Roubens (1999) for SII; Sundararajan et al., arXiv 1902.05622, eq. 5; Tsai
    et al., arXiv 2203.00870, theorem 8.
    """
    if order not in (2, 3):
        raise ValueError(f"order must be 2 or 3, and is {order}")
    if index not in ("SII", "STII", "FSII"):
        raise ValueError(f"unknown index {index!r}: one of 'SII', 'STII', 'FSII'")

    def scores(game: Game, key: Key) -> tuple[Any, Any]:
        if game.players < order:
            raise ValueError(f"an interaction of {order} takes as many players: {game.players}")
        return estimators.index(game, index, order, samples, key, standard_error)

    def symmetric(game: Game, values: Any) -> Any:
        array = jnp.zeros((*values.shape[1:], *(game.players,) * order), values.dtype)
        sets = indices.sets(game.players, order)
        for axes in itertools.permutations(range(order)):
            array = array.at[(..., *sets[:, list(axes)].T)].set(jnp.moveaxis(values, 0, -1))
        return array

    return explainer(
        f, refs, scores, samples, groups, chunk, standard_error, argnums, arranged=symmetric
    )
