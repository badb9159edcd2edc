"""Tables of named columns as inputs and references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

pd = pytest.importorskip("pandas")

X = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 3)), columns=["age", "dose", "weight"])
SLOPES = jnp.array([1.0, 2.0, 3.0])


def f(x):
    return x @ SLOPES


METHODS = {
    "shapley values": lambda refs, ref: jxp.shapley_values(f, refs),
    "deeplift_shap": lambda refs, ref: jxp.deeplift_shap(f, refs),
    "ablation": lambda refs, ref: jxp.ablation(f, ref),
    "integrated gradients": lambda refs, ref: jxp.integrated_gradients(f, ref),
}


@pytest.mark.parametrize("name", METHODS)
def test_rows_and_frames_are_taken_for_arrays(name):
    scores = METHODS[name](X, X.iloc[0])(X.iloc[1])
    want = METHODS[name](X.to_numpy(), X.to_numpy()[0])(X.to_numpy()[1])
    assert isinstance(scores, jax.Array)
    np.testing.assert_allclose(scores, want, rtol=1e-6)


def test_a_whole_frame_is_explained_row_by_row():
    explain = jxp.deeplift(f, X.iloc[0])
    run = jxp.batched(explain, chunk=2, progress=False)
    np.testing.assert_allclose(run(X), run(X.to_numpy()), rtol=1e-6)


def test_what_is_not_a_number_is_named():
    mixed = X.assign(town="Ulm")
    with pytest.raises(TypeError, match=r"\['town'\] of the DataFrame are not numbers"):
        jxp.gradient(lambda x: x.sum())(mixed)
    with pytest.raises(TypeError, match="town"):
        jxp.deeplift_shap(f, mixed)(jnp.ones(4))


def test_names_go_to_shap():
    pytest.importorskip("shap")
    row, numbers = X.iloc[0], np.zeros(3)
    for scores, x in ((numbers, row), (pd.Series(numbers, X.columns), None), (np.zeros((5, 3)), X)):
        assert jxp.interop.to_shap(scores, x).feature_names == ["age", "dose", "weight"]
    unnamed = pd.DataFrame(np.zeros((5, 3)))
    assert jxp.interop.to_shap(np.zeros((5, 3)), unnamed).feature_names[0] == "feature 0"
