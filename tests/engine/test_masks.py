"""Masks of -inf and of the lowest numbers, constant or found from x, before what ignores them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxplain as jxp

WEIGHTS = np.array([0.5, -1.0, 2.0, 0.3, -0.7, 1.1], np.float32)
SEGMENTS = np.array([0, 0, 1, 1, 1, 1])
READS: dict[str, Callable] = {
    "softmax": lambda h: jax.nn.softmax(h) @ WEIGHTS.astype(h.dtype),
    "softmax of a tenth": lambda h: jax.nn.softmax(h / 10) @ WEIGHTS.astype(h.dtype),
    "softmax reshaped": lambda h: (
        jax.nn.softmax(h.reshape(2, 3) * 0.7, (0, 1)).ravel() @ WEIGHTS.astype(h.dtype)
    ),
    "logsumexp": jax.nn.logsumexp,
    "max": jnp.max,
    "cummax": lambda h: lax.cummax(h)[-1],
    "pool": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (6,), (1,), "VALID")[0],
    "segment": lambda h: jax.ops.segment_max(h, SEGMENTS, 2)[1],
    "sort": lambda h: jnp.sort(h)[-1],
    "top_k": lambda h: lax.top_k(h, 1)[0][0],
    "exp": lambda h: jnp.exp(h) @ WEIGHTS.astype(h.dtype),
    "relu": lambda h: jax.nn.relu(h) @ WEIGHTS.astype(h.dtype),
    "maximum": lambda h: jnp.maximum(h, 0.1) @ WEIGHTS.astype(h.dtype),
}
MASKS: dict[str, Callable] = {
    "constant": lambda x: np.array([1, 0, 1, 1, 0, 1], bool),
    "own": lambda x: x > -0.5,
    "another's": lambda x: x[::-1] > -0.5,
    "largest": lambda x: x >= lax.top_k(x, 4)[0][-1],
    "sums": lambda x: jnp.abs(x[:, None] * x).sum(1) > 0.4,
}
FILLS = ("infinity", "lowest", -1e30, -1e9)
X = np.array([[0.9, -0.8, 0.4, 1.2, -0.3, 0.7], [0.8, 1.1, 0.05, 0.6, 0.9, -1.3]], np.float32)
REF = np.array([[0.2, 0.4, -0.9, 0.8, 0.5, 0.3], [0.3, -0.6, 0.7, 1.5, 0.1, 0.2]], np.float32)


def masked(mask: str, fill: Any, read: str) -> Callable:
    def f(x: Any) -> Any:
        low = {"infinity": -jnp.inf, "lowest": jnp.finfo(x.dtype).min}.get(fill, fill)
        return READS[read](jnp.where(MASKS[mask](x), x, low))

    return f


@pytest.mark.promotes
@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(list(MASKS)), st.sampled_from(FILLS), st.sampled_from(list(READS)))
def test_finite_and_complete(mask, fill, read):
    f = masked(mask, fill, read)
    contributions = jax.jit(jax.vmap(lambda x, ref: jxp.deeplift(f, ref)(x)))(X, REF)
    assert jnp.isfinite(contributions).all()
    assert jnp.abs(contributions).max() < 20
    change = jax.vmap(f)(X) - jax.vmap(f)(REF)
    np.testing.assert_allclose(contributions.sum(1), change, 1e-5, 3e-6)


# A row each: some are seen at both ends, none at the reference, none at x, others than before.
ROWS = np.array([[2, 0.5, 3, 1], [2, 0.5, 3, 1], [0, 1, 1.2, 0.3], [2, 0.5, 1, 1.8]], np.float32)
ROWS_REF = np.array(
    [[1, 1.8, 2.5, 0], [0, 0.1, 0.2, 0], [2, 0.5, 3, 1], [1, 1.8, 2.5, 0]], np.float32
)
SEEN = 1.5  # what is larger is seen
SPELLED: dict[str, Callable] = {
    "where": lambda h, low: jnp.where(h > SEEN, h, low),
    "where not": lambda h, low: jnp.where(h <= SEEN, low, h),
    "of another": lambda h, low: jnp.where(h[::-1] > SEEN, h, low),
    "added": lambda h, low: h + jnp.where(h > SEEN, 0, low),
    "bias": lambda h, low: h + (1 - (h > SEEN).astype(h.dtype)) * jnp.maximum(low, -1e30),
    "product": lambda h, low: jnp.where(h > SEEN, 1, 0) * h + (h <= SEEN) * jnp.maximum(low, -1e30),
}
OUTPUTS = np.array([0.5, -1.0, 2.0, 0.3], np.float32)


def known(p: Any) -> Any:
    return jnp.where(jnp.isnan(p), 0, p)


def by_hand(h: Any) -> Any:
    e = jnp.exp(h - h.max())
    return known(e @ OUTPUTS.astype(h.dtype) / e.sum())


def pairwise(join: Callable) -> Callable:
    return lambda h: join(join(h[0], h[1]), join(h[2], h[3]))


READ_ROW: dict[str, Callable] = {
    "logsumexp": jax.nn.logsumexp,
    "softmax": lambda h: known(jax.nn.softmax(h)) @ OUTPUTS.astype(h.dtype),
    "exp of log_softmax": lambda h: (
        known(jnp.exp(jax.nn.log_softmax(h))) @ OUTPUTS.astype(h.dtype)
    ),
    "less logsumexp": lambda h: (
        known(jnp.exp(h - jax.nn.logsumexp(h))) @ OUTPUTS.astype(h.dtype)
    ),
    "softmax by hand": by_hand,
    "log sum exp": lambda h: jnp.log(jnp.exp(h).sum()),
    "log1p sum exp": lambda h: jnp.log1p(jnp.exp(h).sum()),
    "logaddexp": pairwise(jnp.logaddexp),
    "max": jnp.max,
    "maximum": pairwise(jnp.maximum),
    "sort": lambda h: jnp.sort(h)[-1],
}


@settings(max_examples=14, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(SPELLED)),
    st.sampled_from(FILLS),
    st.sampled_from(list(READ_ROW)),
    st.sampled_from(["float32", "float64"]),
)
@example("where", "infinity", "logsumexp", "float32")
@example("where", "lowest", "exp of log_softmax", "float32")
@example("bias", -1e9, "softmax", "float64")
@example("of another", -1e30, "softmax by hand", "float32")
@example("of another", "infinity", "maximum", "float64")
@example("where", -1e9, "less logsumexp", "float32")
def test_what_comes_to_be_seen_changes_by_something_finite(mask, fill, read, dtype):
    """Rows are independent parts, and each gets its own change."""
    nan_between = fill == "infinity" and read in ("softmax by hand", "logaddexp")
    of = [0, 3] if nan_between else [0, 1, 2, 3]  # of a row wholly of -inf

    def of_row(h: Any) -> Any:
        low = {"infinity": -jnp.inf, "lowest": jnp.finfo(h.dtype).min}.get(fill, fill)
        return jnp.maximum(READ_ROW[read](SPELLED[mask](h, low)), -3)

    with jax.enable_x64(dtype == "float64"):
        x, ref = (rows[of].astype(dtype) for rows in (ROWS, ROWS_REF))
        rows = jax.vmap(of_row)
        explain = jax.jit(lambda x, ref: jxp.deeplift(lambda x: rows(x).sum(), ref)(x))
        contributions, change = np.asarray(explain(x, ref)), np.asarray(rows(x) - rows(ref))
    assert np.isfinite(contributions).all()
    assert np.abs(contributions).max() < 20
    np.testing.assert_allclose(contributions.sum(1), change, 1e-5, 1e-5)


@pytest.mark.parametrize("rules", ["reveal_cancel", "central_limit"])
def test_in_parts_that_a_mask_hides_at_the_reference(rules):
    f = lambda x: jax.nn.relu(jax.nn.logsumexp(jnp.where(x > SEEN, x, -jnp.inf)))
    contributions = jxp.deeplift(f, ROWS_REF[1], rules=rules)(ROWS[1])
    np.testing.assert_allclose(contributions.sum(), f(ROWS[1]), 1e-5)


@pytest.mark.parametrize("where", [jnp.isnan, None])
def test_a_softmax_of_nothing_that_is_guarded(where):
    def f(x):
        if where is None:
            return jax.nn.softmax(x, where=x > SEEN) @ OUTPUTS
        p = jax.nn.softmax(jnp.where(x > SEEN, x, -jnp.inf))
        return jnp.where(where(p), 0, p) @ OUTPUTS

    for x, ref in ((ROWS[1], ROWS_REF[1]), (ROWS_REF[1], ROWS[1])):
        contributions = jxp.deeplift(f, ref)(x)
        np.testing.assert_allclose(contributions.sum(), f(x) - f(ref), 1e-5)


@pytest.mark.parametrize("summed", [False, True])
def test_an_exponential_that_overflows_on_the_way(summed):
    f = lambda x: 1 / (1 + (jnp.exp(-x).sum() if summed else jnp.exp(-x[0])))
    contributions = jxp.deeplift(f, 0.0)(jnp.array([-100.0]))
    np.testing.assert_allclose(contributions, -0.5, 1e-6)


@pytest.mark.parametrize("rules", ["reveal_cancel", "central_limit"])
@pytest.mark.parametrize("read", ["softmax", "max"])
def test_in_parts(rules, read):
    f = masked("another's", "infinity", read)
    contributions = jxp.deeplift(f, REF[0], rules=rules)(X[0])
    np.testing.assert_allclose(contributions.sum(), f(X[0]) - f(REF[0]), 1e-5)


@pytest.mark.parametrize("fill", ["infinity", "lowest"])
def test_the_dtype_does_not_matter(fill, x64):
    f = masked("another's", fill, "softmax")
    exact = jxp.deeplift(f, REF[0].astype(float))(X[0].astype(float))
    np.testing.assert_allclose(jxp.deeplift(f, REF[0])(X[0]), exact, 1e-4, 1e-6)
    low = jxp.deeplift(f, jnp.asarray(REF[0], jnp.bfloat16))(jnp.asarray(X[0], jnp.bfloat16))
    np.testing.assert_allclose(low.astype(float), exact, 0.1, 0.03)


@pytest.mark.parametrize("read", ["softmax", "logsumexp", "max", "sort"])
def test_masks_of_half_precision(read):
    """Of float16 ∞ alone counts as infinite: its numbers are ordinary ones up to the last."""
    for fill in ("infinity", "lowest", -1e4):
        f = masked("own", fill, read)
        exact = jxp.deeplift(masked("own", -jnp.inf if fill == "infinity" else fill, read), REF[1])
        found = jxp.deeplift(f, jnp.asarray(REF[1], jnp.float16))(jnp.asarray(X[1], jnp.float16))
        change = float(f(X[1])) - float(f(REF[1]))
        np.testing.assert_allclose(float(found.astype(float).sum()), change, 0.02, 0.02)
        if fill != "lowest":  # another number in each dtype
            np.testing.assert_allclose(found.astype(float), exact(X[1]), 0.05, 0.02)


@pytest.mark.promotes
@pytest.mark.parametrize("bias", [False, True])
def test_attention_to_padding_found_from_x(bias):
    """At a reference of zeros every key is padding: the softmax is even."""
    x = jnp.array([[1.0, 0.5, -0.3], [0.2, -1.0, 0.4], [0.0, 0.0, 0.0]])

    def f(x):
        real, lowest = jnp.abs(x).sum(-1) > 0, jnp.finfo(x.dtype).min
        scores = x @ x.T
        if bias:
            scores = scores + (1 - real.astype(x.dtype)) * lowest
        else:
            scores = jnp.where(real, scores, lowest)
        return jnp.tanh(jax.nn.softmax(scores) @ (x + 1))[0].sum()

    for ref in (0.0, 0.1):
        contributions = jxp.deeplift(f, ref)(x)
        np.testing.assert_allclose(contributions.sum(), f(x) - f(0 * x + ref), 1e-4)
        assert jnp.abs(contributions).max() < 10


def test_what_is_discarded_may_be_no_number():
    """A force of an energy whose infinite diagonal is masked."""
    r = jnp.array([[0.1, 0.2, 0.0], [1.3, 0.1, 0.3], [0.2, 1.4, 0.1]])

    def energy(r):
        square = ((r[:, None] - r[None]) ** 2).sum(-1)
        apart = square > 0
        distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
        inverse = (1 / distance) ** 2
        return 0.5 * (jnp.nan_to_num(inverse**6 - inverse**3) * (1 - jnp.eye(3))).sum()

    force = lambda r: jax.grad(energy)(r)[0, 0]
    ref = r + 0.05 * jnp.cos(jnp.arange(9.0)).reshape(3, 3)
    contributions = jxp.deeplift(force, ref)(r)
    np.testing.assert_allclose(contributions.sum(), force(r) - force(ref), 1e-4)


def test_a_norm_that_stays_zero():
    f = lambda x: jnp.linalg.norm(x.reshape(2, 2), axis=1).sum()
    x = jnp.array([1.0, 2.0, 0.0, 0.0])
    np.testing.assert_allclose(jxp.deeplift(f, 0.0)(x)[2:], 0)


SPELLINGS: dict[str, tuple[Callable, Any]] = {
    "log of a negative sum": (
        lambda x: jnp.log(jnp.sum(jnp.array([-2.0, 1.0]) * jnp.exp(x))), jnp.float32
    ),
    "integer total": (
        lambda x: jnp.log(jnp.exp(x).sum().astype(int).astype(x.dtype)), jnp.float32
    ),
    "summed in float32": (
        lambda x: jnp.log(jnp.sum(jnp.exp(x).astype(jnp.float32))), jnp.bfloat16
    ),
    "broadcast sum": (
        lambda x: jnp.log(jnp.broadcast_to(jnp.exp(x).sum(), (3,))).sum(), jnp.float32
    ),
    "shifted by another": (
        lambda x: (e := jnp.exp(x - x[::-1].max()))[0] / e.sum(), jnp.bfloat16
    ),
    "softmax": (lambda x: jax.nn.softmax(x)[0], jnp.bfloat16),
    "relu": (lambda x: jnp.where(x > 1, jnp.maximum(x, 0), 0).sum(), jnp.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_pattern_has_the_programs_value_and_dtype(name):
    f, dtype = SPELLINGS[name]
    x = jnp.array([1.0, 1.2], dtype)
    value = jxp.override(f, jxp.rules.rescale(), 0.0)(x)
    assert value.dtype == f(x).dtype
    np.testing.assert_array_equal(value, f(x))


@pytest.mark.parametrize(
    ("dtype", "scale"), [("bfloat16", 1e3), ("float16", 1e3), ("float32", 1e6), ("float32", 1e3)]
)
def test_a_saturated_softmax_keeps_its_digits(dtype, scale):
    """The winner's multiplier is a difference of nearly equal numbers."""
    z = jnp.asarray(np.array([0.9, -0.3, 0.5, -1.1]) * scale, dtype)
    f = lambda z: jax.nn.softmax(z) @ jnp.array([1.0, -2.0, 3.0, 0.5], dtype)
    contributions = np.asarray(jxp.deeplift(f, 0.0)(z), float)
    # Four numbers up to 0.6, each rounded a few times.
    np.testing.assert_allclose(contributions.sum(), 0.375, 0, 4 * float(jnp.finfo(dtype).eps))
