"""Contributions of features, layers and neurons as bars; many examples; curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplain.plots.common import AGAINST, FOR, labels, need, new_axes, numbers, signed


def bar(
    scores: Any,
    names: Sequence[Any] | None = None,
    *,
    values: Any = None,
    errors: Any = None,
    top: int | None = 10,
    label: str = "contribution",
    ax: Any = None,
) -> Any:
    r"""Features by strength, as bars from zero.

    The features beyond the first `top` are one bar with their sum, so that bars still add up.

    Args:
      scores: (features,).
      names: of the features; None takes those of scores or values, where they are a table's row
        (a pandas series), and else numbers them.
      values: the features' values, written beside their names: (features,) of anything.
      errors: half the length of whiskers, in the units of scores: (features,).
      top: how many features have a bar of their own; None all.
      label: of the axis.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: lengths that do not match, top < 1, numbers not finite.

    Example:
      >>> import jaxplain as jxp
      >>> ax = jxp.plots.bar([0.5, -2.0, 1.0], ["age", "dose", "weight"])
      >>> [text.get_text() for text in ax.get_yticklabels()]
      ['dose', 'weight', 'age']
    """
    table, scores = scores, numbers(scores, "scores", 1)
    names = labels(names, len(scores), "feature", table, values)
    if values is not None:
        beside = labels([_written(v) for v in values], len(scores), "feature")
        names = [f"{name} = {value}" for name, value in zip(names, beside, strict=True)]
    if errors is not None and np.shape(errors) != scores.shape:
        raise ValueError(f"errors {np.shape(errors)} for scores {scores.shape}")
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, and is {top}")
    order = np.argsort(-np.abs(scores), kind="stable")
    first, rest = order[:top], order[len(scores) if top is None else top :]
    lengths = scores[first]
    shown = [names[i] for i in first]
    whiskers = None if errors is None else numbers(errors, "errors", 1)[first]
    if len(rest):
        lengths = np.append(lengths, scores[rest].sum())
        shown.append(f"sum of {len(rest)} others")
        whiskers = None if whiskers is None else np.append(whiskers, np.nan)

    width = max(6, 3.5 + 0.08 * max(map(len, shown)))
    ax = new_axes(ax, (width, 0.9 + 0.32 * len(shown)))
    places = np.arange(len(shown))
    colors = [FOR if length > 0 else AGAINST for length in lengths]
    ax.barh(places, lengths, color=colors, height=0.7)
    if whiskers is not None:
        ax.errorbar(lengths, places, xerr=whiskers, fmt="none", ecolor="0.25", capsize=2, lw=1)
    ax.set(yticks=places, yticklabels=shown, xlabel=label, ylim=(len(shown) - 0.4, -0.6))
    _zero_line(ax)
    _write_lengths(ax, lengths, whiskers)
    return ax


def layers(scores: Mapping[str, Any], *, label: str = "contribution", ax: Any = None) -> Any:
    r"""What passes through each layer: the sums of its positive and of its negative scores.

    The dot is their sum; where the layers cut f it is f(x) - f(ref) in each of them.

    Args:
      scores: {layer: array of any shape}, as a method with several names in `at=` returns them.
      label: of the axis.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes, layers from the top in the order given.

    Raises:
      ValueError: no layer, an empty one, numbers not finite.

    Example:
      >>> import jaxplain as jxp
      >>> ax = jxp.plots.layers({"hidden": [2.0, -1.0], "out": [1.0]})
      >>> ax.lines[-1].get_xdata().tolist()
      [1.0, 1.0]
    """
    if not scores:
        raise ValueError("there is no layer: scores is empty")
    flat = [numbers(np.ravel(s), f"scores of {name}", 1) for name, s in scores.items()]
    ax = new_axes(ax, (6, 0.9 + 0.4 * len(flat)))
    places = np.arange(len(flat))
    ax.barh(places, [s[s > 0].sum() for s in flat], color=FOR, height=0.6, label="positive")
    ax.barh(places, [s[s < 0].sum() for s in flat], color=AGAINST, height=0.6, label="negative")
    ax.set(yticks=places, yticklabels=[*scores], xlabel=label, ylim=(len(flat) - 0.4, -0.6))
    _zero_line(ax)
    sums = [s.sum() for s in flat]
    ax.plot(sums, places, "o", color="white", markeredgecolor="black", ms=6, label="sum")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def neurons(
    scores: Any,
    names: Sequence[Any] | None = None,
    *,
    top: int | None = 20,
    label: str = "contribution",
    ax: Any = None,
) -> Any:
    r"""The neurons of a layer by strength; of several examples their mean ± its standard error.

    Args:
      scores: (neurons,), or (examples, neurons).
      names: of the neurons; None numbers them.
      top: as in `bar`.
      label: of the axis.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: as `bar`.

    Example:
      >>> import jaxplain as jxp
      >>> ax = jxp.plots.neurons([[0.0, 2.0], [1.0, 4.0]])
      >>> [text.get_text() for text in ax.get_yticklabels()]
      ['neuron 1', 'neuron 0']
    """
    table, scores = scores, numbers(scores, "scores", 1, 2)
    names = labels(names, scores.shape[-1], "neuron", table)
    if scores.ndim == 1:
        return bar(scores, names, top=top, label=label, ax=ax)
    count = len(scores)
    errors = scores.std(0, ddof=1) / np.sqrt(count) if count > 1 else None
    mean = f"{label}: mean of {count} examples" + (" ± standard error" if count > 1 else "")
    return bar(scores.mean(0), names, errors=errors, top=top, label=mean, ax=ax)


def beeswarm(
    scores: Any, x: Any, names: Sequence[Any] | None = None, *, top: int = 10, ax: Any = None
) -> Any:
    r"""Every example's contribution as a dot, a row a feature, coloured by the feature's value.

    Args:
      scores: (examples, features).
      x: the features' values, (examples, features).
      names: of the features; None takes the columns of scores or x, where they are data frames.
      top: how many features, the strongest on average, have a row of their own.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: shap, which draws it, is not installed.
      ValueError: shapes that do not match, numbers not finite.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> x = np.random.default_rng(0).normal(size=(20, 2))
      >>> ax = jxp.plots.beeswarm(x * [1, 3], x, ["mild", "strong"])  # doctest: +SKIP
    """
    from jaxplain.interop import to_shap

    table, scores = scores, numbers(scores, "scores", 2)
    explanation = to_shap(scores, x, names=labels(names, scores.shape[1], "feature", table, x))
    shap = need("shap", extra="shap")
    rows = min(top, scores.shape[1])
    ax = new_axes(ax, (7, 1 + 0.4 * rows))
    shap.plots.beeswarm(explanation, max_display=top, ax=ax, show=False, plot_size=None)
    ax.set_xlabel("contribution", fontsize=10)
    ax.tick_params(labelsize=9)
    return ax


def curve(
    ys: Mapping[str, Any],
    xs: Any = None,
    *,
    xlabel: str = "share of features",
    ylabel: str = "f",
    ax: Any = None,
) -> Any:
    r"""Curves, such as f against the share of features deleted, a line a method.

    Args:
      ys: {name: (points,)}, or (examples, points): then their mean, and ± its standard error as a
        band.
      xs: (points,), None for equal steps from 0 to 1.
      xlabel: of the horizontal axis.
      ylabel: of the vertical axis.
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: no curve, lengths that do not match, numbers not finite.

    Example:
      >>> import jaxplain as jxp
      >>> ax = jxp.plots.curve({"DeepLIFT": [3.0, 1.0, 0.0], "random": [3.0, 2.0, 0.0]})
      >>> ax.lines[0].get_xdata().tolist()
      [0.0, 0.5, 1.0]
    """
    if not ys:
        raise ValueError("there is no curve: ys is empty")
    lines = {name: numbers(y, f"points of {name}", 1, 2) for name, y in ys.items()}
    points = next(iter(lines.values())).shape[-1]
    xs = np.linspace(0, 1, points) if xs is None else numbers(xs, "xs", 1)
    for name, y in lines.items():
        if y.shape[-1] != len(xs):
            raise ValueError(f"{name} has {y.shape[-1]} points at {len(xs)} places")
    ax = new_axes(ax, (5.5, 3.6))
    colors = need("matplotlib").style.library["tableau-colorblind10"]["axes.prop_cycle"]
    dashes = itertools.cycle(("-", "--", ":"))  # lines that coincide are seen as well
    for (name, y), color, dash in zip(lines.items(), colors(), dashes, strict=False):
        mean = y if y.ndim == 1 else y.mean(0)
        ax.plot(xs, mean, dash, label=name, **color)
        if y.ndim == 2 and len(y) > 1:
            error = y.std(0, ddof=1) / np.sqrt(len(y))
            ax.fill_between(xs, mean - error, mean + error, alpha=0.2, lw=0, **color)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=9, frameon=False)
    return ax


def _written(value: Any) -> str:
    number = np.issubdtype(np.asarray(value).dtype, np.number)
    return f"{float(value):.4g}" if number else str(value)


def _write_lengths(ax: Any, lengths: np.ndarray, whiskers: np.ndarray | None) -> None:
    """Each bar's number behind its end, with room for it between names and edge."""
    reach = np.zeros_like(lengths) if whiskers is None else np.nan_to_num(whiskers)
    ends = lengths + np.copysign(reach, lengths)
    texts = [
        ax.annotate(
            signed(length), (end, place), xytext=(4 if length >= 0 else -4, 0),
            textcoords="offset points", ha="left" if length >= 0 else "right", va="center",
            fontsize=8, color="0.3",
        )
        for place, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]  # fmt: skip
    low, high = min(0.0, ends.min()), max(0.0, ends.max())
    ax.set_xlim(low, high if high > low else low + 1)
    for _ in range(2):  # the room changes the layout a little
        left, right = _text_shares(ax, texts, lengths)
        whole = (high - low or 1) / max(1 - left - right, 0.2)
        ax.set_xlim(low - left * whole, high + right * whole)


def _text_shares(ax: Any, texts: list[Any], lengths: np.ndarray) -> tuple[float, float]:
    """Which share of the axes' width the longest text of each side takes, and a little more."""
    ax.figure.get_figure(root=True).draw_without_rendering()
    width = ax.get_window_extent().width
    shares = [(text.get_window_extent().width + 8) / width for text in texts]
    sides = (lengths < 0, lengths >= 0)
    left, right = (
        max((s for s, on in zip(shares, side, strict=True) if on), default=0.0) for side in sides
    )
    return left, right


def _zero_line(ax: Any) -> None:
    ax.axvline(0, color="0.3", lw=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
