"""The lasso, by coordinate descent inside jit, with the derivative of its solution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_SWEEPS = 10_000  # at most, should rounding keep it going: tens are enough as a rule


def lasso(gram: Any, moment: Any, threshold: Any) -> Any:
    """Slopes (features, outputs) with z'Wz a - z'Wy + threshold · sgn a = 0.

    The threshold is one number, or one for each output.

    By coordinate descent until a sweep moves no slope by more than rounding does. The solution's
    derivative is that of the equations of the slopes that are not 0.
    """
    diagonal = jnp.diag(gram)
    scale = jnp.where(diagonal > 0, diagonal, 1)
    threshold = jnp.broadcast_to(jnp.asarray(threshold, moment.dtype), moment.shape[1:])

    def coordinate(i: Any, slopes: Any) -> Any:
        rest = moment[i] - gram[i] @ slopes + diagonal[i] * slopes[i]
        shrunk = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - threshold, 0)
        return slopes.at[i].set(jnp.where(diagonal[i] > 0, shrunk / scale[i], 0))

    def sweep(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        count, before, _ = state
        slopes = jax.lax.fori_loop(0, len(gram), coordinate, before)
        terms = jnp.abs(gram) @ jnp.abs(slopes) + jnp.abs(moment)
        rounding = jnp.finfo(slopes.dtype).eps * terms / scale[:, None]
        return count + 1, slopes, (jnp.abs(slopes - before) > rounding).any()

    def moving(state: tuple[Any, Any, Any]) -> Any:
        count, _, moved = state
        return moved & (count < _SWEEPS)

    start = (jnp.asarray(0), jnp.zeros_like(moment), jnp.asarray(True))
    slopes = jax.lax.stop_gradient(jax.lax.while_loop(moving, sweep, start)[1])

    def implicit(slopes: Any, moment: Any, threshold: Any) -> Any:
        active = slopes != 0
        rest = jnp.where(active, moment - gram @ slopes - threshold * jnp.sign(slopes), 0)
        small = jnp.finfo(gram.dtype).eps * scale  # where active groups are indistinguishable
        system = jnp.where(jnp.outer(active, active), gram, 0)
        system = jax.lax.stop_gradient(system + jnp.diag(jnp.where(active, small, 1)))
        return slopes + jnp.linalg.solve(system, rest - jax.lax.stop_gradient(rest))

    return jax.vmap(implicit, in_axes=(1, 1, 0), out_axes=1)(slopes, moment, threshold)
