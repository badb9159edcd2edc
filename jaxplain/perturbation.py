"""Perturbation: what happens to f when parts of the input are taken away, mixed or exchanged."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import taps
from jaxplain.chunking import chunked_map, leading_size, moments, weighted_sum
from jaxplain.games.game import as_players, as_value, make_game
from jaxplain.surrogate import staging

Explain = Callable[..., Any]
_HIGHEST = jax.lax.Precision.HIGHEST
_SWEEPS = 10_000  # of the lasso's coordinate descent at most, should rounding keep it going


def ablation(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    chunk: int | None = None,
    at: taps.At | None = None,
    argnums: staging.Argnums = 0,
) -> Explain:
    r"""What f loses when a group is put to the reference: C_g = f(x) - f(x, x_g := ref_g).

    Args:
      f: `f(x, *args)` → a number, or an array of them, all explained by the same evaluations.
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
      ValueError: groups or ref do not broadcast to x; chunk < 1.
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
    if at is not None:
        method = functools.partial(ablation, groups=groups, chunk=chunk)
        return taps.one_by_one(method, f, at, ref, argnums)
    leaves = jax.tree.leaves(groups)
    if leaves and all(jnp.issubdtype(jnp.result_type(leaf), bool) for leaf in leaves):
        return _masked(f, ref, groups, chunk, argnums)

    def explain(*args: Any) -> Any:
        game = make_game(f, ref, args, groups=groups, chunk=chunk, argnums=argnums)
        players = jnp.arange(game.players)
        values = game.values(lambda i: players != i, game.players + 1)  # the last is whole
        return game.spread(values[-1] - values[:-1])

    return explain


def _masked(
    f: Callable[..., Any], ref: Any, masks: Any, chunk: int | None, argnums: staging.Argnums
) -> Explain:
    """Ablation by masks, each leaf's with their axis in front."""

    def explain(*args: Any) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        count = leading_size(masks)
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
        loss = _loss(f, ref, args, argnums)

        def drop(masks: Any) -> Any:
            return jax.tree.map(functools.partial(_times, loss(masks)), masks)

        totals = weighted_sum(drop, whole, jnp.ones(count), chunk)
        return jax.tree.map(lambda t, m: t / jnp.maximum(m.sum(0), 1), totals, whole)

    return explain


def _loss(
    f: Callable[..., Any], ref: Any, args: tuple[Any, ...], argnums: staging.Argnums
) -> Callable[[Any], Any]:
    """A mask, a tree like x, → what f loses when its elements are at the reference."""
    x = staging.as_input(staging.pick(args, argnums))
    ref = staging.as_reference(ref, x)
    whole = as_value(f(*args))

    def lost(mask: Any) -> Any:
        mixed = jax.tree.map(jnp.where, mask, ref, x)
        return whole - as_value(f(*staging.place(args, argnums, mixed)))

    return lost


def _times(lost: Any, mask: Any) -> Any:
    """Losses (*outputs) at a mask's elements."""
    return jnp.multiply.outer(lost, mask.astype(lost.dtype))


def occlusion(
    f: Callable[..., Any],
    ref: Any,
    *,
    window: Any,
    strides: Any = 1,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Explain:
    r"""What f loses, in the mean over the windows around an element, when a window is covered.

    C_e = mean over windows w ∋ e of f(x) - f(x, x_w := ref_w). Windows start at multiples of the
    strides; the last ones may reach beyond the edge. Leaves of x are covered one at a time.

    Args:
      f: as in `ablation`.
      ref: a scalar, or a tree that broadcasts to x.
      window: sizes along the leading axes of x, such as (8, 8) for an image (height, width,
        channels); other axes are covered whole. For a tree x a tree of such tuples. An int for
        a vector.
      strides: likewise, or an int for all axes of the window.
      chunk: how many windows are evaluated at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a tree like x; 0 where no window comes. No completeness. Axes of f's
      outputs are in front.

    Raises:
      TypeError: f does not return real numbers.
      ValueError: windows or strides do not fit x; ref does not broadcast to x; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.occlusion(jnp.sum, 0.0, window=2)(jnp.array([1.0, 2.0, 3.0]))
      Array([3., 4., 5.], dtype=float32)

    Source: Zeiler & Fergus, arXiv 1311.2901, section 4.2.
    """

    def explain(*args: Any) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        leaves, tree = jax.tree.flatten(x)
        sizes = _per_leaf(window, tree)
        steps = [strides] * len(leaves) if isinstance(strides, int) else _per_leaf(strides, tree)
        loss = _loss(f, ref, args, argnums)

        def of(number: int) -> Any:
            shape = leaves[number].shape
            size, step = _window(sizes[number], steps[number], shape)
            starts = [
                np.arange(0, length - width + stride, stride)
                for length, width, stride in zip(shape, size, step, strict=False)
            ]
            covered = functools.reduce(
                np.multiply.outer,
                [
                    ((at >= start[:, None]) & (at < start[:, None] + width)).sum(0)
                    for start, width, at in zip(starts, size, map(np.arange, shape), strict=False)
                ],
            )
            corners = np.array(list(itertools.product(*starts)))

            def drop(corner: Any) -> Any:
                inside = [
                    (jnp.arange(length) >= low) & (jnp.arange(length) < low + width)
                    for low, length, width in zip(corner, shape, size, strict=False)
                ]
                mask = functools.reduce(lambda mask, along: mask[..., None] & along, inside)
                mask = jnp.broadcast_to(_behind(mask, len(shape)), shape)
                masks = [jnp.zeros(leaf.shape, bool) for leaf in leaves]
                masks[number] = mask
                return _times(loss(jax.tree.unflatten(tree, masks)), mask)

            total = weighted_sum(drop, jnp.asarray(corners), jnp.ones(len(corners)), chunk)
            return total / _behind(np.maximum(covered, 1), len(shape)).astype(total.dtype)

        return jax.tree.unflatten(tree, [of(number) for number in range(len(leaves))])

    return explain


def _per_leaf(sizes: Any, tree: Any) -> list[Any]:
    try:
        return tree.flatten_up_to(sizes)
    except ValueError:
        raise ValueError(
            f"windows and strides must be a tree like x of tuples, and are {sizes} for {tree}"
        ) from None


def _window(size: Any, step: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Sizes and strides of a window along the leading axes."""
    size = (size,) if isinstance(size, int) and len(shape) == 1 else size
    if isinstance(size, tuple | list):
        step = (step,) * len(size) if isinstance(step, int) else step
        if (
            1 <= len(size) == len(step) <= len(shape)
            and all(1 <= width <= length for width, length in zip(size, shape, strict=False))
            and min(step) >= 1
        ):
            return tuple(size), tuple(step)
    raise ValueError(f"a window {size} with strides {step} does not fit into {shape}")


def _behind(array: Any, rank: int) -> Any:
    """Axes of size 1 behind, up to this rank."""
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def permutation_importance(
    f: Callable[..., Any],
    *,
    groups: Any = None,
    samples: int = 1,
    chunk: int | None = None,
    standard_error: bool = False,
    argnums: staging.Argnums = 0,
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
      TypeError: f does not return real numbers.
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
    least = 2 if standard_error else 1
    if samples < least:
        raise ValueError(f"samples must be at least {least}, and is {samples}")

    def explain(*args: Any, key: Any) -> Any:
        xs = staging.as_input(staging.pick(args, argnums))
        count = leading_size(xs)
        example = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), xs)
        labels, players = as_players(groups, example)
        whole = as_value(f(*args))

        def lost(group: Any, key: Any) -> Any:
            order = jax.random.permutation(key, count)
            mixed = jax.tree.map(lambda at, v: jnp.where(at == group, v[order], v), labels, xs)
            return whole - as_value(f(*staging.place(args, argnums, mixed)))

        def of(group: Any) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, group), samples)
            return moments(lambda key: lost(group, key), keys, chunk)

        at_once = None if chunk is None else max(1, chunk // samples)
        mean, variance = chunked_map(of, jnp.arange(players), at_once)
        spread = functools.partial(_spread, labels, example)
        if not standard_error:
            return spread(mean)
        return spread(mean), spread(jnp.sqrt(variance / (samples - 1)).astype(mean.dtype))

    return explain


def _spread(labels: Any, example: Any, scores: Any) -> Any:
    """Groups' scores (groups, *outputs) as a tree like an example behind the outputs' axes."""
    scores = jnp.moveaxis(scores, 0, -1)
    return jax.tree.map(
        lambda at, v: jnp.broadcast_to(scores[..., at], (*scores.shape[:-1], *v.shape)),
        labels,
        example,
    )


def rise(
    f: Callable[..., Any],
    ref: Any = 0.0,
    *,
    grid: Any,
    samples: int,
    probability: float = 0.5,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Explain:
    r"""RISE: f's mean over random smooth masks, by how much of an element they let through.

    S = E[f(m x + (1-m) ref) m] / p. A mask is a grid of cells, on with probability p, enlarged by
    linear interpolation and shifted by up to a cell.

    Args:
      f: as in `ablation`.
      ref: what masked elements are replaced by: a scalar, or a tree that broadcasts to x.
      grid: cells along the leading axes of x, such as (7, 7) for an image; other axes share
        the mask. An array x only.
      samples: how many masks, ≥ 1.
      probability: p, in (0, 1].
      chunk: how many masks are evaluated at once; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args, key=)` → an array like x, f's mean given that an element shows;
      nonnegative for a nonnegative f. No completeness. Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; x is not one array.
      ValueError: a grid that does not fit x; samples < 1; p outside (0, 1]; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> image = jnp.ones((8, 8))
      >>> explain = jxp.rise(lambda x: x[2, 2], grid=(4, 4), samples=2000)
      >>> jnp.unravel_index(explain(image, key=jax.random.key(0)).argmax(), (8, 8))[0].item()
      2

    Source: Petsiuk, Das & Saenko, arXiv 1806.07421, eq. 6 and section 3.2.
    """
    if samples < 1 or not 0 < probability <= 1:
        raise ValueError(f"samples={samples} must be ≥ 1 and probability={probability} in (0, 1]")

    def explain(*args: Any, key: Any) -> Any:
        x = _one_array(staging.as_input(staging.pick(args, argnums)), "rise")
        reference = staging.as_reference(ref, x)
        if not 1 <= len(grid) <= x.ndim or min(grid) < 1:
            raise ValueError(f"a grid {tuple(grid)} does not fit into {x.shape}")
        shape = x.shape[: len(grid)]
        cell = tuple(-(-length // cells) for length, cells in zip(shape, grid, strict=True))
        large = tuple((cells + 1) * size for cells, size in zip(grid, cell, strict=True))

        def seen(key: Any) -> Any:
            on_key, *keys = jax.random.split(key, 1 + len(grid))
            on = jax.random.bernoulli(on_key, probability, tuple(cells + 1 for cells in grid))
            smooth = jax.image.resize(on.astype(x.dtype), large, "linear")
            shift = [jax.random.randint(k, (), 0, s) for k, s in zip(keys, cell, strict=True)]
            mask = _behind(jax.lax.dynamic_slice(smooth, shift, shape), x.ndim)
            y = as_value(f(*staging.place(args, argnums, reference + mask * (x - reference))))
            shown = jnp.broadcast_to(mask / probability, x.shape).astype(y.dtype)
            return jnp.multiply.outer(y, shown)

        return moments(seen, jax.random.split(key, samples), chunk)[0]

    return explain


def _one_array(x: Any, method: str) -> Any:
    if not staging.same_tree(x, 0):
        raise TypeError(f"{method} explains one array, and x is {jax.tree.map(np.shape, x)}")
    return x


def sobol(
    f: Callable[..., Any],
    ref: Any = 0.0,
    *,
    groups: Any = None,
    samples: int,
    order: str = "total",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Explain:
    r"""Sobol indices: the share of f's variance under random masks that a group has a part in.

    f at m x + (1-m) ref, m_g uniform in [0, 1]. Total: E Var(f | m_∖g) / Var f, interactions
    included; first: Var E(f | m_g) / Var f.

    Args:
      f: as in `ablation`.
      ref: a scalar, or a tree that broadcasts to x.
      groups: a tree like x of integer labels that broadcast to it; None: each element is a
        group.
      samples: N, ≥ 2, a power of two for the evenest; (groups + 2) N evaluations of f.
      order: `"total"` or `"first"`.
      chunk: how many of the N are evaluated at once, each for all groups; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → a tree like x of shares, total ones ≥ 0 and over groups summing
      to 1 or more, first ones to 1 or less; 0 for a constant f. Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers.
      ValueError: samples < 2; unknown order; groups or ref do not broadcast to x; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.sobol(lambda x: 2 * x[0] + x[1], samples=512)
      >>> explain(jnp.ones(3), key=jax.random.key(0)).round(2)
      Array([0.8, 0.2, 0. ], dtype=float32)

    Source: Fel et al., arXiv 2111.04138, eqs. 1-5; estimators of Jansen (1999).
    """
    if samples < 2 or order not in ("total", "first"):
        raise ValueError(f"samples={samples} must be ≥ 2 and order={order!r} 'total' or 'first'")

    def explain(*args: Any, key: Any) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        reference = staging.as_reference(ref, x)
        labels, players = as_players(groups, x)
        points = jnp.asarray(_sobol_points(samples, 2 * players), jnp.float32)
        points = (points + jax.random.uniform(key, (2 * players,))) % 1

        def value(mask: Any) -> Any:
            mixed = jax.tree.map(
                lambda at, v, r: r + mask[at].astype(v.dtype) * (v - r), labels, x, reference
            )
            return as_value(f(*staging.place(args, argnums, mixed)))

        def compare(point: Any) -> Any:
            a, b = point[:players], point[players:]
            base, other = value(a), value(b)
            changed = jax.vmap(lambda i: value(a.at[i].set(b[i])))(jnp.arange(players))
            # Total: what changing g alone changes; first: what is left when g alone is shared.
            difference = changed - (base if order == "total" else other)
            return (base, other), jnp.square(difference) / 2

        (bases, others), halves = chunked_map(compare, points, chunk)
        variance = jnp.concatenate([bases, others]).var(0)
        part = halves.mean(0)
        part = part if order == "total" else variance - part
        share = jnp.where(variance > 0, part / jnp.where(variance > 0, variance, 1), 0)
        return _spread(labels, x, share)

    return explain


@functools.cache
def _sobol_points(count: int, dimensions: int) -> np.ndarray:
    from scipy.stats import qmc  # type: ignore[import-untyped]

    bits = max(count - 1, 1).bit_length()
    return qmc.Sobol(dimensions, scramble=True, rng=0).random_base2(bits)[:count]


def lime(
    f: Callable[..., Any],
    ref: Any,
    *,
    groups: Any = None,
    samples: int,
    penalty: str = "ridge",
    strength: float = 1.0,
    width: float = 0.25,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Explain:
    r"""LIME: the slopes of a penalised linear fit to f with random groups at the reference.

    min_{a, c} Σ_S w_S (f(x_S) - c - Σ_{i∈S} a_i)² / 2 + penalty, w_S = exp(-d_S²/2σ²) with mean 1,
    d_S = 1 - √(|S|/n) the cosine distance of S from all groups, S any set as likely as another.
    The penalty is λ|a|²/2 for ridge, and N λ|a|₁, N being the number of sets, for lasso.

    Args:
      f: as in `ablation`.
      ref: as in `ablation`.
      groups: a tree like x of integer labels that broadcast to it; None: each element is a group.
        Superpixels of an image are `skimage.segmentation.slic(image)[..., None]`.
      samples: N, how many sets are drawn, ≥ 2; from 2ⁿ on all are taken, without a key.
      penalty: `"ridge"` or `"lasso"`.
      strength: λ ≥ 0, in scikit-learn's units (its alpha).
      width: σ.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → a tree like x, each element its group's slope. No completeness.
      Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; a key is missing.
      ValueError: samples < 2; unknown penalty; λ < 0 or σ ≤ 0; groups or ref do not broadcast to
        x; chunk < 1.
      FloatingPointError: outside jit, where f is not finite; names the set.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.lime(lambda x: x @ jnp.arange(3.0), 0.0, samples=8, strength=0.0)
      >>> explain(jnp.ones(3))
      Array([0., 1., 2.], dtype=float32)

    Source: Ribeiro, Singh & Guestrin, arXiv 1602.04938, eq. 2 and section 3.4.
    """
    if samples < 2 or penalty not in ("ridge", "lasso") or strength < 0 or width <= 0:
        raise ValueError(
            f"samples={samples} must be ≥ 2, penalty={penalty!r} 'ridge' or 'lasso', "
            f"strength={strength} ≥ 0 and width={width} > 0"
        )

    def explain(*args: Any, key: Any = None) -> Any:
        game = make_game(f, ref, args, groups=groups, chunk=chunk, argnums=argnums)
        players = jnp.arange(game.players)
        if samples >= 2**game.players:
            masks = jnp.arange(2**game.players)[:, None] >> players & 1 == 1
        elif key is None:
            raise TypeError("sets of groups are drawn: explain(x, ..., key=)")
        else:
            masks = jax.random.bernoulli(key, 0.5, (samples, game.players))
        values = game.values(lambda i: masks[i], len(masks))

        distance = 1 - jnp.sqrt(masks.mean(1, dtype=values.dtype))
        weights = jnp.exp(-jnp.square(distance / width) / 2)
        weights = weights / weights.mean()
        z = masks.astype(values.dtype)
        flat = values.reshape(len(values), -1)
        z, flat = (a - weights @ a / len(masks) for a in (z, flat))  # the intercept's part
        gram, moment = (
            jnp.matmul(z.T, weights[:, None] * a, precision=_HIGHEST) for a in (z, flat)
        )
        if penalty == "ridge":
            slopes = jnp.linalg.solve(
                gram + strength * jnp.eye(game.players, dtype=z.dtype), moment
            )
        else:
            slopes = _lasso(gram, moment, len(masks) * strength)
        return game.spread(slopes.reshape(game.players, *values.shape[1:]))

    return explain


def _lasso(gram: Any, moment: Any, threshold: float) -> Any:
    """Slopes (features, outputs) with z'Wz a - z'Wy + threshold · sgn a = 0.

    By coordinate descent until a sweep moves no slope by more than rounding does. The solution's
    derivative is that of the equations of the slopes that are not 0.
    """
    diagonal = jnp.diag(gram)
    scale = jnp.where(diagonal > 0, diagonal, 1)

    def coordinate(i: Any, slopes: Any) -> Any:
        rest = moment[i] - gram[i] @ slopes + diagonal[i] * slopes[i]
        shrunk = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - threshold, 0)
        return slopes.at[i].set(jnp.where(diagonal[i] > 0, shrunk / scale[i], 0))

    def sweep(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        count, before, _ = state
        slopes = jax.lax.fori_loop(0, len(gram), coordinate, before)
        terms = jnp.abs(gram) @ jnp.abs(slopes) + jnp.abs(moment)
        rounding = jnp.finfo(slopes.dtype).eps * terms / scale[:, None]
        return count + 1, slopes, (jnp.abs(slopes - before) > rounding).any()

    def moving(state: tuple[Any, Any, Any]) -> Any:
        count, _, moved = state
        return moved & (count < _SWEEPS)

    start = (jnp.asarray(0), jnp.zeros_like(moment), jnp.asarray(True))
    slopes = jax.lax.stop_gradient(jax.lax.while_loop(moving, sweep, start)[1])

    def implicit(slopes: Any, moment: Any) -> Any:
        active = slopes != 0
        rest = jnp.where(active, moment - gram @ slopes, 0)
        small = jnp.finfo(gram.dtype).eps * scale  # where active groups are indistinguishable
        system = jnp.where(jnp.outer(active, active), gram, 0)
        system = jax.lax.stop_gradient(system + jnp.diag(jnp.where(active, small, 1)))
        return slopes + jnp.linalg.solve(system, rest - jax.lax.stop_gradient(rest))

    return jax.vmap(implicit, in_axes=1, out_axes=1)(slopes, moment)


def in_silico_mutagenesis(
    f: Callable[..., Any], *, chunk: int | None = None, argnums: staging.Argnums = 0
) -> Explain:
    r"""What f gains by every single substitution: C_{la} = f(x, x_l := letter a) - f(x).

    Args:
      f: as in `ablation`.
      chunk: how many mutants are evaluated at once; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args)`, x a one-hot sequence (length, letters) → an array like x, 0 at the
      letters that are there. Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; x is not one array.
      ValueError: x has not two axes; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> x = jax.nn.one_hot(jnp.array([0, 2]), 4)
      >>> jxp.in_silico_mutagenesis(lambda x: x[1] @ jnp.arange(4.0))(x)
      Array([[ 0.,  0.,  0.,  0.],
             [-2., -1.,  0.,  1.]], dtype=float32)

    Source: Alipanahi et al., Nature Biotechnology 33 (2015) 831-838; Zhou & Troyanskaya, Nature
    Methods 12 (2015) 931-934.
    """

    def explain(*args: Any) -> Any:
        x = _one_array(staging.as_input(staging.pick(args, argnums)), "in_silico_mutagenesis")
        if x.ndim != 2:
            raise ValueError(f"a one-hot sequence has shape (length, letters), and this {x.shape}")
        length, letters = x.shape
        whole = as_value(f(*args))

        def gain(number: Any) -> Any:
            letter = jax.nn.one_hot(number % letters, letters, dtype=x.dtype)
            mutant = x.at[number // letters].set(letter)
            return as_value(f(*staging.place(args, argnums, mutant))) - whole

        gains = chunked_map(gain, jnp.arange(length * letters), chunk)
        return jnp.moveaxis(gains, 0, -1).reshape(*gains.shape[1:], length, letters)

    return explain
