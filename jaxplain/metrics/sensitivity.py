"""Sensitivity: how far an explanation moves where x hardly does."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._numerics.chunking import check_chunk, chunked_map
from jaxplain._numerics.trees import wide
from jaxplain.metrics._elsewhere import Elsewhere, of_explanation
from jaxplain.metrics._example import Example, Explain, finite, flat, undefined_unless
from jaxplain.metrics._metric import Metric
from jaxplain.metrics._perturbations import Perturbations
from jaxplain.surrogate import staging

Tree = Any
_LEAST = 1e-6  # by what nothing smaller is divided, as in Agarwal et al.


def max_sensitivity(
    explain: Explain | EllipsisType,
    *,
    radius: Any,
    samples: int | None = None,
    reduce: str = "max",
    per: Any = None,
    chunk: int | None = None,
    argnums: staging.Argnums = 0,
) -> Metric:
    r"""How far an explanation moves within a radius around x: ↓.

    Largest (or mean) over x' = x + δ of

    * per=None: ‖a(x') - a(x)‖ / ‖a(x)‖, 0 for a map of zeros that stays one;
    * per="distance": ‖a(x') - a(x)‖ / ‖x' - x‖, the local Lipschitz constant;
    * per="input": ‖(a(x') - a(x))/a(x)‖ / ‖(x' - x)/x‖, relative input stability;
    * per=("representation", h): the same over ‖(h(x') - h(x))/h(x)‖, of a hidden value h(x, *args);
    * per=("output", h): the same over ‖h(x') - h(x)‖, of the logits h(x, *args).

    Norms are Euclidean over all elements; in relative changes nothing smaller than 1e-6 is divided
    by. The perturbations are the same for all of them, and `evaluate` explains at them once.

    Args:
      explain: `explain(x, *args)` → a tree; `...` in `evaluate`, for each of its methods. One that
        draws gets another key at each x', so what it draws counts, too.
      radius: δ is uniform within ± radius, a number or a tree that broadcasts to x; or a function
        `radius(x, key)` → δ; or the perturbations themselves, with a leading axis.
      samples: how many are drawn, ≥ 1.
      reduce: `"max"` or `"mean"`.
      per: what the change is divided by, as above.
      chunk: how many x' are explained at once; None all.
      argnums: which argument(s) of explain are x.

    Returns:
      `score(x, *args, key=)` → a scalar ≥ 0; NaN where an explanation is not finite. In samples + 1
      explanations. Given perturbations need no key.

    Raises:
      TypeError: a key is missing.
      ValueError: unknown reduce or per; samples < 1; radius does not broadcast to x; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.gradient(lambda x: (x**2).sum() / 2)
      >>> score = jxp.max_sensitivity(explain, radius=0.1, samples=4, per="distance")
      >>> score(jnp.ones(2), key=jax.random.key(0)).round(3)
      Array(1., dtype=float32)

    Source: Yeh et al., arXiv 1901.09392, definition 3.1 (over the norm at x, as Captum and Quantus
    have it); Alvarez-Melis & Jaakkola, arXiv 1806.08049, eq. 2; Agarwal et al., arXiv 2203.06877,
    eqs. 2, 3 and 5.
    """
    check_chunk(chunk)
    if reduce not in ("max", "mean"):
        raise ValueError(f"unknown reduce {reduce!r}: 'max' or 'mean'")
    divided = _divisors(per)
    drawn = Perturbations(radius, samples, argnums)

    def moved(example: Example, delta: Tree) -> tuple[Any, ...]:
        x = jax.tree.map(lambda v, d: v + d.astype(v.dtype), drawn.x(example), delta)
        return staging.place(example.args, argnums, x)

    def elsewhere(example: Example) -> Elsewhere:
        args = jax.vmap(lambda delta: moved(example, delta))(drawn.of(example))
        return Elsewhere(drawn.name(), args, chunk=chunk)

    def share(example: Example) -> Any:
        """The divisors: no explanation has a part in them."""
        deltas = drawn.of(example)
        divisors = lambda: divided(example, drawn, lambda delta: moved(example, delta), deltas)
        name = per if per is None or isinstance(per, str) else (per[0], id(per[1]))
        cost = drawn.count(example) + 1 if isinstance(per, tuple) else 0
        return example.once(("divisors", name, drawn.name()), divisors, evaluations=cost)

    def score(example: Example) -> jax.Array:
        before = flat(example.contributions_anywhere())
        after = jax.vmap(flat)(elsewhere(example).explanations(example))
        change = after - before[None]
        if per is None:
            size = jnp.linalg.norm(before)
            ratios = jnp.linalg.norm(change, axis=1) / jnp.where(size > 0, size, 1)
        else:
            if per != "distance":
                change = change / _away_from_zero(before)[None]
            ratios = jnp.linalg.norm(change, axis=1) / share(example).astype(change.dtype)
        score = ratios.max() if reduce == "max" else ratios.mean()
        return undefined_unless(finite(before, after), score)

    return Metric(
        score,
        of_explanation(explain),
        "↓",
        (0.0, float("inf")),
        share=share,
        elsewhere=elsewhere,
        asks=explain,
    )


def _away_from_zero(v: jax.Array) -> jax.Array:
    """What a relative change is divided by."""
    return jnp.where(v == 0, _LEAST, v)


def _divisors(per: Any) -> Callable[..., jax.Array | None]:
    """What each perturbation's change is divided by."""
    if per is None:
        return lambda *_: None
    if per == "distance":
        return lambda example, drawn, moved, deltas: jax.vmap(lambda d: jnp.linalg.norm(flat(d)))(
            deltas
        )
    if per == "input":
        kind, value = "representation", None
    elif isinstance(per, tuple) and len(per) == 2 and per[0] in ("representation", "output"):
        kind, value = per
    else:
        raise ValueError(
            f"unknown per {per!r}: None, 'distance', 'input', ('representation', h) or "
            "('output', h) with h(x, *args)"
        )

    def divisors(example: Example, drawn: Perturbations, moved: Any, deltas: Tree) -> jax.Array:
        def at(args: tuple[Any, ...]) -> jax.Array:
            x = staging.pick(args, drawn.argnums)
            shown = x if value is None else staging.call(value, *args)
            return flat(jax.tree.map(lambda v: wide(jnp.asarray(v)), shown))

        here = at(example.args)

        def size(delta: Tree) -> jax.Array:
            change = at(moved(delta)) - here
            return jnp.linalg.norm(change / _away_from_zero(here) if kind != "output" else change)

        return jnp.maximum(chunked_map(size, deltas), _LEAST)

    return divisors
