"""Rows that are looked up by integers, as the input of every method."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.named.rows import embed

KEYS = jax.random.split(jax.random.key(0), 4)
TABLE = jax.random.normal(KEYS[0], (7, 3))
PLACES = jax.random.normal(KEYS[1], (16, 3))
LAYERS = jax.random.normal(KEYS[2], (2, 7, 3))
W = jax.random.normal(KEYS[3], (3, 3))
CODES = jnp.array([3, 1, 0, 2, 6, 5, 4])
IDS = jnp.array([5, 2, 2, 6])


def over_tokens(ids):
    def step(h, token):
        h = jnp.tanh(h @ W + TABLE[token])
        return h, h

    return jax.lax.scan(step, jnp.zeros(3), ids)[1]


def over_places(ids):
    """As a decoder with a counter: which token it reads is the loop's."""

    def step(i, state):
        h, out = state
        h = jnp.tanh(h @ W + TABLE[ids[i]])
        return h, out.at[i].set(h)

    return jax.lax.fori_loop(0, len(ids), step, (jnp.zeros(3), jnp.zeros((len(ids), 3))))[1]


def over_layers(ids):
    layer = lambda h, table: (jnp.tanh(h @ W + table[ids]), None)
    return jax.lax.scan(layer, jnp.ones((4, 3)), LAYERS)[0]


def counted(ids):
    """Positions that are counted from the ids stay as they are."""
    return TABLE[ids] + PLACES[jnp.cumsum(ids != 0)] * (ids > 2)[:, None]


class Text(nn.Module):
    @nn.compact
    def __call__(self, ids):
        h = nn.Embed(7, 3, name="token")(ids) + nn.Embed(16, 3)(jnp.arange(ids.shape[-1]))
        return nn.Dense(2)(h)


TEXT = Text()
VARIABLES = TEXT.init(KEYS[0], IDS)
ROWS = TABLE[IDS]
SPELLINGS = {
    "indexing": (lambda i: jnp.tanh(TABLE[i]) @ W, ROWS),
    "take": (lambda i: jnp.take(TABLE, i, axis=0) @ W, ROWS),
    "a batch of one": (lambda i: (TABLE[i[None]] @ W)[0], ROWS[None]),
    "token by token": (jax.vmap(lambda i: TABLE[i] @ W), ROWS),
    "a one-hot dot": (lambda i: jax.nn.one_hot(i, 7) @ TABLE @ W, ROWS),
    "one-hot by hand": (
        lambda i: jnp.einsum("sv,vd->sd", jnp.where(i[:, None] == jnp.arange(7), 1.0, 0.0), TABLE),
        ROWS,
    ),
    "along an axis": (lambda i: jnp.take_along_axis(TABLE, i[:, None] + 0 * CODES[:3], 0), ROWS),
    "other codes": (lambda i: TABLE[CODES[i]] @ W, TABLE[CODES[IDS]]),
    "clipped": (lambda i: TABLE[jnp.clip(i, 0, 3).astype("int8")] @ W, TABLE[jnp.clip(IDS, 0, 3)]),
    "turned round": (lambda i: TABLE[i[::-1]] @ W, ROWS[::-1]),
    "shifted": (lambda i: TABLE[jnp.zeros_like(i).at[1:].set(i[:-1])], TABLE[jnp.r_[0, IDS[:-1]]]),
    "jit": (jax.jit(lambda i: jnp.tanh(TABLE[i]) @ W), ROWS),
    "remat": (jax.checkpoint(lambda i: jnp.tanh(TABLE[i]) @ W), ROWS),
    "scan over tokens": (over_tokens, ROWS),
    "scan over places": (over_places, ROWS),
    "scan over layers": (over_layers, LAYERS[:, IDS]),
    "counted positions": (counted, ROWS),
    "linen": (lambda i: TEXT.apply(VARIABLES, i), None),
}  # fmt: skip


@pytest.mark.promotes
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rows_are_found_and_f_is_a_function_of_them(spelling):
    f, expected = SPELLINGS[spelling]
    e, g = jxp.embedded(f)(IDS)
    if expected is not None:
        np.testing.assert_array_equal(e, expected)
    with jax.disable_jit(spelling in ("jit", "remat")):  # else XLA rounds what it joins, as below
        np.testing.assert_array_equal(g(e), f(IDS))  # bit for bit
    np.testing.assert_allclose(jax.jit(g)(e), jax.jit(f)(IDS), rtol=3e-7, atol=3e-7)
    assert jax.jvp(g, (e,), (jnp.ones_like(e),))[1].any()


@pytest.mark.promotes
def test_several_tables_are_a_tree_in_order_of_use_with_their_names():
    def f(x):
        token = jxp.tag(TABLE[x["id"]].astype(float), "word")
        with jax.named_scope("encoder"), jax.named_scope("place"):
            h = token + PLACES[x["at"]]
        return jnp.tanh(h + TABLE[x["kind"]]) + TABLE[x["id"]][::-1]

    x = {"id": IDS, "at": jnp.arange(4), "kind": jnp.array([0, 0, 1, 1])}
    e, g = jxp.embedded(f)(x)
    assert isinstance(e, collections.OrderedDict)
    assert list(e) == ["word", "encoder/place", "table#0", "table#1"]
    assert g(e).tolist() == f(x).tolist() == g(dict(e)).tolist()
    zeros = jax.tree.map(jnp.zeros_like, e)
    scores, gap = jxp.deeplift(lambda e: g(e).sum(), zeros, return_gap=True)(e)
    assert abs(gap) < 1e-5 and list(scores) == list(e) and scores["encoder/place"].any()
    with pytest.raises(ValueError, match="the rows are"):
        g(e["word"])
    name = jxp.embedded(lambda i: TEXT.apply(VARIABLES, i))(IDS)
    assert list(embed(lambda i: TEXT.apply(VARIABLES, i), (IDS,)).look_ups) == ["Text/token"]
    assert name[0].shape == (4, 3)
    by_path = embed(jxp.flax.function(TEXT, VARIABLES), (IDS,))
    assert list(by_path.look_ups) == ["token"]


def test_other_arguments_stay_arguments():
    f = lambda scale, ids, mask: (TABLE[ids] * scale * mask[:, None]).sum()
    mask = jnp.array([1.0, 1, 0, 1])
    e, g = jxp.embedded(f, argnums=1)(2.0, IDS, mask)
    assert g(3.0, e, mask) == f(3.0, IDS, mask)
    slopes = jax.jit(jax.grad(g, 1))(3.0, e, mask)
    np.testing.assert_array_equal(slopes, 3 * jnp.broadcast_to(mask[:, None], (4, 3)))
    batch = jnp.stack([IDS, IDS[::-1]])

    def scores(ids):
        e, g = jxp.embedded(lambda ids: jnp.tanh(TABLE[ids] @ W).sum())(ids)
        return jxp.deeplift(g, 0.0)(e)

    whole = jax.jit(jax.vmap(scores))(batch)
    np.testing.assert_allclose(whole[1], scores(batch[1]), atol=1e-6)


@pytest.mark.promotes
def test_the_words_of_the_errors():
    with pytest.raises(ValueError, match=r"no row of a floating table .*int32\[4\].*`at=`"):
        jxp.embedded(lambda i: i.astype(float))(IDS)
    with pytest.raises(ValueError, match=r"by argument 1: give `argnums=1`"):
        jxp.embedded(lambda x, i: x.sum() + TABLE[i])(jnp.ones(3, int), IDS)
    with pytest.raises(ValueError, match=r"no row"):  # whose index is counted
        jxp.embedded(lambda i: PLACES[jnp.cumsum(i)])(IDS)
    with pytest.raises(ValueError, match=r"inside a 'while'.*lax.scan"):
        step = lambda state: (state[0] + 1, state[1] + TABLE[IDS_OF[0]])
        IDS_OF = []

        def f(ids):
            IDS_OF[:] = [ids]
            return jax.lax.while_loop(lambda s: s[0] < 3, step, (0, jnp.zeros((4, 3))))[1]

        jxp.embedded(f)(IDS)

    @jax.custom_vjp
    def own(ids):
        return jnp.tanh(TABLE[ids])

    own.defvjp(lambda ids: (own(ids), None), lambda _, ct: (None,))
    with pytest.raises(ValueError, match="a derivative of its own"):
        e, g = jxp.embedded(own)(IDS)
        g(e)
