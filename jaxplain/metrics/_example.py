"""One example, and what is evaluated of it: each thing once, and counted.

A metric's score is a function of an `Example`. What it needs of f, or of the explanation elsewhere,
it asks the example for by a name that says all of what is evaluated (`token`), so metrics that need
the same share it, and what no explanation has a part in is shared by all methods, too.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import checked
from jaxplain._numerics.trees import wide
from jaxplain.surrogate import staging

Tree = Any
Explain = Callable[..., Tree]


class Example:
    """An example's arguments, its explanation, and all that is known of them."""

    def __init__(
        self,
        args: tuple[Any, ...],
        *,
        contributions: Tree = None,
        explain: Explain | None = None,
        key: Any = None,
        shared_key: Any = None,
        mask: Tree = None,
        groups: Tree = None,
        known: dict[Hashable, Any] | None = None,
        shared: dict[Hashable, Any] | None = None,
    ) -> None:
        self.args = args
        self.explain = explain
        self.key = key  # of this example's perturbations
        self.shared_key = key if shared_key is None else shared_key  # of what all examples share
        self.mask = mask
        self.groups = groups
        self.known = {} if known is None else dict(known)
        self.made: dict[Hashable, dict[str, int]] = {}
        self.asked: dict[Hashable, dict[str, int]] = {}  # the same, were nothing known before
        self.shared = {} if shared is None else shared  # by all examples: parameters drawn anew
        self.positions: dict[Hashable, tuple[set[int], set[int]]] = {}  # of curves: see there
        if contributions is not None:
            self.known[MAP] = contributions

    def once(
        self,
        what: Hashable,
        compute: Callable[[], Any],
        alone: dict[str, int] | None = None,
        **made: int,
    ) -> Any:
        """What is known by this name, or else is computed now; `made` counts what that takes.

        `alone` is what it would take if no other metric had asked for more by that name.
        """
        self.asked[what] = made if alone is None else alone
        if what not in self.known:
            self.known[what] = compute()
            self.made[what] = made
        return self.known[what]

    def drawn(self, purpose: str) -> Any:
        """A key of this example for a purpose."""
        return fold(checked(self.key, purpose), purpose)

    def contributions(self, argnums: staging.Argnums) -> Tree:
        """The explanation of x, checked to be shaped like it."""
        return like_input(self.contributions_anywhere(), staging.pick(self.args, argnums))

    def contributions_anywhere(self) -> Tree:
        """The explanation of x, whatever its shape."""
        return self.once(MAP, lambda: explained(self.explain, self.args, self.key), explanations=1)


MAP = "the explanation of x"


def explained(explain: Explain | None, args: tuple[Any, ...], key: Any) -> Tree:
    """An explanation, with a key where it draws."""
    if explain is None:
        raise TypeError("neither contributions nor an explanation are given")
    if draws(explain):
        return explain(*args, key=fold(checked(key, "the explanation"), MAP))
    return explain(*args)


def draws(explain: Explain) -> bool:
    """Whether an explanation takes a key."""
    try:
        return "key" in inspect.signature(explain).parameters
    except (TypeError, ValueError):
        return False


def fold(key: Any, purpose: str) -> Any:
    """A key for a purpose, independent of those for others."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def token(value: Any) -> Hashable:
    """Equal for equal numbers, and for one and the same function or traced value."""

    def leaf(v: Any) -> Hashable:
        if callable(v) or isinstance(v, jax.core.Tracer):
            return id(v)
        array = np.asarray(v)
        return array.shape, array.astype(np.float64).tobytes()

    leaves, tree = jax.tree.flatten(value)
    return tree, tuple(map(leaf, leaves))


def value_of(f: Callable[..., Any], args: tuple[Any, ...]) -> jax.Array:
    """f, which is a scalar, in float32 at least."""
    y = staging.call(f, *args)
    staging.check_scalar(y)
    return wide(jnp.asarray(y))


def like_input(contributions: Tree, x: Tree) -> Tree:
    """Contributions as arrays, or an error where they are not shaped like x."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (contributions, x)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "contributions must be shaped like x, an example without a batch axis.\n"
            f"  contributions: {shapes[0]}\n  x:             {shapes[1]}"
        )
    return jax.tree.map(jnp.asarray, contributions)


def flat(tree: Tree) -> jax.Array:
    """All elements of all leaves in one row, floating."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    if not leaves or not sum(leaf.size for leaf in leaves):
        raise ValueError("a map without elements has no score")
    dtype = jnp.result_type(*leaves)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    return wide(jnp.concatenate([leaf.ravel().astype(dtype) for leaf in leaves]))


def signed(values: jax.Array, sign: str) -> jax.Array:
    """Values as they are, their magnitudes, or their positive part."""
    if sign == "signed":
        return values
    return jnp.abs(values) if sign == "absolute" else jnp.maximum(values, 0)


SIGNS = ("signed", "absolute", "positive")


def check_sign(sign: str, name: str = "sign") -> None:
    """An error for an unknown one."""
    if sign not in SIGNS:
        raise ValueError(f"unknown {name} {sign!r}: one of {SIGNS}")


def undefined_unless(defined: Any, score: jax.Array) -> jax.Array:
    """The score, or NaN."""
    return jnp.where(defined, score, jnp.nan)


def finite(*arrays: jax.Array) -> jax.Array:
    """Whether all numbers are."""
    return jnp.array([jnp.isfinite(a).all() for a in arrays]).all()
