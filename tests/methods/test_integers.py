"""Integer and boolean inputs: taken as they are by evaluation, with `at=` by what they look up."""

import functools
import itertools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxplain as jxp
from tests.support.marks import slow_but

KEY = jax.random.key(0)
TABLE = jax.random.normal(jax.random.key(1), (7, 3))
W = jax.random.normal(jax.random.key(2), (3, 4))
V = jax.random.normal(jax.random.key(3), (8,))


def mixed(x):
    """Two categories, looked up, a flag and a number."""
    parts = [TABLE[x["cats"]].ravel(), jnp.where(x["flag"], 1.0, -0.5), x["num"]]
    return jnp.tanh(jnp.concatenate(parts) @ V)


MIXED = {"cats": jnp.array([5, 2], jnp.int8), "flag": jnp.array([True]), "num": jnp.array([0.7])}
REF = {"cats": np.array([0, 3]), "flag": False, "num": -1.0}
REF_TREE = {"cats": REF["cats"], "flag": np.array([False]), "num": np.array([-1.0])}


def brute_force(f, x, ref):
    """Shapley values of the elements, by their definition."""
    leaves, tree = jax.tree.flatten(x)
    refs = jax.tree.leaves(ref)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    n = int(ends[-1])

    def value(present):
        parts = []
        for leaf, other, start in zip(leaves, refs, ends, strict=False):
            shown = np.array([start + i in present for i in range(leaf.size)]).reshape(leaf.shape)
            parts.append(jnp.asarray(np.where(shown, leaf, other), leaf.dtype))
        return float(f(jax.tree.unflatten(tree, parts)))

    v = {s: value(s) for k in range(n + 1) for s in itertools.combinations(range(n), k)}
    scores = np.zeros(n)
    for i in range(n):
        for s, worth in v.items():
            if i not in s:
                joined = tuple(sorted((*s, i)))
                scores[i] += (v[joined] - worth) / (n * comb(n - 1, len(s)))
    parts = [scores[a:b].reshape(v.shape) for a, b, v in zip(ends, ends[1:], leaves, strict=False)]
    return jax.tree.unflatten(tree, parts)


def close(a, b, **options):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, **options), a, b)


# Methods that only evaluate f.

EVALUATION = {
    "shapley_values": lambda f, r: jxp.shapley_values(f, r),
    "estimated": lambda f, r: functools.partial(jxp.shapley_values(f, r, samples=10), key=KEY),
    "kernel_shap": lambda f, r: functools.partial(jxp.kernel_shap(f, r, samples=10), key=KEY),
    "permutation": lambda f, r: functools.partial(
        jxp.permutation_shapley(f, r, samples=14), key=KEY
    ),
    "banzhaf_values": lambda f, r: jxp.banzhaf_values(f, r),
    "owen_values": lambda f, r: jxp.owen_values(
        f, r, groups={"cats": np.array(0), "flag": np.array(0), "num": np.array(1)}
    ),
    "ablation": lambda f, r: jxp.ablation(f, r),
    "occlusion": lambda f, r: jxp.occlusion(f, r, window=dict.fromkeys(MIXED, 1)),
    "lime": lambda f, r: functools.partial(jxp.lime(f, r, samples=16), key=KEY),
    "sobol": lambda f, r: functools.partial(jxp.sobol(f, r, samples=16), key=KEY),
}


@pytest.mark.parametrize("method", slow_but(EVALUATION, ["ablation", "owen_values", "lime"]))
def test_a_category_is_a_player_like_its_code(method):
    """As for the same model of floats, which looks its codes up."""

    def of_floats(x):
        return mixed({**x, "cats": x["cats"].astype(int), "flag": x["flag"] > 0.5})

    def of_its_own_types(x):
        assert x["cats"].dtype == jnp.int8 and x["flag"].dtype == bool
        return mixed(x)

    as_floats = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, float))
    got = jax.jit(EVALUATION[method](of_its_own_types, REF_TREE))(MIXED)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), got) == jax.tree.map(
        lambda v: (v.shape, jnp.zeros(()).dtype), MIXED
    )
    if method != "sobol":  # where a float is between two codes, an integer is one of them
        close(got, EVALUATION[method](of_floats, as_floats(REF_TREE))(as_floats(MIXED)))


def test_shapley_values_of_categories_are_those_of_the_definition():
    close(jxp.shapley_values(mixed, REF_TREE)(MIXED), brute_force(mixed, MIXED, REF_TREE))


def test_a_background_of_categories_is_averaged():
    refs = jax.tree.map(lambda r, v: jnp.stack([jnp.asarray(r, v.dtype), v]), REF_TREE, MIXED)
    got = jxp.shapley_values(mixed, refs)(MIXED)
    close(got, jax.tree.map(lambda c: c / 2, jxp.shapley_values(mixed, REF_TREE)(MIXED)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool", "float32"])
def test_sobol_and_rise_show_one_value_or_the_other(dtype):
    x = jnp.array([1, 1, 0, 1], dtype)
    f = lambda x: (x.astype(float) @ jnp.array([2.0, 1.0, 5.0, 0.0])) + 1.0
    shares = jxp.sobol(f, 0, samples=4096)(x, key=KEY)
    np.testing.assert_allclose(shares, [0.8, 0.2, 0, 0], atol=0.05)
    seen = jxp.rise(f, 0, grid=(4,), samples=4000)(x, key=KEY)
    assert seen.dtype == jnp.zeros(()).dtype
    np.testing.assert_allclose(seen[3], 1 + 3 / 2, atol=0.4)  # what is absent is half of the time
    assert seen[0] > seen[1] > seen[2] - 0.5


def test_permutation_importance_shuffles_categories():
    xs = {"cats": jax.random.randint(KEY, (200,), 0, 7), "num": jax.random.normal(KEY, (200,))}
    score = lambda xs, ys: -jnp.mean((TABLE[xs["cats"], 0] - ys) ** 2)
    explain = jxp.permutation_importance(score, samples=5)
    got = explain(xs, TABLE[xs["cats"], 0], key=KEY)
    np.testing.assert_allclose(got["cats"], 2 * TABLE[xs["cats"], 0].var(), rtol=0.2)
    assert got["num"] == 0


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["int8", "uint8", "int16", "int32", "bool"]),
    st.sampled_from([0, 1, -1, 2, 0.5, 300, 2**40, np.nan, np.array([0, 1]), np.array([0.5, 1])]),
)
def test_a_reference_that_integers_cannot_take_is_refused(dtype, ref):
    x, wide = jnp.ones(2, dtype), np.asarray(ref, float)
    with np.errstate(invalid="ignore"):
        fits = (wide.astype(dtype) == wide).all() and np.abs(wide).max() < 2**31
    if fits:
        jxp.ablation(lambda x: x.sum(), ref)(x)
    else:
        with pytest.raises(ValueError, match="reference"):
            jxp.ablation(lambda x: x.sum(), ref)(x)


def test_interactions_and_completeness_of_integers():
    x, f = jnp.array([2, 3]), lambda x: (x[0] * x[1]).astype(float)
    np.testing.assert_allclose(jxp.shapley_interactions(f, 0)(x), [[0, 6], [6, 0]])
    assert jxp.completeness_gap(f, 0)(jnp.array([3.0, 3.0]), x) == 0


# Methods with `at=` a floating value.


def text(ids):
    """Tokens looked up, mixed with their places, two layers."""
    h = jxp.tag(TABLE[ids], "embed")
    h = jxp.tag(jnp.tanh(h @ W + jnp.arange(len(ids))[:, None] / 5), "block/0")
    h = jxp.tag(jax.nn.gelu(h * h.mean(0)), "block/1")
    return h.mean(0) @ V[:4]


IDS, PAD = jnp.array([5, 2, 2, 6]), jnp.array([0, 1, 0, 0])


def upper(f, name, ids):
    return lambda h: jxp.intervene(f, {name: h})(ids)


def looked_up(f, name, *inputs):
    return [jxp.capture(f, name)(ids)[1][name] for ids in inputs]


BY_HAND = {
    "deeplift": jxp.deeplift,
    "reveal_cancel": functools.partial(jxp.deeplift, rules="reveal_cancel"),
    "integrated_gradients": jxp.integrated_gradients,
    "input_x_gradient": None,
    "idgi": jxp.idgi,
    "guided_integrated_gradients": jxp.guided_integrated_gradients,
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["embed", "block/0", "block/1"])
@pytest.mark.parametrize("method", slow_but([m for m in BY_HAND if BY_HAND[m]], ["deeplift"]))
def test_token_ids_are_explained_by_the_named_value(method, name):
    """As by hand: f as a function of the value, from what it is at ref to what it is at x."""
    h, h0 = looked_up(text, name, IDS, PAD)
    by_hand = jax.jit(BY_HAND[method](upper(text, name, IDS), h0))(h)
    close(jax.jit(BY_HAND[method](text, PAD, at=name))(IDS), by_hand)


@pytest.mark.promotes
def test_all_values_in_one_pass_are_complete_and_agree_with_each_alone():
    scores, gaps = jax.jit(jxp.deeplift(text, PAD, at="**", return_gap=True))(IDS)
    assert set(scores) == {"embed", "block/0", "block/1"}
    assert max(abs(gap) for gap in gaps.values()) < 1e-6
    for name, score in scores.items():
        close(score, jax.jit(jxp.deeplift(text, PAD, at=name))(IDS))


@pytest.mark.promotes
@pytest.mark.parametrize("method", [jxp.conductance, jxp.neuron_integrated_gradients])
def test_the_path_of_ids_is_straight_between_what_they_look_up(method):
    h, h0 = looked_up(text, "embed", IDS, PAD)

    def of_embedded(h):
        return upper(text, "embed", IDS)(jxp.tag(h, "start"))

    for name in ("embed", "block/1"):
        own = "start" if name == "embed" else name
        by_hand = jax.jit(method(of_embedded, h0, at=own))(h)
        got = jax.jit(method(text, PAD, at=["embed", name]))(IDS)[name]
        close(got, by_hand)
        if method is jxp.conductance:
            np.testing.assert_allclose(got.sum(), text(IDS) - text(PAD), rtol=1e-4)


@pytest.mark.promotes
def test_slopes_at_a_value_need_no_slope_of_the_ids():
    h = looked_up(text, "embed", IDS)[0]
    slope = jax.grad(upper(text, "embed", IDS))(h)
    close(jxp.gradient(text, at="embed")(IDS), slope)
    close(jxp.saliency(text, at="embed")(IDS), abs(slope))
    close(jxp.input_x_gradient(text, at="embed")(IDS), slope * h)
    relu = lambda ids: jax.nn.relu(jxp.tag(TABLE[ids], "embed") @ W).sum()
    by_hand = jxp.guided_backprop(lambda h: jax.nn.relu(h @ W).sum())(TABLE[IDS])
    close(jxp.guided_backprop(relu, at="embed")(IDS), by_hand)
    close(jxp.deconvnet(relu, at="embed")(IDS), jxp.deconvnet(upper(relu, "embed", IDS))(h))
    assert jxp.hires_cam(text, at="embed")(IDS).shape == (4,)
    assert jxp.internal_influence(text, PAD, at="embed")(IDS).shape == (4, 3)


@pytest.mark.promotes
@pytest.mark.parametrize("multipliers", ["deeplift", "gradient", "integrated"])
def test_patching_takes_ids(multipliers):
    options = dict(at=["embed", "block/0"], multipliers=multipliers)
    nodes = jax.jit(jxp.attribution_patching(text, PAD, **options))(IDS)
    edges = jax.jit(jxp.edge_attributions(text, PAD, **options))(IDS)
    assert {u for u, _ in edges} == set(nodes)
    for u in nodes:
        close(sum(score for edge, score in edges.items() if edge[0] == u), nodes[u])
    if multipliers == "deeplift":
        np.testing.assert_allclose(nodes["embed"].sum(), text(PAD) - text(IDS), rtol=1e-4)


@pytest.mark.promotes
def test_backgrounds_of_ids():
    refs = jnp.stack([PAD, IDS, PAD[::-1]])
    got = jax.jit(jxp.deeplift_shap(text, refs, at="embed"))(IDS)
    each = [jxp.deeplift(text, ref, at="embed")(IDS) for ref in refs]
    close(got, sum(each) / 3)
    explain = jxp.expected_gradients(text, refs[:1], at="embed", samples=400)
    expected = explain(IDS, key=KEY).sum()
    np.testing.assert_allclose(expected, text(IDS) - text(PAD), rtol=0.05)
    assert jxp.ablation(text, 0.0, at="embed")(IDS).shape == (4, 3)


@pytest.mark.promotes
def test_a_batch_of_ids_and_scores_that_are_differentiated_again():
    ids = jnp.stack([IDS, PAD, IDS[::-1]])
    explain = jxp.deeplift(text, PAD, at="embed")
    each = jnp.stack([explain(row) for row in ids])
    close(jax.jit(jax.vmap(explain))(ids), each)

    def loss(table):
        f = lambda ids: jnp.tanh(jxp.tag(table[ids], "embed") @ W).sum()
        return (jxp.deeplift(f, PAD, at="embed")(IDS) ** 2).sum()

    slope, eps = jax.grad(loss)(TABLE), 1e-3
    along = jnp.zeros_like(TABLE).at[5, 1].set(eps)
    np.testing.assert_allclose(
        slope[5, 1], (loss(TABLE + along) - loss(TABLE - along)) / (2 * eps), rtol=1e-2
    )


def test_floats_beside_integers_move_as_they_do_alone():
    def f(x):
        h = jxp.tag(TABLE[x["cats"]].ravel(), "embed")
        h = jxp.tag(jnp.tanh(jnp.concatenate([h, x["num"]]) * V[:7]), "hidden")
        return h @ V[:7] ** 2

    x = {"cats": jnp.array([5, 2]), "num": jnp.array([0.7])}
    ref = {"cats": jnp.array([0, 0]), "num": jnp.array([-1.0])}
    change = f(x) - f(ref)
    explain = lambda at: jax.jit(jxp.deeplift(f, ref, at=at))(x)
    both = explain("*")
    close(both["hidden"], explain("hidden"))
    np.testing.assert_allclose(both["hidden"].sum(), change, rtol=1e-5)
    whole = lambda h, num: jnp.tanh(jnp.concatenate([h, num]) * V[:7]) @ V[:7] ** 2
    h, h0 = (TABLE[v["cats"]].ravel() for v in (x, ref))
    by_hand = jxp.deeplift(whole, (h0, ref["num"]), argnums=(0, 1))(h, x["num"])[0]
    close(both["embed"], by_hand)


def test_masks_that_ids_decide_stay_those_of_x():
    def f(ids):
        h = jxp.tag(TABLE[ids], "embed")
        weights = jax.nn.softmax(jnp.where(ids > 0, h @ V[:3], -1e9))
        return jnp.tanh(weights @ h).sum()

    ids, pad = jnp.array([5, 2, 0, 0]), jnp.zeros(4, int)
    scores, gap = jxp.deeplift(f, pad, at="embed", return_gap=True)(ids)
    h, h0 = looked_up(f, "embed", ids, pad)
    of_x = upper(f, "embed", ids)
    np.testing.assert_allclose(scores.sum(), of_x(h) - of_x(h0), rtol=1e-4)
    np.testing.assert_allclose(gap, f(ids) - f(pad) - scores.sum(), atol=1e-6)
    np.testing.assert_array_equal(scores[2:], 0)


def recurrent(ids):
    """Tokens looked up one by one, each step feeding the next."""

    def step(h, token):
        h = jxp.tag(jnp.tanh(0.7 * h + jxp.tag(TABLE[token], "embed")), "h")
        return h, None

    return jax.lax.scan(step, jnp.zeros(3), ids)[0] @ V[:3]


def test_values_inside_a_scan_over_ids():
    inside, gaps = jax.jit(jxp.deeplift(recurrent, PAD, at="*", return_gap=True))(IDS)
    assert abs(gaps["embed"]) < 1e-6
    of_floats = lambda e: jxp.tag(
        jax.lax.scan(
            lambda h, e: (jxp.tag(jnp.tanh(0.7 * h + e), "h"), None), jnp.zeros(3), e
        )[0],
        "last",
    ) @ V[:3]  # fmt: skip
    expected = jax.jit(jxp.deeplift(of_floats, TABLE[PAD], at="h"))(TABLE[IDS])
    close(inside["h"], expected)
    # A value that feeds itself, alone: what is looked up later stays x's.
    alone = jax.jit(jxp.deeplift(recurrent, PAD, at="h"))(IDS)
    close(alone[-1], expected[-1])
    assert (alone[:-1] != 0).all()
    steps = jax.jit(jxp.integrated_gradients(of_floats, TABLE[PAD], at="h"))(TABLE[IDS])
    close(jax.jit(jxp.integrated_gradients(recurrent, PAD, at="h"))(IDS), steps)


REFUSED = {
    "deeplift": lambda f: jxp.deeplift(f, 0),
    "gradient": jxp.gradient,
    "integrated_gradients": lambda f: jxp.integrated_gradients(f, 0),
    "neuron_conductance": lambda f: jxp.neuron_conductance(f, 0, at="embed"),
    "conductance on a path": lambda f: jxp.conductance(
        f, 0, at="embed", path=lambda ref, x, alpha: x
    ),
    "guided_grad_cam": lambda f: jxp.guided_grad_cam(f, at="embed"),
}


@pytest.mark.promotes
@pytest.mark.parametrize("method", REFUSED)
def test_what_needs_a_slope_of_the_input_says_where_to_look(method):
    with pytest.raises(TypeError, match=r"embedding.*`at=`.*only evaluate f"):
        REFUSED[method](text)(IDS)
