"""Names in a program: reading and replacing values wherever they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxplain as jxp

X = jnp.array([0.5, -1.0, 2.0])


@jax.jit
def layer(x):
    return jxp.tag(jnp.tanh(x), "jit")


def nested(x):
    """Names in every place that one can stand in."""
    x = layer(layer(x))

    def step(carry, t):
        carry = jxp.tag(carry * jnp.cos(t) + 0.3, "scan")
        inner = lambda c, _: (checkpoint_name(c + 0.1, "inner"), None)
        return jax.lax.scan(inner, carry, None, length=2)[0], carry.sum()

    x, sums = jax.lax.scan(step, x, jnp.arange(3.0))
    x = jax.checkpoint(lambda x: jxp.tag(jnp.sin(x), "remat"))(x)
    x = jax.lax.cond(x[0] > 10, lambda x: jxp.tag(2 * x, "yes"), lambda x: jxp.tag(x, "no"), x)
    x = jax.vmap(lambda v: jxp.tag(jax.nn.relu(v), "vmap"))(x)
    return x.sum() + sums.sum()


SHAPES = {
    "jit#0": (3,),
    "jit#1": (3,),
    "scan": (3, 3),
    "inner": (3, 2, 3),
    "remat": (3,),
    "no": (3,),
    "yes": (3,),
    "vmap": (3,),
}


def test_names_with_their_shapes():
    assert {name: value.shape for name, value in jxp.names(nested)(X).items()} == SHAPES


def test_captured_values_are_the_computed_ones():
    y, values = jax.jit(jxp.capture(nested))(X)
    assert y == jax.jit(nested)(X)
    first = np.tanh(X)
    np.testing.assert_allclose(values["jit#0"], first, rtol=1e-6)
    np.testing.assert_allclose(values["jit#1"], np.tanh(first), rtol=1e-6)
    carry, scanned, inner = np.tanh(first), [], []
    for t in range(3):
        carry = carry * np.cos(t) + 0.3
        scanned.append(carry)
        inner.append([carry + 0.1, carry + 0.2])
        carry = carry + 0.2
    np.testing.assert_allclose(values["scan"], scanned, rtol=1e-5)
    np.testing.assert_allclose(values["inner"], inner, rtol=1e-5)
    np.testing.assert_allclose(values["remat"], np.sin(carry), rtol=1e-5)
    np.testing.assert_array_equal(values["no"], values["remat"])
    np.testing.assert_array_equal(values["yes"], 0)  # not taken
    np.testing.assert_array_equal(values["vmap"], np.maximum(values["no"], 0))


def test_the_identity_changes_nothing_bit_for_bit():
    same = jxp.intervene(nested, {"*": lambda value: value})
    xs = jax.random.normal(jax.random.key(0), (50, 3))
    compiled = [jax.jit(jax.vmap(f)) for f in (nested, same)]
    np.testing.assert_array_equal(*(f(xs) for f in compiled))
    np.testing.assert_array_equal(*(jax.jit(jax.grad(f))(X) for f in (nested, same)))


def test_a_tag_is_free():
    plain = lambda x: jnp.tanh(x) @ x
    tagged = lambda x: jxp.tag(jnp.tanh(x), "h") @ x
    texts = [jax.jit(f).lower(X).compile().as_text() for f in (plain, tagged)]
    strip = lambda text: [line.split("metadata")[0] for line in text.splitlines() if " = " in line]
    assert strip(texts[0]) == strip(texts[1])


@pytest.mark.parametrize("rules", ["rescale", "reveal_cancel"])
def test_a_tag_leaves_explanations_alone(rules):
    """Inside a scalar chain, a chain of products and a softmax."""

    def model(tag):
        def f(x):
            gate = tag(jax.nn.sigmoid(x), "gate")
            product = tag(x * gate, "silu") * x[0] * x[1]
            shifted = jnp.exp(tag(x - x.max(), "shifted"))
            return (product * shifted / shifted.sum()).sum()

        return f

    explain = [
        jax.jit(jxp.deeplift(model(tag), 0.1, rules=rules)) for tag in (jxp.tag, lambda v, name: v)
    ]
    np.testing.assert_array_equal(*(e(X) for e in explain))


def test_interventions_go_step_by_step_or_stacked():
    def f(x):
        def step(carry, _):
            carry = jxp.tag(2 * carry, "step")
            return carry, None

        return jax.lax.scan(step, x, None, length=3)[0]

    assert jxp.intervene(f, {"step": lambda h: h + 1})(1.0) == 2 * (2 * (2 + 1) + 1) + 1
    assert jxp.intervene(f, {"step": jnp.array([5.0, 7.0, 9.0])})(1.0) == 9.0
    np.testing.assert_array_equal(jxp.capture(f, "step")(1.0)[1]["step"], [2, 4, 8])


def test_interventions_where_a_mask_is_true():
    f = lambda x: jax.lax.scan(lambda c, _: (jxp.tag(2 * c, "step"), None), x, None, length=3)[0]
    second = jnp.array([False, True, False])
    assert jxp.intervene(f, {"step": (7.0, second)})(1.0) == 14.0
    with pytest.raises(ValueError, match=r"'step' must broadcast to its shape \(3,\)"):
        jxp.intervene(f, {"step": (7.0, jnp.array([True, False]))})(1.0)


def test_interventions_replace_what_follows():
    f = lambda x: jxp.tag(jxp.tag(x + 1, "a") * 3, "b")
    edited = jxp.intervene(f, {"a": lambda a: 0.0})
    y, values = jxp.capture(edited)(X)
    np.testing.assert_array_equal(y, jnp.zeros(3))
    np.testing.assert_array_equal(values["a"], jnp.zeros(3))
    np.testing.assert_array_equal(jax.jacobian(jxp.intervene(f, {"a": lambda a: a[::-1]}))(X),
                                  3 * jnp.eye(3)[::-1])  # fmt: skip


@pytest.mark.promotes
def test_vmap_grad_and_several_arguments():
    f = lambda x, w, scale=1.0: (jxp.tag(scale * x * w, "h") ** 2).sum()
    xs, w = jnp.arange(6.0).reshape(2, 3), jnp.array([1.0, 2.0, 3.0])
    ys, values = jax.vmap(jxp.capture(f, "h"), (0, None))(xs, w)
    np.testing.assert_allclose(values["h"], xs * w)
    np.testing.assert_allclose(ys, ((xs * w) ** 2).sum(1))
    loss = lambda w: jxp.capture(f, "h")(xs[1], w, scale=2.0)[1]["h"].sum()
    np.testing.assert_allclose(jax.grad(loss)(w), 2 * xs[1])
    tokens = lambda ids: jxp.tag(jnp.eye(3)[ids], "embedding").sum()
    np.testing.assert_array_equal(
        jxp.capture(tokens)(jnp.array([2, 0]))[1]["embedding"], jnp.eye(3)[jnp.array([2, 0])]
    )


def test_trees_are_named_leaf_by_leaf():
    f = lambda x: sum(jax.tree.leaves(jxp.tag({"k": x, "v": (2 * x, 3 * x)}, "kv")))
    assert list(jxp.names(f)(X)) == ["kv/k", "kv/v/0", "kv/v/1"]
    assert set(jxp.capture(f, "kv/v/*")(X)[1]) == {"kv/v/0", "kv/v/1"}


NAMED = ["embed", "blocks/0", "blocks/0/up", "blocks/0/mlp/act", "blocks/1", "mlp", "h#0", "h#1"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("blocks/*", "blocks/0 blocks/1"),
        ("blocks/?", "blocks/0 blocks/1"),
        ("blocks/**", "blocks/0 blocks/0/up blocks/0/mlp/act blocks/1"),
        ("blocks/*/up", "blocks/0/up"),
        ("**/mlp", "mlp"),
        ("**/act", "blocks/0/mlp/act"),
        ("b**/[au]*", "blocks/0/up blocks/0/mlp/act"),
        ("blocks/[!0]", "blocks/1"),
        ("h#[0-9]", "h#0 h#1"),
        ("h*", "h#0 h#1"),
        ("e*d", "embed"),
        ("*", " ".join(NAMED)),
        ("**", " ".join(NAMED)),
    ],
)
def test_a_star_stops_at_a_slash_and_two_do_not(pattern, expected):
    def f(x):
        for name in [*NAMED[:-2], "h", "h"]:
            x = jxp.tag(x, name)
        return x.sum()

    assert list(jxp.capture(f, pattern)(X)[1]) == expected.split()
    assert set(jxp.gradient(f, at=[pattern])(X)) == set(expected.split())


def test_a_pattern_that_stops_too_early_says_so():
    f = lambda x: jxp.tag(x, "blocks/0/up").sum()
    with pytest.raises(ValueError, match=r"nothing is named 'blo\*', but by 'blo\*\*' is"):
        jxp.gradient(f, at="blo*")(X)
    with pytest.raises(ValueError, match=r"nothing is named 'x\*'. The names"):
        jxp.gradient(f, at="x*")(X)
    assert list(jxp.capture(lambda x: jxp.tag(x, "a[*]"), "a[*]")(X)[1]) == ["a[*]"]


def test_neurons_are_functions():
    f = lambda x, w: jxp.tag(w @ x, "h").sum()
    w = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(jxp.gradient(jxp.neuron(f, "h", 1))(X, w), w[1])
    np.testing.assert_allclose(jxp.deeplift(jxp.neuron(f, "h", 0), 1.0)(X, w), w[0] * (X - 1))
    all_at_once = jax.vmap(lambda i: jxp.gradient(jxp.neuron(f, "h", i))(X, w))
    np.testing.assert_allclose(all_at_once(jnp.arange(2)), w)
    with pytest.raises(IndexError, match="out of range"):
        jxp.neuron(f, "h", 2)(X, w)
    with pytest.raises(ValueError, match=r"one name.*jit#0"):
        jxp.neuron(nested, "jit*", 0)(X)


def test_unknown_names_list_those_there_are():
    with pytest.raises(ValueError, match=r"nothing is named 'scam'[\s\S]*scan: float32\[3, 3\]"):
        jxp.capture(nested, "scam")(X)
    with pytest.raises(ValueError, match=r"jaxplain.tag"):
        jxp.intervene(jnp.sum, {"h": jnp.sin})(X)
    with pytest.raises(ValueError, match=r"nothing is named 'jit'[\s\S]*jit#0"):  # which one?
        jxp.capture(nested, "jit")(X)


def test_what_cannot_be_put_in_place_is_an_error():
    with pytest.raises(ValueError, match=r"'remat' must broadcast to its shape \(3,\).*\(2,\)"):
        jxp.intervene(nested, {"remat": lambda h: h[:2]})(X)
    with pytest.raises(ValueError, match="two edits"):
        jxp.intervene(nested, {"remat": jnp.sin, "re*": jnp.sin})(X)


def test_while_loops_are_not_entered():
    def f(x):
        body = lambda x: jxp.tag(x / 2, "halved")
        return jax.lax.while_loop(lambda x: x.sum() > 1, body, x)

    assert list(jxp.names(f)(X)) == ["halved"]
    with pytest.raises(ValueError, match=r"'while' at .*test_named.py.*lax.scan"):
        jxp.capture(f, "halved")(X)


def test_custom_derivatives_are_kept():
    @jax.custom_jvp
    def straight_through(x):
        return jxp.tag(jnp.round(x), "rounded")

    straight_through.defjvp(lambda x, dx: (straight_through(*x), *dx))
    f = lambda x: jxp.tag(straight_through(jxp.tag(2 * x, "before")), "after").sum()
    _, values = jxp.capture(f)(X)
    np.testing.assert_array_equal(values["rounded"], jnp.round(2 * X))
    np.testing.assert_array_equal(jax.grad(lambda x: jxp.capture(f)(x)[0])(X), [2, 2, 2])
    np.testing.assert_array_equal(jxp.gradient(f, at="before")(X), [1, 1, 1])
    relu = lambda x: jxp.tag(jax.nn.relu(jxp.tag(x, "x")), "y").sum()
    np.testing.assert_array_equal(jxp.gradient(relu, at="x")(jnp.zeros(2)), [0, 0])
    with pytest.raises(ValueError, match="derivative of its own"):
        jxp.intervene(f, {"rounded": lambda h: h})(X)
