"""Softmax, logsumexp and relu: found whatever spells them, and not found where they are not."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.special import logsumexp

import jaxplain as jxp
from jaxplain.surrogate import patterns
from tests.support.checks import draw, multipliers, read

ROWS = 3
MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
LOWEST = float(np.finfo(np.float32).min)


def found(f: Callable, x: Any, ref: Any = 0.0) -> set[str]:
    """The patterns that the Rescale table was asked for, scans and branches included."""
    names: set[str] = set()
    table = jxp.rules.rescale()
    for pattern in table.patterns:

        def spy(equation: Any, *operands: Any, rule: Any = table.rules[pattern]) -> Any:
            names.add(equation.primitive.name)
            return rule(equation, *operands)

        table = table.register(pattern, spy)
    jax.eval_shape(jxp.override(f, table, ref), x)
    return names


# Each spelling, its axes, and the closed forms' multipliers.


def in_scan(f: Callable) -> Callable:
    return lambda x: lax.scan(lambda c, row: (c, f(row)), 0.0, x)[1]


def exp_ratio(x: Any, shift: Any, axis: Any = -1) -> Any:
    e = jnp.exp(x - shift)
    return e / e.sum(axis, keepdims=True)


def top(x: Any) -> Any:
    return x.max(-1, keepdims=True)


def flax_weights(x: Any) -> Any:
    """Query and key such that their scaled product is x."""
    eye = jnp.eye(ROWS)[:, None]
    return nn.dot_product_attention_weights(x[:, None] * ROWS**0.5, eye)[0]


def jax_attention(x: Any) -> Any:
    eye = jnp.eye(ROWS, dtype=x.dtype)[None, :, None]
    return jax.nn.dot_product_attention(x[None, :, None], eye, eye, scale=1.0)[0, :, 0]


SOFTMAX: dict[str, tuple[Callable, Any]] = {
    "nn": (jax.nn.softmax, -1),
    "nn_axis_0": (partial(jax.nn.softmax, axis=0), 0),
    "nn_axis_negative": (partial(jax.nn.softmax, axis=-2), 0),
    "nn_axes": (partial(jax.nn.softmax, axis=(0, 1)), (0, 1)),
    "linen": (nn.softmax, -1),
    "jit": (jax.jit(jax.nn.softmax), -1),
    "vmap": (jax.vmap(jax.nn.softmax), -1),
    "vmap_columns": (jax.vmap(jax.nn.softmax, 1, 1), 0),
    "scan": (in_scan(jax.nn.softmax), -1),
    "map": (partial(lax.map, jax.nn.softmax), -1),
    "remat": (jax.checkpoint(jax.nn.softmax), -1),
    "cond": (lambda x: lax.cond(True, jax.nn.softmax, jnp.zeros_like, x), -1),
    "plain": (lambda x: exp_ratio(x, 0.0), -1),
    "plain_axis_0": (lambda x: exp_ratio(x, 0.0, 0), 0),
    "plain_expanded": (lambda x: jnp.exp(x) / jnp.exp(x).sum(1)[:, None], -1),
    "plain_broadcast": (
        lambda x: (e := jnp.exp(x)) / jnp.broadcast_to(e.sum(1, keepdims=True), e.shape),
        -1,
    ),
    "shared_exp": (lambda x: (e := jnp.exp(x)) / e.sum(0), 0),
    "shifted": (lambda x: exp_ratio(x, top(x)), -1),
    "shifted_frozen": (lambda x: exp_ratio(x, lax.stop_gradient(top(x))), -1),
    "shifted_expanded": (lambda x: exp_ratio(x, x.max(1)[:, None]), -1),
    "shifted_mean": (lambda x: exp_ratio(x, x.mean(-1, keepdims=True)), -1),
    "shifted_constant": (lambda x: exp_ratio(x, 3.0), -1),
    "flax_attention": (flax_weights, -1),
    "jax_attention": (jax_attention, -1),
}
LOG_SOFTMAX: dict[str, tuple[Callable, Any]] = {
    "nn": (jax.nn.log_softmax, -1),
    "nn_axis_0": (partial(jax.nn.log_softmax, axis=0), 0),
    "nn_axes": (partial(jax.nn.log_softmax, axis=(0, 1)), (0, 1)),
    "vmap": (jax.vmap(jax.nn.log_softmax), -1),
    "scan": (in_scan(jax.nn.log_softmax), -1),
    "plain": (lambda x: x - jnp.log(jnp.exp(x).sum(-1, keepdims=True)), -1),
    "plain_expanded": (lambda x: x - jnp.log(jnp.exp(x).sum(1))[:, None], -1),
    "shifted": (lambda x: (t := x - top(x)) - jnp.log(jnp.exp(t).sum(-1, keepdims=True)), -1),
}
LOGSUMEXP: dict[str, tuple[Callable, Any]] = {
    "nn": (partial(jax.nn.logsumexp, axis=-1), -1),
    "nn_all": (jax.nn.logsumexp, (0, 1)),
    "nn_keepdims": (partial(jax.nn.logsumexp, axis=0, keepdims=True), 0),
    "nn_axes": (partial(jax.nn.logsumexp, axis=(-1, 0)), (0, 1)),
    "scipy": (partial(logsumexp, axis=1), -1),
    "vmap": (jax.vmap(jax.nn.logsumexp), -1),
    "scan": (in_scan(jax.nn.logsumexp), -1),
    "plain": (lambda x: jnp.log(jnp.exp(x).sum(-1)), -1),
    "shifted": (lambda x: jnp.log(jnp.exp(x - top(x)).sum(-1)) + top(x)[:, 0], -1),
    "shifted_first": (lambda x: (m := top(x)) + jnp.log(jnp.exp(x - m).sum(-1, keepdims=True)), -1),
}


def log_means(x: Any, x0: Any, axis: Any) -> np.ndarray:
    """L of RULES §2, in float64."""
    x, x0 = np.asarray(x, np.float64), np.asarray(x0, np.float64)
    log_p, log_p0 = (np.asarray(v - np.log(np.exp(v).sum(axis, keepdims=True))) for v in (x, x0))
    return (np.exp(log_p) - np.exp(log_p0)) / (log_p - log_p0)


def expected(kind: str, x: Any, x0: Any, ct: Any, axis: Any) -> np.ndarray:
    means = log_means(x, x0, axis)
    w = means / means.sum(axis, keepdims=True)
    if kind == "softmax":
        return means * (ct - (w * ct).sum(axis, keepdims=True))
    if kind == "log_softmax":
        return ct - w * ct.sum(axis, keepdims=True)
    return w * (ct if ct.ndim == w.ndim else np.expand_dims(ct, axis))


KINDS = {"softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX, "logsumexp": LOGSUMEXP}
SPELLINGS = {
    f"{kind}-{name}": (kind, f, axis)
    for kind, cases in KINDS.items()
    for name, (f, axis) in cases.items()
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", SPELLINGS)
def test_found(name):
    kind, f, axis = SPELLINGS[name]
    x, ref = draw(0, ROWS, ROWS), draw(1, ROWS, ROWS)
    scalar = read(f)
    assert found(scalar, x, ref) - {"shifted"} == {kind}
    ct = np.cos(2.0 * np.arange(f(x).size)).reshape(f(x).shape)
    value, m = jax.value_and_grad(jxp.override(scalar, jxp.rules.rescale(), ref))(x)
    np.testing.assert_allclose(value, scalar(x), 1e-5, 1e-6)
    np.testing.assert_allclose(m, expected(kind, x, ref, ct, axis), 1e-4, 1e-5)


@pytest.mark.promotes
def test_ragged_last_chunk_of_a_map():
    """`lax.map` in batches of two over three rows: a scan and a remainder."""
    f = read(lambda x: lax.map(jax.nn.softmax, x, batch_size=2))
    x, ref = draw(0, ROWS, ROWS), draw(1, ROWS, ROWS)
    assert found(f, x, ref) == {"softmax"}
    multipliers(f, x, ref)


# Neither more nor less: close to the patterns, and other functions.

V = np.array([0.5, -1.0, 2.0], np.float32)
NOT_FOUND: dict[str, Callable] = {
    "other_exponent": lambda x: jnp.exp(x) / jnp.exp(2 * x).sum(-1, keepdims=True),
    "one_more": lambda x: (e := jnp.exp(x)) / (1 + e.sum(-1, keepdims=True)),
    "rows_for_columns": lambda x: (e := jnp.exp(x)) / e.sum(1),
    "columns_for_rows": lambda x: (e := jnp.exp(x)) / e.sum(0)[:, None],
    "transposed": lambda x: (e := jnp.exp(x)) / e.sum(1, keepdims=True).T,
    "reshaped": lambda x: (e := jnp.exp(x)) / e.sum(1, keepdims=True).reshape(1, ROWS),
    "shift_above_only": lambda x: jnp.exp(x - V) / jnp.exp(x).sum(-1, keepdims=True),
    "other_rows": lambda x: (e := jnp.exp(x)) / e[::-1].sum(-1, keepdims=True),
    "product": lambda x: (e := jnp.exp(x)) * e.sum(-1, keepdims=True),
    "inverted": lambda x: (e := jnp.exp(x)).sum(-1, keepdims=True) / e,
    "mean": lambda x: (e := jnp.exp(x)) / e.mean(-1, keepdims=True),
    "log_transposed": lambda x: x - jnp.log(jnp.exp(x).sum(1)),
    "log_reshaped": lambda x: x - jnp.log(jnp.exp(x).sum(1, keepdims=True)).reshape(1, ROWS),
    "log_of_double": lambda x: x - jnp.log(jnp.exp(2 * x).sum(1, keepdims=True)),
    "spread_along_one": lambda x: (
        (e := jnp.exp(x[:, :1])) / jnp.broadcast_to(e.sum(1, keepdims=True), (ROWS, ROWS))
    ),
}
# The plain logsumexp inside is one, what is around it is not.
PARTLY_FOUND: dict[str, Callable] = {
    "other_shift": lambda x: jnp.log(jnp.exp(x - 1).sum(-1)) + 2,
    "shift_added_elsewhere": lambda x: (
        jnp.log(jnp.exp(x - (m := x.mean(1))[:, None]).sum(-1, keepdims=True)) + m
    ),
    "shift_varies": lambda x: jnp.log(jnp.exp(x - V).sum(-1)) + V,
    "shift_of_other_rows": lambda x: (
        jnp.log(jnp.exp(x - top(x)).sum(-1, keepdims=True)) + top(x)[::-1]
    ),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", [*NOT_FOUND, *PARTLY_FOUND])
def test_not_found(name):
    f = read((NOT_FOUND | PARTLY_FOUND)[name])
    x, ref = draw(0, ROWS, ROWS), draw(1, ROWS, ROWS)
    allowed = {"logsumexp"} if name in PARTLY_FOUND or "log" in name else set()
    assert found(f, x, ref) - {"shifted"} <= allowed
    surrogate = jxp.override(f, jxp.rules.rescale(), ref)
    np.testing.assert_allclose(surrogate(x), f(x), 1e-5, 1e-5)
    multipliers(f, x, ref)  # are complete


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_a_shift_that_varies_is_part_of_the_logits(name):
    """softmax(x - v) is one, and of x - v."""
    f = read(lambda x: getattr(jax.nn, name)(x - V, axis=-1))
    plain = {
        "softmax": lambda x: exp_ratio(x, V),
        "log_softmax": lambda x: x - V - jnp.log(jnp.exp(x - V).sum(-1, keepdims=True)),
        "logsumexp": lambda x: jnp.log(jnp.exp(x - V).sum(-1)),
    }
    x, ref = draw(0, ROWS, ROWS), draw(1, ROWS, ROWS)
    of_f, of_plain = (multipliers(g, x, ref) for g in (f, read(plain[name])))
    np.testing.assert_allclose(of_f, of_plain, 1e-4, 1e-5)


# Extremes.

FAMILIES: dict[str, Callable] = {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": partial(jax.nn.logsumexp, axis=-1),
    "by_hand": lambda x: exp_ratio(x, lax.stop_gradient(top(x))),
    "by_hand_shifted": lambda x: exp_ratio(x, top(x)),
    "attention": jax_attention,
    "scan": in_scan(jax.nn.softmax),
    "weighted": lambda x: jax.nn.logsumexp(x, axis=-1, b=jnp.arange(1.0, 4.0)),
    "logmeanexp": lambda x: jax.nn.logmeanexp(x, axis=-1),
    "softmax_where": lambda x: jax.nn.softmax(x, where=MASK),
    "log_softmax_where": lambda x: jnp.where(MASK, jax.nn.log_softmax(x, where=MASK), 0),
    "logsumexp_where": lambda x: jax.nn.logsumexp(x, axis=-1, where=MASK),
}


@pytest.mark.promotes
@pytest.mark.parametrize("name", FAMILIES)
def test_large_logits(name):
    f = read(FAMILIES[name])
    explain = jax.jit(lambda x, ref: (jxp.deeplift(f, ref)(x), f(x) - f(ref)))
    for scale in (1.0, 30.0, 1000.0):
        x, ref = (draw(seed, ROWS, ROWS, scale=scale) for seed in (0, 1))
        contributions, change = explain(x, ref)
        assert jnp.isfinite(contributions).all(), f"at logits of {scale}"
        assert abs(contributions.sum() - change) <= 1e-5 * max(1, jnp.abs(contributions).sum())


class Mask(NamedTuple):
    """Logits become where(keep, x, fill) + bias."""

    keep: Any = np.ones_like(MASK)
    fill: Any = np.zeros_like(MASK, np.float32)
    bias: Any = np.zeros_like(MASK, np.float32)


def hidden(value: float) -> Any:
    return np.where(MASK, 0, value).astype(np.float32)


MASKS = {
    "infinity": Mask(keep=MASK, fill=hidden(-np.inf)),
    "lowest": Mask(keep=MASK, fill=hidden(LOWEST)),
    "large": Mask(keep=MASK, fill=hidden(-1e9)),
    "added_infinity": Mask(bias=hidden(-np.inf)),
    "added_lowest": Mask(bias=hidden(LOWEST)),
    "underflow": Mask(bias=hidden(-200)),
}


@pytest.fixture(scope="module", params=["softmax", "log_softmax", "logsumexp", "by_hand"])
def masked(request):
    """Contributions, Δ, and the derivative of a loss over attributions, once for all masks."""

    def f(x: Any, scale: Any, mask: Mask) -> Any:
        y = FAMILIES[request.param](jnp.where(mask.keep, scale * x, mask.fill) + mask.bias)
        return read(lambda y: jnp.where(MASK, y, 0) if y.ndim == 2 else y)(y)

    x, ref = draw(0, ROWS, ROWS), draw(1, ROWS, ROWS)

    def loss(scale: Any, mask: Mask) -> Any:
        return jnp.sum(jxp.deeplift(f, ref)(x, scale, mask) ** 2)

    def evaluate(mask: Mask) -> Any:
        step = 1e-2
        return (
            jxp.deeplift(f, ref)(x, 1.0, mask),
            f(x, 1.0, mask) - f(ref, 1.0, mask),
            jax.grad(loss)(1.0, mask),
            (loss(1 + step, mask) - loss(1 - step, mask)) / (2 * step),
        )

    results = jax.jit(jax.vmap(evaluate))(jax.tree.map(lambda *m: np.stack(m), *MASKS.values()))
    return dict(zip(MASKS, zip(*results, strict=True), strict=True))


@pytest.mark.parametrize("mask", MASKS)
def test_masked_logits(masked, mask):
    """What is masked gets nothing, and the rest is complete."""
    contributions, change, *_ = masked[mask]
    assert np.isfinite(contributions).all()
    assert abs(contributions[~MASK]).max() <= (1e-6 if mask == "underflow" else 0)
    assert abs(contributions.sum() - change) <= 1e-5 * max(1, jnp.abs(contributions).sum())


@pytest.mark.parametrize("mask", MASKS)
def test_loss_over_masked_attributions(masked, mask):
    """An attribution prior trains through a masked attention."""
    *_, derivative, difference = masked[mask]
    np.testing.assert_allclose(derivative, difference, 0.02, 0.02)


HALF = [
    *((name, jnp.float16) for name in ("softmax", "log_softmax", "logsumexp", "by_hand")),
    *((name, jnp.bfloat16) for name in ("softmax", "log_softmax", "logsumexp", "attention")),
]


@pytest.mark.promotes
@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision(name, dtype):
    """Sums run in float32 and come back, which hides no pattern."""
    f = read(FAMILIES[name])
    x, ref = (draw(seed, ROWS, ROWS, scale=100).astype(dtype) for seed in (0, 1))
    kind = name if name in ("log_softmax", "logsumexp") else "softmax"
    assert found(f, x, ref) == {kind}
    contributions = jxp.deeplift(f, ref)(x).astype(jnp.float32)
    change = (f(x) - f(ref)).astype(jnp.float32)
    assert abs(contributions.sum() - change) <= 0.05 * jnp.abs(contributions).sum()


# Relu, for guided backprop and deconvnet.

RELU: dict[str, Callable] = {
    "nn": jax.nn.relu,
    "linen": nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum_left": lambda x: jnp.maximum(0.0, x),
    "maximum_zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum_array": lambda x: jnp.maximum(x, np.zeros(4, np.float32)),
    "lax_max": lambda x: lax.max(x, 0.0),
    "clip": lambda x: jnp.clip(x, 0),
    "where_greater": lambda x: jnp.where(x > 0, x, 0),
    "where_not_less": lambda x: jnp.where(x >= 0, x, 0.0),
    "where_zero_less": lambda x: jnp.where(0 < x, x, 0),
    "where_less": lambda x: jnp.where(x < 0, 0, x),
    "where_not_greater": lambda x: jnp.where(x <= 0, 0.0, x),
    "where_zeros": lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)),
    "select": lambda x: lax.select(x > 0, x, jnp.zeros(4)),
    "jit": jax.jit(jax.nn.relu),
    "vmap": jax.vmap(jax.nn.relu),
    "scan": in_scan(jax.nn.relu),
    "remat": jax.checkpoint(jax.nn.relu),
}
NOT_RELU: dict[str, Callable] = {
    "maximum_one": lambda x: jnp.maximum(x, 0.3),
    "maximum_itself": lambda x: jnp.maximum(x, -x),
    "minimum": lambda x: jnp.minimum(x, 0),
    "where_other": lambda x: jnp.where(x > 0, x[::-1], 0),
    "where_predicate": lambda x: jnp.where(x[::-1] > 0, x, 0),
    "where_flipped": lambda x: jnp.where(x > 0, 0, x),
    "where_one": lambda x: jnp.where(x > 0.1, x, 0),
    "where_equal": lambda x: jnp.where(x != 0, x, 0),
    "leaky": jax.nn.leaky_relu,
    "absolute": jnp.abs,
    "gelu": jax.nn.gelu,
    "integers": lambda x: x * jnp.maximum(x.astype(int), 0),
}
X = np.array([1.5, 0.7, -0.4, -2.0], np.float32)
CT = np.array([1.0, -2.0, 3.0, -4.0], np.float32)


@pytest.mark.parametrize("name", RELU)
def test_relu_is_found(name):
    f = lambda x: jnp.sum(CT * RELU[name](x))
    np.testing.assert_allclose(jxp.guided_backprop(f)(X), CT * (X > 0) * (CT > 0))
    np.testing.assert_allclose(jxp.deconvnet(f)(X), CT * (CT > 0))


@pytest.mark.promotes
@pytest.mark.parametrize("name", NOT_RELU)
def test_relu_is_not_found(name):
    f = lambda x: jnp.sum(CT * NOT_RELU[name](x))
    for method in (jxp.guided_backprop, jxp.deconvnet):
        np.testing.assert_allclose(method(f)(X), jax.grad(f)(X), 1e-6)


def test_relu6_is_a_relu_and_a_minimum():
    f = lambda x: jnp.sum(CT * jax.nn.relu6(3 * x))
    np.testing.assert_allclose(jxp.guided_backprop(f)(X), [3, 0, 0, 0])
    np.testing.assert_allclose(jxp.guided_backprop(f)(2 * X), [0, 0, 0, 0])


def test_patterns_stand_where_primitives_do():
    """A table may give a pattern a rule of its own, like any primitive."""
    f = lambda x: jnp.sum(jax.nn.relu(x))
    table = (
        jxp.RuleTable(jxp.rules.rescale().lifted).register(patterns.relu, lambda equation, x: [x])
        | jxp.rules.rescale()
    )
    assert patterns.relu in table.patterns
    np.testing.assert_allclose(jax.grad(jxp.override(f, table, 0.0))(X), np.ones(4))
