"""Equinox models as functions of one example, with names by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

eqx = pytest.importorskip("equinox")
KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (5, 4))


class Block(eqx.Module):
    """A module called twice, one that is mapped over rows, and dropout."""

    shared: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    drop: eqx.nn.Dropout

    def __init__(self, keys):
        self.shared = eqx.nn.Linear(4, 4, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[1])
        self.drop = eqx.nn.Dropout(0.5)

    def __call__(self, x):
        h = jax.vmap(self.shared)(jax.nn.relu(jax.vmap(self.shared)(x)))
        return self.drop(h + self.attention(h, h, h)), h.sum()


class Net(eqx.Module):
    blocks: list
    norm: eqx.nn.BatchNorm
    heads: dict
    frozen: float = eqx.field(static=True)

    def __init__(self, keys):
        self.blocks = [Block(keys[:2]), Block(keys[2:4])]
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.heads = {"logits": eqx.nn.MLP(4, 3, 6, 1, key=keys[4])}
        self.frozen = 2.0

    @eqx.filter_jit
    def __call__(self, x, scale, state):
        for block in self.blocks:
            x, total = block(x)
        x, state = self.norm(x.mean(0), state)
        return {"logits": scale * self.heads["logits"](x), "total": total}, state


@pytest.fixture(scope="module")
def net():
    model, state = eqx.nn.make_with_state(Net)(KEYS)
    quiet = eqx.tree_at(lambda m: [b.drop for b in m.blocks], model, [eqx.nn.Identity()] * 2)
    train = jax.vmap(quiet, in_axes=(0, None, None), axis_name="batch", out_axes=(0, None))
    _, state = train(jax.random.normal(KEYS[1], (8, 5, 4)), 1.0, state)
    return model, state


def logits(net, **options):
    model, state = net
    return jxp.equinox.function(model, state=state, output=lambda y: y["logits"], **options)


def test_the_function_is_the_model_in_inference(net):
    model, state = net
    expected, _ = eqx.nn.inference_mode(model)(X, 2.0, state)
    np.testing.assert_allclose(logits(net)(X, 2.0), expected["logits"], rtol=1e-6)
    whole = jxp.equinox.function(model, state=state)(X, 1.0)
    assert whole["total"].shape == ()
    assert not model.blocks[0].drop.inference and type(model.blocks[0]) is Block


def test_modules_are_named_by_path(net):
    found = jxp.names(logits(net, inputs="heads/**"))(X, 1.0)
    block = [
        "shared#0", "shared#1", "attention/query_proj", "attention/key_proj",
        "attention/value_proj", "attention/output_proj", "attention", "drop", "0", "1",
    ]  # fmt: skip
    heads = [f"heads/logits{part}" for part in (":input", "/layers/0:input", "/layers/0",
             "/layers/1:input", "/layers/1", "")]  # fmt: skip
    names = [name for name in found if "dropout" not in name]
    assert names == [
        *(f"blocks/{i}/{name}" for i in range(2) for name in block),
        "norm",
        *heads,
    ]
    assert found["norm"].shape == (4,) and found["blocks/1/1"].shape == ()
    assert found["blocks/0/shared#1"].shape == (5, 4)


def test_scores_at_every_cut_are_complete(net):
    f = jxp.logit(logits(net), 1)
    cuts = ["blocks/0/0", "blocks/1/0", "norm", "heads/logits"]
    scores = jax.jit(jxp.deeplift(f, 0.0, at=cuts))(X, 1.0)
    for name in cuts:
        np.testing.assert_allclose(scores[name].sum(), f(X, 1.0) - f(0 * X, 1.0), atol=1e-5)


def test_gradients_in_the_weights_and_training_mode(net):
    mlp = net[0].heads["logits"]

    def loss(mlp):
        f = jxp.logit(jxp.equinox.function(mlp), 0)
        return (jxp.deeplift(f, 0.0, at="layers/0")(X[0]) ** 2).sum()

    slopes = eqx.filter_jit(eqx.filter_grad(loss))(mlp)
    assert abs(slopes.layers[1].weight[0]).max() > 0
    drop = eqx.nn.Sequential([eqx.nn.Dropout(0.5)])
    f = jxp.equinox.function(drop, inference=False, key=KEYS[2])
    assert set(np.asarray(f(jnp.ones(100)))) == {0, 2}
    by_method = jxp.equinox.function(mlp, method="__call__")
    np.testing.assert_array_equal(by_method(X[0]), mlp(X[0]))


class Embedder(eqx.Module):
    """No call of its own; a field with a function for its default."""

    table: jax.Array
    act: callable = eqx.field(static=True, default=jnp.tanh)

    def encode(self, ids):
        return self.act(self.table[ids])

    @jax.jit
    def attend(self, h):
        return h @ self.table.T


class Language(eqx.Module):
    embedder: Embedder
    body: eqx.nn.Linear

    def hidden(self, ids):
        return jax.vmap(self.body)(self.embedder.encode(ids))

    def __call__(self, ids, scale):
        return scale * self.embedder.attend(self.hidden(ids))


def test_what_methods_return_is_named():
    model = Language(Embedder(jax.random.normal(KEYS[0], (7, 4))), eqx.nn.Linear(4, 4, key=KEYS[1]))
    f = jxp.equinox.function(model, scale=2.0, inputs="embedder.attend")
    ids = jnp.array([3, 1, 5])
    assert list(jxp.names(f)(ids)) == [
        "embedder.encode", "body", "hidden", "embedder.attend:input", "embedder.attend",
    ]  # fmt: skip
    np.testing.assert_allclose(f(ids), model(ids, 2.0), rtol=1e-6)
    np.testing.assert_allclose(f(ids, scale=1.0), model(ids, 1.0), rtol=1e-6)
    by_name = jxp.equinox.function(model, method="hidden")
    np.testing.assert_allclose(by_name(ids), model.hidden(ids), rtol=1e-6)
    assert list(jxp.names(by_name)(ids)) == ["embedder.encode", "body"]
    by_function = jxp.equinox.function(model, method=lambda m, ids: m(ids, len(ids)))
    np.testing.assert_allclose(by_function(ids), model(ids, 3), rtol=1e-6)


def test_errors():
    with pytest.raises(TypeError, match="has no method 'embed'"):
        jxp.equinox.function(eqx.nn.Linear(2, 2, key=KEYS[0]), method="embed")
    with pytest.raises(TypeError, match="Equinox module is needed, and function is none"):
        jxp.equinox.function(lambda x: x)
