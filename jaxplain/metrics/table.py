"""The table of an evaluation: every method's scores by every metric, and what they tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LEAST_CORRELATED = 2  # methods whose order two metrics can agree on


class Difference(NamedTuple):
    """Of two methods, by each metric: (metrics,), and its interval (metrics, 2)."""

    mean: Floats
    interval: Floats


class Evaluations(NamedTuple):
    """What an evaluation took, in evaluations of f and in explanations."""

    once: int  # of f for an example, whatever the number of methods
    each: int  # of f for an example and a method
    explanations: int  # for an example and a method
    alone: int  # of f for an example and a method, if nothing were shared
    explanations_alone: int
    methods: int
    examples: int

    @property
    def made(self) -> int:
        """Evaluations of f in all."""
        return self.examples * (self.once + self.methods * self.each)

    @property
    def shared(self) -> int:
        """How many evaluations of f more it would be if nothing were shared."""
        return self.examples * self.methods * self.alone - self.made

    @property
    def per_method(self) -> float:
        """Evaluations of f for an example and a method, its share of common ones included."""
        return self.each + self.once / self.methods


@dataclass(frozen=True, repr=False)
class Table:
    """Scores (methods, metrics, examples), with the controls' rows behind the methods'.

    A score that is not defined is NaN; it is counted in `undefined` and left out of means.
    """

    scores: Floats
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    directions: tuple[str | None, ...]  # "↑", "↓", "0" (nearer is better) or None
    controls: tuple[str, ...]
    evaluations: Evaluations

    @property
    def undefined(self) -> NDArray[np.int64]:
        """How many examples have no score: (methods, metrics)."""
        return np.isnan(self.scores).sum(-1)

    def mean(self) -> Floats:
        """Over the examples that have a score: (methods, metrics); NaN where none has."""
        return _means(self.scores, np.ones((1, self.scores.shape[-1])))[0]

    def interval(self, level: float = 0.95, *, samples: int = 2000, seed: int = 0) -> Floats:
        """Where the mean over all such examples lies, by the bootstrap: (methods, metrics, 2).

        Examples are drawn with replacement, the same ones for all methods and metrics, and
        percentiles are taken farther out by what Student's t asks of few examples (Hesterberg 2015,
        section 4.3).
        """
        return _interval(self.scores, level, samples, seed)

    def difference(
        self, a: str, b: str, level: float = 0.95, *, samples: int = 2000, seed: int = 0
    ) -> Difference:
        """Method a's mean score less method b's, on the examples where both have one."""
        gaps = self.scores[self._row(a)] - self.scores[self._row(b)]
        mean = _means(gaps, np.ones((1, gaps.shape[-1])))[0]
        return Difference(mean, _interval(gaps, level, samples, seed))

    def best(self) -> dict[str, str | None]:
        """Of each metric the row with the best mean, which may be a control; None: no direction."""
        merit = self._merit()
        found: dict[str, str | None] = {}
        for name, column in zip(self.metrics, merit.T, strict=True):
            known = not np.isnan(column).all()
            found[name] = self.methods[int(np.nanargmax(column))] if known else None
        return found

    def ranks(self) -> Floats:
        """Each row's rank by its mean, from 1 for the best: (methods, metrics); ties share.

        NaN where there is no mean, or the metric has no direction.
        """
        return np.stack([_ranks(-column) for column in self._merit().T], axis=1)

    def agreement(self) -> Floats:
        """Spearman's correlation of the metrics' orders of the methods: (metrics, metrics).

        Controls are left out, for all metrics agree on them; NaN where fewer than two methods have
        both means, or all have one and the same.
        """
        merit = self._merit()[: len(self.methods) - len(self.controls)]
        return np.array([[spearman(a, b) for b in merit.T] for a in merit.T])

    def to_markdown(self, *, intervals: bool = True, level: float = 0.95) -> str:
        """The means, and under them their intervals, as a table; the best of a metric is bold."""
        means, best = self.mean(), self.best()
        between = self.interval(level) if intervals else None
        heads = [
            name if d is None else f"{name} {'→0' if d == '0' else d}"
            for name, d in zip(self.metrics, self.directions, strict=True)
        ]
        lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for i, method in enumerate(self.methods):
            cells = []
            for j, metric in enumerate(self.metrics):
                cell = f"{means[i, j]:.3g}"
                cell = f"**{cell}**" if best[metric] == method else cell
                if between is not None:
                    low, high = between[i, j]
                    cell += f" [{low:.3g}, {high:.3g}]"
                if self.undefined[i, j]:
                    cell += f" ({self.undefined[i, j]} undefined)"
                cells.append(cell)
            name = f"*{method}*" if method in self.controls else method
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def to_pandas(self) -> Any:
        """A data frame with a row a score: method, metric, example, score."""
        import pandas as pd

        rows, columns, examples = np.indices(self.scores.shape).reshape(3, -1)
        return pd.DataFrame(
            {
                "method": np.asarray(self.methods)[rows],
                "metric": np.asarray(self.metrics)[columns],
                "example": examples,
                "score": self.scores.ravel(),
            }
        )

    def plot(self, ax: Any = None) -> Any:
        """Ranks as colours, means as numbers, on these axes or new ones, which it returns."""
        from jaxplain.plots.common import SEQUENTIAL, new_axes

        means, ranks = self.mean(), self.ranks()
        rows, columns = means.shape
        ax = new_axes(ax, (1.1 * columns + 2, 0.45 * rows + 1.5))
        shade = np.ma.masked_invalid(rows + 1 - ranks)  # the best is darkest
        ax.imshow(shade, cmap=SEQUENTIAL, vmin=0, vmax=1.6 * rows, aspect="auto")
        heads = [
            f"{n} {d}" if d in ("↑", "↓") else n
            for n, d in zip(self.metrics, self.directions, strict=True)
        ]
        ax.set_xticks(range(columns), heads, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(rows), self.methods)
        best = self.best()
        for i, j in np.ndindex(rows, columns):
            weight = "bold" if best[self.metrics[j]] == self.methods[i] else "normal"
            text = "–" if np.isnan(means[i, j]) else f"{means[i, j]:.2g}"
            ax.text(j, i, text, ha="center", va="center", weight=weight, fontsize=8)
        for i, name in enumerate(self.methods):
            if name in self.controls:
                ax.get_yticklabels()[i].set_style("italic")
        return ax

    def __str__(self) -> str:
        """As Markdown."""
        return self.to_markdown()

    def __repr__(self) -> str:
        """Its size."""
        methods, metrics, examples = self.scores.shape
        return f"Table({methods} methods, {metrics} metrics, {examples} examples)"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _row(self, name: str) -> int:
        if name not in self.methods:
            raise ValueError(f"no method {name!r}: one of {self.methods}")
        return self.methods.index(name)

    def _merit(self) -> Floats:
        """Means with their signs so that higher is better; NaN without a direction."""
        means = self.mean()
        signs = {"↑": lambda m: m, "↓": lambda m: -m, "0": lambda m: -np.abs(m)}
        unknown = lambda m: np.full_like(m, np.nan)
        columns = [
            signs.get(direction or "", unknown)(column)
            for direction, column in zip(self.directions, means.T, strict=True)
        ]
        return np.stack(columns, axis=1)


def _means(scores: Floats, weights: Floats) -> Floats:
    """Weighted means over the last axis of the scores that are defined: (weights, ...)."""
    defined = ~np.isnan(scores)
    # About a common value, so that what is large and equal does not cancel.
    middle = np.where(defined, scores, 0).sum(-1) / np.maximum(defined.sum(-1), 1)
    apart = np.where(defined, scores - middle[..., None], 0)
    sums = np.tensordot(weights, apart, (1, scores.ndim - 1))
    counts = np.tensordot(weights, defined.astype(float), (1, scores.ndim - 1))
    with np.errstate(invalid="ignore"):
        return middle + sums / np.where(counts > 0, counts, np.nan)


def _interval(scores: Floats, level: float, samples: int, seed: int) -> Floats:
    from scipy import stats  # type: ignore[import-untyped]

    if not 0 < level < 1 or samples < 1:
        raise ValueError(f"level={level} must be between 0 and 1, and samples={samples} ≥ 1")
    count = scores.shape[-1]
    if count < 2:
        return np.full((*scores.shape[:-1], 2), np.nan)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    means = _means(scores, drawn.astype(float))
    t = stats.t.ppf((1 + level) / 2, count - 1) * np.sqrt(count / (count - 1))
    tail = stats.norm.cdf(-t)
    known = ~np.isnan(means).all(0)
    ends = np.full((*scores.shape[:-1], 2), np.nan)
    if known.any():
        ends[known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0).T
    return ends


def _ranks(values: Floats) -> Floats:
    """Mean ranks from 1 of what is a number; NaN stays."""
    less = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return np.where(np.isnan(values), np.nan, less + (equal + 1) / 2)


def spearman(a: Floats, b: Floats) -> float:
    """Of what both have; NaN where that does not vary."""
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < _LEAST_CORRELATED:
        return np.nan
    a, b = _ranks(a[known]), _ranks(b[known])
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])
