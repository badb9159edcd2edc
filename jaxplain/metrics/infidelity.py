"""Infidelity: how far scores are from what f does under perturbations."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.chunking import check_chunk, chunked_map
from jaxplain._numerics.trees import times, total
from jaxplain.metrics._elsewhere import of_explanation
from jaxplain.metrics._example import Example, Explain, finite, undefined_unless, value_of
from jaxplain.metrics._metric import Metric
from jaxplain.metrics._perturbations import Perturbations
from jaxplain.surrogate import staging

Tree = Any


def infidelity(
    f: Callable[..., Any],
    explain: Explain | EllipsisType,
    *,
    perturb: Any,
    samples: int | None = None,
    scale: str | None = None,
    ref: Any = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""Mean squared error of scores as a prediction of what f loses under perturbations: ↓.

    E_I[(Σ I ⊙ a - (f(x) - f(x - I)))²].

    Args:
      f: `f(x, *args)` → scalar.
      explain: `explain(x, *args)` → scores a **per unit of x**, as gradients are; `...` in
        `evaluate`, for each of its methods.
      perturb: I: a function `perturb(x, key)` → a tree like x; or the perturbations themselves,
        with a leading axis. Where it gives booleans, True elements go to `ref`:
        I = mask ⊙ (x - ref), and scores are **contributions**: Σ I ⊙ a is their sum over the mask.
      samples: how many are drawn, ≥ 1.
      scale: None, or `"optimal"`: a times the β that fits best, β = E[⟨I, a⟩ d] / E[⟨I, a⟩²], d the
        loss, so that units do not matter.
      ref: of masks: a number or a tree that broadcasts to x.
      chunk: how many perturbations are evaluated at once; None all.
      argnums: which argument(s) of f are x.

    Returns:
      `score(x, *args, key=)` → a scalar ≥ 0 in the square of f's units; NaN where scores are not
      finite. In samples + 1 evaluations of f, which `evaluate` makes once for all methods. Given
      perturbations need no key.

    Raises:
      TypeError: f is not scalar-valued; a key is missing.
      ValueError: scores are not shaped like x; masks without ref; samples < 1; unknown scale.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f, x = lambda x: x @ jnp.array([1.0, -2.0]), jnp.ones(2)
      >>> draw = lambda x, key: jax.random.normal(key, x.shape)
      >>> score = jxp.infidelity(f, jxp.gradient(f), perturb=draw, samples=8)
      >>> score(x, key=jax.random.key(0)).round(3)
      Array(0., dtype=float32)

    Source: Yeh et al., arXiv 1901.09392, definition 2.1; the scale is that of its code.
    """
    check_chunk(chunk)
    if scale not in (None, "optimal"):
        raise ValueError(f"unknown scale {scale!r}: None or 'optimal'")
    drawn = Perturbations(perturb, samples, argnums)

    def moves(example: Example) -> tuple[Tree, Tree]:
        """The perturbations I, and what scores are multiplied with."""
        x, given = drawn.x(example), drawn.of(example)
        if not all(leaf.dtype == jnp.bool_ for leaf in jax.tree.leaves(given)):
            return given, given
        if ref is None:
            raise ValueError("perturb gives masks: say by ref= where their elements are put")
        reference = staging.as_reference(ref, x)
        gone = jax.tree.map(lambda m, v, r: jnp.where(m, (v - r)[None], 0), given, x, reference)
        return gone, given

    def losses(example: Example) -> jax.Array:
        x, (gone, _) = drawn.x(example), moves(example)
        whole = example.once(
            ("f(x)", id(f), argnums), lambda: value_of(f, example.args), evaluations=1
        )

        def value(gone: Tree) -> jax.Array:
            moved = jax.tree.map(lambda v, i: v - i.astype(v.dtype), x, gone)
            return value_of(f, staging.place(example.args, argnums, moved))

        values = example.once(
            ("f(x - I)", id(f), None if ref is None else id(ref), drawn.name()),
            lambda: chunked_map(value, gone, chunk),
            evaluations=drawn.count(example),
        )
        return whole - values

    def score(example: Example) -> jax.Array:
        contributions = example.contributions(argnums)
        lost = losses(example)
        _, factors = moves(example)

        def product(factors: Tree) -> jax.Array:
            of_masks = jax.tree.map(lambda v, c: v.astype(c.dtype), factors, contributions)
            return total(times(of_masks, contributions), lost[0])

        said = jax.vmap(product)(factors)
        if scale == "optimal":
            square = (said * said).mean()
            beta = (said * lost).mean() / jnp.where(square > 0, square, 1)
            said = said * beta  # 0 throughout, as said is, where its square is 0
        defined = finite(*jax.tree.leaves(contributions))
        return undefined_unless(defined, jnp.square(said - lost).mean())

    return Metric(
        score,
        of_explanation(explain),
        "↓",
        (0.0, float("inf")),
        ref=ref,
        share=losses,
        asks=explain,
    )
