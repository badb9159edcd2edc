"""What an audit found, as a table that prints."""

from __future__ import annotations

import dataclasses
import html
import math
import os
from collections.abc import Callable
from typing import Any

_CLOSE = 1e-5  # of f(x) - f(ref): a local gap below is the rounding of float32, and does not order
_WIDTH = 44  # of what is written in a column; `rows` have it whole


@dataclasses.dataclass(frozen=True)
class Row:
    """What one rule did: of an equation, or of a region of elementwise equations.

    Args:
      line: the user's source line, as in 'model.py:12 (block)'.
      path: the modules and named scopes around it.
      primitive: the equation's, or the last one's of a region; or a pattern's name.
      rule: that it got: "region", "product", "linear", "softmax", ...
      equations: all that it stands for.
      choice: which form the rule took, where it chooses by the sizes of the numbers.
      sent: Σ multiplier · Δ of its operands.
      arrived: the same of its outputs.
      gap: sent - arrived, 0 for a complete rule.
      conditioning: Σ|multiplier · Δ| of its operands in units of that of its outputs. Far above 1,
        it sends back large terms that cancel.
      times: how often it ran: a loop's steps, of which the sums are.
    """

    line: str
    path: str
    primitive: str
    rule: str
    equations: tuple[str, ...]
    choice: str
    sent: float
    arrived: float
    gap: float
    conditioning: float
    times: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """An explanation's account: what f rose by, what was given to x, and each rule's share in it.

    Args:
      value: f(x).
      reference: f(ref).
      contributions: their sum.
      gap: f(x) - f(ref) - that sum.
      rules: the table's name.
      versions: {package: version}.
      rows: those that hurt first.
    """

    value: float
    reference: float
    contributions: float
    gap: float
    rules: str
    versions: dict[str, str]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *_aligned([_TITLES, *map(_cells, self.rows)])])

    def _head(self) -> list[str]:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return [
            f"f(x) = {self.value:.6g}, f(ref) = {self.reference:.6g}, "
            f"sum of contributions = {self.contributions:.6g}, gap = {self.gap:.2g}",
            f"{versions}, rules {self.rules}",
        ]

    def _repr_html_(self) -> str:
        head = "<br>".join(map(html.escape, self._head()))
        body = "".join(f"<tr>{_html('td', _cells(row))}</tr>" for row in self.rows)
        return f"<p>{head}</p><table><tr>{_html('th', _TITLES)}</tr>{body}</table>"

    def to_pandas(self) -> Any:
        """The rows as a dataframe; needs pandas."""
        import pandas

        names = [field.name for field in dataclasses.fields(Row)]
        return pandas.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=names)


def hurts(rise: float) -> Callable[[Row], tuple[float, float]]:
    """The order of the rows: by local gap in units of |f(x) - f(ref)|, then by conditioning.

    Where both are alike to their rounding it is the program's.
    """

    def order(row: Row) -> tuple[float, float]:
        relative = _number(row, abs(row.gap) / (abs(rise) or 1))
        conditioning = float(f"{_number(row, row.conditioning):.3g}")
        return -(0.0 if relative <= _CLOSE else relative), -conditioning

    return order


def _number(row: Row, number: float) -> float:
    """What is no number hurts most where it begins, and not where it arrives."""
    if not math.isnan(number):
        return number
    return math.inf if math.isfinite(row.arrived) else 0.0


_TITLES = ["line", "path", "equation", "rule", "choice", "sent", "gap", "conditioning", "times"]


def _cells(row: Row) -> list[str]:
    numbers = [f"{row.sent:.3g}", f"{row.gap:.1e}", f"{row.conditioning:.3g}", str(row.times)]
    return [_short(row.line), row.path, _named(row), row.rule, row.choice, *numbers]


def _named(row: Row) -> str:
    return _cut(row.primitive if len(row.equations) < 2 else ", ".join(row.equations))


def _short(line: str) -> str:
    """The file by its last name."""
    return os.path.basename(line)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 2] + " …"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of one width each; those without a word are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _html(tag: str, cells: list[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
