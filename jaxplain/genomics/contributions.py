"""DeepLIFT-SHAP of sequences, of the bases that are there and of those that might be."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import checked, surplus
from jaxplain._numerics.chunking import leading_size
from jaxplain._types import Explain, Function, Key, Tree
from jaxplain.combinators import expected
from jaxplain.genomics.onehot import check_shape, of_any, read
from jaxplain.methods.deeplift import deeplift
from jaxplain.methods.deeplift_shap import deeplift_shap as of_one
from jaxplain.references import dinucleotide_shuffle
from jaxplain.surrogate import RuleTable, staging


def hypothetical_contributions(
    f: Function,
    refs: Tree,
    *,
    chunk: int | None = 10,
    standard_error: bool = False,
    rules: str | RuleTable = "rescale",
    argnums: int = 0,
) -> Explain:
    r"""What each base would contribute if it were there, with the multipliers that x has.

    H_la = E_r[Σ_b m_lb (1{a=b} - r_lb)], over references r with their DeepLIFT multipliers m.

    Args:
      f: `f(x, *args)` → scalar; x a one-hot sequence (length, letters), given also as a string.
      refs: references along a leading axis, strings of one length, or a function `refs(x, key)`
        that returns references, such as `functools.partial(
        jaxplain.references.dinucleotide_shuffle, samples=20)`.
      chunk: how many references are in memory at once; None all.
      standard_error: also return the standard error of the mean, as a pair (mean, error).
      rules: as in `jaxplain.deeplift`.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args)` (with `key=` where refs is a function) → H, an array like x. At the bases
      that are there, x ⊙ H, it has their contributions, Σ_b C_lb of `jaxplain.deeplift_shap`; where
      x is zero (N) no entry is.

    Raises:
      ValueError, TypeError, UnsupportedPrimitive: as `jaxplain.deeplift_shap`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: (x @ jnp.arange(4.0)).sum()
      >>> jxp.genomics.hypothetical_contributions(f, ["A", "C"])("G")
      Array([[-0.5,  0.5,  1.5,  2.5]], dtype=float32)

    Source: Shrikumar et al., "TF-MoDISco", arXiv 1811.00416, section 2 (hypothetical
    contributions).
    """

    def method(f: Function, ref: Tree, **options: Any) -> Function:
        multipliers = deeplift(f, ref, multiply=False, **options)

        def explain(*args: Any) -> Any:
            m = multipliers(*args)
            return m - (m * ref).sum(-1, keepdims=True)

        return explain

    hypothetical = expected(method)(
        f, read(refs), chunk=chunk, standard_error=standard_error, rules=rules, argnums=argnums
    )
    return of_any(hypothetical, argnums)


def deeplift_shap(
    f: Function,
    refs: Tree = None,
    *,
    samples: int = 20,
    hypothetical: bool = False,
    batch: int = 4,
    **options: Any,
) -> Function:
    r"""DeepLIFT-SHAP of many sequences in one call, each against its own shuffles.

    A program is compiled once, for `batch` sequences, and run for one batch after another: memory
    holds the hidden layers of batch × references sequences.

    Args:
      f: `f(x, *args)` → scalar; x one one-hot sequence (length, 4) of floats, whatever type xs are
        stored in.
      refs: None, `samples` dinucleotide shuffles of each sequence; a function `refs(x, key)`; or
        references for all, (references, length, 4) or strings.
      samples: how many shuffles, where refs is None.
      hypothetical: the scores of all bases that might be there, as `hypothetical_contributions`.
      batch: how many sequences are in memory at once.
      **options: of `jaxplain.deeplift_shap`: `chunk` (10 references at once by default), `rules`,
        `standard_error`, and but for hypothetical ones `multiply`, `return_gap`.

    Returns:
      `explain(xs, *args, key=)` → contributions (n, length, 4) of xs, (n, length, 4) or n strings
      of one length. Each of args has a leading axis of n, too. A sequence's contributions sum to
      f(x) - E_r[f(r)]. The key is for shuffles, and for a refs that is a function; the same key
      gives the same result.
      `explain(xs, *args, refs=)` takes each sequence's own references, (n, references, length, 4).

    Raises:
      ValueError: xs or refs of another shape; args without the axis of n; batch < 1.
      TypeError: a key where refs are arrays, none where they are drawn.

    Example:
      >>> import jax, jaxplain as jxp
      >>> f = lambda x: jax.nn.relu(x[:, 2].sum() - 1)
      >>> explain = jxp.genomics.deeplift_shap(f, batch=2)
      >>> explain(["ACGGATAAGC", "TTGATAACGA", "CCATGCATGA"], key=jax.random.key(0)).shape
      (3, 10, 4)

    Source: Lundberg & Lee, arXiv 1705.07874, section 4.2.
    """
    if refs is None:
        refs = functools.partial(dinucleotide_shuffle, samples=samples)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, and is {batch}")
    method = hypothetical_contributions if hypothetical else of_one

    @functools.partial(jax.jit, static_argnames=("is_drawn", "is_shared"))
    def explain_batch(items: Any, own: Any, is_drawn: bool, is_shared: bool) -> Any:
        def explain(items: Any, own: Any) -> Any:
            x, args = items
            x, own = staging.as_floats(x), own if is_drawn else staging.as_floats(own)
            if is_drawn:
                return method(f, refs, **options)(x, *args, key=own)
            return method(f, own, **options)(x, *args)

        # What a network computes of shared references alone is computed once for all sequences.
        return jax.vmap(explain, in_axes=(0, None if is_shared else 0))(items, own)

    given = read(refs)

    def explain(xs: Tree, *args: Any, key: Key | None = None, refs: Tree = None) -> Any:
        xs = read(xs)
        # An array of NumPy's stays where it is, but for the batch at hand.
        xs = xs if isinstance(xs, np.ndarray) else staging.as_numbers(xs)
        check_shape(xs, (3,))
        is_drawn = refs is None and callable(given)
        count = leading_size((xs, args))
        if is_drawn:
            own = jax.random.split(checked(key, "the references of each sequence"), count)
        elif key is not None:
            raise surplus(["key"], "refs are given")
        else:
            own = _checked(given, refs, xs.shape)
        is_shared = not is_drawn and refs is None
        if count <= batch:
            return explain_batch((xs, args), own, is_drawn, is_shared)
        parts = []
        for start in range(0, count, batch):
            # As many in the last batch: the program is compiled for one size.
            rows = np.minimum(np.arange(start, start + batch), count - 1)
            items = jax.tree.map(lambda leaf: leaf[rows], (xs, args))
            parts.append(explain_batch(items, own if is_shared else own[rows], is_drawn, is_shared))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)

    return explain


def _checked(shared: Any, own: Any, shape: tuple[int, ...]) -> Any:
    """The references for all sequences, or where they are there each one's own."""
    n, length, letters = shape
    if own is None and (np.ndim(shared) != 3 or np.shape(shared)[1:] != (length, letters)):
        raise ValueError(
            f"refs for all must be (references, {length}, {letters}), and are "
            f"{np.shape(shared)}; each sequence's own are given as explain(xs, refs=)"
        )
    if own is not None and (np.ndim(own) != 4 or np.shape(own)[:1] + np.shape(own)[2:] != shape):
        raise ValueError(
            f"each sequence's refs must be ({n}, references, {length}, {letters}), and are "
            f"{np.shape(own)}"
        )
    return shared if own is None else own
