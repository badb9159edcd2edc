"""Linear systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from jaxplain.surrogate import compat
from jaxplain.surrogate.backward import attach
from jaxplain.surrogate.interpreter import interpret
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.operands import filled, on_settled, reference
from jaxplain.surrogate.rules.path_integral import completed
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.lifted import settled, value
from jaxplain.surrogate.values.pair import Pair, Paired

Arrays = Sequence[Any]


def linear_solve(table: RuleTable) -> Rule:
    """Δy of A y = b: Ā Δy = Δb - ΔA ȳ, or the mean of A Δy = Δb - ΔA y0 and A0 Δy = Δb - ΔA y.

    ΔA y is the change of the equation's matvec at a fixed vector, by the `table`'s rules: A may
    depend on its constants in any way.
    """

    @on_settled
    def rule(equation: Equation, *operands: Any) -> list[Any]:
        lengths = equation.params["const_lengths"]
        if not any(isinstance(operand, Paired) for operand in operands[: lengths.matvec]):
            return linear(equation, *operands)
        # The solve that comes with the equation fits both ends if it knows of them: the factors of
        # a frozen matrix are x's.
        begin = lengths.matvec + lengths.vecmat
        own = any(isinstance(o, Paired) for o in operands[begin : begin + lengths.solve])
        solves = _OwnSolve(equation) if own else _DenseSolve(equation)
        change = _change_of_matvec(table.register(equation.primitive, rule), equation, operands)

        def residuals(values: Arrays, references: Arrays) -> Any:
            return values, references, equation.bind(*values), solves.at(references)

        def backward(saved: Any, cotangents: Arrays) -> Any:
            values, references, *solutions = saved
            of_a: Any = None
            of_b: Any = None
            for vector, solved in solves.splits(values, references, solutions, cotangents):
                minus = jax.tree.map(jnp.negative, solved)
                back = change(values, references, vector)(minus)
                of_a = back if of_a is None else jax.tree.map(jnp.add, of_a, back)
                of_b = solved if of_b is None else jax.tree.map(jnp.add, of_b, solved)
            found = [*of_a, *[None] * (sum(lengths) - len(of_a)), *of_b]
            # An iterative solve stops at its tolerance: y is none of A y = b.
            moves = [i for i, m in enumerate(found) if m is not None]
            ends = [values[i] for i in moves], [references[i] for i in moves]
            y, y0 = map(list, solutions)
            complete = completed([found[i] for i in moves], ends, (y, y0), list(cotangents))
            return filled(found, moves, complete)

        surrogate = attach(lambda values, _: equation.bind(*values), residuals, backward)
        references = list(map(reference, operands))
        results = surrogate(list(map(value, operands)), references)
        return [Pair(v, v0) for v, v0 in zip(results, solves.at(references), strict=True)]

    return rule


def _change_of_matvec(table: RuleTable, equation: Equation, operands: Arrays) -> Callable[..., Any]:
    """The multipliers of what A is made of, from those of A's product with a fixed vector."""
    matvec, count = equation.params["jaxprs"].matvec, equation.params["const_lengths"].matvec
    moves = [i for i in range(count) if isinstance(operands[i], Paired)]
    real = [i for i in moves if jnp.issubdtype(operands[i].dtype, jnp.inexact)]

    def multipliers(values: Arrays, references: Arrays, vector: Arrays) -> Callable[..., Any]:
        def product(active: Arrays) -> list[Any]:
            consts = filled(values[:count], real, active)
            for i in moves:
                consts[i] = Pair(consts[i], references[i])
            return [value(settled(y)) for y in interpret(table, matvec, [*consts, *vector])]

        _, pull = jax.vjp(product, [values[i] for i in real])
        return lambda cotangents: filled([None] * count, real, pull(list(cotangents))[0])

    return multipliers


class _OwnSolve:
    """By the equation itself at each end, and its transpose."""

    def __init__(self, equation: Equation):
        self.equation = equation
        self.total = sum(equation.params["const_lengths"])

    def at(self, operands: Arrays) -> list[Any]:
        return self.equation.bind(*operands)

    def splits(self, values: Arrays, references: Arrays, solutions: Any, cotangents: Any) -> Any:
        """(y0, ½A⁻ᵀ m) and (y, ½A0⁻ᵀ m)."""
        y, y0 = solutions
        half = jax.tree.map(lambda ct: ct / 2, cotangents)
        return [(y0, self._back(values, half)), (y, self._back(references, half))]

    def _back(self, operands: Arrays, cotangents: Any) -> Any:
        consts, b = operands[: self.total], list(operands[self.total :])
        solve = jax.linear_transpose(lambda b: self.equation.bind(*consts, *b), b)
        return solve(list(cotangents))[0]


class _DenseSolve:
    """By the matrix, read off the equation's matvec."""

    def __init__(self, equation: Equation):
        self.matvec = equation.params["jaxprs"].matvec
        self.lengths = equation.params["const_lengths"]

    def at(self, operands: Arrays) -> list[Any]:
        return self._solve(self._matrix(operands), operands[sum(self.lengths) :])

    def splits(self, values: Arrays, references: Arrays, solutions: Any, cotangents: Any) -> Any:
        """(ȳ, Ā⁻ᵀ m)."""
        ends = zip(*solutions, strict=True)
        middle = (self._matrix(values) + self._matrix(references)) / 2
        return [([(y + y0) / 2 for y, y0 in ends], self._solve(middle.T, list(cotangents)))]

    def _matrix(self, operands: Arrays) -> Any:
        consts, b = operands[: self.lengths.matvec], list(operands[sum(self.lengths) :])
        flat, unravel = jax.flatten_util.ravel_pytree(b)

        def apply(v: Any) -> Any:
            return jax.flatten_util.ravel_pytree(
                compat.evaluate(self.matvec, [*consts, *unravel(v)])
            )[0]

        return jax.vmap(apply, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))

    def _solve(self, matrix: Any, b: Arrays) -> list[Any]:
        flat, unravel = jax.flatten_util.ravel_pytree(list(b))
        return unravel(jnp.linalg.solve(matrix, flat))
