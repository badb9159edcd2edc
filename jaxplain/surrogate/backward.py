"""A function with another backward pass: the one place where the surrogate meets `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Forward = Callable[[Any, Any], Any]


def attach(
    primal: Forward, residuals: Forward, backward: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """`primal(active, passive)`, whose cotangents of `active` are `backward(residuals, ct)`.

    What a rule needs besides its active operands (references, constants) is `passive`: an explicit
    argument, so that jit, vmap and scan see it, without a cotangent.  The residuals are computed
    in the forward pass by ordinary JAX operations, hence a second differentiation, of a loss over
    attributions, goes through them and through the references as it should.
    """

    @jax.custom_vjp
    def function(active: Any, passive: Any) -> Any:
        return primal(active, passive)

    def forward(active: Any, passive: Any) -> tuple[Any, Any]:
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
        return primal(active, passive), residuals(active, passive)

    def transpose(saved: Any, cotangent: Any) -> tuple[Any, None]:
        return backward(saved, jax.tree.map(_dense, cotangent, is_leaf=_is_zero)), None

    function.defvjp(forward, transpose, symbolic_zeros=True)
    return function


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _dense(leaf: Any) -> Any:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


def scaled(primal: Forward, slopes: Forward) -> Callable[[Any, Any], Any]:
    """An elementwise `primal(active, passive)`: cotangents are the output's times `slopes`."""

    def residuals(active: Any, passive: Any) -> Any:
        return jax.tree.map(lambda s, a: s.astype(a.dtype), slopes(active, passive), active)

    def backward(saved: Any, cotangent: Any) -> Any:
        return jax.tree.map(lambda slope: (slope * cotangent).astype(slope.dtype), saved)

    return attach(primal, residuals, backward)
