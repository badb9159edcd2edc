"""f and its arguments, staged: inputs checked and flattened, references spread, f traced."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxplain import _frames as frames
from jaxplain._types import Argnums, Function, Tree
from jaxplain.surrogate import compat


def pick(args: Sequence[Any], argnums: Argnums) -> Any:
    """What is attributed: one argument, or a tuple of them."""
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for position in positions:
        if not -len(args) <= position < len(args):
            raise ValueError(f"argnums={argnums} names an argument beyond the {len(args)} given")
    return frames.as_arrays(
        args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)
    )


def place(args: Sequence[Any], argnums: Argnums, x: Tree) -> tuple[Any, ...]:
    """The arguments with what is attributed replaced by x."""
    filled = list(args)
    positions = [(argnums, x)] if isinstance(argnums, int) else zip(argnums, x, strict=True)
    for position, part in positions:
        filled[position] = part
    return tuple(filled)


def as_input(x: Tree) -> Any:
    """x with every leaf an array of floating numbers, or an error that says what to attribute."""

    def check(path: Any, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"x{jax.tree_util.keystr(path)} has dtype {_dtype_name(leaf.dtype)}, and only "
                "floating inputs have attributions by slopes or differences. Token ids and "
                "categories: explain the embedding that they look up, by its name in `at=` "
                "(`jaxplain.names` lists them, `jaxplain.tag` gives one), or g of "
                "`e, g = jaxplain.embedded(f)(x)`; methods that only evaluate f "
                "(`shapley_values`, `ablation`, ...) take integers as they are. Pixels: convert "
                "with `.astype(float)`."
            )
        return leaf

    return jax.tree_util.tree_map_with_path(check, as_numbers(x))


def as_numbers(x: Tree) -> Any:
    """x with every leaf an array that f may be evaluated at: floating, integer or boolean."""

    def check(path: Any, leaf: Any) -> Any:
        where = f"x{jax.tree_util.keystr(path)}"
        try:
            dtype = jnp.result_type(leaf)
        except (TypeError, ValueError):
            raise TypeError(
                f"{where} is a {type(leaf).__name__}, not an array: only floating arrays can be "
                "attributed. Encode it as numbers first."
            ) from None
        if not _is_real(dtype):
            raise TypeError(
                f"{where} has dtype {_dtype_name(dtype)}, which is no real number: give floating "
                "arrays, such as real and imaginary parts"
            )
        return jnp.asarray(leaf)

    if isinstance(x, str):
        check((), x)
    return jax.tree_util.tree_map_with_path(check, x)


def as_floats(x: Tree) -> Any:
    """x with its integers and booleans as floating numbers: one-hot input that is stored small."""

    def convert(leaf: Any) -> Any:
        return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(float)

    return jax.tree.map(convert, as_numbers(x))


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _dtype_name(dtype: Any) -> str:
    return str(dtype) if dtype.kind == "V" else np.dtype(dtype).name


def attributed(
    f: Function, args: Sequence[Any], argnums: Argnums, *, integers: bool = False
) -> Any:
    """What is attributed, checked; inside `shard_map` it differs between devices where f does.

    `integers` says whether it may have some.  An x that all devices share would get the sum of
    their contributions (each explains another class, say), as `jax.grad` has it for parameters.
    """
    x = (as_numbers if integers else as_input)(pick(args, argnums))
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return x
    outputs = jax.eval_shape(lambda x: call(f, *place(args, argnums, x)), x)
    return compat.vary(x, frozenset().union(*map(compat.varying, jax.tree.leaves(outputs))))


def scalar(f: Function, args: Sequence[Any], argnums: Argnums) -> Callable[[Any], Any]:
    """f as a function of what is attributed alone, its value checked to be a scalar."""

    def value(x: Tree) -> Any:
        y = call(f, *place(args, argnums, x))
        check_scalar(y)
        return y

    return value


def array(f: Function, args: Sequence[Any], argnums: Argnums) -> Callable[[Any], Any]:
    """f as a function of what is perturbed alone, its value one real array."""
    return lambda x: as_value(call(f, *place(args, argnums, x)))


@contextlib.contextmanager
def watched_references() -> Iterator[list[Any]]:
    """The references, as known numbers, that methods are given while this is open."""
    seen: list[Any] = []
    token = _watching.set(seen)
    try:
        yield seen
    finally:
        _watching.reset(token)


_watching: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("refs", default=None)


@contextlib.contextmanager
def watched_tables() -> Iterator[list[Any]]:
    """The rule tables that programs are evaluated under while this is open."""
    seen: list[Any] = []
    token = _tables.set(seen)
    try:
        yield seen
    finally:
        _tables.reset(token)


_tables: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar("tables", default=None)


def watch_table(table: Any) -> None:
    """Says that a program is evaluated under a table, to whom it concerns."""
    seen = _tables.get()
    if seen is not None:
        seen.append(table)


def _watch(ref: Any) -> None:
    seen = _watching.get()
    if seen is not None:
        leaves = jax.tree.leaves(ref)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            seen.append(ref)


def as_reference(ref: Tree, x: Tree) -> Any:
    """The reference as a tree of arrays shaped like x: a scalar or a tree that broadcasts to it."""
    ref = frames.as_arrays(ref)
    _watch(ref)
    leaves, tree = jax.tree.flatten(x)
    ref_leaves = jax.tree.leaves(ref)
    if same_tree(ref, x):
        pairs = list(zip(ref_leaves, leaves, strict=True))
    elif same_tree(ref, 0) and np.ndim(ref) == 0:
        pairs = [(ref, leaf) for leaf in leaves]
    else:
        raise ValueError(_mismatch(ref, x))

    def spread(r: Any, leaf: Any) -> Any:
        try:
            array = jnp.broadcast_to(jnp.asarray(r), leaf.shape)
            if jnp.issubdtype(array.dtype, jnp.complexfloating):
                raise TypeError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(_mismatch(ref, x)) from None
        return compat.vary(_typed_like(r, array, leaf.dtype), compat.varying(leaf))

    return jax.tree.unflatten(tree, [spread(r, leaf) for r, leaf in pairs])


def _typed_like(given: Any, array: Any, dtype: Any) -> Any:
    """A reference in x's type, or an error where integers or booleans can't say the same."""
    if not jnp.issubdtype(dtype, jnp.floating) and array.dtype != dtype:
        if isinstance(given, jax.core.Tracer):  # whether it fits is not known
            exact = all(jnp.issubdtype(d, jnp.integer) for d in (dtype, array.dtype))
        else:
            with np.errstate(invalid="ignore"):
                exact = (np.asarray(given).astype(dtype) == np.asarray(given)).all()
        if not exact:
            raise ValueError(
                f"the reference is {_describe(given)}, which x's {_dtype_name(dtype)} can't take: "
                "give one of the values that x may have (not a mean of categories)"
            )
    return array.astype(dtype)


def as_references(refs: Tree, x: Tree) -> Any:
    """Arrays with a leading reference axis and x's shape, or an error that shows both trees."""
    refs = frames.as_arrays(refs)
    _watch(refs)

    def fits(ref: Tree, leaf: Any) -> bool:
        behind = jnp.shape(ref)[1:]
        return jnp.ndim(ref) == leaf.ndim + 1 and all(
            r in (1, size) for r, size in zip(behind, leaf.shape, strict=True)
        )

    if not same_tree(refs, x) or not jax.tree.all(jax.tree.map(fits, refs, x)):
        raise ValueError(
            "refs must be shaped like x with a leading reference axis on every leaf.\n"
            f"  refs: {jax.tree.map(jnp.shape, refs)}\n"
            f"  x:    {jax.tree.map(jnp.shape, x)}\n"
            "For a single reference call the method itself, or give it an axis by `ref[None]`; "
            "a list of references becomes refs by `jax.tree.map(lambda *r: jnp.stack(r), *list)`."
        )

    def typed(ref: Tree, leaf: Any) -> Any:
        return compat.vary(_typed_like(ref, jnp.asarray(ref), leaf.dtype), compat.varying(leaf))

    return jax.tree.map(typed, refs, x)


def same_tree(a: Any, b: Any) -> bool:
    """Whether two pytrees have one structure."""
    return operator.eq(jax.tree.structure(a), jax.tree.structure(b))


def _mismatch(ref: Tree, x: Tree) -> str:
    return (
        "the reference does not broadcast to the input.\n"
        f"  reference: {_describe(ref)}\n"
        f"  input:     {_describe(x)}\n"
        "Give a scalar, or the input's tree with leaves that broadcast to its leaves."
    )


def _describe(tree: Any) -> str:
    def leaf(value: Any) -> str:
        try:
            return jax.typeof(jnp.asarray(value)).str_short(short_dtypes=True)
        except (TypeError, ValueError, OverflowError):
            return type(value).__name__

    return str(jax.tree.map(leaf, tree)).replace("'", "")


@dataclasses.dataclass(frozen=True)
class Staged:
    """f as a closed jaxpr of x's leaves alone; the other arguments are its constants."""

    jaxpr: ClosedJaxpr
    tree: Any  # of the output
    leaves: tuple[Any, ...]  # x's
    varying: frozenset[str]  # the axes of a mesh along which the output differs


def stage(
    f: Function, args: Sequence[Any], argnums: Argnums, *, integers: bool = False
) -> Staged:
    """Traces f once at these arguments; `integers` says whether x may have some."""
    x = attributed(f, args, argnums, integers=integers)
    leaves, tree = jax.tree.flatten(x)

    def flat(*leaves: Any) -> Any:
        return call(f, *place(args, argnums, jax.tree.unflatten(tree, leaves)))

    jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    axes = frozenset().union(*map(compat.varying, jax.tree.leaves(shapes)))
    return Staged(jaxpr, jax.tree.structure(shapes), tuple(leaves), axes)


def call(f: Function, *args: Any) -> Any:
    """f(*args), with an error of Flax's that means little to who meets it here in our words."""
    try:
        return f(*args)
    except Exception as error:
        if type(error).__name__ != "TraceContextError":  # Flax's, which need not be there
            raise
        raise TypeError(
            "f changes the state of a Flax nnx model, which no transformation of JAX allows: its "
            "dropout or batch norm is in training mode. Explain `jaxplain.flax.function(model)`, "
            "which evaluates a copy, or call `model.eval()` first."
        ) from error


def as_value(y: Any) -> Any:
    """One real array, floating; whether a coalition wins, or counts, are numbers too."""
    if not same_tree(y, 0) or jnp.issubdtype(jnp.result_type(y), jnp.complexfloating):
        raise TypeError(
            "f must return a real number or one array of them, and returned "
            f"{jax.tree.map(lambda leaf: jax.typeof(jnp.asarray(leaf)), y)}"
        )
    y = jnp.asarray(y)
    return y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(float)


def _smallest(tree: Any) -> str:
    """The place of a tree's smallest leaf, as one writes it behind the tree."""
    places = [(jnp.size(v), jax.tree_util.keystr(k)) for k, v in jax.tree.leaves_with_path(tree)]
    return min(places, key=lambda place: place[0])[1] if places else ""


def check_scalar(output: Any) -> None:
    """An explanation is of one real number; says which target makes f one."""
    leaves = jax.tree.leaves(output)
    if not same_tree(output, 0):
        raise TypeError(
            f"f must return one scalar, and returned {_describe(output)}. Drop side outputs, "
            f"e.g. explain `lambda x: f(x){_smallest(output)}`, or pick a target by "
            "`jaxplain.logit(f, index)`."
        )
    (y,) = leaves
    if jnp.shape(y) != ():
        raise TypeError(
            f"f must return a scalar, and returned {_describe(y)}. Wrap it in a target: "
            "`jaxplain.logit(f, index)` for one output, `jaxplain.probability(f, index)`, "
            "`jaxplain.log_odds(f, a, b)` or `jaxplain.contrast(f, index)`. "
            "If the leading axis is a batch, f takes one example and `jax.vmap` makes the batch."
        )
    if not jnp.issubdtype(jnp.result_type(y), jnp.floating):
        raise TypeError(f"f must return a real floating number, and returned {_describe(y)}.")
