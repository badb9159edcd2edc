"""The engine: a function's surrogate, with its value and another backward pass.

`f` is staged to a jaxpr once and evaluated again on lifted values under a rule table; `jax.vjp` of
what comes out gives the multipliers.  The engine knows no method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxplain.surrogate import staging
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.interpreter import interpret
from jaxplain.surrogate.lifted import settled, value
from jaxplain.surrogate.table import RuleTable

__all__ = ["RuleTable", "UnsupportedPrimitive", "evaluate", "override"]


def override(
    f: Callable[..., Any], table: RuleTable, ref: Any = None, *, argnums: staging.Argnums = 0
) -> Callable[..., Any]:
    r"""The surrogate of f: f's value, and the table's backward pass in place of the gradient's.

    `jax.vjp(override(f, table, ref), x)` gives multipliers m.  For a table of pairs (`rescale`)
    every equation is complete, hence ⟨m, x - ref⟩ = f(x) - f(ref).

    Args:
      f: any traceable function `f(x, *args)`; x a pytree of floating arrays.
      table: the rules.
      ref: the reference for x, broadcast to it; needed by tables of pairs only.
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      A function of f's arguments, to be differentiated in x by reverse mode; jit, vmap and scan
      work on it as on any other.

    Raises:
      UnsupportedPrimitive: x meets an operation that the table has no rule for.
      ValueError: the table needs a reference, or `ref` does not broadcast to x.
      TypeError: x is not made of floating arrays.

    Example:
      >>> import jax, jaxplain as jxp
      >>> g = jxp.override(jax.nn.relu, jxp.rules.rescale(), ref=-1.0)
      >>> float(g(3.0)), float(jax.grad(g)(3.0))
      (3.0, 0.75)
    """

    def surrogate(*args: Any) -> Any:
        return evaluate(f, table, ref, args, argnums)[0]

    return surrogate


def evaluate(
    f: Callable[..., Any], table: RuleTable, ref: Any, args: tuple[Any, ...], argnums: Any = 0
) -> tuple[Any, Any]:
    """The surrogate's output, and the output at the reference (None for tables without one)."""
    staged = staging.stage(f, args, argnums)
    if table.lifted.needs_reference:
        if ref is None:
            raise ValueError("this rule table works on differences from a reference: give `ref=`")
        x = jax.tree.unflatten(jax.tree.structure(staging.pick(args, argnums)), list(staged.leaves))
        references = jax.tree.leaves(staging.as_reference(ref, x))
    else:
        references = [None] * len(staged.leaves)
    operands = [
        table.lifted.lift(leaf, reference)
        for leaf, reference in zip(staged.leaves, references, strict=True)
    ]
    outputs = [settled(output) for output in interpret(table, staged.jaxpr, operands)]
    at_reference = [o.reference if hasattr(o, "reference") else value(o) for o in outputs]
    return (
        jax.tree.unflatten(staged.tree, [value(output) for output in outputs]),
        jax.tree.unflatten(staged.tree, at_reference),
    )
