"""Attribution patching against patching itself, and edges that add up to their nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplain as jxp

KEYS = jax.random.split(jax.random.key(2), 3)
W = jax.random.normal(KEYS[0], (3, 4, 4)) / 2
X, CORRUPTED = jax.random.normal(KEYS[1], (2, 4))


def f(x):
    """Residual blocks: every block reads all before it."""
    for i, w in enumerate(W):
        x = x + jxp.tag(jnp.tanh(w @ x), f"block_{i}")
    return jxp.tag(x, "last").sum()


def patched(name, x=X, corrupted=CORRUPTED, f=f):
    value = jxp.capture(f, name)(corrupted)[1][name]
    return jxp.intervene(f, {name: value})(x) - f(x)


@pytest.mark.parametrize("multipliers", ["gradient", "deeplift", "integrated"])
def test_linear_effects_are_exact(multipliers):
    scores = jax.jit(
        jxp.attribution_patching(f, CORRUPTED, at=["block_2", "last"], multipliers=multipliers)
    )(X)
    for name, score in scores.items():
        np.testing.assert_allclose(score.sum(), patched(name), rtol=1e-5)


def test_multipliers_are_what_they_say():
    h, other = (jxp.capture(f)(x)[1] for x in (X, CORRUPTED))
    score = lambda **options: jxp.attribution_patching(f, CORRUPTED, at="block_0", **options)(X)
    change = other["block_0"] - h["block_0"]
    np.testing.assert_allclose(
        score(multipliers="gradient"), change * jxp.gradient(f, at="block_0")(X), rtol=1e-5
    )
    np.testing.assert_allclose(score(), -jxp.deeplift(f, CORRUPTED, at="block_0")(X), rtol=1e-4)
    influence = jxp.internal_influence(f, CORRUPTED, at="block_0", steps=8)(X)
    np.testing.assert_allclose(score(multipliers="integrated"), change * influence, rtol=1e-4)
    with pytest.raises(ValueError, match="unknown multipliers 'ig'"):
        score(multipliers="ig")


@pytest.mark.parametrize("multipliers", ["gradient", "deeplift", "integrated"])
def test_edges_add_up_to_their_nodes(multipliers):
    options = dict(at="block_*", multipliers=multipliers)
    edges = jax.jit(jxp.edge_attributions(f, CORRUPTED, **options))(X)
    nodes = jax.jit(jxp.attribution_patching(f, CORRUPTED, **options))(X)
    assert {edge for edge in edges if edge[0] == "block_1"} == {
        ("block_1", "block_2"),
        ("block_1", "(output)"),
    }
    for name, score in nodes.items():
        total = sum(score for (u, _), score in edges.items() if u == name)
        np.testing.assert_allclose(total, score, atol=1e-5)


@pytest.mark.parametrize("rules", ["reveal_cancel", "central_limit"])
def test_rules_in_parts_estimate_patches_and_have_no_edges(rules):
    scores = jax.jit(jxp.attribution_patching(f, CORRUPTED, at=["block_0", "last"], rules=rules))(X)
    own = jax.jit(jxp.deeplift(f, CORRUPTED, at="block_0", rules=rules))(X)
    np.testing.assert_allclose(scores["block_0"], -own, atol=1e-6)
    np.testing.assert_allclose(scores["last"].sum(), f(CORRUPTED) - f(X), rtol=1e-5)
    with pytest.raises(ValueError, match=f"{rules}' keeps apart would be one again"):
        jxp.edge_attributions(f, CORRUPTED, at="block_*", rules=rules)
    jxp.edge_attributions(f, CORRUPTED, at="block_*", rules=rules, multipliers="gradient")


def test_rules_may_be_a_table():
    squashed = lambda x: jax.nn.standardize(jxp.tag(jnp.tanh(W[0] @ x), "a"))
    f = lambda x: squashed(x) @ W[1, 0]
    options = dict(at=["a"], rules=jxp.rules.rescale(norm_theta=1.0))
    edges = jax.jit(jxp.edge_attributions(f, CORRUPTED, **options))(X)
    nodes = jax.jit(jxp.attribution_patching(f, CORRUPTED, **options))(X)
    np.testing.assert_allclose(edges["a", "(output)"], nodes["a"], atol=1e-6)
    np.testing.assert_allclose(nodes["a"].sum(), f(CORRUPTED) - f(X), atol=1e-5)


def test_edges_are_what_passes_directly():
    """u → v through a product with x, u → output through 4u, v → output as it is."""

    def f(x):
        u = jxp.tag(2 * x, "u")
        return jxp.tag(u * x, "v") + 4 * u

    explain = jxp.edge_attributions(f, 1.0, at=["u", "v"], multipliers="gradient")
    edges = {edge: float(score) for edge, score in explain(3.0).items()}
    # Δu = -4, Δv = -16
    assert edges == {("u", "v"): -4 * 3.0, ("u", "(output)"): -16.0, ("v", "(output)"): -16.0}
    secant = jxp.edge_attributions(f, 1.0, at=["u", "v"])(3.0)
    np.testing.assert_allclose(secant["u", "v"], -4 * (3 + 1) / 2)


def trained_transformer():
    """Two layers that learn to answer with the token after the earlier copy of the last one."""
    width, heads, tokens, length = 32, 4, 8, 9
    shapes = {
        "embed": (tokens, width), "places": (length, width), "out": (width, tokens),
        **{f"{k}{i}": (width, width) for i in range(2) for k in "qkvo"},
        **{f"up{i}": (width, 2 * width) for i in range(2)},
        **{f"down{i}": (2 * width, width) for i in range(2)},
    }  # fmt: skip
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {
        n: jax.random.normal(k, s) / s[0] ** 0.5
        for (n, s), k in zip(shapes.items(), keys, strict=True)
    }
    norm = lambda x: jax.nn.standardize(x, epsilon=1e-3)
    causal = jnp.tri(length, dtype=bool)

    def logits(x, p):
        x = x + p["places"]
        for i in range(2):
            split = lambda key: (norm(x) @ p[f"{key}{i}"]).reshape(length, heads, -1)
            scores = jnp.einsum("qhd,khd->hqk", split("q"), split("k")) / (width / heads) ** 0.5
            attention = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
            mixed = jnp.einsum("hqk,khd->qhd", attention, split("v"))
            x = x + jxp.tag(mixed, f"heads_{i}").reshape(length, width) @ p[f"o{i}"]
            x = x + jxp.tag(jax.nn.gelu(norm(x) @ p[f"up{i}"]) @ p[f"down{i}"], f"mlp_{i}")
        return (norm(x) @ p["out"])[-1]

    def sample(key):
        first, second = jax.random.split(key)
        ids = jax.random.permutation(first, tokens)
        place = jax.random.randint(second, (), 0, tokens - 1)
        return jnp.append(ids, ids[place]), ids[place + 1]

    def loss(p, keys):
        ids, answers = jax.vmap(sample)(keys)
        z = jax.vmap(logits, (0, None))(p["embed"][ids], p)
        return optax.softmax_cross_entropy_with_integer_labels(z, answers).mean()

    optimiser = optax.adam(3e-3)

    def update(carry, key):
        p, state = carry
        value, grads = jax.value_and_grad(loss)(p, jax.random.split(key, 64))
        updates, state = optimiser.update(grads, state)
        return (optax.apply_updates(p, updates), state), value

    start = (params, optimiser.init(params))
    (params, _), losses = jax.jit(lambda c: jax.lax.scan(
        update, c, jax.random.split(jax.random.key(1), 3000)))(start)  # fmt: skip
    return logits, params, sample, losses[-100:].mean()


@pytest.mark.slow
def test_estimates_correlate_with_patching_on_a_trained_transformer(record_property):
    logits, params, sample, loss = trained_transformer()
    assert loss < 0.3
    names = [f"{kind}_{i}" for i in range(2) for kind in ("heads", "mlp")]

    def effects(key):
        first, second = jax.random.split(key)
        ids, answer = sample(first)
        place = jax.random.randint(second, (), 0, 7)  # the last token asks for another answer
        x = params["embed"][ids]
        corrupted = params["embed"][ids.at[-1].set(ids[place])]
        f = jxp.log_odds(lambda x: logits(x, params), answer, ids[place + 1])
        values, others = (jxp.capture(f, *names)(v)[1] for v in (x, corrupted))
        y = f(x)

        def patch(name, mask):
            put = jnp.where(mask, others[name], values[name])
            return jxp.intervene(f, {name: put})(x) - y

        truth, masks = {}, {}
        for name, value in values.items():  # each head or MLP at each position
            count = value.size // value.shape[-1]
            masks[name] = jnp.eye(count, dtype=bool).reshape(count, *value.shape[:-1], 1)
            truth[name] = jax.vmap(lambda mask: patch(name, mask))(masks[name])
        estimates = {}
        for multipliers in ("gradient", "integrated", "deeplift"):
            explain = jxp.attribution_patching(f, corrupted, at=names, multipliers=multipliers)
            scores = explain(x)
            estimates[multipliers] = {n: scores[n].sum(-1).ravel() for n in names}
        return truth, estimates

    truth, estimates = jax.jit(jax.vmap(effects))(jax.random.split(jax.random.key(5), 96))
    flat = lambda tree: np.concatenate([np.ravel(tree[n]) for n in names])
    correlation = {m: np.corrcoef(flat(truth), flat(e))[0, 1] for m, e in estimates.items()}
    for multipliers, value in correlation.items():
        record_property(f"correlation {multipliers}", float(value))
    assert correlation["deeplift"] >= 0.95, correlation
