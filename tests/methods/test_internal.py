"""Explanations of values inside a network: `at=`, neuron integrated gradients, conductance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.checks import flops

KEYS = jax.random.split(jax.random.key(1), 8)
W1, W2, W3 = (
    jax.random.normal(k, s) / 2 for k, s in zip(KEYS, [(6, 4), (6, 6), (6,)], strict=False)
)
X, REF = jax.random.normal(KEYS[3], (4,)), 0.1 * jax.random.normal(KEYS[4], (4,))
LAYERS = ("first", "second", "third")


def network(x, activation=jnp.tanh):
    """Three cuts, a norm and a softmax between them, and a branch that is no cut."""
    h = jxp.tag(activation(W1 @ x + 0.3), "first")
    p = jax.nn.softmax(jxp.tag(W2 @ h, "branch"))
    h = jxp.tag(h + activation(W2 @ h) * p, "second")
    h = (h - h.mean()) * jax.lax.rsqrt(h.var() + 1e-3)
    return W3 @ jxp.tag(activation(W2 @ h + 0.1), "third")


def small(x):
    return W3 @ jxp.tag(jnp.tanh(W2 @ jxp.tag(jnp.tanh(W1 @ x), "first")), "second")


relu_network = functools.partial(network, activation=jax.nn.relu)


def upper(f, name, x):
    """f as a function of one of its values."""
    return lambda h: jxp.intervene(f, {name: h})(x)


@jax.jit
def captured(x):
    return values(network, x)


def values(f, x):
    return jxp.capture(f)(x)[1]


def change(f):
    return f(X) - f(REF)


@pytest.mark.parametrize(
    ("rules", "f"),
    [
        ("rescale", network),
        ("reveal_cancel", network),
        ("genomics", relu_network),
        ("central_limit", relu_network),
    ],
    ids=["rescale", "reveal_cancel", "genomics", "central_limit"],
)
def test_deeplift_is_complete_on_every_cut_in_one_pass(rules, f, record_property):
    explain = jax.jit(jxp.deeplift(f, REF, rules=rules, at=list(LAYERS), return_gap=True))
    contributions, gaps = explain(X)
    assert contributions.keys() == set(LAYERS)
    for name in LAYERS:
        gap = abs(contributions[name].sum() - change(f))
        record_property("gap inside", float(gap))
        assert gap < 1e-5
        np.testing.assert_allclose(gaps[name], change(f) - contributions[name].sum(), atol=1e-6)


def test_deeplift_at_a_cut_is_deeplift_of_what_follows():
    h, h0 = captured(X), captured(REF)
    inside = jax.jit(jxp.deeplift(network, REF, at="*"))(X)
    for name in ("first", "second"):
        above = jax.jit(jxp.deeplift(upper(network, name, X), h0[name]))(h[name])
        np.testing.assert_allclose(inside[name], above, atol=1e-5)


def test_multipliers_times_the_change_are_contributions():
    h, h0 = captured(X), captured(REF)
    explain = jxp.deeplift(network, REF, at="*", multiply=False, return_gap=True)
    multipliers, gaps = jax.jit(explain)(X)
    contributions = jax.jit(jxp.deeplift(network, REF, at="*"))(X)
    for name in h:
        np.testing.assert_allclose(
            multipliers[name] * (h[name] - h0[name]), contributions[name], atol=1e-6
        )
    assert abs(gaps["second"]) < 1e-5 < abs(gaps["branch"])


def test_rules_without_differences_are_multiplied_inside_as_at_the_input():
    f = lambda x: jax.nn.relu(jxp.tag(2 * x, "h")).sum()
    explain = functools.partial(jxp.deeplift, f, 0.5, rules=jxp.rules.guided_backprop())
    x = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(explain(at="h")(x), explain()(x))
    np.testing.assert_allclose(explain(at="h", multiply=False)(x), [1, 0, 1])


def test_reveal_cancel_keeps_a_values_parts_apart():
    """relu(h) - relu(h - 1) for h = a - b with a = b = 2: Δ⁺ = 2 and Δ⁻ = -2 cancel in h."""
    f = lambda x: (lambda h: jax.nn.relu(h) - jax.nn.relu(h - 1))(jxp.tag(x[0] - x[1], "h"))
    whole = jxp.deeplift(f, 0.0, rules="reveal_cancel")(jnp.array([2.0, 2.0]))
    explain = functools.partial(jxp.deeplift, f, 0.0, rules="reveal_cancel", at="h")
    np.testing.assert_allclose(whole, [0.5, -0.5])
    np.testing.assert_allclose(explain()(jnp.array([2.0, 2.0])), whole.sum())
    # m⁺ = ½[1 - 0 + 0 - 0]/2 = ¼ and m⁻ = ¼: where Δ = 0 the multiplier is their mean.
    np.testing.assert_allclose(explain(multiply=False)(jnp.array([2.0, 2.0])), 0.25)


def test_one_name_gives_its_array_and_a_pattern_a_dict():
    for method in (jxp.gradient, jxp.saliency, jxp.guided_backprop, jxp.deconvnet):
        assert jax.eval_shape(method(small, at="first"), X).shape == (6,)
        assert jax.eval_shape(method(small, at="fir*"), X).keys() == {"first"}
    explain = jxp.conductance(small, REF, at=["first"], steps=2)
    assert jax.eval_shape(explain, X).keys() == {"first"}


def test_gradients_inside_are_those_of_what_follows():
    h = captured(X)
    above = jax.jit(lambda h: {n: jax.grad(upper(network, n, X))(h[n]) for n in LAYERS})(h)
    inside = jax.jit(jxp.gradient(network, at="*"))(X)
    activation = jax.jit(jxp.input_x_gradient(network, at="*"))(X)
    for name in LAYERS:
        np.testing.assert_allclose(inside[name], above[name], atol=1e-6)
        np.testing.assert_allclose(activation[name], above[name] * h[name], atol=1e-6)
    slopes = jax.jit(jxp.saliency(network, at="first"))(X)
    np.testing.assert_allclose(slopes, abs(above["first"]), atol=1e-6)
    shifted = jax.jit(jxp.input_x_gradient(network, 0.5, at="third"))(X)
    np.testing.assert_allclose(shifted, above["third"] * (h["third"] - 0.5), atol=1e-6)


def test_guided_backprop_inside():
    f = lambda x: jax.nn.relu(jxp.tag(x, "h")) @ jnp.array([1.0, -1.0, 2.0])
    x = jnp.array([1.0, 1.0, -1.0])
    np.testing.assert_array_equal(jxp.guided_backprop(f, at="h")(x), [1, 0, 0])
    np.testing.assert_array_equal(jxp.deconvnet(f, at="h")(x), [1, 0, 2])


def test_integrated_gradients_go_straight_in_the_values_own_space():
    h, h0 = values(small, X), values(small, REF)
    explain = jxp.integrated_gradients(small, REF, at="*", steps=8, return_gap=True)
    inside, gaps = jax.jit(explain)(X)
    for name in ("first", "second"):
        above = jxp.integrated_gradients(upper(small, name, X), h0[name], steps=8)
        np.testing.assert_allclose(inside[name], jax.jit(above)(h[name]), atol=1e-6)
        assert abs(gaps[name]) < 1e-4
    branches = lambda x: jxp.tag(2 * x, "a") @ jxp.tag(x**2, "b")  # one cut: they move together
    both = jax.jit(jxp.integrated_gradients(branches, 0.0, at=["a", "b"], steps=4))(X)
    np.testing.assert_allclose(both["a"] + both["b"], 2 * X**3, rtol=1e-5)
    np.testing.assert_allclose(both["a"], both["b"], rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (functools.partial(jxp.guided_integrated_gradients, steps=50, max_distance=0.1), 0.05),
        (functools.partial(jxp.idgi, steps=8), 1e-5),
    ],
    ids=["guided", "idgi"],
)
def test_chosen_paths_go_in_the_values_own_space(method, error):
    h, h0 = values(small, X), values(small, REF)
    inside, gaps = jax.jit(method(small, REF, at="*", return_gap=True))(X)
    for name in ("first", "second"):
        above = jax.jit(method(upper(small, name, X), h0[name]))(h[name])
        np.testing.assert_allclose(inside[name], above, atol=1e-5)
        np.testing.assert_allclose(inside[name].sum() + gaps[name], change(small), atol=1e-5)
        assert abs(gaps[name]) < error * abs(change(small))
    one = jax.eval_shape(method(small, REF, at="first"), X)
    assert one.shape == (6,)


IMAGE = jax.random.uniform(KEYS[0], (6, 5))
KERNEL = jax.random.normal(KEYS[1], (30, 5)) / 2
blurred = functools.partial(jxp.references.gaussian_blur, axes=(0, 1))


def of_image(x):
    h = jxp.tag(jnp.tanh(x.ravel() @ KERNEL), "first")
    return (h**2) @ W3[:5] + 0 * jxp.tag(x[0], "row").sum()


explain_blur = functools.partial(
    jxp.blur_integrated_gradients, of_image, stdev=1.0, axes=(0, 1), return_gap=True
)


@pytest.mark.promotes
def test_blur_goes_through_the_layers_as_the_image_sharpens():
    explain = jax.jit(explain_blur(at="first"))
    scores, gap = explain(IMAGE)
    total = of_image(IMAGE) - of_image(blurred(IMAGE, stdev=1.0))
    np.testing.assert_allclose(scores.sum() + gap, total, atol=1e-5)
    assert abs(gap) < 1e-3 * abs(total)
    # In small steps: ∂f/∂h = 2 h w, at the middle of every move.
    first = lambda x: np.tanh(x.ravel() @ KERNEL)
    steps = np.stack([first(blurred(IMAGE, stdev=1 - k / 8)) for k in range(8)] + [first(IMAGE)])
    by_differences = ((steps[1:] ** 2 - steps[:-1] ** 2) * W3[:5]).sum(0)
    np.testing.assert_allclose(scores, by_differences, atol=0.02 * abs(scores).max())


@pytest.mark.slow
def test_blur_goes_through_the_layers_to_a_tolerance():
    explain = explain_blur(at="*", tolerance=1e-3, max_steps=59)
    scores, gaps, count = jax.jit(explain)(IMAGE)
    fine, _ = jax.jit(explain_blur(at="first", steps=64))(IMAGE)
    total = of_image(IMAGE) - of_image(blurred(IMAGE, stdev=1.0))
    np.testing.assert_allclose(scores["first"], fine, atol=0.01 * abs(fine).max())
    assert scores["row"].shape == (5,) and abs(gaps["first"]) <= 1e-3 * abs(total) and count < 59


def test_conductance_along_a_path_of_ones_own():
    bend = lambda ref, x, alpha: ref + jnp.array([1, alpha, alpha**2, alpha]) * alpha * (x - ref)
    explain = jxp.conductance(network, REF, at="*", path=bend, steps=64, return_gap=True)
    scores, gaps = jax.jit(explain)(X)
    whole = jax.jit(jxp.integrated_gradients(network, REF, path=bend, steps=64))(X)
    for name in LAYERS:
        assert abs(gaps[name]) < 1e-3
        np.testing.assert_allclose(scores[name].sum(), whole.sum(), atol=1e-4)
    straight = jax.jit(jxp.conductance(network, REF, at="first", steps=64))(X)
    assert abs(straight - scores["first"]).max() > 1e-3


def naive_conductance(f, name, steps):
    """Each neuron by itself, as it is defined: Σ_i Δx_i ∫ ∂f/∂h_j ∂h_j/∂x_i dα."""

    def at_alpha(alpha):
        point = REF + alpha * (X - REF)
        jacobian = jax.jacobian(lambda x: values(f, x)[name])(point)
        outer = jax.grad(upper(f, name, point))(values(f, point)[name])
        return outer[:, None] * jacobian * (X - REF)

    return jax.jit(jax.vmap(at_alpha))((jnp.arange(steps) + 0.5) / steps).mean(0)


@pytest.mark.promotes
def test_conductance_is_its_definition():
    each = naive_conductance(network, "second", 20)
    midpoint = dict(steps=20, quadrature="midpoint")
    whole = jax.jit(jxp.conductance(network, REF, at="second", **midpoint))(X)
    np.testing.assert_allclose(whole, each.sum(1), atol=1e-5)
    through = functools.partial(jxp.neuron_conductance, network, REF, at="second", **midpoint)
    np.testing.assert_allclose(jax.jit(through(chunk=3, neuron_chunk=4))(X), each, atol=1e-5)
    np.testing.assert_allclose(jax.jit(through(index=2))(X), each[2], atol=1e-5)


@pytest.mark.promotes
def test_neuron_integrated_gradients_and_conductance_agree():
    errors, gaps = [], []
    for steps in (4, 256):
        options = dict(at=list(LAYERS), steps=steps, return_gap=True)
        a, gap_a = jax.jit(jxp.neuron_integrated_gradients(network, REF, **options))(X)
        b, gap_b = jax.jit(jxp.conductance(network, REF, **options))(X)
        errors.append(max(float(abs(a[name] - b[name]).max()) for name in LAYERS))
        gaps.append(max(abs(float(gap[name])) for gap in (gap_a, gap_b) for name in LAYERS))
    assert errors[0] > errors[1] < 1e-4
    assert gaps[0] > gaps[1] < 1e-4
    each = naive_conductance(network, "second", 256)
    for scores in (a, b):
        np.testing.assert_allclose(scores["second"], each.sum(1), atol=1e-4)


@pytest.mark.parametrize("quadrature", ["gauss-legendre", "midpoint", "left", "right", "trapezoid"])
def test_what_is_linear_above_the_layer_is_complete_at_any_step_count(quadrature):
    f = lambda x: W3 @ jxp.tag(jax.nn.relu(W1 @ x), "hidden")
    explain = jxp.neuron_integrated_gradients(f, REF, at="hidden", steps=3, quadrature=quadrature)
    np.testing.assert_allclose(jax.jit(explain)(X).sum(), change(f), atol=1e-5)


@pytest.mark.promotes
@pytest.mark.parametrize("chunk", [None, 2])
def test_the_papers_form_takes_values_and_gradients_at_the_steps_ends(chunk):
    points = REF + jnp.linspace(0, 1, 6)[:, None] * (X - REF)
    values = jax.vmap(lambda x: jxp.capture(small, "first")(x)[1]["first"])(points)
    slopes = jax.vmap(jxp.gradient(small, at="first"))(points)
    explain = jxp.neuron_integrated_gradients(
        small, REF, at="first", steps=5, quadrature="right", chunk=chunk
    )
    expected = (slopes[1:] * jnp.diff(values, axis=0)).sum(0)
    np.testing.assert_allclose(jax.jit(explain)(X), expected, atol=1e-6)


def test_chunks_change_nothing():
    for method in (jxp.neuron_integrated_gradients, jxp.conductance, jxp.internal_influence):
        whole = jax.jit(method(small, REF, at="first", steps=7))(X)
        chunked = jax.jit(method(small, REF, at="first", steps=7, chunk=3))(X)
        np.testing.assert_allclose(chunked, whole, atol=1e-6)


def test_ablation_and_expected_gradients_inside():
    h = captured(X)
    losses = jax.jit(jxp.ablation(network, 0.0, at=["first", "third"]))(X)
    for name in losses:
        for i in range(2):
            without = jxp.intervene(network, {name: h[name].at[i].set(0)})(X)
            np.testing.assert_allclose(losses[name][i], network(X) - without, atol=1e-6)
    f = lambda x: W3 @ jxp.tag(jnp.tanh(W1 @ x), "hidden")
    refs = jnp.stack([REF, -REF])
    explain = jax.jit(jxp.expected_gradients(f, refs, samples=4, at="hidden"))
    total = explain(X, key=jax.random.key(0)).sum()
    np.testing.assert_allclose(total, f(X) - (f(REF) + f(-REF)) / 2, atol=1e-5)


def test_internal_influence_is_the_mean_gradient():
    alphas = (np.arange(5) + 0.5) / 5
    explain = jax.jit(jxp.gradient(small, at="first"))
    each = [explain(REF + a * (X - REF)) for a in alphas]
    influence = jxp.internal_influence(small, REF, at="first", steps=5, quadrature="midpoint")
    np.testing.assert_allclose(influence(X), np.mean(each, 0), atol=1e-6)


def recurrent(x):
    step = lambda h, x: (jxp.tag(jnp.tanh(W2 @ h + W1 @ x), "state"), None)
    return W3 @ jax.lax.scan(jax.checkpoint(step), jnp.zeros(6), x)[0]


def test_steps_of_a_scan_are_explained_one_by_one():
    x = jax.random.normal(KEYS[5], (5, 4))
    explain = jax.jit(jxp.deeplift(recurrent, 0.0, at="state"))
    assert explain(x).shape == (5, 6)
    np.testing.assert_allclose(explain(x)[-1].sum(), recurrent(x) - recurrent(0 * x), atol=1e-5)
    np.testing.assert_allclose(jxp.gradient(recurrent, at="state")(x)[-1], W3, atol=1e-6)
    for method in (jxp.conductance, jxp.neuron_integrated_gradients):
        scores = jax.jit(method(recurrent, 0.0, at="state", steps=64))(x)
        np.testing.assert_allclose(scores[-1].sum(), recurrent(x) - recurrent(0 * x), atol=1e-3)


def test_batches_and_averages_over_references():
    xs, refs = jax.random.normal(KEYS[6], (3, 4)), jax.random.normal(KEYS[7], (2, 4))
    single = jax.jit(lambda x, r: jxp.deeplift(small, r, at=["first", "second"])(x))
    average = jax.jit(jax.vmap(jxp.deeplift_shap(small, refs, at=["first", "second"])))(xs)
    for i, x in enumerate(xs):
        for name in average:
            expected = np.mean([single(x, r)[name] for r in refs], 0)
            np.testing.assert_allclose(average[name][i], expected, atol=1e-5)


def test_losses_over_hidden_scores_have_gradients(x64):
    x, weights = X.astype(float), W1.astype(float)
    f = lambda x, w: (jxp.tag(jnp.tanh(w @ x), "h") ** 3).sum()
    loss = lambda w: (jxp.deeplift(f, 0.1, at="h")(x, w) ** 2).sum()
    slope = jax.jit(jax.grad(loss))(weights)
    direction = jnp.ones_like(weights)
    numeric = (loss(weights + 1e-5 * direction) - loss(weights - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(slope, direction), numeric, rtol=1e-6)


def test_all_layers_cost_one_pass_and_nothing_below_is_differentiated():
    weights = jax.random.normal(KEYS[0], (5, 128, 128)) / 11

    def deep(x):
        for i, w in enumerate(weights):
            x = jxp.tag(jnp.maximum(w @ x, 0.1 * x), f"layer_{i}")
        return x.sum()

    xs = jax.random.normal(KEYS[0], (64, 128))
    cost = lambda explain, xs: flops(jax.vmap(explain), xs)
    gradient = cost(jxp.gradient(deep), xs)
    assert cost(jxp.deeplift(deep, jnp.zeros(128), at="layer_*"), xs) < 1.5 * gradient
    assert cost(jxp.gradient(deep, at="layer_4"), xs) < 0.7 * gradient
    along = dict(ref=jnp.zeros(128), steps=4)
    path = cost(jxp.integrated_gradients(deep, **along), xs)
    assert cost(jxp.conductance(deep, at="layer_2", **along), xs) < 1.3 * path
    assert cost(jxp.neuron_integrated_gradients(deep, at="layer_2", **along), xs) < 1.3 * path


def test_errors():
    with pytest.raises(ValueError, match=r"nothing is named 'fist'[\s\S]*first: float32\[6\]"):
        jxp.deeplift(network, REF, at="fist")(X)
    with pytest.raises(TypeError, match="no floating value is named by 'i'"):
        jxp.gradient(lambda x: x[jxp.tag(jnp.argmax(x), "i")], at="i")(X)
    with pytest.raises(TypeError, match="must return a scalar"):
        jxp.conductance(lambda x: jxp.tag(x, "h"), REF, at="h")(X)
    with pytest.raises(ValueError, match="give `at` or `path`"):
        jxp.idgi(network, REF, at="first", path=lambda ref, x, alpha: x)
    with pytest.raises(ValueError, match="the layer is one name"):
        jxp.neuron_conductance(network, REF, at=["first", "third"])(X)
