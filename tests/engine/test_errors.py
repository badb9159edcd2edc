"""What goes wrong ends in words that help, or in the mathematically right answer."""

import jax
import jax.extend.core
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir

import jaxplain as jxp
from tests.support.checks import METHODS, multipliers
from tests.support.functions import piecewise, sparsemax
from tests.support.marks import slow_but, some_slow
from tests.support.zoo import ZOO, draw

WITH_REFERENCE = ["deeplift", "integrated_gradients", "input_x_gradient"]
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_reference = pytest.mark.parametrize("method", [METHODS[m] for m in WITH_REFERENCE])
WRONG = (TypeError, ValueError)


def says(error, *words):
    """The message of a caught error holds each of the words."""
    for word in words:
        assert word in str(error.value), f"{word!r} is missing in:\n{error.value}"


# --- f --------------------------------------------------------------------------------------------


@every_method
def test_a_function_that_is_not_scalar_says_which_target_to_wrap_it_in(method):
    with pytest.raises(WRONG) as error:
        method(lambda x: jnp.tanh(x @ jnp.ones((4, 3))), 0.0)(draw(4))
    says(error, "scalar", "f32[3]", "logit", "probability", "log_odds", "contrast", "vmap")


@every_method
def test_one_output_of_shape_one_is_no_scalar(method):
    with pytest.raises(WRONG) as error:
        method(lambda x: x[:1], 0.0)(draw(4))
    says(error, "scalar", "f32[1]", "logit")


@every_method
def test_side_outputs_are_named(method):
    with pytest.raises(WRONG) as error:
        method(lambda x: (x.sum(), {"hidden": x}), 0.0)(draw(4))
    says(error, "scalar", "hidden", "side output")


@every_method
@pytest.mark.parametrize("f", [lambda x: (x > 0).sum(), jnp.argmax, lambda x: x.sum() > 0])
def test_an_output_that_is_not_a_floating_number(method, f):
    with pytest.raises((*WRONG, jxp.UnsupportedPrimitive)):
        method(f, 0.0)(draw(4))


@every_method
@pytest.mark.parametrize("f", [lambda x: None, lambda x: "four", lambda x: []])
def test_an_output_that_is_no_array(method, f):
    with pytest.raises(WRONG):
        method(f, 0.0)(draw(4))


@every_method
def test_a_constant_function_has_zero_contributions(method):
    np.testing.assert_array_equal(method(lambda x: jnp.float32(3.0), 0.5)(draw(4)), np.zeros(4))
    np.testing.assert_array_equal(method(lambda x: 3.0, 0.5)(draw(4)), np.zeros(4))


def test_what_f_itself_raises_comes_through():
    def f(x):
        raise KeyError("my own")

    with pytest.raises(KeyError, match="my own"):
        jxp.deeplift(f, 0.0)(draw(4))


@every_method
def test_an_x_of_the_wrong_shape_is_fs_own_error(method):
    with pytest.raises(TypeError, match="dot_general"):
        method(lambda x: (x @ jnp.ones((4, 3))).sum(), 0.0)(draw(5))


def test_a_print_inside_f_prints(capfd):
    def f(x):
        y = jnp.sin(x).sum()
        jax.debug.print("y is {y:.3f}", y=y)
        return y**2

    x = draw(4)
    c = jax.jit(jxp.deeplift(f, 0.0))(x)
    jax.effects_barrier()
    assert f"y is {float(jnp.sin(x).sum()):.3f}" in capfd.readouterr().out
    np.testing.assert_allclose(c.sum(), f(x), rtol=1e-5)


# --- x --------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("x", [jnp.arange(4), np.arange(4), 3, jnp.array([True, False])], ids=str)
def test_integers_say_to_attribute_the_embedding(method, x):
    with pytest.raises(TypeError) as error:
        method(lambda x: jnp.sum(x * 1.0), 0.0)(x)
    says(error, "floating", "embed")


@every_method
def test_an_integer_leaf_is_named(method):
    with pytest.raises(TypeError) as error:
        method(lambda x: x["image"].sum(), 0.0)({"image": draw(3), "ids": jnp.arange(4)})
    says(error, "ids", "int32", "embed")


@every_method
@pytest.mark.parametrize(
    "x", ["a cat", ["a"], {"text": "a"}, np.array(["a"]), object()], ids=lambda x: type(x).__name__
)
def test_strings_and_objects_are_no_arrays(method, x):
    with pytest.raises(TypeError, match=r"float"):
        method(lambda x: 0.0, 0.0)(x)


@pytest.mark.promotes
@every_method
def test_complex_inputs_are_refused(method):
    with pytest.raises(TypeError, match="floating"):
        method(lambda x: jnp.abs(x).sum(), 0.0)(draw(3) + 1j * draw(3))


@every_method
@pytest.mark.parametrize("x", [{}, (), [], {"a": None}], ids=str)
def test_an_empty_tree_has_empty_contributions_or_says_so(method, x):
    """Nothing to attribute: the same empty tree, or an error that says it is empty."""
    try:
        c = method(lambda x: jnp.float32(1.0), 0.0)(x)
    except WRONG as error:
        assert "empty" in str(error)
    else:
        assert jax.tree.structure(c) == jax.tree.structure(x)


@every_method
def test_an_array_without_elements(method):
    assert method(lambda x: jnp.sin(x).sum(), 0.0)(jnp.zeros((0, 3))).shape == (0, 3)


@every_method
def test_numpy_arrays_and_python_floats_are_inputs(method):
    x = np.array([0.3, -1.0], np.float32)
    np.testing.assert_allclose(
        method(lambda x: jnp.sin(x).sum(), 0.1)(x),
        method(lambda x: jnp.sin(x).sum(), 0.1)(jnp.array(x)),
    )
    assert jnp.shape(method(lambda x: jnp.sin(x), 0.1)(0.7)) == ()


@every_method
def test_a_batch_of_one_is_an_input_like_any_other(method):
    m = ZOO["mlp_relu"]()
    single = method(m.f, 0.1)(m.x, m.params)
    one = method(lambda x, p: m.f(x[0], p), 0.1)(m.x[None], m.params)
    mapped = jax.vmap(method(m.f, 0.1), (0, None))(m.x[None], m.params)
    np.testing.assert_allclose(one[0], single, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mapped[0], single, rtol=1e-4, atol=1e-6)


NAN_MODELS = """
    mlp_relu mlp_gelu mlp_softmax mlp_standardize mlp_max maths_prod maths_sort rnn_gru
    transformer_llama""".split()


@pytest.mark.parametrize("where", ["x", "ref"])
@pytest.mark.parametrize("name", slow_but(NAN_MODELS, ["mlp_relu", "mlp_softmax", "maths_sort"]))
def test_nan_in_gives_nan_out(name, where):
    """f(x) − f(ref) is NaN, and so the sum has to be: never a wrong number."""
    m = ZOO[name]()
    broken = m.x.at[(0,) * m.x.ndim].set(jnp.nan)
    x, ref = (broken, m.x * 0.5) if where == "x" else (m.x, broken)
    if bool(jnp.isnan(m.f(broken, m.params))):
        for method in (jxp.deeplift, jxp.integrated_gradients):
            assert jnp.isnan(jax.jit(method(m.f, ref))(x, m.params).sum())


@pytest.mark.parametrize("f", [jnp.max, jnp.sum, lambda x: jax.nn.relu(x).sum()])
def test_nan_in_one_element(f):
    c = jxp.deeplift(f, 0.0)(jnp.array([1.0, jnp.nan, 2.0]))
    assert jnp.isnan(c.sum())


# --- the reference --------------------------------------------------------------------------------


@every_reference
def test_a_reference_that_does_not_broadcast_shows_both_trees(method):
    x = {"a": draw(4, 3), "b": draw(2)}
    f = lambda x: x["a"].sum() + x["b"].sum()
    for ref, words in [
        ({"a": jnp.zeros((4, 2)), "b": 0.0}, ["f32[4,2]", "f32[4,3]", "f32[2]"]),
        ({"a": 0.0}, ["a", "b", "f32[4,3]", "f32[2]"]),
        ({"a": 0.0, "c": 0.0}, ["c", "b", "f32[4,3]"]),
        ((0.0, 0.0), ["(", "b", "f32[4,3]"]),
        (jnp.zeros(3), ["f32[3]", "f32[4,3]"]),
    ]:
        with pytest.raises(ValueError) as error:
            method(f, ref)(x)
        says(error, "reference", "broadcast", *words)


@every_reference
@pytest.mark.parametrize("ref", ["zero", None, 1j, jnp.zeros((2, 4))], ids=str)
def test_a_reference_of_the_wrong_kind(method, ref):
    with pytest.raises(WRONG) as error:
        method(jnp.sum, ref)(draw(4))
    says(error, "reference")


@every_reference
def test_an_integer_reference_is_a_number(method):
    x = draw(4)
    np.testing.assert_array_equal(
        method(lambda x: (x**2).sum(), 1)(x), method(lambda x: (x**2).sum(), 1.0)(x)
    )


LARGE = """
    transformer_causal linen_transformer_post_norm transformer_llama cnn_group_norm rnn_simple
    maths_cholesky_logdet maths_fft_magnitude maths_solve_constant mlp_silu_division mlp_log_softmax
    maths_division maths_product_of_four tree_two_towers mlp_gelu mlp_standardize mlp_glu mlp_max
    scan_mixed_carry maths_power maths_logsumexp""".split()
AT_REFERENCE = (
    "mlp_relu mlp_gelu mlp_silu_division mlp_softmax mlp_log_softmax mlp_standardize mlp_glu "
    "mlp_unit mlp_max cnn_max_pool_overlapping_same cnn_group_norm rnn_lstm rnn_simple "
    "transformer_causal transformer_llama linen_transformer_post_norm scan_mixed_carry maths_sort "
    "maths_cholesky_logdet maths_fft_magnitude maths_product_of_four maths_division maths_power "
    "maths_arctan2 maths_solve_constant maths_logsumexp maths_median_odd tree_two_towers"
).split()


@pytest.mark.parametrize("name", some_slow(AT_REFERENCE, LARGE))
def test_at_x_equal_to_the_reference(name):
    """The gradient as multipliers, zeros as contributions."""
    m = ZOO[name]()

    @jax.jit
    def both(x, ref, p):
        return jxp.deeplift(m.f, ref, multiply=False)(x, p), jxp.deeplift(m.f, ref)(x, p)

    multipliers, contributions = both(m.x, m.x, m.params)
    gradient = jax.jit(jax.grad(m.f))(m.x, m.params)
    size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    for got, want in zip(jax.tree.leaves(multipliers), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(size, 0.1))
    assert not any(c.any() for c in jax.tree.leaves(contributions))


@every_reference
def test_contributions_at_the_reference_are_zeros(method):
    x = draw(4)
    np.testing.assert_array_equal(method(lambda x: jnp.exp(x).sum(), x)(x), np.zeros(4))


# --- operations without a rule --------------------------------------------------------------------


def doubling():
    """A primitive of our own, unknown to every table."""
    primitive = jax.extend.core.Primitive("doubling")
    primitive.def_impl(lambda x: 2 * x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: 2 * x, multiple_results=False))
    return primitive


def test_an_unknown_primitive_shows_itself_its_shapes_the_line_and_how_to_register_one():
    primitive = doubling()

    def f(x):
        return jnp.sum(primitive.bind(x) ** 2)  # the user's line

    with pytest.raises(jxp.UnsupportedPrimitive) as error:
        jxp.deeplift(f, 0.0)(draw(4, 3))
    line = f.__code__.co_firstlineno + 1
    says(error, "doubling", "f32[4,3]", f"test_errors.py:{line}", "register", "rules=")


def test_an_unknown_primitive_deep_inside_still_shows_the_line():
    primitive = doubling()

    def inner(h, u):
        return primitive.bind(h) + u, None

    f = jax.jit(lambda x: lax.scan(jax.checkpoint(inner), x[0], x)[0].sum())
    with pytest.raises(jxp.UnsupportedPrimitive) as error:
        jxp.deeplift(f, 0.0)(draw(4, 3))
    says(error, "doubling", "f32[3]", f"test_errors.py:{inner.__code__.co_firstlineno + 1}")


def test_a_registered_rule_is_used_and_the_table_is_not_changed():
    primitive = doubling()
    f = lambda x: primitive.bind(x).sum() + x[0]
    table = jxp.rules.rescale()

    def rule(equation, operand):
        return [jxp.rules.Pair(2 * operand.value, 2 * operand.reference)]

    longer = table.register(primitive, rule)
    np.testing.assert_allclose(jxp.deeplift(f, 1.0, rules=longer)(jnp.array([2.0, 4.0])), [3, 6])
    with pytest.raises(jxp.UnsupportedPrimitive):
        jxp.deeplift(f, 1.0, rules=table)(jnp.array([2.0, 4.0]))


def test_a_primitive_that_never_sees_x_needs_no_rule():
    primitive = doubling()
    c = jxp.deeplift(lambda x, w: (x * primitive.bind(w)).sum(), 0.0)(draw(3), jnp.ones(3))
    np.testing.assert_allclose(c, 2 * draw(3))


# --- decisions that depend on x -------------------------------------------------------------------


# Tables in parts put what there is no rule for on the rules on pairs.
PAIRED = slow_but(["rescale", "reveal_cancel", "central_limit"], ["rescale"])
X_AND_REF = np.float32([0.2, 1.3, 2.4, 0.7]), np.float32([1.1, -0.3, 0.4, -0.7])


def test_a_while_loop_over_x_names_its_alternatives():
    def f(x):
        return lax.while_loop(lambda v: v.sum() < 10, lambda v: 2 * v, x).sum()

    with pytest.raises(jxp.UnsupportedPrimitive) as error:
        jxp.deeplift(f, 0.1)(jnp.ones(2))
    says(error, "while", "fori_loop", "scan", "test_errors.py:")


def test_a_while_loop_is_refused_before_it_runs():
    """At a reference of zeros this one never ends."""
    runs = []

    def f(x):
        def double(v):
            jax.debug.callback(lambda: runs.append(1))
            return 2 * v

        return lax.while_loop(lambda v: v.sum() < 10, double, x).sum()

    for ref in (0.0, 0.5):
        with pytest.raises(jxp.UnsupportedPrimitive, match="while"):
            jxp.deeplift(f, ref)(jnp.ones(2))
    jax.effects_barrier()
    assert not runs


def test_a_while_loop_whose_count_is_known_but_carries_x_names_its_alternatives():
    def f(x, n):
        return lax.fori_loop(0, n, lambda i, v: jnp.sin(v), x).sum()

    with pytest.raises(jxp.UnsupportedPrimitive) as error:
        jax.jit(jxp.deeplift(f, 0.1))(jnp.ones(2), 3)
    says(error, "while", "fori_loop", "scan")


@pytest.mark.parametrize("rules", PAIRED)
@pytest.mark.parametrize("branch", [
    lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x).sum(),
    lambda x: lax.switch(jnp.int32(x[0] > 0), [jnp.sin, jnp.cos], x).sum(),
    lambda x: lax.switch(x[1].astype(int), [jnp.sin, jnp.exp, jnp.square], x).sum(),
    lambda x: lax.cond(jnp.argmax(x) == 2, jnp.sum, jnp.prod, x),
])  # fmt: skip
def test_a_branch_on_x_is_complete(branch, rules):
    _complete(branch, rules)


def test_a_branch_on_each_element_is_its_own_change():
    """Elementwise, whether `vmap` made a choice of the branches or a map runs one at a time."""

    def branch(x):
        return lax.cond(x > 0.5, jnp.exp, jnp.negative, x)

    x, ref = X_AND_REF
    for f in (jax.vmap(branch), lambda x: lax.map(branch, x)):
        c = jxp.deeplift(lambda x, f=f: f(x).sum(), ref)(x)
        np.testing.assert_allclose(c, f(x) - f(ref), rtol=1e-5)


@pytest.mark.parametrize("rules", PAIRED)
@pytest.mark.parametrize("look_up", [
    lambda x: x[jnp.argmax(x)],
    lambda x: jnp.arange(4.0)[jnp.argmax(x)] * x.sum(),
    lambda x: jnp.take(x, jnp.argsort(x)[0]),
    lambda x: x[jnp.round(x[0]).astype(int)],
    lambda x: lax.dynamic_slice(x, (jnp.floor(x[1]).astype(int),), (2,)).sum(),
    lambda x: x.at[x[0].astype(int)].set(1.0).sum(),
    lambda x: jax.nn.one_hot(jnp.argmax(x), 4) @ x,
    lambda x: jax.ops.segment_sum(x, x.astype(int), 3) @ jnp.arange(3.0),
    lambda x: jnp.sum(x[lax.top_k(x, 2)[1]] ** 2),
    lambda x: jnp.take_along_axis(jnp.sin(x), jnp.argsort(x), 0) @ jnp.arange(4.0),
])  # fmt: skip
def test_an_index_computed_from_x_is_complete(look_up, rules):
    _complete(look_up, rules)


COUNTING = [
    lambda x: x.sum() / (x > 0).sum(),
    lambda x: (x > x.mean()).sum() * 1.0,
    lambda x: jnp.argsort(x).astype(float) @ x,
    lambda x: x.sum() * jnp.where(jnp.argsort(x)[0] == 0, 2, 1),
    lambda x: x.sum() * jnp.where(lax.cummax((x > 1).astype(int))[2] > 0, 2, 1),
    lambda x: sparsemax(x)[1],
    lambda x: jnp.histogram(x, 3)[0].astype(float)[1] * x[0],
    lambda x: piecewise(x).sum(),
    lambda x: jnp.interp(x, jnp.array([-1.0, 0, 1]), jnp.array([0.0, 1, -1])).sum(),
    lambda x: jsp.linalg.expm(x.reshape(2, 2)).sum(),
    lambda x: jnp.digitize(x, jnp.array([0.5, 1.0])).sum() * x[0],
    lambda x: jnp.sum(jnp.where(x > jnp.median(x), x, 0) * 1.0),
]  # fmt: skip


@pytest.mark.promotes
@pytest.mark.parametrize("rules", PAIRED)
@pytest.mark.parametrize("f", slow_but(COUNTING, COUNTING[::3]))
def test_counting_is_complete(f, rules):
    """Integers and booleans that depend on x and come back as numbers or decide between them."""
    _complete(f, rules)


def _complete(f, rules):
    for double in (False, True) if rules == "rescale" else (False,):
        with jax.enable_x64(double):
            x, ref = (jnp.asarray(v, float) for v in X_AND_REF)
            multipliers(f, x, ref, rules=rules)  # which checks the sum


@pytest.mark.promotes
@pytest.mark.parametrize("rules", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize("f", [
    lambda x: x.sum() / (x > 0).sum(),
    lambda x: jnp.where((x < 0).any(), x.sum(), x.prod()),
    lambda x: jnp.where((x > 0).all(), x.sum(), jnp.sin(x).sum()),
    lambda x: jnp.count_nonzero(jax.nn.relu(x)) * x[0],
    lambda x: jnp.var(x, where=x > 0.3),
])  # fmt: skip
def test_counts_of_decisions_are_complete(f, rules):
    """What is added up are step functions of real numbers, and they have multipliers."""
    x, ref = jnp.array([0.2, 1.3, 2.4, 0.7]), jnp.array([1.1, -0.3, 0.4, -0.7])
    c = jxp.deeplift(f, ref, rules=rules)(x)
    assert float(c.sum()) == pytest.approx(float(f(x) - f(ref)), abs=1e-5)


def test_a_discrete_value_that_decides_nothing_is_no_error():
    c = jxp.deeplift(lambda x: (jnp.argmax(x), jnp.sin(x).sum())[1], 0.0)(draw(4))
    np.testing.assert_allclose(c, jnp.sin(draw(4)), rtol=1e-5)


def test_a_frozen_index_is_a_constant():
    x = jnp.array([0.2, 1.3, 2.4, 0.7])
    c = jxp.deeplift(lambda x: x[jnp.argmax(lax.stop_gradient(x))], 0.1)(x)
    np.testing.assert_allclose(c, [0, 0, 2.3, 0], rtol=1e-6)


# --- options --------------------------------------------------------------------------------------


def test_unknown_rules_are_listed():
    with pytest.raises(ValueError) as error:
        jxp.deeplift(jnp.sum, 0.0, rules="rescal")(draw(3))
    says(error, "rescal", "'rescale'", "'reveal_cancel'", "'genomics'")


def test_unknown_quadratures_are_listed():
    with pytest.raises(ValueError) as error:
        jxp.integrated_gradients(jnp.sum, 0.0, quadrature="simpson")(draw(3))
    says(error, "simpson", "gauss-legendre", "midpoint", "left", "right", "trapezoid")


@pytest.mark.parametrize("quadrature", "gauss-legendre midpoint left right trapezoid".split())
@pytest.mark.parametrize("steps", [0, -3])
def test_too_few_steps(steps, quadrature):
    with pytest.raises(ValueError) as error:
        jxp.integrated_gradients(jnp.sum, 0.0, steps=steps, quadrature=quadrature)(draw(3))
    says(error, "steps", str(steps))


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_below_one(chunk):
    with pytest.raises(ValueError) as error:
        jxp.integrated_gradients(jnp.sum, 0.0, chunk=chunk)(draw(3))
    says(error, "chunk", str(chunk))


@every_method
def test_argnums_beyond_the_arguments(method):
    if method in (jxp.deeplift, jxp.integrated_gradients, jxp.input_x_gradient):
        with pytest.raises(ValueError, match="argnums"):
            method(lambda a, b: a.sum(), 0.0, argnums=2)(draw(3), draw(3))


def test_an_index_beyond_the_outputs():
    with pytest.raises(IndexError) as error:
        jxp.deeplift(jxp.logit(lambda x: x, 7), 0.0)(draw(3))
    says(error, "7", "(3,)")


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        jxp.probability(lambda x: x, 0, temperature)(draw(3))


def test_smoothing_without_samples_or_with_an_unknown_reduction():
    with pytest.raises(ValueError, match="samples"):
        jxp.smooth(jxp.gradient(jnp.sum), stdev=0.1, samples=0)
    with pytest.raises(ValueError, match="median"):
        jxp.smooth(jxp.gradient(jnp.sum), stdev=0.1, samples=2, reduce="median")


def test_references_without_a_common_leading_axis():
    refs = {"a": jnp.zeros((3, 2)), "b": jnp.zeros((4, 2))}
    with pytest.raises(ValueError, match="leading axis"):
        jxp.expected(jxp.deeplift)(lambda x: x["a"].sum(), refs)({"a": draw(2), "b": draw(2)})


def test_a_table_of_differences_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        jxp.override(jnp.sum, jxp.rules.rescale())(draw(3))


@pytest.mark.parametrize("rules", PAIRED)
@pytest.mark.parametrize("f", [
    lambda x: x[jnp.argmax(x)],
    lambda x: jax.nn.one_hot(jnp.argmax(x), 4) @ jnp.sin(x),
    lambda x: jnp.argsort(x).astype(float) @ x,
    lambda x: jnp.max((x > 0.5).astype(int) + (x > 2)) * x.sum(),
    lambda x: jnp.where(jnp.argsort(x) < 2, x, 0).sum(),
    lambda x: jnp.sum(jnp.tanh(x)[lax.top_k(x, 2)[1]] ** 2),
])  # fmt: skip
@pytest.mark.promotes
class TestChoices:
    """What decides is part of f; frozen, f is what it is with its choices at x."""

    def test_a_gap_asked_for_changes_nothing(self, f, rules):
        x, ref = map(jnp.asarray, X_AND_REF)
        c, gap = jax.jit(jxp.deeplift(f, ref, rules=rules, return_gap=True))(x)
        assert abs(gap) < 1e-5
        np.testing.assert_allclose(c, jax.jit(jxp.deeplift(f, ref, rules=rules))(x), rtol=1e-6)

    def test_a_choice_frozen_on_request_leaves_its_change_in_the_gap(self, f, rules):
        x, ref = map(jnp.asarray, X_AND_REF)
        table = jxp.rules.freeze_choices(jxp.rules.by_name(rules))
        c, gap = jax.jit(jxp.deeplift(f, ref, rules=table, return_gap=True))(x)
        assert float(c.sum() + gap) == pytest.approx(float(f(x) - f(ref)), abs=1e-5)
        assert abs(gap) > 1e-3 and jnp.any(c != 0)
        near = x - 0.01 * jnp.arange(4)  # where the choice is the same nothing is left
        _, gap = jax.jit(jxp.deeplift(f, near, rules=table, return_gap=True))(x)
        assert abs(gap) < 1e-6


def test_what_is_frozen_is_in_the_gap():
    explain = jxp.deeplift(lambda x: x[0] * lax.stop_gradient(x[1]), 1.0, return_gap=True)
    c, gap = explain(jnp.array([3.0, 5.0]))
    np.testing.assert_allclose(c, [10, 0])
    np.testing.assert_allclose(gap, 14 - 10)
