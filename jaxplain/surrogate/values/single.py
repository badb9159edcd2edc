"""The value alone: all that a rule without a reference needs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from jaxplain.surrogate.values.lifted import Lifted


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class Single(Lifted):
    """An array that depends on x, and nothing more."""

    value: Any

    @classmethod
    def lift(cls, value: Any, reference: Any = None, parts: Any = None) -> Single:
        del reference, parts
        return cls(value)
