"""What a metric is: a function of an explanation, in parts that `evaluate` can share out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from jaxplain.metrics._example import Example
from jaxplain.surrogate import compat


class Part(Protocol):
    """Something that is asked of an example."""

    def __call__(self, example: Example) -> Any: ...


def _nothing(example: Example) -> None:
    """Most metrics have nothing to say here."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric: called by itself, or by `evaluate`, which merges what several ask for.

    `direction` is "↑" where higher is better, "↓" where lower is, "0" where nearer to 0 is, and
    None where neither is; `range` is what a score can be.
    """

    score: Part  # the number; finds what the other parts asked for
    called: Callable[..., Any]  # how it is called by itself
    direction: str | None
    range: tuple[float, float] = (-float("inf"), float("inf"))
    ref: Any = None  # where it puts what it takes away
    ready: Part = _nothing  # draws what all examples share
    announce: Part = _nothing  # which points of curves the score will read
    share: Part = _nothing  # evaluations that no explanation has a part in
    elsewhere: Part = _nothing  # an `Elsewhere`: explanations beside that of x
    asks: Any = None  # the explanation that it was given, or ... for each of `evaluate`'s

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The score of one explanation."""
        with compat.on_mesh_of(args):
            return self.called(self, *args, **options)

    def of(self, example: Example) -> Any:
        """The score of one example, nothing shared."""
        self.announce(example)
        return self.score(example)


def of_contributions(metric: Metric, contributions: Any, *args: Any, key: Any = None) -> Any:
    """`metric(contributions, x, *args)`."""
    return metric.of(Example(args, contributions=contributions, key=key))


def of_map(
    direction: str | None, low: float, high: float
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a function of a map (and a mask, where it has one) for `evaluate`."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.direction = direction  # type: ignore[attr-defined]
        function.range = (low, high)  # type: ignore[attr-defined]
        function.takes = "map"  # type: ignore[attr-defined]
        return function

    return mark
