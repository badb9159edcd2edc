"""Keras models on JAX: layers named by path, the model as it was, token ids to the embedding."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

keras = pytest.importorskip("keras")
L = keras.layers
X = jax.random.normal(jax.random.key(0), (8, 8, 1))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    h = L.Conv2D(4, 3, activation="relu", name="conv")(image)
    h = L.Dropout(0.5, name="drop")(L.BatchNormalization(name="norm")(h))
    h = L.MaxPooling2D(3, 2, name="pool")(h)
    inner = [L.Flatten(name="flat"), L.Dense(5, "tanh", name="dense")]
    h = keras.Sequential(inner, name="inner")(h)
    return keras.Model(image, L.Dense(2, name="out")(h))


def own_calls(model):
    return [vars(layer).get("call") for layer in model._flatten_layers()]


@pytest.mark.promotes
def test_layers_are_named_by_path_and_the_model_is_as_it_was(model):
    f = jxp.keras.function(model)
    before = [np.array(v.value) for v in model.variables]
    found = {name: value.shape for name, value in jxp.names(f)(X).items()}
    assert found == {
        "conv": (6, 6, 4), "norm": (6, 6, 4), "drop": (6, 6, 4), "pool": (2, 2, 4),
        "inner/flat": (16,), "inner/dense": (5,), "inner": (5,), "out": (2,),
    }  # fmt: skip
    np.testing.assert_allclose(f(X), model(X[None], training=False)[0], atol=1e-6)
    assert own_calls(model) == [None] * len(own_calls(model))
    jax.tree.map(np.testing.assert_array_equal, before, [v.value for v in model.variables])


@pytest.mark.promotes
def test_every_layer_is_complete(model):
    f = jxp.logit(jxp.keras.function(model), 1)
    scores, gaps = jax.jit(jxp.deeplift(f, 0.0, at="**", return_gap=True))(X)
    assert set(scores) == set(jxp.names(f)(X))
    assert max(abs(gap) for gap in gaps.values()) < 1e-5


@pytest.mark.promotes
def test_maps_of_a_convolution(model):
    f = jxp.logit(jxp.keras.function(model), 1)
    for method in (jxp.grad_cam, jxp.hires_cam, jxp.layer_cam):
        cam = method(f, at="conv")(X)
        assert cam.shape == (6, 6) and abs(cam).max() > 0


@pytest.mark.promotes
def test_a_call_of_ones_own_comes_back_and_errors_leave_nothing(model):
    conv = model.get_layer("conv")
    own = conv.call
    object.__setattr__(conv, "call", own)
    try:
        jxp.names(jxp.keras.function(model))(X)
        assert vars(conv)["call"] is own
        with pytest.raises(Exception, match="shape"):
            jxp.keras.function(model)(jnp.ones((2, 2, 1)))
        assert vars(conv)["call"] is own
    finally:
        object.__delattr__(conv, "call")
    assert own_calls(model) == [None] * len(own_calls(model))


@pytest.mark.promotes
def test_threads_do_not_name_for_each_other(model):
    found = []

    def trace():
        found.append(list(jxp.names(jxp.keras.function(model))(X)))

    threads = [threading.Thread(target=trace) for _ in range(4)]
    for thread in threads:
        thread.start()
    plain = jax.make_jaxpr(lambda x: model(x[None], training=False))(X)
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(names == found[0] for names in found)
    assert "name[" not in str(plain)
    assert own_calls(model) == [None] * len(own_calls(model))


@pytest.mark.promotes
def test_token_ids_of_a_recurrent_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        L.Embedding(10, 4, name="embed"), L.SimpleRNN(3, name="rnn"), L.Dense(1, name="out"),
    ])  # fmt: skip
    model.build((None, 4))
    f = jxp.logit(jxp.keras.function(model, inputs="out"), 0)
    ids, pad = jnp.array([1, 2, 3, 9]), jnp.zeros(4, int)
    assert jxp.names(f)(ids)["out:input"].shape == (3,)
    scores, gap = jax.jit(jxp.deeplift(f, pad, at="embed", return_gap=True))(ids)
    assert scores.shape == (4, 4) and abs(gap) < 1e-6
    np.testing.assert_allclose(scores.sum(), f(ids) - f(pad), rtol=1e-4)


class Twice(keras.Model):
    """A layer used twice, two heads, no `training`."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3, name="dense")

    def call(self, x):
        return {"a": self.dense(self.dense(x)), "b": x}


@pytest.mark.promotes
def test_a_model_of_ones_own():
    model = Twice()
    with pytest.raises(ValueError, match="no weights yet"):
        jxp.keras.function(model)
    model(np.ones((1, 3), "float32"))
    f = jxp.keras.function(model, output=lambda y: y["a"])
    assert list(jxp.names(f)(jnp.ones(3))) == ["dense#0", "dense#1"]


def test_what_is_no_model_and_another_backend(model, monkeypatch):
    with pytest.raises(TypeError, match="function is none"):
        jxp.keras.function(lambda x: x)
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=jax"):
        jxp.keras.function(model)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "MultiHeadAttention", "Conv1D"])
def test_layers_of_language_are_complete(layer):
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32")
    h = L.Embedding(11, 8, mask_zero=layer in ("LSTM", "GRU"), name="embed")(ids)
    h = {
        "LSTM": lambda h: L.LSTM(6, return_sequences=True)(h),
        "GRU": lambda h: L.Bidirectional(L.GRU(6, return_sequences=True))(h),
        "MultiHeadAttention": lambda h: L.LayerNormalization()(
            h + L.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True)
        ),
        "Conv1D": lambda h: L.Conv1D(5, 3, activation="gelu")(h),
    }[layer](h)
    model = keras.Model(ids, L.Dense(3, "tanh", name="out")(L.Flatten()(h)))
    f = jxp.logit(jxp.keras.function(model), 1)
    x, ref = jnp.array([3, 9, 1, 4, 0, 0]), jnp.array([2, 2, 5, 7, 0, 0])
    scores = jax.jit(jxp.deeplift(f, ref, at=["embed", "out"]))(x)
    for c in scores.values():
        assert abs(c.sum() - f(x) + f(ref)) < 1e-4 * abs(c).sum()
    e, g = jxp.embedded(f)(x)
    np.testing.assert_allclose(g(e), f(x), rtol=1e-6)
