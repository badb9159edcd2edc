"""The gradient and what is made of it: saliency, input × gradient, guided backprop, deconvnet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import rules
from jaxplain._keys import nothing_drawn
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.named import probes
from jaxplain.surrogate import RuleTable, staging, surrogate_values


@speaks
def gradient(
    f: Function, *, at: At | None = None, argnums: Argnums = 0
) -> Explain:
    r"""The gradient ∂f/∂x.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      at: a name, several or a pattern: explain these values inside f (`jaxplain.tag`,
        `jaxplain.names`), not x, which may then hold integers (token ids).
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a pytree like x; no completeness (its sum means nothing by itself).
      With `at` one array like the value for one name, {name: array} for several.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.gradient(lambda x: (x ** 2).sum())(jnp.array([1.0, 2.0]))
      Array([2., 4.], dtype=float32)

    Source: Simonyan et al., arXiv 1312.6034, eq. 4.
    """

    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            probed = probes.probe(f, at, args, argnums)
            return probed.result(probed.gradient(probed.x))
        x = staging.attributed(f, args, argnums)
        return jax.grad(staging.scalar(f, args, argnums))(x)

    return explain


@speaks
def saliency(
    f: Function, *, at: At | None = None, argnums: Argnums = 0
) -> Explain:
    r"""|∂f/∂x|, how strongly each input moves the output locally.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `gradient`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a nonnegative pytree like x; no completeness.

    Raises:
      TypeError: as `gradient`.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.saliency(lambda x: -x.sum())(jnp.zeros(2))
      Array([1., 1.], dtype=float32)

    Source: Simonyan et al., arXiv 1312.6034, section 3.1.
    """
    explain_gradient = gradient(f, at=at, argnums=argnums)
    return nothing_drawn(lambda *args: jax.tree.map(jnp.abs, explain_gradient(*args)))


@speaks
def input_x_gradient(
    f: Function,
    ref: Tree = 0,
    *,
    at: At | None = None,
    argnums: Argnums = 0,
) -> Explain:
    r"""(x - ref) ⊙ ∂f/∂x, the first-order estimate of f(x) - f(ref).

    Args:
      f: `f(x, *args)` → scalar.
      ref: a scalar, or a tree that broadcasts to x. With `at` the reference of the value itself,
        or {name: reference} for several: 0 gives gradient × activation.
      at: as `gradient`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a pytree like x; sums to f(x) - f(ref) only where f is affine.

    Raises:
      TypeError: as `gradient`.
      ValueError: ref does not broadcast to x.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.input_x_gradient(lambda x: 3 * x.sum())(jnp.array([1.0, 2.0]))
      Array([3., 6.], dtype=float32)

    Source: Shrikumar et al., arXiv 1605.01713, section 3.
    """
    explain_gradient = gradient(f, argnums=argnums)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            probed = probes.probe(f, at, args, argnums)
            multipliers, values = map(probed.result, probed.gradient_and_values(probed.x))
            origin = staging.as_reference(ref, values)
            return jax.tree.map(lambda g, v, v0: g * (v - v0), multipliers, values, origin)
        x = staging.attributed(f, args, argnums)
        reference = staging.as_reference(ref, x)
        return jax.tree.map(lambda g, v, v0: g * (v - v0), explain_gradient(*args), x, reference)

    return explain


@speaks
def guided_backprop(
    f: Function, *, at: At | None = None, argnums: Argnums = 0
) -> Explain:
    r"""The gradient with relus that pass a multiplier only where it and their input are positive.

    At y = relu(x): m_x = m_y · 1{x > 0} · 1{m_y > 0}; every other operation keeps its gradient.
    A relu is found in any dress: `jax.nn.relu`, `maximum(x, 0)`, `where(x > 0, x, 0)`.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `gradient`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a pytree like x; no completeness.

    Raises:
      TypeError: as `gradient`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jxp.guided_backprop(lambda x: jax.nn.relu(x) @ jnp.array([1.0, -1.0]))(jnp.ones(2))
      Array([1., 0.], dtype=float32)

    Source: Springenberg et al., arXiv 1412.6806, section 3.4.
    """
    return _by_table(f, rules.guided_backprop(), at, argnums)


@speaks
def deconvnet(
    f: Function, *, at: At | None = None, argnums: Argnums = 0
) -> Explain:
    r"""The gradient with relus that pass every positive multiplier, whatever their input.

    At y = relu(x): m_x = m_y · 1{m_y > 0}; every other operation keeps its gradient.

    Args:
      f: `f(x, *args)` → scalar.
      at: as `gradient`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → a pytree like x; no completeness.

    Raises:
      TypeError: as `gradient`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jxp.deconvnet(lambda x: jax.nn.relu(x).sum())(jnp.array([1.0, -1.0]))
      Array([1., 1.], dtype=float32)

    Source: Zeiler & Fergus, arXiv 1311.2901, section 2.1.
    """
    return _by_table(f, rules.deconvnet(), at, argnums)


def _by_table(
    f: Function, table: RuleTable, at: At | None, argnums: Argnums
) -> Explain:
    @nothing_drawn
    def explain(*args: Any) -> Any:
        if at is not None:
            probed = probes.probe(f, at, args, argnums)

            def inner(*inputs: Any) -> Any:
                value = lambda *inputs: probed.function(*inputs)[0]
                return surrogate_values(value, table, None, inputs, (0, 1))[0]

            return probed.result(jax.grad(inner, (0, 1))(probed.x, probed.probes)[1])
        x = staging.attributed(f, args, argnums)

        def surrogate(x: Tree) -> Any:
            y, _ = surrogate_values(f, table, None, staging.place(args, argnums, x), argnums)
            staging.check_scalar(y)
            return y

        return jax.grad(surrogate)(x)

    return explain
