"""What a method returns says what it is: its name, its docstring and its signature."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

_Maker = TypeVar("_Maker", bound=Callable[..., Any])


def speaks(method: _Maker) -> _Maker:
    """Names what a method returns after itself and f, as in `deeplift_of_f`.

    Its docstring is the method's first line, and what that says of what comes back; its signature
    is f's, with the key that the method takes.
    """
    first = next(iter(inspect.signature(method).parameters))

    @functools.wraps(method)
    def maker(*args: Any, **options: Any) -> Any:
        explain = method(*args, **options)
        f = args[0] if args else options[first]
        subject = re.sub(r"\W", "", getattr(f, "__name__", type(f).__name__)) or "f"
        explain.__name__ = explain.__qualname__ = f"{method.__name__}_of_{subject}"
        explain.__doc__ = _told(method, subject)
        explain.__signature__ = _signature(f, explain)
        return explain

    return maker  # type: ignore[return-value]


def _told(method: Callable[..., Any], subject: str) -> str:
    text = inspect.getdoc(method) or ""
    returned = re.search(r"^Returns:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    first, _, _ = text.partition("\n")
    parts = [f"{method.__name__} of {subject}: {first}"]
    if returned:
        parts.append(inspect.cleandoc(returned[1]))
    return "\n\n".join(parts)


def _signature(f: Any, explain: Any) -> inspect.Signature:
    own = inspect.signature(explain)
    try:
        arguments = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):  # a function that Python can't look into
        return own
    by_position = [p for p in arguments if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    named = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*by_position, *named])
