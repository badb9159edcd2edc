"""The rows that a program looks up as its input: through the one editor of values."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain._types import Argnums, Function
from jaxplain.named.edits import read_and_edit
from jaxplain.named.lookups import LookUp, look_ups
from jaxplain.surrogate import staging


class Embedded(NamedTuple):
    """f at an integer input, its rows apart."""

    look_ups: Mapping[str, LookUp]
    rows: Any  # a tree: one array, or an ordered {name: array}
    function: Function  # of the rows, and f's other arguments


def embed(f: Function, args: Sequence[Any], argnums: Argnums = 0) -> Embedded:
    """The rows that f looks up by its integer input, and f as a function of them."""
    staged, found = _staged(f, args, argnums)
    if not found:
        raise ValueError(_nothing(f, args, argnums, staged))
    first = tuple(args)

    def evaluate(given: tuple[Any, ...]) -> tuple[Any, Mapping[str, LookUp]]:
        same = len(given) == len(first) and all(a is b for a, b in zip(given, first, strict=True))
        return (staged, found) if same else _staged(f, given, argnums)

    sites = {name: look_up.site for name, look_up in found.items()}
    _, values = read_and_edit(staged.jaxpr, staged.leaves, keep=list(found), found=sites)
    rows = collections.OrderedDict(values) if len(values) > 1 else next(iter(values.values()))
    x = staging.pick(args, argnums)

    def function(*given: Any) -> Any:
        e = staging.pick(given, argnums)
        here, there = evaluate(_with(given, argnums, x, first))
        if list(there) != list(found):
            raise ValueError(
                f"with these arguments f looks up {list(there)}, and not {list(found)}"
            )
        if len(found) > 1 and not (isinstance(e, Mapping) and set(e) == set(found)):
            raise ValueError(f"the rows are {{name: array}} of {list(found)}, and not {e!r}")
        inputs = {name: e[name] for name in found} if len(found) > 1 else dict.fromkeys(found, e)
        edits = {name: lambda rows, other: other for name in found}
        outputs, _ = read_and_edit(
            here.jaxpr, here.leaves, edits=edits, inputs=inputs,
            found={name: look_up.site for name, look_up in there.items()},
        )  # fmt: skip
        return jax.tree.unflatten(here.tree, outputs)

    return Embedded(found, rows, function)


def _with(
    given: tuple[Any, ...], argnums: Argnums, x: Any, first: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The arguments with x again where the rows stand."""
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    filled = list(staging.place(given, argnums, x))
    for position in positions:  # as the same object, where nothing has changed
        filled[position] = first[position]
    return tuple(filled)


def _staged(
    f: Function, args: Sequence[Any], argnums: Argnums
) -> tuple[staging.Staged, dict[str, LookUp]]:
    staged = staging.stage(f, args, argnums, integers=True)
    return staged, look_ups(staged.jaxpr, staged.leaves)


def _nothing(f: Function, args: Sequence[Any], argnums: Argnums, staged: staging.Staged) -> str:
    """Why there are no rows, and what to do."""
    own = {argnums} if isinstance(argnums, int) else set(argnums)
    own = {number % len(args) for number in own}
    elsewhere = []
    for number, other in enumerate(args):
        leaves = [leaf for leaf in jax.tree.leaves(other) if hasattr(leaf, "dtype")]
        if number not in own and any(not jnp.issubdtype(v.dtype, jnp.floating) for v in leaves):
            try:
                if _staged(f, args, number)[1]:
                    elsewhere.append(number)
            except (TypeError, ValueError):
                continue
    kinds = ", ".join(f"{v.dtype.name}{list(v.shape)}" for v in staged.leaves)
    way = (
        f"It does by argument {elsewhere[0]}: give `argnums={elsewhere[0]}`."
        if elsewhere
        else "Explain a value inside f by its name (`at=`, `jaxplain.names` lists them), or write "
        "f as a function of the embedded input."
    )
    return (
        f"f looks up no row of a floating table by its input ({kinds}): a look-up is a gather, or "
        f"a dot with a one-hot, of a table that does not depend on x, by an elementwise function "
        f"of x's integers. {way}"
    )


def embedded(f: Function, *, argnums: Argnums = 0) -> Callable[..., tuple[Any, Function]]:
    r"""The rows that f looks up by its integer input, and f as a function of these rows.

    A look-up is a gather, or a dot with a one-hot, of a floating table that does not depend on x,
    by indices that are elementwise functions of x's integers (cast, clipped, remapped by a table of
    codes, moved about). It is found wherever it stands: under jit, remat, in a scan over tokens or
    over layers, one table or several. All else that integers decide (masks, positions, indices that
    are counted or drawn) stays x's, and so do x's floating leaves.

    Args:
      f: any traceable function `f(x, *args)`, x a pytree with integer or boolean arrays (token
        ids, categories).
      argnums: which argument(s) of f are x.

    Returns:
      `embedded(f)(x, *args)` → (e, g). e has the rows: one array of one look-up; of several an
      ordered {name: array} in order of use, called as a `jaxplain.tag` on the rows says, else by
      the modules around them, else "table", and numbered where names occur twice; rows inside a
      scan come with its steps in front. `g(e, *args)` is f with rows e, differentiable in e as any
      function: `g(e, *args) == f(x, *args)`, bit for bit equation by equation (a compiled f may
      join a look-up with what follows it, which moves last digits), and every method explains it:
      `deeplift(g, e0)(e, *args)`, e0 the rows of another input.

    Raises:
      ValueError: f looks up nothing by x (the message names another argument by which it does);
        a look-up stands in a while loop, or in a function with a derivative of its own.
      TypeError: x is not made of arrays of real numbers.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> table = jnp.arange(6.0).reshape(3, 2)
      >>> f = lambda ids: (table[ids] ** 2).sum()
      >>> e, g = jxp.embedded(f)(jnp.array([2, 0]))
      >>> jxp.input_x_gradient(g)(e).sum(-1)
      Array([82.,  2.], dtype=float32)
    """

    def rows_and_function(*args: Any) -> tuple[Any, Function]:
        found = embed(f, args, argnums)
        return found.rows, found.function

    return rows_and_function
