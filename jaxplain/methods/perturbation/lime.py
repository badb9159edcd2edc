"""LIME: a penalised linear fit to f on random sets of groups."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import checked
from jaxplain._numerics.chunking import check_chunk
from jaxplain._numerics.trees import root
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Groups, Key, Tree
from jaxplain.games import coalitions
from jaxplain.games.game import make_game
from jaxplain.methods.perturbation.lasso import lasso

_HIGHEST = jax.lax.Precision.HIGHEST
_SETS = 5000  # LIME's own default number, beside a ridge of 1
_LASSO = 1e-3  # of f's standard deviation: some 0.1 % of a slope, as the ridge takes


@speaks
def lime(
    f: Function,
    ref: Tree,
    *,
    groups: Groups = None,
    samples: int,
    penalty: str = "ridge",
    strength: float | None = None,
    width: float = 0.25,
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""LIME: the slopes of a penalised linear fit to f with random groups at the reference.

    min_{a, c} Σ_S w_S (f(x_S) - c - Σ_{i∈S} a_i)² / 2 + penalty, w_S = exp(-d_S²/2σ²) with mean 1,
    d_S = 1 - √(|S|/n) the cosine distance of S from all groups, S any set as likely as another.
    The penalty is λ|a|²/2 for ridge, and N λ|a|₁ for lasso, N being the number of sets; where all
    2ⁿ sets are taken each counts N/2ⁿ times, as it would among N that are drawn.

    Args:
      f: as in `ablation`.
      ref: as in `ablation`.
      groups: a tree like x of integer labels that broadcast to it; None: each element is a group.
        Superpixels of an image are `skimage.segmentation.slic(image)[..., None]`.
      samples: N, how many sets are drawn, ≥ 2; from 2ⁿ on all are taken, without a key.
      penalty: `"ridge"` or `"lasso"`.
      strength: λ ≥ 0, in scikit-learn's units (its alpha). None shrinks slopes by some 0.1 %,
        whatever N and the units of f: λ = N/5000 for ridge, LIME's 1 for its 5000 sets, and a
        thousandth of f's standard deviation over the sets for lasso.
      width: σ.
      chunk: about how many evaluations of f are in memory at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → a tree like x, each element its group's slope. No completeness.
      Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; a key is missing where sets are drawn.
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
    check_chunk(chunk)
    negative = strength is not None and strength < 0
    if samples < 2 or penalty not in ("ridge", "lasso") or negative or width <= 0:
        raise ValueError(
            f"samples={samples} must be ≥ 2, penalty={penalty!r} 'ridge' or 'lasso', "
            f"strength={strength} ≥ 0 and width={width} > 0"
        )

    def explain(*args: Any, key: Key | None = None) -> Any:
        key = checked(key, "sets of groups", optional=True)
        game = make_game(f, ref, args, groups=groups, chunk=chunk, argnums=argnums)
        if samples >= 2**game.players:
            masks = jnp.asarray(coalitions.every(game.players))
        else:
            masks = jax.random.bernoulli(
                checked(key, "sets of groups are drawn"), 0.5, (samples, game.players)
            )
        values = game.values(lambda i: masks[i], len(masks))
        slopes = _slopes(masks, values.reshape(len(values), -1), samples, penalty, strength, width)
        return game.per_element(slopes.reshape(game.players, *values.shape[1:]))

    return explain


@functools.partial(jax.jit, static_argnames=("samples", "penalty", "strength", "width"))
def _slopes(
    masks: jax.Array,
    values: jax.Array,
    samples: int,
    penalty: str,
    strength: float | None,
    width: float,
) -> jax.Array:
    """Slopes (groups, outputs) of the fit to the values (sets, outputs), as of `samples` sets."""
    z = masks.astype(values.dtype)
    distance = 1 - jnp.sqrt(z.mean(1))
    weights = jnp.exp(-jnp.square(distance / width) / 2)
    weights = weights / weights.sum()
    # Centred: the intercept's part.
    z, values = (a - (weights @ a)[None] for a in (z, values))
    gram, moment, square = (
        jnp.matmul(a.T, weights[:, None] * b, precision=_HIGHEST)
        for a, b in ((z, z), (z, values), (jnp.ones((len(z), 1), z.dtype), jnp.square(values)))
    )
    if penalty == "ridge":
        share = (samples / _SETS if strength is None else strength) / samples
        return _solved(gram + share * jnp.eye(len(gram), dtype=z.dtype), moment)
    return lasso(gram, moment, _LASSO * root(square[0]) if strength is None else strength)


def _solved(system: jax.Array, moment: jax.Array) -> jax.Array:
    """The solution by the inverse, and once more of what that leaves.

    `solve` itself would gather a batch from all devices where the system is one for all examples:
    their right-hand sides are columns to it then.
    """
    inverse = jnp.linalg.inv(system)
    times = functools.partial(jnp.matmul, precision=_HIGHEST)
    slopes = times(inverse, moment)
    return slopes + times(inverse, moment - times(system, slopes))
