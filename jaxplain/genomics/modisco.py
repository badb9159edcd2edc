"""Files for TF-MoDISco, which finds the motifs that recur in contributions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain._types import Tree
from jaxplain.genomics.onehot import check_one_hot, check_shape, read


def to_modisco(xs: Tree, hypothetical: Any, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes what `modisco motifs -s ohe.npz -a attr.npz -n 2000 -w 200` reads.

    Both files hold one array, (n, 4, length), under arr_0. modisco looks at the `-w` positions in
    the middle (400 where it isn't told): give it the sequences' length, or less.

    Args:
      xs: sequences, one-hot (n, length, 4) or n strings; N is a row of zeros.
      hypothetical: the contributions that all bases would have, (n, length, 4), as
        `hypothetical_contributions` or `deeplift_shap(..., hypothetical=True)` return.
      folder: where to; made where it is missing.

    Returns:
      The files' paths, ohe.npz and attr.npz.

    Raises:
      ValueError: shapes that don't agree, xs not one-hot, scores that are not finite, or that are
        zero but at the bases that are there (contributions, not hypothetical ones).

    Example:
      >>> import tempfile, jaxplain as jxp
      >>> xs = jxp.genomics.one_hot(["ACGT", "TTGA"])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ohe, attr = jxp.genomics.to_modisco(xs, xs - 0.5, folder)
      ...     ohe.name, attr.name
      ('ohe.npz', 'attr.npz')

    Source: Shrikumar et al., "TF-MoDISco", arXiv 1811.00416; the format is modisco-lite's.
    """
    xs, scores = check_one_hot(read(xs)), np.asarray(hypothetical)
    check_shape(xs, (3,))
    if scores.shape != xs.shape:
        raise ValueError(f"xs are {xs.shape} and their scores {scores.shape}: shapes must agree")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not all finite")
    if not scores[xs == 0].any():
        raise ValueError(
            "scores are zero but at the bases that are there: modisco needs hypothetical "
            "contributions, of all four bases (jaxplain.genomics.hypothetical_contributions)"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "ohe.npz", folder / "attr.npz"
    for path, array in zip(paths, (xs, scores), strict=True):
        np.savez_compressed(path, array.swapaxes(1, 2).astype(np.float32))
    return paths
