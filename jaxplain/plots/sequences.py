"""Contributions along a line: letters of a sequence, samples of a time series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplain.plots.common import DIVERGING, few_ticks, labels, need, new_axes, numbers, strongest

# Okabe & Ito's, told apart by colour-blind readers too.
_LETTERS = {"A": "#009e73", "C": "#0072b2", "G": "#e69f00", "T": "#d55e00", "U": "#d55e00"}


def logo(
    scores: Any,
    *,
    x: Any = None,
    alphabet: str = "ACGT",
    start: int = 0,
    highlight: Sequence[tuple[int, int]] = (),
    label: str = "contribution",
    ax: Any = None,
) -> Any:
    r"""Letters as high as their scores, positive ones above zero and negative ones below.

    Args:
      scores: (length, letters): contributions, zero but at the sequence's letters; or hypothetical
        ones, of every letter that could stand there, which are stacked.
      x: one-hot (length, letters): draws scores · x, the sequence's own letters of hypothetical
        scores.
      alphabet: the letters, in the order of the second axis.
      start: the first position's number on the axis.
      highlight: (first, last + 1) of stretches to shade, in the numbers of the axis.
      label: of the vertical axis.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: logomaker, which draws it, is not installed.
      ValueError: shapes that do not match, numbers not finite.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> x = np.eye(4)[[2, 0, 3, 0]]  # GATA
      >>> ax = jxp.plots.logo(x * [[1.0], [2.0], [2.0], [-1.0]])  # doctest: +SKIP
    """
    scores = numbers(scores, "scores", 2)
    if scores.shape[1] != len(alphabet):
        raise ValueError(f"scores {scores.shape} for the {len(alphabet)} letters {alphabet!r}")
    if x is not None:
        if np.shape(x) != scores.shape:
            raise ValueError(f"x {np.shape(x)} for scores {scores.shape}")
        scores = scores * np.asarray(x, np.float64)
    logomaker = need("logomaker", extra="genomics")
    table = need("pandas").DataFrame(
        scores, columns=list(alphabet), index=np.arange(start, start + len(scores))
    )
    ax = new_axes(ax, (min(14, max(4, 0.16 * len(scores))), 1.8))
    colors = {letter: _LETTERS.get(letter.upper(), "0.3") for letter in alphabet}
    logomaker.Logo(table, ax=ax, color_scheme=colors, flip_below=False, show_spines=False)
    for first, last in highlight:
        ax.axvspan(first - 0.5, last - 0.5, color="0.9", lw=0, zorder=-2)
    ax.axhline(0, color="0.3", lw=0.6)
    low, high = np.minimum(scores, 0).sum(1).min(), np.maximum(scores, 0).sum(1).max()
    room = 0.05 * (high - low or 1)
    ax.set(ylabel=label, xlim=(start - 0.5, start + len(scores) - 0.5))
    ax.set_ylim(low - room, high + room)
    ax.spines["left"].set_visible(True)
    return ax


def logos(
    rows: Mapping[str, Any],
    *,
    alphabet: str = "ACGT",
    start: int = 0,
    highlight: Sequence[tuple[int, int]] = (),
    figure: Any = None,
) -> Any:
    r"""Logos under one another: contributions and hypothetical ones, or several methods.

    Args:
      rows: {name: scores (length, letters)}, as {"contributions": h * x, "hypothetical": h}.
      alphabet: as in `logo`.
      start: as in `logo`.
      highlight: as in `logo`.
      figure: a matplotlib figure or subfigure to fill; None makes one.

    Returns:
      The axes, an array (rows,), which share their positions.

    Raises:
      ImportError: logomaker is not installed.
      ValueError: no row, rows of unequal shapes, or as `logo`.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> x, h = np.eye(4)[[2, 0, 3, 0]], np.ones((4, 4))
      >>> rows = {"contributions": h * x, "hypothetical": h}
      >>> axes = jxp.plots.logos(rows)  # doctest: +SKIP
    """
    if not rows:
        raise ValueError("there is nothing to draw: rows is empty")
    shapes = {np.shape(scores) for scores in rows.values()}
    if len(shapes) > 1:
        raise ValueError(f"rows must have one shape, and have {sorted(shapes)}")
    if figure is None:
        length = shapes.pop()[0]
        size = (min(14, max(4, 0.16 * length)), 1.6 * len(rows))
        figure = need("matplotlib.pyplot").figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, scores) in zip(axes, rows.items(), strict=True):
        logo(scores, alphabet=alphabet, start=start, highlight=highlight, label=name, ax=ax)
    figure.align_ylabels(axes)
    return axes


def mutations(
    gains: Any,
    x: Any,
    *,
    alphabet: str = "ACGT",
    start: int = 0,
    window: tuple[int, int] | None = None,
    percentile: float = 100.0,
    label: str = "gain",
    ax: Any = None,
) -> Any:
    r"""What f gains by each substitution: letters by positions, a dot at the letter that is there.

    Args:
      gains: (length, letters), as `jaxplain.in_silico_mutagenesis` gives them.
      x: the sequence, one-hot (length, letters).
      alphabet: the letters, in the order of the second axis.
      start: the first position's number on the axis.
      window: (first, last + 1) of the positions shown, in the numbers of the axis; None all.
      percentile: of the strengths, where the colours end.
      label: of the colour bar.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: shapes that do not match, numbers not finite, a window outside of the sequence.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> x = np.eye(4)[[2, 0, 3, 0]]  # GATA
      >>> ax = jxp.plots.mutations(-(1 - x), x)
      >>> [tick.get_text() for tick in ax.get_yticklabels()]
      ['A', 'C', 'G', 'T']
    """
    gains = numbers(gains, "gains", 2)
    if gains.shape[1] != len(alphabet) or np.shape(x) != gains.shape:
        raise ValueError(f"gains {gains.shape} and x {np.shape(x)} for the letters {alphabet!r}")
    first, last = window or (start, start + len(gains))
    if not start <= first < last <= start + len(gains):
        raise ValueError(f"the window {window} of positions {start} to {start + len(gains) - 1}")
    shown = slice(first - start, last - start)
    gains, x = gains[shown], np.asarray(x)[shown]
    ax = new_axes(ax, (min(14, max(4, 0.16 * len(gains))), 1.8))
    limit = strongest(gains, percentile)
    drawn = ax.imshow(
        gains.T, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
        extent=(first - 0.5, last - 0.5, len(alphabet) - 0.5, -0.5),
    )  # fmt: skip
    there, letters = np.nonzero(x)
    ax.scatter(first + there, letters, s=6, color="0.2", linewidths=0)
    ax.set_yticks(range(len(alphabet)), list(alphabet))
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.01)
    few_ticks(bar)
    bar.set_label(label, fontsize=9)
    bar.outline.set_visible(False)
    return ax


def time_series(
    scores: Any,
    x: Any,
    times: Any = None,
    *,
    names: Sequence[Any] | None = None,
    percentile: float = 99.0,
    label: str = "contribution",
    ax: Any = None,
) -> Any:
    r"""A series as lines, behind each channel's a strip coloured by its samples' contributions.

    Channels stand under one another, each scaled to its strip.

    Args:
      scores: (length,), or (length, channels).
      x: the series, shaped like scores.
      times: (length,), rising; None numbers the samples.
      names: of the channels.
      percentile: where colours saturate, as in `image`.
      label: the colour bar's.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: shapes that do not match, times that do not rise, numbers not finite.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> x = np.sin(np.arange(20.0))
      >>> ax = jxp.plots.time_series(x * np.abs(x), x)
      >>> ax.get_xlabel()
      'time'
    """
    tables = scores, x
    scores, x = numbers(scores, "scores", 1, 2), numbers(x, "the series", 1, 2)
    if scores.shape != x.shape:
        raise ValueError(f"scores {scores.shape} for a series {x.shape}")
    scores, x = scores.reshape(len(x), -1), x.reshape(len(x), -1)
    length, channels = x.shape
    times = np.arange(float(length)) if times is None else numbers(times, "times", 1)
    if len(times) != length:
        raise ValueError(f"{len(times)} times for {length} samples")
    if (np.diff(times) <= 0).any():
        raise ValueError("times must rise from each sample to the next")
    ax = new_axes(ax, (7, 1.2 + 0.8 * channels))
    steps = np.diff(times) if length > 1 else np.ones(1)
    middles = times[:-1] + steps[: length - 1] / 2
    edges = np.concatenate([[times[0] - steps[0] / 2], middles, [times[-1] + steps[-1] / 2]])
    limit = strongest(scores, percentile)
    strips = ax.pcolormesh(
        edges, np.arange(channels + 1), scores.T, cmap=DIVERGING, vmin=-limit, vmax=limit
    )
    low, high = x.min(0), x.max(0)
    flat = high == low
    scaled = np.where(flat, 0.5, 0.1 + 0.8 * (x - low) / np.where(flat, 1, high - low))
    for channel in range(channels):
        ax.plot(times, channel + scaled[:, channel], color="black", lw=1.1)
        if channel:
            ax.axhline(channel, color="0.7", lw=0.6)
    shown = labels(names, channels, "channel", *(t for t in tables if np.ndim(t) == 2))
    if channels == 1 and names is None:
        shown = [""]
    ax.set(yticks=np.arange(channels) + 0.5, yticklabels=shown, ylim=(channels, 0), xlabel="time")
    ax.tick_params(axis="y", length=0)
    beyond = np.abs(scores).max() > limit
    bar = ax.figure.colorbar(strips, ax=ax, label=label, extend="both" if beyond else "neither")
    few_ticks(bar)
    bar.outline.set_visible(False)
    return ax
