"""Contributions of tokens, as HTML in which every token stays text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from jaxplain.plots.common import AGAINST, FOR, need, numbers, signed, strongest


class Html(str):
    """HTML that a notebook renders when it is a cell's value; anywhere else a string."""

    def _repr_html_(self) -> str:
        return str(self)


def tokens(
    tokens: Sequence[str],
    scores: Any,
    *,
    title: str | None = None,
    percentile: float = 100.0,
    limit: float | None = None,
    ax: Any = None,
) -> Any:
    r"""Text whose tokens are shaded by their contributions, red for and blue against.

    Each token's number is its tooltip. Tokens and title are escaped: markup in them is shown, and
    does nothing. (Of many outputs at once, to point at: `token_matrix`.)

    Args:
      tokens: the text's pieces, in order.
      scores: (tokens,); of (tokens, features), as embeddings give, the sum over features.
      title: a line above.
      percentile: where colours saturate, as in `image`.
      limit: where they do instead, in the units of scores.
      ax: matplotlib's axes, for a picture in place of HTML.

    Returns:
      A string of HTML, with the method by which notebooks show it; with `ax` the axes, drawn on.

    Raises:
      TypeError: the tokens are one string, or not all strings.
      ValueError: as many scores as tokens are needed; limit ≤ 0; numbers not finite.

    Example:
      >>> import jaxplain as jxp
      >>> page = jxp.plots.tokens(["a", "<script>"], [1.0, -0.5])
      >>> "&lt;script&gt;" in page, "<script>" in page
      (True, False)
    """
    if isinstance(tokens, str):
        raise TypeError("tokens must be a sequence of strings, and is one string")
    kinds = {type(token).__name__ for token in tokens if not issubclass(type(token), str)}
    if kinds:
        raise TypeError(f"tokens must be strings, and some are {', '.join(sorted(kinds))}")
    scores = numbers(scores, "scores", 1, 2)
    scores = scores.reshape(len(scores), -1).sum(-1)
    if len(scores) != len(tokens):
        raise ValueError(f"{len(scores)} scores for {len(tokens)} tokens")
    if limit is None:
        limit = strongest(scores, percentile)
    if not limit > 0:
        raise ValueError(f"limit must be positive, and is {limit}")
    if ax is not None:
        return _drawn(ax, tokens, scores / limit, title)
    head = "" if title is None else f'<div style="{_TITLE}">{html.escape(title)}</div>'
    spans = (_span(token, score, limit) for token, score in zip(tokens, scores, strict=True))
    return Html(f'<div style="{_BOX}">{head}{_legend(limit)}{"".join(spans)}</div>')


def _drawn(ax: Any, tokens: Sequence[str], shares: Any, title: str | None) -> Any:
    """Text on axes, line by line, in the widths that matplotlib gives it."""
    colors = need("matplotlib.colors")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title.replace("$", r"\$"), loc="left")
    ax.figure.draw_without_rendering()
    frame, (letter, height) = ax.get_window_extent(), _letter(ax)
    left, line = 0.0, 1
    for token, share in zip(tokens, shares, strict=True):
        for number, piece in enumerate(token.split("\n")):
            # A font of one width: spaces at the ends, which matplotlib leaves out, count.
            width = len(piece) * letter
            if number or left + width > frame.width > width:
                left, line = 0.0, line + 1
            if piece.strip():
                color = FOR if share > 0 else AGAINST
                lead = letter * (len(piece) - len(piece.lstrip()))
                ax.text(
                    (left + lead) / frame.width,
                    1 - 1.9 * line * height / frame.height,
                    piece.strip().replace("$", r"\$"),
                    family="monospace",
                    transform=ax.transAxes,
                    bbox={
                        "facecolor": colors.to_rgba(color, 0.75 * min(abs(share), 1)),
                        "edgecolor": "none",
                        "pad": 1.5,
                    },
                )
            left += width
    return ax


def _letter(ax: Any) -> tuple[float, float]:
    """How far one letter is from the next, and their height, in dots."""
    texts = [ax.text(0, 0, "m" * n, family="monospace", transform=None) for n in (20, 40)]
    few, many = (text.get_window_extent().width for text in texts)
    height = texts[0].get_fontsize() * ax.figure.dpi / 72
    for text in texts:
        text.remove()
    # A font's hints make letters wider where the picture is saved with fewer dots.
    return max((many - few) / 20, _WIDEST * height), height


_WIDEST = 0.635  # of a letter's height


# The reader's scheme, light or dark; older browsers, which can't ask for it, get a light box.
_BOX = (
    "color-scheme: light dark; background: #fff; color: #000; "
    "background: light-dark(#fff, #16181c); color: light-dark(#000, #f2f2f2); padding: 0.5em; "
    "line-height: 2; font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere"
)
_TITLE = "opacity: 0.7; font-family: sans-serif; font-size: 90%; line-height: 1.4"


def _legend(limit: float) -> str:
    """The colours from the strongest against to the strongest for, with their numbers."""
    shade = f"linear-gradient(to right, {AGAINST}{_opaque(1)}, transparent, {FOR}{_opaque(1)})"
    strip = (
        f"display: inline-block; width: 8em; height: 0.8em; margin: 0 0.5em; background: {shade}"
    )
    low, high = signed(-limit), signed(limit)
    bar = (
        f'{low}<span role="img" aria-label="legend: {low} to {high}" style="{strip}"></span>{high}'
    )
    return f'<div style="{_TITLE}">{bar}</div>'


def _opaque(share: float) -> str:
    return f"{round(0.75 * 255 * min(share, 1)):02x}"


def _span(token: str, score: float, limit: float) -> str:
    color = FOR if score > 0 else AGAINST
    opacity = _opaque(abs(score) / limit)
    style = f"background: {color}{opacity}; border-radius: 0.2em; padding: 0.2em 0.1em"
    tooltip = html.escape(f"{token}  {signed(score)}")
    return f'<span style="{style}" title="{tooltip}">{html.escape(token)}</span>'
