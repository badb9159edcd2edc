"""What goes into a model's submodules and comes out of them, named by their paths."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._patterns import matches
from jaxplain.named.api import tag


def of_method(path: str, method: str) -> str:
    """What a module's method returns is called "embed", "embed.attend"; "encode" of the model."""
    return path if method == "__call__" else f"{path}.{method}".removeprefix(".")


def methods(cls: type, base: type) -> Iterator[str]:
    """A module's call and public methods, less its library's own of every module."""
    fields = [field.name for field in dataclasses.fields(cls)] if _has_fields(cls) else []
    others = set(dir(base)).union(fields)
    values = property, classmethod, staticmethod, functools.cached_property, type
    for name in dir(cls):
        if (name.startswith("_") and name != "__call__") or name in others:
            continue
        own = inspect.getattr_static(cls, name)
        if callable(getattr(cls, name)) and hasattr(own, "__get__") and not isinstance(own, values):
            yield name


def _has_fields(cls: Any) -> bool:
    return dataclasses.is_dataclass(cls)


class Namer:
    """Names what goes into a module and comes out of it."""

    def __init__(
        self, patterns: Sequence[str], batched: bool, unnamed: Callable[[Any], bool] | None = None
    ):
        self.patterns = patterns
        self.batched = batched
        self._unnamed = unnamed

    def unnamed(self, value: Any) -> bool:
        """What has no name, whatever it is made of: a submodule, a layer's state."""
        return callable(value) or (self._unnamed is not None and self._unnamed(value))

    def calling(self, own: Callable[..., Any], path: str) -> Callable[..., Any]:
        """A method of a module's class that names its first argument and its output."""

        @functools.wraps(own)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            return self.named(own(module, *self.inputs(args, path), **kwargs), path)

        return call

    def subclass(self, cls: Any, base: type, path: str, entered: Any = None) -> Any:
        """A module's class with methods that name their outputs, but for the model's own call."""
        entrances = () if path else ("__call__", entered)
        named = {
            name: self.calling(getattr(cls, name), of_method(path, name))
            for name in methods(cls, base)
            if name not in entrances
        }
        return type(cls)(cls.__name__, (cls,), named) if named else cls

    def inputs(self, args: tuple[Any, ...], path: str) -> tuple[Any, ...]:
        """The arguments, the first one named where a pattern asks for the module's path."""
        if not args or not any(matches(path, pattern) for pattern in self.patterns):
            return args
        return (self.named(args[0], f"{path}:input"), *args[1:])

    def named(self, value: Any, path: str) -> Any:
        """The value with its floating leaves named, each without the batch axis of one example."""
        leaves, tree = jax.tree.flatten(value, self.unnamed)
        floating = [i for i, v in enumerate(leaves) if _is_floating(v)]
        alone = [self.batched and leaves[i].shape[:1] == (1,) for i in floating]
        bare = [leaves[i][0] if one else leaves[i] for i, one in zip(floating, alone, strict=True)]
        # The tree again, for the paths of its leaves, without what has no name.
        kept = jax.tree.unflatten(
            tree, [bare[floating.index(i)] if i in floating else None for i in range(len(leaves))]
        )
        for i, one, leaf in zip(floating, alone, jax.tree.leaves(tag(kept, path)), strict=True):
            leaves[i] = leaf[None] if one else leaf
        return jax.tree.unflatten(tree, leaves)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
