"""Everything differentiable without a rule of its own: the local path integral."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain._numerics.trees import wide, wide_dtype
from jaxplain._quadrature import gauss_legendre
from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.divided_difference import difference, stand_in
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.rules.linear import discrete
from jaxplain.surrogate.rules.operands import differentiable, filled, on_settled
from jaxplain.surrogate.values.pair import Pair

Arrays = list[Array]
Items = Callable[[Array], Array]

_NODES = 8  # Gauss-Legendre nodes
_MASK = 1e8  # times all that changes by them: contributions that only masked numbers make
_TRUSTED = 8  # roundings of an item's Δy: what the integral may miss of it without a correction


@on_settled
def path_integral(equation: Equation, *operands: Any) -> list[Any]:
    """∫₀¹ of the primitive's own vjp on the segment from its reference operands to its operands.

    Complete whatever the quadrature, item by item of a batched primitive: see `integrate`.
    """
    positions, values, references, rest = differentiable(operands)
    if not positions:
        return discrete(equation, *operands)

    def function(active: Arrays, rest: Any) -> Arrays:
        return equation.bind(*filled(rest, positions, active))

    items = functools.partial(_sum_items, equation)
    at_x = integrate(function, values, references, rest, items)
    return list(map(Pair, at_x, function(references, rest)))


def integrate(
    function: Callable[[Arrays, Any], Sequence[Array]],
    values: Sequence[Array],
    references: Sequence[Array],
    rest: Any = None,
    items: Items = jnp.sum,
) -> Arrays:
    """`function(values, rest)` of any JAX function, with a path integral as its backward pass.

    m = ∫₀¹ of the function's vjp on the segment, by Gauss-Legendre, then the rank-one correction
    m += Δx (⟨m^o, Δy⟩ - ⟨m, Δx⟩)/‖Δx‖², which makes it complete where the quadrature is not (a
    sort's vjp is piecewise constant).  It is applied as far as it is more than the rounding of Δy:
    as Δx → 0 the multipliers are the derivative, with all its digits.

    Args:
      function: `function(active, rest)` gives a list of arrays; JAX differentiates it in `active`
        in reverse mode. From integers and booleans among its outputs nothing flows back.
      values: what `function` is evaluated at, inexact arrays.
      references: the same at the reference; nothing computed of them alone depends on `values`.
      rest: everything else that `function` reads, the same at both ends.
      items: sums an array, shaped like one of `values` or of the outputs, over what one item of a
        batch consists of; the results of all of them broadcast, axes that lack at the end are 1.

    Returns:
      The outputs at `values`. An item's multipliers times Δx sum to its ⟨m^o, Δy⟩, to the rounding
      of y.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> f = lambda active, rest: [jnp.sort(active[0])]
      >>> x, ref = jnp.array([3.0, 1.0]), jnp.zeros(2)
      >>> y, vjp = jax.vjp(lambda x: integrate(f, [x], [ref])[0], x)
      >>> vjp(jnp.array([0.0, 1.0]))
      (Array([1., 0.], dtype=float32),)

    Source: Sundararajan et al., arXiv 1703.01365, eq. 1, of one operation.
    """
    values, references = list(values), list(references)
    at_reference = function(references, rest)
    smooth = [i for i, v0 in enumerate(at_reference) if jnp.issubdtype(v0.dtype, jnp.inexact)]

    def flowing(active: Arrays, rest: Any) -> Arrays:
        results = function(active, rest)
        return [results[i] for i in smooth]

    def forward(active: Arrays, passive: Any) -> tuple[Arrays, Any]:
        results = flowing(active, passive[1])
        return results, (active, results, passive)

    def backward(saved: Any, cotangents: Arrays) -> Arrays:
        active, results, (references, rest, results0) = saved
        ends = (active, references), (results, results0)

        def vjp(active: Arrays, cotangents: Arrays) -> Arrays:
            return jax.vjp(lambda a: flowing(a, rest), active)[1](cotangents)[0]

        return multipliers(vjp, *ends, cotangents, items)

    passive = (references, rest, [at_reference[i] for i in smooth])
    found = dict(zip(smooth, with_backward(forward, backward)(values, passive), strict=True))
    if len(found) < len(at_reference):
        fixed = function(list(map(jax.lax.stop_gradient, values)), rest)
        found = {i: found.get(i, v) for i, v in enumerate(fixed)}
    return [found[i] for i in range(len(at_reference))]


def multipliers(
    vjp: Callable[[Arrays, Arrays], Arrays],
    operands: tuple[Arrays, Arrays],
    outputs: tuple[Arrays, Arrays],
    cotangents: Arrays,
    items: Items,
    nodes: int = _NODES,
) -> Arrays:
    """The integral of `vjp(active, cotangents)` and its correction, in float32 at least."""
    starts, deltas = _segment(*operands)
    changes = list(map(difference, *outputs))
    integral, have, coarse, size = _integral(
        _finite(vjp, starts, deltas, cotangents), deltas, items, nodes
    )
    total = _inner(items, cotangents, changes)
    missing = total - have
    rounding = _rounding(items, cotangents, outputs) + _rounding(items, integral, operands)
    share = _share(missing, have - coarse, size, rounding)
    corrected = _corrected(items, integral, deltas, share * missing)
    changed = _sizes(items, cotangents, changes)
    uncancelled = _uncancelled(items, corrected, deltas, total, changed)
    return [m.astype(d.dtype) for m, d in zip(uncancelled, deltas, strict=True)]


def completed(
    multipliers: Arrays, operands: tuple[Arrays, Arrays], outputs: tuple[Arrays, Arrays],
    cotangents: Arrays,
) -> Arrays:
    """Multipliers of an iterative method with what they miss of ⟨m^o, Δy⟩ beyond rounding."""
    deltas, changes = (list(map(difference, *ends)) for ends in (operands, outputs))
    missing = _inner(jnp.sum, cotangents, changes) - _inner(jnp.sum, multipliers, deltas)
    rounding = _rounding(jnp.sum, cotangents, outputs) + _rounding(jnp.sum, multipliers, operands)
    nothing = jnp.zeros_like(missing)
    missing *= _share(missing, nothing, nothing, rounding)
    corrected = _corrected(jnp.sum, list(map(wide, multipliers)), deltas, missing)
    return [m.astype(d.dtype) for m, d in zip(corrected, deltas, strict=True)]


def _uncancelled(
    items: Items, multipliers: Arrays, deltas: Arrays, total: Array, changed: Array
) -> Arrays:
    """What masked numbers make that come to be seen while others are masked is the difference of
    infinite contributions: each has its share of it by their sizes.

    Such contributions are larger than all they change, Σ|m^o Δy|; those of large numbers are not.
    """
    size = _sizes(items, multipliers, deltas)
    lost = size > _MASK * (1 + changed)
    share = jnp.where(lost, total / jnp.where(lost, size, 1), 0)

    def shared(m: Array, d: Array) -> Array:
        size = jnp.abs(m).astype(wide(m).dtype)
        return jnp.where(_spread(lost, m) != 0, _spread(share, m) * size * jnp.sign(wide(d)), m)

    return list(map(shared, multipliers, deltas))


def _sizes(items: Items, multipliers: Arrays, deltas: Arrays) -> Array:
    """Σ|mΔ| of each item."""
    pairs = zip(multipliers, deltas, strict=True)
    return _total(items, [jnp.abs(wide(m) * wide(d)) for m, d in pairs])


def _segment(values: Arrays, references: Arrays) -> tuple[Arrays, Arrays]:
    """Where it starts, and Δ, between the stand-ins of infinities."""
    return list(map(stand_in, references)), list(map(difference, values, references))


def _finite(
    vjp: Callable[[Arrays, Arrays], Arrays], starts: Arrays, deltas: Arrays, cotangents: Arrays
) -> Callable[[Array], Arrays]:
    """t → the vjp at start + tΔ; nothing from where it is not finite, as beside a masked −inf."""

    def at(t: Array) -> Arrays:
        steps = [_times(t, d).astype(d.dtype) for d in deltas]
        found = vjp(list(map(jnp.add, starts, steps)), cotangents)
        return [jnp.where(jnp.isfinite(m), m, 0) for m in found]

    return at


def _integral(
    vjp: Callable[[Array], Arrays], deltas: Arrays, items: Items, count: int
) -> tuple[Arrays, Array, Array, Array]:
    """∫ of the vjp m; of each item ∫⟨m, Δ⟩, the same by a coarser rule, and ∫|⟨m, Δ⟩|."""

    def add(sums: Any, node: Any) -> tuple[Any, None]:
        t, weight, coarse = node
        m = vjp(t)
        along = _inner(items, m, deltas)
        sizes = _times(weight, jnp.abs(along))
        terms = [_times(weight, a) for a in m], _times(weight, along), _times(coarse, along), sizes
        return jax.tree.map(jnp.add, sums, terms), None

    nothing = jnp.zeros_like(_inner(items, deltas, deltas))
    zeros = list(map(jnp.zeros_like, map(wide, deltas)))
    nodes = tuple(map(jnp.asarray, _nested(count)))
    return jax.lax.scan(add, (zeros, nothing, nothing, nothing), nodes)[0]


def _nested(nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights, and those of the rule on every other pair of the nodes.

    New ones each time: of an array that is kept JAX remembers the precision it first had.
    """
    points, weights = gauss_legendre(nodes)
    kept = [i for i in range(nodes) if min(i, nodes - 1 - i) % 2 == 0]
    powers = np.arange(len(kept))
    coarse = np.zeros(nodes)
    coarse[kept] = np.linalg.solve(
        np.vander(2 * points[kept] - 1, increasing=True).T, (1 - powers % 2) / (powers + 1)
    )
    return points, weights, coarse


def _share(missing: Array, bend: Array, size: Array, rounding: Array) -> Array:
    """How much of the missing is to be corrected, from none to all: 1 where the quadrature errs by
    more than Δy is rounded, which r² of its relative disagreement r with a coarser one bounds; or
    where more is missing than rounding explains, since a leap between nodes they do not see."""
    there = size > 0
    ratio = jnp.abs(bend) / jnp.where(there, size, 1)
    error = jnp.where(there, ratio * ratio * size, 0)
    certain = rounding > 0
    scale = jnp.where(certain, rounding, 1)
    seen = jnp.where(certain, error / (error + scale), 1)
    unseen = jnp.where(certain, jnp.clip(jnp.abs(missing) / (_TRUSTED * scale) - 1, 0, 1), 1)
    return jax.lax.stop_gradient(jnp.maximum(seen, unseen))  # a choice, with no slope of its own


def _rounding(items: Items, factors: Arrays, ends: tuple[Arrays, Arrays]) -> Array:
    """eps Σ |factor| (|v| + |v0|) of each item, over what is finite."""
    terms = []
    for factor, v, v0 in zip(factors, *ends, strict=True):
        size = wide(jnp.abs(v)) + wide(jnp.abs(v0))
        size = float(jnp.finfo(v.dtype).eps) * jnp.where(jnp.isfinite(size), size, 0)
        terms.append(wide(jnp.abs(factor)) * size)
    return _total(items, terms)


def _corrected(items: Items, multipliers: Arrays, deltas: Arrays, missing: Array) -> Arrays:
    """Multipliers plus the multiple of Δx that adds `missing` to each item of the batch.

    Δx is measured in its own size, for its square may underflow.
    """
    size = _total(items, [jnp.abs(d) for d in deltas])
    moved = size > 0
    size = jnp.where(moved, size, 1)
    units = [wide(d) / _spread(size, d) for d in deltas]
    norm = _inner(items, units, list(map(jnp.conj, units)))
    step = jnp.where(moved, missing / size / jnp.where(moved, norm, 1), 0)
    return [m + _spread(step, u) * jnp.conj(u) for m, u in zip(multipliers, units, strict=True)]


def _inner(items: Items, left: Arrays, right: Arrays) -> Array:
    """Re⟨left, right⟩ of each item of the batch that the function works on; 0 · ∞ is 0."""
    pairs = [(wide(a), wide(b)) for a, b in zip(left, right, strict=True)]
    return _total(items, [jnp.real(jnp.where(a == 0, 0, a * b)) for a, b in pairs])


def _total(items: Items, arrays: Arrays) -> Array:
    dtype = max((wide_dtype(a.dtype) for a in arrays), key=lambda dtype: jnp.finfo(dtype).bits)
    return functools.reduce(jnp.add, [items(a.astype(dtype)) for a in arrays])


def _spread(item: Array, array: Array) -> Array:
    """An item's number for every element of the item, in the array's dtype."""
    item = item.reshape(item.shape + (1,) * (array.ndim - item.ndim))
    return item.astype(wide(array).dtype)


def _times(number: Array, array: Array) -> Array:
    array = wide(array)
    return number.astype(array.dtype) * array


def _sum_items(equation: Equation, product: Array) -> Array:
    """Summed over what one item of the batch consists of, those axes kept at size 1."""
    facts, params = equation.facts, equation.params
    if facts.group == "elementwise":
        return product
    if facts.along is not None:
        axes = params.get(facts.along, -1)  # a top_k without an axis works along the last one
        if product.ndim == equation.inputs[0].aval.ndim:
            return jnp.sum(product, axes, keepdims=True)
        return jnp.expand_dims(product, axes)
    if facts.matrix:
        batch = max(atom.aval.ndim for atom in equation.inputs) - 2
        return jnp.sum(product, tuple(range(batch, product.ndim)))
    return jnp.sum(product)
