"""Products of values that depend on x: each factor's share of the relevance.

One half of its vjp to each of two, which is one half of R = y m; what counts as a constant (a
norm's scale, a frozen softmax) gets nothing and the other all.  So does a gate: a sigmoid near
z = 0 has a relevance that is no multiple of z, and what it opens or closes takes all.
Source: arXiv 2402.05602, eq. 15; of gates Arras et al., arXiv 1706.07206, section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import scaled, with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted, value
from jaxplain.surrogate.values.relevance import Hints, Relevant


def product(detached: bool, equation: Equation, *operands: Any) -> Relevant:
    """A product of two; `detached` says that what came out of an activation is a constant."""
    active = [i for i, o in enumerate(operands) if isinstance(o, Lifted)]
    hints = [operands[i].hints for i in active]
    shares = _shares(detached, hints)

    def function(arrays: Sequence[Any], others: Sequence[Any]) -> Any:
        filled = list(others)
        for i, array in zip(active, arrays, strict=True):
            filled.insert(i, array)
        return equation.function(*filled)

    def forward(arrays: Any, others: Any) -> tuple[Any, Any]:
        return function(arrays, others), (arrays, others)

    def backward(saved: Any, cotangent: Any) -> list[Any]:
        arrays, others = saved

        def sent(i: int, share: float) -> Any:
            if not share:
                return None
            only = lambda v: function([*arrays[:i], v, *arrays[i + 1 :]], others)
            part = (share * cotangent).astype(cotangent.dtype)
            return jax.linear_transpose(only, arrays[i])(part)[0]

        return [sent(i, share) for i, share in enumerate(shares)]

    others = [value(o) for i, o in enumerate(operands) if i not in active]
    y = with_backward(forward, backward)([operands[i].value for i in active], others)
    return Relevant(y, _joint(hints))


def quotient(detached: bool, equation: Equation, a: Relevant, b: Relevant) -> Relevant:
    """a/b as a · (1/b), where 1/b has as much relevance as b."""
    inverse = dataclasses.replace(b.hints, note="scale" if b.hints.note else "")
    of_a, of_b = _shares(detached, [a.hints, inverse])

    def forward(active: Any, _: Any) -> tuple[Any, Any]:
        a, b = active
        y = equation.function(a, b)
        return y, [of_a / b, of_b * y / b if of_b else jnp.zeros_like(b)]

    y = scaled(forward)([a.value, b.value], None)
    return Relevant(y, _joint([a.hints, inverse]))


def _shares(detached: bool, hints: Sequence[Hints]) -> Sequence[float]:
    """What part of the relevance each of two factors gets."""
    constant = [h.frozen for h in hints]
    if not any(constant) and sum(h.note == "scale" for h in hints) == 1:
        constant = [h.note == "scale" for h in hints]
    if not any(constant) and sum(h.gate for h in hints) == 1:
        constant = [h.gate for h in hints]
    if detached and not any(constant) and sum(h.active for h in hints) == 1:
        constant = [h.active for h in hints]
    count = sum(not c for c in constant)
    return [0.0 if c else 1 / count for c in constant] if count else [0.0, 0.0]


def _joint(hints: Sequence[Hints]) -> Hints:
    return Hints(
        note="sum" if all(h.note for h in hints) else "",
        frozen=all(h.frozen for h in hints),
        active=all(h.active for h in hints),
        gate=all(h.gate for h in hints),
        positive=all(h.positive for h in hints),
    )
