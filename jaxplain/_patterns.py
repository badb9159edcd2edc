"""The patterns by which names and paths of modules are asked for, wherever they are."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable

_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_TOKENS = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^]/]+\])")


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern.

    `*` is anything but a slash, `?` a character but a slash, `[abc]`, `[a-z]`, `[!abc]` one of
    those, or none, `**` anything, and `**/` any levels or none. `*` alone is every name.
    """
    return pattern == "*" or _compiled(pattern).fullmatch(name) is not None


def inside(path: str, pattern: str) -> bool:
    """Whether a path of modules, or a module that it lies in, fits a pattern."""
    levels = itertools.accumulate(path.split("/"), "{}/{}".format)
    return any(matches(level, pattern) for level in levels)


def fitting(names: Iterable[str], pattern: str) -> list[str]:
    """The names that fit, in their order; the pattern itself, where it is one of them."""
    names = list(names)
    return [pattern] if pattern in names else [name for name in names if matches(name, pattern)]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(map(_translated, _TOKENS.split(pattern))), re.DOTALL)


def _translated(token: str) -> str:
    if token in _WILDCARDS:
        return _WILDCARDS[token]
    if _TOKENS.fullmatch(token):
        listed = re.sub(r"([\\^\[&~|])", r"\\\1", token[1:-1])
        return f"[^/{listed[1:]}]" if listed.startswith("!") else f"[{listed}]"
    return re.escape(token)
