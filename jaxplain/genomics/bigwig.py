"""Windows of a genome as one track: overlaps are averaged, and one stretch is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

_AT_ONCE = 256  # windows that are read together


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
