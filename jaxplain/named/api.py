"""Inside the network: values named in a program, and how much each of them matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxplain._types import Function
from jaxplain.named.calls import substituted
from jaxplain.named.edits import masked, masked_input, read_and_edit, replacement
from jaxplain.named.sites import select, sites
from jaxplain.surrogate import staging
from jaxplain.targets import logit


def tag(value: Any, name: str) -> Any:
    r"""The value itself, with a name by which it can be read, replaced and explained.

    It is `jax.ad_checkpoint.checkpoint_name`, the identity, which costs nothing in a compiled
    program and stays under jit, vmap, grad, scan and remat; names given by that function count
    as well.

    Args:
      value: an array, or a pytree of them: the leaves of a larger tree are named apart, as in
        "name/key".
      name: any string; "/" reads well between layers, as in "encoder/0/attention".

    Returns:
      The value.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(jnp.tanh(x), "hidden").sum()
      >>> list(jxp.names(f)(jnp.ones(2)))
      ['hidden']
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(value)

    def named(path: Any, leaf: Any) -> Any:
        key = jax.tree_util.keystr(path, simple=True, separator="/")
        return checkpoint_name(leaf, f"{name}/{key}" if len(leaves) > 1 else name)

    return jax.tree.unflatten(tree, [named(*leaf) for leaf in leaves])


def names(f: Function) -> Callable[..., dict[str, jax.ShapeDtypeStruct]]:
    r"""The names inside f, in the order of its program.

    Args:
      f: any traceable function.

    Returns:
      `names(f)(*args, **kwargs)` → {name: shape and dtype of its value}.  Inside a scan the steps
      come in front.  A name that occurs several times is numbered: "h#0", "h#1".  Nothing is
      computed.

      Wherever names are asked for (`at=`, `capture`, `intervene`), patterns are too: `*` stands for
      anything but a slash, `?` for one character but a slash, `[ab]` for one of these, `**` for
      anything and `**/` for any levels or none; `"*"` alone is every name. "blocks/*" is each
      block, "blocks/**" everything in them too, "**/mlp" every "mlp".

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(jxp.tag(x, "h") + 1, "h")
      >>> list(jxp.names(f)(jnp.ones(2)))
      ['h#0', 'h#1']
    """

    def named(*args: Any, **kwargs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        jaxpr, _ = _trace(f, args, kwargs)
        return {name: site.value for name, site in sites(jaxpr).items()}

    return named


def capture(f: Function, *names: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    r"""f with the values that it computes on its way.

    Args:
      f: any traceable function.
      names: names and patterns ("block_*", as in `names`); none takes all there are.

    Returns:
      `captured(*args, **kwargs)` → (f's output, {name: value}).  Values inside a scan are stacked
      step by step; one in a branch of `cond` that is not taken is zero.

    Raises:
      ValueError: there is no such name; it stands in a while loop.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(2 * x, "double").sum()
      >>> jxp.capture(f, "double")(jnp.ones(2))
      (Array(4., dtype=float32), {'double': Array([2., 2.], dtype=float32)})
    """

    def captured(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        jaxpr, tree = _trace(f, args, kwargs)
        found = sites(jaxpr)
        keep = select(found, names) if names else list(found)
        outputs, values = read_and_edit(jaxpr, (), keep=keep)
        return jax.tree.unflatten(tree, outputs), values

    return captured


def intervene(f: Function, edits: Mapping[str, Any]) -> Function:
    r"""f with other values in the place of named ones.

    Args:
      f: any traceable function.
      edits: {name or pattern (as in `names`): function of the value, or the array to put there, or
        (array, mask) to put it only where the mask is True}.  Inside a scan a function is called
        with the value of one step, and arrays have the steps in front (as `capture` returns them):
        a mask edits some steps, and lets those after them follow.  What replaces a value must
        broadcast to it.

    Returns:
      `intervened(*args, **kwargs)` → f's output.  Names stay, on the new values.

    Raises:
      ValueError: there is no such name; two edits ask for one name; a replacement does not
        broadcast; the value stands in a while loop, or in a function with a custom derivative.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(2 * x, "double").sum()
      >>> float(jxp.intervene(f, {"double": lambda h: h.at[0].set(0)})(jnp.ones(2)))
      2.0
    """

    def intervened(*args: Any, **kwargs: Any) -> Any:
        jaxpr, tree = _trace(f, args, kwargs)
        found = sites(jaxpr)
        functions: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for at, edit in edits.items():
            for name in select(found, at):
                if name in functions:
                    raise ValueError(f"two edits ask for {name!r}: {sorted(edits)}")
                if callable(edit):
                    functions[name] = edit
                elif isinstance(edit, tuple):
                    array, mask = edit
                    functions[name] = masked
                    arrays[name] = masked_input(array, mask, found[name].value, name)
                else:
                    functions[name] = lambda value, other: other
                    arrays[name] = replacement(edit, found[name].value, name)
        outputs, _ = read_and_edit(jaxpr, (), edits=functions, inputs=arrays)
        return jax.tree.unflatten(tree, outputs)

    return intervened


def substitute(f: Function, calls: Mapping[str, Callable[..., Any]]) -> Function:
    r"""f with other functions in the place of those that it calls: open ones for fused kernels.

    A kernel (Pallas, a foreign call) has no body that a rule could look into: with a derivative of
    its own it is integrated as a whole, without one it is refused.  Where a function of JAX's
    operations computes the same, it takes the kernel's place, and every method sees its equations;
    the kernel itself is not run.

    Args:
      f: any traceable function.
      calls: {name of the call: function}.  Names are those of jitted functions, of functions with
        a custom derivative, of Pallas kernels (`pallas_call(..., name=)`) and of the targets of
        `jax.ffi.ffi_call`; every call of a name is substituted, the outermost where they are
        nested, scans' steps and conditionals' branches included.  The function gets the call's
        arrays in the order of its arguments, flattened and without static ones, and returns the
        same number, shapes and dtypes as the call.

    Returns:
      `substituted(*args, **kwargs)` → f's output.  A custom derivative around a call that is
      substituted goes with it.

    Raises:
      ValueError: f calls nothing of that name (the message lists what it calls); what the function
        returns is not like the call's outputs; the call stands in a while loop.
      TypeError: what stands in for a call can't be called.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> kernel = jax.ffi.ffi_call("swish", jax.ShapeDtypeStruct((2,), jnp.float32))
      >>> f = jxp.substitute(lambda x: kernel(x).sum(), {"swish": jax.nn.silu})
      >>> jxp.deeplift(f, 0.0)(jnp.array([1.0, -1.0]))
      Array([ 0.7311, -0.2689], dtype=float32)
    """
    for name, function in calls.items():
        if not callable(function):
            raise TypeError(f"what stands in for {name!r} is a {type(function).__name__}, and "
                            "can't be called")  # fmt: skip

    def with_others(*args: Any, **kwargs: Any) -> Any:
        jaxpr, tree = _trace(f, args, kwargs)
        return jax.tree.unflatten(tree, substituted(jaxpr, (), calls))

    return with_others


def neuron(f: Function, name: str, index: Any) -> Function:
    r"""A neuron as a function of the input, for every method: `deeplift(neuron(f, name, i), ref)`.

    Args:
      f: any traceable function.
      name: of the value that holds the neuron.
      index: int, tuple, or traced integer, as in `logit`.

    Returns:
      A scalar function of f's arguments, h[index].

    Raises:
      ValueError: there is no such name.
      IndexError: a known index is out of range.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jxp.tag(x * jnp.arange(2.0), "hidden").sum()
      >>> jxp.gradient(jxp.neuron(f, "hidden", 1))(jnp.ones(2))
      Array([0., 1.], dtype=float32)
    """

    def value(*args: Any, **kwargs: Any) -> Any:
        values = capture(f, name)(*args, **kwargs)[1]
        if len(values) > 1:
            raise ValueError(f"a neuron has one name, and {name!r} asks for {list(values)}")
        return next(iter(values.values()))

    return logit(value, index)


def _trace(f: Function, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """f's program at these arguments, which are its constants, and the tree of its output."""
    traced = lambda: staging.call(lambda: f(*args, **kwargs))
    jaxpr, shapes = jax.make_jaxpr(traced, return_shape=True)()
    return jaxpr, jax.tree.structure(shapes)
