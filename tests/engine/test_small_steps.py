"""Slopes of every smooth primitive at any Δ: complete, and as exact as float64's.

What is complete may have lost all digits of its slope, and the reverse: both are tested, near the
ends of domains, in large and tiny units, for one root and for several.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.scipy.special import erfinv, gammaln

import jaxplain as jxp
from jaxplain.surrogate.rules.path_integral import integrate
from tests.support.marks import slow_but, some_slow


class Domain(NamedTuple):
    """A function and where it lives: from `low` to `high`, and points of interest."""

    f: Callable
    low: float
    high: float
    points: tuple[float, ...]


def with_second(f: Callable, second: float) -> Callable:
    return lambda x: f(x, jnp.full_like(x, second))


def with_first(f: Callable, first: float) -> Callable:
    return lambda x: f(jnp.full_like(x, first), x)


UNITS = (1e-20, 1e-6, 1e-3, 1.0, 50.0, 1e4)
FUNCTIONS: dict[str, Domain] = {
    "acos": Domain(lax.acos, -1, 1, (-1, -0.999, 0, 0.5, 0.99, 1)),
    "asin": Domain(lax.asin, -1, 1, (-1, -0.999, 0, 0.5, 0.99, 1)),
    "acosh": Domain(lax.acosh, 1, 1e8, (1, 1.0001, 2, 50, 1e8)),
    "asinh": Domain(lax.asinh, -1e8, 1e8, (-1.0, 0, *UNITS)),
    "atan": Domain(lax.atan, -1e8, 1e8, (-1.0, 0, *UNITS)),
    "bessel_i0e": Domain(lax.bessel_i0e, -50, 50, (-8, 0, 0.3, 20)),
    "bessel_i1e": Domain(lax.bessel_i1e, -50, 50, (-8, 0, 0.3, 20)),
    "betainc": Domain(lambda x: lax.betainc(*(jnp.full_like(x, a) for a in (2.0, 0.7)), x),
                      1e-6, 0.999, (1e-6, 1e-2, 0.5, 0.999)),
    "cbrt": Domain(lax.cbrt, -1e8, 1e8, (-1e-6, 0, *UNITS)),
    "cosh": Domain(lax.cosh, -50, 50, (-50, -2, 0, 1e-4, 30)),
    "digamma": Domain(lax.digamma, 1e-6, 1e5, (1e-6, 1e-2, 0.5, 3, 1e5)),
    "erf": Domain(lax.erf, -3, 3, (-3, -0.5, 0, 1e-6, 1)),
    "erfc": Domain(lax.erfc, -3, 8, (-3, -0.5, 0, 1e-6, 1, 8)),
    "erfinv": Domain(erfinv, -0.999, 0.999, (-0.999, -0.3, 0, 1e-6, 0.99, 0.999)),
    "exp2": Domain(lax.exp2, -20, 20, (-20, -1, 0, 1e-3, 20)),
    "igamma": Domain(with_first(lax.igamma, 2.0), 1e-6, 8, (1e-6, 1e-2, 0.5, 2, 8)),
    "lgamma": Domain(gammaln, 1e-6, 1e5, (1e-6, 1e-4, 1e-2, 1, 2, 3, 1e5)),
    "polygamma": Domain(with_first(lax.polygamma, 1.0), 1e-3, 100, (1e-3, 1e-2, 0.5, 2, 100)),
    "root": Domain(lambda x: x**0.3, 0, 1e8, (0, *UNITS)),
    "power": Domain(lambda x: x**-1.7, 1e-6, 1e4, UNITS[1:]),
    "exponent": Domain(with_first(lax.pow, 0.3), -20, 30, (-20, -1, 0, 1e-6, 30)),
    "own exponent": Domain(lambda x: lax.pow(x, x), 1e-6, 8, (1e-6, 0.01, 1, 3, 8)),
    "rem": Domain(with_second(lax.rem, 0.75), 0, 9, (0, 0.1, 0.74, 0.76, 5)),
    "sin": Domain(lax.sin, -100, 100, (-100, -1.6, 0, 1e-3, 3.14159, 100)),
    "sinh": Domain(lax.sinh, -50, 50, (-50, -2, 0, 1e-4, 30)),
    "tan": Domain(lax.tan, -1.5, 1.5, (-1.5, -0.8, 0, 1e-3, 1.5)),
    "angle": Domain(with_second(lax.atan2, 0.5), -1e8, 1e8, (-1.0, 0, *UNITS)),
    "phase": Domain(lambda t: jnp.arctan2(jnp.sin(t), 2 + jnp.cos(t)), 0, 20, (0, 1, 3, 11, 20)),
    "spent": Domain(lambda x: x * jnp.exp(-x), 0, 60, (0, 1e-6, 1, 3, 60)),
}  # fmt: skip
SPECIAL = ("betainc", "igamma", "polygamma")  # loops that take XLA seconds
STEPS = (0, 1e-7, 1e-5, 1e-3, 0.01, 0.1, 1, 100)
DTYPES = ("float32", "float64", "float16", "bfloat16")


def ends(domain: Domain, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(x, x0): every point with every step, absolute and relative, and with every other point."""
    pairs = [
        (point + sign * step * unit, point)
        for point in domain.points
        for step in STEPS
        for sign in (1, -1)
        for unit in (1, abs(point))
    ]
    pairs += [(x, x0) for x in domain.points for x0 in domain.points]
    with np.errstate(over="ignore"):
        x, x0 = np.asarray([p for p in pairs if domain.low <= p[0] <= domain.high]).astype(dtype).T
    wide, least = (lambda a: a.astype(np.float64)), float(jnp.finfo(dtype).tiny)
    with np.errstate(invalid="ignore"):
        apart = abs(wide(x) - wide(x0))
    fits = np.isfinite(wide(x)) & np.isfinite(wide(x0)) & ((apart == 0) | (apart >= least))
    fits &= (wide(x) >= domain.low) & (wide(x0) >= domain.low)
    fits &= (wide(x) <= domain.high) & (wide(x0) <= domain.high)
    return x[fits], x0[fits]


@cache
def compiled(name: str) -> Callable:
    """(x, x0) → multipliers, f(x) and f(x0), elementwise."""
    f = FUNCTIONS[name].f

    def both(x: Any, x0: Any) -> tuple[Any, Any, Any]:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        m = jxp.deeplift(lambda x: jnp.sum(f(x).astype(wide)), x0, multiply=False)(x)
        return m, f(x), f(x0)

    return jax.jit(both)


def evaluate(name: str, x: Any, x0: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a, np.float64) for a in (*compiled(name)(x, x0), x, x0))


def check_complete(name: str, x: Any, x0: Any, dtype: Any) -> None:
    """|m Δ - Δf| is rounding: of f, and of x as the derivative enlarges it (a few of each)."""
    eps, least = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    m, y, y0, x, x0 = evaluate(name, x, x0)
    fits = np.isfinite(y) & np.isfinite(y0) & (abs(m) < float(jnp.finfo(dtype).max))
    fits &= abs(m) >= least  # a slope of no digits
    with np.errstate(invalid="ignore"):
        gap = abs(m * (x - x0) - (y - y0))
    allowed = eps * (16 * (abs(y) + abs(y0)) + 8 * abs(m) * (abs(x) + abs(x0)))
    wrong = [
        f"from {b} to {a}: off by {g}"
        for a, b, g, t, ok in zip(x, x0, gap, allowed, fits, strict=True)
        if ok and not g <= t
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.promotes
@pytest.mark.parametrize("dtype", some_slow(DTYPES, DTYPES[1:3]))
@pytest.mark.parametrize("name", some_slow(FUNCTIONS, SPECIAL))
def test_complete_at_any_step(name, dtype, x64):
    dtype = jnp.dtype(dtype)
    check_complete(name, *ends(FUNCTIONS[name], dtype), dtype)


DIGITS = [name for name in FUNCTIONS if name not in SPECIAL][::2]


@pytest.mark.promotes
@pytest.mark.parametrize("name", slow_but(FUNCTIONS, DIGITS))
def test_slope_keeps_its_digits(name, x64):
    """float32 beside float64: off by Δy's rounding over Δ, or by eps^⅔ of the steepest slope."""
    x, x0 = ends(FUNCTIONS[name], np.float32)
    eps, tiny = (float(getattr(jnp.finfo(np.float32), key)) for key in ("eps", "tiny"))
    found, *_ = evaluate(name, x, x0)
    slope, y, y0, x, x0 = evaluate(name, x.astype(np.float64), x0.astype(np.float64))
    steep = abs(compiled_gradient(name)(x)) + abs(compiled_gradient(name)(x0)) + abs(slope)
    rounding = eps * (abs(y) + abs(y0) + abs(slope) * (abs(x) + abs(x0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        allowed = 8 * np.fmin(rounding / abs(x - x0), eps ** (2 / 3) * steep)
    largest = np.maximum(np.maximum(abs(x), abs(x0)), tiny)
    allowed += 16 * eps * (steep + (abs(y) + abs(y0)) / largest)
    fits = np.isfinite(slope) & (abs(slope) < 1e37) & ((abs(slope) > tiny) | (slope == 0))
    wrong = [
        f"from {b} to {a}: {m}, exactly {s}"
        for a, b, m, s, t, ok in zip(x, x0, found, slope, allowed, fits, strict=True)
        if ok and not abs(m - s) <= t
    ]
    assert not wrong, "\n".join(wrong)


@cache
def compiled_gradient(name: str) -> Callable:
    return jax.jit(jax.vmap(jax.grad(FUNCTIONS[name].f)))


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["acos", "asinh", "digamma", "erf", "lgamma", "root", "tan"])
@given(
    x0=st.floats(0, 1),
    step=st.floats(-9, 0),
    sign=st.sampled_from((1, -1)),
    dtype=st.sampled_from(("float32", "float16")),
)
@settings(max_examples=60, deadline=None)
def test_complete_anywhere(name, x0, step, sign, dtype):
    """Between the ends of the domain, by 10^step of what is left to them."""
    domain, dtype = FUNCTIONS[name], np.dtype(dtype)
    low, high = max(domain.low, -100), min(domain.high, 100)
    x0 = low + x0 * (high - low)
    x = x0 + sign * 10**step * ((high if sign > 0 else low) - x0) * sign
    x, x0 = np.clip(np.asarray([[x], [x0]]), low, high).astype(dtype)
    if abs(float(x[0]) - float(x0[0])) >= float(jnp.finfo(dtype).tiny):
        check_complete(name, x, x0, dtype)


# Functions whose sums were wrong where a fixed step is small beside their curvature.

angle = lambda p: jnp.arctan2(p[0], p[1])
CURVED: dict[str, tuple[Callable, Any, Any]] = {
    "arccos": (jnp.arccos, 0.99, 1.0),
    "lgamma": (gammaln, 1e-4, 1e-2),
    "erfinv": (erfinv, 0.9999, 0.99),
    "angle in mm": (angle, [1.0, 1.0], [1.0, -1.0]),
    "angle in m": (angle, [1e-3, 1e-3], [1e-3, -1e-3]),
    "angle in km": (angle, [1e-30, 1e-30], [1e-30, -1e-30]),
    "power": (lambda x: x[0] ** x[1], [1e-6, 0.3], [1e-2, 0.3]),
    "phase": (lambda t: jnp.arctan2(jnp.sin(1000 * t), 2 + jnp.cos(1000 * t)), 0.003, 0.011),
    "incomplete gamma": (lambda x: lax.igamma(jnp.float32(2), x), 1e-6, 1e-2),
    "polygamma": (lambda x: lax.polygamma(jnp.float32(1), x), 1e-3, 1.1e-2),
    "own power": (lambda x: x**x, 1e-6, 1e-2),
    "spent": (lambda x: x * jnp.exp(-x), 1e-6, 50.0),
    "choice": (lambda x: jnp.where(x[0] > x[1], x[0] ** 0.3, x[1]), [1e-6, 0.0], [1e-2, 0.0]),
}


@pytest.mark.parametrize("name", CURVED)
def test_curved(name):
    f, x, ref = CURVED[name]
    x, ref = jnp.asarray(x), jnp.asarray(ref)
    change = f(x) - f(ref)
    scale = float(jnp.abs(f(x)) + jnp.abs(f(ref)))
    contributions = jax.jit(jxp.deeplift(f, ref))(x)
    assert abs(float(contributions.sum()) - float(change)) <= 16 * 2.0**-23 * scale


def test_angle_is_the_same_in_every_unit():
    x, ref = jnp.array([1.0, 1.2]), jnp.array([0.9, 1.0])
    explain = jax.jit(lambda unit: jxp.deeplift(angle, ref * unit)(x * unit))
    for unit in (2.0**-100, 2.0**-10, 2.0**20, 2.0**100):
        np.testing.assert_allclose(explain(unit), explain(1.0), 1e-6)


def test_corners_keep_their_digits():
    """Several roots: of a choice, and of what has no closed form, multipliers are the gradient."""
    fs = {
        "choice": lambda x: jnp.where(x[0] > x[1], jnp.sin(x[0]) * x[1] + 100, x[1] ** 2),
        "power": lambda x: 100 + x[0] ** x[1],
        "maximum": lambda x: jnp.maximum(x[0] ** 2, x[1]) + 100,
        "remainder": lambda x: lax.rem(100 * x[0], x[1]),
    }
    ref = jnp.array([0.903, 0.5])
    for name, f in fs.items():
        found = jax.jit(jxp.deeplift(f, ref, multiply=False))
        for delta in (0, 1e-8, 1e-6, 1e-4):
            np.testing.assert_allclose(
                found(ref + delta), jax.grad(f)(ref), 1e-4 + 10 * delta, 1e-4, err_msg=name
            )


@pytest.mark.parametrize("f", [jnp.sqrt, jnp.cbrt, lambda x: x**0.3, jnp.log, lambda x: -1 / x])
def test_what_stays_without_a_derivative(f):
    """A row of zeros at both ends is no NaN, nor is it one for its neighbours."""
    x, ref = jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])
    contributions = jxp.deeplift(lambda x: jnp.sum(jnp.where(x > -1, f(x), 0)[1:]), ref)(x)
    np.testing.assert_allclose(contributions, [0, f(2.0) - f(1.0)], 1e-6)
    norm = lambda x: jnp.sum(jnp.sqrt(jnp.sum(x * x, 1)))
    rows, zeros = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.zeros((2, 2))
    np.testing.assert_allclose(jxp.deeplift(norm, zeros)(rows).sum(1), [5, 0], 1e-6)


# Path integrals.

MATRIX = np.random.default_rng(0).normal(size=(4, 4))
PATHS: dict[str, Callable] = {
    "cholesky": lambda a: jnp.linalg.cholesky(a @ a.T + jnp.eye(4, dtype=a.dtype)),
    "cumlogsumexp": lambda a: lax.cumlogsumexp(a, 1),
    "cumprod": lambda a: jnp.cumprod(a, 1),
    "eigenvalues": lambda a: jnp.linalg.eigvalsh(a + a.T),
    "magnitude": lambda a: jnp.abs(jnp.fft.fft(a)),
    "singular values": lambda a: jnp.linalg.svd(a, compute_uv=False),
    "sort": lambda a: jnp.sort(a, 1),
}


def reading(name: str) -> Callable:
    """A random linear read-out."""

    def f(a: Any) -> Any:
        y = PATHS[name](a)
        weights = np.random.default_rng(1).normal(size=y.shape)
        return jnp.vdot(jnp.asarray(weights, y.dtype), y)

    return f


@pytest.mark.promotes
@pytest.mark.parametrize("name", PATHS)
def test_path_integral_keeps_its_digits(name, x64):
    """float32 beside float64, from no step to a long one, complete at each."""
    f = reading(name)
    ref = MATRIX.astype(np.float32)
    run = jax.jit(lambda x, ref: (jxp.deeplift(f, ref, multiply=False)(x), f(x) - f(ref)))
    for step in (0, 1e-6, 1e-4, 1e-2, 0.3):
        x = (MATRIX + step * MATRIX[::-1]).astype(np.float32)
        found, change = run(x, ref)
        exact, _ = run(x.astype(np.float64), ref.astype(np.float64))
        np.testing.assert_allclose(found, exact, 0, 2e-6 * np.abs(exact).max(), err_msg=str(step))
        sum_ = np.sum(np.asarray(found, np.float64) * (x.astype(np.float64) - ref))
        assert abs(sum_ - change) <= 5e-6, step


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e25])
def test_leap_beside_the_nodes(unit):
    """Where two change places in the first hundredth of the way, no node sees it."""
    x, ref = jnp.array([0.0, 2.0]) * unit, jnp.array([1.0, 0.995]) * unit
    f = lambda x: 3 * jnp.sort(x)[1] / unit
    contributions = jxp.deeplift(f, ref)(x)
    np.testing.assert_allclose(contributions.sum(), f(x) - f(ref), 1e-6)


HIDE = lambda x: jnp.where(jnp.array([True, True, False, True]), x, -jnp.inf)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: lax.top_k(HIDE(x), 2)[0].sum(),
        lambda x: jnp.sort(HIDE(x))[-1],
        lambda x: lax.cumlogsumexp(HIDE(x))[-1],
    ],
    ids=["top_k", "sort", "cumlogsumexp"],
)
def test_equal_infinities_differ_by_nothing(f):
    x, ref = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([0.5, 0.0, 9.0, -1.0])
    contributions = jxp.deeplift(f, ref)(x)
    assert jnp.isfinite(contributions).all() and contributions[2] == 0
    np.testing.assert_allclose(contributions.sum(), f(x) - f(ref), 1e-6)


@jax.custom_vjp
def iterated(x: Any) -> Any:
    """√x by a loop of unknown length, with the derivative of the root."""
    step = lambda y: (y + x / y) / 2
    return lax.while_loop(lambda y: jnp.any(jnp.abs(y * y - x) > 1e-5), step, x)


def forward(x: Any) -> tuple[Any, Any]:
    return (iterated(x), iterated(x))


iterated.defvjp(forward, lambda y, ct: (ct / (2 * y),))


def test_integrate_any_function():
    """A derivative given by reverse mode alone; integers among the outputs; jit, vmap and grad."""
    scale = jnp.array([1.0, 2.0])

    def function(active: Any, rest: Any) -> list[Any]:
        a, b = active
        return [rest * iterated(a) * b, jnp.argmax(a), iterated(b) > 1]

    def explained(x: Any, ref: Any) -> Any:
        y, index, larger = integrate(function, x, ref, scale)
        return jnp.sum(y), (index, larger)

    x = [jnp.array([4.0, 9.0]), jnp.array([2.0, 3.0])]
    ref = [jnp.array([1.0, 1.0]), jnp.array([1.0, 0.5])]
    multipliers, (index, larger) = jax.jit(jax.grad(explained, has_aux=True))(x, ref)
    change = function(x, scale)[0].sum() - function(ref, scale)[0].sum()
    total = sum(jnp.sum(m * (v - v0)) for m, v, v0 in zip(multipliers, x, ref, strict=True))
    np.testing.assert_allclose(total, change, 1e-5)
    assert index == 1 and larger.all()
    batch = jax.tree.map(lambda a: jnp.stack([a, a + 1]), x)
    score = lambda x: explained(x, ref)[0]
    each = jax.jit(jax.vmap(jax.grad(score)))(batch)
    for m, of_first in zip(each, multipliers, strict=True):
        np.testing.assert_allclose(m[0], of_first, 1e-5)
    loss = lambda x: jnp.sum(jax.grad(score)(x)[1] ** 2)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(x)))


def test_scores_are_differentiable_where_slopes_are_chosen():
    """No NaN from what is not taken, in small units too."""
    x = jnp.array([0.5, 0.5, 0.5, 1e-18, 0.5])
    x0 = jnp.array([0.5, 0.499, 0.1, 2e-18, 1e-18])
    for f in (erfinv, jnp.arccos, jnp.arctan, jnp.asinh, jnp.log1p):
        scores = lambda x, f=f: jnp.sum(jxp.deeplift(lambda x: jnp.sum(f(x)), x0)(x))
        assert jnp.isfinite(jax.jit(jax.grad(scores))(x)).all(), f
