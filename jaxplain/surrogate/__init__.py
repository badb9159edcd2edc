"""The engine: a function's surrogate, with its value and another backward pass.

`f` is staged to a jaxpr once and evaluated again on lifted values under a rule table; `jax.vjp` of
what comes out gives the multipliers.  The engine knows no method.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxplain._types import Argnums, Function, Tree
from jaxplain.surrogate import compat, staging
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.interpreter import interpret
from jaxplain.surrogate.rules import whole
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled

__all__ = ["RuleTable", "UnsupportedPrimitive", "override", "surrogate_values"]


def override(
    f: Function, table: str | RuleTable, ref: Tree = None, *, argnums: Argnums = 0
) -> Function:
    r"""The surrogate of f: f's value, and the table's backward pass in place of the gradient's.

    `jax.vjp(override(f, table, ref), x)` gives multipliers m.  For a table of pairs (`rescale`)
    every equation is complete, hence ⟨m, x - ref⟩ = f(x) - f(ref).

    Args:
      f: any traceable function `f(x, *args)`; x a pytree of floating arrays.
      table: the rules, or their name.
      ref: the reference for x, broadcast to it; needed by tables of pairs only.
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      A function of f's arguments, to be differentiated in x by reverse mode; jit, vmap and scan
      work on it as on any other.

    Raises:
      UnsupportedPrimitive: x meets an operation that the table has no rule for.
      ValueError: the name is unknown, the table needs a reference, or `ref` does not broadcast.
      TypeError: x is not made of floating arrays.

    Example:
      >>> import jax, jaxplain as jxp
      >>> g = jxp.override(jax.nn.relu, jxp.rules.rescale(), ref=-1.0)
      >>> float(g(3.0)), float(jax.grad(g)(3.0))
      (3.0, 0.75)
    """
    rules = by_name(table, any_kind=True)

    def surrogate(*args: Any) -> Any:
        return surrogate_values(f, rules, ref, args, argnums)[0]

    return surrogate


def surrogate_values(
    f: Function, table: RuleTable, ref: Tree, args: tuple[Any, ...], argnums: Argnums = 0
) -> tuple[Any, Any]:
    """The surrogate's output, and the output at the reference (None for tables without one)."""
    staging.watch_table(table)
    staged = staging.stage(f, args, argnums)
    if table.lifted.needs_reference:
        if ref is None:
            raise ValueError("this rule table works on differences from a reference: give `ref=`")
        x = jax.tree.unflatten(jax.tree.structure(staging.pick(args, argnums)), list(staged.leaves))
        references = jax.tree.leaves(staging.as_reference(ref, x))
    else:
        references = [None] * len(staged.leaves)
    leaves = list(staged.leaves)
    if whole.closes(staged.jaxpr, [True] * len(leaves)):
        _refuse_unrun(table, staged.jaxpr, leaves, references)
    outputs, at_reference = _run(table, staged.jaxpr, leaves, references)
    return jax.tree.unflatten(staged.tree, outputs), jax.tree.unflatten(staged.tree, at_reference)


def _refuse_unrun(
    table: RuleTable, jaxpr: ClosedJaxpr, leaves: list[Any], references: list[Any]
) -> None:
    """What is refused when a multiplier arrives is refused before anything is computed.

    A loop that ends at x may never do so at the reference.
    """

    def explain(leaves: list[Any], references: list[Any]) -> Any:
        def smooth(leaves: list[Any]) -> list[Any]:
            outputs = _run(table, jaxpr, leaves, references)[0]
            return [y for y in outputs if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]

        outputs, vjp = jax.vjp(smooth, leaves)
        return vjp(list(map(jnp.ones_like, outputs)))

    jax.eval_shape(explain, leaves, references)


def _run(table: RuleTable, jaxpr: ClosedJaxpr, leaves: list[Any], references: list[Any]) -> Any:
    """The jaxpr's outputs, with the table's backward pass, and its outputs at the reference."""
    lifted = table.lifted

    def walk(jaxpr: ClosedJaxpr, operands: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = [settled(output) for output in interpret(table, jaxpr, operands)]
        at_reference = [o.at_reference if isinstance(o, Lifted) else o for o in outputs]
        return [o.output if isinstance(o, Lifted) else o for o in outputs], at_reference

    if not lifted.detached:
        return walk(jaxpr, list(map(lifted.lift, leaves, references)))

    # The parts are differentiated beside x itself, which must not be: within a backward pass.
    body, consts = compat.open_jaxpr(jaxpr)

    def of_parts(parts: Any, leaves: Any, passive: Any) -> Any:
        references, consts = passive
        operands = list(map(lifted.lift, leaves, references, parts))
        return walk(compat.close_jaxpr(body, consts), operands)

    def parts_of(leaves: Any, passive: Any) -> Any:
        return [lifted.parts(v, v0) for v, v0 in zip(leaves, passive[0], strict=True)]

    def forward(leaves: Any, passive: Any) -> Any:
        parts = parts_of(leaves, passive)
        totals, vjp, at_reference = jax.vjp(
            lambda parts: of_parts(parts, leaves, passive), parts, has_aux=True
        )
        return (totals, at_reference), (vjp, leaves, passive[0])

    def backward(saved: Any, cotangents: Any) -> Any:
        vjp, leaves, references = saved
        (multipliers,) = vjp(cotangents[0])
        return list(map(lifted.merge, multipliers, leaves, references))

    outputs, at_reference = with_backward(forward, backward)(leaves, (references, consts))
    return outputs, at_reference
