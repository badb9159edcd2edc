"""Bridges to other libraries: shap's plots and Quantus's metrics take what stands here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
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


def to_quantus(
    explain: Callable[..., Any], *, channels_last: bool = False
) -> Callable[..., np.ndarray]:
    r"""An explanation as Quantus's metrics call it: `explain_func(model, inputs, targets, **kw)`.

    The model comes from Quantus at every call, since some of its metrics change it (parameters at
    random, say): what is explained must be the model given. It is whatever `get_model()` of the
    Quantus model interface returns; best the model's variables, which compile once.

    Args:
      explain: `explain(model, x, target)` → contributions shaped like x, all of one example.
      channels_last: the model takes channels last. Quantus passes (examples, channels, ...).

    Returns:
      `explain_func(model, inputs, targets, **kwargs)` → numpy, shaped like inputs; further
      arguments (Quantus adds its device) mean nothing here.

    Raises:
      ValueError: from explain_func, where contributions are not shaped like inputs.

    Example:
      >>> import numpy as np, jaxplain as jxp
      >>> def explain(weights, x, target):
      ...     return jxp.deeplift(jxp.logit(lambda x: weights @ x, target), 0.0)(x)
      >>> explain_func = jxp.interop.to_quantus(explain)
      >>> explain_func(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0]))
      array([[3., 8.]], dtype=float32)

    Source: Hedström et al., "Quantus", JMLR 24 (2023), arXiv 2202.06861.
    """
    compiled = jax.jit(jax.vmap(explain, (None, 0, 0)))

    def explain_func(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray:
        x = np.asarray(inputs)
        if channels_last:
            x = np.moveaxis(x, 1, -1)
        if all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(model)):
            scores = compiled(model, x, np.asarray(targets))
        else:  # traced anew at each call: such a model may have changed unseen
            anew = jax.jit(jax.vmap(lambda x, target: explain(model, x, target)))
            scores = anew(x, np.asarray(targets))
        if scores.shape != x.shape:
            raise ValueError(f"contributions {scores.shape} for inputs {x.shape}")
        scores = np.asarray(scores)
        return np.moveaxis(scores, -1, 1) if channels_last else scores

    return explain_func
