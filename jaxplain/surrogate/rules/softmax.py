"""Softmax, log-softmax and logsumexp, by logarithmic means of both ends' probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import divided_difference
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.patterns import logsumexp_of
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.operands import on_settled
from jaxplain.surrogate.values.pair import Pair


def _log_means(x: Any, x0: Any, axes: tuple[int, ...], weight: Any = 1) -> Any:
    """w_j L_j, L_j = (p_j - p0_j)/(ln p_j - ln p0_j) the logarithmic means of two softmaxes.

    With weights, p_j = exp(x_j)/|Σ w exp(x)|, and Σ w_j p_j has the same sign at both ends.
    """

    def log_softmax(x: Any) -> Any:
        if isinstance(weight, int):
            return jax.nn.log_softmax(x, axis=axes)
        return x - logsumexp_of(x, weight, axes=axes)

    log_p, log_p0 = log_softmax(x), log_softmax(x0)
    masked = jnp.isneginf(log_p) | jnp.isneginf(log_p0) | (weight == 0)
    log_p, log_p0 = jnp.where(masked, 0, log_p), jnp.where(masked, 0, log_p0)
    means = divided_difference.exp(log_p, log_p0, jnp.exp(log_p), jnp.exp(log_p0))
    return jnp.where(masked, 0, weight * means)


def _softmax_like(
    backward: Callable[[Any, Any, tuple[int, ...]], Any],
) -> Callable[..., list[Any]]:
    """A rule whose multipliers follow from the logarithmic means and the output's multipliers."""

    @on_settled
    def rule(equation: Equation, operand: Any, *weight: Any) -> list[Any]:
        axes = equation.params["axes"]
        surrogate = attach(
            lambda x, passive: equation.function(x, *passive[1]),
            lambda x, passive: _log_means(x, passive[0], axes, *passive[1]),
            lambda means, cotangent: backward(means, cotangent, axes),
        )
        value = surrogate(operand.value, (operand.reference, weight))
        return [Pair(value, equation.function(operand.reference, *weight))]

    return rule


def _softmax_backward(means: Any, cotangent: Any, axes: tuple[int, ...]) -> Any:
    """m_j = L_j (m^o_j - Σ_i w_i m^o_i), w = L/ΣL: exact since Σ_i L_i Δln p_i = 0."""
    average = _sum(means * cotangent, axes) / _sum(means, axes)
    return means * (cotangent - average)


def _log_softmax_backward(means: Any, cotangent: Any, axes: tuple[int, ...]) -> Any:
    """m_j = m^o_j - w_j Σ_i m^o_i."""
    return cotangent - means / _sum(means, axes) * _sum(cotangent, axes)


def _logsumexp_backward(means: Any, cotangent: Any, axes: tuple[int, ...]) -> Any:
    """m_j = w_j m^o."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(means.shape))
    return means / _sum(means, axes) * cotangent.reshape(shape)


def _sum(array: Any, axes: tuple[int, ...]) -> Any:
    return jnp.sum(array, axis=axes, keepdims=True)


softmax = _softmax_like(_softmax_backward)
log_softmax = _softmax_like(_log_softmax_backward)
logsumexp = _softmax_like(_logsumexp_backward)
