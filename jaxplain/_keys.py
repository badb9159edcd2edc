"""`key=` at the call: one protocol, and one sentence for each way to miss it.

A method that draws is called as explain(x, ..., key=); one that draws nothing takes no key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._types import Explain, Function, Key
from jaxplain.surrogate import compat

_CALL = "call explain(x, ..., key=jax.random.key(0))"
_BATCH = (
    "of a batch each example gets its own by `jax.vmap(lambda x, key: explain(x, key=key))"
    "(xs, jax.random.split(key, len(xs)))`, and all get the same by "
    "`jax.vmap(lambda x: explain(x, key=key))(xs)`"
)


def drawn(what: str) -> Callable[[Function], Explain]:
    """Marks an explain that always draws `what`: its key is one, or the error says what to do."""

    def mark(explain: Function) -> Explain:
        @functools.wraps(explain)
        def called(*args: Any, key: Key | None = None) -> Any:
            key = checked(key, what)
            with compat.on_mesh_of(args):
                return explain(*args, key=key)

        return called

    return mark


def nothing_drawn(explain: Function, because: str = "this method draws nothing") -> Explain:
    """Marks an explain that takes arguments of f alone."""

    @functools.wraps(explain)
    def called(*args: Any, **unknown: Any) -> Any:
        if unknown:
            raise surplus(unknown, because)
        with compat.on_mesh_of(args):
            return explain(*args)

    return called


def surplus(names: Iterable[str], because: str) -> TypeError:
    """The error where something is given by name that is not asked for."""
    return TypeError(
        f"explain got {sorted(names)}, and {because}: there is nothing to draw, and other "
        "arguments of f go by position"
    )


def checked(key: Any, what: str, optional: bool = False) -> Any:
    """The key, which is one; None passes where it is optional."""
    if key is None:
        if optional:
            return None
        raise TypeError(f"a key is missing: {_CALL}. It is for {what}.")
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # A key of the old kind, `jax.random.PRNGKey`, is a row of integers.
    raw = dtype == jnp.uint32 and jnp.ndim(key) > 0
    if not typed and not raw:
        shown = repr(key) if isinstance(key, int | float | str) else type(key).__name__
        raise TypeError(f"{shown} is no key: {_CALL}; under `jax.vmap` {_BATCH}.")
    if jnp.ndim(key) != (0 if typed else 1):
        raise TypeError(f"one key is wanted, and these are {jnp.shape(key)}: {_BATCH}.")
    return key
