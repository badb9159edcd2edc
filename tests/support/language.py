"""A small causal language model, in two ways of computing it."""

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, WIDTH, HEADS, PLACES = 11, 8, 2, 16


def parameters(layers=2, key=0):
    keys = iter(jax.random.split(jax.random.key(key), 64))
    normal = lambda *shape: jax.random.normal(next(keys), shape) / np.sqrt(shape[0])
    square = dict.fromkeys("qkvo", (WIDTH, WIDTH))
    shapes = {**square, "up": (WIDTH, 2 * WIDTH), "down": (2 * WIDTH, WIDTH)}
    return {
        "embed": normal(VOCABULARY, WIDTH) * 2,
        "places": normal(PLACES, WIDTH),
        "blocks": [{n: normal(*s) for n, s in shapes.items()} for _ in range(layers)],
        "out": normal(WIDTH, VOCABULARY) * 2,
    }


def norm(h):
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def heads(h):
    return h.reshape(*h.shape[:-1], HEADS, -1)


def logits(params, ids, mask=None):
    """All places at once, (S, V)."""
    length = len(ids)
    h = params["embed"][ids] + params["places"][:length]
    seen = jnp.tril(jnp.ones((length, length), bool))
    seen = seen if mask is None else seen & (mask | jnp.eye(length, dtype=bool))
    for block in params["blocks"]:
        x = norm(h)
        q, k, v = (heads(x @ block[name]) for name in "qkv")
        scores = jnp.einsum("shd,thd->hst", q, k) / np.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), -1)
        h = h + jnp.einsum("hst,thd->shd", weights, v).reshape(h.shape) @ block["o"]
        h = h + jax.nn.gelu(norm(h) @ block["up"]) @ block["down"]
    return norm(h) @ params["out"]


def decoded(params, ids):
    """Place by place in a scan, with a cache of keys and values."""
    length = len(ids)
    empty = jnp.zeros((length, HEADS, WIDTH // HEADS))
    caches = [(empty, empty) for _ in params["blocks"]]

    def step(caches, inputs):
        token, place = inputs
        h, kept = params["embed"][token] + params["places"][place], []
        for block, (keys, values) in zip(params["blocks"], caches, strict=True):
            x = norm(h)
            q, k, v = (heads(x @ block[name]) for name in "qkv")
            keys = jax.lax.dynamic_update_index_in_dim(keys, k, place, 0)
            values = jax.lax.dynamic_update_index_in_dim(values, v, place, 0)
            scores = jnp.einsum("hd,thd->ht", q, keys) / np.sqrt(q.shape[-1])
            weights = jax.nn.softmax(jnp.where(jnp.arange(length) <= place, scores, -1e9), -1)
            h = h + jnp.einsum("ht,thd->hd", weights, values).reshape(-1) @ block["o"]
            h = h + jax.nn.gelu(norm(h) @ block["up"]) @ block["down"]
            kept.append((keys, values))
        return kept, norm(h) @ params["out"]

    return jax.lax.scan(step, caches, (ids, jnp.arange(length)))[1]
