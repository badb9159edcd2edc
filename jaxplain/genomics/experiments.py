"""Experiments on sequences in the model: variants, motifs in backgrounds, and stretches without."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import drawn, nothing_drawn
from jaxplain._numerics.chunking import check_samples, chunked_map
from jaxplain._types import Explain, Function, Tree
from jaxplain.genomics.onehot import BASES, as_one_hot, read
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
      argnums: which argument of f is x, a sequence: a string, or one-hot (length, 4).

    Returns:
      `explain(x, *args)` → the gains, (variants, *outputs); 0 where the alternative is what is
      there. Insertions and deletions change what the model sees of the rest: build both sequences,
      and subtract.

    Raises:
      TypeError: f does not return real numbers; positions are not integers.
      ValueError: shapes that don't fit; a variant that reaches beyond the sequence; chunk < 1.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[1] @ jnp.arange(4.0)
      >>> jxp.genomics.variant_effects(f, [1, 2], "TA")("ACGT")
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
      motif: letters, as "GATAA", or one-hot (width, 4); of probabilities (width, 4), as
        `read_meme` returns them, the likeliest bases. N, and the other codes for one of several
        bases, are zeros.
      position: where it begins; None in the middle.
      chunk: how many backgrounds are evaluated at once; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(backgrounds, *args)` → the gains, (n, *outputs), of backgrounds, (n, length, 4) or n
      strings, such as shuffles or sequences without signal; their mean is the motif's marginal
      effect. Other arguments are the same for all.

    Raises:
      TypeError: f does not return real numbers.
      ValueError: shapes that don't fit; a motif that reaches beyond the sequence; chunk < 1.

    Example:
      >>> import jaxplain as jxp
      >>> f = lambda x: x[2:6, 2].sum()
      >>> jxp.genomics.marginalize(f, "GATG")(["AAAAAAAA", "GGGGGGGG"])
      Array([ 2., -2.], dtype=float32)

    Source: Koo, Majdandzic, Ploenzke, Anand & Paul, "Global importance analysis", PLoS
    Computational Biology 17 (2021) e1008925, eq. 1.
    """
    motif = _instance(motif)

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


def spacing(
    f: Function,
    first: Any,
    second: Any,
    distances: Any,
    *,
    interaction: bool = False,
    position: int | None = None,
    chunk: int | None = None,
    argnums: int = 0,
) -> Explain:
    r"""What f gains in each background by two motifs, at each of some distances.

    f(b with both) - f(b), and of the interaction, what both do beyond what each does alone at its
    place, f(b with both) - f(b with the first) - f(b with the second) + f(b).

    Args:
      f: `f(x, *args)` → a number, or an array of them, for one sequence x.
      first: the motif that comes first and stays where it is; as in `marginalize`.
      second: the motif that moves; as in `marginalize`.
      distances: how many bases lie between them, (distances,) integers ≥ 0.
      interaction: the interaction of both instead of their gain.
      position: where the first begins; None where the widest pair is in the middle.
      chunk: how many backgrounds are evaluated at once, at all distances; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(backgrounds, *args)` → (n, distances, *outputs) of backgrounds, (n, length, 4) or n
      strings. Other arguments are the same for all.

    Raises:
      TypeError: f does not return real numbers; distances are not integers.
      ValueError: shapes that don't fit; no distance, or one < 0; motifs that reach beyond the
        sequence; chunk < 1.

    Example:
      >>> import jaxplain as jxp
      >>> f = lambda x: x[0, 2] * x[3, 2]  # a G three bases behind a G
      >>> jxp.genomics.spacing(f, "G", "G", range(4), position=0)(["AAAAAAAA"])
      Array([[0., 0., 1., 0.]], dtype=float32)

    Source: Avsec et al., Nature Genetics 53 (2021) 354-366 (BPNet), Methods (in silico motif
    interactions).
    """
    first, second = _instance(first), _instance(second)
    gaps = _integers(distances, "distances")
    if gaps.ndim != 1 or not gaps.size or (gaps < 0).any():
        raise ValueError(f"distances are bases between both motifs, 0 or more: {gaps}")
    width = len(first) + int(gaps.max()) + len(second)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        backgrounds = as_one_hot(staging.pick(args, argnums), (3,))
        length = backgrounds.shape[1]
        start = (length - width) // 2 if position is None else position
        _check_inside(start, width, length)
        value = staging.array(f, args, argnums)

        def gains(background: Any) -> Any:
            with_first = _substitute(background, start, first)
            alone = value(background)

            def gain(gap: Any) -> Any:
                place = start + len(first) + gap
                both = value(_substitute(with_first, place, second))
                if not interaction:
                    return both - alone
                with_second = value(_substitute(background, place, second))
                return (both - value(with_first)) - (with_second - alone)

            return jax.vmap(gain)(jnp.asarray(gaps))

        return chunked_map(gains, backgrounds, chunk)

    return explain


def ablate(
    f: Function,
    starts: Any,
    ends: Any,
    refs: Any = None,
    *,
    samples: int = 20,
    chunk: int | None = None,
    argnums: int = 0,
) -> Explain:
    r"""What f owes to each of some stretches: f(x) - E_r[f(x, the stretch as it is in r)].

    Args:
      f: `f(x, *args)` → a number, or an array of them, for one sequence x.
      starts: the first position of each stretch, (stretches,) integers; or one.
      ends: its end, exclusive, likewise: `found.start` and `found.end` of `seqlets` are such.
      refs: what takes the place of a stretch. None: its own bases in `samples` random orders. Else
        sequences r like x, whose bases at the same places are put in: (references, length, 4) or
        strings, or a function `refs(x, key)` that returns them, such as `functools.partial(
        jaxplain.references.dinucleotide_shuffle, samples=20)`.
      samples: how many orders, where refs is None.
      chunk: how many stretches are evaluated at once, with all references; None all.
      argnums: which argument of f is x, a sequence: a string, or one-hot (length, 4).

    Returns:
      `explain(x, *args, key=)` → (stretches, *outputs), of one stretch (*outputs). The key is for
      orders, and for a refs that is a function; the same key gives the same result.

    Raises:
      TypeError: f does not return real numbers; places that are not integers; a key where refs are
        arrays, none where something is drawn.
      ValueError: shapes that don't fit; stretches that are empty or reach beyond the sequence;
        samples < 1; chunk < 1.

    Example:
      >>> import jaxplain as jxp
      >>> f = lambda x: x[:, 2].sum()  # how many G
      >>> jxp.genomics.ablate(f, [0, 3], [3, 6], ["AAAAAA"])("GGGATG")
      Array([3., 1.], dtype=float32)

    Source: Zeiler & Fergus, arXiv 1311.2901, section 4.2 (occlusion), with what it puts in drawn.
    """
    first, last = _integers(starts, "starts"), _integers(ends, "ends")
    if first.shape != last.shape or first.ndim > 1 or (first >= last).any():
        raise ValueError(f"stretches have starts below their ends: {first} and {last}")
    check_samples(samples)
    given = read(refs)
    is_drawn = given is None or callable(given)

    def explain(*args: Any, key: Any = None) -> Any:
        x = as_one_hot(staging.pick(args, argnums), (2,))
        if first.min() < 0 or last.max() > len(x):
            raise ValueError(
                f"stretches from {first.min()} to {last.max()} reach beyond a sequence of {len(x)}"
            )
        others = given(x, key) if callable(given) else given
        if others is not None:
            others = as_one_hot(others, (3,))
            if others.shape[1:] != x.shape:
                raise ValueError(f"refs must be (references, {len(x)}, 4): {others.shape}")
        value = staging.array(f, args, argnums)
        whole, places = value(x), jnp.arange(len(x))

        def loss(stretch: Any) -> Any:
            start, end, number = stretch
            inside = (start <= places) & (places < end)
            instead = others
            if instead is None:
                orders = jax.random.split(jax.random.fold_in(key, number), samples)
                instead = jax.vmap(lambda order: _shuffled(x, inside, order))(orders)
            without = jax.vmap(lambda other: value(jnp.where(inside[:, None], other, x)))
            return whole - without(instead).mean(0)

        stretches = first.reshape(-1), last.reshape(-1), np.arange(first.size)
        losses = chunked_map(loss, stretches, chunk)
        return losses[0] if first.ndim == 0 else losses

    if is_drawn:
        return drawn("what takes the place of a stretch")(explain)
    return nothing_drawn(explain, "refs are given")


def _shuffled(x: Any, inside: Any, key: Any) -> Any:
    """X with the bases of a stretch in random order, the others where they are."""
    places = jnp.arange(len(x))
    group = jnp.where(inside, inside.argmax(), places)  # all of the stretch at its first place
    _, _, order = jax.lax.sort((group, jax.random.bits(key, places.shape), places), num_keys=2)
    return x[order]


def _instance(motif: Any) -> Any:
    """A motif's one-hot array (width, 4): its likeliest bases, where it says how likely each is."""
    motif = as_one_hot(motif, (2,))
    likeliest = jax.nn.one_hot(motif.argmax(-1), len(BASES), dtype=motif.dtype)
    return likeliest * motif.any(-1, keepdims=True).astype(likeliest.dtype)


def _integers(given: Any, name: str) -> np.ndarray:
    """Known integers, or an error that says what is not."""
    numbers = np.asarray(given)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"{name} must be integers, and are {numbers.dtype}")
    return numbers


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
