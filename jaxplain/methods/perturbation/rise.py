"""RISE: f under random smooth masks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import drawn
from jaxplain._numerics.chunking import check_chunk, moments
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Key, Tree
from jaxplain.methods.perturbation.masking import behind, one_array
from jaxplain.surrogate import staging


@speaks
def rise(
    f: Function,
    ref: Tree = 0.0,
    *,
    grid: Any,
    samples: int,
    probability: float = 0.5,
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""RISE: f's mean over random smooth masks, by how much of an element they let through.

    S = E[f(m x + (1-m) ref) m] / p. A mask is a grid of cells, on with probability p, enlarged by
    linear interpolation and shifted by up to a cell. Integers and booleans are x's where the mask
    is above a random number between 0 and 1, one for the mask, and the reference's elsewhere: a
    mask of 0 and 1 takes m's place.

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
      TypeError: f does not return real numbers; x is not one array; a key is missing.
      ValueError: a grid that does not fit x; samples < 1; p outside (0, 1]; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> image = jnp.ones((8, 8))
      >>> explain = jxp.rise(lambda x: x[2, 2], grid=(4, 4), samples=2000)
      >>> jnp.unravel_index(explain(image, key=jax.random.key(0)).argmax(), (8, 8))[0].item()
      2

    Source: Petsiuk, Das & Saenko, arXiv 1806.07421, eq. 6 and section 3.2.
    """
    check_chunk(chunk)
    if samples < 1 or not 0 < probability <= 1:
        raise ValueError(f"samples={samples} must be ≥ 1 and probability={probability} in (0, 1]")

    @drawn("masks")
    def explain(*args: Any, key: Key) -> Any:
        x = one_array(staging.as_numbers(staging.pick(args, argnums)), "rise")
        reference, value = staging.as_reference(ref, x), staging.array(f, args, argnums)
        if not 1 <= len(grid) <= x.ndim or min(grid) < 1:
            raise ValueError(f"a grid {tuple(grid)} does not fit into {x.shape}")
        is_floating = jnp.issubdtype(x.dtype, jnp.floating)
        dtype = x.dtype if is_floating else float
        shape = x.shape[: len(grid)]
        cell = tuple(-(-length // cells) for length, cells in zip(shape, grid, strict=True))
        large = tuple((cells + 1) * size for cells, size in zip(grid, cell, strict=True))

        def seen(key: Key) -> Any:
            on_key, *keys, cut_key = jax.random.split(key, 2 + len(grid))
            on = jax.random.bernoulli(on_key, probability, tuple(cells + 1 for cells in grid))
            smooth = jax.image.resize(on.astype(dtype), large, "linear")
            shift = [jax.random.randint(k, (), 0, s) for k, s in zip(keys, cell, strict=True)]
            mask = behind(jax.lax.dynamic_slice(smooth, shift, shape), x.ndim)
            if is_floating:
                mixed = reference + mask * (x - reference)
            else:  # one of the two, the mask being its probability: over the cut, E[mask > cut]
                mask = (mask > jax.random.uniform(cut_key)).astype(dtype)
                mixed = jnp.where(mask > 0, x, reference)
            y = value(mixed)
            shown = jnp.broadcast_to(mask / probability, x.shape).astype(y.dtype)
            return jnp.multiply.outer(y, shown)

        return moments(seen, jax.random.split(key, samples), chunk)[0]

    return explain
