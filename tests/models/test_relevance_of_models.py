"""Relevance of models: finite wherever JAX differentiates, near true patching in a small GPT."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplain as jxp
from tests.support.architectures import ARCHITECTURES
from tests.support.zoo import ZOO

MODELS = ZOO | ARCHITECTURES
RULES = ("attn_lrp", "cp_lrp", "epsilon_plus_flat", "alpha_beta")


IN_TURN = {name: RULES[i % len(RULES)] for i, name in enumerate(ZOO)}  # neighbours are alike
PAIRS = {name: [rules] for name, rules in IN_TURN.items()}
PAIRS |= dict.fromkeys(ARCHITECTURES, RULES[::2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rules"), [(n, rules) for n in PAIRS for rules in PAIRS[n]])
def test_scores_of_every_model_are_finite(name, rules):
    assert_finite(name, rules)


@pytest.mark.parametrize("name", ["linen_mlp_layer_norm", "mlp_gelu", "vit"])
def test_scores_are_finite(name):
    assert_finite(name, "attn_lrp")


def assert_finite(name, rules):
    """And the gap is what is missing."""
    m = MODELS[name]()
    explain = jxp.lrp(m.f, rules=rules, return_gap=True)
    try:
        scores, gap = jax.jit(explain)(m.x, m.params)
    except jxp.UnsupportedPrimitive as refusal:
        assert "'" in str(refusal) and ".py:" in str(refusal)  # the equation, and its line
        return
    leaves = jax.tree.leaves(scores)
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert jax.tree.map(jnp.shape, scores) == jax.tree.map(jnp.shape, m.x)
    sizes = sum(float(jnp.abs(leaf).sum()) for leaf in leaves)
    total = sum(float(leaf.sum()) for leaf in leaves)
    assert abs(total + float(gap) - float(m.f(m.x, m.params))) <= 1e-4 * max(1, sizes)


# A small GPT that learned to repeat: after the second "a" comes what came after the first.

VOCABULARY, HALF, WIDTH, HEADS, LAYERS = 24, 7, 48, 4, 3


class GPT(nn.Module):
    """Causal pre-norm blocks whose streams and what is added to them are named."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH, dtype=self.dtype, name="embed")
        x = jxp.tag(embed(tokens) + nn.Embed(2 * HALF, WIDTH, dtype=self.dtype)(
            jnp.arange(len(tokens))), "input")  # fmt: skip
        mask = nn.make_causal_mask(jnp.ones(len(tokens)))
        for i in range(LAYERS):
            norm = nn.LayerNorm(dtype=self.dtype)(x)
            attend = nn.MultiHeadDotProductAttention(HEADS, dtype=self.dtype)
            x = x + attend(norm, mask=mask)
            h = nn.gelu(nn.Dense(4 * WIDTH, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x)))
            x = jxp.tag(x + jxp.tag(nn.Dense(WIDTH, dtype=self.dtype)(h), f"mlp{i}"), f"stream{i}")
        return nn.Dense(VOCABULARY, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))


def sequences(key, count):
    """Distinct tokens, twice."""
    draw = lambda key: jax.random.permutation(key, VOCABULARY)[:HALF]
    return jnp.tile(jax.vmap(draw)(jax.random.split(key, count)), (1, 2))


@functools.cache
def trained():
    params = GPT().init(jax.random.key(0), jnp.zeros(2 * HALF, int))
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, 1500))

    def loss(params, tokens):
        logits = jax.vmap(GPT().apply, (None, 0))(params, tokens)[:, HALF - 1 : -1]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, HALF:])
        return each[:, 1:].mean()

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, slope = jax.value_and_grad(loss)(params, sequences(key, 64))
            updates, state = optimiser.update(slope, state)
            return (optax.apply_updates(params, updates), state), value

        keys = jax.random.split(jax.random.key(1), 1500)
        return jax.lax.scan(step, (params, optimiser.init(params)), keys)

    (params, _), losses = train(params)
    assert losses[-1] < 0.05, losses[-1]
    return params


def pairs(count):
    """Sequences, the same with another token in the first half, and its place."""
    clean = sequences(jax.random.key(2), count)
    places = jax.random.randint(jax.random.key(3), (count,), 1, HALF)
    absent = jax.vmap(lambda row: jnp.argmax(~jnp.isin(jnp.arange(VOCABULARY), row)))(clean)
    corrupt = jax.vmap(lambda row, place, other: row.at[place].set(other))(clean, places, absent)
    return clean, corrupt, places, absent


def difference(params, tokens, place, answer, other):
    """The logit of the token to repeat less that of the one in its place."""
    logits = GPT().apply(params, tokens)[HALF + place - 1]
    return logits[answer] - logits[other]


@pytest.mark.slow
def test_relevance_patching_is_near_true_patching(record_property):
    params, (clean, corrupt, places, absent) = trained(), pairs(32)
    names = [f"{kind}{i}" for kind in ("stream", "mlp") for i in range(LAYERS)]

    def one(tokens, other, place, absent):
        f = lambda t: difference(params, t, place, tokens[place], absent)
        options = {"at": names, "multipliers": "deeplift"}
        relevance = jxp.attribution_patching(f, other, rules=jxp.rules.attn_lrp(), **options)
        slope = jxp.attribution_patching(f, other, at=names, multipliers="gradient")
        estimates = [{n: v.sum(-1) for n, v in method(tokens).items()}
                     for method in (relevance, slope)]  # fmt: skip
        values = jxp.capture(f, *names)(other)[1]

        def true(name):
            def at(position):
                here = (jnp.arange(2 * HALF) == position)[:, None]
                return jxp.intervene(f, {name: (values[name], here)})(tokens) - f(tokens)

            return jax.lax.map(at, jnp.arange(2 * HALF))

        return estimates, {name: true(name) for name in names}

    (ours, slopes), true = jax.jit(jax.vmap(one))(clean, corrupt, places, absent)
    for kind in ("stream", "mlp"):
        stacked = [jnp.stack([v[n] for n in names if n.startswith(kind)]).ravel()
                   for v in (ours, slopes, true)]  # fmt: skip
        relevance, slope = (np.corrcoef(v, stacked[2])[0, 1] for v in stacked[:2])
        record_property(f"correlation with patching {kind}: relevance", float(relevance))
        record_property(f"correlation with patching {kind}: gradient", float(slope))
        assert relevance >= 0.95 and relevance > slope


@pytest.mark.slow
def test_half_precision_agrees_on_a_trained_transformer(record_property):
    params, (clean, _, places, absent) = trained(), pairs(16)

    def explain(dtype, tokens, place, absent):
        def f(tokens):
            logits = GPT(dtype).apply(params, tokens)[HALF + place - 1]
            return (logits[tokens[place]] - logits[absent]).astype(jnp.float32)

        return jxp.attn_lrp(f, at="input")(tokens).astype(jnp.float32)

    full, half = (
        jax.jit(jax.vmap(functools.partial(explain, dtype)))(clean, places, absent)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    error = float(jnp.abs(half - full).sum() / jnp.abs(full).sum())
    record_property("bfloat16's relative error", error)
    assert error <= 0.01
