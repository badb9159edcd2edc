"""Explanations are JAX functions: jit, vmap, grad, scan and every floating dtype work on them."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from tests.support.checks import METHODS, readout
from tests.support.marks import some_slow
from tests.support.zoo import (
    ELEMENTWISE,
    ZOO,
    cast,
    draw,
    mlp,
    random_like,
    scanned,
    transformer,
)

QUICK = "cnn_max_pool_overlapping_same scan_mixed_carry tree_two_towers".split()
THOROUGH = (
    "mlp_glu maths_sort mlp_gelu cnn_group_norm rnn_gru linen_mlp_batch_norm "
    "linen_transformer_causal_padded transformer_llama nnx_transformer structure_cond "
    "structure_inner_gradient "
    "maths_cholesky_logdet maths_rfft_power tree_state_space"
).split()


def models(quick, thorough):
    return pytest.mark.parametrize("name", some_slow([*quick, *thorough], thorough))


def close(a, b, tolerance=1e-5):
    """Equal up to rounding, leaf by leaf, relative to the largest entry."""
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(b))
    chex.assert_trees_all_close(a, b, rtol=0, atol=tolerance * max(scale, 1e-3))


def batch_of(tree, n, seed=0):
    trees = [random_like(tree, seed + i) for i in range(n)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def row(batch, i):
    return jax.tree.map(lambda a: a[i], batch)


def stacked(rows):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def logits(x, p):
    """A classifier with three outputs."""
    return jax.nn.gelu(x @ p["w0"] + p["b0"]) @ p["w2"][:8] + p["b2"]


# --- jit and vmap ---------------------------------------------------------------------------------


@models(QUICK, THOROUGH)
def test_jit_equals_eager_and_vmap_equals_a_loop(name):
    m = ZOO[name]()
    ref, xs, refs = random_like(m.x, 1), batch_of(m.x, 3, 20), batch_of(m.x, 3, 30)
    one = jax.jit(lambda x, ref: jxp.deeplift(m.f, ref)(x, m.params))
    close(one(m.x, ref), jxp.deeplift(m.f, ref)(m.x, m.params))

    over_x = jax.jit(jax.vmap(one, (0, None)))(xs, ref)
    close(over_x, stacked([one(row(xs, i), ref) for i in range(3)]))
    over_refs = jax.jit(jax.vmap(one, (None, 0)))(m.x, refs)
    close(over_refs, stacked([one(m.x, row(refs, i)) for i in range(3)]))
    over_both = jax.jit(jax.vmap(one))(xs, refs)
    close(over_both, stacked([one(row(xs, i), row(refs, i)) for i in range(3)]))


@pytest.mark.parametrize("method", METHODS)
@models(["mlp_relu"], ["cnn_max_pool", "transformer_relu", "scan_forward"])
def test_every_method_under_jit_and_vmap(name, method):
    m = ZOO[name]()
    explain = METHODS[method](m.f, random_like(m.x, 1))
    xs = batch_of(m.x, 3)
    by_vmap = jax.jit(jax.vmap(explain, (0, None)))(xs, m.params)
    jitted = jax.jit(explain)
    close(by_vmap, stacked([jitted(row(xs, i), m.params) for i in range(3)]))
    close(jitted(m.x, m.params), explain(m.x, m.params))


def test_vmap_over_parameters():
    m = mlp(jax.nn.silu)
    ensemble = batch_of(m.params, 3)
    explain = jax.jit(jxp.deeplift(m.f, 0.0))
    by_vmap = jax.vmap(explain, (None, 0))(m.x, ensemble)
    close(by_vmap, stacked([explain(m.x, row(ensemble, i)) for i in range(3)]))


TARGETS = {
    "logit": jxp.logit,
    "probability": jxp.probability,
    "log_likelihood": partial(jxp.log_likelihood, temperature=2.0),
    "log_odds": lambda f, k: jxp.log_odds(f, k, 2),
    "contrast": jxp.contrast,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients", "gradient"])
def test_vmap_over_a_traced_target_equals_a_loop(method, target):
    m, ref = mlp(jax.nn.gelu), draw(6, seed=1)

    def explain(k):
        return METHODS[method](TARGETS[target](logits, k), ref)(m.x, m.params)

    by_vmap = jax.jit(jax.vmap(explain))(jnp.arange(3))
    close(by_vmap, stacked([explain(k) for k in range(3)]))


def test_targets_of_each_example_ride_in_the_arguments():
    m, xs = mlp(jax.nn.gelu), batch_of(draw(6), 4)
    labels = jnp.array([2, 0, 1, 0])
    explain = jxp.deeplift(lambda x, k, p: jxp.logit(logits, k)(x, p), 0.0)
    c = jax.vmap(explain, (0, 0, None))(xs, labels, m.params)
    loop = [jxp.deeplift(jxp.logit(logits, int(k)), 0.0)(x, m.params) for x, k in zip(xs, labels)]  # noqa: B905
    close(c, jnp.stack(loop))


def test_contrast_is_the_logits_contribution_less_the_classes_mean():
    m = mlp(jax.nn.gelu)
    each = jnp.stack([jxp.deeplift(jxp.logit(logits, k), 0.0)(m.x, m.params) for k in range(3)])
    close(jxp.deeplift(jxp.contrast(logits, 1), 0.0)(m.x, m.params), each[1] - each.mean(0))


def test_explanations_run_inside_scan_map_and_checkpoint():
    m, xs = ZOO["rnn_gru"](), batch_of(draw(5, 4), 3)
    explain = jxp.deeplift(m.f, 0.0)
    expected = jax.vmap(explain, (0, None))(xs, m.params)
    close(lax.map(lambda x: explain(x, m.params), xs), expected)
    close(lax.scan(lambda i, x: (i + 1, explain(x, m.params)), 0, xs)[1], expected)
    close(jax.checkpoint(explain)(row(xs, 0), m.params), row(expected, 0))


# --- argnums and trees ----------------------------------------------------------------------------


def two_inputs(a, scale, b):
    return jnp.tanh(a @ b["u"]) * scale + b["v"][1] ** 2


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients", "input_x_gradient"])
def test_argnums_choose_what_is_explained(method):
    args = draw(4), jnp.float32(1.5), {"u": draw(4, seed=1), "v": draw(2)}
    explain = METHODS[method]

    both = explain(two_inputs, (0.5, {"u": 0.1, "v": 0.2}), argnums=(0, 2))(*args)
    chex.assert_trees_all_equal_shapes_and_dtypes(both, (args[0], args[2]))
    whole = explain(lambda ab: two_inputs(ab[0], args[1], ab[1]), (0.5, {"u": 0.1, "v": 0.2}))
    close(both, whole((args[0], args[2])))

    second = explain(two_inputs, 0.0, argnums=2)(*args)
    close(second, explain(lambda b: two_inputs(args[0], args[1], b), 0.0)(args[2]))
    close(explain(two_inputs, 0.0, argnums=-1)(*args), second)


@pytest.mark.parametrize(
    "ref", [0.5, jnp.float32(0.5), np.full((1, 3), 0.5), jnp.full((4, 1), 0.5)]
)
def test_a_reference_broadcasts(ref):
    f, x = lambda x: jnp.sin(x).sum() + x.prod(), draw(4, 3)
    close(jxp.deeplift(f, ref)(x), jxp.deeplift(f, jnp.full((4, 3), 0.5))(x))
    close(
        jxp.integrated_gradients(f, ref)(x), jxp.integrated_gradients(f, jnp.full((4, 3), 0.5))(x)
    )


def test_the_output_is_a_tree_like_x():
    for name in ("tree_two_towers", "tree_scalars", "tree_unused_leaf"):
        m = ZOO[name]()
        for explain in METHODS.values():
            chex.assert_trees_all_equal_shapes_and_dtypes(explain(m.f, 0.1)(m.x, m.params), m.x)


# --- relations between options --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_gelu", "rnn_lstm", "tree_two_towers"])
@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients"])
def test_multipliers_times_the_difference_are_contributions(method, name):
    m = ZOO[name]()
    ref = random_like(m.x, 1)
    explain = {"deeplift": jxp.deeplift, "integrated_gradients": jxp.integrated_gradients}[method]
    multipliers = explain(m.f, ref, multiply=False)(m.x, m.params)
    product = jax.tree.map(lambda k, a, b: k * (a - b), multipliers, m.x, ref)
    contributions, left = explain(m.f, ref, return_gap=True)(m.x, m.params)
    close(product, contributions)
    by_metric = jxp.completeness_gap(m.f, ref)(contributions, m.x, m.params)
    assert left == pytest.approx(float(by_metric), abs=2e-6)
    change = m.f(m.x, m.params) - m.f(ref, m.params)
    total = sum(c.sum() for c in jax.tree.leaves(contributions))
    assert left == pytest.approx(float(change - total), abs=2e-6)


@pytest.mark.parametrize("chunk", [1, 3, 5, 32, 100])
def test_a_chunk_changes_memory_only(chunk):
    m = ZOO["mlp_gelu"]()
    whole = jxp.integrated_gradients(m.f, 0.1, return_gap=True)
    parts = jxp.integrated_gradients(m.f, 0.1, chunk=chunk, return_gap=True)
    close(jax.jit(parts)(m.x, m.params), jax.jit(whole)(m.x, m.params))


@pytest.mark.parametrize("quadrature", "gauss-legendre midpoint left right trapezoid".split())
def test_every_quadrature_has_weights_that_sum_to_one(quadrature):
    explain = jxp.integrated_gradients(lambda x: 3 * x.sum(), 1.0, steps=5, quadrature=quadrature)
    np.testing.assert_allclose(explain(jnp.array([3.0, 0.0])), [6, -3], rtol=1e-6)


def test_integrated_gradients_converge(x64):
    m = ZOO["mlp_tanh"]()
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)
    gaps = [
        abs(float(jxp.integrated_gradients(m.f, 0.0, steps=n, return_gap=True)(x, params)[1]))
        for n in (2, 8, 32)
    ]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-10


def test_an_average_over_references_is_a_loop():
    m, refs = ZOO["mlp_glu"](), batch_of(draw(6), 4)
    for method in (jxp.deeplift, partial(jxp.integrated_gradients, steps=4)):
        loop = stacked([method(m.f, row(refs, i))(m.x, m.params) for i in range(4)])
        mean = jax.tree.map(lambda a: a.mean(0), loop)
        close(jax.jit(jxp.expected(method)(m.f, refs))(m.x, m.params), mean)


def test_smoothing_is_an_average_over_noise():
    m, key = ZOO["mlp_gelu"](), jax.random.key(3)
    smoothed = jxp.smooth(jxp.deeplift(m.f, 0.0), stdev=0.2, samples=8, reduce="variance")
    close(jax.jit(smoothed)(m.x, m.params, key=key), smoothed(m.x, m.params, key=key))
    variance = jxp.smooth(lambda x: 2 * x, stdev=0.5, samples=4000, reduce="variance")
    np.testing.assert_allclose(variance(jnp.zeros(3), key=key), np.ones(3), rtol=0.1)
    still = jax.jit(jxp.smooth(jxp.deeplift(m.f, 0.0), stdev=0.0, samples=3))
    close(still(m.x, m.params, key=key), jax.jit(jxp.deeplift(m.f, 0.0))(m.x, m.params))


# --- differentiated again -------------------------------------------------------------------------

DIFFERENTIATED = {
    "mlp": lambda: mlp(ELEMENTWISE["gelu"]),
    "mlp_silu": lambda: mlp(jax.nn.silu),
    "transformer": lambda: transformer(depth=1, time=4, causal=True, ff="swiglu"),
    "lstm": lambda: ZOO["rnn_lstm"](),
    "scan": lambda: scanned(),
    "softmax": lambda: ZOO["mlp_softmax"](),
    "path": lambda: ZOO["maths_cholesky_logdet"](),
    "pool": lambda: ZOO["cnn_max_pool_overlapping_same"](),
}


def finite_difference(loss, params, direction, step=1e-5):
    moved = [jax.tree.map(lambda p, d: p + s * step * d, params, direction) for s in (1, -1)]
    return (float(loss(moved[0])) - float(loss(moved[1]))) / (2 * step)


@pytest.mark.parametrize("moving_reference", [False, True])
@models(["mlp", "softmax"], ["transformer", "lstm", "mlp_silu", "scan", "path", "pool"])
def test_a_loss_over_attributions_differentiates_in_the_parameters(name, moving_reference, x64):
    """Attribution priors; a reference of the parameters' own shows a wrongly stopped gradient."""
    m = DIFFERENTIATED[name]()
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)
    base = random_like(x, 2)

    @jax.jit
    def loss(params):
        shift = (
            jnp.tanh(sum(jnp.sum(p) for p in jax.tree.leaves(params))) if moving_reference else 0
        )
        c = jxp.deeplift(m.f, base + 0.3 * shift)(x, params)
        return readout(c**2) + readout(jnp.sin(c))

    slope = jax.jit(jax.grad(loss))(params)
    for seed in range(3):
        direction = random_like(params, seed)
        along = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, direction)))
        expected = finite_difference(loss, params, direction)
        assert along == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient", "gradient"])
def test_other_methods_differentiate_in_the_parameters_too(method, x64):
    m = mlp(jnp.tanh)
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)

    @jax.jit
    def loss(params):
        return readout(METHODS[method](m.f, jnp.tanh(params["w0"][:, 0]))(x, params) ** 2)

    direction, slope = random_like(params, 1), jax.grad(loss)(params)
    along = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, direction)))
    assert along == pytest.approx(finite_difference(loss, params, direction), rel=1e-6)


@models(["mlp_tanh", "mlp_softmax"], ["scan_forward"])
def test_attributions_differentiate_in_the_input(name, x64):
    """Their Jacobian, by reverse mode, against finite differences; and a Hessian of a loss."""
    m = ZOO[name]()
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)

    def loss(x):
        return readout(jxp.deeplift(m.f, 0.1)(x, params) ** 2)

    direction = random_like(x, 4)
    along = jnp.sum(jax.jit(jax.grad(loss))(x) * direction)
    assert along == pytest.approx(finite_difference(jax.jit(loss), x, direction), rel=1e-6)
    twice = jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) * direction)))
    along = jnp.sum(twice(x) * direction)
    once = jax.jit(lambda x: jnp.sum(jax.grad(loss)(x) * direction))
    assert along == pytest.approx(finite_difference(once, x, direction), rel=1e-5)


def test_contributions_jacobian_in_the_input_sums_to_the_gradient(x64):
    """Σ_i c_i = f(x) − f(ref), hence Σ_i ∂c_i/∂x = ∂f/∂x."""
    m = ZOO["mlp_gelu"]()
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)
    jacobian = jax.jacrev(jxp.deeplift(m.f, 0.2))(x, params)
    np.testing.assert_allclose(jacobian.sum(0), jax.grad(m.f)(x, params), rtol=1e-9)


def test_an_attribution_is_itself_explained(x64):
    m = ZOO["mlp_tanh"]()
    x, params = cast(m.x, jnp.float64), cast(m.params, jnp.float64)
    first = jxp.deeplift(m.f, 0.1)
    c, left = jxp.deeplift(lambda x: first(x, params)[2], 0.3, return_gap=True)(x)
    assert jnp.isfinite(c).all() and abs(left) < 1e-10


# --- one trace, every dtype -----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_one_trace_per_shape(method):
    m = ZOO["mlp_gelu"]()
    chex.clear_trace_counter()
    f = chex.assert_max_traces(m.f, n=2)  # once for each shape below

    def explain(x, ref, params):
        return METHODS[method](f, ref)(x, params)

    explain = jax.jit(chex.assert_max_traces(explain, n=2))
    for seed in range(3):
        explain(draw(6, seed=seed), draw(6, seed=5), m.params)
    explain(draw(6), jnp.float32(0.0), m.params)
    explain(draw(6), jnp.float32(1.0), m.params)


@models(
    "mlp_gelu mlp_softmax mlp_standardize_rsqrt".split(),
    "cnn_max_pool scan_mixed_carry maths_norm mlp_relu mlp_softplus cnn_group_norm cnn_batch_norm "
    "rnn_lstm rnn_gru transformer_llama transformer_causal transformer_causal_lowest "
    "transformer_post_norm maths_sort tree_two_towers linen_transformer_pre_norm".split(),
)
def test_every_floating_dtype_runs_stays_finite_and_keeps_its_dtype(name):
    m = ZOO[name]()
    explain = jax.jit(lambda x, ref, p: jxp.deeplift(m.f, ref)(x, p))
    for ref in (jax.tree.map(jnp.zeros_like, m.x), random_like(m.x, 1)):
        exact = explain(m.x, ref, m.params)
        size = max(
            abs(float(m.f(m.x, m.params))), *(jnp.abs(c).max() for c in jax.tree.leaves(exact))
        )
        for dtype in ("bfloat16", "float16", "float64"):
            eps = max(float(jnp.finfo(dtype).eps), float(jnp.finfo("float32").eps))
            with jax.enable_x64(dtype == "float64"):
                x = cast(m.x, dtype)
                c = explain(x, cast(ref, dtype), cast(m.params, dtype))
                chex.assert_trees_all_equal_shapes_and_dtypes(c, x)
                chex.assert_tree_all_finite(c)
                chex.assert_trees_all_close(cast(c, "float32"), exact, rtol=0, atol=16 * eps * size)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_integrated_gradients_keep_their_dtype(dtype):
    m = ZOO["mlp_gelu"]()
    x, params = cast(m.x, dtype), cast(m.params, dtype)
    c = jxp.integrated_gradients(m.f, 0)(x, params)
    assert c.dtype == dtype and jnp.isfinite(c).all()


def test_mixed_precision_parameters():
    """bfloat16 inside, float32 outside: the usual mixed-precision model."""
    m = mlp(jax.nn.gelu)

    def f(x, p):
        return m.f(x.astype(jnp.bfloat16), cast(p, jnp.bfloat16)).astype(jnp.float32)

    c = jxp.deeplift(f, 0.0)(m.x, m.params)
    assert c.dtype == jnp.float32
    close(c, jxp.deeplift(m.f, 0.0)(m.x, m.params), 0.1)


# --- tables without a reference -------------------------------------------------------------------


def test_guided_backprop_and_deconvnet_follow_their_formulas():
    w, x = draw(6, 5), draw(6)
    out = draw(5, seed=2)
    z = x @ w
    expected = {
        "guided_backprop": w @ jnp.where((z > 0) & (out > 0), out, 0),
        "deconvnet": w @ jnp.maximum(out, 0),
    }
    for spelling in ("relu", "relu_maximum", "relu_maximum_left", "relu_where", "relu_select"):
        f = lambda x: ELEMENTWISE[spelling](x @ w) @ out
        close(jxp.guided_backprop(f)(x), expected["guided_backprop"])
        close(jxp.deconvnet(f)(x), expected["deconvnet"])


@pytest.mark.promotes
@pytest.mark.parametrize("method", [jxp.guided_backprop, jxp.deconvnet])
@pytest.mark.parametrize("name", ["mlp_tanh", "rnn_lstm", "transformer_pre_norm", "maths_sort"])
def test_without_relus_the_gradients_tables_are_the_gradient(name, method):
    m = ZOO[name]()
    close(jax.jit(method(m.f))(m.x, m.params), jax.jit(jax.grad(m.f))(m.x, m.params))
