"""shap's plots take our contributions."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxplain.plots.common import labels


def to_shap(
    scores: Any,
    x: Any = None,
    base: Any = 0.0,
    *,
    names: Sequence[Any] | None = None,
    classes: Sequence[Any] | None = None,
) -> Any:
    r"""Contributions as a `shap.Explanation`, which all of shap's plots take.

    shap writes f(x) = base + Σ contributions, so base is what f is where nothing contributes:
    f(ref), or the mean of f over references.

    Args:
      scores: contributions, (features,) of one example, (examples, features) of a batch, or
        (examples, features, classes) of several outputs.
      x: the features' values, (features,) or (examples, features); None leaves them out.
      base: f(ref), a number, (examples,) for a batch with a reference each, or (classes,) or
        (examples, classes) of several outputs.
      names: of the features; None takes those of scores or x, where they are a data frame or its
        row, and else numbers them.
      classes: names of the outputs, where there are several.

    Returns:
      A `shap.Explanation`: `values` like scores, `data` like x, `base_values` a number, (examples,)
      or (examples, classes); `explanation[..., k]` is the k-th class's.

    Raises:
      ImportError: shap is not installed.
      ValueError: shapes or names that do not match.

    Example:
      >>> import jaxplain as jxp
      >>> one = jxp.interop.to_shap([1.0, -2.0], base=3.0, names=["a", "b"])  # doctest: +SKIP
      >>> shap.plots.waterfall(one)  # doctest: +SKIP
    """
    values = np.asarray(scores, np.float64)
    if values.ndim not in (1, 2, 3) or not values.size:
        raise ValueError(
            "scores must be (features,), (examples, features) or (examples, features, classes), "
            f"and are {values.shape}"
        )
    if x is not None and np.shape(x) != values.shape[:2]:
        raise ValueError(f"x {np.shape(x)} for scores {values.shape}")
    if classes is not None and (values.ndim < 3 or len(classes) != values.shape[2]):
        raise ValueError(f"{len(classes)} classes for scores {values.shape}")
    # One number an example, and for several outputs one each.
    wanted, bases = values.shape[:-1] if values.ndim < 3 else values.shape[::2], np.asarray(base)
    if bases.shape not in ((), wanted, wanted[1:]):
        raise ValueError(f"base {bases.shape} for scores {values.shape}: a number, or {wanted}")
    names = labels(names, values.shape[min(1, values.ndim - 1)], "feature", scores, x)
    try:
        shap = importlib.import_module("shap")
    except ImportError as error:
        raise ImportError("to_shap needs shap: pip install shap") from error
    return shap.Explanation(
        values,
        # A batch's plots look for one base an example, one example's for a number.
        base_values=np.broadcast_to(bases.astype(float), wanted).copy() if wanted else float(base),
        data=None if x is None else np.asarray(x),
        feature_names=names,
        output_names=None if classes is None else list(map(str, classes)),
    )
