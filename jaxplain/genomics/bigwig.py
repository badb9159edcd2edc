"""Windows of a genome as one track: overlaps are averaged, and one stretch is held at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxplain._types import Tree

_AT_ONCE = 256  # windows that are read together


def write_bigwig(
    path: str | os.PathLike[str],
    contributions: Tree,
    windows: Sequence[tuple[str, int]],
    sizes: Mapping[str, int],
) -> Path:
    """Writes contributions as a track that genome browsers show.

    A position's score is the sum over its bases, and the mean over windows that overlap there.

    Args:
      path: the file.
      contributions: of each position (n, length), or of each base (n, length, 4): contributions, or
        x ⊙ hypothetical ones.
      windows: (chromosome, start) of each, starts counted from 0, read forwards.
      sizes: {chromosome: its length}.

    Returns:
      The path.

    Raises:
      ModuleNotFoundError: pybigtools is not installed: `pip install "jaxplain[genomics]"`.
      ValueError: contributions of another shape, or not finite; more or fewer windows, or one that
        is not inside its chromosome.

    Example:
      >>> import pathlib, tempfile, numpy as np, jaxplain as jxp
      >>> scores, windows = np.ones((2, 100)), [("chr1", 50), ("chr2", 0)]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "scores.bw")
      ...     jxp.genomics.write_bigwig(path, scores, windows, {"chr1": 1000, "chr2": 900}).name
      'scores.bw'

    Source: Kent et al., Bioinformatics 26 (2010) 2204-2207 (the format).
    """
    scores = np.asarray(contributions, float)
    scores = scores.sum(-1) if scores.ndim == 3 else scores
    if scores.ndim != 2 or len(scores) != len(windows):
        raise ValueError(
            f"contributions {np.shape(contributions)} must be (n, length) or (n, length, 4), of n "
            f"windows, and these are {len(windows)}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("contributions are not all finite")
    return write(path, windows, sizes, scores.shape[1], range(len(scores)), scores.__getitem__)


def write(
    path: str | os.PathLike[str],
    windows: Sequence[tuple[str, int]],
    sizes: Mapping[str, int],
    length: int,
    numbers: Iterable[int],
    scores: Callable[[list[int]], np.ndarray],
) -> Path:
    """The file of the windows of these numbers, whose scores (windows, length) are asked for."""
    import pybigtools

    placed = sorted((windows[i][0], int(windows[i][1]), i) for i in numbers)
    for chromosome, start, number in placed:
        if not 0 <= start <= sizes.get(chromosome, -1) - length:
            raise ValueError(
                f"the window of example {number}, {chromosome}:{start}-{start + length}, does "
                f"not lie inside {sizes.get(chromosome, 'a chromosome that has a size')}"
            )
    writer = pybigtools.open(os.fspath(path), "w")
    writer.write({name: sizes[name] for name in sorted(sizes)}, intervals(placed, scores))
    return Path(path)


def intervals(
    windows: Sequence[tuple[str, int, int]], scores: Callable[[list[int]], np.ndarray]
) -> Iterator[tuple[str, int, int, float]]:
    """(chromosome, start, end, value) of each position, in the order that a bigWig file has.

    Args:
      windows: (chromosome, start, number of the window), sorted; starts count from 0.
      scores: scores (windows, length) of the windows of these numbers.
    """
    here, origin = "", 0
    total = count = np.zeros(0)

    def done(stop: int) -> Iterator[tuple[str, int, int, float]]:
        """What no later window reaches any more."""
        for place in np.flatnonzero(count[: stop - origin]):
            start = origin + int(place)
            yield here, start, start + 1, float(total[place] / count[place])

    for first in range(0, len(windows), _AT_ONCE):
        some = windows[first : first + _AT_ONCE]
        rows = scores([number for _, _, number in some])
        for (chromosome, start, _), row in zip(some, rows, strict=True):
            stop = start if chromosome == here else origin + len(total)
            yield from done(stop)
            kept = slice(stop - origin, None)
            total, count = total[kept], count[kept]
            here, origin = chromosome, start
            missing = (0, max(0, len(row) - len(total)))
            total, count = np.pad(total, missing), np.pad(count, missing)
            total[: len(row)] += row
            count[: len(row)] += 1
    yield from done(origin + len(total))
