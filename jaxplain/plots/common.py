"""What all pictures share: axes, arrays that can be drawn, colours and their limits."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxplain._frames import names_of

DIVERGING = "RdBu_r"  # ColorBrewer's: safe for colour-blind readers, white at zero
SEQUENTIAL = "Purples"
FOR, AGAINST = "#b2182b", "#2166ac"  # its red and blue, for what is not an image


def need(module: str, package: str | None = None, extra: str = "plots") -> Any:
    """The module, or a word on what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this picture needs {package or module.partition('.')[0]}: "
            f'pip install "jaxplain[{extra}]"'
        ) from error


def new_axes(ax: Any, size: tuple[float, float]) -> Any:
    """The axes given, or those of a new figure of so many inches."""
    if ax is not None:
        return ax
    return need("matplotlib.pyplot").subplots(figsize=size, layout="constrained")[1]


def numbers(values: Any, what: str, *ranks: int) -> np.ndarray:
    """Finite float64 numbers of one of these ranks, at least one of them."""
    array = np.asarray(values, np.float64)
    if array.ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ValueError(f"{what} must have {wanted} axes, and the shape is {array.shape}")
    if not array.size:
        raise ValueError(f"{what} are empty: the shape is {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} hold {(~np.isfinite(array)).sum()} infinite or NaN numbers")
    return array


def labels(names: Sequence[Any] | None, count: int, default: str, *tables: Any) -> list[str]:
    """One name for each of so many things: those given, else a table's, else numbers."""
    if names is None:
        names = next(filter(None, map(names_of, tables)), None)
    if names is None:
        return [f"{default} {i}" for i in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {default}s")
    return list(map(str, names))


def few_ticks(bar: Any) -> None:
    """A colour bar's numbers so short and few that they stand apart."""
    ticker = need("matplotlib.ticker")
    bar.locator = ticker.MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True)
    bar.formatter = ticker.ScalarFormatter(useMathText=True)
    bar.formatter.set_powerlimits((-2, 4))
    bar.update_ticks()


def strongest(scores: np.ndarray, percentile: float = 100) -> float:
    """The percentile of the strengths that are not zero; 1 where all are."""
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, and is {percentile}")
    strengths = np.abs(scores[scores != 0])
    return float(np.percentile(strengths, percentile)) if strengths.size else 1.0


def signed(number: float, digits: int = 3) -> str:
    """The number with its sign, as a person would write it."""
    return f"{number:+.{digits}g}".replace("-", "−")
