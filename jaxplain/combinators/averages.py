"""Explanations averaged over references and over noise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import drawn, nothing_drawn
from jaxplain._numerics.chunking import average, check_chunk, check_samples, leading_size, moments
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function, Key, Method, Tree
from jaxplain.surrogate import staging

_REDUCTIONS = ("mean", "square", "variance")


def expected(method: Method) -> Callable[..., Explain]:
    r"""A method averaged over references: E_r[method(f, r)(x)].

    Under `vmap` over examples with the same references, what a method computes of a reference
    alone is computed once for all examples, and what it computes of an example alone once for all
    references (of a chunk).

    Args:
      method: `method(f, ref, **options)` → explain, such as `deeplift` or
        `integrated_gradients`.

    Returns:
      `expected_method(f, refs, *, chunk=None, standard_error=False, **options)` → explain.

      * `refs` is a tree like x with a leading reference axis on every leaf (sizes of 1 behind it
        broadcast), or a function `refs(x, key)` that returns one;
      * `chunk` bounds how many references are in memory at once, None for all; it changes the
        result by rounding only;
      * with `standard_error` explain returns (mean, standard error of that mean), the latter
        σ/√n with the unbiased σ² over n references;
      * the options go to the method.

      `explain(x, *args)` → the mean of what the method returns, for a complete method a tree like
      x that sums to f(x) - E_r[f(r)]. Where refs is a function it is `explain(x, *args, key=)`.

    Raises:
      ValueError: refs have no common leading axis, or do not broadcast to x behind it; chunk < 1;
        a standard error from fewer than two references.
      TypeError: a key where refs are given, none where refs is a function.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> refs = jnp.array([[0.0, 0.0], [2.0, 4.0]])
      >>> jxp.expected(jxp.deeplift)(lambda x: x.sum(), refs)(jnp.array([1.0, 1.0]))
      Array([ 0., -1.], dtype=float32)

    Source: Lundberg & Lee, arXiv 1705.07874, section 4.2 (DeepLIFT averaged over a background);
    Erion et al., arXiv 1906.10670, eq. 2.
    """

    def expected_method(
        f: Function,
        refs: Tree,
        *,
        chunk: int | None = None,
        standard_error: bool = False,
        **options: Any,
    ) -> Explain:
        check_chunk(chunk)
        argnums = options.get("argnums", 0)

        def explain_at(refs: Tree, args: tuple[Any, ...]) -> Any:
            refs = staging.as_references(refs, staging.as_numbers(staging.pick(args, argnums)))
            if standard_error and leading_size(refs) < 2:
                raise ValueError("a standard error takes at least two references, and refs has one")
            explain = lambda ref: method(f, ref, **options)(*args)
            return average(explain, refs, chunk, standard_error=standard_error)

        @drawn("refs, which is a function of (x, key)")
        def explain_drawn(*args: Any, key: Key) -> Any:
            return explain_at(refs(staging.as_numbers(staging.pick(args, argnums)), key), args)

        def explain_given(*args: Any) -> Any:
            return explain_at(refs, args)

        if callable(refs):
            return explain_drawn
        return nothing_drawn(explain_given, "refs is not a function")

    return expected_method


@speaks
def smooth(
    explain: Function,
    *,
    stdev: Tree,
    samples: int,
    reduce: str = "mean",
    chunk: int | None = None,
    argnums: Argnums = 0,
) -> Explain:
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
      sums to the mean of f(x + σε) - f(ref).  An explain that takes `key=` gets one per sample.

    Raises:
      TypeError: a key is missing.
      ValueError: samples < 1, an unknown reduce, chunk < 1, or stdev does not broadcast to x.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> smoothed = jxp.smooth(jxp.gradient(jnp.sum), stdev=0.1, samples=4)
      >>> smoothed(jnp.zeros(2), key=jax.random.key(0))
      Array([1., 1.], dtype=float32)

    Source: Smilkov et al., arXiv 1706.03825, section 3.1; Adebayo et al., arXiv 1810.03307
    (VarGrad); Hooker et al., arXiv 1806.10758 (squared).
    """
    check_samples(samples)
    if reduce not in _REDUCTIONS:
        raise ValueError(f"unknown reduce {reduce!r}: one of {_REDUCTIONS}")

    check_chunk(chunk)

    @drawn("the noise")
    def smoothed(*args: Any, key: Key) -> Any:
        x = staging.as_input(staging.pick(args, argnums))
        scale = staging.as_reference(stdev, x)
        leaves, tree = jax.tree.flatten(x)
        is_random = "key" in inspect.signature(explain).parameters

        def noisy(key: Key) -> Any:
            key, *keys = jax.random.split(key, len(leaves) + 1)
            noise = [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, leaves, strict=True)
            ]
            moved = jax.tree.map(
                lambda v, s, e: v + s * e, x, scale, jax.tree.unflatten(tree, noise)
            )
            return explain(
                *staging.place(args, argnums, moved), **({"key": key} if is_random else {})
            )

        def squared(key: Key) -> Any:
            return jax.tree.map(jnp.square, noisy(key))

        explained = squared if reduce == "square" else noisy
        mean, variance = moments(explained, jax.random.split(key, samples), chunk)
        if reduce == "variance":
            return jax.tree.map(lambda m, v: v.astype(m.dtype), mean, variance)
        return mean

    return smoothed
