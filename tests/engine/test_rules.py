"""The worked values of the rules: products, quotients, choices, norms, solves, frozen values."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from tests.support.checks import draw, multipliers, read, shapley

pytestmark = pytest.mark.usefixtures("x64")
assert_close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)


def contributions(g: Callable, x: Any, ref: Any) -> np.ndarray:
    """Of the rows of x, each an argument of the elementwise g."""
    m = multipliers(lambda x: jnp.sum(g(*x)), x, ref)
    return np.asarray(m * (x - ref))


# Products.


@pytest.mark.promotes
@pytest.mark.parametrize(
    "f",
    [
        jnp.vdot,
        lambda a, b: jnp.sum(a * b),
        lambda a, b: read(jnp.matmul)(a.reshape(2, 3), b.reshape(3, 2)),
        lambda a, b: read(jnp.convolve)(a, b[:3]),
        lambda a, b: read(jnp.outer)(a, b),
        lambda a, b: read(lambda a, b: jnp.einsum("bi,bi->b", a, b))(
            *(v.reshape(2, 3) for v in (a, b))
        ),
    ],
    ids=["dot", "multiply", "matmul", "convolve", "outer", "einsum"],
)
def test_bilinear_at_midpoints(f):
    x, ref = (draw(1, 6), draw(2, 6)), (draw(3, 6), draw(4, 6))
    middle = jax.tree.map(lambda v, v0: (v + v0) / 2, x, ref)
    expected = jax.grad(f, (0, 1))(*middle)
    for m, gradient in zip(multipliers(lambda x: f(*x), x, ref), expected, strict=True):
        assert_close(m, gradient)


SPELLINGS_OF_A_PRODUCT: dict[str, Callable] = {
    "left": lambda *x: reduce(jnp.multiply, x),
    "right": lambda *x: reduce(lambda a, b: b * a, x[::-1]),
    "tree": lambda *x: x[0] * reduce(jnp.multiply, x[1:]),
    "prod": lambda *x: jnp.prod(jnp.stack(x), 0),
    "cumprod": lambda *x: jnp.cumprod(jnp.stack(x), 0)[-1],
    "jit": lambda *x: reduce(jax.jit(jnp.multiply), x),
    "constant_between": lambda *x: (2.0 * reduce(jnp.multiply, x[:-1])) * x[-1] * 0.5,
    "negated_between": lambda *x: -(-reduce(jnp.multiply, x[:-1]) * x[-1]),
    "divided_between": lambda *x: 2.0 * ((reduce(jnp.multiply, x[:-1]) / 2.0) * x[-1]),
}


@pytest.mark.parametrize("spelling", SPELLINGS_OF_A_PRODUCT)
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_product_of_several(spelling, count):
    """However it is spelled, a product's factors share its change as equals."""
    product = SPELLINGS_OF_A_PRODUCT[spelling]
    x, ref = draw(1, count, 4), draw(2, count, 4)
    assert_close(contributions(product, x, ref), shapley(product, x, ref))


def test_two_three_four():
    x = jnp.array([[2.0], [3.0], [4.0]])
    assert_close(contributions(lambda a, b, c: a * b * c, x, 0 * x), [[8.0], [8.0], [8.0]])


def test_product_of_many_is_complete():
    x, ref = draw(1, 11, 2), draw(2, 11, 2)
    contributions(lambda *x: reduce(jnp.multiply, x), x, ref)


@pytest.mark.parametrize(
    "g",
    [
        lambda x, y: x * x * y,
        lambda x, y: x * y * x,
        lambda x, y: (x * y) * (x * y),
        lambda x, y: jnp.tanh(x) * y * x,
        lambda x, y: x * (y * jnp.exp(x)),
        lambda x, y: x**3 * y * 0.7,
    ],
)
def test_repeated_factors_are_one_player(g):
    x, ref = 2 + draw(1, 2, 5), 2 + draw(2, 2, 5)
    assert_close(contributions(g, x, ref), shapley(g, x, ref))


def weighed(*factors: Any) -> Any:
    """The multipliers of a product of (value, reference) pairs, of which the sum is checked."""
    x, ref = (jnp.array(column, float) for column in zip(*factors, strict=True))
    return np.asarray(multipliers(lambda x: x[0] * x[1], x, ref)), x, ref


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0, 34.0, 1e3, 1e8])
def test_a_product_whose_orders_cancel_is_weighed(scale):
    """Symmetric in the factors; half of each order while comparable, the smaller one beyond."""
    c, s = (1.0, 0.0), (1.0, scale)  # a normed value at a zero reference, and its scale
    of_c, of_s = weighed(c, s)[0]
    assert_close(weighed(s, c)[0], [of_s, of_c])
    assert_close(of_c + of_s * (1 - scale), 1)  # complete
    if scale <= 10:
        assert_close([of_c, of_s], [(1 + scale) / 2, 0.5])
    if scale >= 1e3:
        assert_close([of_c, of_s], [1, 0])  # s Δc + c₀ Δs, and not s₀ Δc + c Δs


@pytest.mark.parametrize("read", [
    lambda x: jnp.sort(x, 0)[-1] @ jnp.arange(1.0, 3), lambda x: lax.top_k(x.T, 1)[0].sum(),
    lambda x: jnp.max(x, 0).sum(),
])  # fmt: skip
def test_what_is_tied_at_both_ends_shares(read):
    x = jnp.array([[1.0, 3.0], [2.0, 0.5], [2.0, 3.0], [0.0, 3.0]])
    ref = jnp.array([[0.5, 1.0], [1.0, 0.5], [1.0, 1.0], [0.0, 2.0]])
    c = jxp.deeplift(read, ref)(x)
    np.testing.assert_allclose(c.sum(), read(x) - read(ref), 1e-6)
    np.testing.assert_allclose(c[1, 0], c[2, 0], 1e-6)
    np.testing.assert_allclose(c[0, 1], c[2, 1], 1e-6)
    assert c[1, 0] > 0.4


def test_a_choice_between_scalars_waits_through_a_reshape():
    """As in slogdet: log 0 where there is none."""
    f = lambda x: jnp.where((x == 0).any(), -jnp.inf, jnp.log(x).sum()).reshape(1) @ jnp.ones(1)
    x, ref = jnp.array([2.0, 3.0]), jnp.array([1.0, 4.0])
    np.testing.assert_allclose(jxp.deeplift(f, ref)(x), jnp.log(x / ref), 1e-5)


def several(v: Any) -> Any:
    return reduce(jnp.multiply, list(v))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 34.0, 1e6])
def test_a_reduced_product_is_that_of_its_factors(scale, dtype):
    """However it is spelled, and along whichever axes."""
    x, ref = draw(7, 4, 3), draw(8, 4, 3)
    ref = ref.at[1].multiply(scale)
    with jax.enable_x64(dtype == "float64"):
        x, ref = np.asarray(x, dtype), np.asarray(ref, dtype)
        one_by_one = multipliers(lambda x: several(x).sum(), x, ref)
        for f in (lambda x: jnp.prod(x, 0), lambda x: jnp.prod(x.reshape(2, 2, 3), (0, 1))):
            found = multipliers(lambda x, f=f: f(x).sum(), x, ref)
            size = np.abs(one_by_one * (x - ref)).max()
            np.testing.assert_allclose(
                found * (x - ref), one_by_one * (x - ref), 1e-4, 1e-5 * size
            )


@pytest.mark.parametrize("count", [3, 40, 64, 150])
def test_a_product_of_many_factors_is_complete(count):
    x, ref = 1 + 0.2 * draw(7, count), 1 + 0.2 * draw(8, count)
    x, ref = x.at[0].set(0), ref.at[1].set(300)  # a zero, and a scale that settles
    contributions = jxp.deeplift(jnp.prod, ref)(x)
    np.testing.assert_allclose(contributions.sum(), jnp.prod(x) - jnp.prod(ref), 2e-5)
    np.testing.assert_allclose(jxp.deeplift(jnp.prod, 0.0)(jnp.array([2.0, 3.0, 4.0])), 8, 1e-6)


def test_the_weighing_is_smooth_in_the_values():
    def of_c(scale: Any) -> Any:
        x, ref = jnp.array([1.0, 1.0]), jnp.stack([jnp.zeros_like(scale), scale])
        return jxp.deeplift(lambda x: x[0] * x[1], ref, multiply=False)(x)[0]

    scales = jnp.linspace(5.0, 60.0, 111)
    slopes = jax.vmap(jax.grad(of_c))(scales)
    middles = (jax.vmap(of_c)(scales + 1e-5) - jax.vmap(of_c)(scales - 1e-5)) / 2e-5
    assert jnp.isfinite(slopes).all()
    np.testing.assert_allclose(slopes, middles, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("f", [jnp.prod, lambda x: x[0] * x[1] * x[2], lambda x: x[:2] @ x[1:]],
                         ids=["prod", "factors", "dot"])  # fmt: skip
def test_a_product_of_what_stands_still_has_second_derivatives(f):
    """0/0, where neither order of change is larger, has no slope: not nan."""
    x = jnp.array([1.5, 0.0, -2.0])
    for ref in (x, jnp.zeros(3), x.at[0].set(0.5)):
        loss = lambda x, ref=ref: jnp.sum(jxp.deeplift(f, ref)(x) ** 2)
        step = 1e-5 * jnp.array([1.0, 2.0, -1.5])
        slope = (loss(x + step) - loss(x - step)) / 2
        np.testing.assert_allclose(jax.grad(loss)(x) @ step, slope, 1e-4, 1e-9)


def test_factors_of_one_variable_are_one_function():
    x, ref = draw(1, 5), draw(2, 5)
    m = multipliers(lambda x: jnp.sum(x * jnp.tanh(x) * jnp.exp(x)), x, ref)
    g = lambda x: x * jnp.tanh(x) * jnp.exp(x)
    assert_close(m, (g(x) - g(ref)) / (x - ref))


def test_quotient():
    """m_a = ½(1/b + 1/b0), m_b = -(a + a0)/(2 b b0)."""
    (a, b), (a0, b0) = x, ref = (draw(1, 5), 2 + draw(2, 5) ** 2), (draw(3, 5), 1 + draw(4, 5) ** 2)
    of_a, of_b = multipliers(lambda x: jnp.sum(x[0] / x[1]), x, ref)
    assert_close(of_a, (1 / b + 1 / b0) / 2)
    assert_close(of_b, -(a + a0) / (2 * b * b0))


# Any other function of several variables: Shapley values over the corners.

CORNERS: dict[str, tuple[int, Callable]] = {
    "max": (2, jnp.maximum),
    "min": (2, jnp.minimum),
    "pow": (2, lambda a, b: jnp.power(jnp.abs(a) + 0.1, b)),
    "atan2": (2, jnp.arctan2),
    "rem": (2, lambda a, b: lax.rem(a, jnp.abs(b) + 0.3)),
    "hypot_of_max": (2, lambda a, b: jnp.maximum(jnp.abs(a), b * b)),
    "where_one": (2, lambda a, b: jnp.where(a > 0, b, 0.3)),
    "where_itself": (2, lambda a, b: jnp.where(a > 0, jnp.sin(a), b)),
    "where_two": (2, lambda a, b: jnp.where(a > b, a, b)),
    "where_both": (3, lambda a, b, c: jnp.where((a > 0) & (b > 0), c, 1.0)),
    "where_three": (3, lambda a, b, c: jnp.where(a > 0, b, c)),
    "where_order": (3, lambda a, b, c: jnp.where((a > b) & (b > c), jnp.tanh(b), -1.0)),
    "where_four": (4, lambda a, b, c, d: jnp.where(a > b, c, d)),
    "select_of_three": (
        4,
        lambda a, b, c, d: lax.select_n(
            (a > 0).astype(jnp.int32) + (a > 0.7).astype(jnp.int32), b, c, d
        ),
    ),
    "clamp": (3, lambda a, b, c: lax.clamp(-jnp.abs(a), b, jnp.abs(c))),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name):
    """Eleven random points, of which some flip the choice and some do not; and where x = x0."""
    players, g = CORNERS[name]
    x, ref = draw(1, players, 12), draw(2, players, 12)
    ref = ref.at[:, -1].set(x[:, -1])
    assert_close(contributions(g, x, ref), shapley(g, x, ref))


def test_too_many_players():
    def f(x: Any) -> Any:
        return jnp.where((x[0] > x[1]) & (x[2] > x[3]) & (x[4] > x[5]), x[6], 0.0)

    with pytest.raises(jxp.UnsupportedPrimitive, match=r"7 different.*Split the choice"):
        jxp.deeplift(f, 0.0)(jnp.ones(7))


def test_choices_that_agree_are_constants():
    """A guard that reduces over the array is the same at both ends, and bars nothing."""
    g = lambda x: jnp.where(jnp.any(jnp.isnan(x)), jnp.nan, jnp.sin(x))
    x, ref = draw(1, 5), draw(2, 5)
    assert_close(
        multipliers(lambda x: jnp.sum(g(x)), x, ref), (jnp.sin(x) - jnp.sin(ref)) / (x - ref)
    )


# Maxima.


def winner(x: np.ndarray, ref: np.ndarray) -> np.ndarray:
    """All of Δy to the argmax of x if y rose, else to that of the reference."""
    change = x.max() - ref.max()
    chosen = np.argmax(x if change > 0 else ref)
    return change * (np.arange(len(x)) == chosen)


@pytest.mark.parametrize("seed", range(4))
def test_maximum_goes_to_its_winner(seed):
    x, ref = draw(seed, 4, 5), draw(seed + 10, 4, 5)
    m = multipliers(lambda x: jnp.sum(jnp.max(x, 1)), x, ref)
    expected = np.stack(
        [winner(*rows) for rows in zip(np.asarray(x), np.asarray(ref), strict=True)]
    )
    assert_close(m * (x - ref), expected)
    assert jnp.abs(m).max() <= 1 + 1e-12


def test_overlapping_windows_have_a_winner_each():
    x, ref = draw(1, 8), draw(2, 8)
    m = multipliers(
        lambda x: jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (3,), (2,), "VALID")), x, ref
    )
    expected = np.zeros(8)
    for start in (0, 2, 4):
        window = slice(start, start + 3)
        expected[window] += winner(np.asarray(x[window]), np.asarray(ref[window]))
    assert_close(m * (x - ref), expected)


@pytest.mark.promotes
def test_minimum_is_a_maximum_turned():
    x, ref = draw(1, 3, 5), draw(2, 3, 5)
    of_min = multipliers(lambda x: read(partial(jnp.min, axis=1))(x), x, ref)
    of_max = multipliers(lambda x: -read(partial(jnp.max, axis=1))(-x), x, ref)
    assert_close(of_min, of_max)


def test_ties_share():
    x, ref = jnp.array([1.0, 1.0, 0.0]), jnp.zeros(3)
    assert_close(multipliers(jnp.max, x, ref), [0.5, 0.5, 0.0])
    assert_close(jxp.deeplift(jnp.max, x, multiply=False)(x), jax.grad(jnp.max)(x))


TIES: dict[str, Callable] = {
    "maximum": jnp.max,
    "cumulative": lambda x: lax.cummax(x)[-1],
    "cumulative backwards": lambda x: lax.cummax(x, reverse=True)[0],
    "pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (5,), (1,), "VALID")[0],
    "large pool": lambda x: lax.reduce_window(
        jnp.broadcast_to(x[:, None], (5, 7)), -jnp.inf, lax.max, (5, 7), (1, 1), "VALID"
    )[0, 0],
    "segments": lambda x: jax.ops.segment_max(x, jnp.zeros(5, int), 1)[0],
}


@pytest.mark.parametrize("name", TIES)
def test_ties_share_whatever_spells_the_maximum(name):
    f = TIES[name]
    assert_close(jxp.deeplift(f, jnp.ones(5))(jnp.zeros(5)), np.full(5, -0.2))
    x = jnp.array([2.0, 1.0, 2.0, 0.0, 2.0])
    assert_close(jxp.deeplift(f, 0.0)(x), [2 / 3, 0, 2 / 3, 0, 2 / 3])


@pytest.mark.parametrize("rules", ["rescale", "reveal_cancel", "central_limit"])
def test_the_derivative_of_a_pool_has_its_own_change(rules):
    pool = lambda z: lax.reduce_window(z, -jnp.inf, lax.max, (2,), (2,), "VALID")
    energy = lambda z: (pool(z) ** 2).sum()
    w = jnp.array([0.5, -1.0, 2.0, 3.0])
    x, ref = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([2.0, 1.0, 3.0, 3.5])
    for f in (lambda x: jax.grad(energy)(x) @ w, lambda x: jax.jvp(energy, (x,), (w,))[1]):
        c = jxp.deeplift(f, ref, rules=rules)(x)
        # 2 y w there: the first window's winner changes places, the second's only its value.
        assert_close(c.reshape(2, 2).sum(1), [-4 - 2, 2 * 3 * 0.5], rtol=1e-5)
        assert_close(c[2], 0, atol=1e-6)


# Norms.

EPSILON = 1e-3


def mean_square(c: Any) -> Any:
    return jnp.mean(c**2) + EPSILON


NORMS: dict[str, Callable] = {
    "rsqrt": lambda c: c * lax.rsqrt(mean_square(c)),
    "rsqrt_first": lambda c: lax.rsqrt(jnp.mean(c * c, keepdims=True) + EPSILON) * c,
    "power": lambda c: c * mean_square(c) ** -0.5,
    "inverse": lambda c: c * (1 / jnp.sqrt(mean_square(c))),
    "division": lambda c: c / jnp.sqrt(mean_square(c)),
    "dot": lambda c: c * lax.rsqrt(jnp.vdot(c, c) / c.size + EPSILON),
    "jit": lambda c: c * jax.jit(lambda c: lax.rsqrt(mean_square(c)))(c),
}


def norm_multipliers(c: Any, c0: Any, u: Any, theta: float) -> Any:
    """m_c = s_θ u - κ c̄ ⟨c_θ, u⟩, κ = 2/(n √V √V0 (√V + √V0))."""
    root, root0 = (jnp.sqrt(mean_square(v)) for v in (c, c0))
    s = theta / root + (1 - theta) / root0
    c_theta = (1 - theta) * c + theta * c0
    kappa = 2 / (c.size * root * root0 * (root + root0))
    return s * u - kappa * (c + c0) / 2 * jnp.vdot(c_theta, u)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("theta", [0.0, 0.5, 1.0])
def test_norm(name, theta):
    c, c0, u = draw(1, 6), draw(2, 6), draw(3, 6)
    m = multipliers(
        lambda c: jnp.vdot(u, NORMS[name](c)), c, c0, rules=jxp.rules.rescale(norm_theta=theta)
    )
    assert_close(m, norm_multipliers(c, c0, u, theta))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(("reference", "theta"), [(1.0, 0.5), (0.0, 1.0), (100.0, 0.0)])
def test_norm_settles_the_smaller_scale_first(name, reference, theta):
    """θ is ½ by default, and at the well-conditioned end where the scales are far apart."""
    c, c0, u = draw(1, 6), reference * draw(2, 6), draw(3, 6)
    m = multipliers(lambda c: jnp.vdot(u, NORMS[name](c)), c, c0)
    assert_close(m, norm_multipliers(c, c0, u, theta))


# Frozen values.


FROZEN: dict[str, Callable] = {
    "sum": jnp.sum,
    "chain": lambda x: jnp.tanh(jnp.sum(x)),
    "product": lambda x: x[0] * x[1],
    "quotient": lambda x: x[0] / x[1],
    "maximum": lambda x: jnp.maximum(x[0], x[1]),
    "choice": lambda x: jnp.where(x[0] > x[1], x[2], x[3]),
    "reduction": jnp.max,
    "norm": jnp.linalg.norm,
    "dot": lambda x: x @ x,
    "three_factors": lambda x: x[0] * x[1] * x[2],
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_value_is_shared_by_both_passes(name):
    """f = ⌊g(x)⌋ h(x) is explained as c h(x) with the number c = g(x)."""
    x, ref = draw(1, 4), draw(2, 4)
    h = lambda x: jnp.sum(jnp.sin(x) * x[::-1])
    f = lambda x: lax.stop_gradient(FROZEN[name](x)) * h(x)
    c = FROZEN[name](x)
    m, gap = jxp.deeplift(f, ref, multiply=False, return_gap=True)(x)
    assert_close(m, multipliers(lambda x: c * h(x), x, ref))
    assert_close(gap, (c - FROZEN[name](ref)) * h(ref))


def test_frozen_within_a_chain_is_the_identity():
    x, ref = draw(1, 6), draw(2, 6)
    assert_close(multipliers(lambda x: jnp.sum(x * lax.stop_gradient(x)), x, ref), x + ref)
    for g in (jnp.sinc, lambda x: x + lax.stop_gradient(jnp.round(x) - x)):
        m = multipliers(lambda x: jnp.sum(g(x)), x, ref)
        assert_close(m, (g(x) - g(ref)) / (x - ref))


def test_wholly_frozen():
    m, gap = jxp.deeplift(lambda x: lax.stop_gradient(jnp.sum(x)), 0.0, return_gap=True)(draw(1, 3))
    assert_close(m, 0)
    assert_close(gap, jnp.sum(draw(1, 3)))


# Control flow: the same numbers as written out.

W = np.random.default_rng(0).normal(size=(3, 3)) / 2


def cell(h: Any, x: Any) -> Any:
    return jnp.tanh(W @ h + x) * jax.nn.sigmoid(x)


def loop(x: Any, reverse: bool = False) -> Any:
    h, hs = jnp.zeros(3), []
    for row in x[::-1] if reverse else x:
        h = cell(h, row)
        hs.append(h)
    return h, jnp.stack(hs[::-1] if reverse else hs)


def scanned(x: Any, step: Callable = cell, **options: Any) -> Any:
    return lax.scan(lambda h, row: (step(h, row),) * 2, jnp.zeros(3), x, **options)


def branched(x: Any, index: Any) -> Any:
    return lax.switch(index, [jnp.sin, lambda x: cell(x[0], x), jnp.zeros_like], x)


def doubled(flag: Any) -> Callable:
    """A scan with a branch inside, on a flag that is not attributed."""
    step = lambda h, row: lax.cond(flag, cell, lambda h, row: h + row, h, row)
    return lambda x: scanned(x, step)[0]


CONTROL: dict[str, tuple[Callable, Callable]] = {
    "scan": (lambda x: scanned(x)[0], lambda x: loop(x)[0]),
    "scan_outputs": (lambda x: scanned(x)[1], lambda x: loop(x)[1]),
    "scan_reverse": (lambda x: scanned(x, reverse=True)[1], lambda x: loop(x, True)[1]),
    "scan_unrolled": (lambda x: scanned(x, unroll=2)[0], lambda x: loop(x)[0]),
    "scan_remat": (lambda x: scanned(x, jax.checkpoint(cell))[0], lambda x: loop(x)[0]),
    "scan_in_remat": (jax.checkpoint(lambda x: scanned(x)[0]), lambda x: loop(x)[0]),
    "scan_jit": (jax.jit(lambda x: scanned(x, jax.jit(cell))[0]), lambda x: loop(x)[0]),
    "scan_closure": (
        lambda x: lax.scan(lambda h, _: (cell(h, x[0]), None), x[1], None, length=3)[0],
        lambda x: reduce(lambda h, _: cell(h, x[0]), range(3), x[1]),
    ),
    "scan_nested": (
        lambda x: lax.scan(lambda h, _: (scanned(x + h)[0], None), jnp.zeros(3), length=2)[0],
        lambda x: loop(x + loop(x)[0])[0],
    ),
    "scan_inactive_carry": (
        lambda x: lax.scan(lambda c, r: ((c[0] + 1, cell(c[1], r)), None), (0.0, jnp.ones(3)), x)[
            0
        ][1],
        lambda x: reduce(cell, x, jnp.ones(3)),
    ),
    "fori_loop": (
        lambda x: lax.fori_loop(0, 4, lambda i, h: cell(h, x[i]), jnp.zeros(3)),
        lambda x: loop(x)[0],
    ),
    "map": (lambda x: lax.map(lambda r: cell(r, r[::-1]), x), jax.vmap(lambda r: cell(r, r[::-1]))),
    "associative_scan": (
        lambda x: lax.associative_scan(jnp.add, jnp.sin(x)),
        lambda x: jnp.cumsum(jnp.sin(x), 0),
    ),
    "cond": (
        lambda x: lax.cond(True, lambda x: cell(x[0], x[1]), lambda x: x[2], x),
        lambda x: cell(x[0], x[1]),
    ),
    "cond_inactive_branch": (
        lambda x: lax.cond(False, lambda x: x, jnp.ones_like, x),
        jnp.ones_like,
    ),
    "switch": (lambda x: branched(x, 1), lambda x: cell(x[0], x)),
    "switch_traced": (
        lambda x: jax.vmap(branched, (None, 0))(x, jnp.arange(3)),
        lambda x: jnp.stack([jnp.sin(x), cell(x[0], x), 0 * x]),
    ),
    "scan_of_cond": (doubled(np.bool_(True)), lambda x: loop(x)[0]),
    "remat": (jax.checkpoint(lambda x: cell(x[0], x[1])), lambda x: cell(x[0], x[1])),
    "remat_policy": (
        jax.checkpoint(lambda x: cell(x[0], x[1]), policy=jax.checkpoint_policies.nothing_saveable),
        lambda x: cell(x[0], x[1]),
    ),
    "while_of_others": (
        lambda x: lax.while_loop(lambda c: c < 3.0, lambda c: c + 1.5, 0.0) * x,
        lambda x: 3.0 * x,
    ),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_is_what_it_means(name):
    written, unrolled = map(read, CONTROL[name])
    x, ref = draw(1, 4, 3), draw(2, 4, 3)
    assert_close(multipliers(written, x, ref), multipliers(unrolled, x, ref))


def test_predicate_in_the_arguments():
    """An argument that is not attributed may branch, under jit and vmap too."""
    f = lambda x, flag: lax.cond(flag, lambda x: jnp.sum(jnp.sin(x)), lambda x: x[0] * x[1], x)
    explain = jax.jit(jax.vmap(jxp.deeplift(f, 0.5), (None, 0)))
    x = draw(1, 3)
    both = explain(x, jnp.array([True, False]))
    assert_close(both[0], jnp.sin(x) - jnp.sin(0.5))
    assert_close(both[1].sum(), x[0] * x[1] - 0.25)


# Custom derivatives are opened: what is explained is the value.


def test_custom_derivatives_are_not_asked():
    @jax.custom_jvp
    def twice(x: Any) -> Any:
        return 2 * x

    twice.defjvp(lambda p, t: (twice(*p), 100 * t[0]))

    @jax.custom_vjp
    def thrice(x: Any) -> Any:
        return 3 * x

    thrice.defvjp(lambda x: (3 * x, None), lambda _, ct: (-ct,))
    x, ref = draw(1, 4), draw(2, 4)
    assert_close(multipliers(lambda x: jnp.sum(twice(x) + thrice(x)), x, ref), 5)


# Complex values in between.

COMPLEX: dict[str, Callable] = {
    "magnitude": lambda x: jnp.abs(jnp.fft.fft(x)),
    "power": lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2,
    "log_power": lambda x: jnp.log(jnp.abs(jnp.fft.rfft(x)) ** 2 + 0.1),
    "filter": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * (1 + 2j)),
    "autocorrelation": lambda x: jnp.fft.ifft(jnp.fft.fft(x) * jnp.conj(jnp.fft.fft(x))).real,
    "phase": lambda x: jnp.exp(1j * x).real + jnp.exp(1j * x).imag * x,
    "square": lambda x: ((x + 1j * x[..., ::-1]) ** 2).imag,
    "quotient": lambda x: (x / (2 + 1j * x)).real,
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", COMPLEX)
def test_complex(name):
    """Each row of a batch within f keeps its own change."""
    f = read(COMPLEX[name])
    x, ref = draw(1, 2, 6), draw(2, 2, 6)
    m = multipliers(lambda x: f(x[0]) + f(x[1]), x, ref)
    assert_close((m * (x - ref)).sum(1), jax.vmap(f)(x) - jax.vmap(f)(ref))
    batched = multipliers(lambda x: sum(map(read(lambda y: y), COMPLEX[name](x))), x, ref)
    assert_close((batched * (x - ref)).sum(1), jax.vmap(f)(x) - jax.vmap(f)(ref))


def test_magnitude_through_zero():
    """|z| has a kink at 0, where a quadrature is far off: each element is put right by itself."""
    f = lambda z: jnp.abs(lax.complex(z[0], z[1]))
    x, ref = jnp.array([[1.0, 1.0], [0.01, 2.0]]), jnp.array([[-2.0, 0.5], [0.01, 1.0]])
    m = multipliers(lambda z: jnp.sum(f(z)), x, ref)
    assert_close((m * (x - ref)).sum(0), f(x) - f(ref))


# Solves and other local paths.


@pytest.mark.parametrize("columns", [(), (2,)])
def test_linear_solve(columns):
    """Δy = Ā⁻¹(Δb - ΔA ȳ)."""
    u = draw(5, 3, *columns)
    f = lambda x: jnp.vdot(u, jnp.linalg.solve(*x))
    x, ref = ((draw(s, 3, 3) + 4 * jnp.eye(3), draw(s + 1, 3, *columns)) for s in (1, 3))
    (y, y0), middle = (jnp.linalg.solve(*p) for p in (x, ref)), (x[0] + ref[0]) / 2
    of_a, of_b = multipliers(f, x, ref)
    expected = jnp.linalg.solve(middle.T, u)
    assert_close(of_b, expected)
    assert_close(of_a, -expected.reshape(3, -1) @ ((y + y0) / 2).reshape(3, -1).T)


def by_hand(x: Any) -> Any:
    solve = lambda _, b: b / jnp.exp(x)
    return lax.custom_linear_solve(lambda v: jnp.exp(x) * v, jnp.ones(3), solve, solve)


def diagonal(solve: Callable) -> Callable:
    return lambda x: solve(lambda v: (2 + x**2) * v, jnp.ones(3))[0]


KRYLOV = {name: getattr(jax.scipy.sparse.linalg, name) for name in ("cg", "bicgstab", "gmres")}
SOLVES: dict[str, tuple[Callable, Callable]] = {
    **{name: (diagonal(solve), lambda x: 1 / (2 + x**2)) for name, solve in KRYLOV.items()},
    "custom": (by_hand, lambda x: jnp.exp(-x)),
    "dense": (
        lambda x: jnp.linalg.solve(jnp.diag(2 + x**2), jnp.ones(3)),
        lambda x: 1 / (2 + x**2),
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_a_matvec_that_is_not_linear_in_x(name):
    f, own = SOLVES[name]
    x, ref = jnp.array([0.5, -1.0, 1.5]), jnp.array([2.0, 0.3, -0.2])
    contributions = jax.jit(jxp.deeplift(lambda x: f(x).sum(), ref))(x)
    np.testing.assert_allclose(contributions, own(x) - own(ref), 1e-5)


PATHS: dict[str, Callable] = {
    "cholesky": lambda a: jnp.linalg.cholesky(a @ a.T + jnp.eye(3)),
    "cumlogsumexp": lambda a: lax.cumlogsumexp(a, 1),
    "cumprod": lambda a: jnp.cumprod(a, 1),
    "triangular": lambda a: jax.scipy.linalg.solve_triangular(
        jnp.tril(a) + 4 * jnp.eye(3), a, lower=True
    ),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["cumlogsumexp", "cumprod"])
def test_path_integral_is_integrated_gradients(name):
    f = read(PATHS[name])
    x, ref = draw(1, 3, 3), draw(2, 3, 3)
    m = multipliers(f, x, ref)
    np.testing.assert_allclose(m * (x - ref), jxp.integrated_gradients(f, ref)(x), 1e-6, 1e-6)


@pytest.mark.promotes
@pytest.mark.parametrize("name", PATHS)
def test_path_integral_is_differentiable(name):
    """A loss over attributions, against central differences."""
    x, ref = draw(1, 3, 3), draw(2, 3, 3)
    f = lambda x, scale: read(PATHS[name])(scale * x)
    loss = jax.jit(lambda scale: jnp.sum(jxp.deeplift(f, ref)(x, scale) ** 2))
    step = 1e-5
    difference = (loss(1 + step) - loss(1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), difference, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_numbers_that_cancel_later_keep_their_change(dtype):
    """Only what is larger than all it changes is a mask's."""
    x = jnp.array([1e9, 1.5e9], dtype)
    contributions = jxp.deeplift(lambda x: jnp.sort(x) @ jnp.array([-3.0, 2.0], dtype), 0.0)(x)
    np.testing.assert_allclose(contributions, [-3e9, 3e9], 1e-5)


# Sums of independent parts.


@pytest.mark.promotes
def test_parts_keep_their_own_change():
    """Contributions rescaled to the right sum would pass elsewhere, and fail here."""
    parts = {
        "norm": lambda h: read(NORMS["rsqrt"])(h),
        "sort": lambda h: read(jnp.sort)(h),
        "softmax": lambda h: read(jax.nn.softmax)(h),
        "product": jnp.prod,
        "maximum": jnp.max,
        "choice": lambda h: jnp.where(h[0] > 0, h[1], h[2]),
        "magnitude": lambda h: read(lambda h: jnp.abs(jnp.fft.fft(h)))(h),
    }
    x = {name: draw(i, 5) for i, name in enumerate(parts)}
    ref = {name: draw(i + 50, 5) for i, name in enumerate(parts)}
    m = multipliers(lambda x: sum(f(x[name]) for name, f in parts.items()), x, ref)
    for name, f in parts.items():
        assert_close(
            (m[name] * (x[name] - ref[name])).sum(), f(x[name]) - f(ref[name]), err_msg=name
        )


@pytest.mark.parametrize("largest", [True, False], ids=["max", "min"])
@pytest.mark.parametrize(
    "window",
    [
        dict(window_dimensions=(2, 2, 1), window_strides=(2, 2, 1), padding="VALID"),
        dict(window_dimensions=(3, 3, 1), window_strides=(2, 1, 1), padding="SAME"),
        dict(
            window_dimensions=(2, 3, 2), window_strides=(1, 2, 1), padding="VALID",
            window_dilation=(2, 1, 1),
        ),
        dict(window_dimensions=(6, 7, 1), window_strides=(1, 1, 1), padding="SAME"),
        dict(
            window_dimensions=(2, 2, 1), window_strides=(1, 1, 1), padding="VALID",
            base_dilation=(2, 1, 1),
        ),
    ],
    ids=["apart", "overlapping", "dilated", "large", "dilated base"],
)  # fmt: skip
def test_ties_share_in_every_pool(window, largest):
    """As in `jnp.max` of each window's elements."""
    reduce, worst = (lax.max, -jnp.inf) if largest else (lax.min, jnp.inf)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (7, 8, 2)), jnp.float32)  # many ties

    def f(x):
        y = lax.reduce_window(x, worst, reduce, **window).ravel()
        return y @ jnp.cos(jnp.arange(y.size, dtype=x.dtype))

    def by_gather(x):
        places = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)
        found = [
            lax.reduce_window(jnp.where(places == k, 1.0, 0.0), 0.0, lax.add, **window)
            for k in range(x.size)
        ]  # whether a window has the element k
        has = jnp.stack([h.ravel() for h in found], 1) > 0
        spread = jnp.where(has, x.ravel(), worst)
        y = jnp.max(spread, 1) if largest else jnp.min(spread, 1)
        return y @ jnp.cos(jnp.arange(y.size, dtype=x.dtype))

    multipliers = jax.jit(jxp.deeplift(f, x, multiply=False))(x)
    np.testing.assert_allclose(multipliers, jax.grad(by_gather)(x), atol=1e-6)
    contributions, gap = jax.jit(jxp.deeplift(f, 0.3 - x[::-1], return_gap=True))(x)
    assert abs(gap) < 1e-4 and jnp.abs(contributions).sum() > 1
