"""Experiments on sequences in the model: variants, and motifs in backgrounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.chunking import chunked_map
from jaxplain._types import Explain, Function, Tree
from jaxplain.genomics.onehot import BASES, as_one_hot
from jaxplain.surrogate import staging


def variant_effects(
    f: Function,
    positions: Any,
    alternatives: Any,
    *,
    chunk: int | None = None,
    argnums: int = 0,
) -> Explain:
    r"""What f gains by each of some variants, one at a time: f(x with the variant) - f(x).

    Args:
      f: `f(x, *args)` → a number, or an array of them, all of one evaluation.
      positions: where each variant is, (variants,) integers, from 0.
      alternatives: what takes the place of x's bases there: a string with a letter for each
        ("GA"), or a list of one string each, of one length, from the position on; one-hot
        (variants, 4) or (variants, width, 4) likewise; or known integers, the bases' columns. N,
        and the other codes for one of several bases, are zeros.
      chunk: how many variants are evaluated at once; None all.
      argnums: which argument of f is x, a one-hot sequence (length, 4).

    Returns:
      `explain(x, *args)` → the gains, (variants, *outputs); 0 where the alternative is what is
      there. Insertions and deletions change what the model sees of the rest: build both sequences,
      and subtract.

    Raises:
      TypeError: f does not return real numbers; positions are not integers.
      ValueError: shapes that don't fit; a variant that reaches beyond the sequence; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> x, f = jxp.genomics.one_hot("ACGT"), lambda x: x[1] @ jnp.arange(4.0)
      >>> alternatives = jxp.genomics.one_hot("TA")
      >>> jxp.genomics.variant_effects(f, jnp.array([1, 2]), alternatives)(x)
      Array([2., 0.], dtype=float32)

    Source: Zhou & Troyanskaya, Nature Methods 12 (2015) 931-934.
    """
    places, pieces = jnp.asarray(positions), _alternatives(alternatives)
    if not jnp.issubdtype(places.dtype, jnp.integer):
        raise TypeError(f"positions must be integers, and are {places.dtype}")
    if places.ndim != 1 or pieces.ndim not in (2, 3) or len(places) != len(pieces):
        raise ValueError(
            "variants have positions (variants,) and alternatives (variants, 4) or "
            f"(variants, width, 4), and these {places.shape} and {pieces.shape}"
        )
    pieces = pieces if pieces.ndim == 3 else pieces[:, None]

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = as_one_hot(staging.pick(args, argnums), (2,))
        _check_inside(positions, pieces.shape[1], len(x))
        value = staging.array(f, args, argnums)
        whole = value(x)

        def gain(variant: Any) -> Any:
            changed = _substitute(x, *variant)
            return value(changed) - whole

        return chunked_map(gain, (places, pieces), chunk)

    return explain


def marginalize(
    f: Function,
    motif: Any,
    *,
    position: int | None = None,
    chunk: int | None = None,
    argnums: int = 0,
) -> Explain:
    r"""What f gains in each of some backgrounds by a motif: f(b with the motif) - f(b).

    Args:
      f: `f(x, *args)` → a number, or an array of them, for one sequence x.
      motif: letters, as "GATAA", or one-hot (width, 4). N, and the other codes for one of several
        bases, are zeros.
      position: where it begins; None in the middle.
      chunk: how many backgrounds are evaluated at once; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(backgrounds, *args)` → the gains, (n, *outputs), of backgrounds (n, length, 4), such
      as shuffles or sequences without signal; their mean is the motif's marginal effect. Other
      arguments are the same for all.

    Raises:
      TypeError: f does not return real numbers.
      ValueError: shapes that don't fit; a motif that reaches beyond the sequence; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[2:6, 2].sum()
      >>> backgrounds = jxp.genomics.one_hot(["AAAAAAAA", "GGGGGGGG"])
      >>> jxp.genomics.marginalize(f, jxp.genomics.one_hot("GATG"))(backgrounds)
      Array([ 2., -2.], dtype=float32)

    Source: Koo, Majdandzic, Ploenzke, Anand & Paul, "Global importance analysis", PLoS
    Computational Biology 17 (2021) e1008925, eq. 1.
    """
    motif = as_one_hot(motif, (2,))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        backgrounds = as_one_hot(staging.pick(args, argnums), (3,))
        length = backgrounds.shape[1]
        start = (length - len(motif)) // 2 if position is None else position
        _check_inside(start, len(motif), length)

        def gain(background: Any) -> Any:
            value = staging.array(f, args, argnums)
            return value(_substitute(background, start, motif)) - value(background)

        return chunked_map(gain, backgrounds, chunk)

    return explain


def _alternatives(given: Any) -> Any:
    """One-hot, (variants, 4) or (variants, width, 4), also of letters or of columns."""
    known = None if isinstance(given, jax.core.Tracer) else np.asarray(given)
    if known is not None and known.ndim == 1 and np.issubdtype(known.dtype, np.integer):
        if ((known < 0) | (known >= len(BASES))).any():
            raise ValueError(f"alternatives are columns 0 to 3, the bases {BASES}: {known}")
        return jnp.eye(len(BASES))[known]
    try:
        return as_one_hot(given, (2, 3))
    except ValueError as error:
        raise ValueError(
            'alternatives are letters, such as "GA", columns, or one-hot, (variants, 4) or '
            f"(variants, width, 4): {error}"
        ) from None


def _substitute(x: Tree, start: Any, piece: Any) -> Any:
    """X with a piece of it replaced."""
    return jax.lax.dynamic_update_slice_in_dim(x, piece.astype(x.dtype), start, axis=0)


def _check_inside(starts: Any, width: int, length: int) -> None:
    """An error where a piece reaches beyond the sequence, as far as that is known."""
    if isinstance(starts, jax.core.Tracer):
        return
    outside = (np.asarray(starts) < 0) | (np.asarray(starts) + width > length)
    if outside.any():
        start = np.asarray(starts)[outside].flat[0]
        raise ValueError(
            f"{width} bases from position {start} reach beyond a sequence of {length}: positions "
            f"are 0 to {length - width}"
        )
