"""Which parameters of a test run only with `-m slow`."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def some_slow(values: Iterable[Any], slow: Container[Any]) -> list[Any]:
    """The values, those in `slow` marked so."""
    return [pytest.param(v, marks=pytest.mark.slow) if v in slow else v for v in values]
