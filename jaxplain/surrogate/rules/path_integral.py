"""Everything differentiable without a rule of its own: the local path integral."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.quadrature import gauss_legendre
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import discrete
from jaxplain.surrogate.rules.operands import differentiable, filled, on_settled
from jaxplain.surrogate.values.pair import Pair

_NODES = 8  # Gauss-Legendre nodes


@on_settled
def path_integral(equation: Equation, *operands: Any) -> list[Any]:
    """∫₀¹ of the primitive's own vjp on the segment from its reference operands to its operands."""
    positions, values, references, rest = differentiable(operands)
    if not positions:
        return discrete(equation, *operands)

    def outputs(active: Any, rest: Any) -> list[Any]:
        return equation.bind(*filled(rest, positions, active))

    shapes = jax.eval_shape(outputs, references, rest)
    smooth = [i for i, out in enumerate(shapes) if jnp.issubdtype(out.dtype, jnp.inexact)]

    def function(active: Any, rest: Any) -> list[Any]:
        results = outputs(active, rest)
        return [results[i] for i in smooth]

    at_x = integrate(function, values, references, rest, functools.partial(_sum_items, equation))
    results = dict(zip(smooth, at_x, strict=True))
    at_value = outputs([jax.lax.stop_gradient(v) for v in values], rest)
    at_reference = outputs(references, rest)
    return [Pair(results.get(i, at_value[i]), v0) for i, v0 in enumerate(at_reference)]


def integrate(
    function: Callable[[Any, Any], list[Any]],
    values: list[Any],
    references: list[Any],
    rest: Any,
    items: Callable[[Any], Any] = jnp.sum,
) -> list[Any]:
    """`function(values, rest)`, with its own derivative integrated from the references.

    Gauss-Legendre, then the rank-one correction m += Δx (⟨m^o, Δy⟩ - ⟨m, Δx⟩)/‖Δx‖², which makes
    it exact where the quadrature is not (a sort's vjp is piecewise constant), item by item.
    """

    def residuals(active: Any, passive: Any) -> Any:
        return active, passive, function(active, passive[1])

    def backward(saved: Any, cotangents: Any) -> Any:
        active, (references, rest), y = saved
        deltas = jax.tree.map(jnp.subtract, active, references)

        def vjp_at(t: Any) -> Any:
            point = jax.tree.map(lambda v0, d: v0 + (t * d).astype(d.dtype), references, deltas)
            return jax.vjp(lambda a: function(a, rest), point)[1](cotangents)[0]

        points, weights = gauss_legendre(_NODES)
        multipliers = jax.tree.map(jnp.zeros_like, active)

        def add(total: Any, node: Any) -> tuple[Any, None]:
            t, weight = node
            step = jax.tree.map(lambda m: (weight * m).astype(m.dtype), vjp_at(t))
            return jax.tree.map(jnp.add, total, step), None

        multipliers, _ = jax.lax.scan(add, multipliers, (jnp.asarray(points), jnp.asarray(weights)))
        changes = jax.tree.map(jnp.subtract, y, function(references, rest))
        return _corrected(items, multipliers, deltas, cotangents, changes)

    surrogate = attach(lambda a, p: function(a, p[1]), residuals, backward)
    return surrogate(values, (references, rest))


def _corrected(
    items: Callable[[Any], Any], multipliers: Any, deltas: Any, cotangents: Any, changes: Any
) -> Any:
    """Multipliers plus the multiple of Δx that makes each item of the batch complete."""
    inner = functools.partial(_inner, items)
    wanted = inner(cotangents, changes)
    have, norm = inner(multipliers, deltas), inner(deltas, jax.tree.map(jnp.conj, deltas))
    still = norm == 0
    step = jnp.where(still, 0, (wanted - have) / jnp.where(still, 1, norm))

    def correct(m: Any, delta: Any) -> Any:
        factor = step.reshape(step.shape + (1,) * (delta.ndim - step.ndim))
        return m + (factor * jnp.conj(delta)).astype(m.dtype)

    return jax.tree.map(correct, multipliers, deltas)


def _inner(items: Callable[[Any], Any], left: Any, right: Any) -> Any:
    """Re⟨left, right⟩ of each item of the batch that the primitive works on."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum(items(jnp.real(a * b)) for a, b in pairs)


def _sum_items(equation: Equation, product: Any) -> Any:
    """Summed over what one item of the batch consists of, those axes kept at size 1."""
    facts, params = equation.facts, equation.params
    if facts.group == "elementwise":
        return product
    if facts.along is not None:
        axes = params.get(facts.along, -1)  # a top_k without an axis works along the last one
        if product.ndim == equation.inputs[0].aval.ndim:
            return jnp.sum(product, axes, keepdims=True)
        return jnp.expand_dims(product, axes)
    if facts.matrix:
        batch = max(atom.aval.ndim for atom in equation.inputs) - 2
        return jnp.sum(product, tuple(range(batch, product.ndim)))
    return jnp.sum(product)
