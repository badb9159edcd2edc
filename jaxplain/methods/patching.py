"""Attribution patching: what replacing hidden values would do, estimated all at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.chunking import weighted_sum
from jaxplain._numerics.trees import between, minus, times
from jaxplain._quadrature import nodes_and_weights
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Tree
from jaxplain.methods.deeplift import deeplift
from jaxplain.named import probes
from jaxplain.surrogate import RuleTable, surrogate_values
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.walk import reaches

OUTPUT = "(output)"
MULTIPLIERS = ("deeplift", "gradient", "integrated")


@speaks
def attribution_patching(
    f: Function,
    corrupted: Any,
    *,
    at: At,
    multipliers: str = "deeplift",
    rules: str | RuleTable = "rescale",
    steps: int = 8,
    argnums: Argnums = 0,
) -> Explain:
    r"""Attribution patching: C_h = m_h ⊙ (h(corrupted) - h(x)) ≈ f(x with h patched) - f(x).

    It estimates the effect of each replacement that
    `intervene(f, {name: h(corrupted)})(x) - f(x)` measures one by one, for every element of every
    named value, at the cost of one backward pass.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      corrupted: the other input, whose values are patched in: a scalar, or a tree that broadcasts
        to x.
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`); x and corrupted may hold
        integers (token ids), as in `deeplift`.
      multipliers: `"gradient"` takes ∂f/∂h at x (the original), `"deeplift"` DeepLIFT's with
        `corrupted` as the reference, `"integrated"` the gradient averaged between both inputs.
      rules: of DeepLIFT, as `jaxplain.deeplift`.
      steps: of that average.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → estimates shaped like the value for one name, {name: array} for
      several; an estimate for several elements together (a head, a position) is their sum.  With
      DeepLIFT's multipliers those of values that cut f sum to f(corrupted) - f(x).

    Raises:
      TypeError: f is not scalar-valued; x, or the named value, is not made of floating arrays.
      ValueError: there is no such name; unknown multipliers.
      UnsupportedPrimitive: as `deeplift`, with its multipliers.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(3 * x, "hidden").sum()
      >>> jxp.attribution_patching(f, jnp.zeros(2), at="hidden")(jnp.array([1.0, 2.0]))
      Array([-3., -6.], dtype=float32)

    Source: Nanda, "Attribution patching", 2023; Syed, Rager & Conmy, arXiv 2310.10348, eq. 2;
    with integrated multipliers Hanna, Pezzelle & Belinkov, arXiv 2403.17806, eq. 5.
    """
    _check(multipliers)
    if multipliers == "deeplift":
        method = deeplift(f, corrupted, rules=rules, at=at, argnums=argnums)
        return nothing_drawn(lambda *args: jax.tree.map(jnp.negative, method(*args)))

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed = probes.probe(f, at, args, argnums)
        x, other = probed.x, probed.reference(corrupted)
        change = minus(probed.values(other), probed.values(x))
        arriving = _collected(probed.gradient, multipliers, x, other, steps)
        return probed.result(times(arriving, change))

    return explain


@speaks
def edge_attributions(
    f: Function,
    corrupted: Any,
    *,
    at: At,
    multipliers: str = "deeplift",
    rules: str | RuleTable = "rescale",
    steps: int = 8,
    argnums: Argnums = 0,
) -> Explain:
    r"""Edge attributions: C_{u→v} = (u(corrupted) - u(x)) ⊙ (∂v/∂u)ᵀ m_v, between named values.

    (∂v/∂u)ᵀ is what passes from u to v directly, not by way of another named value; with
    DeepLIFT's multipliers it is that part's, too.  It estimates the effect of patching one edge.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      corrupted: the other input: a scalar, or a tree that broadcasts to x.
      at: several names, or a pattern (`jaxplain.tag`, `jaxplain.names`).
      multipliers: as `attribution_patching`.
      rules: as `attribution_patching`, of the kinds that keep a value's change in one part
        (`"rescale"`).
      steps: as `attribution_patching`.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args)` → {(u, v): estimates shaped like u} for every u that feeds v directly;
      v is "(output)" for f's own.  Summed over v they are `attribution_patching`'s for u.

    Raises:
      TypeError, ValueError, UnsupportedPrimitive: as `attribution_patching`.
      ValueError: rules that keep parts of a value's change apart (RevealCancel, central limit).

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> def f(x):
      ...     u = jxp.tag(2 * x, "u")
      ...     return (jxp.tag(u + 1, "v") + 4 * u).sum()
      >>> edges = jxp.edge_attributions(f, jnp.zeros(1), at=["u", "v"])(jnp.ones(1))
      >>> {edge: float(score[0]) for edge, score in edges.items()}
      {('u', 'v'): -2.0, ('u', '(output)'): -8.0, ('v', '(output)'): -2.0}

    Source: Syed, Rager & Conmy, "Attribution patching outperforms automated circuit discovery",
    arXiv 2310.10348, section 3.
    """
    _check(multipliers)
    table = by_name(rules)
    if multipliers == "deeplift" and table.lifted.detached:
        raise ValueError(
            "edges are those of f cut at the named values, where the parts of a value's change "
            f"that {rules if isinstance(rules, str) else 'these rules'!r} keeps apart would be one "
            'again. Use rules="rescale", or `attribution_patching`, which takes all rules.'
        )

    @nothing_drawn
    def explain(*args: Any) -> Any:
        probed = probes.probe(f, at, args, argnums)
        x, other = probed.x, probed.reference(corrupted)
        change = minus(probed.values(other), probed.values(x))
        edges = _edges(probed, x)

        def gradients(point: Any) -> Any:
            cut = jax.vjp(lambda h: probed.replaced(point, h), probed.values(point))
            return _by_end(edges, cut, probed.gradient(point))

        if multipliers == "deeplift":
            whole = deeplift(
                f, corrupted, rules=table, at=list(probed.probes), multiply=False, argnums=argnums
            )
            arriving = _secants(probed, table, edges, whole(*args), x, other)
        else:
            arriving = _collected(gradients, multipliers, x, other, steps)
        return {(u, v): m * change[u] for (u, v), m in arriving.items()}

    return explain


def _check(multipliers: str) -> None:
    if multipliers not in MULTIPLIERS:
        raise ValueError(f"unknown multipliers {multipliers!r}: one of {MULTIPLIERS}")


def _collected(gradients: Any, multipliers: str, x: Tree, other: Any, steps: int) -> Any:
    """What `gradients` gives at x, or its average from x to the other input."""
    if multipliers == "gradient":
        return gradients(x)
    alphas, weights = map(jnp.asarray, nodes_and_weights("gauss-legendre", steps))

    def at_alpha(alpha: Any) -> Any:
        return gradients(between(x, minus(other, x), alpha))

    return weighted_sum(at_alpha, alphas, weights)


def _secants(
    probed: probes.Probed, table: RuleTable, edges: Any, multipliers: Any, x: Tree, other: Any
) -> Any:
    """DeepLIFT's along the edges: of the program cut at the values, which are inputs of its own."""
    values, others = probed.values(x), probed.values(other)

    def surrogate(x: Tree, h: Any) -> Any:
        return surrogate_values(probed.replaced, table, (other, others), (x, h), (0, 1))[0]

    outputs, pull = jax.vjp(surrogate, x, values)
    return _by_end(edges, (outputs, lambda cotangents: pull(cotangents)[1:]), multipliers)


def _edges(probed: probes.Probed, x: Tree) -> list[tuple[str, str]]:
    """(u, v) where u reaches v, or the output, by no other named value."""
    jaxpr = jax.make_jaxpr(lambda h: probed.replaced(x, h))(probed.probes)
    names = sorted(probed.probes)  # as a dict's leaves are
    reached = {u: reaches(jaxpr, [u == name for name in names]) for u in names}
    return [
        (u, v)
        for u in probed.probes
        for v in (*probed.probes, OUTPUT)
        if reached[u][0 if v == OUTPUT else 1 + names.index(v)]
    ]


def _by_end(edges: Any, cut: tuple[Any, Any], multipliers: Any) -> Any:
    """What arrives at u from each v alone; `cut` is the vjp of f and the values, in the values."""
    (y, _), pull = cut
    nothing = jax.tree.map(jnp.zeros_like, multipliers)
    arriving = {}
    for end in dict.fromkeys(v for _, v in edges):
        if end == OUTPUT:
            (pulled,) = pull((jnp.ones_like(y), nothing))
        else:
            (pulled,) = pull((jnp.zeros_like(y), {**nothing, end: multipliers[end]}))
        arriving.update({(u, v): pulled[u] for u, v in edges if v == end})
    return {edge: arriving[edge] for edge in edges}
