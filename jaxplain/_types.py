"""What passes between users, methods and the engine, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any, Protocol

import jax

Array = jax.Array
Key = jax.Array  # of `jax.random`
Tree = Any  # a pytree of arrays, which Python's types can't tell from other objects
Groups = Tree  # integer labels like x, or None: every element by itself

Function = Callable[..., Tree]  # f(x, *args), what is explained
Method = Callable[..., Function]  # method(f, ref, **options) → explain
Argnums = int | Sequence[int]  # which arguments are x
At = str | Sequence[str]  # a name of a value inside f, several, or a pattern
Entry = int | slice | EllipsisType | Array
Index = Entry | tuple[Entry, ...]  # one output of several
Path = Callable[[Tree, Tree, Array], Tree]  # (ref, x, α) → a tree like x


class Explain(Protocol):
    """An explanation of an input: what every method returns."""

    def __call__(self, *args: Any, key: Key | None = None) -> Tree:
        """The contributions at f's arguments, x among them; a method that draws is given a key."""
