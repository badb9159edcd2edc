"""shap's plots take our contributions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxplain.plots.common import labels


def to_shap(
    scores: Any, x: Any = None, base: Any = 0.0, *, names: Sequence[Any] | None = None
) -> Any:
    r"""Contributions as a `shap.Explanation`, which all of shap's plots take.

    shap writes f(x) = base + Σ contributions, so base is what f is where nothing contributes:
    f(ref), or the mean of f over references.

    Args:
      scores: contributions, (features,) of one example or (examples, features) of a batch.
      x: the features' values, shaped like scores; None leaves them out.
      base: f(ref), a number, or (examples,) for a batch with a reference each.
      names: of the features; None takes those of scores or x, where they are a data frame or its
        row, and else numbers them.

    Returns:
      A `shap.Explanation`: `values` and `data` like scores, `base_values` a number or (examples,).

    Raises:
      ImportError: shap is not installed.
      ValueError: shapes or names that do not match.

    Example:
      >>> import jaxplain as jxp
      >>> one = jxp.interop.to_shap([1.0, -2.0], base=3.0, names=["a", "b"])  # doctest: +SKIP
      >>> shap.plots.waterfall(one)  # doctest: +SKIP
    """
    values = np.asarray(scores, np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            f"scores must be (features,) or (examples, features), and are {values.shape}"
        )
    if x is not None and np.shape(x) != values.shape:
        raise ValueError(f"x {np.shape(x)} for scores {values.shape}")
    bases = np.asarray(base, np.float64)
    if bases.ndim and bases.shape != values.shape[:-1]:
        raise ValueError(f"base {bases.shape} for scores {values.shape}: a number, or one each")
    names = labels(names, values.shape[-1], "feature", scores, x)
    try:
        shap = importlib.import_module("shap")
    except ImportError as error:
        raise ImportError("to_shap needs shap: pip install shap") from error
    return shap.Explanation(
        values,
        # A batch's plots look for one base an example, one example's for a number.
        base_values=np.broadcast_to(bases, len(values)).copy() if values.ndim == 2 else float(base),
        data=None if x is None else np.asarray(x),
        feature_names=names,
    )
