"""A function with another backward pass: the one place where the surrogate meets `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

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
        return primal(active, passive), residuals(active, passive)

    def transpose(saved: Any, cotangent: Any) -> tuple[Any, None]:
        return backward(saved, cotangent), None

    function.defvjp(forward, transpose)
    return function


def scaled(primal: Forward, slopes: Forward) -> Callable[[Any, Any], Any]:
    """An elementwise `primal(active, passive)`: cotangents are the output's times `slopes`."""

    def residuals(active: Any, passive: Any) -> Any:
        return jax.tree.map(lambda s, a: s.astype(a.dtype), slopes(active, passive), active)

    def backward(saved: Any, cotangent: Any) -> Any:
        return jax.tree.map(lambda slope: (slope * cotangent).astype(slope.dtype), saved)

    return attach(primal, residuals, backward)
