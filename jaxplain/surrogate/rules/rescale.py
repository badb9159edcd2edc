"""DeepLIFT's Rescale rule for every differentiable operation (RULES of the table `rescale()`).

Each rule gives multipliers that, times the Δ of the equation's operands, sum to the Δ of its
output; their composition is then complete on any program.
Source: Shrikumar et al., "Learning important features through propagating activation
differences", arXiv 1704.02685, eqs. 3 (multipliers), 8 (linear) and 14 (rescale).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from jaxplain.surrogate import compat, divided_difference, patterns, primitives
from jaxplain.surrogate.backward import attach, scaled
from jaxplain.surrogate.errors import UnsupportedPrimitive
from jaxplain.surrogate.lifted import settled, value
from jaxplain.surrogate.pair import Deferred, Pair, Paired, is_real, unique
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.table import Rule, RuleTable

_NODES = 8  # Gauss-Legendre nodes of a local path integral
_LARGE = 10.0  # from this ratio of reference scale to scale on, a product settles the scale first
_MOST_FACTORS = 8

_RESHAPING = tuple(
    "broadcast_in_dim reshape squeeze transpose slice dynamic_slice gather rev copy name".split()
)
# Where operands are indices or sizes: the first of them.
_FIRST_INDEX = {
    "gather": 1,
    "dynamic_slice": 1,
    "dynamic_update_slice": 2,
    "scatter": 1,
    "scatter-add": 1,
    "scatter-sub": 1,
    "scatter-mul": 1,
    "scatter-max": 1,
    "scatter-min": 1,
}


def rescale(*, norm_theta: float | None = None) -> RuleTable:
    r"""DeepLIFT's Rescale rule, for every differentiable primitive of JAX.

    Linear equations keep their own vjp; a scalar function of one variable gets Δy/Δx; products,
    quotients and choices get the Shapley values of their operands; a maximum goes to its winner;
    softmax and logsumexp have closed forms; everything else is integrated along the segment from
    its reference operands to its operands.

    Args:
      norm_theta: how the product of a value c and a scale s = 1/√V or 1/V (a norm's) splits its
        change: Δ(cs) = (θs + (1-θ)s₀) Δc + ((1-θ)c + θc₀) Δs. 0.5 is the Shapley value; 1 settles
        the scale first and stays well conditioned where s₀ is huge, as at a zero reference. None
        (default) takes 0.5, and 1 (or 0) wherever s₀/s (or s/s₀) exceeds 10.

    Returns:
      A RuleTable over pairs (value, reference).  Multipliers times (x - ref) sum to f(x) - f(ref).

    Example:
      >>> import jaxplain as jxp
      >>> f = lambda x: x[0] * x[1]
      >>> jxp.deeplift(f, 0.0, rules=jxp.rules.rescale())(jax.numpy.array([2.0, 3.0]))
      Array([3., 3.], dtype=float32)

    Source: arXiv 1704.02685, section 3.5.1, extended from neurons to programs.
    """
    groups: dict[str, Rule] = {
        "linear": linear,
        "elementwise": functools.partial(elementwise, norm_theta),
        "bilinear": bilinear,
        "maximum": winner,
        "curved": path_integral,
        "linear_solve": linear_solve,
        "discrete": discrete,
        "opaque": refuse,
    }
    table = RuleTable(Pair)
    for name, rule in groups.items():
        table = table.register(primitives.group(name), rule)
    table = table.register(compat.resolve(_RESHAPING), reshaped)
    table = table.register(patterns.softmax, softmax)
    table = table.register(patterns.log_softmax, log_softmax)
    return table.register(patterns.logsumexp, logsumexp)


# Reading operands.


def reference(operand: Any) -> Any:
    """The operand's reference; a constant is its own."""
    return operand.reference if isinstance(operand, Paired) else operand


def _on_settled(rule: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """A rule whose operands are settled first; it is not asked if none depends on x after all."""

    @functools.wraps(rule)
    def on_settled(equation: Equation, *operands: Any) -> list[Any]:
        operands = tuple(settled(operand) for operand in operands)
        if not any(isinstance(operand, Paired) for operand in operands):
            return equation.bind(*operands)
        check_indices(equation, operands)
        return rule(equation, *operands)

    return on_settled


def check_indices(equation: Equation, operands: Sequence[Any]) -> None:
    first = _FIRST_INDEX.get(equation.primitive.name, len(operands))
    for operand in operands[first:]:
        if isinstance(operand, Paired) and not jnp.issubdtype(operand.dtype, jnp.inexact):
            raise UnsupportedPrimitive(
                f"{equation} at {equation.line} uses a value that depends on x as an index. "
                "An index has no multiplier: compute it from something that is not attributed, "
                "or replace the look-up by a product with a one-hot or soft weight."
            )


def _split(operands: Sequence[Any]) -> tuple[list[int], list[Any], list[Any], Any]:
    """Positions, values and references of what is differentiable, and all operands' values."""
    positions = [
        i
        for i, operand in enumerate(operands)
        if isinstance(operand, Paired) and jnp.issubdtype(operand.dtype, jnp.inexact)
    ]
    return (
        positions,
        [operands[i].value for i in positions],
        [operands[i].reference for i in positions],
        [None if i in positions else value(operand) for i, operand in enumerate(operands)],
    )


def _filled(rest: Sequence[Any], positions: Sequence[int], active: Sequence[Any]) -> list[Any]:
    filled = list(rest)
    for position, array in zip(positions, active, strict=True):
        filled[position] = array
    return filled


# The rules.


@_on_settled
def linear(equation: Equation, *operands: Any) -> list[Any]:
    """Linear in the active operands together: the primitive's own vjp."""
    values = equation.bind(*map(value, operands))
    references = equation.bind(*map(reference, operands))
    known = hints(equation, operands)
    return [Pair(v, v0, **known) for v, v0 in zip(values, references, strict=True)]


def hints(equation: Equation, operands: Sequence[Any]) -> dict[str, bool]:
    """What a linear equation's output is to a later product: a sum, or the inverse of one."""
    active = _lifted(operands)
    name = equation.primitive.name
    return {
        "reduced": name in ("reduce_sum", "psum") or all(o.reduced for o in active),
        "scale": name in _RESHAPING and active[0].scale,
    }


@_on_settled
def discrete(equation: Equation, *operands: Any) -> list[Any]:
    """Booleans and integers that depend on x: known at both ends, nothing flows back."""
    values = equation.bind(*map(value, operands))
    references = equation.bind(*map(reference, operands))
    return [Pair(v, v0) for v, v0 in zip(values, references, strict=True)]


def refuse(equation: Equation, *operands: Any) -> list[Any]:
    """Operations without a derivative."""
    raise UnsupportedPrimitive(
        f"{equation} at {equation.line} is not differentiable, and depends on x: "
        f"'{equation.primitive.name}' may give another result at the reference, which no "
        "multiplier can carry. Compute it from something that is not attributed, freeze it by "
        "`jax.lax.stop_gradient` around its operand, or register a rule of your own for it."
    )


def reshaped(equation: Equation, *operands: Any) -> list[Any]:
    """A reshaping commutes with booleans that wait; they stay functions of their roots."""
    (operand, *rest) = operands
    waits = isinstance(operand, Deferred) and not is_real(operand)
    if waits and not any(isinstance(other, Paired) for other in rest):
        return [operand.through(equation, linear)]
    return linear(equation, *operands)


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    """An active operand brought to the shape of the elementwise result."""
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    if isinstance(operand, Deferred) and not is_real(operand):
        spreading = _broadcast_equation(operand, shape)
        return operand.through(spreading, linear)
    operand = operand.settle()
    if not isinstance(operand, Paired):
        return operand
    return Pair(
        broadcast(operand.value, shape),
        broadcast(operand.reference, shape),
        reduced=operand.reduced,
        scale=operand.scale,
    )


class _Broadcast(Equation):
    def bind(self, *values: Any) -> list[Any]:
        return [broadcast(values[0], self.params["shape"])]


def _broadcast_equation(operand: Any, shape: tuple[int, ...]) -> Equation:
    (primitive,) = compat.resolve(["broadcast_in_dim"])
    return _Broadcast(primitive, (), (), {"shape": shape})


def elementwise(norm_theta: float | None, equation: Equation, *operands: Any) -> list[Any]:
    """One root: wait for the whole chain.  Several: sums are linear, the rest Shapley values."""
    shape = equation.aval.shape
    operands = tuple(_spread(operand, shape) for operand in operands)
    roots = _roots(operands)
    if len(roots) > 1:  # what is frozen of another root is a constant
        operands = tuple(
            operand.settle() if getattr(operand, "frozen", False) else operand
            for operand in operands
        )
        roots = _roots(operands)
    if not roots:
        return equation.bind(*operands)
    dtypes = [equation.aval.dtype, *(operand.dtype for operand in _lifted(operands))]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return _complex(equation, *operands)
    if len(roots) == 1 and not any(isinstance(operand, Product) for operand in operands):
        return [Deferred(equation, operands)]
    return _several_roots(norm_theta, equation, operands)


def _lifted(operands: Sequence[Any]) -> list[Any]:
    return [operand for operand in operands if isinstance(operand, Paired)]


def _roots(operands: Sequence[Any]) -> tuple[Pair, ...]:
    return unique(root for operand in _lifted(operands) for root in operand.roots)


def _several_roots(
    norm_theta: float | None, equation: Equation, operands: tuple[Any, ...]
) -> list[Any]:
    name = equation.primitive.name
    if not jnp.issubdtype(equation.aval.dtype, jnp.floating):
        return [Deferred(equation, [_unproduct(operand) for operand in operands])]
    if name in ("add", "sub", "convert_element_type", "neg", "stop_gradient") and all(
        is_real(operand) for operand in _lifted(operands)
    ):
        return linear(equation, *operands)
    if name == "mul":
        return [_times(norm_theta, equation, *operands)]
    if name == "div" and all(isinstance(operand, Paired) for operand in operands):
        return [_weighted(norm_theta, equation, *map(settled, operands), inverse=True)]
    if name == "select_n" and not isinstance(operands[0], Paired):
        return linear(equation, *operands)
    chooser = _roots(operands[:1])
    return [
        Deferred(
            equation,
            [
                operand
                if isinstance(operand, Deferred)
                and (not is_real(operand) or set(map(id, operand.roots)) <= set(map(id, chooser)))
                else settled(operand)
                for operand in operands
            ],
        )
    ]


def _unproduct(operand: Any) -> Any:
    return operand.settle() if isinstance(operand, Product) else operand


def _complex(equation: Equation, *operands: Any) -> list[Any]:
    name = equation.primitive.name
    operands = tuple(settled(operand) for operand in operands)
    active = _lifted(operands)
    if name in ("add", "sub", "neg", "convert_element_type", "copy") or (
        len(active) == 1 and (name == "mul" or (name == "div" and active[0] is operands[0]))
    ):
        return linear(equation, *operands)
    if name == "mul":
        return bilinear(equation, *operands)
    return path_integral(equation, *operands)


# Products.


class Product(Paired):
    """A product of several roots that waits for further factors: Shapley values of all of them."""

    def __init__(self, equation: Equation, factors: Sequence[Any]):
        self.equation = equation
        self.factors = tuple(factors)
        self.reference = functools.reduce(equation.function, map(reference, factors))
        self.roots = _roots(factors)
        self.linear = False
        self.reduced = all(root.reduced for root in self.roots)
        self.scale = False

    def settle(self) -> Any:
        return self._settled

    @functools.cached_property
    def _settled(self) -> Pair:
        factors = [factor.settle() for factor in self.factors]
        multiply = self.equation.function

        def primal(values: Any, references: Any) -> Any:
            return functools.reduce(multiply, values)

        result = scaled(primal, _product_slopes)(
            [factor.value for factor in factors], [factor.reference for factor in factors]
        )
        return Pair(result, self.reference, reduced=self.reduced)


def _product_slopes(values: Sequence[Any], references: Sequence[Any]) -> list[Any]:
    """∫₀¹ Π_{j≠i} (v0_j + t Δ_j) dt, which is the Shapley value, by a quadrature exact for it."""
    if len(values) == 2:
        return [(v + v0) / 2 for v, v0 in zip(values[::-1], references[::-1], strict=True)]
    points, weights = _gauss_legendre((len(values) + 1) // 2)
    total = [jnp.zeros_like(v) for v in values]
    for t, weight in zip(points, weights, strict=True):
        at = [v0 + t * (v - v0) for v, v0 in zip(values, references, strict=True)]
        for i in range(len(values)):
            others = functools.reduce(jnp.multiply, at[:i] + at[i + 1 :])
            total[i] = total[i] + weight * others
    return total


def _gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return [float(p + 1) / 2 for p in points], [float(w) / 2 for w in weights]


def _times(norm_theta: float | None, equation: Equation, a: Any, b: Any) -> Any:
    if _is_scale(a) != _is_scale(b):
        c, s = (b, a) if _is_scale(a) else (a, b)
        return _weighted(norm_theta, equation, settled(c), settled(s))
    factors: dict[int, Any] = {}
    constant = None
    for operand in (a, b):
        if not isinstance(operand, Paired):
            constant = operand
            continue
        for factor in operand.factors if isinstance(operand, Product) else (operand,):
            factor = factor if len(factor.roots) == 1 else factor.settle()
            root = id(factor.roots[0])
            known = factors.get(root)
            factors[root] = factor if known is None else Deferred(equation, (known, factor))
    if constant is not None:
        first = next(iter(factors))
        factors[first] = Deferred(equation, (factors[first], constant))
    if len(factors) == 1:
        return next(iter(factors.values()))
    product = Product(equation, list(factors.values()))
    if len(factors) >= _MOST_FACTORS:
        return product.settle()
    return product


def _is_scale(operand: Any) -> bool:
    return isinstance(operand, Paired) and getattr(operand, "scale", False)


def _weighted(
    norm_theta: float | None, equation: Equation, c: Any, s: Any, *, inverse: bool = False
) -> Any:
    """c·s (or c/b with s = 1/b): Δ(cs) = s_θ Δc + c_θ Δs, well conditioned by the choice of θ."""
    if not isinstance(c, Paired) or not isinstance(s, Paired):
        return linear(equation, c, s)[0] if not inverse else elementwise(None, equation, c, s)[0]
    chooses = _is_scale(s) or (inverse and s.reduced)

    def slopes(active: Any, references: Any) -> list[Any]:
        (c, s), (c0, s0) = active, references
        if inverse:
            s, s0 = 1 / s, 1 / s0
        theta = _theta(s, s0, norm_theta) if chooses else 0.5
        of_c, of_s = theta * s + (1 - theta) * s0, (1 - theta) * c + theta * c0
        return [of_c, -of_s * s * s0 if inverse else of_s]

    def primal(active: Any, references: Any) -> Any:
        return equation.function(*active)

    c0, s0 = c.reference, s.reference
    result = scaled(primal, slopes)([c.value, s.value], [c0, s0])
    return Pair(result, equation.function(c0, s0), reduced=c.reduced and s.reduced)


def _theta(s: Any, s0: Any, fixed: float | None) -> Any:
    """½, and the end of the smaller scale where the two are far apart."""
    if fixed is not None:
        return fixed
    s, s0 = jnp.abs(s), jnp.abs(s0)
    return jnp.where(s0 > _LARGE * s, 1, jnp.where(s > _LARGE * s0, 0, 0.5)).astype(s.dtype)


@_on_settled
def bilinear(equation: Equation, *operands: Any) -> list[Any]:
    """ΔA·B̄ + Ā·ΔB: the vjp at the midpoint operands, the two-player Shapley value."""
    positions, values, references, rest = _split(operands)
    if len(positions) == 1:
        return linear(equation, *operands)

    def function(*active: Any) -> Any:
        return equation.function(*_filled(rest, positions, active))

    def midpoints(active: Any, references: Any) -> Any:
        return [(v + v0) / 2 for v, v0 in zip(active, references, strict=True)]

    def backward(middles: Any, cotangent: Any) -> Any:
        a, b = middles
        (of_a,) = jax.linear_transpose(lambda a: function(a, b), a)(cotangent)
        (of_b,) = jax.linear_transpose(lambda b: function(a, b), b)(cotangent)
        return [of_a, of_b]

    surrogate = attach(lambda active, _: function(*active), midpoints, backward)
    return [Pair(surrogate(values, references), function(*references), reduced=True)]


# Maxima.


@_on_settled
def winner(equation: Equation, *operands: Any) -> list[Any]:
    """All of Δy to the winner: at x where y rose, at the reference where it fell (a minimum: the
    other way round).  The winner's own Δ is at least Δy, hence |multiplier| ≤ 1."""
    positions, values, references, rest = _split(operands)
    falls = "min" in equation.primitive.name

    def function(active: Any, rest: Any) -> Any:
        return equation.function(*_filled(rest, positions, active))

    def shares(active: Any, passive: Any) -> Any:
        references, rest = passive
        deltas = jax.tree.map(jnp.subtract, active, references)

        def function_of(active: Any) -> Any:
            return function(active, rest)

        y, change = jax.jvp(function_of, (active,), (deltas,))
        y0, change0 = jax.jvp(function_of, (references,), (deltas,))
        here = (y < y0) if falls else (y > y0)
        share = jnp.where(here, _ratio(y - y0, change), 0)
        share0 = jnp.where(here, 0, _ratio(y - y0, change0))
        return active, references, rest, share, share0

    def backward(saved: Any, cotangent: Any) -> Any:
        active, references, rest, share, share0 = saved
        (here,) = jax.vjp(lambda a: function(a, rest), active)[1](cotangent * share)
        (there,) = jax.vjp(lambda a: function(a, rest), references)[1](cotangent * share0)
        return jax.tree.map(jnp.add, here, there)

    surrogate = attach(lambda a, p: function(a, p[1]), shares, backward)
    return [Pair(surrogate(values, (references, rest)), function(references, rest), reduced=True)]


def _ratio(a: Any, b: Any) -> Any:
    """a/b, and 1 where nothing moved."""
    still = b == 0
    return jnp.where(still, 1, a / jnp.where(still, 1, b)).astype(a.dtype)


# Softmax and logsumexp.


def _log_means(x: Any, x0: Any, axes: tuple[int, ...]) -> Any:
    """L_j = (p_j - p0_j)/(ln p_j - ln p0_j), the logarithmic means of two softmaxes."""
    log_p, log_p0 = jax.nn.log_softmax(x, axis=axes), jax.nn.log_softmax(x0, axis=axes)
    p, p0 = jnp.exp(log_p), jnp.exp(log_p0)
    masked = jnp.isneginf(log_p) | jnp.isneginf(log_p0)
    log_p, log_p0 = jnp.where(masked, 0, log_p), jnp.where(masked, 0, log_p0)
    return jnp.where(masked, 0, divided_difference.exp(log_p, log_p0, p, p0))


def _softmax_like(
    backward: Callable[[Any, Any, tuple[int, ...]], Any],
) -> Callable[..., list[Any]]:
    """A rule whose multipliers follow from the logarithmic means and the output's multipliers."""

    @_on_settled
    def rule(equation: Equation, operand: Any) -> list[Any]:
        axes = equation.params["axes"]
        surrogate = attach(
            lambda x, x0: equation.function(x),
            lambda x, x0: _log_means(x, x0, axes),
            lambda means, cotangent: backward(means, cotangent, axes),
        )
        return [
            Pair(surrogate(operand.value, operand.reference), equation.function(operand.reference))
        ]

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


# Everything else.


@_on_settled
def path_integral(equation: Equation, *operands: Any) -> list[Any]:
    """∫₀¹ of the primitive's own vjp on the segment from its reference operands to its operands.

    Gauss-Legendre, then the rank-one correction m += Δx (⟨m^o, Δy⟩ - ⟨m, Δx⟩)/‖Δx‖², which makes
    it exact where the quadrature is not (a sort's vjp is piecewise constant); batched primitives
    are corrected item by item.
    """
    positions, values, references, rest = _split(operands)
    if not positions:
        return discrete(equation, *operands)

    def outputs(active: Any, rest: Any) -> list[Any]:
        return equation.bind(*_filled(rest, positions, active))

    shapes = jax.eval_shape(outputs, references, rest)
    smooth = [i for i, out in enumerate(shapes) if jnp.issubdtype(out.dtype, jnp.inexact)]

    def function(active: Any, rest: Any) -> list[Any]:
        results = outputs(active, rest)
        return [results[i] for i in smooth]

    def residuals(active: Any, passive: Any) -> Any:
        return active, passive, function(active, passive[1])

    def backward(saved: Any, cotangents: Any) -> Any:
        active, (references, rest), y = saved
        deltas = jax.tree.map(jnp.subtract, active, references)

        def vjp_at(t: Any) -> Any:
            point = jax.tree.map(lambda v0, d: v0 + (t * d).astype(d.dtype), references, deltas)
            return jax.vjp(lambda a: function(a, rest), point)[1](cotangents)[0]

        points, weights = _gauss_legendre(_NODES)
        multipliers = jax.tree.map(jnp.zeros_like, active)

        def add(total: Any, node: Any) -> tuple[Any, None]:
            t, weight = node
            step = jax.tree.map(lambda m: (weight * m).astype(m.dtype), vjp_at(t))
            return jax.tree.map(jnp.add, total, step), None

        multipliers, _ = jax.lax.scan(add, multipliers, (jnp.array(points), jnp.array(weights)))
        changes = jax.tree.map(jnp.subtract, y, function(references, rest))
        return _corrected(equation, multipliers, deltas, cotangents, changes)

    surrogate = attach(lambda a, p: function(a, p[1]), residuals, backward)
    results = dict(zip(smooth, surrogate(values, (references, rest)), strict=True))
    at_value = outputs([jax.lax.stop_gradient(v) for v in values], rest)
    at_reference = outputs(references, rest)
    return [Pair(results.get(i, at_value[i]), v0) for i, v0 in enumerate(at_reference)]


_ALONG = ("cumlogsumexp", "cumprod", "cummax", "cummin")
_MATRICES = tuple(
    """cholesky eigh hessenberg householder_product lu qr schur svd triangular_solve tridiagonal
    tridiagonal_solve eig""".split()
)


def _corrected(
    equation: Equation, multipliers: Any, deltas: Any, cotangents: Any, changes: Any
) -> Any:
    """Multipliers plus the multiple of Δx that makes each item of the batch complete."""
    inner = functools.partial(_inner, equation)
    wanted = inner(cotangents, changes)
    have, norm = inner(multipliers, deltas), inner(deltas, jax.tree.map(jnp.conj, deltas))
    still = norm == 0
    step = jnp.where(still, 0, (wanted - have) / jnp.where(still, 1, norm))

    def correct(m: Any, delta: Any) -> Any:
        factor = step.reshape(step.shape + (1,) * (delta.ndim - step.ndim))
        if equation.primitive.name in (*_ALONG, "sort", "reduce_prod"):
            factor = step
        return m + (factor * jnp.conj(delta)).astype(m.dtype)

    return jax.tree.map(correct, multipliers, deltas)


def _inner(equation: Equation, left: Any, right: Any) -> Any:
    """Re⟨left, right⟩ of each item of the batch that the primitive works on."""
    name, params = equation.primitive.name, equation.params
    total: Any = 0
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        product = jnp.real(a * b)
        if name in _ALONG:
            total = total + jnp.sum(product, params["axis"], keepdims=True)
        elif name == "sort":
            total = total + jnp.sum(product, params["dimension"], keepdims=True)
        elif name == "reduce_prod":
            same_rank = product.ndim == equation.inputs[0].aval.ndim
            axes = params["axes"]
            total = total + (
                jnp.sum(product, axes, keepdims=True)
                if same_rank
                else jnp.expand_dims(product, axes)
            )
        elif name in ("top_k", *_MATRICES):
            batch = equation.inputs[0].aval.ndim - (1 if name == "top_k" else 2)
            total = total + jnp.sum(product, tuple(range(batch, product.ndim)))
        else:
            total = total + jnp.sum(product)
    return total


@_on_settled
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
        return solve(_filled(rest, smooth, active[0]), active[1])

    def residuals(active: Any, passive: Any) -> Any:
        (references, rest) = passive
        y, y0 = function(active, rest), function(references, rest)
        middle = jax.tree.map(lambda v, v0: (v + v0) / 2, (active, y), (references, y0))
        return middle, rest

    def backward(saved: Any, cotangents: Any) -> Any:
        ((consts, b), y), rest = saved
        (of_b,) = jax.vjp(lambda b: function((consts, b), rest), b)[1](cotangents)

        def product(consts: Any) -> list[Any]:
            return _call(matvec, *_filled(rest, smooth, consts), *y)

        (of_a,) = jax.vjp(product, consts)[1](jax.tree.map(jnp.negative, of_b))
        return of_a, of_b

    surrogate = attach(lambda a, p: function(a, p[1]), residuals, backward)
    active = ([consts[i].value for i in smooth], [value(v) for v in b])
    references = ([consts[i].reference for i in smooth], [reference(v) for v in b])
    results = surrogate(active, (references, rest))
    return [Pair(v, v0) for v, v0 in zip(results, function(references, rest), strict=True)]


def _call(jaxpr: Any, *args: Any) -> list[Any]:
    return jax.extend.core.jaxpr_as_fun(jaxpr)(*args)
