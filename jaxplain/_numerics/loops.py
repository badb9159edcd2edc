"""Loops outside of jit, whose programs are forgotten with them.

JAX keeps the compiled program of every `scan`, `map` and `while_loop` that runs outside of jit, and
with it what its body closes over, so a process that explains one new function after another grows
without end. What a jitted function compiled goes with that function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxplain.surrogate import compat


def compiled(function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)` as one program, traced once and kept no longer than this call."""
    return program(function, *operands)(*operands)


def program(function: Callable[..., Any], *operands: Any) -> Callable[..., Any]:
    """The function as one program for operands like these, traced here and now.

    Arrays that the function closes over are operands of the program, not constants in it.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*operands)
    jaxpr, consts = compat.open_jaxpr(closed)

    @jax.jit
    def flat(consts: list[Any], leaves: list[Any]) -> list[Any]:
        return compat.evaluate(compat.close_jaxpr(jaxpr, consts), leaves)

    def run(*operands: Any) -> Any:
        outputs = flat(consts, jax.tree.leaves(operands))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run
