"""Pictures: what is drawn, where, in which colours and limits; what is refused."""

import html
import itertools
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from jaxplain import plots  # noqa: E402
from jaxplain.plots.common import AGAINST, FOR, strongest  # noqa: E402

HEAT = np.array([[-2.0, 0.0], [1.0, 0.5]])


@pytest.fixture(autouse=True)
def closed():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return Figure().subplots()


def names_of(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


@pytest.mark.parametrize(
    ("sign", "shown", "limits"),
    [
        ("all", HEAT, (-2, 2)),
        ("positive", [[0, 0], [1, 0.5]], (0, 1)),
        ("negative", [[-2, 0], [0, 0]], (-2, 0)),
        ("absolute", [[2, 0], [1, 0.5]], (0, 2)),
    ],
)
def test_a_sign_is_chosen_and_zero_is_white(sign, shown, limits, ax):
    drawn = plots.image(HEAT, sign=sign, percentile=100, ax=ax).images[0]
    np.testing.assert_array_equal(drawn.get_array(), shown)
    assert drawn.get_clim() == limits
    assert min(drawn.to_rgba(0.0)) > 0.95
    assert len(ax.figure.axes) == 2  # the second is the colour bar


def test_red_is_for_and_blue_against(ax):
    drawn = plots.image(HEAT, ax=ax).images[0]
    red, _, blue, _ = drawn.to_rgba(1.5)
    assert red > 2 * blue
    red, _, blue, _ = drawn.to_rgba(-1.5)
    assert blue > 2 * red


def test_channels_are_summed_before_the_sign_is_taken(ax):
    scores = np.stack([HEAT, -HEAT], -1)
    drawn = plots.image(scores, sign="positive", ax=ax).images[0]
    assert not drawn.get_array().any() and drawn.get_clim() == (0, 1)


def test_colours_saturate_at_the_percentile_of_what_is_not_zero(ax):
    scores = np.zeros((30, 30))
    scores[0, :10] = np.arange(1, 11)
    drawn = plots.image(scores, percentile=50, ax=ax).images[0]
    assert drawn.get_clim() == (-5.5, 5.5)
    assert ax.figure.axes[1].get_ylabel() == "contribution"
    assert strongest(np.zeros(3)) == 1


def test_a_limit_of_ones_own_and_no_bar(ax):
    plots.image(HEAT, limit=7, colorbar=False, ax=ax)
    assert ax.images[0].get_clim() == (-7, 7) and ax.figure.axes == [ax]


def test_a_blend_is_the_stronger_the_less_transparent_on_a_grey_image(ax):
    colours = np.zeros((2, 2, 3))
    colours[0, 0] = 1, 0, 0
    below, above = plots.image(HEAT, colours, style="blend", percentile=100, ax=ax).images
    np.testing.assert_allclose(below.get_array(), [[0.299, 0], [0, 0]])
    alpha = above.get_alpha()
    assert alpha[0, 0] > alpha[1, 0] > alpha[1, 1] > alpha[0, 1] == 0
    assert len(ax.figure.axes) == 2


def test_a_mask_shows_the_image_where_contributions_are_strong(ax):
    pixels = np.array([[0, 51], [102, 255]], np.uint8)
    (drawn,) = plots.image(HEAT, pixels, style="masked", percentile=100, ax=ax).images
    np.testing.assert_allclose(drawn.get_array(), pixels / 255)
    np.testing.assert_allclose(drawn.get_alpha(), np.abs(HEAT) / 2)


def test_an_image_of_standard_scores_is_shown_from_least_to_greatest(ax):
    (drawn,) = plots.image(HEAT, HEAT, style="masked", ax=ax).images
    np.testing.assert_allclose(drawn.get_array(), (HEAT + 2) / 3)


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        (np.ones(3), {}, "2 or 3 axes"),
        (np.ones((0, 3)), {}, "empty"),
        (np.array([[np.nan, 1]]), {}, "1 infinite or NaN"),
        (HEAT, {"style": "blend"}, "give it as x"),
        (HEAT, {"style": "masked", "x": np.ones((2, 3))}, r"this one has \(2, 3\)"),
        (HEAT, {"style": "masked", "x": np.ones((2, 2, 2))}, "1, 3 or 4 channels"),
        (HEAT, {"style": "film"}, "style must be one of"),
        (HEAT, {"sign": "both"}, "sign must be one of"),
        (HEAT, {"percentile": 0}, "percentile must be above 0"),
        (HEAT, {"limit": 0}, "limit must be positive"),
    ],
)
def test_an_image_that_cannot_be_drawn(scores, options, words, ax):
    with pytest.raises(ValueError, match=words):
        plots.image(scores, ax=ax, **options)


def test_methods_side_by_side_on_one_scale():
    xs = jnp.ones((2, 3, 3, 1))
    maps = {"one": xs, "ten": -10 * xs}
    axes = plots.compare(xs, maps, titles=["a", "b"], captions=["c", "d"], percentile=100)
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[1]] == ["b", "one", "ten"]
    assert [ax.get_xlabel() for ax in axes[0]] == ["c", "Σ = +9.00", "Σ = −90.00"]
    assert {ax.images[0].get_clim() for ax in axes[:, 1:].flat} == {(-10, 10)}
    assert len(axes[0, 0].figure.axes) == 7  # six, and a colour bar


def test_methods_on_a_scale_each():
    xs = np.ones((1, 3, 3))
    axes = plots.compare(xs, {"one": xs, "ten": -10 * xs}, limits="each", figure=Figure())
    assert [ax.images[0].get_clim() for ax in axes[0, 1:]] == [(-1, 1), (-10, 10)]
    assert len(axes[0, 0].figure.axes) == 3


@pytest.mark.parametrize(
    ("maps", "options", "words"),
    [
        ({}, {}, "no method"),
        ({"DeepLIFT": np.ones((2, 4, 4))}, {}, "DeepLIFT has scores"),
        ({"DeepLIFT": np.ones((2, 3, 3))}, {"titles": ["one"]}, "1 names for 2 images"),
        ({"DeepLIFT": np.ones((2, 3, 3))}, {"limits": "none"}, "shared or each"),
    ],
)
def test_a_comparison_that_cannot_be_drawn(maps, options, words):
    with pytest.raises(ValueError, match=words):
        plots.compare(np.ones((2, 3, 3)), maps, figure=Figure(), **options)


def test_bars_by_strength_and_the_rest_as_their_sum(ax):
    scores = [0.5, -2.0, 1.0, 0.25]
    plots.bar(scores, list("abcd"), values=[1, 2, 0.12346, "x"], errors=[0.1] * 4, top=2, ax=ax)
    assert names_of(ax) == ["b = 2", "c = 0.1235", "sum of 2 others"]
    bars = [p for p in ax.patches if p.get_height() == 0.7]
    assert [b.get_width() for b in bars] == [-2, 1, 0.75]
    assert sum(b.get_width() for b in bars) == sum(scores)
    assert [to_hex(b.get_facecolor()) for b in bars] == [AGAINST, FOR, FOR]
    assert [t.get_text() for t in ax.texts] == ["−2", "+1", "+0.75"]
    low, high = ax.get_xlim()
    assert low < -2.1 and high > 1.1 and ax.yaxis_inverted()


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ([[1.0]], {}, "1 axes"),
        ([], {}, "empty"),
        ([1.0, np.inf], {}, "infinite"),
        ([1.0, 2.0], {"names": ["a"]}, "1 names for 2"),
        ([1.0, 2.0], {"errors": [1.0]}, "errors"),
        ([1.0, 2.0], {"top": 0}, "at least 1"),
    ],
)
def test_bars_that_cannot_be_drawn(scores, options, words, ax):
    with pytest.raises(ValueError, match=words):
        plots.bar(scores, ax=ax, **options)


def test_layers_show_both_signs_and_the_sum(ax):
    plots.layers({"a": np.array([[1.0, -3.0], [2.0, 0.0]]), "b": [0.0]}, ax=ax)
    assert [p.get_width() for p in ax.patches] == [3, 0, -3, 0]
    assert ax.lines[-1].get_xdata().tolist() == [0, 0] and names_of(ax) == ["a", "b"]
    with pytest.raises(ValueError, match="no layer"):
        plots.layers({})


def test_neurons_of_several_examples_are_their_mean_and_its_error(ax):
    plots.neurons([[1.0, 0.0, 5.0], [3.0, 0.0, 5.0]], top=2, ax=ax)
    assert names_of(ax) == ["neuron 2", "neuron 0", "sum of 1 others"]
    assert [p.get_width() for p in ax.patches] == [5, 2, 0]
    whisker = ax.collections[0].get_segments()[1]
    np.testing.assert_allclose(np.ptp(whisker[:, 0]), 2 * np.std([1, 3], ddof=1) / np.sqrt(2))
    assert "mean of 2 examples ± standard error" in ax.get_xlabel()


def test_curves_are_means_with_a_band(ax):
    plots.curve({"a": [[0.0, 2.0], [2.0, 4.0]], "b": [1.0, 1.0]}, ax=ax)
    a, b = ax.lines
    np.testing.assert_array_equal(a.get_ydata(), [1, 3])
    np.testing.assert_array_equal(b.get_xdata(), [0, 1])
    assert a.get_color() != b.get_color()
    (band,) = ax.collections
    assert band.get_paths()[0].vertices[:, 1].min() == 0  # 1 - its standard error of 1
    with pytest.raises(ValueError, match="b has 1 points at 2 places"):
        plots.curve({"a": [0, 1], "b": [1]})
    with pytest.raises(ValueError, match="no curve"):
        plots.curve({})


def test_a_series_over_the_colours_of_its_samples(ax):
    x = np.array([[0.0, 5.0], [1.0, 5.0], [4.0, 5.0]])
    plots.time_series(x - 2, x, [0, 1, 3], names=["a", "b"], percentile=100, ax=ax)
    (strips,) = ax.collections
    assert strips.get_clim() == (-3, 3) and strips.get_array().shape == (2, 3)
    np.testing.assert_array_equal(strips.get_coordinates()[0, :, 0], [-0.5, 0.5, 2, 4])
    drawn = [line for line in ax.lines if line.get_color() == "black"]
    np.testing.assert_allclose(drawn[0].get_ydata(), [0.1, 0.3, 0.9])
    np.testing.assert_allclose(drawn[1].get_ydata(), 1.5)  # flat: in the middle of its strip
    assert names_of(ax) == ["a", "b"]
    for times, words in [([0, 1], "2 times for 3"), ([0, 2, 1], "must rise")]:
        with pytest.raises(ValueError, match=words):
            plots.time_series(x, x, times)
    with pytest.raises(ValueError, match="for a series"):
        plots.time_series(x, x[:2])


def test_letters_are_as_high_as_their_scores(ax):
    pytest.importorskip("logomaker")
    x = np.eye(4)[[2, 0, 3]]
    hypothetical = np.array([[1, -1, 2, 0], [3, 0, 0, -1], [0, 0, -2, -1.0]])
    plots.logo(hypothetical, x=x, start=10, highlight=[(11, 12)], ax=ax)
    letters = [p.get_path().get_extents().bounds for p in ax.patches if hasattr(p, "get_path")]
    np.testing.assert_allclose(
        [(left, bottom, height) for left, bottom, width, height in letters[:3]],
        [(9.525, 0, 2), (10.525, 0, 3), (11.525, -1, 1)],
    )
    assert ax.patches[3].get_x() == 10.5 and ax.patches[3].get_width() == 1  # the shade
    low, high = ax.get_ylim()
    assert low == pytest.approx(-1 - 0.2) and high == pytest.approx(3 + 0.2)
    assert ax.get_xlim() == (9.5, 12.5)


def test_rows_of_logos_share_their_positions():
    pytest.importorskip("logomaker")
    x = np.eye(4)[[2, 0]]
    axes = plots.logos({"contributions": x, "hypothetical": x - 0.5}, figure=Figure())
    assert [ax.get_ylabel() for ax in axes] == ["contributions", "hypothetical"]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    # Its letter above zero, the three others below.
    np.testing.assert_allclose(axes[1].get_ylim(), [-1.5 - 0.1, 0.5 + 0.1])


def test_logos_that_cannot_be_drawn(ax):
    for scores, options, words in [
        (np.ones((3, 5)), {}, "4 letters 'ACGT'"),
        (np.ones((3, 4)), {"x": np.ones((2, 4))}, r"x \(2, 4\)"),
        (np.ones((0, 4)), {}, "empty"),
    ]:
        with pytest.raises(ValueError, match=words):
            plots.logo(scores, ax=ax, **options)
    with pytest.raises(ValueError, match="one shape"):
        plots.logos({"a": np.ones((2, 4)), "b": np.ones((3, 4))})
    with pytest.raises(ValueError, match="rows is empty"):
        plots.logos({})


def test_a_swarm_of_every_example():
    pytest.importorskip("shap")
    x = np.random.default_rng(0).normal(size=(30, 3))
    ax = plots.beeswarm(x * [1, 5, 3], x, ["a", "b", "c"], ax=plt.figure().subplots())
    assert names_of(ax) == ["a", "c", "b"]  # the strongest on top
    dots = [c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 30]
    strong = max(dots, key=lambda row: row[:, 1].mean())
    np.testing.assert_allclose(np.sort(strong[:, 0]), np.sort(5 * x[:, 1]))


class Parsed(HTMLParser):
    """The elements of a page, their titles and the text outside them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.titles, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]

    def handle_data(self, data):
        self.text.append(data)


def test_markup_in_tokens_stays_text():
    pieces = ["<script>alert(1)</script>", '" onmouseover="x', "&amp;", " it's\n"]
    page = plots.tokens(pieces, [1.0, -2.0, 0.0, 0.5], title="<b>")
    parsed = Parsed(page)
    assert parsed.elements == ["div"] * 3 + ["span"] * 5  # a title, a legend with its strip
    assert parsed.text == ["<b>", "−2", "+2", *pieces]
    assert [t.rpartition("  ")[0] for t in parsed.titles] == pieces
    assert parsed.titles[1].endswith("−2") and html.unescape(page) != page
    assert page._repr_html_() == page and type(page._repr_html_()) is str


def test_tokens_are_red_for_and_blue_against():
    page = plots.tokens(["a", "b", "c"], [[1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    legend, page = page.split("</div>", 1)
    assert f"{AGAINST}bf, transparent, {FOR}bf" in legend and "−2 to +2" in legend
    assert page.count(f"{FOR}bf") == 1  # 3/4 of 255
    assert page.count(f"{AGAINST}60") == 1  # half of that
    assert page.count(f"{AGAINST}00") == 1


@pytest.mark.parametrize(
    ("pieces", "scores", "options", "error", "words"),
    [
        ("text", np.ones(4), {}, TypeError, "is one string"),
        ([b"a"], np.ones(1), {}, TypeError, "some are bytes"),
        (["a"], np.ones(2), {}, ValueError, "2 scores for 1 tokens"),
        ([], np.ones(0), {}, ValueError, "empty"),
        (["a"], [np.nan], {}, ValueError, "NaN"),
        (["a"], np.ones(1), {"limit": -1.0}, ValueError, "limit must be positive"),
    ],
)
def test_tokens_that_cannot_be_shown(pieces, scores, options, error, words):
    with pytest.raises(error, match=words):
        plots.tokens(pieces, scores, **options)


def test_axes_given_are_axes_returned_and_none_are_shown(monkeypatch, ax):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("show was called"))
    assert plots.bar([1.0], ax=ax) is ax and not plt.get_fignums()
    own = plots.bar([1.0])
    assert own.figure.number in plt.get_fignums()


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "logomaker", None)
    with pytest.raises(ImportError, match=r'logomaker: pip install "jaxplain\[genomics\]"'):
        plots.logo(np.ones((2, 4)))


def texts_over_names(ax):
    ax.figure.draw_without_rendering()
    names = [label.get_window_extent() for label in ax.get_yticklabels()]
    return [t.get_text() for t in ax.texts if any(t.get_window_extent().overlaps(n) for n in names)]


@pytest.mark.parametrize("length", [3, 30, 80])
@pytest.mark.parametrize("scores", [[1.7, -0.889, -0.7], [-2.33, 1.49], [-1e-7], [0.0, 0.0]])
def test_values_stand_beside_names(scores, length):
    ax = plots.bar(scores, ["x" * length] * len(scores))
    assert not texts_over_names(ax)
    edge = ax.get_window_extent()
    assert all(t.get_window_extent().x1 <= edge.x1 + 1 for t in ax.texts)
    plt.close(ax.figure)


@pytest.mark.parametrize("size", [1e-4, 1.0, 12345.0])
def test_numbers_of_a_colour_bar_stand_apart(size):
    xs = np.zeros((2, 9, 9))
    maps = {"one": size * np.random.default_rng(0).normal(size=xs.shape)}
    figure = plots.compare(xs, maps)[0, 0].figure
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[-1].get_xticklabels() if t.get_text()]
    assert len(boxes) > 2 and not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    plt.close(figure)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1), (40, 40, 3)])
def test_one_image_is_one_row(shape):
    heat = np.ones(shape[:2])
    for maps in ({"map": heat}, {"map": np.ones(shape)}):
        assert plots.compare(np.ones(shape), maps, figure=Figure()).shape == (1, 2)


@pytest.mark.parametrize("style", ["blend", "masked"])
def test_a_coarse_map_is_laid_over_its_image(style, ax):
    plots.image(HEAT, np.ones((6, 8, 3)), style=style, percentile=100, ax=ax)
    assert ax.images[-1].get_array().shape[:2] == (6, 8)
    with pytest.raises(ValueError, match=r"jaxplain\.cam\.upsample"):
        plots.image(np.ones((9, 9)), np.ones((6, 8)), style=style, ax=ax)


def test_names_come_from_tables(ax):
    pd = pytest.importorskip("pandas")
    row = pd.Series([1.0, -3.0], index=["age", "dose"])
    assert names_of(plots.bar(row, ax=ax)) == ["dose", "age"]
    ax.clear()
    assert names_of(plots.bar(row.to_numpy(), values=row, ax=ax)) == ["dose = -3", "age = 1"]


def test_mutations_mark_the_letters_that_are_there():
    x = np.eye(4)[[2, 0, 3, 0, 1]]
    gains = np.arange(20.0).reshape(5, 4) * (1 - x)
    ax = plots.mutations(gains, x, start=100, window=(101, 104))
    [drawn], [dots] = ax.images, ax.collections
    np.testing.assert_array_equal(drawn.get_array(), gains[1:4].T)
    low, high = drawn.get_clim()
    assert low == -high == -gains[1:4].max()
    assert dots.get_offsets().tolist() == [[101, 0], [102, 3], [103, 0]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list("ACGT")
    assert ax.get_xlim() == (100.5, 103.5)


@pytest.mark.parametrize(
    ("shape", "window", "words"),
    [((5, 3), None, "for the letters"), ((5, 4), (3, 9), "the window"), ((4, 4), None, "and x")],
)
def test_mutations_of_another_shape_are_refused(shape, window, words):
    with pytest.raises(ValueError, match=words):
        plots.mutations(np.ones(shape), np.eye(4)[[0, 1, 2, 3, 0]], window=window)
