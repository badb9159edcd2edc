"""Linear systems."""

from __future__ import annotations

from typing import Any

import jax
import jax.extend.core
import jax.flatten_util
import jax.numpy as jnp

from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import filled, on_settled, reference
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Pair, Paired


@on_settled
def linear_solve(equation: Equation, *operands: Any) -> list[Any]:
    """Δy = Ā⁻¹(Δb - ΔA ȳ) for A y = b, with A read off the equation's own matvec."""
    lengths, jaxprs = equation.params["const_lengths"], equation.params["jaxprs"]
    total = sum(lengths)
    consts, b = operands[: lengths.matvec], operands[total:]
    if not any(isinstance(const, Paired) for const in consts):
        return linear(equation, *operands)
    matvec = jaxprs.matvec

    def solve(consts: Any, b: Any) -> list[Any]:
        flat, unravel = jax.flatten_util.ravel_pytree(list(b))

        def apply(v: Any) -> Any:
            return jax.flatten_util.ravel_pytree(_call(matvec, *consts, *unravel(v)))[0]

        matrix = jax.vmap(apply, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))
        return unravel(jnp.linalg.solve(matrix, flat))

    smooth = [i for i, c in enumerate(consts) if isinstance(c, Paired)]
    rest = [None if i in smooth else value(c) for i, c in enumerate(consts)]

    def function(active: Any, rest: Any) -> list[Any]:
        return solve(filled(rest, smooth, active[0]), active[1])

    def residuals(active: Any, passive: Any) -> Any:
        (references, rest) = passive
        y, y0 = function(active, rest), function(references, rest)
        middle = jax.tree.map(lambda v, v0: (v + v0) / 2, (active, y), (references, y0))
        return middle, rest

    def backward(saved: Any, cotangents: Any) -> Any:
        ((consts, b), y), rest = saved
        (of_b,) = jax.vjp(lambda b: function((consts, b), rest), b)[1](cotangents)

        def product(consts: Any) -> list[Any]:
            return _call(matvec, *filled(rest, smooth, consts), *y)

        (of_a,) = jax.vjp(product, consts)[1](jax.tree.map(jnp.negative, of_b))
        return of_a, of_b

    surrogate = attach(lambda a, p: function(a, p[1]), residuals, backward)
    active = ([consts[i].value for i in smooth], [value(v) for v in b])
    references = ([consts[i].reference for i in smooth], [reference(v) for v in b])
    results = surrogate(active, (references, rest))
    return [Pair(v, v0) for v, v0 in zip(results, function(references, rest), strict=True)]


def _call(jaxpr: Any, *args: Any) -> list[Any]:
    return jax.extend.core.jaxpr_as_fun(jaxpr)(*args)
