"""Combinators: explanations averaged over references and over noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.chunking import leading_size, weighted_sum
from jaxplain.surrogate import staging

_REDUCTIONS = ("mean", "square", "variance")


def expected(method: Callable[..., Any]) -> Callable[..., Any]:
    r"""A method averaged over references: E_r[method(f, r)(x)].

    Args:
      method: `method(f, ref, **options)` → explain, such as `deeplift` or
        `integrated_gradients`.

    Returns:
      `expected_method(f, refs, *, chunk=None, **options)` → explain.  `refs` is a tree like x
      with a leading reference axis on every leaf; `chunk` bounds how many references are held in
      memory at once; the options go to the method.  For complete methods the explanation sums to
      f(x) - E_r[f(r)].

    Raises:
      ValueError: refs have no common leading axis, or a reference does not broadcast to x.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> refs = jnp.array([[0.0, 0.0], [2.0, 4.0]])
      >>> jxp.expected(jxp.deeplift)(lambda x: x.sum(), refs)(jnp.array([1.0, 1.0]))
      Array([ 0., -1.], dtype=float32)

    Source: Lundberg & Lee, arXiv 1705.07874, section 4.2 (DeepLIFT averaged over a background);
    Erion et al., arXiv 1906.10670, eq. 2.
    """

    def expected_method(
        f: Callable[..., Any], refs: Any, *, chunk: int | None = None, **options: Any
    ) -> Callable[..., Any]:
        count = leading_size(refs)

        def explain(*args: Any) -> Any:
            weights = jnp.full(count, 1 / count)
            references = jax.tree.map(jnp.asarray, refs)
            return weighted_sum(
                lambda ref: method(f, ref, **options)(*args), references, weights, chunk
            )

        return explain

    return expected_method


def smooth(
    explain: Callable[..., Any],
    *,
    stdev: Any,
    samples: int,
    reduce: str = "mean",
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Callable[..., Any]:
    r"""An explanation averaged over Gaussian noise on the input.

    With e_s = explain(x + σ ε_s), ε_s ~ N(0, 1): the mean of e_s ("mean", SmoothGrad), of e_s²
    ("square"), or the variance of e_s ("variance", VarGrad).

    Args:
      explain: `explain(x, *args)` → a pytree.
      stdev: σ in the units of x: a scalar, or a tree that broadcasts to x.
      samples: number of noisy inputs, ≥ 1.
      reduce: `"mean"`, `"square"` or `"variance"`.
      chunk: how many samples are evaluated at once; None all.
      argnums: which argument(s) are x.

    Returns:
      `smoothed(x, *args, key=)` → a pytree like explain's.  The mean of a complete explanation
      sums to the mean of f(x + σε) - f(ref).

    Raises:
      ValueError: samples < 1, an unknown reduce, or stdev does not broadcast to x.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> smoothed = jxp.smooth(jxp.gradient(jnp.sum), stdev=0.1, samples=4)
      >>> smoothed(jnp.zeros(2), key=jax.random.key(0))
      Array([1., 1.], dtype=float32)

    Source: Smilkov et al., arXiv 1706.03825, section 3.1; Adebayo et al., arXiv 1810.03307
    (VarGrad); Hooker et al., arXiv 1806.10758 (squared).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, and is {samples}")
    if reduce not in _REDUCTIONS:
        raise ValueError(f"unknown reduce {reduce!r}: one of {_REDUCTIONS}")

    def smoothed(*args: Any, key: Any) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        scale = staging.as_reference(stdev, x)
        leaves, tree = jax.tree.flatten(x)

        def noisy(key: Any) -> Any:
            noise = [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
            ]
            moved = jax.tree.map(
                lambda v, s, e: v + s * e, x, scale, jax.tree.unflatten(tree, noise)
            )
            return explain(*staging.place(args, argnums, moved))

        # The variance is taken about the explanation at x itself, near which its terms are small.
        center = explain(*args) if reduce == "variance" else None

        def powers(key: Any) -> Any:
            e = noisy(key)
            if reduce == "mean":
                return e, None
            if reduce == "square":
                return None, jax.tree.map(jnp.square, e)
            away = jax.tree.map(jnp.subtract, e, center)
            return away, jax.tree.map(jnp.square, away)

        weights = jnp.full(samples, 1 / samples)
        first, second = weighted_sum(powers, jax.random.split(key, samples), weights, chunk)
        if reduce == "mean":
            return first
        if reduce == "square":
            return second
        return jax.tree.map(lambda m, s: jnp.maximum(s - m * m, 0), first, second)

    return smoothed
