"""shap draws what it is handed."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

SCORES = np.array([[1.0, -2.0], [0.5, 4.0], [0.0, 1.0]])


@pytest.fixture
def shap():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    plt.close("all")  # shap draws into the current figure, and another test may have left one
    yield pytest.importorskip("shap")
    plt.close("all")


def test_one_example_falls_down_the_waterfall(shap):
    one = jxp.interop.to_shap(jnp.array([1.0, -2.5]), jnp.array([3.0, 4.0]), 10.0, names=["a", "b"])
    assert isinstance(one.base_values, float) and one.feature_names == ["a", "b"]
    bars, base, end = shap.plots.waterfall(one, show=False).figure.axes
    assert [text.get_text() for text in bars.texts] == ["+1", "−2.5"]
    assert "= 10$" in base.get_xticklabels()[1].get_text()
    assert "= 8.5$" in end.get_xticklabels()[1].get_text()


def test_a_batch_is_drawn_by_each_of_shaps_plots(shap):
    batch = jxp.interop.to_shap(SCORES, 2 * SCORES, base=3.0)
    assert batch.shape == (3, 2) and batch.base_values.tolist() == [3.0] * 3
    assert batch[1].base_values == 3.0 and batch[1].data.tolist() == [1.0, 8.0]
    ax = shap.plots.beeswarm(batch, show=False, plot_size=None)
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == "feature 1"
    shap.plots.waterfall(batch[0], show=False)
    shap.plots.bar(batch, show=False)
    shap.plots.scatter(batch[:, 0], show=False)


def test_a_base_for_each_example(shap):
    batch = jxp.interop.to_shap(SCORES, base=np.arange(3.0))
    assert batch.base_values.tolist() == [0, 1, 2] and batch.data is None


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.ones((2, 2, 2, 2)),), {}, "must be"),
        ((np.ones(0),), {}, "must be"),
        ((SCORES, SCORES[:2]), {}, r"x \(2, 2\) for scores \(3, 2\)"),
        ((SCORES, SCORES, np.ones(2)), {}, r"base \(2,\)"),
        ((SCORES,), {"names": ["a"]}, "1 names for 2"),
    ],
)
def test_what_shap_would_misread_is_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        jxp.interop.to_shap(*arguments, **options)


def test_several_outputs_keep_their_names(shap):
    pd = pytest.importorskip("pandas")
    scores = np.arange(30.0).reshape(5, 3, 2)
    x = pd.DataFrame(np.ones((5, 3)), columns=["age", "dose", "weight"])
    told = jxp.interop.to_shap(scores, x, base=[0.25, 0.75], classes=["ill", "well"])
    assert told.feature_names == ["age", "dose", "weight"] and told.output_names == ["ill", "well"]
    well = told[..., 1]
    np.testing.assert_array_equal(well.values, scores[..., 1])
    assert well.base_values.tolist() == [0.75] * 5
    shap.plots.waterfall(well[0], show=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["one"]}, "1 classes for scores"),
        ({"base": np.zeros(3)}, "a number, or"),
        ({"x": np.zeros((5, 2))}, "for scores"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        jxp.interop.to_shap(np.zeros((5, 3, 2)), **options)
