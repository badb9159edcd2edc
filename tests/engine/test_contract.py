"""What a rule owes and is owed: every ready-made rule on every table, and the check after each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from jaxplain.rules import Pair, Single
from tests.support.checks import multipliers
from tests.support.marks import slow_but, some_slow

TABLES = ["rescale", "reveal_cancel", "genomics", "central_limit"]
PARTED = ["reveal_cancel", "central_limit"]  # what they have no rule for goes by the rules on pairs
X, REF = np.float32([0.5, 0.3, -0.7]), np.float32([0.1, -0.2, 0.4])
W = np.float32([[0.3, -1.0, 0.5], [0.8, 0.2, -0.4], [-0.6, 0.9, 0.7]])


def twice(g: Any) -> Any:
    """The operation twice, once beside a factor of its own and once inside a nonlinearity."""
    return lambda x: jnp.sum(g(jnp.tanh(g(x) * (1 + x[::-1])))) + g(x).sum()


# Each ready-made rule on an operation that it holds for.
CASES = {
    "path_integral of erf_inv": (lax.erf_inv_p, jxp.rules.path_integral, lambda x: lax.erf_inv(x)),
    "path_integral of tanh": (lax.tanh_p, jxp.rules.path_integral, jnp.tanh),
    "path_integral of mul": (lax.mul_p, jxp.rules.path_integral, lambda x: x * x[::-1]),
    "path_integral of sort": (lax.sort_p, jxp.rules.path_integral, jnp.sort),
    "path_integral of dot": (lax.dot_general_p, jxp.rules.path_integral, lambda x: W @ x),
    "linear of reverse": (lax.rev_p, jxp.rules.linear, lambda x: x[::-1]),
    "linear of add": (lax.add_p, jxp.rules.linear, lambda x: x + x[::-1]),
    "linear of cumsum": (lax.cumsum_p, jxp.rules.linear, jnp.cumsum),
    "bilinear of mul": (lax.mul_p, jxp.rules.bilinear, lambda x: x * x[::-1]),
    "bilinear of dot": (lax.dot_general_p, jxp.rules.bilinear, lambda x: jnp.outer(x, x) @ x),
    "winner of reduce_max": (
        lax.reduce_max_p,
        jxp.rules.winner,
        lambda x: x * jnp.max(x),
    ),
    "winner of cummax": (lax.cummax_p, jxp.rules.winner, lambda x: lax.cummax(x)),
    "whole of tanh": (lax.tanh_p, jxp.rules.whole, jnp.tanh),
    "whole of sort": (lax.sort_p, jxp.rules.whole, jnp.sort),
    "discrete of lt": (lax.gt_p, jxp.rules.discrete, lambda x: x * (lax.stop_gradient(x) > 0)),
}


@pytest.mark.promotes
@pytest.mark.parametrize("table", slow_but(TABLES, ["reveal_cancel"]))
@pytest.mark.parametrize("case", CASES)
def test_a_ready_made_rule_is_complete_on_every_table(case, table):
    primitive, rule, g = CASES[case]
    rules = jxp.rules.by_name(table).register(primitive, rule)
    if case == "discrete of lt":
        x, ref = jnp.asarray(X), jnp.abs(REF) * jnp.sign(X)  # the same choices at both ends
        multipliers(lambda x: g(x).sum(), x, ref, rules=rules)
        return
    multipliers(twice(g), jnp.asarray(X), jnp.asarray(REF), rules=rules)


@pytest.mark.parametrize("table", TABLES)
def test_a_rule_gets_computed_pairs_wherever_its_operand_comes_from(table):
    met = []

    def own_tanh(equation: Any, operand: Any) -> Any:
        met.append(type(operand))
        return jxp.rules.path_integral(equation, operand)

    rules = jxp.rules.by_name(table).register(lax.tanh_p, own_tanh)
    for f in (
        lambda x: jnp.tanh(x).sum(),
        lambda x: jnp.tanh(2 * jnp.exp(x)).sum(),
        lambda x: jnp.tanh(x * x[::-1]).sum(),
        lambda x: lax.scan(lambda c, x: (jnp.tanh(c + x), None), 0.0, x)[0],
    ):
        multipliers(f, jnp.asarray(X), jnp.asarray(REF), rules=rules)
    assert set(met) == {Pair}


BROKEN = {
    "two outputs": (lambda equation, x: [x, x], "tanh(f32[3]) -> f32[3]"),
    "no outputs": (lambda equation, x: [], "it returned []"),
    "another shape": (lambda equation, x: [Pair(x.value[0], x.reference[0])], "[((), dtype"),
    "another dtype": (lambda equation, x: [x.value.astype(jnp.float16)], "float16"),
    "another kind": (lambda equation, x: [Single(x.value)], "a Single"),
    "no array": (lambda equation, x: ["tanh"], "a str"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_contract_is_told_with_the_rule_the_equation_and_the_line(broken):
    rule, words = BROKEN[broken]

    def my_rule(equation: Any, operand: Any) -> Any:
        return rule(equation, operand)

    table = jxp.rules.rescale().register(lax.tanh_p, my_rule)
    with pytest.raises(TypeError) as error:
        jxp.deeplift(lambda x: jnp.tanh(x).sum(), 0.0, rules=table)(jnp.asarray(X))
    for word in ("my_rule", "broke its contract", "tanh(f32[3])", "test_contract.py:", words):
        assert word in str(error.value)


def test_a_rule_of_another_kind_is_refused_when_it_is_registered():
    with pytest.raises(TypeError, match="a rule on Pair can't serve"):
        jxp.rules.guided_backprop().register(lax.tanh_p, jxp.rules.linear, of=Pair)
    with pytest.raises(TypeError, match="a rule on Single can't serve"):
        jxp.rules.rescale().register(lax.tanh_p, jxp.rules.linear, of=Single)


@pytest.mark.promotes
@pytest.mark.parametrize("f", [
    lambda x: jnp.select([x > 0.4, x > 0], [x * x, jnp.sin(x)], -x),
    lambda x: jnp.piecewise(x, [x < 0], [lambda x: -x, lambda x: 3 * x]),
    lambda x: jnp.interp(x, jnp.array([-1.0, 0, 1]), jnp.array([0.0, 1, -1])),
    lambda x: jnp.digitize(x, jnp.array([-0.5, 0.2])) * x,
    lambda x: jnp.array([0.3, 1, 5, 7])[jnp.searchsorted(jnp.array([-0.5, 0, 0.4]), x)] * x,
    lambda x: jnp.array([0.3, 1, 5, 7])[jnp.floor(4 * jnp.abs(x)).astype(int)] * jnp.sin(x),
], ids=["select", "piecewise", "interp", "digitize", "searchsorted", "table"])  # fmt: skip
@pytest.mark.parametrize("rules", some_slow(["rescale", "reveal_cancel", "central_limit"], PARTED))
def test_a_look_up_item_by_item_gives_each_its_own_change(f, rules):
    x, ref = jnp.asarray(X), jnp.asarray(REF)
    weights = jnp.array([1.0, -2.0, 0.5])
    c = jax.jit(jxp.deeplift(lambda x: weights @ f(x), ref, rules=rules))(x)
    np.testing.assert_allclose(c, weights * (f(x) - f(ref)), rtol=1e-5, atol=1e-6)
    rows = jnp.stack([x, 2 * ref, x[::-1]])  # and of a batch inside f, each row its own
    c = jxp.deeplift(lambda x: jnp.sum(f(x.ravel()).reshape(x.shape) @ weights), 0.1, rules=rules)
    own = weights * (f(rows.ravel()) - f(jnp.full(9, 0.1))).reshape(3, 3)
    np.testing.assert_allclose(c(rows), own, rtol=1e-5, atol=1e-6)
