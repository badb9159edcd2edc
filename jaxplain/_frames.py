"""Tables of named columns (pandas', polars', anything alike) as arrays, and their names.

No library is imported: a table is what turns into numbers by `to_numpy` and is no array.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame, or a series, rather than an array."""
    return not isinstance(value, jax.Array | np.ndarray | np.generic) and hasattr(value, "to_numpy")


def as_arrays(tree: Any) -> Any:
    """The tree with every frame and series in it as an array; the rest as it is.

    Raises:
      TypeError: a column is not made of numbers; it is named.
    """
    return jax.tree.map(lambda leaf: _array(leaf) if is_frame(leaf) else leaf, tree)


def names_of(value: Any) -> list[str] | None:
    """The features' names: a frame's columns, or the index of a series; None where there are none.

    A series with an index of numbers, as rows have it, has no names.
    """
    if not is_frame(value):
        return None
    names = getattr(value, "columns", getattr(value, "index", None))
    if names is None or callable(names):
        return None
    named = any(isinstance(name, str | tuple) for name in names)
    return list(map(_written, names)) if named else None


def _written(name: Any) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _array(frame: Any) -> np.ndarray:
    array = np.asarray(frame.to_numpy())
    if array.dtype.kind not in "biufc":
        try:
            return array.astype(float)
        except (TypeError, ValueError):
            columns = names_of(frame) or range(array.shape[-1])
            bad = [name for i, name in enumerate(columns) if not _numeric(array[..., i])]
            raise TypeError(
                f"{bad} of the {type(frame).__name__} are not numbers: encode them first"
            ) from None
    return array


def _numeric(column: Any) -> bool:
    try:
        np.asarray(column).astype(float)
    except (TypeError, ValueError):
        return False
    return True
