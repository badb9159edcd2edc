"""What is known of each primitive: the one table of facts that everything else asks.

A primitive stands here once, with its group (what it *is*: linear, elementwise, a maximum ...) and
whatever else a rule needs to know of it.  Rule tables are built from the groups.  One that a new
JAX makes public is in no group, and the test that counts them fails until it is placed here; one
of another library is `foreign`: it is integrated by JAX's own derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from jax.extend.core import Primitive

from jaxplain.surrogate import compat


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a primitive.

    Args:
      group: what it is; see `GROUPS`.
      moves: it moves or copies elements of its first operand and computes nothing.
      index: the first of its operands that are indices or sizes, if there are any.
      domain: it is defined, or smooth, on a part of the line only.
      tame: its slopes between finite numbers are finite.
      bounded: its values lie between -1 and 1.
      falls: it is a minimum.
      kinked: its slope jumps somewhere.
      counts: of booleans it is a count of what real numbers decide.
      along: the parameter with the axis (or axes) that it works along; other axes are items.
      matrix: it works on matrices in the last two axes; other axes are items.
      bodies: the parameters that hold its bodies, jaxprs or tuples of them.
      derivative: it is a call with a derivative of its own.
    """

    group: str
    moves: bool = False
    index: int | None = None
    domain: bool = False
    tame: bool = False
    bounded: bool = False
    falls: bool = False
    kinked: bool = False
    counts: bool = False
    along: str | None = None
    matrix: bool = False
    bodies: tuple[str, ...] = ()
    derivative: bool = False


# What each group says of its primitives; their order is the order of rules in a table.
GROUPS: dict[str, str] = {
    "linear": "jointly linear in all active floating operands; others are indices or sizes",
    "elementwise": "any number of operands: a region of these with one root is a scalar function",
    "bilinear": "linear in each of two operands",
    "maximum": "the largest or smallest of a set",
    "chosen": "linear in one operand, at places that another chooses: a pool's derivative",
    "curved": "differentiable and none of the above",
    "linear_solve": "the solution of a linear system",
    "discrete": "of booleans and integers, or to them: nothing flows back",
    "control_flow": "with bodies that are emitted again around lifted values",
    "calls": "opened before any table sees them",
    "opaque": "without a derivative, or not meant for programs that are explained",
    "sources": "never with an active operand: they make values, or order effects",
    "foreign": "not JAX's own: integrated by their own derivative",
}


def _entries() -> dict[str, Facts]:
    table: dict[str, Facts] = {}

    def add(group: str, names: str, **facts: Any) -> None:
        for name in names.split():
            table[name] = Facts(group, **facts)

    add("linear", """add_any all_gather all_to_all concatenate device_put fft imag real conj complex
        optimization_barrier pad ppermute psum psum_invariant ragged_all_to_all reduce_window_sum
        sharding_constraint split stack tile unstack all_gather_reduced all_gather_invariant
        pvary pcast reduce_scatter mesh_cast reshard unreduced_psum""")
    add("linear", "broadcast_in_dim reshape squeeze transpose slice rev copy name", moves=True)
    add("linear", "gather dynamic_slice", moves=True, index=1)
    add("linear", "dynamic_update_slice", index=2)
    add("linear", "scatter scatter-add scatter-sub", index=1)
    add("chosen", "select_and_gather_add select_and_scatter_add")
    add("linear", "reduce_sum", counts=True, along="axes")
    add("linear", "cumsum", along="axis")

    add("elementwise", """add asinh atan convert_element_type erfc mul neg reduce_precision square
        stop_gradient sub""", tame=True)
    add("elementwise", "abs", tame=True, kinked=True)
    add("elementwise", "cos erf logistic sin tanh", tame=True, bounded=True)
    add("elementwise", """asin atan2 bessel_i0e bessel_i1e cosh div exp exp2 expm1 igamma igammac
        integer_pow one_minus_square polygamma polynomial random_gamma
        regularized_incomplete_beta sinh tan""")
    add("elementwise", """acos acosh asin atanh cbrt digamma erf_inv lgamma log log1p log2 pow rsqrt
        sqrt""", domain=True)
    add("elementwise", "max clamp", tame=True, kinked=True)
    add("elementwise", "min", tame=True, falls=True, kinked=True)
    add("elementwise", "nextafter rem select_n floor ceil round sign", kinked=True)
    add("elementwise", """and or xor not eq ne lt le gt ge eq_to le_to lt_to is_finite
        population_count clz shift_left shift_right_arithmetic shift_right_logical mulhi""")

    add("bilinear", "dot_general conv_general_dilated ragged_dot_general")

    add("maximum", "reduce_max", along="axes")
    add("maximum", "reduce_min", along="axes", falls=True)
    add("maximum", "reduce_window_max")
    add("maximum", "reduce_window_min", falls=True)
    add("maximum", "cummax", along="axis")
    add("maximum", "cummin", along="axis", falls=True)
    add("maximum", "scatter-max", index=1)
    add("maximum", "scatter-min", index=1, falls=True)

    add("curved", "cumlogsumexp cumprod", along="axis")
    add("curved", "sort", along="dimension")
    add("curved", "top_k", along="axis")
    add("curved", "approx_top_k", along="reduction_dimension")
    add("curved", "reduce_prod", along="axes")
    add("curved", "scatter-mul", index=1)
    add("curved", "reduce")
    add("curved", """cholesky eigh lu qr svd triangular_solve tridiagonal_solve eig""", matrix=True)

    add("linear_solve", "custom_linear_solve", bodies=("jaxprs",))
    add("discrete", "reduce_or reduce_and", counts=True, along="axes")
    add("discrete", "reduce_xor argmax argmin", along="axes")

    add("control_flow", "scan remat2 shard_map", bodies=("jaxpr",))
    add("control_flow", "cond", bodies=("branches",))
    add("control_flow", "while", bodies=("cond_jaxpr", "body_jaxpr"))

    add("calls", "jit", bodies=("jaxpr",))
    add("calls", "call closed_call eval_jaxpr", bodies=("call_jaxpr",))
    add("calls", "custom_jvp_call custom_vjp_call", bodies=("call_jaxpr",), derivative=True)

    add("opaque", """igamma_grad_a zeta pmax pmin bitcast_convert_type reduce_window
        select_and_scatter random_bits random_fold_in random_seed random_split rng_bit_generator
        rng_uniform threefry2x32 custom_lin stage""")
    add("opaque", "hessenberg householder_product schur tridiagonal", matrix=True)
    add("sources", "after_all axis_index create_token dce_sink empty2 iota get swap")
    return table


FACTS: dict[str, Facts] = _entries()
_FOREIGN = Facts("foreign")

# A primitive that JAX uses and does not list (a `psum` under `shard_map`) is known by its name.
Key = Primitive | str


def _keys(name: str) -> tuple[Key, ...]:
    return compat.resolve([name]) or (name,)


_BY_KEY: dict[Key, Facts] = {key: known for name, known in FACTS.items() for key in _keys(name)}


def key(primitive: Any) -> Any:
    """What a primitive is looked up by: itself, or its name where JAX does not list it."""
    if primitive in _BY_KEY or primitive.name not in _BY_KEY:
        return primitive
    return primitive.name


def facts(primitive: Any) -> Facts:
    """What is known of a primitive (or of a pattern that stands in one's place)."""
    return _BY_KEY.get(key(primitive), _FOREIGN)


def where(holds: Callable[[Facts], bool]) -> tuple[Key, ...]:
    """The keys of the primitives of which something holds."""
    return tuple(found for found, known in _BY_KEY.items() if holds(known))


def group(name: str) -> tuple[Key, ...]:
    """The keys of a group's primitives."""
    if name not in GROUPS:
        raise KeyError(name)
    return where(lambda known: known.group == name)


def unplaced(names: Iterable[str]) -> list[str]:
    """Those of these names that the table does not know."""
    return sorted(set(names) - set(FACTS))
