"""Path methods: nested rules, sampled and curved paths, IDGI."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

KEY = jax.random.key(0)
N = 8
W = jax.random.normal(jax.random.key(1), (N, 32)) / 2
V = jax.random.normal(jax.random.key(2), (32,)) / 4
X = jnp.linspace(-2.0, 3.0, N)
REF = jnp.linspace(1.0, -0.5, N)
REFS = jax.random.normal(jax.random.key(3), (5, N))


def smooth(x):
    return jnp.tanh(x @ W) @ V


def kinked(x):
    return jax.nn.relu(x @ W) @ V


def change(f, ref=REF):
    return f(X) - f(ref)


# Until the gap is small enough.


def test_a_kink_is_closed_in_on():
    """The cell with the kink is halved until it does not matter."""
    f = lambda x: jax.nn.relu(x[0] - 0.3)
    scores, steps = jax.jit(jxp.integrated_gradients(f, 0.0, tolerance=1e-4))(jnp.ones(1))
    np.testing.assert_allclose(scores, 0.7, atol=1e-4)
    assert steps < 30


@pytest.mark.parametrize("f", [smooth, kinked])
def test_a_tolerance_is_met_with_few_gradients(f):
    seen = []

    def counted(x):
        jax.debug.callback(lambda x: seen.append(x), x)
        return f(x)

    for tolerance in (1e-1, 1e-3):
        seen.clear()
        explain = jxp.integrated_gradients(counted, REF, tolerance=tolerance, return_gap=True)
        scores, gap, steps = jax.jit(explain)(X)
        jax.effects_barrier()
        assert abs(gap) <= tolerance * abs(change(f))
        np.testing.assert_allclose(scores.sum() + gap, change(f), rtol=1e-5)
        assert len(seen) == steps + 2 and steps < 64  # and f at both ends
    fine = jxp.integrated_gradients(f, REF, steps=2000, quadrature="midpoint", chunk=100)
    np.testing.assert_allclose(scores, jax.jit(fine)(X), atol=0.03 * abs(scores).max())


def test_over_kinks_every_part_is_nearer_than_by_a_fixed_rule_of_as_many_nodes():
    scores, steps = jax.jit(jxp.integrated_gradients(kinked, REF, tolerance=1e-3))(X)
    fine = jxp.integrated_gradients(kinked, REF, steps=2000, quadrature="midpoint", chunk=100)
    exact = jax.jit(fine)(X)
    np.testing.assert_allclose(scores, exact, atol=1e-3 * abs(exact).sum())
    fixed = jax.jit(jxp.integrated_gradients(kinked, REF, steps=int(steps)))(X)
    assert steps < 160 and abs(scores - exact).max() < abs(fixed - exact).max()


def test_an_unmet_tolerance_says_so():
    explain = jxp.integrated_gradients(kinked, REF, tolerance=1e-7, max_steps=9, return_gap=True)
    with pytest.warns(RuntimeWarning, match="9 gradients leave a gap .* more than the tolerance"):
        _, gap, steps = explain(X)
    assert steps == 9 and abs(gap) > 1e-7 * abs(change(kinked))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores, steps = jxp.integrated_gradients(lambda x: x @ V[:N], REF, tolerance=1e-5)(X)
    assert steps == 3
    np.testing.assert_allclose(scores, V[:N] * (X - REF), rtol=1e-5)


@pytest.mark.parametrize("most, taken", [(1, 1), (2, 1), (6, 3), (7, 7), (8, 8)])
def test_the_most_steps_are_kept_to(most, taken):
    explain = jxp.integrated_gradients(kinked, REF, tolerance=1e-9, max_steps=most, return_gap=True)
    scores, gap, steps = jax.jit(explain)(X)
    assert steps == taken
    np.testing.assert_allclose(scores.sum() + gap, change(kinked), rtol=1e-5)


@pytest.mark.parametrize("power, taken", [(2, 3), (6, 7), (12, 15)])
def test_polynomials_take_the_nested_rules_alone(power, taken, x64):
    """Those of 1, 3 and 7 nodes are exact for degree 1, 5 and 11; one more agrees."""
    f = lambda x: jnp.sum(x**power)
    explain = jxp.integrated_gradients(f, 0.0, tolerance=1e-12)
    scores, steps = jax.jit(explain)(jnp.array([1.5, -2.0]))
    assert steps == taken
    np.testing.assert_allclose(scores, jnp.array([1.5, -2.0]) ** power, rtol=1e-11)


def test_cubics_are_exact_between_any_nodes(x64):
    """What is refined after seven nodes is of fourth order."""
    f = lambda x: jnp.sum(x**4) + 1e-3 * jax.nn.relu(x[0] - 0.91)
    explain = jxp.integrated_gradients(f, 0.0, tolerance=1e-9, return_gap=True)
    scores, gap, steps = jax.jit(explain)(jnp.array([1.0, 2.0]))
    assert abs(gap) <= 1e-9 * 18 and 7 < steps < 60
    np.testing.assert_allclose(scores, [1 + 0.09e-3, 16], rtol=1e-6)


@pytest.mark.promotes
def test_each_example_of_a_batch_meets_the_tolerance():
    xs = jnp.stack([X, REF + 0.01, X**2, REF])
    explain = jxp.integrated_gradients(smooth, REF, tolerance=1e-3, multiply=False, return_gap=True)
    average, gaps, steps = jax.jit(jax.vmap(explain))(xs)
    changes = jax.vmap(smooth)(xs) - smooth(REF)
    assert (abs(gaps) <= 1e-3 * abs(changes)).all()
    assert steps[3] == 1 and steps[1] == 3 < steps[0]
    np.testing.assert_allclose(((xs - REF) * average).sum(1) + gaps, changes, atol=1e-5)
    one, _, count = jax.jit(explain)(X)
    assert count == steps[0]
    np.testing.assert_allclose(one, average[0], atol=1e-5)


@pytest.mark.promotes
def test_a_tolerance_in_half_precision():
    """As near as f's own rounding lets it come."""
    x, f = X.astype(jnp.bfloat16), lambda x: jnp.tanh(x / 2).sum()
    scores, gap, steps = jax.jit(jxp.integrated_gradients(f, 0.0, tolerance=0.02, return_gap=True))(
        x
    )
    assert scores.dtype == jnp.bfloat16 and steps < 201
    assert abs(gap) <= 0.02 * abs(f(x))
    np.testing.assert_allclose(scores, jnp.tanh(X / 2), atol=0.05)


# A path of one's own.


def test_a_path_of_one_s_own():
    """x0 x1 along a parabola: ∫ x1 dx0 = 2/3, ∫ x0 dx1 = 1/3 of the product."""
    bend = lambda ref, x, alpha: jnp.stack([x[0] * alpha**2, x[1] * alpha])
    product = lambda x: x[0] * x[1]
    x = jnp.array([2.0, 3.0])
    for options in ({}, {"tolerance": 1e-4}, {"steps": 6, "chunk": 2}):
        got = jax.jit(jxp.integrated_gradients(product, 0.0, path=bend, **options))(x)
        scores = got[0] if isinstance(got, tuple) else got
        np.testing.assert_allclose(scores, [4.0, 2.0], rtol=1e-4)
    straight = lambda ref, x, alpha: jax.tree.map(lambda r, v: r + alpha * (v - r), ref, x)
    by_path = jax.jit(jxp.integrated_gradients(smooth, REF, path=straight, return_gap=True))(X)
    by_default = jax.jit(jxp.integrated_gradients(smooth, REF, return_gap=True))(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), by_path, by_default)


def test_errors_of_paths():
    with pytest.raises(ValueError, match="no common factor"):
        jxp.integrated_gradients(smooth, REF, path=lambda r, x, a: x, multiply=False)
    with pytest.raises(ValueError, match=r"path\(ref, x, 0.0\) is not ref"):
        jxp.integrated_gradients(smooth, REF, path=lambda r, x, a: x)(X)
    with pytest.raises(ValueError, match=r"path\(ref, x, 0.0\) is \(7,\), and x \(8,\)"):
        jxp.integrated_gradients(smooth, REF, path=lambda r, x, a: x[1:])(X)
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        jxp.integrated_gradients(smooth, REF, tolerance=0.1, max_steps=0)(X)


# Expected gradients.


def run(explain, x, key):
    return jax.jit(lambda x: explain(x, key=key))(x)


@pytest.mark.parametrize("samples", [5, 20])
def test_expected_gradients_of_linear_functions_are_exact(samples):
    w = jnp.arange(1.0, N + 1)
    got = run(jxp.expected_gradients(lambda x: x @ w, REFS, samples=samples), X, KEY)
    np.testing.assert_allclose(got, w * (X - REFS.mean(0)), rtol=1e-4, atol=1e-4)


@pytest.mark.promotes
def test_expected_gradients_converge_with_honest_errors():
    exact = jax.jit(jxp.expected(jxp.integrated_gradients)(smooth, REFS))(X)
    explain = jxp.expected_gradients(smooth, REFS, samples=100, chunk=30, standard_error=True)
    keys = jax.random.split(KEY, 30)
    got, error = jax.jit(jax.vmap(lambda key: explain(X, key=key)))(keys)
    errors = jnp.abs(got - exact)
    assert (errors <= 4 * error).mean() > 0.99
    # Stratified draws are closer than independent ones, of which σ/√n would tell the error.
    assert jnp.square(errors).mean() < 0.3 * jnp.square(error).mean()
    np.testing.assert_allclose(got.mean(0), exact, atol=0.01)


def test_draws_are_stratified():
    from jaxplain.methods.expected_gradients import _draws

    at, alphas = _draws(4, 22, KEY)
    assert sorted(np.bincount(at)) == [5, 5, 6, 6]
    assert sorted(np.floor(np.asarray(alphas) * 22).astype(int)) == list(range(22))
    for ref in range(4):
        mine = np.asarray(alphas)[np.asarray(at) == ref]
        assert (np.diff(np.sort(np.floor(mine * 22 / 4))) == 1).all()


def test_expected_gradients_of_trees_and_errors():
    f = lambda x: smooth(jnp.concatenate([x["a"].ravel(), x["b"]]))
    split = lambda v: {"a": v[..., :6].reshape(*v.shape[:-1], 2, 3), "b": v[..., 6:]}
    got = run(jxp.expected_gradients(f, split(REFS), samples=10, multiply=False), split(X), KEY)
    flat = run(jxp.expected_gradients(smooth, REFS, samples=10, multiply=False), X, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, split(flat))
    with pytest.raises(ValueError, match="leading reference axis"):
        jxp.expected_gradients(smooth, REF, samples=4)(X, key=KEY)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        jxp.expected_gradients(smooth, REFS, samples=1, standard_error=True)


# Guided integrated gradients.


def guided_by_loops(f, x, ref, steps, fraction, max_distance):
    """Algorithm 1 of 2106.09788, in loops over elements."""
    slope_of = jax.jit(jax.grad(f))
    delta = np.asarray(x - ref, float)
    ways, scores = np.zeros(N), np.zeros(N)
    for step in range(steps):
        slope = np.asarray(slope_of(ref + jnp.asarray(ways) * (x - ref)), float)
        before, target = ways.copy(), (step + 1) / steps
        high = min(target + max_distance, 1.0)
        ways = np.maximum(ways, target - max_distance)
        while (left := np.abs(delta).sum() * target - ways @ np.abs(delta)) > 1e-6:
            free = [i for i in range(N) if ways[i] < high]
            limit = sorted(abs(slope[i]) for i in free)[int(fraction * (len(free) - 1))]
            chosen = [i for i in free if abs(slope[i]) <= limit]
            room = sum((high - ways[i]) * abs(delta[i]) for i in chosen)
            for i in chosen:
                ways[i] = high if left >= room else ways[i] + left / room * (high - ways[i])
        scores += slope * (ways - before) * delta
    return scores


@pytest.mark.parametrize("fraction, max_distance", [(0.25, 0.1), (0.5, 1.0)])
def test_guided_integrated_gradients_follow_their_algorithm(fraction, max_distance):
    options = {"steps": 40, "fraction": fraction, "max_distance": max_distance}
    explain = jxp.guided_integrated_gradients(smooth, REF, return_gap=True, **options)
    scores, gap = jax.jit(explain)(X)
    np.testing.assert_allclose(scores, guided_by_loops(smooth, X, REF, **options), atol=2e-3)
    np.testing.assert_allclose(scores.sum() + gap, change(smooth), atol=1e-5)


def test_guided_integrated_gradients_in_the_limits():
    """At no distance from the line they are the left Riemann sum; complete as steps grow."""
    on_line = jxp.guided_integrated_gradients(smooth, REF, steps=50, max_distance=0.0)
    riemann = jxp.integrated_gradients(smooth, REF, steps=50, quadrature="left")
    np.testing.assert_allclose(jax.jit(on_line)(X), jax.jit(riemann)(X), atol=1e-4)
    explain = jax.vmap(
        jxp.guided_integrated_gradients(smooth, REF, steps=800, max_distance=0.1, return_gap=True)
    )
    xs = jnp.stack([X, REF, X**2])
    _, gaps = jax.jit(explain)(xs)
    assert (abs(gaps) < 0.02 * abs(change(smooth)) + 1e-3).all()
    with pytest.raises(ValueError, match=r"fraction=0 in \(0, 1\]"):
        jxp.guided_integrated_gradients(smooth, REF, fraction=0)


def test_chosen_paths_in_half_precision_and_without_inputs():
    f = lambda x: jnp.tanh(x / 2).sum()
    explain = jxp.guided_integrated_gradients(f, 0.0, return_gap=True)
    scores, gap = jax.jit(explain)(X.astype(jnp.bfloat16))
    assert scores.dtype == gap.dtype == jnp.bfloat16
    np.testing.assert_allclose(scores, jnp.tanh(X / 2), atol=0.02)
    for method in (jxp.guided_integrated_gradients, jxp.idgi):
        assert method(lambda x: jnp.ones(()), 0.0, steps=3)({}) == {}


# Blur integrated gradients.


def test_blur_integrated_gradients():
    image = jax.random.uniform(KEY, (12, 10, 2))
    weights = jax.random.normal(jax.random.key(4), image.shape)
    f = lambda x: jnp.tanh((x * weights).sum() / 4) + x[3, 4, 0] ** 2
    options = {"stdev": 2.0, "axes": (0, 1)}
    scores, gap = jax.jit(jxp.blur_integrated_gradients(f, **options, return_gap=True))(image)
    blurred = jxp.references.gaussian_blur(image, **options)
    np.testing.assert_allclose(scores.sum(), f(image) - f(blurred), atol=2e-3)
    np.testing.assert_allclose(scores.sum() + gap, f(image) - f(blurred), atol=1e-4)

    def by_differences(steps):
        """Σ ∇f ⊙ differences of blurred images, the paper's own sum."""
        points = [
            jxp.references.gaussian_blur(image, stdev=2.0 * (1 - k / steps), axes=(0, 1))
            for k in range(steps + 1)
        ]
        middles = [(a + b) / 2 for a, b in itertools.pairwise(points)]
        moves = [b - a for a, b in itertools.pairwise(points)]
        slopes = jax.jit(jax.vmap(jax.grad(f)))(jnp.stack(middles))
        return (slopes * jnp.stack(moves)).sum(0)

    np.testing.assert_allclose(scores, by_differences(24), atol=0.02 * abs(scores).max())
    with pytest.raises(TypeError, match="one array can be blurred"):
        jxp.blur_integrated_gradients(lambda x: x[0].sum(), **options)((image,))
    with pytest.raises(ValueError, match="stdev must be positive"):
        jxp.blur_integrated_gradients(f, stdev=0.0, axes=0)


# IDGI.


@pytest.mark.parametrize("chunk", [None, 5])
def test_idgi_shares_out_each_step(chunk):
    got = jax.jit(jxp.idgi(smooth, REF, steps=12, chunk=chunk))(X)
    points = [REF + k / 12 * (X - REF) for k in range(13)]
    expected = 0
    for here, there in itertools.pairwise(points):
        slope = jax.grad(smooth)(here)
        expected += slope**2 / (slope @ slope) * (smooth(there) - smooth(here))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(got.sum(), change(smooth), atol=1e-5)


def test_idgi_on_a_path_and_where_nothing_changes():
    bend = lambda ref, x, alpha: {"a": x["a"] * alpha**2, "b": x["b"] * alpha}
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
    f = lambda x: jnp.sin(x["a"].sum() * x["b"][0])
    got = jax.jit(jxp.idgi(f, 0.0, steps=10, path=bend))(x)
    total = sum(leaf.sum() for leaf in jax.tree.leaves(got))
    # The first step starts where the gradient is 0.
    np.testing.assert_allclose(total, f(x) - jnp.sin(0.03 * 0.3), atol=1e-5)
    assert (jxp.idgi(lambda x: 0 * x.sum(), 0.0)(X) == 0).all()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        jxp.idgi(smooth, REF, steps=0)


def test_guided_paths_end_where_a_slope_is_nan():
    f = lambda x: jnp.sqrt(x[0] - 0.5) + 2 * x[1]
    scores = jxp.guided_integrated_gradients(f, 0.0, steps=4)(jnp.array([2.0, 3.0]))
    assert jnp.isnan(scores[0]) and not jnp.isnan(scores[1])
