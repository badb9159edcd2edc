"""Response tokens by the tokens that they came from: a page to point at, or a picture."""

from __future__ import annotations

import functools
import html
import importlib.resources
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.plots.common import DIVERGING, need, new_axes, numbers, signed, strongest
from jaxplain.plots.text import Html

_LABEL = 12  # letters of a token at most, beside a heat map
_STYLES = ("page", "heatmap")


class Page(Html):
    """A whole HTML page, which a notebook shows as a cell's value and `save` writes to a file."""

    def _repr_html_(self) -> str:
        return str(self).partition("<body>")[2].partition("</body>")[0]

    def save(self, path: str | Path) -> Path:
        """Writes the page, which needs nothing beside it."""
        path = Path(path)
        path.write_text(str(self), encoding="utf-8")
        return path


def token_matrix(
    result: Any,
    tokens: Sequence[str] | None = None,
    *,
    prompt: int | None = None,
    title: str | None = None,
    style: str = "page",
    percentile: float = 100.0,
    ax: Any = None,
) -> Any:
    r"""A response to point at: each of its tokens colours the tokens that it came from.

    Point at a response token, tap it, or go through them with the arrow keys: the prompt, and the
    response before it, take its scores' colours, red for and blue against, each number in the
    tooltip. A click or Enter keeps a token; Escape, or leaving the response, shows the whole
    response's scores. The page follows the reader's light or dark scheme, has no outside resources,
    and every token stays text.

    Args:
      result: what `jaxplain.lm.explain` returns; or scores (T, S), with `prompt`: how many of the
        S tokens are the prompt's, the T last ones being the response's.
      tokens: the tokens' text (S,); the result's own, or ids, if None.
      prompt: as above.
      title: a line above.
      style: "page", or "heatmap": a matplotlib picture of the matrix.
      percentile: where colours saturate, of a row's scores on the page, of all in the heat map.
      ax: matplotlib's axes, for a heat map.

    Returns:
      `Page`, a string of HTML that notebooks show and that has `save(path)`; the axes of a heat
      map.

    Raises:
      ValueError: scores that are not (T, S) with S = prompt + T; tokens of another number; an
        unknown style; numbers that are not finite.
      TypeError: tokens that are not strings.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> page = jxp.plots.token_matrix(np.eye(2, 4), ["a", "<b>", "c", "d"], prompt=2)
      >>> "&lt;b&gt;" in page, "<b>" in page, "http" in page
      (True, False, False)
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: one of {_STYLES}")
    scores, total, pieces, prompt = _parts(result, tokens, prompt)
    if style == "heatmap":
        return _heatmap(scores, pieces, prompt, title, percentile, ax)
    if ax is not None:
        raise ValueError('a page has no axes: give style="heatmap"')
    return _page(scores, total, pieces, prompt, title, percentile)


def _parts(
    result: Any, tokens: Sequence[str] | None, prompt: int | None
) -> tuple[np.ndarray, np.ndarray, list[str], int]:
    whole = hasattr(result, "scores")
    scores = numbers(result.scores if whole else result, "scores", 2)
    if whole:
        prompt, tokens = result.prompt, result.tokens if tokens is None else tokens
    count, length = scores.shape
    if prompt is None or prompt < 1 or prompt + count != length:
        raise ValueError(
            f"scores of {count} response tokens by {length} tokens leave {length - count} for the "
            f"prompt, and prompt is {prompt}"
        )
    if tokens is None:
        tokens = [str(i) for i in range(length)]
    if isinstance(tokens, str):
        raise TypeError("tokens must be a sequence of strings, and is one string")
    if len(tokens) != length:
        raise ValueError(f"{len(tokens)} tokens for scores of {length}")
    given: list[Any] = list(tokens)
    if not all(isinstance(piece, str) for piece in given):
        try:
            given = [f"{int(i)} " for i in given]
        except (TypeError, ValueError):
            raise TypeError("tokens must be strings, or ids") from None
    total = scores.sum(0)
    if whole and getattr(result, "direct", None) is None:
        total = numbers(result.total, "total", 1)
    return scores, total, given, prompt


def _page(
    scores: np.ndarray,
    total: np.ndarray,
    pieces: list[str],
    prompt: int,
    title: str | None,
    percentile: float,
) -> Page:
    rows = [*scores, total]
    data = {
        "prompt": prompt,
        "scores": [[_short(v) for v in row] for row in rows],
        "limits": [strongest(row, percentile) for row in rows],
        "sums": [signed(float(row.sum())) for row in rows],
    }
    spans = [
        f'<span class="t" data-i="{i}">{_visible(piece)}</span>'
        for i, piece in enumerate(pieces[:prompt])
    ]
    buttons = [
        f'<span class="t" role="button" tabindex="{0 if i == prompt else -1}" aria-pressed="false" '
        f'data-i="{i}">{_visible(piece)}</span>'
        for i, piece in enumerate(pieces[prompt:], prompt)
    ]
    head = "" if title is None else f"<h1>{html.escape(title)}</h1>"
    # In JSON inside a page nothing may end the element that it stands in.
    safe = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return Page(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title or 'Tokens')}</title>\n</head>\n<body>\n"
        f'<div class="jxp-matrix">\n<style>\n{_asset("matrix.css")}</style>\n{head}'
        '<p class="legend"><span class="low"></span><span class="scale" role="img" '
        'aria-label="blue against, red for"></span><span class="high"></span></p>\n'
        f'<h2>Prompt</h2>\n<div class="text prompt">{"".join(spans)}</div>\n'
        '<h2>Response</h2>\n<div class="text response" role="toolbar" aria-label="response tokens">'
        f'{"".join(buttons)}</div>\n<p class="says" role="status" aria-live="polite"></p>\n'
        f'<script type="application/json">{safe}</script>\n'
        f"<script>\n{_asset('matrix.js')}</script>\n</div>\n</body>\n</html>\n"
    )


@functools.cache
def _asset(name: str) -> str:
    return (importlib.resources.files("jaxplain.plots") / "assets" / name).read_text("utf-8")


def _short(number: float) -> float:
    """Three digits: what a tooltip shows."""
    return float(f"{number:.3g}")


def _visible(piece: str) -> str:
    """A token's text, escaped; a line's end is marked as well as made."""
    return html.escape(piece).replace("\n", "⏎\n") or "∅"


def _heatmap(
    scores: np.ndarray,
    pieces: list[str],
    prompt: int,
    title: str | None,
    percentile: float,
    ax: Any,
) -> Any:
    ticker = need("matplotlib.ticker")
    count, length = scores.shape
    size = (min(3.5 + 0.22 * length, 16.0), min(2.4 + 0.25 * count, 12.0))
    ax = new_axes(ax, size)
    limit = strongest(scores, percentile)
    image = ax.imshow(scores, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    plain = [_plain(piece) for piece in pieces]
    rooms = size[0] - 3.5, size[1] - 2.4  # without the margins
    for axis, labels, room in zip(
        (ax.xaxis, ax.yaxis), (plain, plain[prompt:]), rooms, strict=True
    ):
        step = math.ceil(len(labels) / (5 * room))  # at most so many that they stand apart
        shown = range(0, len(labels), step)
        axis.set_major_locator(ticker.FixedLocator(list(shown)))
        axis.set_ticklabels([labels[i] for i in shown])
    ax.tick_params(axis="x", labelrotation=90)
    ax.axvline(prompt - 0.5, color="0.4", linewidth=0.8)
    ax.set_xlabel("prompt | response")
    ax.set_ylabel("response")
    if title is not None:
        ax.set_title(title.replace("$", r"\$"))
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    return ax


def _plain(piece: str) -> str:
    """A token as a label: short, no mathematics, no line's end."""
    piece = piece.replace("\n", "⏎").strip() or "␣"
    return (piece if len(piece) <= _LABEL else piece[: _LABEL - 1] + "…").replace("$", r"\$")
