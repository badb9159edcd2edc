"""LRP, AttnLRP and CP-LRP: however f is spelled, wherever relevance is read."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from tests.models.test_scanned_layers import LAYERS, X, scanned, written_out
from tests.support.checks import draw, readout
from tests.support.marks import some_slow

close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
TABLES = {
    "epsilon": jxp.rules.epsilon(1e-2),
    "without_bias": jxp.rules.epsilon(1e-2, bias=False),
    "gamma": jxp.rules.gamma(0.5),
    "zplus": jxp.rules.zplus(),
    "alpha_beta": jxp.rules.alpha_beta(),
    "w_square": jxp.rules.epsilon(first=jxp.rules.w_square()),
    "flat": jxp.rules.epsilon(first=jxp.rules.flat()),
    "zbox": jxp.rules.gamma(first=jxp.rules.zbox(-3.0, 3.0)),
    "attn_lrp": jxp.rules.attn_lrp(),
}


def scores(f, x, rules, **options):
    return jax.jit(jxp.lrp(f, rules=TABLES.get(rules, rules), **options))(x)


# A layer is a product with whatever constants follow it.

normal = np.random.default_rng(0).normal  # of the precision that is on where they are used
W, V, B = normal(size=(4, 5)), normal(size=(5, 3)), normal(size=5)
MEAN, SCALE = normal(size=5), normal(size=5)  # a scale of both signs
X4 = normal(size=4)


def network(layer):
    return lambda x: readout(jax.nn.relu(layer(x)) @ V)


PLAIN = network(lambda x: x @ W + B)
SPELLED = {
    "shifted twice": network(lambda x: x @ W + 2 * B - B),
    "transposed weights": network(lambda x: W.T @ x + B),
    "einsum": network(lambda x: jnp.einsum("i,io->o", x, W) + B),
    "batched": network(lambda x: (x[None] @ W + B[None])[0]),
    "reshaped before its bias": network(lambda x: (x @ W).reshape(1, 5) [0] + B),
    "transposed before its bias": network(
        lambda x: ((x[None] @ W).T + B[:, None]).reshape(5)
    ),
    "scaled": network(lambda x: (x @ (W / 2)) * 2 + B),
    "negated": network(lambda x: B - x @ -W),
    "cast": network(lambda x: (x @ W).astype(jnp.float32).astype(x.dtype) * 1 + B),
    "convolution": network(
        lambda x: lax.conv(x[None, :, None], W.T[..., None], (1,), "VALID")[0, :, 0] + B
    ),
    "max by comparison": lambda x: readout(
        jnp.where((z := x @ W + B) > 0, z, 0) @ V
    ),
    "leaky with no leak": lambda x: readout(jax.nn.leaky_relu(x @ W + B, 0.0) @ V),
}


@cache
def plain_scores(name):
    return np.asarray(scores(PLAIN, jnp.asarray(X4), name))


@pytest.mark.parametrize("name", some_slow(TABLES, TABLES.keys() - {"without_bias", "zbox"}))
@pytest.mark.parametrize("spelling", SPELLED)
def test_spellings_of_a_layer_are_one(name, spelling, x64):
    f, x = SPELLED[spelling], jnp.asarray(X4)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if spelling == "cast" else {}
    close(f(x), PLAIN(x), **tolerance)
    close(scores(f, x, name), plain_scores(name), **tolerance)


@pytest.mark.promotes
@pytest.mark.parametrize("name", some_slow(TABLES, TABLES.keys() - {"alpha_beta"}))
def test_batch_norm_is_merged_into_the_layer_before_it(name, x64):
    x = draw(6, 4)
    normed = network(lambda x: (x @ W + B - MEAN) * SCALE + 0.3)
    merged = network(lambda x: x @ (W * SCALE) + (B - MEAN) * SCALE + 0.3)
    by_element = network(lambda x: ((x[None] @ W + B - MEAN) * SCALE[None] + 0.3).T[:, 0])
    close(scores(normed, x, name), scores(merged, x, name))
    close(scores(by_element, x, name), scores(merged, x, name))


@pytest.mark.promotes
@pytest.mark.parametrize("name", some_slow(TABLES, TABLES.keys() - {"gamma"}))
def test_batch_norm_of_a_convolution(name, x64):
    image, kernel, head = draw(1, 6, 6, 2), draw(2, 3, 3, 2, 4), draw(3, 4, 4, 4)
    scale, shift = draw(4, 4), draw(5, 4)

    def f(x, kernel, scale, shift):
        dims = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", dimension_numbers=dims)
        return readout(jnp.tanh(y.reshape(4, 4, 4) * scale + shift) * head)

    normed = scores(lambda x: f(x, kernel, scale, shift), image, name)
    merged = scores(lambda x: f(x, kernel * scale, jnp.ones(4), shift), image, name)
    close(normed, merged)


@pytest.mark.promotes
def test_a_scale_of_every_output_is_part_of_the_layer(x64):
    """One that no weight has: P and N are told apart by its sign, too."""
    x, scale = draw(6, 3, 4), draw(7, 3, 5)
    f = lambda x: readout(jnp.tanh((x @ W) * scale + B))
    dense = jnp.einsum("io,po,pq->piqo", W, scale, jnp.eye(3)).reshape(12, 15)
    g = lambda x: readout(jnp.tanh(x.reshape(12) @ dense + jnp.tile(B, 3)))
    explain = lambda f: {name: jxp.lrp(f, rules=TABLES[name])(x) for name in of_signs}
    of_signs = ("gamma", "alpha_beta", "w_square", "zbox")
    jax.tree.map(close, *jax.jit(lambda: (explain(f), explain(g)))())


# Scalar functions hand on relevance as it is.

ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda z: 2 * jax.nn.sigmoid(2 * z) - 1),
    "silu": (jax.nn.silu, lambda z: z / (1 + jnp.exp(-z))),
    "gelu": (
        partial(jax.nn.gelu, approximate=False),
        lambda z: z * 0.5 * (1 + lax.erf(z / np.sqrt(2))),
    ),
    "relu6": (jax.nn.relu6, lambda z: jnp.clip(z, 0, 6)),
    "softplus": (jax.nn.softplus, lambda z: jnp.log(1 + jnp.exp(z))),
    "elu": (jax.nn.elu, lambda z: jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1)),
    "square": (jnp.square, lambda z: z * z),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_hands_on_relevance_however_it_is_spelled(name, x64):
    x, weight = draw(1, 6), draw(2, 6)
    for g in ACTIVATIONS[name]:
        R, gap = jxp.attn_lrp(lambda x, g=g: jnp.sum(weight * g(x)), return_gap=True)(x)
        close(R, weight * ACTIVATIONS[name][0](x))
        close(gap, 0)


def test_a_soft_cap_under_a_mask_is_finite():
    mask = np.array([True, False, True])

    def f(x):
        scores = jnp.where(mask, 50 * jnp.tanh(x / 50), -2e38)
        return jax.nn.softmax(scores)[0]

    x = jnp.array([3.0, 4.0, 5.0])
    R = jxp.attn_lrp(f)(x)
    close(R, x * jax.grad(lambda s: jax.nn.softmax(jnp.where(mask, s, -jnp.inf))[0])(x), rtol=0.05)
    assert R[1] == 0


# Norms, products, softmax.

NORMS = {
    "rsqrt": lambda x: x * lax.rsqrt(jnp.mean(x**2) + 1e-6),
    "division": lambda x: x / jnp.sqrt(jnp.mean(x**2) + 1e-6),
    "power": lambda x: x * (jnp.mean(x**2) + 1e-6) ** -0.5,
    "l2": lambda x: x / jnp.linalg.norm(x),
    "sum": lambda x: x / jnp.sum(jnp.abs(x)),
    "scale first": lambda x: (lax.rsqrt(jnp.mean(x * x) + 1e-6) * 3.0) * x,
}


@pytest.mark.parametrize("name", NORMS)
def test_what_a_norm_divides_by_is_a_constant(name, x64):
    x, weight = draw(1, 6), draw(2, 6)
    R, gap = jxp.attn_lrp(lambda x: NORMS[name](x) @ weight, return_gap=True)(x)
    close(R, weight * NORMS[name](x))
    close(gap, 0)


def test_factors_share_and_gates_are_constants(x64):
    x, y = draw(1, 4), draw(2, 4)
    gated = lambda p: jnp.sum(jax.nn.silu(p["gate"]) * p["up"])
    product = jax.nn.silu(x) * y

    R = jxp.attn_lrp(gated)({"gate": x, "up": y})
    close(R["gate"], product / 2)
    close(R["up"], product / 2)
    R = jxp.cp_lrp(gated)({"gate": x, "up": y})
    close(R["gate"], 0)
    close(R["up"], product)


GATES = {
    "sigmoid": jax.nn.sigmoid,
    "by hand": lambda z: 1 / (1 + jnp.exp(-z)),
    "by tanh": lambda z: 0.5 * (1 + jnp.tanh(z / 2)),
    "hard": jax.nn.hard_sigmoid,
    "exponential": lambda z: jnp.exp(-z),
    "complement": lambda z: 1 - jax.nn.sigmoid(z),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_a_constant(name, x64):
    x, y = draw(1, 4), draw(2, 4)
    f = lambda p: jnp.sum(GATES[name](p["gate"]) * p["gated"])
    R = jxp.attn_lrp(f)({"gate": x, "gated": y})
    close(R["gate"], 0)
    close(R["gated"], GATES[name](x) * y)


def attention(p):
    weights = jax.nn.softmax(p["q"] @ p["k"].T)
    return readout(weights @ p["v"])


def test_attention_gives_a_quarter_a_quarter_and_a_half(x64):
    p = {name: draw(i, 4, 3) for i, name in enumerate("qkv")}
    slope = jax.grad(attention)(p)
    R = jax.jit(jxp.attn_lrp(attention))(p)
    for name, share in {"q": 0.25, "k": 0.25, "v": 0.5}.items():
        close(R[name], share * p[name] * slope[name])
    R, gap = jax.jit(jxp.cp_lrp(attention, return_gap=True))(p)
    close(R["v"], p["v"] * slope["v"])
    close(R["q"], 0)
    close(gap, 0)


# What rules conserve.


@pytest.mark.parametrize("name", ["epsilon_plus", "gamma", "flat", "zbox"])
def test_without_biases_relevance_is_conserved(name, x64):
    x = draw(6, 4)
    f = lambda x: readout(jax.nn.relu(x @ W) @ V)
    R, gap = scores(f, x, name, return_gap=True)
    close(R.sum() + gap, f(x))
    assert abs(gap) < 1e-4 * abs(f(x))


def test_the_gap_is_what_biases_take(x64):
    f = lambda x: x @ jnp.array([3.0, -1.0]) + 1.5
    _, gap = jxp.lrp(f, rules=jxp.rules.epsilon(0.0), return_gap=True)(jnp.ones(2))
    close(gap, 1.5)
    _, gap = jxp.lrp(f, rules=jxp.rules.epsilon(0.0, bias=False), return_gap=True)(jnp.ones(2))
    close(gap, 0, atol=1e-9)


def test_the_first_layer_gives_relevance_where_the_input_is_zero(x64):
    x = jnp.array([0.0, 2.0, 0.0, 1.0])
    assert not scores(PLAIN, x, "epsilon")[0]
    for name in ("w_square", "flat", "zbox"):
        assert scores(PLAIN, x, name)[0]


def test_a_rule_for_first_layers_in_all_of_them(x64):
    """In the first it gives R itself, and deeper R/x, which has no place where x is zero."""
    x = jnp.array([2.0, 0.0])
    f = lambda x: x @ jnp.array([3.0, -1.0])
    close(jxp.lrp(f, rules="flat")(x), jnp.array([3.0, 3.0]), rtol=1e-5)
    close(jxp.lrp(f, rules="w_square")(x), jnp.array([5.4, 0.6]), rtol=1e-5)
    g = lambda x: jax.nn.softplus(x @ W + B) @ V[:, 0]  # nowhere zero inside
    R, gap = jxp.lrp(g, rules="flat", return_gap=True)(jnp.asarray(X4))
    close(R, jnp.full(4, g(X4) / 4), rtol=1e-4)
    close(gap, 0, atol=1e-4)


def test_the_input_beside_its_first_layer(x64):
    """What reaches the input past that layer is still x m."""
    f = lambda x: readout(x @ W) + readout(jnp.sin(x))
    x, flat = draw(6, 4), TABLES["flat"]
    both = scores(f, x, flat)
    y = f(x)
    share = lambda part: (part(x) / y) * scores(part, x, flat) * (y / part(x))
    apart = share(lambda x: readout(x @ W)) + share(lambda x: readout(jnp.sin(x)))
    close(both, apart, rtol=1e-4)


# Choosing rules.


def deep(x):
    with jax.named_scope("body"):
        with jax.named_scope("one"):
            x = jax.nn.relu(x @ W + B)
        with jax.named_scope("two"):
            x = jax.nn.relu(x @ V + 0.1)
    with jax.named_scope("head"):
        return x @ jnp.array([1.0, -2.0, 0.5])


def test_rules_by_name(x64):
    x = draw(6, 4)
    gamma, epsilon, plus = jxp.rules.gamma(0.5), jxp.rules.epsilon(), jxp.rules.zplus()
    everywhere = jxp.rules.composite(epsilon, within={"body": gamma, "head": gamma})
    close(scores(deep, x, everywhere), scores(deep, x, gamma))
    later = jxp.rules.composite(epsilon, within={"body/*": gamma, "body/two": plus})
    apart = jxp.rules.composite(epsilon, within={"body/one": gamma, "body/two": plus})
    close(scores(deep, x, later), scores(deep, x, apart))
    assert not np.allclose(scores(deep, x, later), scores(deep, x, everywhere))


def test_rules_by_kind(x64):
    image, kernel, head = draw(1, 1, 2, 6), draw(2, 3, 2, 3), draw(3, 12)
    f = lambda x: jax.nn.relu(lax.conv(x, kernel, (1,), "VALID")).reshape(-1) @ head
    plus, epsilon = jxp.rules.zplus(), jxp.rules.epsilon()
    by_kind = jxp.rules.composite(plus, dense=epsilon)
    close(scores(f, image, by_kind), scores(f, image, "epsilon_plus"))
    nested = jxp.rules.composite(epsilon, conv=jxp.rules.composite(epsilon, conv=plus))
    close(scores(f, image, nested), scores(f, image, "epsilon_plus"))


def test_a_rule_of_ones_own_serves(x64):
    doubled = jxp.rules.scaled(lambda v, _: (jnp.tanh(v), jnp.full_like(v, 2.0)))
    rule = lambda equation, z: [jxp.rules.Single(doubled(z.value, None))]
    table = jxp.rules.epsilon().register(lax.tanh_p, rule, of=jxp.rules.Single)
    x = draw(1, 4)
    np.testing.assert_allclose(jxp.lrp(lambda x: jnp.tanh(x).sum(), rules=table)(x), 2 * x, 1e-4)


# Where relevance is read.


def inside(x):
    h = jxp.tag(jax.nn.relu(x @ W + B), "early")
    return readout(jxp.tag(jnp.tanh(h @ V), "late") + 0.5 * h[:3])


@pytest.mark.parametrize("name", some_slow(TABLES, TABLES.keys() - {"flat"}))
def test_relevance_inside_is_that_of_the_rest(name, x64):
    """To the rules for a first layer the tapped value is the input."""
    x = draw(6, 4)
    h = jax.nn.relu(x @ W + B)
    rest = lambda h: readout(jnp.tanh(h @ V) + 0.5 * h[:3])
    R, gaps = scores(inside, x, name, at=["early", "late"], return_gap=True)
    close(R["early"], scores(rest, h, name))
    late = lambda t: readout(t + 0.5 * h[:3])
    close(R["late"], scores(late, jnp.tanh(h @ V), name), atol=1e-5)
    close(gaps["early"], inside(x) - R["early"].sum())
    close(scores(inside, x, name, at="early"), R["early"])


def test_token_ids_by_the_embedding_they_look_up(x64):
    table = draw(1, 10, 4)
    f = lambda ids: PLAIN(jxp.tag(table[ids], "embed").sum(0))
    ids = jnp.array([3, 1, 7])
    R = jax.jit(jxp.attn_lrp(f, at="embed"))(ids)
    np.testing.assert_allclose(R, jxp.attn_lrp(lambda e: PLAIN(e.sum(0)))(table[ids]), 1e-5)


def test_relevance_patching_is_the_multiplier_times_the_change(x64):
    x, other = draw(6, 4), draw(7, 4)
    patched = jxp.attribution_patching(inside, other, at="early", rules=jxp.rules.attn_lrp())(x)
    h, h_other = (jxp.capture(inside, "early")(v)[1]["early"] for v in (x, other))
    R = jxp.attn_lrp(inside, at="early")(x)
    alive = h > 0
    close(patched[alive], (R / jnp.where(alive, h, 1) * (h_other - h))[alive])


def test_the_surrogate_gives_multipliers(x64):
    x = draw(6, 4)
    m = jax.grad(jxp.override(PLAIN, "epsilon"))(x)
    close(x * m, jxp.lrp(PLAIN)(x))
    m = jax.grad(jxp.override(PLAIN, TABLES["flat"]))(x)
    close(x * m, jxp.lrp(PLAIN, rules=TABLES["flat"])(x))


# Under transformations.


def test_batches_and_jit(x64):
    xs = draw(1, 3, 4)
    explain = jxp.lrp(PLAIN, rules="epsilon_plus_flat")
    each = jnp.stack([explain(x) for x in xs])
    close(jax.vmap(explain)(xs), each)
    close(jax.jit(jax.vmap(explain))(xs), each)
    close(jax.lax.map(explain, xs), each)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "alpha_beta", "attn_lrp", "zbox"])
def test_second_derivatives(name, x64):
    """A loss of the scores is differentiated as any function of x is."""
    x, direction = draw(6, 4), draw(7, 4)
    f = lambda x: readout(jnp.tanh(x @ W + B) * (x @ W) / jnp.sqrt(1 + jnp.mean(x**2)))
    loss = lambda x: jnp.sum(jnp.sin(jxp.lrp(f, rules=TABLES[name])(x)))
    step = 1e-6
    numeric = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    close(jnp.vdot(jax.jit(jax.grad(loss))(x), direction), numeric, rtol=1e-5)


@pytest.mark.parametrize("rules", some_slow(["attn_lrp", "epsilon", "gamma"], ["epsilon", "gamma"]))
def test_scanned_layers_are_layers(rules):
    ours, own = jax.jit(
        lambda x: tuple(jxp.lrp(f, rules=rules)(x) for f in (scanned, written_out))
    )(X)
    assert abs(own).max() > 1e-2
    np.testing.assert_allclose(ours, own, atol=1e-6 * max(1, abs(own).max()))
    streams = jax.jit(lambda x: jxp.lrp(scanned, rules=rules, at="stream")(x))(X)
    assert streams.shape == (LAYERS, *X.shape)


def _layer(c, u=0.0):
    return jax.nn.relu(c @ jnp.cos(jnp.arange(16.0)).reshape(4, 4) + u)


def _outputs(x, *, reverse):
    """A carry that begins at the input, one that is it throughout, and what the steps give."""
    def step(carry, u):
        c, kept = carry
        return (_layer(c, u), kept), _layer(kept, u)

    us = jnp.sin(jnp.arange(12.0)).reshape(3, 4)
    (c, kept), ys = lax.scan(step, (x, x), us, reverse=reverse)
    return readout(c) + readout(_layer(kept)) + readout(ys)


def _outputs_written_out(x, *, reverse):
    us, c, ys = jnp.sin(jnp.arange(12.0)).reshape(3, 4), x, [None] * 3
    for i in (2, 1, 0) if reverse else (0, 1, 2):
        c, ys[i] = _layer(c, us[i]), _layer(x, us[i])
    return readout(c) + readout(_layer(x)) + readout(jnp.stack(ys))


IN_LOOPS = {  # a scan, and the same step by step
    "carry": (partial(_outputs, reverse=False), partial(_outputs_written_out, reverse=False)),
    "reversed": (partial(_outputs, reverse=True), partial(_outputs_written_out, reverse=True)),
    "one step": (
        lambda x: readout(lax.scan(lambda c, _: (_layer(c), None), x, None, length=1)[0]),
        lambda x: readout(_layer(x)),
    ),
    "rows": (
        lambda x: readout(lax.map(_layer, jnp.outer(jnp.ones(3), x).reshape(3, 4))),
        lambda x: readout(jnp.stack([_layer(row) for row in jnp.outer(jnp.ones(3), x)])),
    ),
    "pieces": (
        lambda x: readout(_layer(x.reshape(2, 2).repeat(2, 1)[0])),
        lambda x: readout(_layer(jnp.split(x.reshape(2, 2).repeat(2, 1), 2)[0][0])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("rules", ["w_square", "flat", "epsilon_plus_flat", "zplus"])
@pytest.mark.parametrize("name", IN_LOOPS)
def test_a_loop_meets_the_first_layer_in_its_first_step(name, rules, x64):
    looped, written = IN_LOOPS[name]
    x = jnp.array([0.7, -1.2, 0.0, 0.4])  # what a rule gives to a zero it gives in a first layer
    ours, own = (jxp.lrp(f, rules=rules)(x) for f in (looped, written))
    assert abs(own).max() > 1e-2
    close(ours, own, atol=1e-9)


def decoder(p, cached):
    """The last token's logit by causal attention: all at once, or token by token with a cache."""

    def read_out(q, keys, values, seen):
        weights = jax.nn.softmax(jnp.where(seen, q @ keys.T, -1e9))
        return (jax.nn.gelu((weights @ values) @ p["up"]) @ p["down"]).sum()

    def full(x):
        x = x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        q, k, v = (x @ p[name] for name in "qkv")
        seen = jnp.tri(len(x), dtype=bool)
        return jax.vmap(read_out, (0, None, None, 0))(q, k, v, seen)[-1]

    def step(cache, inputs):
        t, row = inputs
        row = row * lax.rsqrt(jnp.mean(row**2) + 1e-6)
        keys, values = (
            lax.dynamic_update_slice(part, (row @ p[name])[None], (t, 0))
            for part, name in zip(cache, "kv", strict=True)
        )
        y = read_out(row @ p["q"], keys, values, jnp.arange(len(keys)) <= t)
        return (keys, values), y

    def token_by_token(x):
        empty = jnp.zeros((len(x), p["k"].shape[1]), x.dtype)
        return lax.scan(step, (empty, empty), (jnp.arange(len(x)), x))[1][-1]

    return token_by_token if cached else full


@pytest.mark.parametrize("method", [jxp.attn_lrp, jxp.cp_lrp, jxp.lrp])
def test_decoding_with_a_cache_is_decoding(method):
    p = {name: jnp.asarray(draw(i, 8, 8)) / 3 for i, name in enumerate(["q", "k", "v", "up"])}
    p["down"] = draw(9, 8, 8) / 3
    x = draw(10, 6, 8)
    full, cached = (jax.jit(method(decoder(p, c)))(x) for c in (False, True))
    assert abs(full).max() > 1e-2
    np.testing.assert_allclose(cached, full, atol=2e-6 * max(1, abs(full).max()))


# What is refused.


def test_unknown_and_unfit_tables(x64):
    with pytest.raises(ValueError, match="unknown rules 'epsilonn'"):
        jxp.lrp(PLAIN, rules="epsilonn")
    for rules in ("rescale", "guided_backprop", jxp.rules.rescale()):
        with pytest.raises(TypeError, match="relevance needs a table of relevance"):
            jxp.lrp(PLAIN, rules=rules)
    with pytest.raises(TypeError, match="relevance needs a table of relevance"):
        jxp.rules.composite(jxp.rules.epsilon(), conv=jxp.rules.rescale())


def test_errors_are_those_of_other_methods(x64):
    with pytest.raises(TypeError, match="Wrap it in a target"):
        jxp.attn_lrp(lambda x: x @ W)(jnp.ones(4))
    with pytest.raises(TypeError, match="explain the embedding"):
        jxp.attn_lrp(lambda x: x.sum())(jnp.arange(3))
    with pytest.raises(ValueError, match="nothing is named 'h'"):
        jxp.attn_lrp(PLAIN, at="h")(jnp.ones(4))
    with pytest.raises(jxp.UnsupportedPrimitive, match=r"'while' at .*test_relevance\.py"):
        jxp.attn_lrp(lambda x: lax.while_loop(lambda v: v[0] < 3, lambda v: 2 * v, x).sum())(
            jnp.ones(2)
        )
