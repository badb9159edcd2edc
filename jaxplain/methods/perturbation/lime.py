"""LIME: a penalised linear fit to f on random sets of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.methods.perturbation.lasso import lasso
from jaxplain.methods.shapley.game import make_game
from jaxplain.surrogate import staging

Explain = Callable[..., Any]
_HIGHEST = jax.lax.Precision.HIGHEST


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
            slopes = lasso(gram, moment, len(masks) * strength)
        return game.spread(slopes.reshape(game.players, *values.shape[1:]))

    return explain
