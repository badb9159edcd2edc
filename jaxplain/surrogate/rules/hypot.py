"""hypot: both legs by the same formula, at any distance from zero."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxplain.surrogate.backward import scaled
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import value
from jaxplain.surrogate.values.pair import Pair, reference


def hypot(equation: Equation, *legs: Any) -> list[Any]:
    """Δr = Σ (a + a₀)/(r + r₀) Δa, from r² - r₀² = Σ (a + a₀)(a - a₀)."""
    a0 = list(map(reference, legs))
    r0 = equation.function(*a0)

    def forward(a: Any, passive: Any) -> tuple[Any, Any]:
        a0, r0 = passive
        r = equation.function(*a)
        # Halved and divided one by one: no sum overflows, and no quotient of tiny numbers is lost.
        mean = r / 2 + r0 / 2
        safe = jnp.where(mean == 0, 1, mean)
        halves = [v / 2 + v0 / 2 for v, v0 in zip(a, a0, strict=True)]
        return r, [jnp.where(mean == 0, 0, half / safe) for half in halves]

    r = scaled(forward)(list(map(value, legs)), (a0, r0))
    return [Pair(r, r0)]
