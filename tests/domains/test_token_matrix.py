"""The page of a response's tokens, and its picture."""

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jaxplain import plots
from jaxplain.lm import Explanation
from tests.support import browser

EVIL = "</script><script>window.bad = 1</script>"
TOKENS = ["<s>", " the", ' "<b>key"', "\n", EVIL, " under", " it"]
SCORES = np.array([[1.0, -2.0, 0.5, 0, 0, 0, 0], [0, 0, 4.0, 0, -1.0, 0, 0], [0, 0, 0, 3, 0, 2, 0]])


@pytest.fixture
def page():
    return plots.token_matrix(SCORES, TOKENS, prompt=4, title="Where <i>is</i> it?")


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_tokens_stay_text_and_nothing_is_fetched(page):
    parsed = Elements(page)
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("script") == 2 and "b" not in tags and "i" not in tags
    assert not {"link", "img", "iframe", "object"} & set(tags)
    assert not any(key in attrs for _, attrs in parsed.found for key in ("src", "href"))
    assert "url(" not in page and "@import" not in page and "//" not in page.replace("// ", "")
    assert EVIL in parsed.text and ' "<b>key"' in parsed.text
    buttons = [attrs for _, attrs in parsed.found if attrs.get("role") == "button"]
    assert [b["data-i"] for b in buttons] == ["4", "5", "6"]
    assert [b["tabindex"] for b in buttons] == ["0", "-1", "-1"]


def test_a_notebook_gets_the_body_and_a_file_the_page(page, tmp_path):
    assert page.startswith("<!DOCTYPE html>") and page.save(tmp_path / "a.html").read_text() == page
    cell = page._repr_html_()
    assert cell.strip().startswith('<div class="jxp-matrix">') and cell.strip().endswith("</div>")


def test_an_explanation_brings_its_tokens():
    total = np.arange(7.0)
    result = Explanation(
        SCORES, SCORES, SCORES.sum(1), 0 * SCORES[:, 0], total, np.arange(7), prompt=4
    )
    page = plots.token_matrix(result)
    assert '"prompt":4' in page and str([float(v) for v in total]).replace(" ", "") in page
    assert "6 </span>" in page


def test_a_heat_map_and_drawn_tokens():
    ax = plots.token_matrix(SCORES, TOKENS, prompt=4, title="$", style="heatmap")
    assert ax.images[0].get_array().shape == (3, 7)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["</script><s…", "under", "it"]
    assert ax.images[0].get_clim() == (-4, 4)
    figure, ax = plt.subplots(figsize=(2, 2))
    assert plots.tokens([" a$", " bb\n", "c"], [1.0, -2.0, 0.0], ax=ax) is ax
    figure.canvas.draw()
    boxes = [text.get_bbox_patch().get_facecolor() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == [r"a\$", "bb", "c"]
    assert boxes[0][0] > boxes[0][2] and boxes[1][2] > boxes[1][0] and boxes[2][3] == 0
    assert ax.texts[2].get_position()[1] < ax.texts[1].get_position()[1]
    plt.close("all")


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((SCORES, TOKENS), {}, ValueError, "prompt is None"),
        ((SCORES, TOKENS), {"prompt": 3}, ValueError, "leave 4 for the prompt"),
        ((SCORES, TOKENS[1:]), {"prompt": 4}, ValueError, "6 tokens for scores of 7"),
        ((SCORES, "abcdefg"), {"prompt": 4}, TypeError, "one string"),
        ((SCORES * np.nan, TOKENS), {"prompt": 4}, ValueError, "NaN"),
        ((SCORES, TOKENS), {"prompt": 4, "style": "x"}, ValueError, "unknown style"),
        ((SCORES, TOKENS), {"prompt": 4, "ax": 1}, ValueError, "no axes"),
    ],
)
def test_what_cannot_be_shown(args, options, error, words):
    with pytest.raises(error, match=words):
        plots.token_matrix(*args, **options)


WORKING = """
const tokens = [...document.querySelectorAll(".t")];
const color = (i) => getComputedStyle(tokens[i]).backgroundColor;
const state = () => ({
  colors: tokens.map((_, i) => color(i)), titles: tokens.map((t) => t.title),
  pressed: tokens.slice(4).map((t) => t.getAttribute("aria-pressed")),
  says: document.querySelector(".says").textContent, at: document.activeElement.dataset.i,
  bad: window.bad, page: getComputedStyle(document.querySelector(".jxp-matrix")).backgroundColor,
});
answer(state());
tokens[4].dispatchEvent(new MouseEvent("mouseenter")); answer(state());
tokens[5].click(); answer(state());
document.querySelector(".response").dispatchEvent(new MouseEvent("mouseleave")); answer(state());
tokens[5].focus();
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true}));
press("ArrowRight"); answer(state());
press("Home"); press("Escape"); answer(state());
"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_reader_points_taps_and_types(page, tmp_path, dark):
    before, hovered, tapped, left, typed, escaped = browser.answers(
        page, WORKING, tmp_path, dark=dark
    )
    assert "bad" not in before  # what a token says is not run
    light = [int(v) for v in before["page"][4:-1].split(",")]
    assert (max(light) < 80) == dark and (min(light) > 200) != dark
    assert before["titles"][2].endswith("+4.5") and before["says"].startswith("The whole response")
    red, blue = (tuple(map(float, c[5:-1].split(","))) for c in hovered["colors"][0:2])
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] < blue[3]  # 1 for, 2 against
    assert hovered["titles"][:2] == ["<s>  +1", "the  −2"] and hovered["colors"][3][-3:] == " 0)"
    assert "−0.5 in all" in hovered["says"] and hovered["colors"] != before["colors"]
    assert tapped["pressed"] == ["false", "true", "false"] and left["colors"] == tapped["colors"]
    assert typed["at"] == "6" and typed["titles"][3].endswith("+3")
    assert escaped["at"] == "4" and escaped["colors"] == before["colors"]
    picture = tmp_path / "page.png"
    browser.screenshot(page.save(tmp_path / "shown.html"), picture, dark=dark)
    pixels = plt.imread(picture)[..., :3]
    assert (pixels.mean() < 0.4) == dark
    assert (abs(pixels[..., 0] - pixels[..., 2]) > 0.1).sum() > 500  # there is colour in it
