"""What became of an example: one small number each, and its name."""

from __future__ import annotations

from collections.abc import Iterable

PENDING, OK, NONFINITE, GAP, UNREADABLE, SHAPE, RAISED = range(7)

NAMES = {
    "todo": (PENDING,),
    "ok": (OK,),
    "nonfinite": (NONFINITE,),  # contributions, or the gap
    "gap": (GAP,),  # beyond the tolerance
    "unreadable": (UNREADABLE,),  # the source raised
    "shape": (SHAPE,),  # not the shape, the dtype or the tree of the others
    "raised": (RAISED,),  # inside the program
    "failed": (UNREADABLE, SHAPE, RAISED),  # whatever left no contributions
}


def codes(names: str | Iterable[str]) -> list[int]:
    """The numbers of these names, of which there may be one."""
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"no status is called {unknown}; there are {', '.join(NAMES)}")
    return sorted({code for name in names for code in NAMES[name]})


def name_of(code: int) -> str:
    """The name of one number."""
    return next(name for name, numbers in NAMES.items() if numbers == (code,))
