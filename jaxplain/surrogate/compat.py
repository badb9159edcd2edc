"""The only place that knows how JAX versions differ (0.10 to 0.12).

A closed jaxpr and a jaxpr are one type in 0.12 and two before; `scan` counts its operands in 0.10
and carries trees of them in 0.12; primitives come and go. Everything else asks here.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core.primitives
from jax.extend import source_info_util
from jax.extend.core import (
    ClosedJaxpr,
    JaxprEqn,
    Literal,
    Primitive,
    jaxpr_as_fun,
    jaxprs_in_params,
)

# Frames of these folders are never the user's, and those of installed libraries hardly ever.
_OURS = (
    os.path.dirname(jax.__file__) + os.sep,
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
)
_INSTALLED = [os.sep + folder + os.sep for folder in ("site-packages", "dist-packages")]


def open_jaxpr(jaxpr: ClosedJaxpr) -> tuple[Any, list[Any]]:
    """A (closed) jaxpr's body and the values of its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def _unlisted() -> list[Primitive]:
    """Primitives of public functions that are not themselves among the public names."""
    shapes = [((2, 2), "float32"), ((1, 2, 2), "float32"), ((1,), "int32")]
    closed = jax.make_jaxpr(jax.lax.ragged_dot)(*(jax.ShapeDtypeStruct(*s) for s in shapes))

    def collective(x: Any) -> Any:
        return jax.lax.psum(jax.lax.pcast(x, "i", to="varying"), "i")

    mesh, whole = jax.sharding.AbstractMesh((1,), ("i",)), jax.sharding.PartitionSpec()
    sharded = jax.shard_map(collective, mesh=mesh, in_specs=whole, out_specs=whole)
    (call,) = open_jaxpr(jax.make_jaxpr(sharded)(jax.ShapeDtypeStruct((), "float32")))[0].eqns
    jaxprs = [closed, *jaxprs_in_params(call.params)]
    return [equation.primitive for jaxpr in jaxprs for equation in open_jaxpr(jaxpr)[0].eqns]


def public_primitives() -> dict[str, tuple[Primitive, ...]]:
    """Every primitive that this JAX makes public, by name; a name may belong to several."""
    found: dict[str, dict[int, Primitive]] = {}
    for module in (jax.lax, jax.extend.core.primitives):
        for attribute in dir(module):
            if attribute.endswith("_p"):
                primitive = getattr(module, attribute)
                if isinstance(primitive, Primitive):
                    found.setdefault(primitive.name, {})[id(primitive)] = primitive
    for primitive in _unlisted():
        found.setdefault(primitive.name, {})[id(primitive)] = primitive
    return {name: tuple(primitives.values()) for name, primitives in found.items()}


_PUBLIC = public_primitives()


def resolve(names: Iterable[str]) -> tuple[Primitive, ...]:
    """The primitive objects of these names, leaving out what this JAX version does not have."""
    return tuple(primitive for name in names for primitive in _PUBLIC.get(name, ()))


def close_jaxpr(jaxpr: ClosedJaxpr, consts: list[Any]) -> Any:
    """The jaxpr with other values for its constants."""
    return ClosedJaxpr(jaxpr, consts)


def varying(value: Any) -> frozenset[str]:
    """The axes of a mesh along which a value (or its type) differs, inside `jax.shard_map`."""
    kind = value if hasattr(value, "manual_axis_type") else jax.typeof(value)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset() if manual is None else manual.varying


def vary(tree: Any, axes: Iterable[str]) -> Any:
    """The same values, as ones that may differ along these axes of a mesh.

    JAX adds up the cotangents of what does not differ between devices where it meets what does:
    what is differentiated for each device by itself must be of the latter kind.
    """

    def leaf(value: Any) -> Any:
        more = tuple(sorted(frozenset(axes) - varying(value)))
        return jax.lax.pcast(value, more, to="varying") if more else value

    return jax.tree.map(leaf, tree)


@contextlib.contextmanager
def on_mesh_of(tree: Any) -> Iterator[None]:
    """With the mesh at hand on whose explicit axes a tree's arrays lie, if there is none at hand.

    Under `vmap` JAX asks for it wherever a loop or a call inside meets what is no array's of the
    batch, and the user need not have set it. What is not compiled can't do with a mesh in the
    abstract.
    """
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    explicit = [mesh for mesh in meshes if mesh.explicit_axes]
    if (
        not explicit
        or not jax.sharding.get_abstract_mesh().empty
        or not isinstance(jax.numpy.zeros(()), jax.core.Tracer)
    ):
        yield
        return
    with jax.sharding.use_abstract_mesh(explicit[0]):
        yield


@contextlib.contextmanager
def computed_now() -> Iterator[None]:
    """Whatever is known is computed while a program is traced, on no mesh."""
    nowhere = jax.sharding.AbstractMesh((), ())
    with jax.ensure_compile_time_eval(), jax.sharding.use_abstract_mesh(nowhere):
        yield


def zeros(kinds: Any) -> Any:
    """Zeros of the types that `jax.eval_shape` gives, as a loop may carry them."""

    def leaf(kind: Any) -> Any:
        # One number alone is no array of the mesh at hand, and a loop in a loop asks for such.
        nought = jax.numpy.zeros(kind.shape or 1, kind.dtype).reshape(kind.shape)
        return vary(nought, varying(kind))

    return jax.tree.map(leaf, kinds)


def is_literal(atom: Any) -> bool:
    return isinstance(atom, Literal)


def jaxprs_in(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among the parameters of an equation of which nothing else is known."""
    return list(jaxprs_in_params(params))


def shard_map(body: Any, params: dict[str, Any]) -> Any:
    """`body`, mapped over a mesh as an equation of `shard_map` was."""
    return jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=params["in_specs"],
        out_specs=params["out_specs"],
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )


@contextlib.contextmanager
def source_of(equation: JaxprEqn) -> Iterator[None]:
    """What is traced in here has the equation's source line and scope."""
    info = equation.source_info
    stack = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=stack):
        yield


def bind(equation: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """A traced equation's outputs at these values, its custom derivatives and source kept."""
    with source_of(equation), equation.ctx.manager:
        return bind_primitive(equation.primitive, values, equation.params)


def bind_primitive(
    primitive: Primitive, values: Sequence[Any], params: dict[str, Any]
) -> list[Any]:
    """A primitive's outputs at these values, its custom derivatives kept."""
    outputs = primitive.bind(*values, **primitive.get_bind_params(params))
    return list(outputs) if primitive.multiple_results else [outputs]


def evaluate(closed_jaxpr: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """A closed jaxpr's outputs at these values."""
    return list(jaxpr_as_fun(closed_jaxpr)(*values))


def scan_arity(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are the initial carry."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def carried_on(jaxpr: ClosedJaxpr, num_consts: int, num_carry: int) -> list[bool]:
    """Which of a loop's carried values its body hands on as they came."""
    body, _ = open_jaxpr(jaxpr)
    before = body.invars[num_consts : num_consts + num_carry]
    return [after is var for after, var in zip(body.outvars, before, strict=False)]


def user_line(equations: Iterable[Any]) -> str:
    """The line of the user's code behind an equation, as 'file.py:12 (function)'.

    `equations` is the equation and the calls around it, the innermost first: inside a jit that was
    traced on its own the trace may end before it reaches the user.  JAX traces its own functions
    once for all who call them, so that what stands inside knows only of the first.  Where no line
    is the user's, an installed library's has to do.
    """
    around, lines = tuple(equations), []
    for equation, call in zip(around, (*around[1:], None), strict=True):
        if call is not None and _is_library_call(call):
            continue
        traceback = getattr(equation.source_info, "traceback", None)
        for frame in getattr(traceback, "frames", ()):
            if not frame.file_name.startswith(_OURS):
                lines.append(frame)
    users = (f for f in lines if not any(folder in f.file_name for folder in _INSTALLED))
    frame = next(users, lines[0] if lines else None)
    if frame is None:
        return "an unknown line"
    return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"


def _is_library_call(call: Any) -> bool:
    """Whether a call is of a function of JAX's."""
    body = call.params.get("jaxpr", call.params.get("call_jaxpr"))
    source = getattr(getattr(open_jaxpr(body)[0], "debug_info", None), "func_src_info", "")
    return str(source).partition(" at ")[2].startswith(_OURS[0])


def scope(equation: JaxprEqn) -> str:
    """The path of modules and `jax.named_scope`s that an equation was traced in."""
    return str(equation.source_info.name_stack)


def apart(array: Any) -> Any:
    """The same array, which XLA is to compute once and not again in each place that reads it.

    JAX 0.10's CPU backend drops barriers. What it never joins with other loops is a maximum over
    windows: here of one element each.
    """
    kept = jax.__version_info__ >= (0, 12) or jax.default_backend() != "cpu"
    return jax.lax.optimization_barrier(array) if kept else _own_maximum(array)


@jax.custom_jvp
def _own_maximum(array: Any) -> Any:
    real = jax.numpy.issubdtype(array.dtype, jax.numpy.inexact)
    least = -jax.numpy.inf if real else jax.numpy.iinfo(array.dtype).min
    edges = [(0, 0)] * array.ndim + [(0, 1)]  # on a last axis of one
    return jax.lax.reduce_window(
        array[..., None], jax.numpy.asarray(least, array.dtype), jax.lax.max,
        (1,) * array.ndim + (2,), (1,) * len(edges), edges,
    )[..., 0]  # fmt: skip


@_own_maximum.defjvp
def _own_tangent(primals: Any, tangents: Any) -> Any:
    return _own_maximum(*primals), tangents[0]


def inner_name(equation: Any) -> str:
    """What an equation does, in JAX's word for it: of a hidden call the operation that it hides."""
    hidden = equation.params.get("_prim")
    return equation.primitive.name if hidden is None else type(hidden).__name__


def call_name(equation: Any) -> str | None:
    """The name of what an equation calls: of a function, a kernel, a foreign target; else None."""
    if equation.primitive.name == "name":
        return None
    params = equation.params
    given = params.get("name") or params.get("target_name")
    if given or "call_jaxpr" not in params:
        return str(given) if given else None
    info = getattr(open_jaxpr(params["call_jaxpr"])[0], "debug_info", None)
    return getattr(info, "func_name", None)


def home(primitive: Primitive) -> tuple[str, str]:
    """The module and name under which another library's primitive can be imported."""
    for module in list(sys.modules.values()):
        for name, item in list(getattr(module, "__dict__", {}).items()):
            if item is primitive:
                return module.__name__, name
    raise TypeError(
        f"the primitive {primitive.name!r} can't be pickled: it stands under no name in any "
        "imported module"
    )
