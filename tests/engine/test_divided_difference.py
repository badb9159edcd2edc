"""The slopes (g(x) - g(x0))/(x - x0) of scalar chains, against arithmetic of 60 digits."""

import decimal
from collections.abc import Callable
from decimal import Decimal
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxplain as jxp

decimal.getcontext().prec = 60
ONE = Decimal(1)
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


# The functions, once more and exactly.


def sine(x: Decimal) -> Decimal:
    """Its series, with digits to spare for the terms that cancel."""
    with decimal.localcontext() as context:
        context.prec += 10
        x = x % (2 * PI)
        total = term = x
        n = 1
        while abs(term) > Decimal(10) ** -context.prec:
            n += 2
            term *= -x * x / (n * (n - 1))
            total += term
    return +total


def erf(x: Decimal) -> Decimal:
    if abs(x) > 11:
        return ONE.copy_sign(x)
    with decimal.localcontext() as context:
        context.prec += 60
        total = term = x
        n = 0
        while abs(term) > Decimal(10) ** -context.prec:
            n += 1
            term *= -x * x / n
            total += term / (2 * n + 1)
    return 2 * total / PI.sqrt()


def logistic(x: Decimal) -> Decimal:
    return ONE / (1 + (-x).exp())


def tanh(x: Decimal) -> Decimal:
    return 2 * logistic(2 * x) - 1


def gelu_tanh(x: Decimal) -> Decimal:
    inner = (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)
    return x * (1 + tanh(inner)) / 2


class Case(NamedTuple):
    """g in JAX and in decimals, where it lives, and how exact its slope can be.

    eps is relative to the slope, but to no less than `floor` (times the argument that eps moves).
    Without a closed form the slope is exact to eps^(2/3): the best of quotient and derivative.
    """

    g: Callable
    exact: Callable[[Decimal], Decimal]
    points: tuple[float, ...]
    floor: float = 1.0
    order: float = 1.0


REAL = (-50.0, -8.0, -1.3, -0.02, 0.0, 0.4, 1.0, 7.0, 50.0)
POSITIVE = (1e-6, 0.003, 0.4, 1.0, 7.0, 50.0, 4000.0)
NEAR = (-8.0, -1.3, -0.02, 0.0, 0.4, 1.0, 7.0)

SMOOTH: dict[str, Case] = {
    "exp": Case(lax.exp, Decimal.exp, (*NEAR, 30.0, -30.0), 0),
    "exp2": Case(lax.exp2, lambda x: (x * Decimal(2).ln()).exp(), NEAR, 0),
    "expm1": Case(lax.expm1, lambda x: x.exp() - 1, NEAR),
    "tanh": Case(lax.tanh, tanh, REAL),
    "logistic": Case(lax.logistic, logistic, REAL),
    "sqrt": Case(lax.sqrt, Decimal.sqrt, POSITIVE, 0),
    "rsqrt": Case(lax.rsqrt, lambda x: 1 / x.sqrt(), POSITIVE, 0),
    "log": Case(lax.log, Decimal.ln, POSITIVE, 0),
    "log1p": Case(lax.log1p, lambda x: (1 + x).ln(), (-0.9, -1e-4, 0.0, *POSITIVE), 0),
    "log2": Case(jnp.log2, lambda x: x.ln() / Decimal(2).ln(), POSITIVE, 0),
    "square": Case(jnp.square, lambda x: x * x, POSITIVE, 0),
    "cube": Case(lambda x: x**3, lambda x: x**3, POSITIVE, 0),
    "seventh": Case(lambda x: x**7, lambda x: x**7, POSITIVE, 0),
    "inverse": Case(lambda x: x**-1, lambda x: 1 / x, POSITIVE, 0),
    "inverse_cube": Case(lambda x: x**-3, lambda x: x**-3, POSITIVE, 0),
    "reciprocal": Case(lambda x: 1 / x, lambda x: 1 / x, POSITIVE, 0),
    "sin": Case(lax.sin, sine, REAL),
    "cos": Case(lax.cos, lambda x: sine(x + PI / 2), REAL),
    "gelu": Case(
        partial(jax.nn.gelu, approximate=False),
        lambda x: x * (1 + erf(x / Decimal(2).sqrt())) / 2,
        NEAR,
        1,
        2 / 3,
    ),
    "gelu_tanh": Case(jax.nn.gelu, gelu_tanh, NEAR),
    "silu": Case(jax.nn.silu, lambda x: x * logistic(x), REAL),
    "softplus": Case(jax.nn.softplus, lambda x: (1 + x.exp()).ln(), REAL),
    "erf": Case(lax.erf, erf, NEAR, 1, 2 / 3),
    "root": Case(lambda x: x**0.4, lambda x: (x.ln() * Decimal("0.4")).exp(), POSITIVE, 0, 2 / 3),
    "cbrt": Case(jnp.cbrt, lambda x: (x.ln() / 3).exp(), POSITIVE, 0, 2 / 3),
    "atanh": Case(
        jnp.arctanh,
        lambda x: ((1 + x) / (1 - x)).ln() / 2,
        (-0.999, -0.5, 0.0, 0.9, 0.999),
        0,
        2 / 3,
    ),
    "normalized": Case(
        lambda x: x / jnp.sqrt(x**2 + 1e-12),
        lambda x: x / (x * x + Decimal("1e-12")).sqrt(),
        (0.0, 0.3, 1.0),
    ),
}
KINKED: dict[str, Case] = {
    "abs": Case(jnp.abs, abs, REAL),
    "relu": Case(jax.nn.relu, lambda x: max(x, Decimal(0)), REAL),
    "relu_where": Case(lambda x: jnp.where(x > 0, x, 0), lambda x: max(x, Decimal(0)), REAL),
    "leaky_relu": Case(jax.nn.leaky_relu, lambda x: x if x >= 0 else x * Decimal("0.01"), REAL),
    "elu": Case(jax.nn.elu, lambda x: x if x > 0 else x.exp() - 1, REAL),
    "hard_tanh": Case(jax.nn.hard_tanh, lambda x: min(max(x, -ONE), ONE), REAL),
}
CASES = SMOOTH | KINKED
DELTAS = [s * d for d in (0, 1e-30, 1e-7, 1e-5, 1e-3, 0.01, 0.3, 1, 50) for s in (1, -1)]
TYPES = {"float32": 2.0**-23, "float64": 2.0**-52}


@cache
def slopes(name: str) -> Callable[[Any, Any], Any]:
    """(x, x0) → multipliers of Σ g, elementwise the slopes."""
    g = CASES[name].g
    return jax.jit(lambda x, x0: jxp.deeplift(lambda x: jnp.sum(g(x)), x0, multiply=False)(x))


def grid(case: Case, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every point with every Δ, as far as both ends are in the function's domain."""
    low, high = min(case.points), max(case.points)
    x0 = np.array([p for p in case.points for _ in DELTAS]).astype(dtype)
    x = (x0 + np.array(DELTAS * len(case.points)).astype(dtype)).astype(dtype)
    inside = (x >= dtype(low)) & (x <= dtype(high))
    return x[inside], x0[inside]


def exact_slope(case: Case, x: float, x0: float) -> Decimal:
    """The quotient, and for x = x0 the derivative as a central one of tiny step."""
    a, b = Decimal(float(x)), Decimal(float(x0))
    if a == b:
        step = Decimal("1e-20")
        a, b = a + step, b - step
    return (case.exact(a) - case.exact(b)) / (a - b)


def allowed(case: Case, exact: float, x: Any, x0: Any, eps: float) -> float:
    largest = max(abs(float(x)), abs(float(x0)), 1.0)
    return 16 * eps**case.order * max(abs(exact), case.floor * largest)


def check(name: str, dtype: Any) -> None:
    case, eps = CASES[name], TYPES[np.dtype(dtype).name]
    x, x0 = grid(case, dtype)
    if name in KINKED:  # a kink has no derivative
        apart = (x != x0) | ~np.isin(x, [-1, 0, 1])
        x, x0 = x[apart], x0[apart]
    found = np.asarray(slopes(name)(x, x0))
    wrong = [
        f"from {b} to {a}: {slope}, exactly {exact}"
        for slope, a, b in zip(found, x, x0, strict=True)
        if not abs(slope - (exact := float(exact_slope(case, a, b))))
        <= allowed(case, exact, a, b, eps)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", CASES)
def test_accurate_in_float32(name):
    check(name, np.float32)


@pytest.mark.parametrize("name", CASES)
def test_accurate_in_float64(name, x64):
    check(name, np.float64)


@given(
    name=st.sampled_from(["tanh", "logistic", "sin", "cos", "silu", "relu", "abs", "elu"]),
    x0=st.floats(-50, 50, width=32),
    delta=st.one_of(
        st.just(0.0), st.floats(-100, 100, width=32), st.floats(-(2.0**-16), 2.0**-16, width=32)
    ),
)
@settings(max_examples=150, deadline=None)
def test_accurate_anywhere(name, x0, delta):
    x0 = np.float32(x0)
    x = np.float32(x0 + np.float32(delta))
    subnormal = 0 < abs(x - x0) < np.finfo(np.float32).tiny  # compiled code takes it for 0
    if subnormal or (name in KINKED and x == x0):
        return
    exact = float(exact_slope(CASES[name], x, x0))
    slope = slopes(name)(x[None], x0[None])[0]
    assert abs(slope - exact) <= allowed(CASES[name], exact, x, x0, TYPES["float32"])


def test_small_differences_are_no_noise():
    """A quotient in float32 gives 0.125 here, and 0 for a difference below eps."""
    for delta in (1e-6, 3e-7, 0.0):
        slope = slopes("logistic")(np.float32([1 + delta]), np.float32([1]))[0]
        assert abs(slope - 0.19661193) < 1e-6


@cache
def curvature(name: str) -> Callable[[Any], tuple[Any, Any]]:
    """x → the derivative in x of the slope at a fixed reference equal to x; and ½ g''."""
    g = CASES[name].g

    def slope(x: Any, x0: Any) -> Any:
        return jxp.deeplift(g, x0, multiply=False)(x)

    def both(x: Any) -> tuple[Any, Any]:
        half = jax.grad(jax.grad(g))(x) / 2 if name in SMOOTH else jnp.zeros_like(x)
        return jax.grad(slope)(x, x), half

    return jax.jit(jax.vmap(both))


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivative_at_the_reference(name, x64):
    """A loss over attributions is differentiable at pixels that equal the reference."""
    x = np.array(CASES[name].points)
    derivative, half = curvature(name)(x)
    np.testing.assert_allclose(derivative, half, 1e-8, 1e-8 * CASES[name].floor)


@pytest.mark.parametrize("name", [*KINKED, *SMOOTH])
def test_second_derivative_is_finite(name):
    """Also at a kink, and where the function has underflown."""
    points = [*CASES[name].points, *([-200.0] if -1.3 in CASES[name].points else [])]
    derivative, _ = curvature(name)(np.float32(points))
    assert np.isfinite(derivative).all()
