"""DeepSHAP: DeepLIFT averaged over a background of references."""

from __future__ import annotations

from typing import Any

from jaxplain._speaking import speaks
from jaxplain._types import Explain, Function, Tree
from jaxplain.combinators import expected
from jaxplain.methods.deeplift import deeplift


@speaks
def deeplift_shap(
    f: Function,
    refs: Tree,
    *,
    chunk: int | None = 10,
    standard_error: bool = False,
    **options: Any,
) -> Explain:
    r"""DeepLIFT averaged over references: C = 1/n Σ_r m_r ⊙ (x - r), an estimate of SHAP values.

    It is `expected(deeplift)`: exact SHAP values where f is a sum of functions of one feature each,
    an approximation in one backward pass a reference elsewhere.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      refs: references along a leading axis: a tree like x with that axis on every leaf, or a
        function `refs(x, key)` that returns one, such as
        `functools.partial(jaxplain.references.dinucleotide_shuffle, samples=20)`.
      chunk: how many references are in memory at once; None all. Changes rounding only.  With a
        batch of examples under `vmap` it counts per example.
      standard_error: also return the standard error of the mean, as a pair (mean, error).
      **options: `deeplift`'s: `rules`, `multiply`, `return_gap`, `argnums` ...; with
        `multiply=False` the mean multipliers.

    Returns:
      `explain(x, *args)` → contributions, a tree like x, summing to f(x) - E_r[f(r)]. Where refs
      is a function it is `explain(x, *args, key=)`; the same key gives the same result.

    Raises:
      ValueError: refs have no common leading axis, or do not broadcast to x behind it; chunk < 1;
        a standard error from fewer than two references; as `deeplift`.
      TypeError: a key where refs are given, none where refs is a function; as `deeplift`.
      UnsupportedPrimitive: as `deeplift`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jax.nn.relu(x[0] - 1) + 2 * x[1]
      >>> refs = jnp.array([[0.0, 0.0], [3.0, 1.0]])
      >>> jxp.deeplift_shap(f, refs)(jnp.array([3.0, 2.0]))
      Array([1., 3.], dtype=float32)

    Source: Lundberg & Lee, "A unified approach to interpreting model predictions",
    arXiv 1705.07874, section 4.2; Chen, Lundberg & Lee, arXiv 1911.11888, eq. 4.
    """
    averaged = expected(deeplift)
    return averaged(f, refs, chunk=chunk, standard_error=standard_error, **options)
