"""Contributions of pixels: one map, or methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplain.methods.cam import upsample
from jaxplain.plots.common import (
    DIVERGING,
    SEQUENTIAL,
    few_ticks,
    labels,
    need,
    new_axes,
    numbers,
    signed,
    strongest,
)

SIGNS = ("all", "positive", "negative", "absolute")
STYLES = ("heat", "blend", "masked")
_SIDE = 8  # pixels: below, an array (n, n, 3) may well be n images of a test


def image(
    scores: Any,
    x: Any = None,
    *,
    style: str = "heat",
    sign: str = "all",
    percentile: float = 99.0,
    limit: float | None = None,
    colorbar: bool = True,
    label: str = "contribution",
    image_cmap: str = "gray",
    ax: Any = None,
) -> Any:
    r"""A map of what each pixel contributes.

    Channels are summed first, then the sign is chosen: all, max(c, 0), min(c, 0) or |c|. Colours
    span [-limit, limit], or its positive or negative half, with zero white.

    Args:
      scores: (height, width), or with channels on a third axis. A map coarser than the image it is
        laid over, such as a class activation map, is brought to its size as by
        `jaxplain.cam.upsample`.
      x: the image, for the styles that show it: (height, width) or (height, width, 1, 3 or 4);
        floats outside [0, 1] are shown from the least to the greatest.
      style: "heat", the map alone; "blend", the map over the image in grey, the stronger the less
        transparent; "masked", the image itself, visible where the contributions are strong.
      sign: "all", "positive", "negative" or "absolute".
      percentile: of the strengths other than zero, at which colours saturate, so that one pixel
        does not pale all the others.
      limit: where colours saturate instead, in the units of scores.
      colorbar: whether to draw one.
      label: the colour bar's.
      image_cmap: matplotlib's colour map of an image of one channel ("gray_r": ink on paper).
      ax: axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ValueError: a shape, style, sign, percentile or limit that can't be drawn; numbers not finite.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> ax = jxp.plots.image(np.array([[-2.0, 0.0], [1.0, 0.5]]), percentile=100)
      >>> tuple(map(float, ax.images[0].get_clim()))
      (-2.0, 2.0)
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, and is {style!r}")
    heat = _summed(scores)
    if style != "heat":
        heat = _laid_over(x, heat)
    heat = _chosen(heat, sign)
    if limit is None:
        limit = strongest(heat, percentile)
    if not limit > 0:
        raise ValueError(f"limit must be positive, and is {limit}")
    picture = heat if style == "heat" else _picture(x, heat.shape, style)
    ax = new_axes(ax, (4, 3.4))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color="0.8", linewidth=0.8)
    strength = np.clip(np.abs(heat) / limit, 0, 1)
    shown = _colors(sign, limit)
    if style == "masked":
        ax.imshow(picture, alpha=strength, cmap=image_cmap, vmin=0, vmax=1)
        return ax
    if style == "blend":
        ax.imshow(_grey(picture), cmap=image_cmap, vmin=0, vmax=1, alpha=0.6)  # pale, below colours
        shown["alpha"] = 0.9 * np.sqrt(strength)
    ax.imshow(heat, **shown)
    if colorbar:  # one of its own: where pixels are transparent, the image's map is too
        drawn = need("matplotlib.cm").ScalarMappable(None, shown["cmap"])
        drawn.set_clim(shown["vmin"], shown["vmax"])
        _colorbar(drawn, heat, label, ax)
    return ax


def compare(
    xs: Any,
    maps: Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    limits: str = "shared",
    sign: str = "all",
    percentile: float = 99.0,
    label: str = "contribution",
    image_cmap: str = "gray",
    figure: Any = None,
) -> Any:
    r"""Methods side by side: a row an example, first the image, then each method's map.

    Under each map stands its sum Σ.

    Args:
      xs: images, (examples, height, width[, channels]); or one, (height, width[, 1 or 3]).
      maps: {method: scores}, each (examples, height, width[, channels]), or one image's.
      titles: of the images, one each.
      captions: under the images, one each.
      limits: "shared", all maps on one colour scale with one colour bar; "each", every map on its
        own, for methods whose units differ.
      sign: as in `image`.
      percentile: as in `image`, over the maps that share a scale.
      label: the colour bar's.
      image_cmap: as in `image`.
      figure: a matplotlib figure or subfigure to fill; None makes one.

    Returns:
      The axes, an array (examples, 1 + methods).

    Raises:
      ValueError: no example or method, shapes that do not match, or what `image` refuses.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> xs = np.ones((2, 4, 4))
      >>> jxp.plots.compare(xs, {"gradient": xs, "DeepLIFT": -xs}).shape
      (2, 3)
    """
    if limits not in ("shared", "each"):
        raise ValueError(f"limits must be shared or each, and is {limits!r}")
    if _one_image(xs, maps):
        xs, maps = np.asarray(xs)[None], {name: np.asarray(m)[None] for name, m in maps.items()}
    xs = numbers(xs, "images", 3, 4)
    if not maps:
        raise ValueError("there is no method to compare: maps is empty")
    scores = {name: numbers(values, f"scores of {name}", 3, 4) for name, values in maps.items()}
    for name, values in scores.items():
        if values.shape[:3] != xs.shape[:3]:
            raise ValueError(f"{name} has scores {values.shape} for images {xs.shape}")
    titles = ["image"] * len(xs) if titles is None else labels(titles, len(xs), "image")
    captions = [""] * len(xs) if captions is None else labels(captions, len(xs), "image")
    chosen = {name: [_chosen(_summed(s), sign) for s in all_] for name, all_ in scores.items()}
    everything = np.stack([*chosen.values()])
    limit = strongest(everything, percentile) if limits == "shared" else None

    rows, columns = len(xs), 1 + len(maps)
    if figure is None:
        spaced = need("matplotlib.layout_engine").ConstrainedLayoutEngine(
            w_pad=0.12, h_pad=0.1, hspace=0.02
        )
        size = (2.1 * columns, 2.45 * rows + (0.9 if limit else 0.1))
        figure = need("matplotlib.pyplot").figure(figsize=size, dpi=110, layout=spaced)
    axes = figure.subplots(rows, columns, squeeze=False)
    small = {"fontsize": 9, "color": "0.35", "labelpad": 5}
    for i, row in enumerate(axes):
        row[0].set(xticks=[], yticks=[])
        row[0].spines[:].set(color="0.8", linewidth=0.8)
        row[0].imshow(_picture(xs[i], xs.shape[1:3]), cmap=image_cmap, vmin=0, vmax=1)
        row[0].set_title(titles[i], fontsize=10)
        row[0].set_xlabel(captions[i], **small)
        for ax, (name, values) in zip(row[1:], scores.items(), strict=True):
            drawn = dict(sign=sign, percentile=percentile, limit=limit, colorbar=False, ax=ax)
            image(values[i], **drawn)
            ax.set_title(name, fontsize=10)
            ax.set_xlabel(f"Σ = {_sum(values[i])}", **small)
    if limit:
        place = dict(location="bottom", shrink=0.6, aspect=45, pad=0.03)
        bar = _colorbar(axes[0, 1].images[-1], everything, label, list(axes.flat), **place)
        bar.ax.tick_params(labelsize=9)
    return axes


def _one_image(xs: Any, maps: Mapping[str, Any]) -> bool:
    """Whether there is no axis of examples."""
    shape = np.shape(xs)
    # As (examples, height, width) these would be many images of one or three columns.
    colours = len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= _SIDE
    return len(shape) == 2 or colours or any(np.ndim(m) == 2 for m in maps.values())


def _sum(scores: np.ndarray) -> str:
    total = scores.sum()
    return signed(total) if 0 < abs(total) < 0.1 else f"{total:+.2f}".replace("-", "−")


def _summed(scores: Any) -> np.ndarray:
    """A map (height, width): scores with their channels summed."""
    scores = numbers(scores, "scores", 2, 3)
    return scores.sum(-1) if scores.ndim == 3 else scores


def _laid_over(x: Any, heat: np.ndarray) -> np.ndarray:
    """A map as large as the image: a coarser one is interpolated."""
    shape = np.shape(x)[:2]
    if len(shape) != 2 or not all(h < s for h, s in zip(heat.shape, shape, strict=True)):
        return heat
    return np.asarray(upsample(heat.astype(np.float32), shape), np.float64)


def _chosen(heat: np.ndarray, sign: str) -> np.ndarray:
    if sign not in SIGNS:
        raise ValueError(f"sign must be one of {', '.join(SIGNS)}, and is {sign!r}")
    choose = {"positive": lambda c: np.maximum(c, 0), "negative": lambda c: np.minimum(c, 0)}
    return np.abs(heat) if sign == "absolute" else choose.get(sign, np.asarray)(heat)


def _colors(sign: str, limit: float) -> dict[str, Any]:
    """Colour map and limits: the diverging map, its upper or lower half, or a sequential one."""
    if sign == "absolute":
        return {"cmap": need("matplotlib").colormaps[SEQUENTIAL], "vmin": 0, "vmax": limit}
    low, high = {"positive": (0, 1), "negative": (-1, 0)}.get(sign, (-1, 1))
    whole = need("matplotlib").colormaps[DIVERGING]
    part = whole(np.linspace((1 + low) / 2, (1 + high) / 2, 256))
    cmap = need("matplotlib.colors").ListedColormap(part)
    return {"cmap": cmap, "vmin": low * limit, "vmax": high * limit}


def _picture(x: Any, shape: tuple[int, ...], style: str = "image") -> np.ndarray:
    """The image as imshow takes it, in [0, 1]: (height, width[, 3 or 4])."""
    if x is None:
        raise ValueError(f"the style {style} shows the image: give it as x")
    whole = np.issubdtype(np.asarray(x).dtype, np.integer)
    picture = numbers(x, "the image", 2, 3)
    if picture.shape[:2] != shape or picture.shape[2:] not in [(), (1,), (3,), (4,)]:
        raise ValueError(
            f"an image of shape {shape}, or with 1, 3 or 4 channels behind, fits the scores, and "
            f"this one has {picture.shape}; `jaxplain.cam.upsample` brings a map to another shape"
        )
    if picture.shape[2:] == (1,):
        picture = picture[..., 0]
    low, high = picture.min(), picture.max()
    if whole and low >= 0 and high <= 255:
        return picture / 255
    if low < 0 or high > 1:
        return (picture - low) / (high - low if high > low else 1)
    return picture


def _grey(picture: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R BT.601), for colours to mean contributions only."""
    return picture if picture.ndim == 2 else picture[..., :3] @ np.array([0.299, 0.587, 0.114])


def _colorbar(drawn: Any, heat: np.ndarray, label: str, ax: Any, **place: Any) -> Any:
    """A bar with pointed ends where some of the heat is beyond its limits."""
    low, high = drawn.get_clim()
    beyond = (heat.min() < low, heat.max() > high)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}
    figure = (ax[0] if isinstance(ax, list) else ax).figure
    bar = figure.colorbar(drawn, ax=ax, extend=extend.get(beyond, "neither"), **place)
    few_ticks(bar)
    bar.set_label(label, fontsize=9)
    bar.outline.set_visible(False)
    return bar
