"""Flax models as functions of one example, with names by path."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jxp

X = jax.random.normal(jax.random.key(0), (6,))


class Block(nn.Module):
    """A module called twice, batch norm and dropout; two outputs."""

    @nn.compact
    def __call__(self, x, train):
        shared = nn.Dense(6, name="shared")
        x = shared(nn.relu(shared(x)))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dropout(0.5, deterministic=not train, name="drop")(x), x.sum(-1)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, scale=1.0, train=True):
        for i in range(2):
            x, total = nn.remat(Block, static_argnums=2)(name=f"block_{i}")(x, train)
        assert x.ndim == 2  # it was written for batches
        return {"logits": scale * nn.Dense(3, name="head")(x), "total": total}


class TwinBlock(nnx.Module):
    def __init__(self, rngs):
        self.shared = nnx.Linear(6, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.shared(nnx.relu(self.shared(x)))))


class Twin(nnx.Module):
    def __init__(self, rngs):
        self.block_0 = TwinBlock(rngs)
        self.block_1 = TwinBlock(rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block_1(self.block_0(x)))


@pytest.fixture(scope="module")
def linen():
    model = Linen()
    variables = model.init(jax.random.key(1), X[None], train=False)
    statistics = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    return model, {**variables, "batch_stats": statistics}


@pytest.fixture(scope="module")
def twin(linen):
    """The linen model's weights in an nnx module."""
    params, statistics = linen[1]["params"], linen[1]["batch_stats"]
    module = Twin(nnx.Rngs(0))
    for i, block in enumerate([module.block_0, module.block_1]):
        weights = params[f"block_{i}"]
        copy_dense(weights["shared"], block.shared)
        block.norm.scale[...], block.norm.bias[...] = (
            weights["norm"][key] for key in ("scale", "bias")
        )
        moments = statistics[f"block_{i}"]["norm"]
        block.norm.mean[...], block.norm.var[...] = moments["mean"], moments["var"]
    copy_dense(params["head"], module.head)
    return module


def copy_dense(weights, linear):
    linear.kernel[...], linear.bias[...] = weights["kernel"], weights["bias"]


def logits(linen, **options):
    return jxp.flax.function(*linen, output=lambda y: y["logits"], **options)


NAMES = [
    f"block_{i}/{name}" if name else f"block_{i}/0"
    for i in range(2)
    for name in ("shared#0", "shared#1", "norm", "drop", "")
]


@pytest.mark.promotes
def test_the_function_is_the_model_in_evaluation(linen):
    model, variables = linen
    f = logits(linen)
    expected = model.apply(variables, X[None], train=False)["logits"][0]
    np.testing.assert_allclose(f(X), expected, rtol=1e-6)
    np.testing.assert_allclose(f(X, 2.0), 2 * expected, rtol=1e-6)
    whole = jxp.flax.function(model, variables)(X)
    assert whole["logits"].shape == (3,) and whole["total"].shape == ()


def test_modules_are_named_by_path(linen):
    found = jxp.names(logits(linen))(X)
    assert list(found) == [*NAMES[:5], "block_0/1", *NAMES[5:], "block_1/1", "head"]
    assert found["block_0/norm"].shape == (6,) and found["block_0/1"].shape == ()
    inputs = jxp.names(logits(linen, inputs=["block_1", "head"]))(X)
    assert {"block_1:input", "head:input"} == set(inputs) - set(found)


def test_captured_values_are_flaxs_own(linen):
    model, variables = linen
    _, state = model.apply(variables, X[None], train=False, capture_intermediates=True)
    own = state["intermediates"]
    _, values = jxp.capture(logits(linen))(X)
    np.testing.assert_allclose(values["head"], own["head"]["__call__"][0][0], rtol=1e-6)
    for i in range(2):
        calls = own["block_1"]["shared"]["__call__"]
        np.testing.assert_allclose(values[f"block_1/shared#{i}"], calls[i][0], rtol=1e-5)


def test_linen_and_nnx_give_the_same_scores(linen, twin):
    f, g = jxp.logit(logits(linen), 1), jxp.logit(jxp.flax.function(twin), 1)
    assert [*jxp.names(g)(X)] == [name.replace("/0", "") for name in NAMES] + ["head"]
    a = jax.jit(jxp.deeplift(f, 0.0, at=NAMES))(X)
    b = jax.jit(jxp.deeplift(g, 0.0, at="block_**"))(X)
    for name in NAMES:
        np.testing.assert_allclose(a[name], b[name.replace("/0", "")], atol=1e-5)
        np.testing.assert_allclose(a[name].sum(), f(X) - f(0 * X), atol=1e-5)


def test_models_are_left_as_they_were(twin):
    f = jxp.flax.function(twin)
    before = jax.tree.map(jnp.copy, nnx.state(twin, nnx.Param))
    jxp.gradient(jxp.logit(f, 0), at="*")(X)
    assert type(twin.head) is nnx.Linear and not twin.block_0.drop.deterministic
    jax.tree.map(np.testing.assert_array_equal, nnx.state(twin, nnx.Param), before)


def test_training_mode_on_request(linen, twin):
    with pytest.raises(Exception, match=r"immutable|mutable"):  # linen's: statistics would change
        logits(linen, evaluation=False)(X)
    frozen = logits(linen, train=False, evaluation=False)
    np.testing.assert_array_equal(frozen(X), logits(linen)(X))
    dropout = nn.Dropout(0.5, deterministic=False)
    f = jxp.flax.function(dropout, {}, rngs={"dropout": jax.random.key(0)})
    assert set(np.asarray(f(jnp.ones(100)))) == {0, 2}
    assert not np.array_equal(jxp.flax.function(twin, evaluation=False)(X),
                              jxp.flax.function(twin)(X))  # fmt: skip


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(nn.RNN(nn.GRUCell(4), name="rnn")(x)[:, -1])


def test_steps_of_a_scanned_module_are_stacked():
    model, x = Recurrent(), jax.random.normal(jax.random.key(2), (5, 3))
    f = jxp.flax.function(model, model.init(jax.random.key(0), x[None]))
    assert jxp.names(f)(x)["rnn"].shape == (5, 4)
    cells = [n for n in jxp.names(f)(x) if "GRUCell" in n and n.endswith("/1")]
    scores = jax.jit(jxp.deeplift(jxp.logit(f, 0), 0.0, at=cells))(x)
    f0 = jxp.logit(f, 0)
    np.testing.assert_allclose(scores[cells[0]][-1].sum(), f0(x) - f0(0 * x), atol=1e-5)


class ScannedLayers(nnx.Module):
    """Layers in an nnx scan, each in a remat; a head that is mapped over rows; a summary."""

    def __init__(self, rngs):
        make = nnx.vmap(TwinBlock, in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=3)(make)(rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        remat = nnx.remat(lambda layer, x: layer(x))
        scan = nnx.scan(lambda x, layer: remat(layer, x), in_axes=(nnx.Carry, 0),
                        out_axes=nnx.Carry)  # fmt: skip
        h = scan(x, self.layers)
        mapped = nnx.vmap(lambda head, row: head(row), in_axes=(None, 0))
        return {"logits": mapped(self.head, h), "mean": h.mean()}


def test_nnx_transforms_inside_a_model():
    model = ScannedLayers(nnx.Rngs(0))
    f = jxp.flax.function(model, output=lambda y: y["logits"])
    shapes = {name: value.shape for name, value in jxp.names(f)(X).items()}
    assert shapes["layers"] == shapes["layers/shared#1"] == (3, 6)
    assert shapes["head"] == (1, 2)  # mapped over the batch itself
    scores = jax.jit(jxp.deeplift(jxp.logit(f, 0), 0.0, at=["layers", "head"]))(X)
    change = f(X)[0] - f(0 * X)[0]
    np.testing.assert_allclose(scores["layers"].sum(1), change, atol=1e-5)
    np.testing.assert_allclose(scores["head"].sum(), change, atol=1e-5)
    assert jxp.flax.function(model)(X)["mean"].shape == ()
    model.eval()
    np.testing.assert_allclose(f(X), model(X[None])["logits"][0], rtol=1e-5)


class ScannedLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Layer), variable_axes={"params": 0},
                         split_rngs={"params": True}, length=3)  # fmt: skip
        return nn.Dense(2, name="head")(layers(name="layers")(x, None)[0])


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.gelu(nn.Dense(6, name="dense")(x)), None


def test_linen_layers_in_a_scan():
    model = ScannedLinen()
    f = jxp.flax.function(model, model.init(jax.random.key(0), X[None]))
    shapes = {name: value.shape for name, value in jxp.names(f)(X).items()}
    assert shapes == {"layers/dense": (3, 6), "layers": (3, 6), "head": (2,)}
    scores = jax.jit(jxp.deeplift(jxp.logit(f, 0), 0.0, at="layers"))(X)
    np.testing.assert_allclose(scores.sum(1), f(X)[0] - f(0 * X)[0], atol=1e-5)


def test_without_a_batch_axis_and_by_another_method():
    class Plain(nn.Module):
        def setup(self):
            self.dense = nn.Dense(2)

        def __call__(self, x):
            return self.encode(x).sum()

        def encode(self, x):
            return self.dense(x)

    variables = Plain().init(jax.random.key(0), X)
    f = jxp.flax.function(Plain(), variables, method="encode", batched=False)
    np.testing.assert_array_equal(jxp.capture(f)(X)[1]["dense"], f(X))
    assert jxp.flax.function(Plain(), variables, batched=False)(X).shape == ()


class Embedder(nn.Module):
    """Two ways through one table; what is private, and what is no array, has no name."""

    def setup(self):
        self.table = self.param("table", nn.initializers.normal(1.0), (7, 4))
        self.norm = nn.LayerNorm()

    def encode(self, ids):
        return self._scaled(self.table[ids])

    def decode(self, h):
        return self.norm(h) @ self.table.T

    def _scaled(self, h):
        return 2 * h

    def parts(self):
        return self.norm, 3


class Language(nn.Module):
    def setup(self):
        self.embedder = Embedder()

    def body(self, h, mask):
        return jnp.tanh(jnp.einsum("...st,...td->...sd", mask, h))

    def __call__(self, ids, *, mask):
        self.embedder.parts()
        return self.embedder.decode(self.body(self.embedder.encode(ids), mask))


class TwinEmbedder(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Param(rngs.normal((7, 4)))
        self.norm = nnx.LayerNorm(4, rngs=rngs)

    encode, decode = Embedder.encode, Embedder.decode
    _scaled, parts = Embedder._scaled, Embedder.parts


class TwinLanguage(nnx.Module):
    def __init__(self, rngs):
        self.embedder = TwinEmbedder(rngs)

    body, __call__ = Language.body, Language.__call__


class Pretrained:
    """Shaped like Hugging Face's: a module and its parameters, a call that fills in a mask."""

    def __init__(self):
        self.module = Language()
        self.params = self.module.init(jax.random.key(0), IDS[None], mask=MASK)["params"]

    def __call__(self, ids, mask=None, params=None, train=True):
        assert not train
        mask = MASK if mask is None else mask
        return {"logits": self.module.apply({"params": params}, ids, mask=mask)}


IDS, MASK = jnp.array([3, 1, 5]), jnp.tril(jnp.ones((3, 3)))
PRETRAINED = Pretrained()
LANGUAGE = {
    "linen": lambda **options: jxp.flax.function(
        PRETRAINED.module, {"params": PRETRAINED.params}, **options
    ),
    "nnx": lambda **options: jxp.flax.function(TwinLanguage(nnx.Rngs(0)), **options),
}


@pytest.mark.parametrize("library", LANGUAGE)
def test_what_methods_return_is_named(library):
    f = LANGUAGE[library](mask=MASK, inputs="embedder.decode")
    found = jxp.names(f)(IDS)
    assert list(found) == [
        "embedder.encode", "body", "embedder.decode:input", "embedder/norm", "embedder.decode",
    ]  # fmt: skip
    assert found["embedder.encode"].shape == (3, 4)
    h = jxp.logit(f, (-1, 2))
    scores = jax.jit(jxp.deeplift(h, jnp.zeros(3, int), at="embedder.encode"))(IDS)
    np.testing.assert_allclose(scores.sum(), h(IDS) - h(0 * IDS), rtol=1e-4)


@pytest.mark.promotes
@pytest.mark.parametrize("library", LANGUAGE)
def test_keywords_and_arguments_made_of_others(library):
    f = LANGUAGE[library](mask=MASK)
    np.testing.assert_allclose(f(IDS, mask=2 * MASK), LANGUAGE[library](mask=2 * MASK)(IDS))
    assert not np.allclose(f(IDS, mask=2 * MASK), f(IDS))

    def masked(model, ids, scale):
        return model(ids, mask=scale * jnp.tril(jnp.ones((ids.shape[1],) * 2)))

    g = LANGUAGE[library](method=masked)
    np.testing.assert_allclose(g(IDS, 1.0), f(IDS), rtol=1e-6)
    assert list(jxp.names(g)(IDS, 1.0)) == list(jxp.names(f)(IDS))
    assert g(IDS[:2], 1.0).shape == (2, 7)
    with pytest.raises(TypeError, match=r"takes no keyword 'masks'; it takes \['ids', 'mask'\]"):
        LANGUAGE[library](masks=MASK)
    with pytest.raises(TypeError, match="has no method 'embed'"):
        LANGUAGE[library](method="embed")


def test_hugging_faces_models_are_called_as_they_are():
    f = jxp.flax.function(PRETRAINED, output=lambda y: y["logits"])
    bare = LANGUAGE["linen"](mask=MASK)
    np.testing.assert_array_equal(f(IDS), bare(IDS))
    assert list(jxp.names(f)(IDS)) == list(jxp.names(bare)(IDS))
    slopes = jax.grad(lambda p: jxp.flax.function(PRETRAINED, p)(IDS)["logits"].sum())(
        PRETRAINED.params
    )
    assert abs(slopes["embedder"]["table"]).max() > 0
    by_module = jxp.flax.function(PRETRAINED, method=lambda m, ids: m(ids, mask=MASK))
    np.testing.assert_array_equal(by_module(IDS), f(IDS))
    result = jxp.lm.explain(jxp.deeplift, by_module, IDS[:1], IDS[1:])
    np.testing.assert_allclose(result.scores.sum(1), result.rise - result.gap, atol=1e-5)
    with pytest.raises(TypeError, match="dropout_rng"):
        jxp.flax.function(PRETRAINED, rngs={})


def test_kernels_inside_a_model_are_substituted():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return nn.Dense(2, name="head")(jax.ffi.ffi_call("fused", shape)(x))

    variables = {"params": {"head": {"kernel": jnp.ones((6, 2)), "bias": jnp.zeros(2)}}}
    f = jxp.flax.function(Net(), variables, substitute={"fused": jnp.tanh})
    np.testing.assert_allclose(f(X), jnp.tanh(X).sum() * jnp.ones(2), rtol=1e-6)
    assert list(jxp.names(f)(X)) == ["head"]


def test_errors(linen, twin):
    with pytest.raises(TypeError, match="needs the variables"):
        jxp.flax.function(linen[0])
    with pytest.raises(TypeError, match="holds its own variables"):
        jxp.flax.function(twin, {})
    with pytest.raises(TypeError, match="function is none"):
        jxp.flax.function(lambda x: x)


class Twice(nnx.Module):
    """Dropout and batch norm, in training mode when they are made."""

    def __init__(self, rngs):
        self.drop, self.norm = nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.drop(jnp.tanh(x))).sum()


IN_TRAINING = {
    "deeplift": lambda f: jxp.deeplift(f, 0.0),
    "gradient": jxp.gradient,
    "integrated_gradients": lambda f: jxp.integrated_gradients(f, 0.0),
    "ablation": lambda f: jxp.ablation(f, 0.0),
    "shapley_values": lambda f: jxp.shapley_values(f, 0.0),
    "names": jxp.names,
    "jit": lambda f: jax.jit(jxp.occlusion(f, 0.0, window=1)),
}


@pytest.mark.parametrize("method", IN_TRAINING)
def test_a_model_in_training_mode_says_what_to_explain(method):
    model, x = Twice(nnx.Rngs(0)), jnp.array([0.2, -1.0, 0.5, 2.0])
    with pytest.raises(TypeError, match=r"training mode.*jaxplain\.flax\.function\(model\)"):
        IN_TRAINING[method](model)(x)
    IN_TRAINING[method](jxp.flax.function(model))(x)


def test_a_batch_taken_for_one_example_shows_in_every_shape():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
            return nn.Dense(3)(x.mean((-3, -2)))

    model, images = Net(), jnp.ones((5, 8, 8, 2))
    f = jxp.flax.function(model, model.init(jax.random.key(0), images))
    assert all(5 not in value.shape for value in jxp.names(f)(images[0]).values())
    assert all(value.shape[0] == 5 for value in jxp.names(f)(images).values())
