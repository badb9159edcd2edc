"""Perturbation: what each method equals, its randomness, what it refuses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.methods.perturbation.lasso import lasso

KEY = jax.random.key(0)
W = jax.random.normal(jax.random.key(1), (12, 2))
IMAGE = jax.random.normal(jax.random.key(2), (3, 4))
REF = jax.random.normal(jax.random.key(3), (3, 4))


def f(x):
    """Two outputs of an image (3, 4)."""
    return jnp.tanh(x.ravel() @ W) + x[0, 0] * x[1, 1]


def run(explain, x, key=None):
    return jax.jit(explain if key is None else lambda x: explain(x, key=key))(x)


def lost(mask):
    return f(IMAGE) - f(jnp.where(mask, REF, IMAGE))


# Ablation and occlusion.


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", [None, 5])
def test_ablation_puts_groups_to_the_reference(chunk):
    labels = np.array([[0, 0, 2, 2], [5, 5, 2, 2], [5, 5, 5, 0]])
    got = run(jxp.ablation(f, REF, groups=labels, chunk=chunk), IMAGE)
    for label in (0, 2, 5):
        at = labels == label
        np.testing.assert_allclose(got[:, at], lost(at)[:, None] + np.zeros(at.sum()), atol=1e-5)
    each = run(jxp.ablation(f, REF, chunk=chunk), IMAGE)
    at = np.zeros((3, 4), bool)
    at[1, 2] = True
    np.testing.assert_allclose(each[:, 1, 2], lost(at), atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
def test_ablation_by_masks_that_overlap(chunk):
    masks = np.zeros((3, 3, 4), bool)
    masks[0, :2], masks[1, 1:], masks[2, 0, 0] = True, True, True
    masks[:, 2, 3] = False
    got = run(jxp.ablation(f, REF, groups=masks, chunk=chunk), IMAGE)
    drops = [lost(mask) for mask in masks]
    np.testing.assert_allclose(got[:, 1, 3], (drops[0] + drops[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(got[:, 0, 0], (drops[0] + drops[2]) / 2, atol=1e-5)
    assert (got[:, 2, 3] == 0).all()
    rows = run(jxp.ablation(f, REF, groups=np.eye(3, dtype=bool)[:, :, None]), IMAGE)
    np.testing.assert_allclose(rows[:, 1, 0], lost(np.arange(3)[:, None] == 1), atol=1e-5)


def test_ablation_over_a_background():
    refs = jnp.stack([REF, 2 * REF, IMAGE])
    each = [run(jxp.ablation(f, ref), IMAGE) for ref in refs]
    np.testing.assert_allclose(run(jxp.ablation(f, refs), IMAGE), sum(each) / 3, atol=1e-5)


@pytest.mark.parametrize("window, strides", [((2, 3), 1), ((2, 2), (2, 3)), ((2,), 2), ((1, 1), 2)])
def test_occlusion_averages_windows(window, strides):
    got = run(jxp.occlusion(f, REF, window=window, strides=strides, chunk=2), IMAGE)
    steps = (strides,) * len(window) if isinstance(strides, int) else strides
    total, count = np.zeros((2, 3, 4)), np.zeros((3, 4))
    counts = [
        -(-(length - width) // step) + 1
        for length, width, step in zip((3, 4), window, steps, strict=False)
    ]
    for place in itertools.product(*map(range, counts)):
        mask = np.zeros((3, 4), bool)
        mask[
            tuple(slice(p * s, p * s + w) for p, s, w in zip(place, steps, window, strict=True))
        ] = True
        total += np.asarray(lost(mask))[:, None, None] * mask
        count += mask
    np.testing.assert_allclose(got, total / np.maximum(count, 1), atol=1e-5)


def test_leaves_are_occluded_one_at_a_time():
    x = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([[4.0, 5.0]])}
    g = lambda x: x["a"].sum() * x["b"].sum()
    got = run(jxp.occlusion(g, 0.0, window={"a": (2,), "b": (1,)}, strides=2), x)
    np.testing.assert_allclose(got["a"], [27, 27, 27])
    np.testing.assert_allclose(got["b"], [[54, 54]])


# Shuffles and random masks.


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_permutation_importance_is_the_variance_lost(chunk):
    """A linear model's squared error grows by 2 w² Var x when a feature is shuffled."""
    xs = jax.random.normal(KEY, (400, 3)) * jnp.array([1.0, 2.0, 1.0])
    w = jnp.array([3.0, 1.0, 0.0])
    score = lambda xs: -jnp.square(xs @ w - y).mean()
    y = xs @ w
    explain = jxp.permutation_importance(score, samples=20, chunk=chunk, standard_error=True)
    got, error = run(explain, xs, KEY)
    exact = 2 * w**2 * xs.var(0)
    assert (abs(got - exact) <= 5 * error + 1e-4).all()
    assert (error[:2] > 0).all() and error[2] == got[2] == 0
    joint = jxp.permutation_importance(score, samples=20, groups=np.array([0, 0, 1]))
    together = run(joint, xs, KEY)
    assert together[0] == together[1]
    np.testing.assert_allclose(together[0], 2 * (xs @ w).var(), rtol=0.1)


def test_rise_is_a_mean_given_what_shows():
    """Of a linear f: E[f m]/p; its mask's covariance with itself alone is high."""
    x = jnp.ones((6, 6, 2))
    g = lambda x: 3 + x[1, 4].sum()
    got = run(jxp.rise(g, grid=(3, 3), samples=4000, chunk=500), x, KEY)
    assert jnp.unravel_index(got.argmax(), got.shape)[:2] == (1, 4)
    np.testing.assert_allclose(got[..., 0], got[..., 1], rtol=1e-5)
    far = got[4:, :2, 0]  # independent masks: E f
    np.testing.assert_allclose(far, 4 * jnp.ones_like(far), rtol=0.05)
    one = run(jxp.rise(g, grid=(3, 3), samples=10, probability=1.0), x, KEY)
    np.testing.assert_allclose(one, 5.0 * jnp.ones_like(x), rtol=1e-5)


@pytest.mark.parametrize("order", ["total", "first"])
def test_sobol_indices_of_ishigami(order):
    """Ishigami's function has known indices."""
    a, b, pi = 7.0, 0.1, jnp.pi
    g = lambda x: jnp.sin(x[0]) + a * jnp.sin(x[1]) ** 2 + b * x[2] ** 4 * jnp.sin(x[0])
    x, ref = jnp.full(3, pi), jnp.full(3, -pi)
    explain = jxp.sobol(g, ref, samples=4096, order=order, chunk=1024)
    got = run(explain, x, KEY)
    exact = {"first": [0.3139, 0.4424, 0.0], "total": [0.5576, 0.4424, 0.2437]}[order]
    np.testing.assert_allclose(got, exact, atol=0.02)


def test_sobol_indices_of_groups_and_of_constants():
    labels = np.array([0, 0, 1])
    linear = lambda x: x @ jnp.array([1.0, 2.0, 4.0])
    got = run(jxp.sobol(linear, groups=labels, samples=1024), jnp.ones(3), KEY)
    np.testing.assert_allclose(got, [9 / 25, 9 / 25, 16 / 25], atol=0.02)
    assert (run(jxp.sobol(lambda x: 0 * x.sum(), samples=8), jnp.ones(3), KEY) == 0).all()


# LIME.


def test_lime_of_a_linear_function_is_its_slopes():
    w = jnp.array([1.0, -2.0, 3.0, 0.0])
    explain = functools.partial(jxp.lime, lambda x: x @ w + 5, 0.0, strength=0.0)
    for penalty in ("ridge", "lasso"):
        for samples in (40, 8):
            got = run(explain(samples=samples, penalty=penalty), jnp.ones(4), KEY)
            np.testing.assert_allclose(got, w, atol=2e-3)


@pytest.mark.parametrize("penalty", ["ridge", "lasso"])
def test_lime_solves_scikit_learn_s_problem(penalty):
    from sklearn.linear_model import Lasso, Ridge

    g = lambda x: jnp.tanh(x @ jnp.arange(1.0, 6.0)) * 4 + x[0] * x[1]
    got = run(jxp.lime(g, 0.0, samples=32, penalty=penalty, strength=0.05), jnp.ones(5))
    z = (np.arange(32)[:, None] >> np.arange(5) & 1).astype(float)
    distance = 1 - np.sqrt(z.mean(1))
    weights = np.exp(-((distance / 0.25) ** 2) / 2)
    model = {"ridge": Ridge, "lasso": Lasso}[penalty](alpha=0.05, tol=1e-8)
    values = np.array(jax.vmap(g)(jnp.asarray(z)))
    model.fit(z, values, sample_weight=weights / weights.mean())
    np.testing.assert_allclose(got, model.coef_, atol=1e-3)


def test_lasso_of_groups_that_are_hard_to_tell_apart(x64):
    """Coordinate descent takes thousands of sweeps here; its conditions hold in the end."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 1)) + 0.1 * rng.normal(size=(60, 6))
    y = np.stack([z @ np.arange(6.0), z[:, 0] - z[:, 1]], axis=1) + 0.1 * rng.normal(size=(60, 2))
    gram, moment, threshold = z.T @ z, z.T @ y, 0.3
    solve = jax.jit(lambda moment: lasso(jnp.asarray(gram), moment, threshold))
    got = solve(jnp.asarray(moment))
    slack = moment - gram @ got
    on = got != 0
    np.testing.assert_allclose(slack[on], threshold * np.sign(got[on]), rtol=1e-8)
    assert (~on).any() and (abs(slack[~on]) <= threshold).all()
    change, step = rng.normal(size=moment.shape), 1e-6
    _, slope = jax.jvp(solve, (jnp.asarray(moment),), (jnp.asarray(change),))
    numeric = (solve(moment + step * change) - solve(moment - step * change)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-6)


def test_lime_with_a_lasso_has_derivatives():
    explain = jxp.lime(lambda x: x[0] ** 2 + 3 * x[1], 0.0, samples=4, penalty="lasso", strength=0)
    jacobian = jax.jit(jax.jacrev(explain))(jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(jacobian, [[4, 0], [0, 3]], atol=1e-3)


# Mutagenesis.


@pytest.mark.parametrize("chunk", [None, 7])
def test_mutagenesis_is_every_substitution(chunk):
    x = jax.nn.one_hot(jnp.array([0, 3, 1]), 4)
    got = run(jxp.in_silico_mutagenesis(f, chunk=chunk), x)
    for position, letter in itertools.product(range(3), range(4)):
        mutant = x.at[position].set(jax.nn.one_hot(letter, 4))
        np.testing.assert_allclose(got[:, position, letter], f(mutant) - f(x), atol=1e-5)


# Transformations and errors.


def test_batches_arguments_and_derivatives():
    g = lambda scale, x: scale * f(x)[0]
    xs = jnp.stack([IMAGE, REF])
    methods = {
        "ablation": jxp.ablation(g, 0.0, argnums=1),
        "occlusion": jxp.occlusion(g, 0.0, window=(2, 2), argnums=1),
        "mutagenesis": jxp.in_silico_mutagenesis(g, argnums=1),
    }
    for explain in methods.values():
        batch = jax.jit(jax.vmap(explain, (None, 0)))(2.0, xs)
        np.testing.assert_allclose(batch[1], 2 * explain(1.0, xs[1]), atol=1e-5)
        slope = jax.grad(lambda x: explain(1.0, x).sum())(IMAGE)
        assert slope.shape == IMAGE.shape and jnp.isfinite(slope).all()


def test_errors():
    x = jnp.ones((3, 4))
    for window, strides in [((4, 1), 1), ((2, 2), (1, 0)), (2, 1), ((1, 1, 1), 1), ((2,), (1, 1))]:
        with pytest.raises(ValueError, match=r"does not fit into \(3, 4\)"):
            jxp.occlusion(f, 0.0, window=window, strides=strides)(x)
    with pytest.raises(ValueError, match="must be a tree like x of tuples"):
        jxp.occlusion(lambda x: x["a"].sum(), 0.0, window=(1,))({"a": x})
    with pytest.raises(ValueError, match="an axis of groups in front"):
        jxp.ablation(f, 0.0, groups=np.ones((2, 5), bool))(x)
    with pytest.raises(ValueError, match="does not broadcast"):
        jxp.ablation(f, jnp.ones(3))(x)
    with pytest.raises(FloatingPointError, match=r"players \[1\] of 2"):
        jxp.ablation(lambda x: jnp.log(x[0]), 0.0)(jnp.ones(2))
    with pytest.raises(ValueError, match="samples must be at least 2"):
        jxp.permutation_importance(f, samples=1, standard_error=True)
    with pytest.raises(ValueError, match="'total' or 'first'"):
        jxp.sobol(f, samples=8, order="second")
    with pytest.raises(ValueError, match="does not fit into"):
        jxp.rise(f, grid=(2, 2, 2), samples=8)(x, key=KEY)
    with pytest.raises(TypeError, match="rise explains one array"):
        jxp.rise(f, grid=(2, 2), samples=8)((x, x), key=KEY)
    with pytest.raises(ValueError, match="penalty='elastic'"):
        jxp.lime(f, 0.0, samples=8, penalty="elastic")
    with pytest.raises(TypeError, match=r"a key is missing.*sets of groups are drawn"):
        jxp.lime(f, 0.0, samples=8)(x)
    with pytest.raises(ValueError, match=r"shape \(length, letters\)"):
        jxp.in_silico_mutagenesis(jnp.sum)(jnp.ones(3))
