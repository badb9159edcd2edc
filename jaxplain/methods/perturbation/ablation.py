"""What f loses when groups of the input are put to a reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.chunking import check_chunk, leading_size, weighted_sum
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Groups, Tree
from jaxplain.games.game import Shown, game_of, shown_input
from jaxplain.methods.perturbation.masking import loss, placed
from jaxplain.named import turns
from jaxplain.surrogate import staging


@speaks
def ablation(
    f: Function,
    ref: Tree,
    *,
    groups: Groups = None,
    chunk: int | None = None,
    at: At | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""What f loses when a group is put to the reference: C_g = f(x) - f(x, x_g := ref_g).

    Args:
      f: `f(x, *args)` → a number, or an array of them, all explained by the same evaluations. x may
        hold integers and booleans, which f gets as they are; then so must ref.
      ref: a scalar, or a tree that broadcasts to x; with a leading axis in front, f's
        mean over such references.
      groups: a tree like x of integer labels that broadcast to it (None: each element
        is a group), or of boolean masks with a leading axis of groups, which may overlap.
      chunk: about how many evaluations of f are in memory at once; None all.
      at: a name, several or a pattern (`jaxplain.tag`): ablates these values inside f instead of
        x, to `ref`, which is theirs: a scalar, or one for each as {name: reference}.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a tree like x, each element its group's loss; of masks the mean over
      those that have it, 0 where none does. No completeness. Axes of f's outputs are in front.
      With `at` one array like the value for one name, {name: array} for several.

    Raises:
      TypeError: f does not return real numbers; groups are neither integers nor booleans.
      ValueError: groups or ref do not broadcast to x, or ref is no value that x's integers may
        have; chunk < 1.
      FloatingPointError: outside jit, where f is not finite.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f, x = lambda x: x[0] * x[1] + x[2], jnp.array([2.0, 3.0, 1.0])
      >>> jxp.ablation(f, 0.0)(x)
      Array([6., 6., 1.], dtype=float32)
      >>> jxp.ablation(f, 0.0, groups=jnp.array([0, 0, 1]))(x)
      Array([6., 6., 1.], dtype=float32)

    Source: Zeiler & Fergus, arXiv 1311.2901, section 4.2; Li et al., arXiv 1612.08220, eq. 1.
    """
    check_chunk(chunk)
    leaves = jax.tree.leaves(groups)
    masked = leaves and all(jnp.issubdtype(jnp.result_type(leaf), bool) for leaf in leaves)
    lost = _lost_by_masks if masked else _lost_by_labels

    if at is not None:

        def at_value(example: Any, value: Callable[[Any, Any], Any], ref: Tree) -> Any:
            shown = Shown(example, lambda mask, ref: staging.as_value(value(mask, ref)))
            return lost(shown, ref, groups, chunk)

        return nothing_drawn(turns.one_by_one(at_value, f, at, ref, argnums))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        return lost(shown_input(f, args, argnums), ref, groups, chunk)

    return explain


def _lost_by_labels(shown: Shown, ref: Tree, groups: Groups, chunk: int | None) -> Any:
    game = game_of(shown, ref, groups=groups, chunk=chunk)
    players = jnp.arange(game.players)
    values = game.values(lambda i: players != i, game.players + 1)  # the last is whole
    return game.per_element(values[-1:] - values[:-1])


def _lost_by_masks(shown: Shown, ref: Tree, masks: Any, chunk: int | None) -> Any:
    """Each leaf's masks have their axis in front."""
    x, count = shown.example, leading_size(masks)
    try:
        whole = jax.tree.map(
            lambda m, v: jnp.broadcast_to(
                jnp.reshape(m, (count,) + (1,) * (v.ndim + 1 - m.ndim) + m.shape[1:]),
                (count, *v.shape),
            ),
            masks,
            x,
        )
    except ValueError:
        raise ValueError(
            "masks must be a tree like x, with an axis of groups in front of every leaf.\n"
            f"  masks: {jax.tree.map(np.shape, masks)}\n  x:     {jax.tree.map(np.shape, x)}"
        ) from None
    lost = loss(shown, ref)

    def drop(masks: Any) -> Any:
        return jax.tree.map(functools.partial(placed, lost(masks)), masks)

    def mean(totals: Any, masks: Any) -> Any:
        having = jnp.maximum(masks.sum(0), 1).astype(totals.dtype)
        return totals / jnp.broadcast_to(having, totals.shape)

    totals = weighted_sum(drop, whole, jnp.ones(count), chunk)
    return jax.tree.map(mean, totals, whole)
