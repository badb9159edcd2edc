"""Which parameters of a test run only with `-m slow`."""

from collections.abc import Callable, Container, Hashable, Iterable
from typing import Any

import pytest


def some_slow(values: Iterable[Any], slow: Container[Any]) -> list[Any]:
    """The values, those in `slow` marked so."""
    return [pytest.param(v, marks=pytest.mark.slow) if v in slow else v for v in values]


def slow_but(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """The values, those that are not in `quick` marked slow."""
    values = list(values)
    return some_slow(values, [v for v in values if v not in quick])


def one_of_each(values: Iterable[Any], kind: Callable[[Any], Hashable]) -> list[Any]:
    """The values, all but the first of each kind marked slow."""
    first: dict[Hashable, Any] = {}
    values = list(values)
    for value in values:
        first.setdefault(kind(value), value)
    quick = set(map(id, first.values()))
    return [v if id(v) in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]
