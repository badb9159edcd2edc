"""Contributions sum to f(x) − f(ref): on every model of the zoo, and part by part.

A gap of zero alone would pass for gradient × Δx rescaled to the right sum.  So each model is also
run on two inputs at once, where each input's leaves must sum to its own part's Δ; functions of one
variable must give exactly g(x_i) − g(ref_i); and small cases are compared with Shapley values from
their definition.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from tests.support import zoo
from tests.support.checks import magnitude, shapley, total
from tests.support.functions import ELEMENTWISE, VECTOR
from tests.support.marks import some_slow
from tests.support.zoo import ZOO, Model, cast, draw, paired, random_like, references

# Their attention computes its softmax in float32, whatever the input's dtype: f's own rounding.
FLOAT32_INSIDE = {
    *("fused_attention_plain", "fused_attention_causal", "fused_attention_window"),
    *("fused_attention_lengths", "nnx_transformer", "nnx_scan"),
}


# --- the sum ------------------------------------------------------------------------------------


def gap(contributions, after, before):
    """|Σ − Δ| relative to max(1, Σ|contribution|)."""
    missing = total(contributions) - (float(after) - float(before))
    return abs(missing) / max(1, magnitude(contributions))


def contributions_and_ends(f, parts):
    """A function of (x, ref, params): contributions, and the parts of f at both ends."""
    return lambda x, ref, p: (jxp.deeplift(f, ref)(x, p), parts(x, p), parts(ref, p))


def of_dtype(name, dtype):
    m = ZOO[name]()
    return Model(m.f, cast(m.params, dtype), cast(m.x, dtype))


def assert_complete(name, dtype, limit, record_property, *, in_two_parts):
    m = of_dtype(name, dtype)
    if in_two_parts:
        m, parts = paired(m)
    else:
        parts = m.f
    explain = contributions_and_ends(m.f, parts)
    if not name.startswith("mlp"):  # those share shapes: operation by operation compiles less
        explain = jax.jit(explain)
    worst = 0.0
    for kind, ref in references(m.x).items():
        contributions, after, before = explain(m.x, ref, m.params)
        leaves = [contributions["a"], contributions["b"]] if in_two_parts else [contributions]
        for leaf, end, start in zip(leaves, jnp.ravel(after), jnp.ravel(before), strict=True):
            assert all(jnp.isfinite(c).all() for c in jax.tree.leaves(leaf)), kind
            assert all(c.dtype == dtype for c in jax.tree.leaves(leaf)), kind
            worst = max(worst, gap(leaf, end, start))
    record_property(f"gap in {jnp.dtype(dtype).name}", worst)
    assert worst <= limit


# The quick run takes most models once: the oracles below cover perceptrons in float64.
BOTH = {
    *("mlp_softmax", "mlp_log_softmax_difference", "mlp_logsumexp", "mlp_standardize", "mlp_unit"),
    *("mlp_glu_product", "mlp_maxout", "cnn_max_pool_overlapping_same", "rnn_lstm"),
}
SLOW_MATHS = """
    maths_where_gate maths_clamp_between maths_qr maths_quantile maths_cosine_separate
    maths_complex_angle maths_sort_descending maths_where_other maths_correlation
    maths_logsumexp_scaled maths_triangle maths_winner maths_fft_magnitude maths_einsum_three
    maths_covariance maths_kernel maths_skewness maths_segment_max maths_reduce_custom
    maths_product_of_four maths_peak_to_peak maths_cross maths_kron maths_norm_frobenius
    maths_norm_three maths_min maths_cummin maths_minimum maths_solve_constant
    maths_determinant maths_multivariate_normal maths_jensen_shannon maths_median_even
    maths_remainder maths_slogdet maths_hypot maths_sinkhorn maths_mixture_density
    maths_gaussian_process maths_complex_product maths_where_maximum maths_inverse
    maths_cholesky_logdet maths_logaddexp2 maths_solve maths_scatter_set maths_rfft_log_power
    maths_percentile maths_bilinear_softmax maths_singular_values""".split()
LATER = "maths_ cnn_ scan_ transformer_ linen_transformer_ structure_ rnn_ nnx_".split()
NETWORKS = """
    cnn_max_pool_overlapping_same cnn_batch_norm cnn_residual cnn_group_norm scan_mixed_carry
    transformer_llama linen_transformer_causal_padded structure_cond structure_custom_vjp
    structure_fori_loop rnn_lstm rnn_gru nnx_cnn nnx_transformer""".split()
# Perceptrons of functions of one variable: the rule by hand covers them.
BY_HAND = {f"mlp_{name}" for name in ELEMENTWISE}


def zoo_of(quick):
    """Every model, those that are not quick marked slow."""
    return pytest.mark.parametrize("name", some_slow(ZOO, {n for n in ZOO if not quick(n)}))


@pytest.mark.promotes
@zoo_of(lambda n: n in NETWORKS or not (n in BY_HAND or n.startswith(tuple(LATER))))
def test_sums_to_the_change_in_float32(name, record_property):
    assert_complete(name, jnp.float32, 1e-5, record_property, in_two_parts=False)


QUICK_MATHS = [n for n in ZOO if n.startswith("maths_") and n not in SLOW_MATHS][::2]


@pytest.mark.promotes
@zoo_of(lambda name: name in BOTH or name in QUICK_MATHS)
def test_each_input_sums_to_its_own_part_in_float64(name, record_property, x64):
    limit = 1e-6 if name in FLOAT32_INSIDE else 1e-12
    assert_complete(name, jnp.float64, limit, record_property, in_two_parts=True)


def test_the_zoo_has_every_activation():
    """A new public function of jax.nn fails this until it is in the zoo."""
    known = {getattr(g, "func", g) for g in (*ELEMENTWISE.values(), *VECTOR.values())}
    elsewhere = {"initializers", "dot_product_attention", "log1mexp", "logsumexp", "logmeanexp"}
    not_activations = {
        "one_hot", "get_scaled_dot_general_config", "scaled_dot_general", "scaled_matmul",
    }  # fmt: skip
    for module in (jax.nn, nn.activation):
        public = {n for n in dir(module) if n[0].islower()} - elsewhere - not_activations
        functions = {n for n in public if "jax" in getattr(getattr(module, n), "__module__", "")}
        missing = {n for n in functions if getattr(module, n) not in known}
        assert not missing


# --- independent parts of different kinds -------------------------------------------------------

TWO_PARTS = {
    "sums": (lambda a: jnp.tanh(a).sum(), lambda b: jnp.exp(b).sum()),
    "norms": (jnp.linalg.norm, lambda b: (b / (1 + b @ b)).sum()),
    "products": (lambda a: a[0] * a[1] * a[2], lambda b: jnp.prod(b)),
    "orders": (lambda a: jnp.sort(a) @ jnp.arange(4.0), lambda b: jnp.median(b)),
    "maxima": (jnp.max, lambda b: jnp.maximum(b[0], b[1]) * b[2]),
    "softmaxes": (lambda a: jax.nn.softmax(a)[0], jax.nn.logsumexp),
}


@pytest.mark.parametrize("name", TWO_PARTS)
def test_two_parts_do_not_leak(name, x64):
    g, h = TWO_PARTS[name]
    x = {"a": cast(draw(4), jnp.float64), "b": cast(draw(4, seed=1), jnp.float64)}
    for ref in references(cast(x, jnp.float64)).values():
        if name == "norms":  # not differentiable at zero
            ref = jax.tree.map(lambda r: r + 0.5, ref)
        c = jxp.deeplift(lambda x: g(x["a"]) - 3 * h(x["b"]), ref)(x)
        # The norm, sort and median rest on quadratures with an exact correction.
        assert total(c["a"]) == pytest.approx(float(g(x["a"]) - g(ref["a"])), abs=1e-12)
        assert total(c["b"]) == pytest.approx(float(3 * (h(ref["b"]) - h(x["b"]))), abs=1e-12)


BATCHED = {
    "sort": lambda z: jnp.sort(z, -1) @ jnp.arange(4.0),
    "top_k": lambda z: lax.top_k(z, 2)[0][:, 1],
    "cumprod": lambda z: jnp.cumprod(z, -1)[:, 2],
    "cholesky": lambda z: jnp.linalg.cholesky(
        jnp.einsum("bi,bj->bij", z, z) + jnp.eye(4, dtype=z.dtype)
    ).sum((1, 2)),
    "fft": lambda z: jnp.abs(jnp.fft.fft(z))[:, 1],
    "softmax": lambda z: jax.nn.softmax(z)[:, 0],
    "pool": lambda z: nn.max_pool(z[..., None], (3,), (1,))[:, :, 0] @ jnp.arange(1.0, 3.0),
    "matmul": lambda z: jnp.einsum("bi,bj->bij", z, jnp.sin(z)).sum((1, 2)),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", BATCHED)
def test_one_batched_primitive_does_not_mix_its_rows(name, x64):
    """A correction of a whole array's sum, instead of each row's, would leak here."""
    g = BATCHED[name]
    x = {"a": cast(draw(4), jnp.float64), "b": 3 * cast(draw(4, seed=1), jnp.float64)}
    ref = cast(random_like(x, 3), jnp.float64)

    def rows(x):
        return g(jnp.stack([x["a"], x["b"]])) * jnp.array([1.0, -2.0])

    c = jxp.deeplift(lambda x: rows(x).sum(), ref)(x)
    expected = rows(x) - rows(ref)
    limit = 1e-12 * max(1, magnitude(c))
    assert total(c["a"]) == pytest.approx(float(expected[0]), abs=limit)
    assert total(c["b"]) == pytest.approx(float(expected[1]), abs=limit)


def test_an_unused_and_an_unchanged_input_get_nothing():
    ref = {"used": jnp.zeros(3), "same": jnp.array([0.5, -1.0]), "unused": jnp.zeros(2)}
    x = {"used": draw(3), "same": ref["same"], "unused": draw(2)}
    c = jxp.deeplift(lambda x: jnp.tanh(x["used"].sum() * x["same"].sum()), ref)(x)
    assert not c["unused"].any() and not c["same"].any() and c["used"].any()


def test_linear_in_the_function():
    a, b = zoo.mlp(jax.nn.gelu), zoo.mlp(jnp.tanh)
    ref = random_like(a.x, 1)

    def explain(f):
        return jxp.deeplift(f, ref)(a.x)

    def together(x):
        return 2 * a.f(x, a.params) - 3 * b.f(x, b.params)

    apart = 2 * explain(lambda x: a.f(x, a.params)) - 3 * explain(lambda x: b.f(x, b.params))
    np.testing.assert_allclose(explain(together), apart, rtol=1e-5, atol=1e-6)


# --- functions of one variable ------------------------------------------------------------------

POINTS = np.array([-3.1, -1.0, -0.2, 0.3, 0.9, 1.7, 4.2, 0.4, -0.6, 12.0])
REFERENCES = np.array([-2.9, 1.3, 0.4, 0.3, -0.8, 1.7000001, -5.0, 0.0, -0.6001, -9.0])


@pytest.mark.promotes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_function_of_one_variable_gets_exactly_its_own_change(name, x64):
    g, weight = ELEMENTWISE[name], jnp.cos(jnp.arange(10.0))
    x, ref = jnp.array(POINTS), jnp.array(REFERENCES)
    c = jxp.deeplift(lambda x: weight @ g(x), ref)(x)
    expected = weight * (g(x) - g(ref))
    np.testing.assert_allclose(c, expected, rtol=1e-12, atol=1e-12 * float(abs(g(x)).max() + 1))


SMOOTH = (
    "sigmoid sigmoid_exp tanh tanh_exp gelu gelu_tanh gelu_erf silu silu_product silu_division "
    "softplus softplus_log softplus_stable mish squareplus log_sigmoid elu selu celu exp2 sin "
    "gaussian rsqrt power sqrt_abs arctan erf cube"
).split()


@pytest.mark.parametrize("name", SMOOTH)
def test_small_differences_keep_float32s_accuracy(name):
    """Δy/Δx without cancellation, at differences from the smallest to the ordinary."""
    g = ELEMENTWISE[name]
    small = np.concatenate([10.0 ** np.arange(-7, 0.1, 0.5), -(10.0 ** np.arange(-7, 0.1, 0.5))])
    ref = np.float32(0.35) + np.zeros_like(small, np.float32)
    x = (ref + small).astype(np.float32)
    m = jxp.deeplift(lambda x: g(x).sum(), ref, multiply=False)(jnp.array(x))
    with jax.enable_x64(True):
        wide, narrow = jnp.array(x, jnp.float64), jnp.array(ref, jnp.float64)
        exact = jxp.deeplift(lambda x: g(x).sum(), narrow, multiply=False)(wide)
        slope = (g(wide) - g(narrow)) / jnp.where(wide == narrow, 1, wide - narrow)
        far = np.abs(small) > 1e-4
        np.testing.assert_allclose(exact[far], slope[far], rtol=1e-9)
    np.testing.assert_allclose(m, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.promotes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_perceptrons_agree_with_the_rule_by_hand(name, x64):
    """Multipliers Wᵀ (Δg/Δz ⊙ ·), layer by layer, in numpy."""
    m = of_dtype(f"mlp_{name}", jnp.float64)
    g, p = ELEMENTWISE[name], jax.tree.map(np.asarray, m.params)
    x, ref = np.asarray(m.x), np.asarray(random_like(m.x, 10))

    def layers(x):
        z0 = x @ p["w0"] + p["b0"]
        return z0, (z1 := np.asarray(g(jnp.array(z0))) @ p["w1"] + p["b1"]), g(jnp.array(z1))

    def slope(z, z0):
        return np.asarray((g(jnp.array(z)) - g(jnp.array(z0))) / (z - z0))

    (a, b, _), (a0, b0, _) = layers(x), layers(ref)
    by_hand = p["w0"] @ (slope(a, a0) * (p["w1"] @ (slope(b, b0) * p["w2"][:, 1])))
    c = jxp.deeplift(m.f, jnp.array(ref))(m.x, m.params)
    np.testing.assert_allclose(c, by_hand * (x - ref), rtol=1e-9, atol=1e-10)


# --- Shapley values from their definition -------------------------------------------------------

PLAYERS = {
    "mul": (lambda a, b: a * b, 2),
    "mul_functions": (lambda a, b: jnp.sin(a) * jnp.exp(b), 2),
    "div": (lambda a, b: a / (b + 9), 2),
    "div_plain": (lambda a, b: (a + 9) / jnp.exp(b), 2),
    "maximum": (jnp.maximum, 2),
    "minimum": (jnp.minimum, 2),
    "where_maximum": (lambda a, b: jnp.where(a > b, a, b), 2),
    "pow": (lambda a, b: jnp.exp(a) ** b, 2),
    "arctan2": (jnp.arctan2, 2),
    "three": (lambda a, b, c: a * b * c, 3),
    "three_grouped": (lambda a, b, c: a * (b * c), 3),
    "three_functions": (lambda a, b, c: jnp.tanh(a) * (b**2 * jnp.cos(c)), 3),
    "four": (lambda a, b, c, d: (a * b) * (c * d), 4),
    "five": (lambda a, b, c, d, e: a * b * c * d * e, 5),
}


@pytest.mark.parametrize("name", PLAYERS)
def test_elementwise_functions_of_several_variables_get_shapley_values(name, x64):
    f, n = PLAYERS[name]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, ref = rng.normal(size=n), rng.normal(size=n)
        c = jxp.deeplift(lambda x: f(*x), tuple(ref))(tuple(x))
        np.testing.assert_allclose(np.array(c), shapley(f, x, ref), rtol=1e-10, atol=1e-12)


def test_two_times_three_times_four():
    x = tuple(jnp.float32(v) for v in (2, 3, 4))
    c = jxp.deeplift(lambda x: x[0] * x[1] * x[2], 0.0)(x)
    np.testing.assert_allclose(np.array(c), (8, 8, 8), rtol=1e-6)


def test_a_product_of_functions_of_one_variable_is_one_function():
    c = jxp.deeplift(lambda x: (x * jnp.exp(x) * jnp.sin(x)).sum(), 0.5)(jnp.array([1.0, 2.0]))
    expected = [v * math.exp(v) * math.sin(v) - 0.5 * math.exp(0.5) * math.sin(0.5) for v in (1, 2)]
    np.testing.assert_allclose(c, expected, rtol=1e-6)


def test_matrix_and_convolution_products_get_midpoints(x64):
    """ΔA·B̄ + Ā·ΔB: the two-player Shapley value of a bilinear map."""
    a, b, a0, b0 = (np.asarray(draw(3, 3, seed=i), np.float64) for i in range(4))
    weight = np.asarray(draw(3, 3, seed=9), np.float64)
    convolve = jax.vmap(lambda a, b: jnp.convolve(a, b, "same"))
    for product in (jnp.matmul, convolve):
        ca, cb = jxp.deeplift(lambda ab: (weight * product(*ab)).sum(), (a0, b0))((a, b))
        part_a = (weight * product(a - a0, (b + b0) / 2)).sum()
        part_b = (weight * product((a + a0) / 2, b - b0)).sum()
        np.testing.assert_allclose([ca.sum(), cb.sum()], [part_a, part_b], rtol=1e-12)


def test_the_winner_takes_a_maximums_change():
    x, ref = jnp.array([1.0, 5.0, 2.0]), jnp.array([3.0, 0.0, 1.0])
    np.testing.assert_allclose(jxp.deeplift(jnp.max, ref)(x), [0, 2, 0])  # up: the input's winner
    np.testing.assert_allclose(jxp.deeplift(jnp.max, x)(ref), [0, -2, 0])  # down: the reference's

    def pool(x):
        return nn.max_pool(x[:, None], (3,), (1,), "VALID")[:, 0] @ jnp.array([1.0, 10.0])

    x, ref = jnp.array([0.0, 4.0, 1.0, 2.0]), jnp.array([3.0, 0.0, 1.0, 0.0])
    # Windows (0,4,1) against (3,0,1) and (4,1,2) against (0,1,0).
    np.testing.assert_allclose(jxp.deeplift(pool, ref)(x), [0, 1 + 30, 0, 0])


def test_softmax_follows_its_formula(x64):
    """L_j = Δp/Δln p, m_j = L_j (m^o_j − Σ w m^o), w = L/ΣL."""
    z, z0, ct = (np.asarray(draw(5, seed=i), np.float64) * 3 for i in range(3))
    z0[2] = z[2]
    log_p, log_p0 = jax.nn.log_softmax(z), jax.nn.log_softmax(z0)
    ell = (jnp.exp(log_p) - jnp.exp(log_p0)) / (log_p - log_p0)
    w = ell / ell.sum()
    spellings = [name for name in VECTOR if name.startswith("softmax")]
    for name in sorted(set(spellings) - {"softmax_masked", "softmax_cold", "softmax_gate"}):
        m = jxp.deeplift(lambda z: ct @ VECTOR[name](z), z0, multiply=False)(z)
        np.testing.assert_allclose(m, ell * (ct - w @ ct), rtol=1e-9, err_msg=name)
    for name in ("log_softmax", "log_softmax_difference", "log_softmax_log"):
        m = jxp.deeplift(lambda z: ct @ VECTOR[name](z), z0, multiply=False)(z)
        np.testing.assert_allclose(m, ct - w * ct.sum(), rtol=1e-9, err_msg=name)
    for name in ("logsumexp", "logsumexp_plain"):
        m = jxp.deeplift(lambda z: VECTOR[name](z)[0], z0, multiply=False)(z)
        np.testing.assert_allclose(m, w, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_softmax_does_not_overflow(scale):
    z, z0 = scale * draw(6), scale * draw(6, seed=1)
    for f in (jax.nn.softmax, jax.nn.log_softmax):
        c, left = jxp.deeplift(lambda z: f(z)[2], z0, return_gap=True)(z)
        assert jnp.isfinite(c).all() and abs(left) <= 1e-5 * max(1, magnitude(c))


@pytest.mark.parametrize("fill", [-jnp.inf, float(jnp.finfo(jnp.float32).min), -1e9])
def test_masked_logits_get_nothing(fill):
    mask = jnp.array([True, True, False, True, False])

    def f(z):
        return jax.nn.softmax(jnp.where(mask, z, fill))[0]

    z, z0 = draw(5), draw(5, seed=1)
    c = jxp.deeplift(f, z0)(z)
    assert jnp.isfinite(c).all() and not c[~mask].any()
    assert total(c) == pytest.approx(float(f(z) - f(z0)), abs=1e-6)


def test_a_frozen_value_is_a_constant():
    """stop_gradient's operand is shared by both passes: f(ref) is taken with it held at x."""
    x, ref = draw(4), draw(4, seed=1)
    f = lambda x: jnp.sin(x) @ lax.stop_gradient(jnp.cos(x[::-1]))
    c = jxp.deeplift(f, ref)(x)
    np.testing.assert_allclose(c, (jnp.sin(x) - jnp.sin(ref)) * jnp.cos(x[::-1]), rtol=1e-5)


# --- a zero reference through twelve norms ------------------------------------------------------


@pytest.mark.promotes
@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("norm", [zoo.layer_norm, zoo.rms_norm])
@pytest.mark.parametrize("scan", some_slow([True, False], [False]))
def test_twelve_normed_layers_stay_well_conditioned(norm, place, scan, record_property):
    """A norm's scale is 1/√ε at a zero reference; scores of 10⁸ could still sum correctly."""
    m = zoo.transformer(depth=12, norm=norm, place=place, scan=scan)
    without_biases = zoo.transformer(depth=12, norm=norm, place=place, scan=scan, bias=0.0)
    explain = jax.jit(contributions_and_ends(m.f, m.f))
    for params in (m.params, without_biases.params):
        for ref in (jnp.zeros_like(m.x), 1e-3 * random_like(m.x, 1)):
            contributions, after, before = explain(m.x, ref, params)
            largest = float(jnp.abs(contributions).max())
            record_property("largest", largest)
            assert largest <= 100 * max(abs(float(after - before)), 1)
            assert gap(contributions, after, before) <= 1e-5


DIVISIONS = "attention_cosine maths_cosine maths_cosine_separate mlp_unit mlp_unit_maximum".split()


@pytest.mark.promotes
@pytest.mark.parametrize("name", DIVISIONS)
def test_a_norm_spelled_as_a_division_stays_well_conditioned(name):
    """A reference near zero for what is normalised, by whatever operations."""
    m = ZOO[name]()
    params = jax.tree.map(lambda p: p, m.params)
    for key in [k for k in ("b", "b0") if k in params]:
        params[key] = 1e-4 * params[key]
    ref = jax.tree.map(jnp.zeros_like, m.x)
    contributions, left = jax.jit(jxp.deeplift(m.f, ref, return_gap=True))(m.x, params)
    change = abs(float(m.f(m.x, params) - m.f(ref, params)))
    assert jnp.abs(contributions).max() <= 100 * max(change, 1)
    assert abs(left) <= 1e-5 * max(1, magnitude(contributions))
