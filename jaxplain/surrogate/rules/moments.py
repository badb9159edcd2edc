r"""Moments through any program: a mean at each node and one shared variance.

| what | mean at a node | shared variance |
|---|---|---|
| a linear map | the map | the map with its squared weights |
| a sum | the sum | V_a + V_b |
| a function of one value | E g, see `moments_unary` | ā² V |
| a product, of arrays too | m_a m_b | m̄_a² V_b + V_a m̄_b² |
| a maximum, logsumexp, softmax | see `moments_sets` | Σ_j p̄_j² V_j, … |
| everything else | itself | Σ_j J̄_j² V_j where J̄ is small enough to write down, else none |

An average over nodes counts as a constant on the way back.  Source: this library; the ancestor is
deep approximate Shapley propagation, Ancona, Öztireli & Gross, arXiv 1903.10992.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat, patterns, primitives
from jaxplain.surrogate.backward import refused_late, with_backward
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.program import Equation, Variable, broadcast
from jaxplain.surrogate.rules import moments_sets as sets
from jaxplain.surrogate.rules.moments_unary import is_gated, unary
from jaxplain.surrogate.rules.parted import entrance
from jaxplain.surrogate.rules.whole import unwalkable
from jaxplain.surrogate.table import RuleTable
from jaxplain.surrogate.values.lifted import Lifted, settled
from jaxplain.surrogate.values.moments import Function, Moments, Nodes, Segment, at_nodes, still
from jaxplain.surrogate.values.pair import active_roots, is_inexact, is_real
from jaxplain.surrogate.values.region import Expression

_MOST_ENTRIES = 2**16  # of a Jacobian that is written down

# The variance of all gets the same as if all summands were independent.
_OTHER_SIGN = {"sub": "add", "scatter-sub": "scatter-add"}


def moments() -> RuleTable:
    """The rules by primitive."""
    table = RuleTable(Moments, fallback=native, keeps=unwalkable, remembers=False)

    def own(keys: Any, rule: Any, waiting: bool = False) -> None:
        nonlocal table
        table = table.register(keys, rule, of=Moments, waiting=waiting)

    own(primitives.group("linear"), linear, waiting=True)
    own(primitives.group("discrete"), discrete)
    own(primitives.group("bilinear"), bilinear, waiting=True)
    own(primitives.group("elementwise"), elementwise, waiting=True)
    own(primitives.group("opaque"), refuse)
    for name in ("curved", "chosen", "maximum", "linear_solve"):
        own(primitives.group(name), native)
    windows = ["reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"]
    own(compat.resolve(windows), maximum)
    own(patterns.relu, sets.relu, waiting=True)
    own(patterns.softmax, softmax, waiting=True)
    own(patterns.log_softmax, sets.log_softmax, waiting=True)
    own(patterns.logsumexp, logsumexp, waiting=True)
    return table


# Linear maps.


def linear(equation: Equation, *operands: Any) -> list[Any]:
    """Means by the equation itself; the variance likewise, where each weight is 0 or ±1."""
    if _is_segment(operands) and len(equation.outputs) == 1:
        return [_along(equation, operands, lambda _: _moved(equation, operands, "variance")[0])]
    operands = tuple(map(settled, operands))
    nodes = _nodes(operands)
    floats = [atom.aval.dtype for atom in equation.outputs] + [o.dtype for o in _active(operands)]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in floats):
        return native(equation, *operands)
    means = at_nodes(equation, operands)
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in floats):
        return _certain(means, operands)
    variances, drifts = (_moved(equation, operands, part) for part in ("variance", "drift"))
    return [
        Moments(*parts[:2], nodes, parts[2]) for parts in zip(means, variances, drifts, strict=True)
    ]


def _moved(equation: Equation, operands: Sequence[Any], part: str) -> list[Any]:
    """The equation on variances, where constants have none; by each node's indices, averaged."""
    name = equation.primitive.name
    if part == "drift" and not _nodes(operands).drifts:
        return [None] * len(equation.outputs)
    if name in _OTHER_SIGN:
        (primitive,) = compat.resolve([_OTHER_SIGN[name]])
        equation = Equation(primitive, equation.inputs, equation.outputs, equation.params)
    decided = [i for i, o in enumerate(operands) if isinstance(o, Moments) and not is_inexact(o)]

    def at(indices: Sequence[Any]) -> list[Any]:
        filled = [_part(o, part, i < 1 and name == "select_n") for i, o in enumerate(operands)]
        for i, index in zip(decided, indices, strict=True):
            filled[i] = index
        return equation.bind(*filled)

    if not decided:
        return at([])
    nodes = _nodes(operands)
    found = jax.vmap(at)([operands[i].means for i in decided])
    return list(map(nodes.average, found))


def _part(operand: Any, part: str, chooses: bool) -> Any:
    """A value's variance, or drift; indices and predicates as they are."""
    if isinstance(operand, Moments | Segment):
        return getattr(operand, part)
    numbers = jnp.issubdtype(jnp.result_type(operand), jnp.inexact) and not chooses
    return jnp.zeros_like(operand) if numbers else operand


def _is_segment(operands: Sequence[Any]) -> bool:
    """Whether one operand depends on x, and is still affine in it."""
    active = _active(operands)
    return len(active) == 1 and isinstance(active[0], Segment)


def _filled(operands: Sequence[Any], array: Any) -> list[Any]:
    return [array if isinstance(o, Lifted) else o for o in operands]


def _along(equation: Equation, operands: Sequence[Any], squared: Callable[[Any], Any]) -> Segment:
    """An affine equation of a segment, with what it makes of a variance."""
    (segment,) = _active(operands)

    def at(array: Any) -> Any:
        return equation.function(*_filled(operands, array))

    def along(direction: Any) -> Any:
        return jax.jvp(at, (jnp.zeros_like(direction),), (direction,))[1]

    return segment.after(at, along, squared)


def _all_real(operands: Sequence[Any]) -> bool:
    """Whether the two factors are real numbers."""
    dtypes = [o.dtype if isinstance(o, Lifted) else jnp.result_type(o) for o in operands[:2]]
    return all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)


def discrete(equation: Equation, *operands: Any) -> list[Any]:
    """Booleans and integers: those of each node's means."""
    return _certain(at_nodes(equation, operands), operands)


def _certain(means: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    like = _active(operands)[0]
    return [Moments.certain(m, like) for m in means]


def bilinear(equation: Equation, *operands: Any) -> list[Any]:
    """With constant weights a linear map, whose squares take the variance on."""
    if _is_segment(operands) and _all_real(operands):
        weights = [o if isinstance(o, Lifted) else o * o for o in operands[:2]]
        filled = lambda v: [v if isinstance(o, Lifted) else o for o in (*weights, *operands[2:])]
        return [_along(equation, operands, lambda v: equation.function(*filled(v)))]
    operands = tuple(map(settled, operands))
    active = [i for i, o in enumerate(operands) if isinstance(o, Moments)]
    if not _all_real(operands) or any(isinstance(o, Moments) for o in operands[2:]):
        return native(equation, *operands)
    if len(active) > 1:
        return [product(equation, *operands)]
    (position,) = active
    x, weight = operands[position], operands[1 - position]
    (means,) = at_nodes(equation, operands)

    def spread(variance: Any, squares: Any) -> Any:
        filled: list[Any] = list(operands)
        filled[position], filled[1 - position] = variance, squares
        return equation.function(*filled)

    squares = weight * weight
    drift = still(spread, x.drift, squares) if x.nodes.drifts else None
    return [Moments(means, spread(x.variance, squares), x.nodes, drift)]


def product(equation: Equation, a: Moments, b: Moments, *rest: Any) -> Moments:
    """Linear in each of two values that are taken as independent."""

    def times(a: Any, b: Any) -> Any:
        return equation.function(a, b, *rest)

    means = jax.vmap(times)(a.means, b.means)
    average = a.nodes.average

    def spread(variances: Any, squares: Any) -> Any:
        return times(variances[0], squares[1]) + times(squares[0], variances[1])

    def forward(active: Any, _: Any) -> Any:
        variances, drifts, means = active
        squares = [jnp.square(average(m)).astype(m.dtype) for m in means]
        found = spread(variances, squares)
        return (found, None if drifts is None else jnp.zeros_like(found)), squares

    def backward(squares: Any, cotangents: Any) -> Any:
        def back(cotangent: Any) -> Any:
            return jax.linear_transpose(lambda v: spread(v, squares), list(squares))(cotangent)[0]

        of_variance, of_drift = cotangents
        return back(of_variance), None if of_drift is None else back(of_drift), None

    drifts = [a.drift, b.drift] if a.nodes.drifts else None
    active = [a.variance, b.variance], drifts, [a.means, b.means]
    return Moments(means, *_of(with_backward(forward, backward)(active, None), a.nodes))


def _of(parts: Any, nodes: Nodes) -> tuple[Any, Nodes, Any]:
    """A variance and a drift as a value has them."""
    return parts[0], nodes, parts[1]


# Elementwise equations.


def elementwise(equation: Equation, *operands: Any) -> list[Any]:
    """One root: wait for the whole function.  Several: sums, products, choices, or by slopes."""
    name, shape = equation.primitive.name, tuple(equation.aval.shape)
    if _is_segment(operands) and _scales(equation, operands):
        return [_along(equation, operands, _squared(equation, operands))]
    operands = tuple(_spread(_computed(operand), shape) for operand in operands)
    roots = active_roots(operands)
    if not roots:
        return equation.bind(*operands)
    dtypes = [equation.aval.dtype, *(o.dtype for o in _active(operands))]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return native(equation, *map(settled, operands))
    if len(roots) == 1 or not jnp.issubdtype(equation.aval.dtype, jnp.floating):
        return [Function(equation, operands, settle)]
    if name == "div" and isinstance(operands[0], Lifted) and isinstance(operands[1], Lifted):
        return _quotient(equation, *operands)
    operands = tuple(map(settled, operands))
    active = _active(operands)
    if name == "stop_gradient":
        return _certain(list(map(jax.lax.stop_gradient, at_nodes(equation, operands))), operands)
    if not all(map(is_real, active)) and name != "select_n":
        return by_slopes(equation, *operands)
    if name in ("add", "sub", "add_any", "select_n"):
        return linear(equation, *operands)
    if len(active) == 1:
        return elementwise(equation, *operands)
    if name == "mul":
        return [product(equation, *operands)]
    if name in ("max", "min"):
        a, b = active
        return [sets.pairwise(a, b, equation.aval.dtype, smallest=equation.facts.falls)]
    return by_slopes(equation, *operands)


def _computed(operand: Any) -> Any:
    return operand.settle() if isinstance(operand, Segment) else operand


def _scales(equation: Equation, operands: Sequence[Any]) -> bool:
    """Whether it scales or shifts a value by constants of no other shape."""
    name, (active,) = equation.primitive.name, _active(operands)
    fits = name in ("add", "sub", "mul", "neg", "convert_element_type") or (
        name == "div" and active is operands[0]
    )
    same = tuple(active.shape) == tuple(equation.aval.shape)
    return fits and same and jnp.issubdtype(equation.aval.dtype, jnp.floating)


def _squared(equation: Equation, operands: Sequence[Any]) -> Callable[[Any], Any]:
    """What the equation makes of a variance."""
    if equation.primitive.name in ("mul", "div"):
        squares = [o if isinstance(o, Lifted) else o * o for o in operands]
        return lambda variance: equation.function(*_filled(squares, variance))
    return lambda variance: variance.astype(equation.aval.dtype)


def _quotient(equation: Equation, a: Any, b: Any) -> list[Any]:
    """a · (1/b), the inverse as a function of what b is one of."""
    ones = jnp.ones(equation.aval.shape, equation.aval.dtype)
    (inverse,) = elementwise(equation, ones, b)
    return [_made("mul", jax.lax.mul, equation, tuple(equation.aval.shape), a, inverse)]


def softmax(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """exp(x)/Σ exp(x) of logits that x itself masks; of others as in `moments_sets`."""
    if others or not _is_gated(operand):
        return sets.softmax(equation, operand, *others)
    weights, sums, _ = _exponentials(equation, operand)
    return [_made("div", jax.lax.div, equation, operand.shape, weights, sums)]


def logsumexp(equation: Equation, operand: Any, *others: Any) -> list[Any]:
    """log Σ exp(x) of logits that x itself masks; of others as in `moments_sets`."""
    if others or not _is_gated(operand):
        return sets.logsumexp(equation, operand, *others)
    _, sums, shift = _exponentials(equation, operand)
    found = _made("log", lambda s: jnp.log(s) + shift, equation, shift.shape, sums)
    shape = tuple(equation.aval.shape)
    return [_made("reshape", lambda v: v.reshape(shape), equation, shape, settled(found))]


def _exponentials(equation: Equation, operand: Function) -> tuple[Any, Any, Any]:
    """exp(x - shift), its sums, and the shift: of each set, a constant.

    A logit that is masked or not is no normal value; its exponential, from 0 to what it is, is as
    good as any.
    """
    axes, means = tuple(equation.params["axes"]), operand.means
    top = jnp.max(jnp.where(jnp.isfinite(means), means, -jnp.inf), [0, *(a + 1 for a in axes)])
    shift = jax.lax.stop_gradient(jnp.expand_dims(jnp.where(jnp.isfinite(top), top, 0), axes))
    weights = _made("exp", lambda x: jnp.exp(x - shift), equation, operand.shape, operand)
    summed = lambda e: jnp.sum(e, axes, keepdims=True)
    return weights, _made("reduce_sum", summed, equation, shift.shape, weights), shift


def _made(
    name: str, apply: Callable[..., Any], like: Equation, shape: tuple[int, ...], *operands: Any
) -> Any:
    """The value of an equation that no program has, by the rule of this primitive."""
    (primitive,) = compat.resolve([name])
    rule = elementwise if primitives.facts(primitive).group == "elementwise" else linear
    output = Variable(jax.ShapeDtypeStruct(shape, like.aval.dtype))
    return rule(_Made(primitive, (), (output,), {"apply": apply}, origin=like.origin), *operands)[0]


def _is_gated(operand: Any) -> bool:
    """Whether x decides between cases on the way."""
    return isinstance(operand, Function) and is_gated(Expression(operand))


class _Made(Equation):
    """An equation that no program has."""

    def bind(self, *values: Any) -> list[Any]:
        return [self.params["apply"](*values)]


def settle(function: Any) -> Moments:
    """A function of one value, when it is asked for."""
    roots = function.roots
    if not is_real(function) or not all(map(is_real, roots)):
        return Moments.certain(function.means, roots[0])
    if function.frozen:
        return Moments.certain(jax.lax.stop_gradient(function.means), roots[0])
    if function.linear:
        return _affine(function)
    expression = entrance(function)
    (root,) = expression.roots
    return unary(expression, root, function)


def _affine(function: Function) -> Moments:
    """Linear in its root: the factor's square takes the variance on."""
    (root,) = function.roots
    expression = Expression(function)

    def at(array: Any) -> Any:
        return expression.evaluate([array], expression.constants)

    like = jnp.zeros(root.shape, root.dtype)
    factor = jax.jvp(at, (like,), (jnp.ones_like(like),))[1]
    drift = None if root.drift is None else factor * factor * root.drift
    return Moments(function.means, factor * factor * root.variance, root.nodes, drift)


def by_slopes(equation: Equation, *operands: Any) -> list[Any]:
    """Any function of several values: at their means, V = Σ_i s̄_i² V_i with its partial slopes."""
    (means,) = at_nodes(equation, operands)
    active = [i for i, o in enumerate(operands) if isinstance(o, Moments) and is_real(o)]
    if not active:
        return _certain([means], operands)
    nodes = _nodes(operands)
    moving = [operands[i] for i in active]

    def partials(means: Sequence[Any], rest: Sequence[Any]) -> Any:
        filled = list(rest)

        def at(*moving: Any) -> Any:
            for i, array in zip(active, moving, strict=True):
                filled[i] = array
            return equation.function(*filled)

        y, pull = jax.vjp(at, *means)
        return pull(jnp.ones_like(y))

    rest = [None if i in active else _means(o) for i, o in enumerate(operands)]
    axes = [
        0 if isinstance(o, Moments) and r is not None else None
        for o, r in zip(operands, rest, strict=True)
    ]

    def forward(active: Any, rest: Any) -> Any:
        variances, means = active
        slopes = jax.vmap(partials, (0, axes))(means, rest)
        squares = [jnp.square(nodes.average(s)) for s in slopes]
        return sum(s * v for s, v in zip(squares, variances, strict=True)), squares

    def backward(squares: Any, cotangent: Any) -> Any:
        return [s * cotangent for s in squares], None

    found = with_backward(forward, backward)(
        ([o.variance for o in moving], [o.means for o in moving]), rest
    )
    return [Moments.begin(means, found, nodes)]


def _means(operand: Any) -> Any:
    return operand.means if isinstance(operand, Moments) else operand


# Everything else.


def maximum(equation: Equation, operand: Any) -> list[Any]:
    """Of real numbers the smooth one."""
    if not is_real(operand):
        return native(equation, operand)
    return sets.maximum(equation, operand)


def native(equation: Equation, *operands: Any) -> list[Any]:
    """JAX's own derivative at each node; V by the mean Jacobian's squares, if it is small."""
    nodes = _nodes(operands)
    means = at_nodes(equation, operands)
    active = [i for i, o in enumerate(operands) if isinstance(o, Moments) and is_inexact(o)]
    inputs = sum(operands[i].means[0].size for i in active)
    if not active or not any(jnp.issubdtype(m.dtype, jnp.inexact) for m in means):
        return _certain(means, operands)
    dtypes = [v.dtype for v in (*means, *(operands[i] for i in active))]
    real = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    outputs = sum(m[0].size for m in means)
    if not real or inputs * outputs > _MOST_ENTRIES:
        return _certain(means, operands)
    variances = _by_jacobian(equation, operands, active)
    return list(map(lambda m, v: Moments.begin(m, v, nodes), means, variances))


def _by_jacobian(equation: Equation, operands: Sequence[Any], active: list[int]) -> list[Any]:
    nodes = _nodes(operands)
    rest = [None if i in active else _means(o) for i, o in enumerate(operands)]
    axes = [
        0 if isinstance(o, Moments) and r is not None else None
        for o, r in zip(operands, rest, strict=True)
    ]

    def jacobian(means: Sequence[Any], rest: Sequence[Any]) -> Any:
        def at(means: Sequence[Any]) -> Any:
            filled = list(rest)
            for i, array in zip(active, means, strict=True):
                filled[i] = array
            return equation.bind(*filled)

        return jax.jacrev(at)(means)

    def forward(given: Any, rest: Any) -> Any:
        variances, means = given
        found = jax.vmap(jacobian, (0, axes))(means, rest)
        squares = jax.tree.map(lambda j: jnp.square(nodes.average(j)), found)
        return _applied(squares, variances), squares

    def backward(squares: Any, cotangents: Any) -> Any:
        like = [operands[i].variance for i in active]
        return jax.linear_transpose(functools.partial(_applied, squares), like)(cotangents)[0], None

    given = [operands[i].variance for i in active], [operands[i].means for i in active]
    return with_backward(forward, backward)(given, rest)


def _applied(squares: Sequence[Any], variances: Sequence[Any]) -> list[Any]:
    return [
        sum(jnp.tensordot(j, v, v.ndim) for j, v in zip(row, variances, strict=True))
        for row in squares
    ]


def refuse(equation: Equation, *operands: Any) -> list[Any]:
    """Operations without a derivative: refused where a multiplier arrives."""
    if not any(jnp.issubdtype(atom.aval.dtype, jnp.inexact) for atom in equation.outputs):
        return discrete(equation, *operands)
    refusal = UnsupportedPrimitive(
        f"{equation} at {equation.line} is not differentiable, and depends on x: JAX has no "
        f"derivative of '{compat.inner_name(equation)}'. Freeze it by `jax.lax.stop_gradient` "
        "around its operand, or give the function around it a derivative by `jax.custom_vjp`."
    )
    lifted = [o for o in operands if isinstance(o, Moments)]

    def function(means: Sequence[Any]) -> Any:
        given = iter(means)
        filled = [
            Moments(next(given), None, o.nodes) if isinstance(o, Moments) else o for o in operands
        ]
        return at_nodes(equation, filled)

    return _certain(refused_late(function, refusal)([o.means for o in lifted]), operands)


# Values.


def _active(operands: Sequence[Any]) -> list[Any]:
    return [operand for operand in operands if isinstance(operand, Lifted)]


def _nodes(operands: Sequence[Any]) -> Nodes:
    return _active(operands)[0].nodes


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    """An active operand brought to the shape of the elementwise result."""
    if not isinstance(operand, Lifted) or tuple(operand.shape) == shape:
        return operand
    operand = settled(operand)
    if not isinstance(operand, Moments):
        return operand
    return operand.through(lambda v: broadcast(v, shape))
