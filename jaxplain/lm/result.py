"""What an explanation of a response is: a matrix of response tokens by all tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Explanation:
    """Response tokens explained by the tokens of prompt and response: a pytree.

    Attributes:
      scores: (T, S), each row a response token's, each column a token of the prompt's and, behind
        them, of the response's; what a target can't see is exactly 0.
      norms: (T, S), the contributions' L2 norms over the embedding, where scores are their sums.
      rise: (T,), the target (log p) less its value at the reference.
      gap: (T,), rise - Σ scores.
      total: (S,), the whole response's scores.
      ids: (S,), the token ids.
      direct: scores before `hops` passed them back, else None.
      prompt: how many tokens are the prompt's.
      pieces: the tokens' text, where it was given.
    """

    scores: Array
    norms: Array
    rise: Array
    gap: Array
    total: Array
    ids: Array
    direct: Array | None = None
    prompt: int = dataclasses.field(default=0, metadata={"static": True})
    pieces: tuple[str, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def tokens(self) -> Any:
        """The tokens (S,): their text where it was given, else their ids."""
        return self.ids if self.pieces is None else list(self.pieces)

    def span(self, start: int, end: int) -> Array:
        """The scores (S,) of response tokens start … end - 1 together."""
        return self.scores[start:end].sum(0)


def as_pieces(tokens: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """The tokens' text, one piece for each."""
    if tokens is None:
        return None
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise TypeError("tokens must be a sequence of strings, one for each token")
    if len(tokens) != count:
        raise ValueError(f"{len(tokens)} tokens for {count} token ids of prompt and response")
    return tuple(tokens)


def passed_back(scores: Array, prompt: int, hops: float) -> Array:
    """Scores whose share at response tokens is handed on to what these tokens came from.

    What target t has at response token j goes to the tokens before j in proportion to the
    magnitudes of j's own row: R ← R_prompt + R_response M, `hops` times; in the end all of it is
    the prompt's, R = N + M R with M strictly lower triangular. Rows keep their sums, but for
    tokens whose own row is 0, which hand on nothing.
    """
    size = jnp.abs(scores)
    whole = size.sum(1, keepdims=True)
    shares = jnp.where(whole > 0, size / jnp.where(whole > 0, whole, 1), 0)
    stuck = (whole[:, 0] == 0).astype(scores.dtype)
    onto, within = shares[:, :prompt], shares[:, prompt:]
    within = within + jnp.diag(stuck)  # they keep what they have
    if math.isinf(hops):
        # (I - M) X = N: what a unit of each response token comes to in the prompt, and in those
        # that are stuck.
        system = jnp.eye(len(scores), dtype=scores.dtype) - (within - jnp.diag(stuck))
        given = jnp.concatenate([onto, jnp.diag(stuck)], axis=1)
        ends = jax.scipy.linalg.solve_triangular(system, given, lower=True, unit_diagonal=True)
        return jnp.concatenate(
            [scores[:, :prompt] + scores[:, prompt:] @ ends[:, :prompt],
             scores[:, prompt:] @ ends[:, prompt:]], axis=1,
        )  # fmt: skip
    first, rest = scores[:, :prompt], scores[:, prompt:]
    for _ in range(int(hops)):
        first, rest = first + rest @ onto, rest @ within
    return jnp.concatenate([first, rest], axis=1)


def check_hops(hops: Any) -> float:
    """How often scores are passed back: a whole number, or "all" for as often as it takes."""
    if hops == "all" or hops is True:
        return math.inf
    if not isinstance(hops, int | np.integer | float) or hops < 0 or (
        math.isfinite(hops) and hops != int(hops)
    ):  # fmt: skip
        raise ValueError(f"hops must be a whole number of at least 0, or 'all', and is {hops!r}")
    return float(hops)
