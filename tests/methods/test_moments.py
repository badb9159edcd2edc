"""Shapley values by moments: axioms, exact cases, transforms, and every kind of program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from benchmarks import faithfulness
from tests.support.checks import draw
from tests.support.marks import slow_but, some_slow

N = 6
W1, W2 = draw(1, N, 8) * 0.7, draw(2, 8, 8) * 0.5
X, REF = draw(3, N), draw(4, N)


def block(x):
    """A norm, attention over three tokens, a gated unit, a pool and a maximum."""
    h = (x @ W1.astype(x.dtype)).reshape(4, 2)
    h = h * lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-3)
    h = h + jax.nn.softmax(h @ h[::-1].T / 2) @ jnp.tanh(h)
    h = jax.nn.silu(h @ W2[:2, :3].astype(x.dtype)) * (h @ W2[2:4, :3].astype(x.dtype))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "VALID")
    return jax.nn.logsumexp(jax.nn.relu(h)) + h.max() + jax.nn.log_softmax(h.ravel())[0]


def small(x):
    """A relu, a softmax and a product."""
    h = jax.nn.relu(x @ W1.astype(x.dtype))
    return jax.nn.softmax(h) @ h[::-1] + jnp.tanh(h @ W2[0].astype(x.dtype))


def jitted(f, ref=REF, **options):
    """The values, jitted: tests compile less than one equation after another."""
    return jax.jit(jxp.moment_shapley(f, ref, **options))


@pytest.fixture(scope="module")
def explained():
    return jitted(block, return_gap=True)(X)


@pytest.mark.slow
def test_the_sum_of_many_equations_is_the_rise(explained):
    rise, (values, gap) = block(X) - block(REF), explained
    assert abs(values.sum() - rise) <= 1e-5 * jnp.abs(values).sum() and abs(gap) < 1e-5


def test_the_sum_is_the_rise():
    labels = np.array([0, 0, 1, 1, 2, 2])
    for options in ({"anchors": 2}, {"groups": labels}):
        values = jitted(small, **options)(X)
        players = values[::2] if "groups" in options else values
        np.testing.assert_allclose(players.sum(), small(X) - small(REF), rtol=1e-5)


@pytest.mark.slow
def test_the_sum_in_double_precision_and_the_same_values(x64, explained):
    x, ref = X.astype(jnp.float64), REF.astype(jnp.float64)
    values = jitted(block, ref)(x)
    assert abs(values.sum() - (block(x) - block(ref))) <= 1e-12
    np.testing.assert_allclose(values, explained[0], rtol=1e-3, atol=1e-4)


def test_without_repair_the_gap_is_what_the_moments_miss():
    values, gap = jitted(small, repair=False, return_gap=True)(X)
    np.testing.assert_allclose(values.sum() + gap, small(X) - small(REF), rtol=1e-5)
    assert abs(gap) > 1e-4


@pytest.mark.parametrize("options", some_slow([{}, {"anchors": 1}], slow=[{"anchors": 1}]))
def test_what_has_no_effect_or_does_not_change_gets_nothing(options):
    f = lambda x: small(x[:N]) + 0 * x[N]
    x, ref = jnp.append(X, 3.0), jnp.append(REF.at[2].set(X[2]), -1.0)
    explain = jitted(f, ref, **options)
    values = explain(x)
    assert values[N] == 0 and values[2] == 0 and (values[:2] != 0).all()
    assert (explain(ref) == 0).all()


def test_features_that_f_cannot_tell_apart_are_alike():
    f = lambda x: jnp.tanh(x[0] + x[1] - x[2]) * jax.nn.relu(x[2] + 2 * x[0] + 2 * x[1])
    values = jitted(f, 0.0)(jnp.array([1.0, 1.0, 0.3]))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"nodes": 3, "anchors": 2}])
def test_linear_functions_are_exact(options):
    values = jitted(lambda x: (x * 3 - 1) @ X - x[::-1].sum(), **options)(2 * X)
    np.testing.assert_allclose(values, (3 * X - 1) * (2 * X - REF), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [None, np.array([0, 1, 0, 2, 2, 1])])
def test_quadratic_functions_of_independent_players_are_exact(groups):
    """Their expectations need no more than means and variances."""
    f = lambda x: ((x @ W1 + 0.5) ** 2).sum()
    values = jitted(f, groups=groups, repair=False)(X)
    exact = jxp.shapley_values(f, REF, groups=groups)(X)
    np.testing.assert_allclose(values, exact, rtol=1e-4, atol=1e-4)


def test_one_anchor_is_exact_where_the_rest_is_linear():
    f = lambda x: jnp.exp(x[0]) * (x[1] - x[2]) + jnp.sin(3 * x[0]) + x[3]
    x, ref = jnp.array([3.0, 1.0, 2.0, 0.5]), jnp.array([-1.0, 0.5, 0.0, 0.2])
    values = jitted(f, ref, anchors=1, repair=False)(x)
    np.testing.assert_allclose(values, jxp.shapley_values(f, ref)(x), rtol=1e-5)


@pytest.mark.parametrize("scale", some_slow([1e-6, 1e-3, 1e3], slow=[1e-6, 1e-3]))
def test_any_size_of_change(scale):
    """As the change vanishes the values become slope times change."""
    smooth = lambda x: jnp.tanh(x @ W1 / 3) @ W2[0] + jnp.sqrt(1 + (x**2).sum())
    explain = jax.jit(lambda ref: [jxp.moment_shapley(f, ref)(X) for f in (small, smooth)])
    one, other = explain(X - scale * REF)
    assert jnp.isfinite(one).all() and jnp.isfinite(other).all()
    if scale < 1:
        change = X - (X - scale * REF)
        slope = jax.grad(smooth)(X) * change
        assert jnp.linalg.norm(other - slope) <= max(1e-3, 5 * scale) * jnp.linalg.norm(slope)


@pytest.mark.slow
def test_transforms():
    batch = jnp.stack([X, REF, 2 * X])
    each = jax.jit(jax.vmap(jxp.moment_shapley(small, REF)))(batch)
    np.testing.assert_allclose(each[0], jitted(small)(X), rtol=1e-4, atol=1e-5)
    tiny = jxp.moment_shapley(lambda x: jnp.tanh(x.sum()), 0.0)
    np.testing.assert_allclose(tiny(X), jax.jit(tiny)(X), rtol=1e-5)


@pytest.mark.slow
def test_values_are_differentiable(x64):
    """Against finite differences, in x and in a parameter, at a feature that does not change."""
    w, x, ref = (v.astype(jnp.float64) for v in (W1, X, REF.at[1].set(X[1])))

    def loss(x, w):
        f = lambda x: jnp.tanh(x @ w) @ jax.nn.softmax(x @ w) + jax.nn.relu(x @ w).max()
        return (jxp.moment_shapley(f, ref)(x) ** 2).sum()

    loss = jax.jit(loss)
    gradients = jax.jit(jax.grad(loss, (0, 1)))(x, w)
    for i, at in ((0, 2), (1, (2, 3))):
        step = [jnp.zeros_like(v) for v in (x, w)]
        step[i] = step[i].at[at].set(1e-6)
        rise = loss(x + step[0], w + step[1]) - loss(x - step[0], w - step[1])
        np.testing.assert_allclose(gradients[i][at], rise / 2e-6, rtol=1e-5)
    assert all(jnp.isfinite(g).all() for g in gradients)


@pytest.mark.slow
def test_half_precision():
    half = lambda v: v.astype(jnp.bfloat16)
    values = jitted(small, half(REF))(half(X))
    exact = jitted(small)(X)
    assert values.dtype == jnp.bfloat16
    assert jnp.linalg.norm(values - exact) < 0.1 * jnp.linalg.norm(exact)


def cell(h, u):
    h = jnp.tanh(W2[:3, :3] @ h + u)
    return h, jax.nn.relu(h)


def looped(x):
    h, ys = lax.scan(cell, jnp.zeros(3), x.reshape(2, 3) - 0.5)
    return h @ ys.T @ jnp.array([1.0, -2.0])


def unrolled(x):
    h, ys = jnp.zeros(3), []
    for u in x.reshape(2, 3) - 0.5:
        h, y = cell(h, u)
        ys.append(y)
    return h @ jnp.stack(ys).T @ jnp.array([1.0, -2.0])


SAME = {
    "scan": (looped, unrolled),
    "reversed scan": (
        lambda x: lax.scan(cell, jnp.zeros(3), x.reshape(2, 3)[::-1], reverse=True)[0].sum(),
        lambda x: lax.scan(cell, jnp.zeros(3), x.reshape(2, 3))[0].sum(),
    ),
    "remat": (jax.checkpoint(unrolled), unrolled),
    "cond": (lambda x: lax.cond(W1[0, 0] > 9, jnp.sum, unrolled, x), unrolled),
    "shape": (lambda x: unrolled(x[:, None].T.ravel()), unrolled),
    "relu": (lambda x: jnp.maximum(0, x @ W1).sum(), lambda x: jax.nn.relu(x @ W1).sum()),
    "quotient": (lambda x: x[0] / (1 + x[1] ** 2), lambda x: x[0] * (1 + x[1] ** 2) ** -1),
    "cancelling": (lambda x: jnp.exp(x - x) @ W1[:, 0] + jnp.tanh(x[0] * 2),
                   lambda x: jnp.tanh(x[0] + x[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but(SAME, ("scan", "quotient", "cancelling")))
def test_one_function_in_two_spellings(name):
    one, other = jax.jit(lambda x: [jxp.moment_shapley(f, REF)(x) for f in SAME[name]])(X)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@jax.custom_jvp
def called(x):
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(np.sin, like, x, vmap_method="expand_dims")


@called.defjvp
def slope(x, dx):
    return called(x[0]), jnp.cos(x[0]) * dx[0]


RARE = {
    "sort": lambda x: jnp.sort(x) @ X,
    "cumprod": lambda x: jnp.cumprod(1 + 0.1 * x).sum(),
    "fft": lambda x: jnp.abs(jnp.fft.rfft(x))[1],
    "solve": lambda x: jnp.linalg.solve(jnp.eye(3) + x[:3] * x[3:, None] / 9, x[:3])[0],
    "index by x": lambda x: X[jnp.argmax(x)] * x[jnp.argmax(x)],
    "branch by x": lambda x: lax.cond(x[0] > 0, jnp.sum, jnp.prod, x),
    "atan2": lambda x: jnp.arctan2(x[0], 1 + x[1] ** 2),
    "power": lambda x: (2 + jnp.tanh(x[0])) ** x[1],
    "logarithm": lambda x: jnp.log(jnp.abs(x)).sum(),
    "frozen": lambda x: lax.stop_gradient(x[0] * x[1]) * x[2],
    "weighted logsumexp": lambda x: jax.nn.logsumexp(x, b=jnp.array([1, 0, 2, 1, 1, 3.0])),
    "minimum": lambda x: jnp.minimum(x[:3], x[3:]).sum() + x.min(),
    "constant": lambda x: jnp.float32(2.0),
    "hypot": lambda x: jnp.hypot(x[0], x[1]) * x[2],
    "callback": lambda x: called(x[:3]) @ x[3:],
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but(RARE, ("index by x", "hypot", "callback")))
def test_everything_else_runs_and_sums(name):
    f = RARE[name]
    values, gap = jitted(f, return_gap=True)(X)
    assert jnp.isfinite(values).all()
    np.testing.assert_allclose(values.sum() + gap, f(X) - f(REF), rtol=1e-4, atol=1e-4)
    if name not in ("index by x", "frozen", "branch by x"):
        assert abs(gap) < 1e-4


@pytest.mark.slow
def test_hidden_values():
    f = lambda x: jnp.tanh(jxp.tag(jnp.tanh(x @ W1), "h") @ W2).sum()
    h, h0 = (jxp.capture(f, "h")(v)[1]["h"] for v in (X, REF))
    values, gap = jitted(f, at="h", return_gap=True)(X)
    upper = lambda h: jnp.tanh(h @ W2).sum()
    np.testing.assert_allclose(values, jitted(upper, h0)(h), rtol=1e-4, atol=1e-6)
    assert abs(gap) < 1e-5


@pytest.mark.slow
def test_a_background_and_trees():
    f = lambda x: jnp.tanh(x["a"] @ W1[:2] @ W2).sum() * x["b"]
    x = {"a": X[:2], "b": X[2]}
    refs = jax.tree.map(lambda v: jnp.stack([0 * v, 0.3 + 0 * v]), x)
    mean = jax.jit(jxp.expected(jxp.moment_shapley)(f, refs))(x)
    one = jax.jit(lambda ref: jxp.moment_shapley(f, ref)(x))
    each = [one(jax.tree.map(lambda r: r[i], refs)) for i in range(2)]
    for name in x:
        np.testing.assert_allclose(mean[name], (each[0][name] + each[1][name]) / 2, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="nodes must be at least 1"):
        jxp.moment_shapley(block, REF, nodes=0)
    with pytest.raises(ValueError, match="groups are of x"):
        jxp.moment_shapley(block, REF, at="h", groups=np.zeros(N, int))
    with pytest.raises(TypeError, match="must return a scalar"):
        jxp.moment_shapley(lambda x: x, REF)(X)
    with pytest.raises(ValueError, match="does not broadcast"):
        jxp.moment_shapley(block, jnp.zeros(N + 1))(X)
    with pytest.raises(jxp.UnsupportedPrimitive, match="'while'"):
        jxp.moment_shapley(lambda x: lax.while_loop(lambda c: c < 3, lambda c: c * 2, x[0]), 0.0)(X)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "anchors", "limit"),
    [
        ("relu", 0, 0.17),
        ("relu", 2, 0.12),
        ("gelu", 0, 0.16),
        ("max-pool", 0, 0.3),
        ("attention", 0, 0.42),
    ],
)
def test_distance_from_shapley_values(family, anchors, limit, record_property):
    """On networks that nobody chose anything by; integrated gradients' is two to three times it."""
    method = lambda f, ref: jxp.moment_shapley(f, ref, anchors=anchors)
    of_family = faithfulness.FAMILIES[family]
    found = faithfulness.errors(of_family, method, *faithfulness.draw(of_family, 24, seed=77))
    record_property("median distance", float(np.median(found["error"])))
    assert np.median(found["error"]) <= limit


MASKED = {
    "softmax": (lambda h: jax.nn.softmax(h) @ jnp.arange(6.0), 0.6),
    "logsumexp": (jax.nn.logsumexp, 0.3),
    "max": (jnp.max, 0.4),
    "by hand": (lambda h: (lambda e: e @ jnp.arange(6.0) / e.sum())(jnp.exp(h - h.max())), 0.6),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_x_decides_hide_or_do_not(name):
    """Whatever fills them: a masked value is not taken as normal."""
    read, limit = MASKED[name]
    x, ref = (np.random.default_rng(seed).normal(size=6).astype(np.float32) for seed in (9, 18))
    found = []
    for low in (-jnp.inf, jnp.finfo(jnp.float32).min, -1e9, -1e4):
        f = lambda x, low=low: read(jnp.where(x > -0.5, x, low))
        values = jxp.moment_shapley(f, ref)(x)
        np.testing.assert_allclose(values.sum(), f(x) - f(ref), 1e-5, 1e-6)
        found.append(values)
    exact = jxp.shapley_values(f, ref)(x)
    assert jnp.linalg.norm(found[0] - exact) <= limit * jnp.linalg.norm(exact)
    for values in found[1:]:
        np.testing.assert_allclose(values, found[0], 1e-4, 1e-5)


def test_a_change_that_nobody_is_seen_to_make_is_no_number():
    """No player is named at random, and no sum is wrong without a word."""
    f = lambda x: jnp.argsort(x).astype(float) @ jnp.arange(2.0)
    x, exchanged, alike = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array([2.0, 1.0])
    assert jnp.isnan(jxp.moment_shapley(f, exchanged)(x)).all()
    assert not jxp.moment_shapley(f, alike)(x).any()
