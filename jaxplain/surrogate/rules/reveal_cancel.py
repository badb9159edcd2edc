"""DeepLIFT's RevealCancel rule, and the Linear rule's positive and negative parts.

Multipliers are kept apart for the parts Δ⁺ and Δ⁻ of every value, so that what cancels in a sum is
seen by both sides of the sum.  Learned maps and nonlinearities have rules of their own here; what
else there is (products, norms, softmax, maxima) follows the Rescale table on the totals and is
split by its sign.
Source: arXiv 1704.02685, sections 3.4 (positive and negative parts), 3.5.1 (Linear) and 3.5.3
(RevealCancel), with its appendix B.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate import compat, primitives
from jaxplain.surrogate.backward import attach, with_backward
from jaxplain.surrogate.lifted import settled, value
from jaxplain.surrogate.pair import Deferred, Expression, Pair, Paired, is_real, unique
from jaxplain.surrogate.program import Equation, broadcast
from jaxplain.surrogate.rules.counting import COUNTS, counted
from jaxplain.surrogate.rules.linear import bilinear, hints
from jaxplain.surrogate.rules.operands import check_indices, reference, refuse_counts
from jaxplain.surrogate.rules.rescale import rescale
from jaxplain.surrogate.split import Split, from_pair
from jaxplain.surrogate.table import Rule, RuleTable


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a nonlinearity stands: what a table may choose its rule by."""

    primitive: str  # of the nonlinearity's last equation
    fed: str | None  # the learned map before it: "dot_general", "conv_general_dilated" or None
    path: str  # of modules and `jax.named_scope`s, as in "encoder/layer_0/mlp"


Choice = Callable[[Place], bool]


def reveal_cancel(
    *, after: str | None = None, within: str | None = None, where: Choice | None = None
) -> RuleTable:
    r"""RevealCancel at the nonlinearities that are chosen (all, by default), Rescale at the others.

    Where a nonlinearity has a limited domain (√, log, 1/x: the scale of a norm) it keeps Rescale:
    x₀ + Δ⁺ may lie outside.

    Linear y = Wx: Δy⁺ collects the w_i Δx_i > 0 and Δy⁻ the rest.  Nonlinear y = g(x):

      Δy⁺ = ½[g(x₀ + Δx⁺) - g(x₀)] + ½[g(x₀ + Δx⁻ + Δx⁺) - g(x₀ + Δx⁻)],

    Δy⁻ likewise, and m_{Δ±} = Δy^±/Δx^±.

    Args:
      after: "dense" or "conv": only at nonlinearities fed by such a map, seen through shape
        operations and batch norm.
      within: a pattern ("head/*") for the path of modules (linen) and `jax.named_scope`s; `*`
        matches anything.
      where: any other choice, a function of a `Place`.  Conditions are joined by and.

    Returns:
      A RuleTable over split values.  Multipliers times (x - ref) sum to f(x) - f(ref).

    Raises:
      ValueError: `after` is not "dense" or "conv".

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> minimum = lambda x: x[0] - jax.nn.relu(x[0] - x[1])
      >>> jxp.deeplift(minimum, 0.0, rules="reveal_cancel")(jnp.array([3.0, 2.0]))
      Array([1., 1.], dtype=float32)

    Source: arXiv 1704.02685, section 3.5.3.
    """
    maps = {"dense": "dot_general", "conv": "conv_general_dilated"}
    if after is not None and after not in maps:
        raise ValueError(f"after must be one of {sorted(maps)}, and is {after!r}")

    def chosen(place: Place) -> bool:
        return (
            (after is None or place.fed == maps[after])
            and (within is None or fnmatch.fnmatch(place.path, within))
            and (where is None or where(place))
        )

    pairs = rescale()
    table = RuleTable(Split, {key: _on_totals(rule) for key, rule in pairs.rules.items()})
    groups: dict[str, Rule] = {
        "linear": _structural,
        "elementwise": functools.partial(
            _elementwise, chosen, pairs.rules[compat.resolve(["mul"])[0]]
        ),
        "bilinear": _learned,
        "discrete": _structural,
    }
    for name, rule in groups.items():
        table = table.register(primitives.group(name), rule)
    return table.register(COUNTS, _counted)


def genomics() -> RuleTable:
    """RevealCancel after dense layers, Rescale after convolutions: the original's default."""
    return reveal_cancel(after="dense")


# Rules.


class Waiting(Paired):
    """A value that the rules on pairs put off (a product, a predicate), to be split when asked."""

    def __init__(self, paired: Any, at_value: Any):
        self.paired = paired
        self.value = at_value
        self.reference = paired.reference
        self.roots = paired.roots
        self.linear = self.reduced = self.scale = False

    @functools.cached_property
    def _settled(self) -> Any:
        return from_pair(self.paired.settle(), self.value)

    def settle(self) -> Any:
        return self._settled


class Chain(Deferred):
    """Elementwise equations with one split root, put off until the whole function is known."""

    def __init__(self, chosen: Choice, equation: Equation, operands: Any):
        super().__init__(equation, operands)
        self.chosen = chosen
        self.value = equation.function(*map(value, operands))

    @functools.cached_property
    def _settled(self) -> Any:
        (root,) = self.roots
        if self.frozen:
            return jax.lax.stop_gradient(self.value)
        if not is_real(self) or not is_real(root):
            return Split(self.value, self.reference, self.value, self.value)
        active = [operand for operand in self.operands if isinstance(operand, Paired)]
        if len(active) == 1 and _is_affine(self):
            # A scaling keeps the parts: peeled off the end of the chain.
            return _scaled(self, active[0].settle())
        return self._nonlinear(self._entrance())

    def _entrance(self) -> Expression:
        """The chain with scalings peeled off its start, too."""
        expression = Expression(self)
        while True:
            (key,) = expression.keys
            readers = [n for n in expression.nodes if any(o is key for o in n.operands)]
            if len(readers) != 1 or readers[0] is self or not _is_affine(readers[0]):
                return expression
            (reader,) = readers
            if sum(isinstance(operand, Paired) for operand in reader.operands) != 1:
                return expression
            expression = Expression(self, keys=(reader,), roots=(reader.settle(),))

    def _nonlinear(self, expression: Expression) -> Split:
        (root,) = expression.roots
        place = Place(self.equation.primitive.name, root.fed, self.equation.path)
        # x0 + Δ⁺ and x0 + Δ⁻ alone are no values of the model: outside the domain of a root, a
        # logarithm or an inverse the parts can't be told apart.
        everywhere = not any(map(_has_a_domain, expression.nodes))
        reveals = everywhere and self.chosen(place)
        slopes = _reveal_cancel_slopes if reveals else _rescale_slopes

        def forward(parts: Any, passive: Any) -> Any:
            multipliers = slopes(expression, parts, *passive)
            return jax.tree.map(jnp.multiply, multipliers, parts), multipliers

        surrogate = with_backward(
            forward, lambda saved, cotangents: jax.tree.map(jnp.multiply, saved, cotangents)
        )
        passive = (root.value, root.reference, expression.constants)
        positive, negative = surrogate((root.positive, root.negative), passive)
        return Split(
            self.value,
            self.reference,
            positive,
            negative,
            reduced=self.reduced,
            scale=self.scale,
        )


def _reveal_cancel_slopes(
    expression: Expression, parts: Any, x: Any, x0: Any, constants: Any
) -> tuple[Any, Any]:
    """m_{Δ+} = ½[g(x0+Δ+) - g(x0) + g(x) - g(x0+Δ-)]/Δ+, and the same with + and - exchanged."""
    positive, negative = parts
    up, down = x0 + positive, x0 + negative

    def slope(start: Any, step: Any) -> Any:
        return expression.slope(start + step, start, constants)

    return (
        (slope(x0, positive) + slope(down, positive)) / 2,
        (slope(x0, negative) + slope(up, negative)) / 2,
    )


def _rescale_slopes(
    expression: Expression, parts: Any, x: Any, x0: Any, constants: Any
) -> tuple[Any, Any]:
    """Δy/Δx for both parts."""
    slope = expression.slope(x, x0, constants)
    return slope, slope


_DOMAINS = "sqrt rsqrt log log1p log2 pow cbrt acos acosh asin atanh erf_inv lgamma digamma".split()


def _has_a_domain(node: Deferred) -> bool:
    name = node.equation.primitive.name
    if name == "div":
        return isinstance(node.operands[1], Paired)
    return name in _DOMAINS or (name == "integer_pow" and node.equation.params["y"] < 0)


def _is_affine(node: Deferred) -> bool:
    """Whether one equation by itself is a scaling or a shift."""
    operands = [
        Pair(o.reference, o.reference) if isinstance(o, Paired) else o for o in node.operands
    ]
    return Deferred(node.equation, operands).linear


def _scaled(node: Chain, operand: Split) -> Split:
    """A scaling keeps the parts, and exchanges them where it is negative."""
    position = next(i for i, o in enumerate(node.operands) if isinstance(o, Paired))
    operands = list(node.operands)

    def at(array: Any) -> Any:
        return node.equation.function(*operands[:position], array, *operands[position + 1 :])

    origin = jnp.zeros_like(operand.reference)
    factor = jax.jvp(at, (origin,), (jnp.ones_like(origin),))[1]
    parts = [factor * operand.positive, factor * operand.negative]
    positive = jnp.where(factor < 0, parts[1], parts[0])
    negative = jnp.where(factor < 0, parts[0], parts[1])
    dtype = jnp.result_type(node.reference)
    return Split(
        node.value,
        node.reference,
        positive.astype(dtype),
        negative.astype(dtype),
        operand.fed,
        reduced=node.reduced,
        scale=node.scale,
    )


def _elementwise(chosen: Choice, pair_rule: Rule, equation: Equation, *operands: Any) -> list[Any]:
    """One split root: a chain.  Sums keep the parts.  The rest follows the rules on pairs."""
    shape = equation.aval.shape
    operands = tuple(_spread(_unwaiting(equation, operand), shape) for operand in operands)
    if len(_roots(operands)) > 1:
        operands = tuple(o.settle() if getattr(o, "frozen", False) else o for o in operands)
    roots = _roots(operands)
    if not roots:
        return equation.bind(*operands)
    refuse_counts(equation, operands)
    waiting = any(isinstance(operand, Waiting) for operand in operands)
    real = all(is_real(o) for o in operands if isinstance(o, Paired)) and jnp.issubdtype(
        equation.aval.dtype, jnp.floating
    )
    if len(roots) == 1 and not waiting and not _is_complex(equation, operands):
        return [Chain(chosen, equation, operands)]
    if equation.primitive.name in ("add", "sub") and real:
        return _structural(equation, *operands)
    chooses_by_constant = equation.primitive.name == "select_n" and not isinstance(
        operands[0], Paired
    )
    if chooses_by_constant and real:
        return _structural(equation, *operands)
    at_value = equation.function(*(value(operand) for operand in operands))
    (result,) = pair_rule(equation, *(_as_pair(operand) for operand in operands))
    return [Waiting(result, at_value) if isinstance(result, Paired) else result]


def _unwaiting(equation: Equation, operand: Any) -> Any:
    """What waits goes on waiting in a product, or where it is a predicate."""
    if not isinstance(operand, Waiting):
        return operand
    if not is_real(operand) or equation.primitive.name == "mul":
        return operand
    return operand.settle()


def _is_complex(equation: Equation, operands: Any) -> bool:
    dtypes = [equation.aval.dtype, *(o.dtype for o in operands if isinstance(o, Paired))]
    return any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)


def _roots(operands: Any) -> tuple[Any, ...]:
    return unique(root for o in operands if isinstance(o, Paired) for root in o.roots)


def _as_pair(operand: Any) -> Any:
    if isinstance(operand, Waiting):
        return operand.paired
    if isinstance(operand, Chain) and not is_real(operand):
        # A predicate: the same expression over the root's total, still a function of it.
        return _rebuilt(operand)
    operand = settled(operand)
    if not isinstance(operand, Split):
        return operand
    if not jnp.issubdtype(operand.dtype, jnp.inexact):
        return Pair(operand.value, operand.reference)
    return operand.total


def _rebuilt(chain: Any) -> Any:
    if isinstance(chain, Split):
        return chain.total if jnp.issubdtype(chain.dtype, jnp.inexact) else _as_pair(chain)
    operands = [_rebuilt(o) if isinstance(o, Paired) else o for o in chain.operands]
    return Deferred(chain.equation, operands)


def _spread(operand: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(operand, Paired) or operand.shape == shape:
        return operand
    operand = operand.settle()
    if not isinstance(operand, Split):
        return operand
    spread = [
        broadcast(array, shape)
        for array in (operand.value, operand.reference, operand.positive, operand.negative)
    ]
    value, reference, positive, negative = spread
    known = {"reduced": operand.reduced, "scale": operand.scale}
    return Split(value, reference, positive, negative, operand.fed, **known)


def _on_totals(rule: Rule) -> Rule:
    """A rule on pairs, for the totals of split values; its outputs are split by their signs."""

    def on_totals(equation: Equation, *operands: Any) -> list[Any]:
        operands = tuple(settled(operand) for operand in operands)
        if not any(isinstance(operand, Split) for operand in operands):
            return equation.bind(*operands)
        outputs = rule(equation, *map(_as_pair, operands))
        at_value = equation.bind(*map(value, operands))
        return [from_pair(settled(output), v) for output, v in zip(outputs, at_value, strict=True)]

    return on_totals


def _structural(equation: Equation, *operands: Any) -> list[Any]:
    """Moves, sums and masks: each part by itself; what is subtracted changes sides."""
    operands = tuple(settled(operand) for operand in operands)
    if not any(isinstance(operand, Split) for operand in operands):
        return equation.bind(*operands)
    check_indices(equation, operands)
    values = equation.bind(*map(value, operands))
    references = equation.bind(*(reference(o) for o in operands))
    inexact = [jnp.issubdtype(jnp.result_type(v), jnp.inexact) for v in values]
    if not all(inexact):
        return [Split(v, v0, v, v) for v, v0 in zip(values, references, strict=True)]
    flips = equation.primitive.name in ("sub", "scatter-sub")
    positions = [
        i
        for i, o in enumerate(operands)
        if isinstance(o, Split) and jnp.issubdtype(o.dtype, jnp.inexact)
    ]

    def linear(parts: list[Any]) -> list[Any]:
        filled = list(map(value, operands))
        for i, operand in enumerate(operands):
            floating = jnp.issubdtype(jnp.result_type(value(operand)), jnp.inexact)
            if i in positions:
                filled[i] = parts[positions.index(i)]
            elif (floating and equation.primitive.name != "select_n") or (i > 0 and floating):
                filled[i] = jnp.zeros_like(value(operand))
        return equation.bind(*filled)

    def part(sign: int) -> list[Any]:
        chosen = []
        for i in positions:
            other_side = flips and i == len(operands) - 1
            positive = (sign > 0) != other_side
            chosen.append(operands[i].positive if positive else operands[i].negative)
        return linear(chosen)

    fed = {operands[i].fed for i in positions}
    before = fed.pop() if len(fed) == 1 else None
    known = hints(equation, operands)
    return [
        Split(v, v0, p, n, before, **known)
        for v, v0, p, n in zip(values, references, part(1), part(-1), strict=True)
    ]


def _counted(equation: Equation, operand: Any) -> list[Any]:
    """Counts follow the rule on pairs; sums of real numbers keep the parts."""
    if is_real(operand):
        return _structural(equation, operand)
    (result,) = counted(equation, _as_pair(operand))
    at_value = equation.function(value(operand))
    return [Waiting(result, at_value) if isinstance(result, Paired) else result]


def _learned(equation: Equation, *operands: Any) -> list[Any]:
    """y = Wx: Δy⁺ = Σ 1{w_i Δx_i > 0} w_i (Δx_i⁺ + Δx_i⁻) and Δy⁻ the rest.

    With s = sgn(Δx) (Δx⁺ + Δx⁻) they are ½(WΔ ± |W|s): one map beside the value's own.
    """
    operands = tuple(settled(operand) for operand in operands)
    positions = [i for i, operand in enumerate(operands) if isinstance(operand, Split)]
    if not positions:
        return equation.bind(*operands)
    if len(positions) == 2 or _is_complex(equation, operands):
        return _on_totals(bilinear)(equation, *operands)
    (position,) = positions
    x, weight = operands[position], operands[1 - position]

    def apply(array: Any, weight: Any) -> Any:
        pair = (array, weight) if position == 0 else (weight, array)
        return equation.function(*pair)

    at_value, at_reference = apply(x.value, weight), apply(x.reference, weight)

    def parts(active: Any, passive: Any) -> Any:
        delta, change, weight = passive
        aligned = jnp.sign(delta) * (active[0] + active[1])
        size = apply(aligned, jnp.abs(weight))
        return jnp.maximum((change + size) / 2, 0), jnp.minimum((change - size) / 2, 0)

    def backward(passive: Any, cotangents: Any) -> Any:
        delta, _, weight = passive
        of_positive, of_negative = cotangents

        def transpose(weight: Any, cotangent: Any) -> Any:
            return jax.linear_transpose(lambda a: apply(a, weight), delta)(cotangent)[0]

        mean = transpose(weight, (of_positive + of_negative) / 2)
        apart = transpose(jnp.abs(weight), (of_positive - of_negative) / 2)
        multiplier = mean + jnp.sign(delta) * apart
        return multiplier, multiplier

    surrogate = attach(parts, lambda active, passive: passive, backward)
    passive = (x.value - x.reference, at_value - at_reference, weight)
    positive, negative = surrogate((x.positive, x.negative), passive)
    name = equation.primitive.name
    return [Split(at_value, at_reference, positive, negative, name)]
