"""A prompt and its response, and what a language model says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.trees import wide
from jaxplain._types import Array, Function
from jaxplain.named.bounds import beyond
from jaxplain.surrogate import staging

Target = Callable[[Function, Any], Function]  # as of `jaxplain.targets`: (f, index) → a scalar f


class Sequence(NamedTuple):
    """Token ids, the prompt's and behind them the response's."""

    ids: Array  # (S,)
    prompt: int  # how many are the prompt's
    vocabulary: int

    @property
    def response(self) -> Array:
        """The response's ids (T,)."""
        return self.ids[self.prompt :]

    def values(self, logits: Array, target: Target, foils: Array | None = None) -> Array:
        """The target of each response token given all before it, (T,), of logits (S, V).

        With foils less the foil's. In float32 at least: a log-probability takes its digits.
        """
        rows = wide(logits[self.prompt - 1 : -1])

        def value(row: Array, token: Array) -> Array:
            return target(lambda z: z, token)(row)

        own = jax.vmap(value)(rows, self.response)
        return own if foils is None else own - jax.vmap(value)(rows, foils)


class Instead(NamedTuple):
    """Another response to contrast with."""

    ids: Array


def instead(response: Any) -> Instead:
    """Another response, for `contrast=` of `jaxplain.lm.explain`: not foils, token by token.

    Args:
      response: its token ids, of any length.

    Returns:
      What `explain` takes as `contrast=`.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.lm.instead([5, 2]).ids
      Array([5, 2], dtype=int32)
    """
    return Instead(token_ids(response, "the other response"))


def token_ids(ids: Any, what: str) -> Array:
    """One sequence of token ids, at least one."""
    try:
        array = jnp.asarray(ids)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be token ids, and is a {type(ids).__name__}") from None
    if array.size == 0:
        raise ValueError(f"{what} is empty: it takes at least one token")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{what} must be token ids, integers, and has dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(
            f"{what} is one sequence (tokens,), and has the shape {array.shape}"
            + (": give its row [0]" if array.ndim == 2 and len(array) == 1 else "")
        )
    return array.astype(int)


def sequence(f: Function, prompt: Any, response: Any) -> Sequence:
    """The sequence, after f's answer to it and the ids were checked."""
    parts = [
        token_ids(prompt, "the prompt"), token_ids(response, "the response")
    ]  # fmt: skip
    ids = jnp.concatenate(parts)
    vocabulary = _vocabulary(f, ids)
    for part, what in zip(parts, ("prompt", "response"), strict=True):
        in_range(part, vocabulary, f"the {what}")
    if not isinstance(ids, jax.core.Tracer):
        _check_rows(f, ids)
    return Sequence(ids, len(parts[0]), vocabulary)


def in_range(ids: Array, vocabulary: int, what: str) -> None:
    """An error where known ids are none of the vocabulary's."""
    if isinstance(ids, jax.core.Tracer):
        return
    outside = np.asarray(ids)[(np.asarray(ids) < 0) | (np.asarray(ids) >= vocabulary)]
    if outside.size:
        raise ValueError(
            f"{what} has the token id {outside[0]}, which is out of range: f has logits of "
            f"{vocabulary} tokens, 0 to {vocabulary - 1}"
        )


def _vocabulary(f: Function, ids: Array) -> int:
    """V, where f returns logits (S, V)."""
    try:
        logits = jax.eval_shape(lambda ids: staging.call(f, ids), ids)
    except Exception as error:
        longest = _longest(f, len(ids))
        if longest:
            raise ValueError(
                f"{len(ids)} tokens are more than the model takes: f works on {longest}, and on "
                f"{longest + 1} it raises the error above"
            ) from error
        raise
    wanted = f"logits (tokens, vocabulary), here ({len(ids)}, V), of token ids ({len(ids)},)"
    if not staging.same_tree(logits, 0):
        way = ".logits" if hasattr(logits, "logits") else '["logits"]'
        inside = hasattr(logits, "logits") or (isinstance(logits, dict) and "logits" in logits)
        hint = f": give `lambda ids: f(ids){way}`" if inside else ", not one array"
        raise TypeError(f"f must return {wanted}, and returned a {type(logits).__name__}{hint}")
    shape, dtype = logits.shape, logits.dtype
    if len(shape) == 3 and shape[:2] == (1, len(ids)):
        raise ValueError(
            f"f must return {wanted}, and returned {shape}: give `lambda ids: f(ids)[0]`"
        )
    if len(shape) != 2 or shape[0] != len(ids) or shape[1] < 2:
        raise ValueError(
            f"f must return {wanted}, and returned {shape}. If f takes a batch, give `lambda ids: "
            "f(ids[None])[0]`; if it returns the last place alone, f with all places"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"f must return {wanted}, of floating numbers, and they are {dtype}")
    return int(shape[1])


def _longest(f: Function, length: int) -> int:
    """The longest sequence below a length that f doesn't take which it does take; 0 for none."""

    def works(length: int) -> bool:
        try:
            jax.eval_shape(f, jax.ShapeDtypeStruct((length,), jnp.asarray(0).dtype))
        except Exception:
            return False
        return True

    low, high = 0, length  # `low` works, but for 0, and `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low


def _check_rows(f: Function, ids: Array) -> None:
    """An error where f reads rows that there are not: JAX clamps the index, or fills in NaN."""
    staged = staging.stage(f, (ids,), 0, integers=True)
    found = beyond(staged.jaxpr, staged.leaves)
    if found is None:
        return
    table = f"row {found.row} of a table of {found.rows} rows at {found.line}"
    if found.of_input:
        raise ValueError(f"token ids are out of range: f reads {table}")
    raise ValueError(f"{len(ids)} tokens are more than the model takes: f reads {table}")
