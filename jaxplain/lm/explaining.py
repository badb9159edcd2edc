"""A response explained token by token, with one forward pass for all of them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.chunking import average, check_chunk, chunked_map
from jaxplain._numerics.loops import compiled
from jaxplain._numerics.sharing import at_units
from jaxplain._numerics.trees import wide
from jaxplain._types import Array, Function, Key, Method, Tree
from jaxplain.lm.result import Explanation, as_pieces, check_hops, passed_back
from jaxplain.lm.rows import Rows, misplacement, rows
from jaxplain.lm.sequences import Instead, Sequence, Target, in_range, sequence, token_ids
from jaxplain.targets import log_likelihood

_OWN = {
    "at": "the embeddings are what is explained",
    "return_gap": "the result has its gap",
    "standard_error": "there is no place for it in the result",
    "argnums": "f has one argument",
}


def explain(
    method: Method,
    f: Function,
    prompt: Any,
    response: Any,
    *,
    ref: Any = None,
    contrast: Any = None,
    target: Target = log_likelihood,
    chunk: int | None = None,
    hops: Any = 0,
    tokens: Any = None,
    key: Key | None = None,
    **options: Any,
) -> Explanation:
    r"""The log-probability of each response token, explained in the embeddings of all tokens.

    Row t of the scores are the contributions to log p(response_t | prompt, response_<t) by
    `method`, summed over the embedding's axes. The rows that f looks up are found by tracing
    (`jaxplain.embedded`); tokens and everything else that is looked up by ids count together.
    What does not depend on the target, above all the forward pass, is computed once for all
    targets; the backward passes are vmapped.

    Args:
      method: `method(f, ref, **options)` or `method(f, **options)`, any of the package: of slopes
        (`gradient`, `input_x_gradient`, `saliency`), `deeplift`, of paths, `lrp` and its kin, and
        those that evaluate f alone (`ablation`, `shapley_values`, …), whose players are the tokens
        unless `groups=` are given as labels (S,); or a function of yours like these.
      f: token ids (S,) → logits (S, V), those at a place for the token behind it.
      prompt: token ids (P,), at least one.
      response: token ids (T,), at least one.
      ref: what the embeddings are compared with: "zeros" (None), "mean" (the vocabulary's mean
        row), a token id (padding, mask) in every place, ids (P,) in the prompt's places (the
        response then stays) or in all (P + T,), rows like those of `embedded`, or a list of such,
        over which scores are averaged. Methods without a reference take none.
      contrast: explain log p(response_t) - log p(foil_t) instead: a foil's id, or one for each
        place (T,), under the same prefix; or another response, `jaxplain.lm.instead(ids)` (ids of
        another length than T are taken for one), whose explanation is subtracted place by place.
      target: of a token: a function of (f, index) as those of `jaxplain.targets`;
        `jaxplain.logit` suits methods that don't look through a softmax.
      chunk: how many targets' backward passes are in memory at once; None all.
      hops: passes what response tokens received on to the tokens that they came from, so often;
        "all" until all of it is the prompt's (a triangular solve over the matrix).
      tokens: the text of prompt and response tokens (S,), for pictures.
      key: for methods that draw.
      options: the method's own.

    Returns:
      An `Explanation`, a pytree: `.scores` (T, P + T), `.rise` (T,), log p less its value at the
      reference (of methods without one log p itself), `.gap` = rise - Σ scores, the method's own
      incompleteness, `.norms` like scores, `.total` (P + T,), the whole response's scores of one
      more backward pass, `.tokens`. Scores of tokens that a target can't see are exactly 0.

    Raises:
      ValueError: an empty prompt or response; ids out of range; more tokens than the model takes;
        f returns other shapes, looks up nothing by its ids, or shifts them; the logits of a place
        change with later tokens; a reference of none of these kinds.
      TypeError: ids that are no integers; an option that has no place here.
      FloatingPointError: the target is not finite.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> table = jax.random.normal(jax.random.key(0), (5, 4))
      >>> f = lambda ids: jnp.cumsum(table[ids], 0) @ table.T  # a bag of words
      >>> result = jxp.lm.explain(jxp.deeplift, f, [1, 3], [2, 4])
      >>> result.scores.shape, bool(jnp.abs(result.gap).max() < 1e-5)
      ((2, 4), True)
      >>> float(result.scores[0, 2])  # it can't see itself
      0.0

    Source: targets and contrasts as in inseq, Sarti et al., arXiv 2302.13942, and Yin & Neubig,
    arXiv 2202.10419; hops after the recursive attribution of reasoning.
    """
    check_chunk(chunk)
    for name, because in _OWN.items():
        if name in options:
            raise TypeError(f"{name}= has no place in lm.explain: {because}")
    sequel = sequence(f, prompt, response)
    passes, pieces = check_hops(hops), as_pieces(tokens, len(sequel.ids))
    foils = _foils(contrast, sequel)
    if isinstance(foils, Instead):
        both = (
            explain(
                method, f, prompt, answer, ref=ref, target=target, chunk=chunk, key=key, **options
            )
            for answer in (response, foils.ids)
        )
        return _finished(_difference(*both), passes, pieces)
    how = _How(method, ref, target, chunk, options)

    def program(ids: Array, foils: Array | None, key: Key | None) -> Any:
        return _explained(how, f, sequel._replace(ids=ids), foils, key)

    given = (sequel.ids, foils, key)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        return _finished(program(*given)[0], passes, pieces)
    result, checks = compiled(program, *given)
    _check(checks)
    return _finished(result, passes, pieces)


_ROUNDING = 1e-2  # of the largest logit, bfloat16's: a model that sees ahead moves them far more


class _How(NamedTuple):
    method: Method
    ref: Any
    target: Target
    chunk: int | None
    options: dict[str, Any]


class _Checks(NamedTuple):
    """What is known of f once it ran."""

    misplaced: Array
    causal: Array
    finite: Array


def _explained(
    how: _How, f: Function, sequel: Sequence, foils: Array | None, key: Key | None
) -> tuple[Explanation, _Checks]:
    found = rows(f, sequel)
    length, count = len(sequel.ids), len(sequel.ids) - sequel.prompt

    def values(e: Tree) -> Array:
        return sequel.values(found.function(e), how.target, foils)

    kind = _parameters(how.method)
    options, whole = _with_groups(how.options, kind, found)
    refs = found.reference("zeros" if how.ref is None else how.ref)
    takes_reference = bool({"ref", "refs"} & kind)
    if how.ref is not None and not takes_reference:
        raise TypeError(f"this method takes no reference, and ref is {how.ref!r}")

    def of(weights: Array) -> tuple[Array, Array]:
        """The scores and norms (S,) of a weighted sum of targets."""

        def scalar(e: Tree) -> Array:
            return jnp.sum(weights * values(e))

        def contributions(*ref: Tree) -> Tree:
            explain = how.method(scalar, *ref, **options)
            result = explain(found.e) if key is None else explain(found.e, key=key)
            return result[0] if isinstance(result, tuple) else result

        one = lambda *ref: _summed(found, contributions(*ref), whole)
        if "ref" not in kind:
            return one(*((refs,) if takes_reference else ()))
        if _count(refs) == 1:
            return one(jax.tree.map(lambda leaf: leaf[0], refs))
        return average(one, refs)

    at_x = values(found.e)
    each = at_units(of, count, at_x.dtype)
    scores, norms = chunked_map(each, jnp.arange(count), how.chunk)
    total, _ = of(jnp.ones(count, at_x.dtype))
    rise = at_x
    if takes_reference:
        rise = at_x - average(values, refs) if _count(refs) > 1 else at_x - values(
            jax.tree.map(lambda leaf: leaf[0], refs)
        )  # fmt: skip
    causal = _causal(f, sequel, found.function(found.e))
    seen = jnp.arange(length)[None] < sequel.prompt + jnp.arange(count)[:, None]
    last = jnp.arange(length) < length - 1
    hide = lambda array, seen: jnp.where(seen | ~causal, array, 0)
    scores, norms, total = hide(scores, seen), hide(norms, seen), hide(total, last)
    result = Explanation(
        scores, norms, rise, rise - scores.sum(1), total, sequel.ids, prompt=sequel.prompt
    )
    return result, _Checks(found.misplaced(), causal, jnp.isfinite(at_x).all())


def _count(refs: Tree) -> int:
    return len(jax.tree.leaves(refs)[0])


def _parameters(method: Method) -> frozenset[str]:
    """The names of a method's parameters; of a function of (f, ref) the second is its reference."""
    names = list(inspect.signature(method).parameters.values())
    found = {p.name for p in names}
    positional = [p for p in names if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) > 1 and not {"ref", "refs"} & found:
        found.add("ref")
    return frozenset(found)


def _with_groups(
    options: dict[str, Any], kind: frozenset[str], found: Rows
) -> tuple[dict[str, Any], Tree | None]:
    """The options with players of whole tokens, and how many numbers each number's player has."""
    if "groups" not in kind:
        return options, None
    length = len(found.sequence.ids)
    labels = np.asarray(options.get("groups", np.arange(length)))
    if labels.shape != (length,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"groups are labels of the {length} tokens of prompt and response, and have the shape "
            f"{labels.shape} and dtype {labels.dtype}"
        )
    numbers = sum(rows.shape[1] for rows in found.by_place(found.e))
    sizes = numbers * np.bincount(labels)[labels]
    return {**options, "groups": found.labels(labels)}, found.labels(sizes)


def _summed(found: Rows, contributions: Tree, whole: Tree | None) -> tuple[Array, Array]:
    """Σ over the embedding, and the L2 norm; of groups' scores each number's share."""
    if whole is not None:
        share = lambda c, size: c / jnp.asarray(size, c.dtype)
        contributions = jax.tree.map(share, contributions, whole)
    leaves = found.by_place(contributions)
    whole_rows = wide(jnp.concatenate(leaves, axis=1))
    return whole_rows.sum(1), jnp.sqrt(jnp.square(whole_rows).sum(1))


def _causal(f: Function, sequel: Sequence, logits: Array) -> Array:
    """Whether the logits before the response stay when the response is another."""
    before = slice(0, sequel.prompt)
    others = jnp.where(
        jnp.arange(len(sequel.ids)) < sequel.prompt,
        sequel.ids,
        (sequel.ids + 1) % sequel.vocabulary,
    )
    own, changed = logits[before], f(others)[before]
    known = jnp.isfinite(own) & jnp.isfinite(changed)
    moved = jnp.abs(jnp.where(known, changed - own, 0)).max()
    return moved <= _ROUNDING * jnp.where(known, jnp.abs(own), 0).max()


def _check(checks: _Checks) -> None:
    if checks.misplaced:
        raise misplacement()
    if not checks.causal:
        raise ValueError(
            "the logits in the prompt's places change with the response: f sees later tokens, so "
            "these are not log-probabilities given what stands before. Explain a model of masked "
            "tokens by `jaxplain.embedded` and a target of your own"
        )
    if not checks.finite:
        raise FloatingPointError(
            "the target is not finite at these ids: a token of the response has probability 0, or "
            "f computes NaN (of an id or a place beyond a table, say)"
        )


def _foils(contrast: Any, sequel: Sequence) -> Array | Instead | None:
    """Foil ids (T,), another response, or nothing to contrast with."""
    if contrast is None or isinstance(contrast, Instead):
        return contrast
    count = len(sequel.response)
    array = jnp.asarray(contrast)
    if array.ndim == 0:
        array = jnp.full(count, token_ids(array[None], "the foil")[0])
    ids = token_ids(array, "the contrast")
    in_range(ids, sequel.vocabulary, "the contrast")
    return ids if len(ids) == count else Instead(ids)


def _difference(a: Explanation, b: Explanation) -> Explanation:
    """Place by place; behind a response's end there is nothing."""
    length, count = max(len(a.ids), len(b.ids)), max(len(a.rise), len(b.rise))

    def minus(a: Array, b: Array, *sizes: int) -> Array:
        wide = lambda v: jnp.pad(v, [(0, n - m) for n, m in zip(sizes, v.shape, strict=True)])
        return wide(a) - wide(b)

    return Explanation(
        minus(a.scores, b.scores, count, length),
        # Of the two responses' contributions, which are not to the same embeddings behind the
        # prompt; a norm of a difference of sums is bounded by the sum of norms.
        -minus(-a.norms, b.norms, count, length),
        minus(a.rise, b.rise, count),
        minus(a.gap, b.gap, count),
        minus(a.total, b.total, length),
        a.ids if len(a.ids) == length else b.ids,
        prompt=a.prompt,
    )


def _finished(result: Explanation, hops: float, pieces: tuple[str, ...] | None) -> Explanation:
    if pieces is not None and len(pieces) != len(result.ids):
        raise ValueError(f"{len(pieces)} tokens for {len(result.ids)} of the longer response")
    result = dataclasses.replace(result, pieces=pieces)
    if not hops:
        return result
    scores = passed_back(result.scores, result.prompt, hops)
    return dataclasses.replace(result, scores=scores, direct=result.scores)
