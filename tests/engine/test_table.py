"""Rule tables: never mutated, joined, extended by a user's own primitive; and the surrogate."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import jaxplain as jxp
from jaxplain.surrogate.values.lifted import Lifted
from tests.support.checks import draw

assert_close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def rule(equation: Any, *operands: Any) -> list[Any]:
    return list(operands[:1])


class Other(Lifted):
    """Another kind of lifted value."""


# The table.


def test_registering_makes_a_new_table():
    table = jxp.rules.rescale()
    before = dict(table.rules)
    longer = table.register(lax.erf_p, rule)
    assert dict(table.rules) == before
    assert longer.rules[lax.erf_p] is rule
    assert {k: v for k, v in longer.rules.items() if k is not lax.erf_p} == {
        k: v for k, v in before.items() if k is not lax.erf_p
    }


def test_register_takes_one_or_several():
    table = jxp.RuleTable(Other)
    assert set(table.register(lax.erf_p, rule).rules) == {lax.erf_p}
    several = [lax.erf_p, lax.erfc_p]
    assert set(table.register(several, rule).rules) == set(several)
    assert set(table.register((p for p in several), rule).rules) == set(several)


def test_cannot_be_mutated():
    rules = {lax.erf_p: rule}
    table = jxp.RuleTable(Other, rules)
    rules[lax.erfc_p] = rule
    assert set(table.rules) == {lax.erf_p}
    with pytest.raises(TypeError):
        table.rules[lax.erfc_p] = rule
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.rules = {}


def test_tables_of_one_kind_are_independent():
    jxp.rules.rescale().register(lax.tanh_p, rule)
    assert jxp.rules.rescale().rules[lax.tanh_p] is not rule


def test_union_prefers_the_right():
    other = lambda equation, *operands: rule(equation, *operands)
    left = jxp.RuleTable(Other, {lax.erf_p: rule, lax.erfc_p: rule})
    right = jxp.RuleTable(Other, {lax.erf_p: other}, fallback=other)
    assert dict((left | right).rules) == {lax.erf_p: other, lax.erfc_p: rule}
    assert dict((right | left).rules) == {lax.erf_p: rule, lax.erfc_p: rule}
    assert (left | right).fallback is (right | left).fallback is other
    assert dict(left.rules) == {lax.erf_p: rule, lax.erfc_p: rule}


def test_union_refuses_another_kind():
    with pytest.raises(TypeError, match=r"different lifted values, Pair and Single"):
        jxp.rules.rescale() | jxp.rules.guided_backprop()
    with pytest.raises(TypeError):
        jxp.rules.rescale() | {lax.erf_p: rule}


@pytest.mark.parametrize("key", ["erf", ["erf"], jnp.tanh, lax.erf])
def test_register_takes_primitives_only(key):
    """A name, whose letters would be registered one by one, or a function, would never match."""
    with pytest.raises(TypeError, match="primitive"):
        jxp.rules.rescale().register(key, rule)


def test_register_takes_rules_only():
    with pytest.raises(TypeError, match="rule"):
        jxp.rules.rescale().register(lax.erf_p, "linear")


# A user's own primitive.


def primitive(name: str, implementation: Any, derivative: Any) -> Primitive:
    """Elementwise, with what jit, vmap and grad need."""
    new = Primitive(name)
    new.def_impl(implementation)
    new.def_abstract_eval(lambda x: x)
    mlir.register_lowering(new, mlir.lower_fun(implementation, multiple_results=False))
    batching.defvectorized(new)
    ad.defjvp(new, derivative)
    return new


tripled_p = primitive("tripled", lambda x: 3 * x, lambda t, x: 3 * t)
ad.deflinear(tripled_p, lambda ct: [3 * ct])
cubed_p = primitive("cubed", lambda x: x * x * x, lambda t, x: 3 * x * x * t)


def own(x: Any) -> Any:
    return jnp.sum(cubed_p.bind(tripled_p.bind(x) - 1.0) * jnp.arange(1.0, 4.0))


TABLE = (
    jxp.rules.rescale()
    .register(tripled_p, jxp.rules.linear)
    .register(cubed_p, jxp.rules.path_integral)
)


def check_own(contributions: Any, x: Any, ref: Any) -> None:
    """Elementwise, hence each element's own Δ."""
    g = lambda x: (3 * x - 1) ** 3 * np.arange(1.0, 4.0)
    assert_close(contributions, g(x) - g(ref))


@pytest.mark.promotes
def test_own_primitive():
    x, ref = draw(1, 3), draw(2, 3)
    explain = jxp.deeplift(own, ref, rules=TABLE)
    check_own(explain(x), x, ref)
    check_own(jax.jit(explain)(x), x, ref)
    xs = draw(3, 4, 3)
    check_own(jax.jit(jax.vmap(explain))(xs), xs, ref)


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: lambda x: lax.scan(lambda c, _: (c + f(x), None), 0.0, length=1)[0],
        lambda f: lambda x: lax.cond(True, f, jnp.sum, x),
    ],
    ids=["jit", "remat", "scan", "cond"],
)
def test_own_primitive_in_a_body(wrap):
    x, ref = draw(1, 3), draw(2, 3)
    check_own(jxp.deeplift(wrap(own), ref, rules=TABLE)(x), x, ref)


def test_own_rule():
    """A rule gets the equation and its operands, of which the lifted ones depend on x."""
    seen = []

    def doubled(equation: Any, x: Any, y: Any) -> list[Any]:
        seen.append((equation.primitive, isinstance(x, Lifted), isinstance(y, Lifted)))
        return jxp.rules.linear(equation, x, 2 * y)

    table = jxp.rules.rescale().register(lax.mul_p, doubled)
    f = lambda x: jnp.sum(x * np.float32([1, 2, 3]))
    assert_close(jax.grad(jxp.override(f, table, 0.0))(draw(1, 3)), [2, 4, 6])
    assert seen == [(lax.mul_p, True, False)]


underived_p = Primitive("underived")  # JAX knows no derivative of it
underived_p.def_impl(lambda x: 3 * x)
underived_p.def_abstract_eval(lambda x: x)


def test_a_primitive_without_a_rule_says_how_to_register_one():
    with pytest.raises(jxp.UnsupportedPrimitive) as caught:
        jxp.deeplift(lambda x: jnp.sum(underived_p.bind(x)), 0.0)(draw(1, 3))
    message = str(caught.value)
    for part in ("'underived'", "f32[3]", "test_table.py:", "register", "underived_p"):
        assert part in message
    assert isinstance(caught.value, NotImplementedError)


def test_a_primitive_with_a_derivative_needs_no_rule():
    x, ref = draw(1, 3), draw(2, 3)
    c = jxp.deeplift(own, ref)(x)
    assert_close(c.sum(), own(x) - own(ref))


def test_where_nothing_depends_on_x_no_rule_is_needed():
    f = lambda x: jnp.sum(x) * jnp.sum(tripled_p.bind(jnp.ones(2)))
    assert_close(jxp.deeplift(f, 0.0)(jnp.ones(3)), [6, 6, 6])


def test_fallback():
    table = dataclasses.replace(jxp.rules.rescale(), fallback=jxp.rules.path_integral)
    x, ref = draw(1, 3), draw(2, 3)
    check_own(jxp.deeplift(own, ref, rules=table)(x), x, ref)


# The surrogate itself.


def network(x: Any, w: Any) -> Any:
    h = jax.nn.relu(w @ x) * jax.nn.sigmoid(x[::-1])
    return {"p": jax.nn.softmax(h), "y": (jnp.max(h), h / (1 + jnp.sum(h**2)))}


TABLES = {
    "rescale": (jxp.rules.rescale(), 0.25),
    "guided_backprop": (jxp.rules.guided_backprop(), None),
    "deconvnet": (jxp.rules.deconvnet(), None),
    "relevance": (jxp.rules.gamma(first=jxp.rules.flat()), None),
}


@pytest.mark.parametrize("name", TABLES)
def test_surrogate_has_the_value(name):
    table, ref = TABLES[name]
    g = jxp.override(network, table, ref)
    x, w = draw(1, 4), draw(2, 4, 4)
    xs = draw(3, 2, 4)
    compare = lambda a, b: jax.tree.map(assert_close, a, b)
    compare(g(x, w), network(x, w))
    compare(jax.jit(g)(x, w), network(x, w))
    over = lambda f: jax.vmap(f, (0, None))(xs, w)
    compare(jax.jit(over, static_argnums=0)(g), over(network))
    walk = lambda f: lax.scan(lambda h, x: ((y := f(x + h, w)["y"][1]), y), xs[0], xs)
    compare(walk(g), walk(network))


@pytest.mark.parametrize("name", TABLES)
def test_surrogate_under_transformations(name):
    """Its derivative is the same under jit, vmap, scan and remat."""
    table, ref = TABLES[name]
    w, xs = draw(2, 4, 4), draw(3, 2, 4)
    g = jxp.override(lambda x: jnp.sum(network(x, w)["y"][1] * xs[0]), table, ref)
    expected = jnp.stack([jax.grad(g)(x) for x in xs])
    for f in (
        jax.vmap(jax.grad(g)),
        jax.jit(jax.vmap(jax.grad(g))),
        partial(lax.map, jax.grad(g)),
        lambda xs: lax.scan(lambda _, x: (None, jax.grad(jax.checkpoint(g))(x)), None, xs)[1],
        jax.grad(lambda xs: jnp.sum(jax.vmap(g)(xs))),
        jax.grad(lambda xs: lax.scan(lambda c, x: (c + g(x), None), 0.0, xs)[0]),
    ):
        assert_close(f(xs), expected)


def test_pullback_of_several_outputs():
    """⟨m, Δ⟩ = ⟨ct, Δy⟩ for any cotangent of any output."""
    x, ref, w = draw(1, 4), draw(5, 4), draw(2, 4, 4)
    y, pull = jax.vjp(lambda x: jxp.override(network, jxp.rules.rescale(), ref)(x, w), x)
    cotangent = jax.tree.map(lambda y: draw(7, *y.shape), y)
    (m,) = pull(cotangent)
    change = jax.tree.map(jnp.subtract, network(x, w), network(ref, w))
    terms = jax.tree.map(jnp.vdot, cotangent, change)
    assert_close(jnp.vdot(m, x - ref), sum(jax.tree.leaves(terms)))


def test_argnums_and_trees():
    f = lambda a, b: jnp.sum(a["u"] * b) + jnp.sum(jnp.tanh(a["v"]))
    a, b = {"u": draw(1, 3), "v": draw(2, 2)}, draw(3, 3)
    g = jxp.override(f, jxp.rules.rescale(), ({"u": jnp.ones(3), "v": 0.0}, 2.0), argnums=(0, 1))
    of_a, of_b = jax.grad(g, (0, 1))(a, b)
    assert_close(of_a["u"], (b + 2) / 2)
    assert_close(of_b, (a["u"] + 1) / 2)
    assert_close(of_a["v"], jnp.tanh(a["v"]) / a["v"])


def test_a_table_of_pairs_needs_a_reference():
    with pytest.raises(ValueError, match="ref="):
        jxp.override(jnp.sum, jxp.rules.rescale())(jnp.ones(2))


def test_other_arguments_have_no_derivative():
    """The backward pass in them would not be a gradient; a loss of attributions has one."""
    f = lambda x, w: jnp.sum(jnp.tanh(w * x) * x)
    x, w = draw(1, 3), draw(2, 3)
    with pytest.raises(TypeError, match="only in what is attributed"):
        jax.grad(jxp.override(f, jxp.rules.rescale(), 0.1), 1)(x, w)
    loss = lambda w: jnp.sum(jxp.deeplift(f, 0.1)(x, w) ** 2)
    exact = lambda w: jnp.sum((jnp.tanh(w * x) * x - jnp.tanh(w * 0.1) * 0.1) ** 2)
    assert_close(jax.grad(loss)(w), jax.grad(exact)(w))
