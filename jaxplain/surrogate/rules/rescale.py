"""DeepLIFT's Rescale rule for every differentiable operation: which rule each group gets.

Each rule gives multipliers that, times the Δ of the equation's operands, sum to the Δ of its
output; their composition is then complete on any program.
Source: Shrikumar et al., "Learning important features through propagating activation
differences", arXiv 1704.02685, eqs. 3 (multipliers), 8 (linear) and 14 (rescale).
"""

from __future__ import annotations

import functools

from jaxplain.surrogate import compat, known_calls, patterns, primitives
from jaxplain.surrogate.rules.bilinear import bilinear
from jaxplain.surrogate.rules.counting import counted
from jaxplain.surrogate.rules.elementwise import elementwise
from jaxplain.surrogate.rules.hypot import hypot
from jaxplain.surrogate.rules.linear import discrete, linear, refuse, reshaped
from jaxplain.surrogate.rules.linear_solve import linear_solve
from jaxplain.surrogate.rules.maximum import winner
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.rules.pooling import chosen_place
from jaxplain.surrogate.rules.products import reduced_product
from jaxplain.surrogate.rules.softmax import log_softmax, logsumexp, shifted, softmax
from jaxplain.surrogate.rules.sorting import ranked
from jaxplain.surrogate.rules.whole import unwalkable, whole
from jaxplain.surrogate.table import Rule, RuleTable
from jaxplain.surrogate.values.pair import Pair


def rescale(*, norm_theta: float | None = None) -> RuleTable:
    r"""DeepLIFT's Rescale rule, for every differentiable primitive of JAX.

    Linear equations keep their own vjp; a scalar function of one variable gets Δy/Δx; products,
    quotients and choices get the Shapley values of their operands; a maximum goes to its winner;
    softmax and logsumexp have closed forms; everything else that JAX differentiates is integrated
    along the segment from its reference operands to its operands.

    Of a product that is a difference of far larger terms in one order of its factors' changes than
    in the other (a norm's scale at a zero reference), the other order counts.

    Args:
      norm_theta: fixes how the product of a value c and a norm's scale s = 1/√V or 1/V splits its
        change: Δ(cs) = (θs + (1-θ)s₀) Δc + ((1-θ)c + θc₀) Δs. 0.5 is the Shapley value; 1 settles
        the scale first and stays well conditioned where s₀ is huge, as at a zero reference. None
        (default) lets the sizes of these terms decide, for every product.

    Returns:
      A RuleTable over pairs (value, reference).  Multipliers times (x - ref) sum to f(x) - f(ref).

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: x[0] * x[1]
      >>> jxp.deeplift(f, 0.0, rules=jxp.rules.rescale())(jnp.array([2.0, 3.0]))
      Array([3., 3.], dtype=float32)

    Source: arXiv 1704.02685, section 3.5.1, extended from neurons to programs.
    """
    table = RuleTable(Pair, rescue=whole, keeps=unwalkable)
    for name, rule in _GROUPS.items():
        table = table.register(primitives.group(name), rule)
    by_region = functools.partial(elementwise, norm_theta)
    table = table.register(primitives.group("elementwise"), by_region, waiting=True)
    table = table.register(primitives.where(lambda f: f.moves), reshaped, waiting=True)
    table = table.register(primitives.where(lambda f: f.counts), counted, waiting=True)
    table = table.register(compat.resolve(["reduce_prod"]), reduced_product)
    table = table.register(compat.resolve(["sort", "top_k", "approx_top_k"]), ranked)
    table = table.register(known_calls.hypot, hypot)
    table = table.register(patterns.softmax, softmax, waiting=True)
    table = table.register(patterns.log_softmax, log_softmax, waiting=True)
    table = table.register(patterns.logsumexp, logsumexp, waiting=True)
    table = table.register(patterns.shifted, shifted, waiting=True)
    return table.register(primitives.group("linear_solve"), linear_solve(table))


_GROUPS: dict[str, Rule] = {
    "linear": linear,
    "bilinear": bilinear,
    "maximum": winner,
    "chosen": chosen_place,
    "curved": path_integral,
    "discrete": discrete,
    "opaque": refuse,
}
