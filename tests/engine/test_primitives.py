"""Every primitive of JAX: in exactly one group, and complete item by item under its rule."""

import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import jaxplain as jxp
from jaxplain.surrogate import compat, primitives, program
from tests.support.marks import some_slow

DIFFERENTIABLE = tuple("linear elementwise bilinear maximum chosen curved linear_solve".split())

# The operands of an example, drawn in float64 and rounded to the dtype of the test.

Draw = Callable[[np.random.Generator], np.ndarray]


def normal(*shape: int) -> Draw:
    return lambda rng: rng.normal(size=shape)


def between(low: float, high: float, *shape: int) -> Draw:
    return lambda rng: rng.uniform(low, high, size=shape)


def spd(*shape: int) -> Draw:
    """Symmetric, eigenvalues from 1 on."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        a = rng.normal(size=shape)
        return a @ np.swapaxes(a, -1, -2) / shape[-1] + np.eye(shape[-1])

    return draw


def lower(*shape: int) -> Draw:
    """Lower triangular, diagonal from 1 to 2."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        diagonal = rng.uniform(1, 2, size=shape[:-1])
        return np.tril(rng.normal(size=shape), -1) + diagonal[..., None] * np.eye(shape[-1])

    return draw


class Example(NamedTuple):
    """A function of active operands; along their first `batch` axes items are independent."""

    f: Callable[..., Any]
    operands: tuple[Draw, ...]
    batch: int = 0
    gradient: bool = True  # whether the multipliers at x = ref are JAX's gradient


def bind(name: str) -> Callable[..., Any]:
    """A primitive that no public function spells."""
    return lambda *operands, **params: compat.resolve([name])[0].bind(*operands, **params)


def const(array: Any, like: Any) -> Any:
    return jnp.asarray(array, like.dtype)


def unary(f: Callable, low: float, high: float, **options: Any) -> list[Example]:
    shapes = [(1, 3), (), (0, 2)]
    return [Example(f, (between(low, high, *s),), len(s), **options) for s in shapes]


def has_gradient(f: Callable) -> bool:
    """Whether this JAX can differentiate it."""
    try:
        jax.eval_shape(jax.grad(f), 1.0, 2.0)
    except NotImplementedError:
        return False
    return True


def binary(f: Callable, one: tuple, other: tuple, **options: Any) -> list[Example]:
    """Both operands active, alike or along a size-1 axis, then each with a constant other."""

    def draws(*shape: int) -> tuple[Draw, Draw]:
        return between(*one, *shape), between(*other, *shape)

    first, second = ((low + high) / 2 + 0.1 for low, high in (one, other))
    return [
        *(Example(f, draws(*s), len(s), **options) for s in [(4,), (), (2, 0)]),
        Example(f, (between(*one, 2, 3), between(*other, 2, 1)), 1, **options),
        Example(lambda x: f(x, const(second, x)), draws(3)[:1], 1, **options),
        Example(lambda x: f(const(first, x), x), draws(3)[1:], 1, **options),
    ]


def special(f: Callable, low: float, high: float) -> list[Example]:
    """One shape only: these take XLA seconds each."""
    return [Example(f, (between(low, high, 3),), 1)]


def comparison(f: Callable) -> list[Example]:
    """A choice by a predicate of one root (a chain) and of two (four corners)."""

    def chosen(x: Any, y: Any) -> Any:
        return jnp.where(f(x, y), jnp.sin(x), x * y)

    return [
        Example(lambda x: chosen(x, const(0.1, x)), (normal(4),), 1),
        Example(chosen, (normal(4), normal(4)), 1),
    ]


def integers(f: Callable) -> list[Example]:
    """A staircase: through integers and back."""

    def staircase(x: Any) -> Any:
        return f((8 * x).astype(jnp.int32)).astype(x.dtype)

    return [Example(staircase, (between(0, 3, 4),), 1)]


def logical(f: Callable) -> list[Example]:
    return [
        Example(lambda x: jnp.where(f(x > 0, x < 1), x, x * x), (between(-2, 2, 6),), 1),
        Example(lambda x, y: jnp.where(f(x > 0, y > 0), x * y, x - y), (normal(6), normal(6)), 1),
    ]


def window(f: Callable) -> list[Example]:
    """Overlapping windows, a stride and padding."""
    return [
        Example(partial(f, size=(1, 3, 3, 1), stride=(1, 2, 2, 1)), (normal(2, 5, 5, 1),), 1),
        Example(partial(f, size=(1, 2), stride=(1, 1)), (normal(2, 4),), 1),
    ]


def max_pool(x: Any, size: tuple, stride: tuple) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, size, stride, "SAME")


def min_pool(x: Any, size: tuple, stride: tuple) -> Any:
    return lax.reduce_window(x, jnp.inf, lax.min, size, stride, "SAME")


def sum_pool(x: Any, size: tuple, stride: tuple) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, size, stride, "SAME")


def convolve(x: Any, kernel: Any, **options: Any) -> Any:
    options = {"window_strides": (1,), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHC", "HIO", "NHC"), **options)


def constant(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def tridiagonal_solve(lower: Any, diagonal: Any, upper: Any, b: Any) -> Any:
    """The corners that the tridiagonal form does not read are zeros."""
    lower, upper = lower.at[..., 0].set(0), upper.at[..., -1].set(0)
    return lax.linalg.tridiagonal_solve(lower, diagonal, upper, b)


def sharded(x: Any) -> Any:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return lax.with_sharding_constraint(x, spec)


def of_tangent(f: Callable) -> Callable:
    """The derivative of f at a fixed point, linear in its tangent."""
    return lambda t: jax.jvp(f, (const(constant(*t.shape), t),), (t,))[1]


def of_cotangent(f: Callable, *shape: int) -> Callable:
    """The transposed derivative of f at a fixed point, linear in its cotangent."""
    return lambda ct: jax.vjp(f, const(constant(*shape), ct))[1](ct)[0]


def solve_by(symmetric: bool) -> Callable:
    def solve(a: Any, b: Any) -> Any:
        a = a @ a.T + jnp.eye(3, dtype=a.dtype)
        return lax.custom_linear_solve(
            partial(jnp.matmul, a),
            b,
            lambda _, b: jnp.linalg.inv(a) @ b,
            symmetric=symmetric,
            transpose_solve=lambda _, b: jnp.linalg.inv(a.T) @ b,
        )

    return solve


pair = (normal(2, 3), normal(2, 3))
INDEX = np.array([[0], [2]], np.int32)

LINEAR: dict[str, list[Example]] = {
    "add_any": [Example(bind("add_any"), pair, 2)],
    "broadcast_in_dim": [
        Example(lambda x: lax.broadcast_in_dim(x, (2, 4, 3), (0, 2)), (normal(2, 3),), 1),
        Example(lambda x: jnp.broadcast_to(x, (2, 3)), (normal(),)),
    ],
    "complex": [Example(lax.complex, pair, 2)],
    "concatenate": [Example(lambda *x: jnp.concatenate(x, 1), pair, 1)],
    "conj": [Example(lambda x, y: jnp.conj(lax.complex(x, y)), pair, 2)],
    "copy": [Example(jnp.copy, (normal(2, 3),), 2)],
    "cumsum": [
        Example(partial(lax.cumsum, axis=1, reverse=back), (normal(2, 3),), 1)
        for back in (False, True)
    ],
    "device_put": [Example(jax.device_put, (normal(2, 3),), 2)],
    "dynamic_slice": [Example(lambda x: lax.dynamic_slice(x, (0, 1), (2, 2)), (normal(2, 4),), 1)],
    "dynamic_update_slice": [
        Example(
            lambda x, u: lax.dynamic_update_slice(x, u, (0, 1)), (normal(2, 4), normal(2, 2)), 1
        ),
        Example(
            lambda u: lax.dynamic_update_slice(jnp.ones((2, 4), u.dtype), u, (0, 1)),
            (normal(2, 2),),
            1,
        ),
    ],
    "fft": [
        Example(jnp.fft.rfft, (normal(2, 6),), 1),
        Example(lambda x, y: jnp.fft.ifft(lax.complex(x, y)), pair, 1),
        Example(lambda x, y: jnp.fft.irfft(lax.complex(x, y)), pair, 1),
    ],
    "gather": [Example(lambda x: x[:, np.array([2, 0, 0])], (normal(2, 3),), 1)],
    "imag": [Example(lambda x, y: jnp.imag(lax.complex(x, y) * (2 - 1j)), pair, 2)],
    "name": [Example(lambda x: checkpoint_name(x, program.TAP), (normal(2, 3),), 2)],
    "optimization_barrier": [Example(lambda *x: lax.optimization_barrier(x), pair, 2)],
    "pad": [
        Example(lambda x, v: lax.pad(x, v, [(1, 2, 1), (0, -1, 0)]), (normal(2, 3), normal())),
        Example(lambda x: lax.pad(x, const(0.3, x), [(0, 0, 0), (1, 0, 2)]), (normal(2, 3),), 1),
    ],
    "real": [Example(lambda x, y: jnp.real(lax.complex(x, y) * (2 - 1j)), pair, 2)],
    "reduce_sum": [
        Example(lambda x: jnp.sum(x, 1), (normal(2, 3),), 1),
        Example(jnp.sum, (normal(1, 3),)),
        Example(lambda x: jnp.sum(x, 1), (normal(2, 0),), 1),
    ],
    "reduce_window_sum": window(sum_pool),
    "reshape": [Example(lambda x: x.reshape(2, 3, 1), (normal(2, 3),), 1)],
    "rev": [Example(lambda x: lax.rev(x, (1,)), (normal(2, 3),), 1)],
    "scatter": [Example(lambda x, u: x.at[INDEX, 1].set(u), (normal(3, 3), normal(2, 1)))],
    "scatter-add": [Example(lambda x, u: x.at[INDEX].add(u), (normal(3, 3), normal(2, 1, 3)))],
    "scatter-sub": [Example(lambda x, u: x.at[INDEX].subtract(u), (normal(3, 3), normal(2, 1, 3)))],
    "select_and_gather_add": [
        Example(of_tangent(partial(max_pool, size=(1, 3), stride=(1, 2))), (normal(2, 5),), 1)
    ],
    "select_and_scatter_add": [
        Example(
            of_cotangent(partial(max_pool, size=(1, 3), stride=(1, 2)), 2, 5), (normal(2, 3),), 1
        )
    ],
    "sharding_constraint": [Example(sharded, (normal(2, 3),), 2)],
    "slice": [Example(lambda x: x[:, ::2], (normal(2, 3),), 1)],
    "split": [Example(lambda x: lax.split(x, (1, 2), 1), (normal(2, 3),), 1)],
    "squeeze": [Example(lambda x: jnp.squeeze(x, 1), (normal(2, 1, 3),), 1)],
    "stack": [Example(lambda *x: jnp.stack(x, 1), pair, 1)],
    "tile": [Example(lambda x: jnp.tile(x, (1, 2)), (normal(2, 3),), 1)],
    "transpose": [Example(lambda x: jnp.moveaxis(x, 1, 2), (normal(2, 3, 1),), 1)],
    "unstack": [Example(lambda x: jnp.unstack(x, axis=1), (normal(2, 3),), 1)],
}

ELEMENTWISE: dict[str, list[Example]] = {
    "abs": [
        *unary(jnp.abs, -2, 2),
        Example(lambda x, y: jnp.abs(lax.complex(x, y)), (normal(6), normal(6)), 1),
    ],
    "acos": unary(lax.acos, -0.99, 0.99),
    "acosh": unary(lax.acosh, 1.01, 4),
    "add": binary(lax.add, (-2, 2), (-2, 2)),
    "and": logical(jnp.logical_and),
    "asin": unary(lax.asin, -0.99, 0.99),
    "asinh": unary(lax.asinh, -3, 3),
    "atan": unary(lax.atan, -3, 3),
    "atan2": binary(lax.atan2, (-2, 2), (0.2, 2)),
    "atanh": unary(lax.atanh, -0.99, 0.99),
    "bessel_i0e": special(lax.bessel_i0e, -3, 3),
    "bessel_i1e": special(lax.bessel_i1e, -3, 3),
    "cbrt": unary(lax.cbrt, -2, 2),
    "ceil": unary(lax.ceil, -3, 3),
    "clamp": [
        *unary(lambda x: lax.clamp(const(-1, x), x, const(1, x)), -2, 2),
        Example(lax.clamp, (between(-2, -0.5, 6), between(-2, 2, 6), between(0.5, 2, 6)), 1),
        Example(lambda x: lax.clamp(x - 1, x * x, x + 1), (normal(6),), 1),
    ],
    "clz": integers(lax.clz),
    "convert_element_type": integers(lambda i: i),
    "cos": unary(lax.cos, -5, 5),
    "cosh": unary(lax.cosh, -2, 2),
    "digamma": special(lax.digamma, 0.2, 4),
    "div": binary(lax.div, (-2, 2), (0.3, 2)),
    "eq": comparison(lambda x, y: jnp.round(x) == jnp.round(y)),
    "eq_to": comparison(lambda x, y: bind("eq_to")(jnp.round(x), jnp.round(y))),
    "erf": unary(lax.erf, -3, 3),
    "erf_inv": unary(lax.erf_inv, -0.99, 0.99),
    "erfc": unary(lax.erfc, -3, 3),
    "exp": unary(lax.exp, -3, 2),
    "exp2": unary(lax.exp2, -3, 2),
    "expm1": unary(lax.expm1, -3, 2),
    "floor": unary(lax.floor, -3, 3),
    "ge": comparison(lax.ge),
    "gt": comparison(lax.gt),
    "igamma": special(lambda x: lax.igamma(const(1.5, x), x), 0.2, 3),
    "igammac": special(lambda x: lax.igammac(const(1.5, x), x), 0.2, 3),
    "integer_pow": [
        Example(partial(lax.integer_pow, y=y), (between(0.4, 1.6, 3),), 1)
        for y in (-3, -1, 2, 3, 7)
    ],
    "is_finite": unary(lambda x: jnp.where(lax.is_finite(x), jnp.sin(x), 0), -2, 2),
    "le": comparison(lax.le),
    "le_to": comparison(bind("le_to")),
    "lgamma": special(lax.lgamma, 0.2, 4),
    "log": unary(lax.log, 0.1, 4),
    "log1p": unary(lax.log1p, -0.9, 4),
    "log2": unary(jnp.log2, 0.1, 4),
    "logistic": unary(lax.logistic, -4, 4),
    "lt": comparison(lax.lt),
    "lt_to": comparison(bind("lt_to")),
    "max": binary(lax.max, (-2, 2), (-2, 2)),
    "min": binary(lax.min, (-2, 2), (-2, 2)),
    "mul": binary(lax.mul, (-2, 2), (-2, 2)),
    "mulhi": integers(lambda i: bind("mulhi")(i << 28, i)),
    "ne": comparison(lambda x, y: jnp.round(x) != jnp.round(y)),
    "neg": unary(lax.neg, -2, 2),
    "nextafter": unary(
        lambda x: lax.nextafter(x, const(9, x)), -2, 2, gradient=has_gradient(lax.nextafter)
    ),
    "not": unary(lambda x: jnp.where(~(x > 0.1), x, x * x), -2, 2),
    "one_minus_square": unary(bind("one_minus_square"), -2, 2),
    "or": logical(jnp.logical_or),
    "polygamma": special(lambda x: lax.polygamma(jnp.ones_like(x), x), 0.3, 4),
    "polynomial": unary(lambda x: jnp.polyval(const([1, -2, 0.5], x), x), -2, 2),
    "population_count": integers(lax.population_count),
    "pow": [
        *binary(lax.pow, (0.3, 2), (-2, 2)),
        Example(lambda x: x ** jnp.array([2, 3, -1]), (between(0.3, 2, 3),), 1),
    ],
    "random_gamma": special(lambda a: jax.random.gamma(jax.random.key(0), a), 0.3, 3),
    "reduce_precision": unary(lambda x: lax.reduce_precision(x, 11, 52), -2, 2),
    "regularized_incomplete_beta": special(
        lambda x: lax.betainc(const(1.5, x), const(0.7, x), x), 0.1, 0.9
    ),
    "rem": binary(lax.rem, (-2, 2), (0.4, 1)),
    "round": unary(lax.round, -3, 3),
    "rsqrt": unary(lax.rsqrt, 0.1, 4),
    "select_n": [
        Example(lambda x, y: lax.select_n(np.arange(4) % 2 > 0, x, y), (normal(4), normal(4)), 1),
        Example(lambda x, y, z: jnp.where(x > 0, y, z), (normal(9), normal(9), normal(9)), 1),
        Example(lambda x, y: jnp.where(x.sum(1) > 0, y, y**2), (normal(4, 2), normal(4)), 1),
    ],
    "shift_left": integers(lambda i: i << 1),
    "shift_right_arithmetic": integers(lambda i: i >> 1),
    "shift_right_logical": integers(lambda i: lax.shift_right_logical(i, jnp.ones_like(i))),
    "sign": unary(lax.sign, -2, 2),
    "sin": unary(lax.sin, -5, 5),
    "sinh": unary(lax.sinh, -2, 2),
    "sqrt": unary(lax.sqrt, 0.01, 4),
    "square": unary(lax.square, -2, 2),
    "stop_gradient": unary(lambda x: x * lax.stop_gradient(x), -2, 2, gradient=False),
    "sub": binary(lax.sub, (-2, 2), (-2, 2)),
    "tan": unary(lax.tan, -1.4, 1.4),
    "tanh": unary(lax.tanh, -3, 3),
    "xor": logical(jnp.logical_xor),
}

BILINEAR: dict[str, list[Example]] = {
    "dot_general": [
        Example(jnp.matmul, (normal(2, 3, 4), normal(2, 4, 2)), 1),
        Example(partial(jnp.einsum, "bij,bkj->bik"), (normal(2, 1, 3), normal(2, 2, 3)), 1),
        Example(lambda x: x @ x.mT, (normal(2, 3, 2),), 1),
        Example(lambda x: x @ const(constant(3, 2), x), (normal(2, 3),), 1),
        Example(lambda x: const(constant(2, 3), x) @ x, (normal(3, 2),)),
        Example(jnp.vdot, (normal(3), normal(3))),
        Example(jnp.matmul, (normal(2, 0), normal(0, 3))),
    ],
    "conv_general_dilated": [
        Example(convolve, (normal(2, 5, 2), normal(3, 2, 2))),
        Example(partial(convolve, feature_group_count=2), (normal(1, 5, 2), normal(3, 1, 4))),
        Example(
            partial(convolve, window_strides=(2,), padding="VALID", rhs_dilation=(2,)),
            (normal(1, 7, 1), normal(2, 1, 2)),
        ),
        Example(lambda x: convolve(x, const(constant(3, 2, 1), x)), (normal(2, 4, 2),), 1),
        Example(lambda k: convolve(const(constant(2, 4, 2), k), k), (normal(3, 2, 1),)),
        Example(
            partial(convolve, lhs_dilation=(2,), padding=[(1, 1)]),
            (normal(1, 3, 1), normal(2, 1, 1)),
        ),
    ],
    "ragged_dot_general": [
        Example(
            lambda x, w: lax.ragged_dot(x, w, jnp.array([1, 2], jnp.int32)),
            (normal(3, 2), normal(2, 2, 2)),
        )
    ],
}

MAXIMUM: dict[str, list[Example]] = {
    "reduce_max": [
        Example(lambda x: jnp.max(x, 1), (normal(3, 4),), 1),
        Example(lambda x: jnp.max(x, (1, 2)), (normal(2, 2, 2),), 1),
        Example(jnp.max, (normal(1),)),
    ],
    "reduce_min": [Example(lambda x: jnp.min(x, 1), (normal(3, 4),), 1)],
    "reduce_window_max": window(max_pool),
    "reduce_window_min": window(min_pool),
    "cummax": [
        Example(partial(lax.cummax, axis=1, reverse=back), (normal(3, 4),), 1)
        for back in (False, True)
    ],
    "cummin": [Example(partial(lax.cummin, axis=1), (normal(3, 4),), 1)],
    "scatter-max": [Example(lambda x, u: x.at[INDEX].max(u), (normal(3, 2), normal(2, 1, 2)))],
    "scatter-min": [Example(lambda x, u: x.at[INDEX].min(u), (normal(3, 2), normal(2, 1, 2)))],
}

CURVED: dict[str, list[Example]] = {
    "approx_top_k": [Example(lambda x: lax.approx_max_k(x, 2)[0], (normal(2, 4),), 1)],
    "cholesky": [Example(lax.linalg.cholesky, (spd(2, 3, 3),), 1)],
    "cumlogsumexp": [
        Example(partial(lax.cumlogsumexp, axis=1, reverse=back), (normal(2, 3),), 1)
        for back in (False, True)
    ],
    "cumprod": [
        Example(partial(lax.cumprod, axis=1, reverse=back), (normal(2, 4),), 1)
        for back in (False, True)
    ],
    "eig": [
        Example(
            lambda x: lax.linalg.eig(
                x, compute_left_eigenvectors=False, compute_right_eigenvectors=False
            )[0],
            (normal(2, 3, 3),),
            1,
        )
    ],
    "eigh": [
        Example(lambda x: lax.linalg.eigh(x), (spd(2, 3, 3),), 1),
        Example(lambda x: jnp.linalg.eigvalsh(x), (spd(3, 3),)),
    ],
    "lu": [Example(lambda x: lax.linalg.lu(x)[0], (normal(2, 3, 3),), 1)],
    "qr": [Example(partial(lax.linalg.qr, full_matrices=False), (normal(2, 3, 2),), 1)],
    "reduce": [
        Example(
            lambda x: lax.reduce(x, const(0, x), lambda a, b: a + b + a * b, (1,)),
            (normal(2, 3),),
            1,
        )
    ],
    "reduce_prod": [
        Example(lambda x: jnp.prod(x, 1), (normal(2, 3),), 1),
        Example(lambda x: jnp.prod(x, (0, 2)), (normal(2, 2, 2),)),
    ],
    "scatter-mul": [
        Example(
            lambda x, u: x.at[INDEX].multiply(u, unique_indices=True),
            (normal(3, 2), normal(2, 1, 2)),
        )
    ],
    "sort": [
        Example(partial(lax.sort, dimension=1), (normal(2, 4),), 1),
        Example(lambda k, v: lax.sort((k, v), dimension=1, num_keys=1), pair, 1),
    ],
    "svd": [
        Example(lambda x: jnp.linalg.svd(x, compute_uv=False), (normal(2, 3, 2),), 1),
        Example(lambda x: jnp.linalg.svd(x, full_matrices=False), (normal(3, 2),)),
    ],
    "top_k": [
        Example(lambda x: lax.top_k(x, 2)[0], (normal(2, 4),), 1),
        Example(lambda x: lax.top_k(x, 2, axis=1)[0], (normal(2, 4, 2),), 1),
    ],
    "triangular_solve": [
        Example(
            partial(lax.linalg.triangular_solve, left_side=True, lower=True),
            (lower(2, 3, 3), normal(2, 3, 2)),
            1,
        ),
        Example(lambda b: lax.linalg.triangular_solve(const(2 * np.eye(3), b), b), (normal(2, 3),)),
    ],
    "tridiagonal_solve": [
        Example(
            tridiagonal_solve,
            (normal(2, 3), between(3, 5, 2, 3), normal(2, 3), normal(2, 3, 2)),
            1,
        ),
        Example(tridiagonal_solve, (normal(3), between(3, 5, 3), normal(3), normal(3, 1))),
    ],
}

LINEAR_SOLVE: dict[str, list[Example]] = {
    "custom_linear_solve": [
        Example(jnp.linalg.solve, (spd(2, 3, 3), normal(2, 3, 2)), 1),
        Example(lambda a: jnp.linalg.solve(a, const(constant(3), a)), (spd(3, 3),)),
        Example(lambda b: jnp.linalg.solve(const(constant(3, 3), b), b), (normal(3),)),
        Example(solve_by(symmetric=True), (normal(3, 3), normal(3))),
        Example(solve_by(symmetric=False), (normal(3, 3), normal(3))),
    ],
}

EXAMPLES = LINEAR | ELEMENTWISE | BILINEAR | MAXIMUM | CURVED | LINEAR_SOLVE

# Between the lanes of a `vmap`.
COLLECTIVES: dict[str, Callable] = {
    "all_gather": lambda x: lax.all_gather(x, "i"),
    "all_to_all": lambda x: lax.all_to_all(x, "i", 0, 0),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 0)]),
    "psum": lambda x: lax.psum(x, "i"),
}

UNDIFFERENTIABLE: dict[str, Callable] = {
    "householder_product": lambda x: lax.linalg.householder_product(x, x[0]),
    "hessenberg": lambda x: lax.linalg.hessenberg(x)[0],
    "igamma_grad_a": lambda x: bind("igamma_grad_a")(x[0], x[0]),
    "pmax": lambda x: lax.pmax(x, "i"),
    "pmin": lambda x: lax.pmin(x, "i"),
    "schur": lambda x: lax.linalg.schur(x)[0],
    "zeta": lambda x: lax.zeta(2.5, x),
    "tridiagonal": lambda x: lax.linalg.tridiagonal(x + x.T)[1],
}

WITHOUT_EXAMPLE = {
    "psum_invariant": "is `psum` inside shard_map, where test_sharding compares values",
    "pvary": "marks what differs between devices, inside shard_map",
    "ragged_all_to_all": "needs several devices",
}


def public() -> set[str]:
    return set(compat.public_primitives())


def test_every_primitive_has_its_facts():
    missing = primitives.unplaced(public())
    assert not missing, f"put these into jaxplain.surrogate.primitives: {missing}"
    assert {known.group for known in primitives.FACTS.values()} <= set(primitives.GROUPS)


def test_every_differentiable_primitive_has_an_example():
    known = primitives.FACTS.items()
    names = {name for name, facts in known if facts.group in DIFFERENTIABLE} & public()
    covered = [*EXAMPLES, *COLLECTIVES, *UNDIFFERENTIABLE, *WITHOUT_EXAMPLE]
    assert len(covered) == len(set(covered))
    assert names <= set(covered), f"no example of {sorted(names - set(covered))}"


def chosen(name: str, dtype: Any) -> list[Example]:
    """All examples in float32, the first in float64: XLA's compiler is what takes the time."""
    return EXAMPLES[name][: None if dtype == jnp.float32 else 1]


@cache
def compiled(name: str, dtype: Any) -> tuple[Callable, tuple, tuple]:
    """(x, ref) → multipliers, gradient and items of all examples of a primitive; two points."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    examples = chosen(name, dtype)
    draw = lambda: [[jnp.asarray(d(rng), dtype) for d in e.operands] for e in examples]
    x, ref = draw(), draw()
    shapes = [jax.eval_shape(e.f, *operands) for e, operands in zip(examples, x, strict=True)]
    weights = [
        [rng.normal(size=s.shape) + 1j * rng.normal(size=s.shape) for s in jax.tree.leaves(shape)]
        for shape in shapes
    ]

    def items(x: Any, differentiable: bool = False) -> list[Any]:
        """Each item's random linear read-out; of the examples that have a gradient, if asked."""
        return [
            sum(
                read(y, weight, example.batch)
                for y, weight in zip(jax.tree.leaves(example.f(*operands)), ws, strict=True)
                if jnp.issubdtype(y.dtype, jnp.inexact)
            )
            for example, operands, ws in zip(examples, x, weights, strict=True)
            if example.gradient or not differentiable
        ]

    def total(x: Any) -> Any:
        return sum(jnp.sum(item) for item in items(x))

    def comparable(x: Any) -> Any:
        return sum(map(jnp.sum, items(x, differentiable=True)), jnp.zeros((), dtype))

    def evaluate(x: Any, ref: Any) -> Any:
        multipliers = jxp.deeplift(total, ref, multiply=False)(x)
        return multipliers, jax.grad(comparable)(x), items(x), items(ref)

    return jax.jit(evaluate), x, ref


def read(y: Any, weight: Any, batch: int) -> Any:
    if not jnp.issubdtype(y.dtype, jnp.complexfloating):
        weight = weight.real
    products = jnp.real(y * jnp.asarray(weight, y.dtype))
    return jnp.sum(products, tuple(range(batch, y.ndim)))


def check_complete(name: str, dtype: Any, tolerance: float) -> None:
    """Each item's contributions sum to its own change."""
    evaluate, x, ref = compiled(name, dtype)
    multipliers, _, y, y0 = evaluate(x, ref)
    for i, example in enumerate(chosen(name, dtype)):
        terms = [
            (np.asarray(m, np.float64) * (np.asarray(v, np.float64) - np.asarray(v0, np.float64)))
            for m, v, v0 in zip(multipliers[i], x[i], ref[i], strict=True)
        ]
        each = lambda array: array.sum(axis=tuple(range(example.batch, array.ndim)))
        total, size = (sum(map(each, part)) for part in (terms, [abs(t) for t in terms]))
        change = np.asarray(y[i], np.float64) - np.asarray(y0[i], np.float64)
        np.testing.assert_array_less(
            abs(total - change), tolerance * np.maximum(1, size), f"example {i} of {name}"
        )


def check_gradient(name: str, dtype: Any, tolerance: float) -> None:
    """Where x equals the reference, the multipliers are the gradient."""
    evaluate, x, _ = compiled(name, dtype)
    multipliers, gradient, *_ = evaluate(x, x)
    for i, example in enumerate(chosen(name, dtype)):
        for m, g in zip(multipliers[i], gradient[i], strict=True):
            if example.gradient:
                np.testing.assert_allclose(
                    m, g, tolerance, tolerance * (1 + np.abs(g).max(initial=0)), err_msg=str(i)
                )


def here(name: str) -> bool:
    return bool(compat.resolve([name])) or name == "ragged_dot_general"


NAMES = [name for name in EXAMPLES if here(name)]


@pytest.mark.parametrize("name", NAMES)
def test_example_meets_its_primitive(name):
    """An example that JAX now spells otherwise would test nothing."""
    x = [d(np.random.default_rng(0)).astype(np.float32) for d in EXAMPLES[name][0].operands]
    closed = jax.make_jaxpr(EXAMPLES[name][0].f)(*x)
    equations = program.from_jaxpr(closed, [True] * len(x)).equations
    assert name in {equation.primitive.name for equation in equations}


# Functions of one number are held to more in `test_divided_difference`.
UNARY = [
    name
    for name in NAMES
    if len(EXAMPLES[name][0].operands) == 1
    and any(primitives.facts(p).group == "elementwise" for p in compat.resolve([name]))
]


@pytest.mark.promotes
@pytest.mark.parametrize("name", some_slow(NAMES, UNARY))
def test_complete_in_float32(name):
    check_complete(name, jnp.float32, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_complete_in_float64(name, x64):
    check_complete(name, jnp.float64, 1e-12)


@pytest.mark.slow  # quick: `test_errors.test_at_x_equal_to_the_reference`, on models
@pytest.mark.parametrize("name", NAMES)
def test_gradient_at_the_reference(name):
    check_gradient(name, jnp.float32, 1e-5)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collective(name):
    rng = np.random.default_rng(0)
    x, ref = (jnp.asarray(rng.normal(size=(3, 3)), jnp.float32) for _ in range(2))

    def f(x: Any) -> Any:
        return jnp.sum(jnp.sin(COLLECTIVES[name](x)))

    contributions = jax.vmap(lambda x, ref: jxp.deeplift(f, ref)(x), axis_name="i")(x, ref)
    change = jax.vmap(f, axis_name="i")(x) - jax.vmap(f, axis_name="i")(ref)
    assert abs(contributions.sum() - change.sum()) <= 1e-5


@pytest.mark.parametrize("name", UNDIFFERENTIABLE)
def test_undifferentiable(name):
    """What JAX itself cannot differentiate has no example, and a rule refuses it by name."""
    f = lambda x: jnp.sum(UNDIFFERENTIABLE[name](x))
    x = jnp.ones((1, 2, 2)) if name.startswith("p") else jnp.eye(2)
    over = partial(jax.vmap, axis_name="i") if name.startswith("p") else lambda f: f
    with pytest.raises((NotImplementedError, ValueError)):
        over(jax.grad(f))(x)
    with pytest.raises(jxp.UnsupportedPrimitive, match=name):
        over(jxp.deeplift(f, 0.5))(x)
