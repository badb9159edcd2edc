"""How much two maps say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.metrics._example import (
    check_sign,
    finite,
    flat,
    like_input,
    signed,
    undefined_unless,
)
from jaxplain.metrics._metric import of_map

Tree = Any
Similarity = Callable[[Tree, Tree], jax.Array]

AT_K = ("feature", "rank", "sign", "signed_rank")
WHOLE = {"spearman": "absolute", "pearson": "signed", "cosine": "signed", "ssim": "signed"}


@of_map(None, -1.0, 1.0)
def agreement(
    a: Tree,
    b: Tree,
    *,
    kind: str = "spearman",
    k: int | None = None,
    sign: str | None = None,
    window: int = 7,
) -> jax.Array:
    r"""How far two maps of one input agree: 1 where they say the same.

    * "spearman": Pearson's correlation of mean ranks, of |map|; "pearson", "cosine", and "ssim"
      (Wang's eq. 13 over windows of the first two axes) of maps as they are;
    * among the k elements of largest magnitude: "feature", the share that both name; "rank", that
      both name at the same place; "sign", that both name with the same sign; "signed_rank", both.
      Tied elements share their places: the expectation over orders of them.

    Args:
      a: a map, a tree of arrays.
      b: another of the same shape.
      kind: one of these.
      k: how many elements are at the top, for kinds that ask for it.
      sign: "signed", "absolute" or "positive" for the whole kinds; None: as above.
      window: the side of ssim's windows, uniform, odd.

    Returns:
      A scalar in [-1, 1], at the top in [0, 1]; NaN where it is not defined: a map that is constant
      (its correlation), or has numbers that are not finite.

    Raises:
      ValueError: shapes that differ; an unknown kind or sign; k missing or out of range; an image
        smaller than a window.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> a, b = jnp.array([3.0, -2.0, 1.0]), jnp.array([2.0, 1.5, 3.0])
      >>> jxp.agreement(a, b)
      Array(-0.5, dtype=float32)
      >>> jxp.agreement(a, b, kind="feature", k=2)
      Array(0.5, dtype=float32)

    Source: Krishna et al., arXiv 2202.01602, section 3 (eqs. 1-4); Adebayo et al., arXiv
    1810.03292, section 4 (ranks, SSIM); Wang et al. (2004), "Image quality assessment", eq. 13.
    """
    b = like_input(b, a)
    if kind in AT_K:
        return _at_the_top(flat(a), flat(b), kind, k)
    return similarity(kind, sign, window)(a, b)


def similarity(kind: str, sign: str | None = None, window: int = 7) -> Similarity:
    """A similarity of whole maps, by name."""
    if kind not in WHOLE:
        raise ValueError(f"unknown similarity {kind!r}: one of {(*WHOLE, *AT_K)}")
    sign = WHOLE[kind] if sign is None else sign
    check_sign(sign)

    def similar(a: Tree, b: Tree) -> jax.Array:
        if kind == "ssim":
            pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            scores = [_ssim(signed(one, sign), signed(other, sign), window) for one, other in pairs]
            score = jnp.stack(scores).mean()
        else:
            score = _VECTORS[kind](signed(flat(a), sign), signed(flat(b), sign))
        return undefined_unless(finite(flat(a), flat(b)), score)

    return similar


def pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Correlation of two rows; NaN where one does not vary."""
    return cosine(a - a.mean(), b - b.mean(), varies(a) & varies(b))


def spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    """Correlation of mean ranks; NaN where one does not vary."""
    return pearson(ranks(a), ranks(b))


def varies(a: jax.Array) -> jax.Array:
    """Whether a row's numbers differ: exactly, where its rounded variance may not be 0."""
    return a.max() > a.min()


def cosine(a: jax.Array, b: jax.Array, defined: Any = True) -> jax.Array:
    """⟨a, b⟩ / ‖a‖‖b‖, of rows scaled first, lest their squares be too small or large."""
    a, b = (v / jnp.where(jnp.abs(v).max() > 0, jnp.abs(v).max(), 1) for v in (a, b))
    norms = jnp.sqrt((a * a).sum() * (b * b).sum())
    defined = defined & (norms > 0)
    return undefined_unless(defined, jnp.clip((a * b).sum() / jnp.where(defined, norms, 1), -1, 1))


def ranks(a: jax.Array) -> jax.Array:
    """Mean ranks, from 1: tied numbers share theirs."""
    rising = jnp.sort(a)
    below = jnp.searchsorted(rising, a, side="left")
    upto = jnp.searchsorted(rising, a, side="right")
    return (below + upto + 1).astype(a.dtype) / 2


_VECTORS = {"spearman": spearman, "pearson": pearson, "cosine": cosine}


def _ssim(a: jax.Array, b: jax.Array, window: int) -> jax.Array:
    """Wang et al.'s eq. 13 with sample variances, over whole windows, the range that of both."""
    axes = min(a.ndim, 2)
    if window < 3 or window % 2 == 0 or not axes or min(a.shape[:axes]) < window:
        raise ValueError(
            f"ssim takes windows of an odd side of at least 3 that fit in the map, and is given "
            f"{window} for {a.shape}"
        )
    count = window**axes
    sides = (window,) * axes + (1,) * (a.ndim - axes)

    def mean(v: jax.Array) -> jax.Array:
        zero = jnp.zeros((), v.dtype)
        return jax.lax.reduce_window(v, zero, jax.lax.add, sides, (1,) * a.ndim, "VALID") / count

    spread = jnp.maximum(a.max(), b.max()) - jnp.minimum(a.min(), b.min())
    middle = a.mean()
    a, b = a - middle, b - middle  # squares of numbers about 0 cancel least
    ma, mb = mean(a), mean(b)
    sample = count / (count - 1)
    va, vb = sample * (mean(a * a) - ma * ma), sample * (mean(b * b) - mb * mb)
    vab = sample * (mean(a * b) - ma * mb)
    ma, mb = ma + middle, mb + middle
    c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    likeness = (2 * ma * mb + c1) * (2 * vab + c2)
    return (likeness / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def _at_the_top(a: jax.Array, b: jax.Array, kind: str, k: int | None) -> jax.Array:
    """Expected shares of the k first places, over orders of tied elements."""
    if k is None or not 1 <= k <= a.size:
        raise ValueError(f"kind={kind!r} needs k, from 1 to the map's {a.size} elements; it is {k}")
    starts, ends = zip(*(_places(jnp.abs(v)) for v in (a, b)), strict=True)
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    if kind in ("rank", "signed_rank"):
        common = jnp.minimum(jnp.minimum(*ends), k) - jnp.maximum(*starts)
        both = jnp.maximum(common, 0) / (sizes[0] * sizes[1])
    else:
        named = [
            jnp.clip(k - start, 0, size) / size for start, size in zip(starts, sizes, strict=True)
        ]
        both = named[0] * named[1]
    if kind in ("sign", "signed_rank"):
        both = both * (jnp.sign(a) == jnp.sign(b)).astype(both.dtype)
    return undefined_unless(finite(a, b), both.astype(a.dtype).sum() / k)


def _places(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The places, from 0, that an element shares with those tied with it: [first, end)."""
    falling = -jnp.sort(-a)
    first, end = (jnp.searchsorted(-falling, -a, side=side) for side in ("left", "right"))
    return first, end
