"""An answer shared out among parts of its prompt, by Shapley values of masked runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import checked
from jaxplain._numerics.chunking import check_chunk
from jaxplain._numerics.loops import compiled
from jaxplain._types import Array, Function, Key
from jaxplain.lm.rows import misplacement, rows
from jaxplain.lm.sequences import Sequence, Target, sequence
from jaxplain.lm.text import Units
from jaxplain.methods.shapley.values import shapley_values, shapley_values_of_runs
from jaxplain.targets import log_likelihood

MASKS = ("embedding", "attention", "deletion")


def cite(
    f: Function,
    prompt: Any,
    response: Any,
    *,
    groups: Any,
    samples: int | None = None,
    ref: Any = None,
    mask: str = "embedding",
    target: Target = log_likelihood,
    chunk: int | None = None,
) -> Callable[..., Array]:
    r"""What each part of the prompt adds to the log-probability of each response token.

    Groups of prompt tokens are the players of `jaxplain.shapley_values`, and log p of every
    response token given all before it an output of the same masked runs: C_tg is group g's Shapley
    value for token t. What sums of tokens (a sentence of the response) came from are sums of rows.

    Args:
      f: token ids (S,) → logits (S, V); with mask="attention" f(ids, mask), mask (S,) True where a
        token may be seen.
      prompt: token ids (P,), at least one.
      response: token ids (T,), at least one.
      groups: `jaxplain.lm.units` of the prompt, or labels (P,): 0, 1, … a player each, -1 what
        always stays.
      samples: how many masked runs, as in `shapley_values`, ≥ 2 groups; None, or 2^groups: all.
      ref: for mask="embedding": what stands for a masked token, as in `explain`; "zeros" if None.
      mask: "embedding": masked tokens' rows go to `ref`, places stay; "attention": f is told not
        to look at them; "deletion": f runs without them, on the host, once for every length.
      target: as in `explain`.
      chunk: how many runs are in memory at once; None all.

    Returns:
      `explain(key=)` → (T, groups), the rows summing to log p less log p with all groups masked.
      Where all runs are made, `explain()`.

    Raises:
      ValueError: as `explain`; labels that are not the prompt's; more than 16 groups and no
        samples, or too few; an unknown mask; a ref where nothing is put in a token's place.
      TypeError: a key is missing; f takes no mask.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> table = jax.random.normal(jax.random.key(0), (5, 4))
      >>> f = lambda ids: jnp.cumsum(table[ids], 0) @ table.T
      >>> scores = jxp.lm.cite(f, [1, 3, 2], [2, 4], groups=[0, 0, 1])()
      >>> scores.shape
      (2, 2)

    Source: Cohen-Wang et al., "ContextCite", arXiv 2409.00729, eqs. 1-2 (the game); Shapley values
    for its linear surrogate.
    """
    check_chunk(chunk)
    if mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}: one of {MASKS}")
    if ref is not None and mask != "embedding":
        raise ValueError(f"nothing is put in a token's place by mask={mask!r}, and ref is given")
    plain = f
    if mask == "attention":
        plain = lambda ids: _seeing(f)(ids, jnp.ones(len(ids), bool))
    sequel = sequence(plain, prompt, response)
    labels, players = _labels(groups, sequel.prompt)

    def explain(key: Key | None = None) -> Any:
        if samples is not None and samples < 2**players:
            checked(key, "masked runs")
        given = {} if key is None else {"key": key}
        if mask == "deletion":
            return shapley_values_of_runs(
                _deleting(f, sequel, labels, target), players, samples=samples, **given
            ).T
        runs = _by_attention if mask == "attention" else _by_embedding

        def program(ids: Array, given: dict[str, Key]) -> tuple[Array, Array]:
            game, misplaced = runs(f, sequel._replace(ids=ids), labels, target, ref)
            explain = shapley_values(game, 0.0, chunk=chunk, samples=samples)
            return explain(jnp.ones(players), **given), misplaced

        operands = (sequel.ids, given)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(operands)):
            return program(*operands)[0]
        scores, misplaced = compiled(program, *operands)
        if misplaced:
            raise misplacement()
        if not np.isfinite(scores).all():
            raise FloatingPointError("the target is not finite in some of the masked runs")
        return scores

    return explain


def _labels(groups: Any, length: int) -> tuple[np.ndarray, int]:
    labels = np.asarray(groups.labels if isinstance(groups, Units) else groups)
    if labels.shape != (length,):
        raise ValueError(
            f"groups label {labels.shape} tokens, and the prompt has {length}: are they of the "
            "same tokenization, special tokens included?"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < -1:
        raise ValueError("groups are integers 0, 1, …, and -1 for what always stays")
    players = int(labels.max()) + 1
    missing = sorted(set(range(players)) - set(labels.tolist()))
    if players < 1 or missing:
        raise ValueError(f"groups are numbered 0, 1, … without a gap, and {missing or 'none'} lack")
    return labels, players


def _shown(sequel: Sequence, labels: np.ndarray, present: Array) -> Array:
    """Which tokens are shown (S,), of the players (groups,) that are."""
    always = jnp.ones(len(sequel.ids) - sequel.prompt, bool)
    own = jnp.where(labels < 0, True, present[jnp.maximum(labels, 0)] > 0)
    return jnp.concatenate([own, always])


def _by_embedding(
    f: Function, sequel: Sequence, labels: np.ndarray, target: Target, ref: Any
) -> tuple[Function, Array]:
    found = rows(f, sequel)
    several = found.reference("zeros" if ref is None else ref)
    if len(jax.tree.leaves(several)[0]) > 1:
        raise ValueError("a masked token has one reference, and these are several")
    origin = jax.tree.map(lambda leaf: leaf[0], several)

    def value(present: Array) -> Array:
        shown = _shown(sequel, labels, present)

        def mixed(e: Array, e0: Array, axis: int) -> Array:
            at = shown.reshape([-1 if i == axis else 1 for i in range(e.ndim)])
            return jnp.where(at, e, e0)

        e = jax.tree.map(mixed, found.e, origin, found.axes)
        return sequel.values(found.function(e), target)

    return value, found.misplaced()


def _by_attention(
    f: Function, sequel: Sequence, labels: np.ndarray, target: Target, ref: Any
) -> tuple[Function, Array]:
    def value(present: Array) -> Array:
        return sequel.values(f(sequel.ids, _shown(sequel, labels, present)), target)

    return value, jnp.asarray(False)


def _seeing(f: Function) -> Function:
    """f, with a word where it takes no mask."""

    def called(ids: Array, mask: Array) -> Any:
        try:
            return f(ids, mask)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise TypeError(
                "with mask='attention' f takes (ids, mask), a token's mask True where it may be "
                'seen; use mask="embedding" for an f of ids alone'
            ) from error

    return called


def _deleting(f: Function, sequel: Sequence, labels: np.ndarray, target: Target) -> Any:
    """Masks (runs, groups) → values (runs, T), each run on what is left of the prompt."""
    program = jax.jit(lambda ids, prompt: sequel._replace(ids=ids, prompt=prompt).values(
        f(ids), target), static_argnums=1)  # fmt: skip

    def run(masks: np.ndarray) -> Array:
        values = []
        for present in masks:
            kept = (labels < 0) | present[np.maximum(labels, 0)]
            if not kept.any():
                raise ValueError(
                    "with all groups deleted nothing stands before the response: label a token "
                    "(the first) -1, so that it always stays"
                )
            ids = jnp.concatenate([sequel.ids[: sequel.prompt][np.flatnonzero(kept)],
                                   sequel.response])  # fmt: skip
            values.append(program(ids, int(kept.sum())))
        return jnp.stack(values)

    return run
