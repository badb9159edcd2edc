"""Functions that networks are made of, as libraries and as people spell them.

`ELEMENTWISE` holds functions of one variable, `VECTOR` functions along the last axis (of eight),
`MATHS` functions of a vector of twelve.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jax import lax


def straight_through(x):
    return x + lax.stop_gradient(jnp.round(x) - x)


@jax.custom_jvp
def scaled_gradient(x):
    return jnp.sin(x) * x


scaled_gradient.defjvp(lambda p, t: (scaled_gradient(*p), 0.1 * t[0]))


@jax.custom_vjp
def reversed_gradient(x):
    return jnp.tanh(x)


reversed_gradient.defvjp(lambda x: (jnp.tanh(x), None), lambda _, ct: (-ct,))


def piecewise(x):
    return jnp.piecewise(x, [x < -0.5, x > 0.5], [lambda v: -v, lambda v: v**2, lambda v: v + 1])


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

ELEMENTWISE: dict[str, Callable] = {
    "identity": jax.nn.identity,
    "relu": jax.nn.relu,
    "relu_where": lambda x: jnp.where(x > 0, x, 0),
    "relu_mask": lambda x: x * (x > 0),
    "relu_maximum": lambda x: jnp.maximum(x, 0),
    "relu_maximum_left": lambda x: jnp.maximum(0.0, x),
    "relu_abs": lambda x: (x + jnp.abs(x)) / 2,
    "relu_clip": lambda x: jnp.clip(x, 0, None),
    "relu_select": lambda x: lax.select(x > 0, x, jnp.zeros_like(x)),
    "relu_heaviside": lambda x: x * jnp.heaviside(x, 0.5),
    "relu_sign": lambda x: x * (jnp.sign(x) + 1) / 2,
    "relu_sqrt": lambda x: (x + jnp.sqrt(x * x)) / 2 + jnp.abs(x) * 0,
    "relu_square": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "relu6_minimum": lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
    "relu6_clip": lambda x: jnp.clip(x, 0, 6),
    "elu": jax.nn.elu,
    "elu_where": lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1),
    "elu_safe": lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0.0, x))),
    "selu": jax.nn.selu,
    "selu_where": lambda x: SELU_SCALE * jnp.where(x > 0, x, SELU_ALPHA * jnp.expm1(x)),
    "celu": partial(jax.nn.celu, alpha=0.7),
    "celu_max": lambda x: jnp.maximum(x, 0) + jnp.minimum(0, 0.7 * (jnp.exp(x / 0.7) - 1)),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "gelu_erf": lambda x: x * 0.5 * (1 + lax.erf(x / 2**0.5)),
    "gelu_cdf": lambda x: x * jsp.stats.norm.cdf(x),
    "gelu_cubic": lambda x: 0.5 * x * (1 + jnp.tanh(0.79788456 * (x + 0.044715 * x**3))),
    "gelu_sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "swish": jax.nn.swish,
    "silu_product": lambda x: x * jax.nn.sigmoid(x),
    "silu_division": lambda x: x / (1 + jnp.exp(-x)),
    "softplus": jax.nn.softplus,
    "softplus_log": lambda x: jnp.log(1 + jnp.exp(x)),
    "softplus_stable": lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "softplus_logaddexp": lambda x: jnp.logaddexp(x, 0.0),
    "soft_sign": jax.nn.soft_sign,
    "soft_sign_division": lambda x: x / (1 + jnp.abs(x)),
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu_where": lambda x: jnp.where(x >= 0, x, 0.01 * x),
    "leaky_relu_maximum": lambda x: jnp.maximum(0.01 * x, x),
    "hard_tanh": jax.nn.hard_tanh,
    "hard_tanh_clip": lambda x: jnp.clip(x, -1, 1),
    "hard_tanh_minmax": lambda x: jnp.minimum(1, jnp.maximum(-1, x)),
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_sigmoid_clip": lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
    "hard_silu": jax.nn.hard_silu,
    "hard_swish": jax.nn.hard_swish,
    "hard_silu_clip": lambda x: x * jnp.clip(x + 3, 0, 6) / 6,
    "sigmoid": jax.nn.sigmoid,
    "sigmoid_exp": lambda x: 1 / (1 + jnp.exp(-x)),
    "sigmoid_tanh": lambda x: 0.5 * (jnp.tanh(x / 2) + 1),
    "sigmoid_where": lambda x: jnp.where(
        x >= 0, 1 / (1 + jnp.exp(-jnp.abs(x))), 1 - 1 / (1 + jnp.exp(-jnp.abs(x)))
    ),
    "log_sigmoid": jax.nn.log_sigmoid,
    "log_sigmoid_log": lambda x: -jnp.log(1 + jnp.exp(-x)),
    "tanh": jnp.tanh,
    "tanh_nn": jax.nn.tanh,
    "tanh_exp": lambda x: (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x)),
    "tanh_sigmoid": lambda x: 2 * jax.nn.sigmoid(2 * x) - 1,
    "mish": jax.nn.mish,
    "mish_product": lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x))),
    "squareplus": jax.nn.squareplus,
    "squareplus_sqrt": lambda x: 0.5 * (x + jnp.sqrt(x**2 + 4)),
    "sparse_plus": jax.nn.sparse_plus,
    "sparse_plus_where": lambda x: jnp.where(x <= -1, 0.0, jnp.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "sparse_sigmoid": jax.nn.sparse_sigmoid,
    "sparse_sigmoid_clip": lambda x: 0.5 * jnp.clip(x + 1, 0, 2),
    "log1mexp": lambda x: jax.nn.log1mexp(jax.nn.softplus(x)),
    "hard_shrink": lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0),
    "soft_shrink": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    "step": lambda x: (x > 0).astype(x.dtype),
    "inside": lambda x: jnp.where((x > -0.5) & (x < 0.5), x, 0.1 * x),
    "round": lambda x: jnp.round(4 * x) / 4,
    "floor": lambda x: x - jnp.floor(x),
    "modulo": lambda x: jnp.mod(x, 0.7),
    "straight_through": straight_through,
    "custom_jvp": scaled_gradient,
    "custom_vjp": reversed_gradient,
    "nan_guard": lambda x: jnp.where(jnp.isnan(x), 0.0, jnp.tanh(x)),
    "nan_to_num": lambda x: jnp.nan_to_num(jnp.sin(x)),
    "sin": lambda x: jnp.sin(3 * x),
    "snake": lambda x: x + jnp.sin(x) ** 2,
    "sinc": jnp.sinc,
    "gaussian": lambda x: jnp.exp(-(x**2)),
    "cube": lambda x: x**3 - x,
    "polynomial": lambda x: jnp.polyval(jnp.array([0.1, -0.2, 0.5, 1.0]).astype(x.dtype), x),
    "power": lambda x: (x**2 + 1) ** 0.3,
    "exp2": jnp.exp2,
    "power_of_constant": lambda x: 1.5**x,
    "sqrt_abs": lambda x: jnp.sqrt(jnp.abs(x) + 0.1),
    "rsqrt": lambda x: lax.rsqrt(x * x + 1),
    "cbrt": lambda x: jnp.cbrt(x**2 + 1),
    "log_modulus": lambda x: jnp.sign(x) * jnp.log1p(jnp.abs(x)),
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "erf": lax.erf,
    "erf_inv": lambda x: lax.erf_inv(0.9 * jnp.tanh(x)),
    "log_gamma": lambda x: lax.lgamma(x**2 + 1),
    "digamma": lambda x: lax.digamma(x**2 + 1),
    "logit": lambda x: jsp.special.logit(0.05 + 0.9 * jax.nn.sigmoid(x)),
    "huber": lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5),
    "complex": lambda x: jnp.abs(lax.complex(x, 1 + x**2)),
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) + x, x),
    "newton": lambda x: lax.fori_loop(0, 4, lambda i, v: 0.5 * (v + (x**2 + 1) / v), 1 + x * 0),
}


def rms(x):
    return jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def unit_maximum(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def sparsemax(x):
    """Martins & Astudillo 2016: the projection onto the simplex."""
    ordered = jnp.sort(x, -1)[..., ::-1]
    k = jnp.arange(1, x.shape[-1] + 1).astype(x.dtype)
    total = jnp.cumsum(ordered, -1)
    support = 1 + k * ordered > total
    size = support.sum(-1, keepdims=True).astype(x.dtype)
    return jnp.maximum(x - (jnp.sum(ordered * support, -1, keepdims=True) - 1) / size, 0)


def standardized(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred * scale((centred**2).mean(-1, keepdims=True))


VECTOR: dict[str, Callable] = {
    "glu": jax.nn.glu,
    "glu_product": lambda x: x[..., :4] * jax.nn.sigmoid(x[..., 4:]),
    "maxout": lambda x: jnp.maximum(*jnp.split(x, 2, -1)),
    "crelu": lambda x: jax.nn.relu(jnp.concatenate([x, -x], -1)),
    "softmax": jax.nn.softmax,
    "softmax_shifted": lambda x: (
        (e := jnp.exp(x - x.max(-1, keepdims=True))) / e.sum(-1, keepdims=True)
    ),
    "softmax_frozen_shift": lambda x: (
        (e := jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))) / e.sum(-1, keepdims=True)
    ),
    "softmax_plain": lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
    "softmax_exp_log": lambda x: jnp.exp(jax.nn.log_softmax(x)),
    "softmax_masked": lambda x: jax.nn.softmax(x, where=jnp.arange(8) < 6),
    "softmax_cold": lambda x: jax.nn.softmax(20 * x),
    "log_softmax": jax.nn.log_softmax,
    "log_softmax_difference": lambda x: x - jsp.special.logsumexp(x, -1, keepdims=True),
    "log_softmax_log": lambda x: jnp.log(jax.nn.softmax(x)),
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1, keepdims=True),
    "logsumexp_plain": lambda x: jnp.log(jnp.exp(x).sum(-1, keepdims=True)),
    "logmeanexp": lambda x: jax.nn.logmeanexp(x, -1, keepdims=True),
    "entropy": lambda x: -jnp.sum(jax.nn.softmax(x) * jax.nn.log_softmax(x), -1, keepdims=True),
    "softmin_mixture": lambda x: jnp.sum(x * jax.nn.softmax(-x), -1, keepdims=True),
    "standardize": jax.nn.standardize,
    "normalize": nn.normalize,
    "standardize_rsqrt": lambda x: standardized(x, lambda v: lax.rsqrt(v + 1e-5)),
    "standardize_sqrt": lambda x: standardized(x, lambda v: 1 / jnp.sqrt(v + 1e-5)),
    "standardize_power": lambda x: standardized(x, lambda v: (v + 1e-5) ** -0.5),
    "standardize_division": lambda x: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
    "standardize_std": lambda x: (
        (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5)
    ),
    "standardize_moments": lambda x: (
        (x - x.mean(-1, keepdims=True))
        * lax.rsqrt((x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2 + 1e-5)
    ),
    "rms": lambda x: x / rms(x),
    "rms_product": lambda x: x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5),
    "rms_dot": lambda x: x * lax.rsqrt(jnp.vdot(x, x) / x.size + 1e-5),
    "unit": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "unit_sqrt": lambda x: x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True)),
    "unit_rsqrt": lambda x: x * lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6),
    "unit_maximum": unit_maximum,
    "unit_one": lambda x: x / jnp.sum(jnp.abs(x), -1, keepdims=True),
    "squash": lambda x: x * jnp.linalg.norm(x) / (1 + jnp.sum(x**2)),
    "minmax": lambda x: (x - x.min()) / (x.max() - x.min()),
    "max": lambda x: x.max(-1, keepdims=True),
    "winner_only": lambda x: jnp.where(x >= x.max(-1, keepdims=True), x, 0),
    "softmax_gate": lambda x: x * jax.nn.softmax(x),
}


def mat(h):
    return h.reshape(3, 4)


def square(h):
    return h[:9].reshape(3, 3)


def spd(h):
    a = square(h)
    return a @ a.T + jnp.eye(3, dtype=h.dtype)


def constant(*shape):
    return np.random.default_rng(7).normal(size=shape)


def like(a, h):
    return jnp.asarray(a, h.dtype)


def solve_constant(h):
    return jnp.linalg.solve(like(constant(4, 4) + 3 * np.eye(4), h), mat(h).T)


def triangular(h):
    lower = like(np.tril(constant(4, 4)) + 2 * np.eye(4), h)
    return jsp.linalg.solve_triangular(lower, mat(h).T, lower=True)


def gaussian_process(h):
    """Posterior mean at a point, with the inputs explained."""
    points, target = mat(h), like(constant(3), h)
    gap = points[:, None] - points[None]
    kernel = jnp.exp(-0.5 * jnp.sum(gap**2, -1)) + 0.1 * jnp.eye(3, dtype=h.dtype)
    return jsp.linalg.cho_solve(jsp.linalg.cho_factor(kernel), target)


def mixture_density(h):
    weight, mean, scale = h.reshape(3, 4)
    density = jsp.stats.norm.logpdf(0.3, mean, jax.nn.softplus(scale) + 0.1)
    return jsp.special.logsumexp(jax.nn.log_softmax(weight) + density)


def sinkhorn(h):
    s = jnp.exp(-(mat(h) ** 2))
    for _ in range(2):
        s = s / s.sum(0)
        s = s / s.sum(1, keepdims=True)
    return s


def graph(h):
    """Message passing with segment sums and a segment softmax."""
    nodes, sender, receiver = (
        h.reshape(4, 3),
        jnp.array([0, 1, 2, 3, 0]),
        jnp.array([1, 2, 3, 0, 2]),
    )
    score = jnp.sum(nodes[sender] * nodes[receiver], -1)
    score = score - lax.stop_gradient(jax.ops.segment_max(score, receiver, 4))[receiver]
    e = jnp.exp(score)
    a = e / jax.ops.segment_sum(e, receiver, 4)[receiver]
    return jax.ops.segment_sum(a[:, None] * nodes[sender], receiver, 4)


def experts(h):
    """A soft mixture of experts."""
    gate = jax.nn.softmax(h[:3])
    outs = jnp.tanh(jnp.einsum("eio,i->eo", like(constant(3, 9, 4), h), h[3:]))
    return gate @ outs


MATHS: dict[str, Callable] = {
    "einsum": lambda h: jnp.einsum("ij,kj->ik", mat(h), jnp.tanh(mat(h))),
    "einsum_three": lambda h: jnp.einsum("ij,jk,kl->il", square(h), jnp.sin(square(h)), square(h)),
    "einsum_diagonal": lambda h: jnp.einsum("ii->i", square(h) @ square(h)),
    "matrix_power": lambda h: jnp.linalg.matrix_power(square(h), 3),
    "quadratic_form": lambda h: mat(h)[0] @ like(constant(4, 4), h) @ mat(h)[1],
    "outer": lambda h: jnp.outer(h[:3], h[3:6]),
    "kron": lambda h: jnp.kron(h[:3], h[3:6]),
    "cross": lambda h: jnp.cross(h[:3], h[3:6]),
    "convolve": lambda h: jnp.convolve(h[:8], h[8:]),
    "factorisation_machine": lambda h: (
        (h @ like(constant(12, 2), h)) ** 2 - h**2 @ like(constant(12, 2) ** 2, h)
    ),
    "cumsum": lambda h: jnp.cumsum(jnp.tanh(mat(h)), 1) ** 2,
    "cumprod": lambda h: jnp.cumprod(mat(h), 1),
    "cummax": lambda h: lax.cummax(mat(h), 1),
    "cummin": lambda h: lax.cummin(mat(h), 0, reverse=True),
    "cumlogsumexp": lambda h: lax.cumlogsumexp(mat(h), 1),
    "sort": lambda h: jnp.sort(mat(h), -1),
    "sort_descending": lambda h: jnp.sort(mat(h), 0, descending=True) ** 2,
    "top_k": lambda h: lax.top_k(h, 3)[0],
    "median_odd": lambda h: jnp.median(mat(h), 0),
    "median_even": lambda h: jnp.median(mat(h), 1),
    "quantile": lambda h: jnp.quantile(h, 0.3),
    "percentile": lambda h: jnp.percentile(mat(h), 80, 1),
    "max": lambda h: jnp.max(mat(h), 0),
    "min": lambda h: jnp.min(mat(h), (0, 1)),
    "peak_to_peak": lambda h: jnp.ptp(mat(h), 1),
    "winner": lambda h: mat(h).max(0).sum() * mat(h).min(1),
    "prod": lambda h: jnp.prod(mat(h), 1),
    "product_of_three": lambda h: h[:4] * h[4:8] * h[8:],
    "product_of_four": lambda h: h[:3] * h[3:6] * h[6:9] * h[9:],
    "product_of_functions": lambda h: jnp.sin(h[:4]) * jnp.exp(h[4:8]) * h[8:] ** 2,
    "logsumexp": lambda h: jsp.special.logsumexp(mat(h), 1),
    "logsumexp_weighted": lambda h: jsp.special.logsumexp(
        mat(h), 1, b=like(np.abs(constant(4)), h)
    ),
    "logsumexp_scaled": lambda h: jsp.special.logsumexp(500 * mat(h), 1) / 500,
    "logaddexp": lambda h: jnp.logaddexp(h[:6], h[6:]),
    "logaddexp2": lambda h: jnp.logaddexp2(h[:6], h[6:]),
    "norm": lambda h: jnp.linalg.norm(mat(h), axis=1),
    "norm_one": lambda h: jnp.linalg.norm(mat(h), 1, axis=1),
    "norm_max": lambda h: jnp.linalg.norm(mat(h), jnp.inf, axis=1),
    "norm_three": lambda h: jnp.linalg.norm(mat(h), 3, axis=1),
    "norm_frobenius": lambda h: jnp.linalg.norm(mat(h)),
    "distance": lambda h: jnp.sqrt(jnp.sum((mat(h)[:, None] - mat(h)[None]) ** 2, -1) + 0.1),
    "kernel": lambda h: jnp.exp(-jnp.sum((mat(h) - like(constant(4), h)) ** 2, -1)),
    "cosine": lambda h: h[:6] @ h[6:] / (jnp.linalg.norm(h[:6]) * jnp.linalg.norm(h[6:])),
    "cosine_separate": lambda h: (
        (h[:6] / jnp.linalg.norm(h[:6])) @ (h[6:] / jnp.linalg.norm(h[6:]))
    ),
    "division": lambda h: h[:6] / (1 + h[6:] ** 2),
    "reciprocal": lambda h: 1 / (1 + h**2),
    "ratio_of_sums": lambda h: jnp.sum(h**2 * like(constant(12), h)) / jnp.sum(h**2),
    "power": lambda h: (h[:6] ** 2 + 0.1) ** h[6:],
    "arctan2": lambda h: jnp.arctan2(h[:6], h[6:]),
    "hypot": lambda h: jnp.hypot(h[:6], h[6:]),
    "maximum": lambda h: jnp.maximum(h[:6], h[6:]),
    "minimum": lambda h: jnp.minimum(jnp.tanh(h[:6]), h[6:] ** 2),
    "maximum_shared": lambda h: jnp.maximum(jnp.sin(h), h**2 - 0.5),
    "where_maximum": lambda h: jnp.where(h[:6] > h[6:], h[:6], h[6:]),
    "where_gate": lambda h: jnp.where(h[:4] > 0, h[4:8], h[8:]),
    "where_other": lambda h: jnp.where(h[:6] > 0, h[6:] ** 2, 0),
    "clamp_between": lambda h: jnp.clip(h[:4], -jnp.abs(h[4:8]), jnp.abs(h[8:])),
    "remainder": lambda h: jnp.remainder(h[:6], 1 + h[6:] ** 2),
    "variance": lambda h: jnp.var(mat(h), 1),
    "deviation": lambda h: jnp.std(mat(h), 0),
    "skewness": lambda h: jnp.mean((h - h.mean()) ** 3) / jnp.std(h) ** 3,
    "covariance": lambda h: jnp.cov(mat(h)),
    "correlation": lambda h: jnp.corrcoef(mat(h)),
    "solve_constant": solve_constant,
    "triangular_solve": triangular,
    "solve": lambda h: jnp.linalg.solve(spd(h), h[9:]),
    "inverse": lambda h: jnp.linalg.inv(spd(h)),
    "determinant": lambda h: jnp.linalg.det(spd(h)),
    "slogdet": lambda h: jnp.linalg.slogdet(spd(h))[1],
    "cholesky_logdet": lambda h: 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(spd(h))))),
    "eigenvalues": lambda h: jnp.linalg.eigvalsh(spd(h) + jnp.diag(like([0, 1, 3], h))),
    "singular_values": lambda h: jnp.linalg.svd(mat(h), compute_uv=False),
    "qr": lambda h: jnp.abs(jnp.diag(jnp.linalg.qr(spd(h))[1])),
    "gaussian_process": gaussian_process,
    "fft_magnitude": lambda h: jnp.abs(jnp.fft.fft(h)),
    "rfft_power": lambda h: jnp.abs(jnp.fft.rfft(h)) ** 2,
    "rfft_log_power": lambda h: jnp.log(jnp.abs(jnp.fft.rfft(h)) ** 2 + 0.1),
    "spectral_filter": lambda h: jnp.fft.irfft(jnp.fft.rfft(h)[:4] * like(constant(4), h), 12),
    "complex_product": lambda h: jnp.real((h[:6] + 1j * h[6:]) ** 2 * jnp.exp(1j * h[:6])),
    "complex_angle": lambda h: jnp.angle(2 + jnp.tanh(h[:6]) + 1j * h[6:]),
    "mixture_density": mixture_density,
    "sinkhorn": sinkhorn,
    "graph": graph,
    "experts": experts,
    "scatter_add": lambda h: jnp.zeros(5, h.dtype).at[jnp.arange(12) % 5].add(h) ** 2,
    "scatter_max": lambda h: jnp.full(5, -1, h.dtype).at[jnp.arange(12) % 5].max(h),
    "scatter_set": lambda h: h.at[2:5].set(jnp.sin(h[5:8])).at[0].multiply(h[1]),
    "segment_max": lambda h: jax.ops.segment_max(h, jnp.arange(12) // 4, 3),
    "gather": lambda h: h[jnp.array([0, 5, 5, 2])] * h[jnp.array([1, 1, 7, 2])],
    "dynamic_slice": lambda h: lax.dynamic_slice(h, (jnp.int32(3),), (4,)) ** 2,
    "roll": lambda h: h * jnp.roll(h, 2) - jnp.flip(h),
    "triangle": lambda h: jnp.tril(square(h)) @ jnp.triu(square(h)),
    "window_sum": lambda h: lax.reduce_window(h**2, 0.0, lax.add, (3,), (2,), "SAME"),
    "window_max": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (4,), (1,), "VALID"),
    "reduce_max": lambda h: lax.reduce(mat(h), -jnp.inf, lax.max, (1,)),
    "reduce_custom": lambda h: lax.reduce(mat(h), 0.0, lambda a, b: a + b, (0,)) ** 2,
    "integral": lambda h: jnp.trapezoid(h**2, dx=0.5),
    "total_variation": lambda h: jnp.sum(jnp.abs(jnp.diff(h))),
    "cross_entropy": lambda h: -jnp.sum(jax.nn.softmax(h[:6]) * jax.nn.log_softmax(h[6:])),
    "jensen_shannon": lambda h: jnp.sum(
        jsp.special.rel_entr(p := jax.nn.softmax(h[:6]), (p + jax.nn.softmax(h[6:])) / 2)
    ),
    "bilinear_softmax": lambda h: jax.nn.softmax(h[:6]) * jax.nn.softmax(h[6:]),
    "softmax_of_product": lambda h: jax.nn.softmax(h[:6] * h[6:]),
    "multivariate_normal": lambda h: jsp.stats.multivariate_normal.logpdf(h[9:], h[:3] * 0, spd(h)),
}
