"""The audit: rows with lines, rules, choices, local gaps and conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from tests.support.marks import slow_but

X = jnp.array([0.5, 2.0, -1.0, 1.5])
W = jnp.array([1.0, -2.0, 0.5, 3.0])


def layer_norm(h):
    centred = h - h.mean()
    return centred * jax.lax.rsqrt((centred**2).mean() + 1e-6)


def normed(x):
    with jax.named_scope("norm"):
        h = layer_norm(x)
    return jnp.tanh(h) @ W


def attention(x):
    return (jax.nn.softmax(x[:, None] * x[None], axis=-1) @ x).sum()


def looped(x):
    def step(carry, w):
        carry = jnp.tanh(carry * w + x)
        return carry, carry.max()

    carry, tops = jax.lax.scan(step, x, W)
    return carry.sum() * tops.sum()


def branched(x):
    x = jax.checkpoint(lambda x: jnp.exp(x / 4) * x[1])(x)
    return jax.lax.cond(W.sum() > 1, jnp.sin, jnp.cos, x) @ W


def looked_up(x):
    return x[jnp.argmax(x)] * jnp.sort(x)[0] / (3 + jnp.sum(x > 0.5 * x.mean()))


def inverted(x):
    return jnp.linalg.solve(jnp.eye(4) * 9 + jnp.outer(x, x), x).sum()


FUNCTIONS = [normed, attention, looped, branched, looked_up, inverted]


def rows(account, rule):
    return [row for row in account.rows if row.rule == rule]


@pytest.mark.parametrize(
    "f", slow_but(FUNCTIONS, [normed, attention, branched]), ids=lambda f: f.__name__
)
def test_complete_rules_have_no_local_gap(f):
    account = jxp.audit(f, 0.1)(X)
    contributions, gap = jax.jit(jxp.deeplift(f, 0.1, return_gap=True))(X)
    np.testing.assert_allclose(account.contributions, contributions.sum(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([account.value, account.reference], [f(X), f(0.1 + 0 * X)], 1e-5)
    assert abs(account.gap - float(gap)) < 1e-5
    assert all(abs(row.gap) < 1e-5 for row in account.rows)


@pytest.mark.parametrize("rules", ["reveal_cancel", "central_limit"])
@pytest.mark.parametrize("f", [normed, looped], ids=lambda f: f.__name__)
def test_tables_in_parts_too(f, rules):
    account = jxp.audit(f, 0.1, rules=rules)(X)
    contributions = jax.jit(jxp.deeplift(f, 0.1, rules=rules))(X)
    np.testing.assert_allclose(account.contributions, contributions.sum(), rtol=1e-4, atol=1e-6)
    assert all(abs(row.gap) < 1e-5 for row in account.rows)


def test_a_wrong_rule_comes_first_with_its_line_and_accounts_for_the_gap():
    def twice(equation, operand):  # its value is right, its multiplier is twice too large
        value = operand.value + operand.value - jax.lax.stop_gradient(operand.value)
        return [jxp.rules.Pair(jnp.sum(value), jnp.sum(operand.reference))]

    table = jxp.rules.rescale().register(jax.lax.reduce_sum_p, twice)
    account = jxp.audit(lambda x: jnp.tanh(x).sum(), 0.0, rules=table)(X)
    first = account.rows[0]
    assert first.rule == "twice" and first.primitive == "reduce_sum"
    assert "test_audit.py" in first.line
    np.testing.assert_allclose(first.gap, jnp.tanh(X).sum(), rtol=1e-5)
    np.testing.assert_allclose(account.gap, -sum(row.gap for row in account.rows), rtol=1e-5)


def test_where_what_is_no_number_begins_comes_first():
    def lost(equation, operand):
        value = jax.lax.stop_gradient(operand.value) + 0 * jnp.sqrt(0 * operand.value)
        return [jxp.rules.Pair(jnp.tanh(value), jnp.tanh(operand.reference))]

    table = jxp.rules.rescale().register(jax.lax.tanh_p, lost)
    account = jxp.audit(lambda x: (2 * jnp.tanh(x * x.sum())).sum(), 0.0, rules=table)(X)
    assert account.rows[0].rule == "lost" and np.isnan(account.rows[0].gap)


def test_a_norm_at_a_zero_reference_settles_its_scale_first():
    (product,) = rows(jxp.audit(normed, 0.0)(X), "product")
    assert product.choice == "s₀Δc + cΔs 0.00 (0.00 to 0.00)"
    assert product.conditioning == pytest.approx(1) and product.path == "norm"
    (halved,) = rows(jxp.audit(normed, 0.0, rules=jxp.rules.rescale(norm_theta=0.5))(X), "product")
    assert halved.choice == "norm_theta=0.5" and halved.conditioning > 100
    (plain,) = rows(jxp.audit(lambda x: x[0] * x[1], 0.2)(X), "product")
    assert plain.choice == "s₀Δc + cΔs 0.50 (0.50 to 0.50)"


def test_choices_of_quotients_dots_maxima_and_regions():
    account = jxp.audit(lambda x: x[0] / jnp.exp(x[1]) + x @ jnp.sin(x) + x.max(), 0.0)(X)
    choices = {row.rule: row.choice for row in account.rows if row.choice}
    assert choices["quotient"].startswith("s₀Δc + cΔs 0.50")
    assert choices["bilinear"].startswith("s₀Δc + cΔs 0.50")
    assert choices["winner"] == "from x 100%, from the reference 0%, 0 ties"
    tied = jxp.audit(lambda x: x.max(), 0.0)(jnp.array([-1.0, -1.0]))
    assert rows(tied, "winner")[0].choice == "from x 0%, from the reference 100%, 1 ties"
    still = jxp.audit(lambda x: jnp.tanh(x).sum(), X.at[:1].set(0.0))(X)
    assert rows(still, "region")[0].choice == "secant 25%, derivative 75%"


def test_a_sum_that_cancels_is_badly_conditioned():
    account = jxp.audit(lambda x: jnp.exp(x).sum() - 4.0 * x[0], 0.0)(X)
    calm = jxp.audit(lambda x: jnp.exp(x).sum(), 0.0)(jnp.abs(X))
    cancelling = jxp.audit(lambda x: x.sum(), 0.0)(jnp.array([1.0, -0.999, 0.0]))
    assert max(row.conditioning for row in calm.rows) == pytest.approx(1)
    assert cancelling.rows[0].conditioning == pytest.approx(1999, rel=1e-2)
    assert account.rows[0].conditioning > 1.5


def test_a_region_lists_its_equations_and_a_scan_its_steps():
    (region,) = rows(jxp.audit(lambda x: jnp.tanh(2 * x[0]) ** 2, 0.0)(X), "region")
    assert region.equations == ("mul", "tanh", "integer_pow") and region.times == 1
    inside = [row for row in jxp.audit(looped, 0.1)(X).rows if "step" in row.line]
    assert inside and all(row.times == 4 for row in inside)


def test_one_function_of_jaxs_called_twice_has_both_lines():
    def f(x):
        first = jnp.where(x > 0.2, x, 3 * x)
        return jnp.where(first.sum() > x, first, x.sum() * x).sum()

    def before(x):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c * w), None), x, W)[0].sum()

    x = jnp.linspace(-1.0, 1.0, 7)  # a shape of its own, for what JAX keeps of a trace
    jax.eval_shape(jax.grad(lambda x: jxp.deeplift(before, 0.0)(x).sum()), x)  # within a scan
    start = f.__code__.co_firstlineno
    lines = [row.line for row in jxp.audit(f, 0.0)(x).rows if "select_n" in row.equations]
    assert {int(line.split(":")[1].split(" ")[0]) - start for line in lines} == {1, 2}


def test_it_prints_and_is_a_dataframe():
    account = jxp.audit(normed, 0.0)(X)
    head, versions, blank, titles, *lines = str(account).splitlines()
    assert "f(x) = " in head and "gap = " in head and blank == ""
    assert f"jax {jax.__version__}" in versions and "rules rescale" in versions
    assert titles.split()[0] == "line" and len(lines) == len(account.rows)
    frame = account.to_pandas()
    assert list(frame["gap"]) == [row.gap for row in account.rows]
    assert account._repr_html_().count("<tr>") == len(account.rows) + 1


def test_what_it_refuses():
    with pytest.raises(ValueError, match="knows none"):
        jxp.audit(normed, 0.0, rules=jxp.rules.guided_backprop())
    with pytest.raises(TypeError, match="must return a scalar"):
        jxp.audit(jnp.tanh, 0.0)(X)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: jxp.audit(normed, 0.0)(x).value)(X)


def test_two_arguments_double_precision_and_strict_promotion():
    def f(x, y):
        return (x["a"] * y).sum() + jnp.exp(y[0])

    with jax.enable_x64(True):
        x, y = {"a": jnp.asarray(X, jnp.float64)}, jnp.asarray(W, jnp.float64)
        account = jxp.audit(f, ({"a": 0.0 * X}, 0.0 * W), argnums=(0, 1))(x, y)
    assert abs(account.gap) < 1e-12 and all(abs(row.gap) < 1e-12 for row in account.rows)
