"""A function with another backward pass: the one place where the surrogate meets `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Forward = Callable[[Any, Any], Any]


def with_backward(
    forward: Forward,
    backward: Callable[[Any, Any], Any],
    reached: Callable[[list[bool]], list[bool]] | None = None,
) -> Callable[[Any, Any], Any]:
    """`forward(active, passive)[0]`, with cotangents of `active` by `backward(forward(..)[1], ct)`.

    What a rule needs besides its active operands (references, constants) is `passive`: an explicit
    argument, so that jit, vmap and scan see it, without a cotangent.  The residuals are computed
    in the forward pass by ordinary JAX operations, hence a second differentiation, of a loss over
    attributions, goes through them and through the references as it should.

    `reached` tells which active leaves get anything where not all outputs have a cotangent. Nothing
    is sent to the others, not even zeros: what is behind them may have no derivative.
    """

    @jax.custom_vjp
    def function(active: Any, passive: Any) -> Any:
        return forward(active, passive)[0]

    def checked(active: Any, passive: Any) -> tuple[Any, Any]:
        if any(leaf.perturbed for leaf in jax.tree.leaves(passive, is_leaf=_is_traced)):
            raise TypeError(
                "a surrogate is differentiated only in what is attributed (`argnums`): its "
                "backward pass in parameters or references would not be a gradient. To train, "
                "differentiate f itself, or a loss of `explain(x, params)`."
            )
        active, passive = (
            jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=_is_traced)
            for tree in (active, passive)
        )
        return forward(active, passive)

    def transpose(saved: Any, cotangent: Any) -> tuple[Any, None]:
        given = [not _is_zero(leaf) for leaf in jax.tree.leaves(cotangent, is_leaf=_is_zero)]
        if not any(given):
            return None, None
        found = backward(saved, jax.tree.map(_dense, cotangent, is_leaf=_is_zero))
        if reached is not None and not all(given):
            leaves, tree = jax.tree.flatten(found)
            kept = zip(leaves, reached(given), strict=True)
            found = jax.tree.unflatten(tree, [m if is_reached else None for m, is_reached in kept])
        return found, None

    function.defvjp(checked, transpose, symbolic_zeros=True)
    return function


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _dense(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


def attach(
    primal: Forward, residuals: Forward, backward: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """`with_backward` where value and residuals have little in common."""
    return with_backward(lambda a, p: (primal(a, p), residuals(a, p)), backward)


def refused_late(function: Callable[[Any], Any], error: Exception) -> Callable[[Any], Any]:
    """`function`, which raises the error if a cotangent arrives: as JAX does, and no sooner."""

    def backward(saved: None, cotangent: Any) -> Any:
        raise error

    surrogate = with_backward(lambda active, _: (function(active), None), backward)
    return lambda active: surrogate(active, None)


def scaled(
    valued_slopes: Forward, apart: bool = False, tame: bool = False
) -> Callable[[Any, Any], Any]:
    """Elementwise: from `(value, slopes)`; cotangents are the output's times the slopes.

    `apart` keeps the compiler from computing them again in each place that reads them: those of a
    sum are few and have many readers, which have readers of their own from layer to layer. `tame`
    says that the slopes are finite.
    """

    def forward(active: Any, passive: Any) -> tuple[Any, Any]:
        value, slopes = valued_slopes(active, passive)
        return value, jax.tree.map(lambda s, a: s.astype(a.dtype), slopes, active)

    def backward(saved: Any, cotangent: Any) -> Any:
        def times(slope: Any) -> Any:
            # What nobody listens to may have any slope: a case that is not chosen is often a pole.
            with jax.numpy_dtype_promotion("standard"):  # where a step casts, in the wider
                product = slope * cotangent
            if not tame:
                product = jnp.where(cotangent == 0, jnp.zeros_like(product), product)
            return product.astype(slope.dtype)

        result = jax.tree.map(times, saved)
        return jax.lax.optimization_barrier(result) if apart else result

    return with_backward(forward, backward)
