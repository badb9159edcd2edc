"""Faithfulness as a correlation: what scores say of subsets beside what f loses without them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.chunking import check_chunk
from jaxplain.metrics._example import Example, finite, undefined_unless
from jaxplain.metrics._metric import Metric, of_contributions
from jaxplain.metrics._removal import Removal
from jaxplain.metrics.agreement import pearson, spearman
from jaxplain.metrics.curves import Plan
from jaxplain.surrogate import staging

CORRELATIONS = {"pearson": pearson, "spearman": spearman}
Subsets = Callable[[Example, int], jax.Array]  # (sets, groups) of booleans: who goes


def faithfulness_correlation(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    size: int | None = None,
    samples: int = 64,
    subsets: Any = None,
    correlation: str = "pearson",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Correlation of a subset's sum of scores and of what f loses without it: ↑.

    corr_S(Σ_{i ∈ S} C_i, f(x) - f(x with S at ref)) over random subsets S of one size; 1 for exact
    contributions of a linear f. Spearman's makes it μ-fidelity.

    Args:
      f: `f(x, *args)` → scalar.
      ref: what subsets are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      size: how many groups are in a subset; None: a fifth of them, and one at least.
      samples: how many subsets are drawn, ≥ 2.
      subsets: these in place of drawn ones: lists of groups, or booleans (subsets, groups).
      correlation: `"pearson"` or `"spearman"` (of mean ranks).
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in [-1, 1]; NaN where the sums or the
      losses do not vary, or contributions are not finite; in samples + 1 evaluations of f, which
      `evaluate` makes once for all methods. A key draws other subsets than those drawn without.

    Raises:
      TypeError: f is not scalar-valued.
      ValueError: a size that no subset has; samples < 2; unknown correlation; contributions are
        not shaped like x; ref or groups do not broadcast to x; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f, x = lambda x: x @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(3)
      >>> jxp.faithfulness_correlation(f, 0.0)(jxp.deeplift(f, 0.0)(x), x).round(3)
      Array(1., dtype=float32)

    Source: Bhatt et al., arXiv 2005.00631, definition 2.2; Fel et al. (μ-fidelity), arXiv
    2009.04521, eq. 5.
    """
    if subsets is None:
        _check_samples(samples)
        sizes = None if size is None else (size,)
        chosen, name = _drawn(sizes, samples)
    else:
        chosen, name = _given(subsets)
    return _correlation(f, ref, groups, chosen, name, 1, correlation, chunk, argnums)


def sensitivity_n(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    sizes: Sequence[int],
    samples: int = 64,
    correlation: str = "pearson",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""`faithfulness_correlation` for several sizes of subsets, their mean: ↑.

    Args:
      f: as in `faithfulness_correlation`, and so are groups, correlation, chunk and argnums.
      ref: what subsets are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      sizes: the n of sensitivity-n, each from 1 to one less than there are groups.
      samples: how many subsets of each size, ≥ 2.
      correlation: `"pearson"` or `"spearman"`.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args, key=None)` → a scalar in [-1, 1], as in
      `faithfulness_correlation`; in sizes · samples + 1 evaluations of f.

    Raises:
      ValueError, TypeError: as in `faithfulness_correlation`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f, x = lambda x: x @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(3)
      >>> score = jxp.metrics.sensitivity_n(f, 0.0, sizes=[1, 2])
      >>> score(jxp.deeplift(f, 0.0)(x), x).round(3)
      Array(1., dtype=float32)

    Source: Ancona et al., arXiv 1711.06104, section 4.
    """
    _check_samples(samples)
    sizes = tuple(map(int, sizes))
    if not sizes:
        raise ValueError("sizes must name at least one size of subsets")
    chosen, name = _drawn(sizes, samples)
    return _correlation(f, ref, groups, chosen, name, len(sizes), correlation, chunk, argnums)


def single_groups(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    correlation: str = "pearson",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Correlation of each group's score and of what f loses without it alone: ↑.

    Args:
      f: as in `faithfulness_correlation`, and so are groups, correlation, chunk and argnums.
      ref: what groups are put to, as in `deletion`.
      groups: a tree like x of integer labels; None: each element is a group.
      correlation: `"pearson"` or `"spearman"`.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(contributions, x, *args)` → a scalar in [-1, 1], as in `faithfulness_correlation`; in
      one more evaluation of f than there are groups.

    Raises:
      ValueError, TypeError: as in `faithfulness_correlation`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f, x = lambda x: x @ jnp.array([1.0, -2.0, 0.5]), jnp.ones(3)
      >>> jxp.metrics.single_groups(f, 0.0)(jxp.deeplift(f, 0.0)(x), x).round(3)
      Array(1., dtype=float32)

    Source: Alvarez-Melis & Jaakkola, arXiv 1806.07538, section 3.2 ("faithfulness").
    """
    each = lambda example, groups: jnp.eye(groups, dtype=bool)
    return _correlation(f, ref, groups, each, ("each",), 1, correlation, chunk, argnums)


def _correlation(
    f: Callable[..., Any],
    ref: Any,
    groups: Any,
    subsets: Subsets,
    name: Hashable,
    parts: int,
    correlation: str,
    chunk: int | None,
    argnums: staging.Argnums,
) -> Metric:
    """The mean over parts of the subsets of their correlation."""
    check_chunk(chunk)
    if correlation not in CORRELATIONS:
        raise ValueError(f"unknown correlation {correlation!r}: one of {tuple(CORRELATIONS)}")
    removal = Removal(f, ref, groups, chunk, argnums)
    plan = Plan(removal, "signed")

    def losses(example: Example) -> tuple[jax.Array, jax.Array]:
        _, players = removal.players(example)
        gone = example.once(
            ("subsets of groups", name, players), lambda: subsets(example, players)
        )
        values = example.once(
            ("subsets", name, removal.name(example)),
            lambda: removal.values(example, gone),
            evaluations=len(gone) * removal.cost(example),
        )
        return gone, removal.whole(example) - values

    def score(example: Example) -> jax.Array:
        scores = plan.scores(example)
        gone, lost = losses(example)
        said = jnp.where(gone, scores[None], 0).sum(1)
        corr = jax.vmap(CORRELATIONS[correlation])
        found = corr(said.reshape(parts, -1), lost.astype(said.dtype).reshape(parts, -1))
        return undefined_unless(finite(scores, lost), found.mean())

    return Metric(score, of_contributions, "↑", (-1.0, 1.0), ref=ref, share=losses)


def _check_samples(samples: int) -> None:
    if samples < 2:
        raise ValueError(f"samples must be at least 2, and is {samples}")


def _drawn(sizes: tuple[int, ...] | None, samples: int) -> tuple[Subsets, Hashable]:
    """So many subsets of each size, by the example's key, or by one that is always the same."""

    def subsets(example: Example, groups: int) -> jax.Array:
        given = (max(1, groups // 5),) if sizes is None else sizes
        if not all(0 < size <= groups for size in given):
            raise ValueError(f"subsets of {given} groups, and there are {groups}")
        key = jax.random.key(0) if example.key is None else example.drawn("the subsets")
        places = jnp.argsort(jax.random.uniform(key, (len(given) * samples, groups)), axis=1)
        return places < np.repeat(given, samples)[:, None]

    return subsets, ("drawn", sizes, samples)


def _given(subsets: Any) -> tuple[Subsets, Hashable]:
    rows = [np.asarray(row) for row in subsets]
    if len(rows) < 2:
        raise ValueError("a correlation needs at least two subsets")

    def booleans(example: Example, groups: int) -> jax.Array:
        gone = np.zeros((len(rows), groups), bool)
        for row, subset in zip(gone, rows, strict=True):
            if subset.dtype == bool and subset.shape == (groups,):
                row[:] = subset
            elif np.issubdtype(subset.dtype, np.integer) and (subset < groups).all():
                row[subset] = True
            else:
                raise ValueError(
                    f"a subset is a list of groups below {groups}, or ({groups},) of booleans"
                )
        return jnp.asarray(gone)

    return booleans, ("given", tuple((row.shape, row.tobytes()) for row in rows))
