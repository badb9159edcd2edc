"""How near each method comes to exact Shapley values, on small random networks.

Every network has 12 features, so that the Shapley values of x against its reference are exact: all
4096 coalitions are evaluated.  The networks of one family share a program and differ in weights,
inputs and references, hence run as one `vmap`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxplain as jxp
from benchmarks import faithfulness_report, measure, options

FEATURES = 12
WIDTH = 16
Array = jax.Array
shown = faithfulness_report.table
write = faithfulness_report.write


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", type=options.positive, help="default: 200; quick: 24")
    parser.add_argument("--seed", type=int, default=0)


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    networks = args.networks or (4 * len(FAMILIES) if args.quick else 200)
    return run(networks, args.seed, progress=not args.quiet)


@dataclass(frozen=True)
class Family:
    """`init(key)` draws a network's weights, `apply(x, weights)` is its scalar output."""

    init: Callable[[Array], Any]
    apply: Callable[[Array, Any], Array]


def dense(key: Array, inputs: int, outputs: int) -> tuple[Array, Array]:
    kernel, bias = jax.random.split(key)
    scale = math.sqrt(2 / inputs)
    return scale * jax.random.normal(kernel, (inputs, outputs)), 0.3 * jax.random.normal(
        bias, (outputs,)
    )


def affine(x: Array, layer: tuple[Array, Array]) -> Array:
    return x @ layer[0] + layer[1]


def perceptron(activation: Callable[[Array], Array]) -> Family:
    def init(key: Array) -> Any:
        sizes = [(FEATURES, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
        keys = jax.random.split(key, len(sizes))
        return [dense(k, *size) for k, size in zip(keys, sizes, strict=True)]

    def apply(x: Array, layers: Any) -> Array:
        *hidden, last = layers
        for layer in hidden:
            x = activation(affine(x, layer))
        return affine(x, last)[0]

    return Family(init, apply)


def pooled() -> Family:
    """Convolution over the features, overlapping max-pool, dense head."""

    def init(key: Array) -> Any:
        a, b, c = jax.random.split(key, 3)
        return dense(a, 3, 8), dense(b, 5 * 8, WIDTH), dense(c, WIDTH, 1)

    def apply(x: Array, layers: Any) -> Array:
        first, second, last = layers
        windows = jnp.stack([x[i : i + FEATURES - 2] for i in range(3)], axis=-1)
        h = jax.nn.relu(affine(windows, first))
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (3, 1), (2, 1), "SAME")
        return affine(jax.nn.relu(affine(h.ravel(), second)), last)[0]

    return Family(init, apply)


def attentive() -> Family:
    """Four tokens of three features: a pre-norm attention block with a gelu MLP."""

    def init(key: Array) -> Any:
        keys = jax.random.split(key, 8)
        d = WIDTH
        sizes = [(3, d), (d, d), (d, d), (d, d), (d, d), (d, 2 * d), (2 * d, d), (d, 1)]
        return [dense(k, *size) for k, size in zip(keys, sizes, strict=True)]

    def norm(x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)

    def apply(x: Array, layers: Any) -> Array:
        embed, query, key, value, out, up, down, last = layers
        h = affine(x.reshape(4, 3), embed)
        n = norm(h)
        q, k, v = affine(n, query), affine(n, key), affine(n, value)
        h = h + affine(jax.nn.softmax(q @ k.T / math.sqrt(WIDTH)) @ v, out)
        h = h + affine(jax.nn.gelu(affine(norm(h), up)), down)
        return affine(norm(h).mean(0), last)[0]

    return Family(init, apply)


def recurrent() -> Family:
    """An LSTM over six steps of two features."""

    def init(key: Array) -> Any:
        a, b = jax.random.split(key)
        return dense(a, 2 + WIDTH, 4 * WIDTH), dense(b, WIDTH, 1)

    def apply(x: Array, layers: Any) -> Array:
        cell, last = layers

        def step(carry: tuple[Array, Array], u: Array) -> tuple[tuple[Array, Array], None]:
            c, h = carry
            i, f, g, o = jnp.split(affine(jnp.concatenate([u, h]), cell), 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        start = (jnp.zeros(WIDTH), jnp.zeros(WIDTH))
        (_, h), _ = jax.lax.scan(step, start, x.reshape(6, 2), unroll=True)  # FLOPs are counted
        return affine(h, last)[0]

    return Family(init, apply)


FAMILIES = {
    "relu": perceptron(jax.nn.relu),
    "tanh": perceptron(jnp.tanh),
    "gelu": perceptron(jax.nn.gelu),
    "max-pool": pooled(),
    "attention": attentive(),
    "LSTM": recurrent(),
}


def by_rules(rules: Any) -> Callable[..., Any]:
    return lambda f, ref: jxp.deeplift(f, ref, rules=rules)


METHODS: dict[str, Callable[..., Any]] = {
    "gradient × input": jxp.input_x_gradient,
    "IG, 8 steps": lambda f, ref: jxp.integrated_gradients(f, ref, steps=8),
    "IG, 64 steps": lambda f, ref: jxp.integrated_gradients(f, ref, steps=64),
    "Rescale": by_rules("rescale"),
    "Rescale, θ = ½": by_rules(jxp.rules.rescale(norm_theta=0.5)),
    "Rescale, θ = 1": by_rules(jxp.rules.rescale(norm_theta=1.0)),
    "RevealCancel": by_rules("reveal_cancel"),
    "central limit": by_rules("central_limit"),
    "moments": jxp.moment_shapley,
    "moments, 1 anchor": lambda f, ref: jxp.moment_shapley(f, ref, anchors=1),
    "moments, 2 anchors": lambda f, ref: jxp.moment_shapley(f, ref, anchors=2),
    "LRP-ε": lambda f, ref: jxp.lrp(f),  # which know no reference
    "LRP-γ": lambda f, ref: jxp.lrp(f, rules="gamma"),
    "AttnLRP": lambda f, ref: jxp.attn_lrp(f),
}


def shapley(f: Callable[[Array], Array], x: Array, ref: Array) -> Array:
    """Exact Shapley values from all coalitions: φ_i = Σ_S |S|!(n-1-|S|)!/n! (v(S ∪ i) - v(S))."""
    n = FEATURES
    masks = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    size = masks.sum(1)
    factorial = np.array([math.factorial(k) for k in range(n + 1)], float)
    joined = factorial[np.maximum(size - 1, 0)] * factorial[n - size] / factorial[n]
    missing = factorial[size] * factorial[np.maximum(n - 1 - size, 0)] / factorial[n]
    weights = np.where(masks, joined[:, None], -missing[:, None])
    values = jax.vmap(lambda mask: f(jnp.where(mask, x, ref)))(jnp.asarray(masks, bool))
    return jnp.asarray(weights.T, values.dtype) @ values


def run(networks: int = 200, seed: int = 0, *, progress: bool = True) -> dict[str, Any]:
    """The study as JSON: per family and method the errors of every network, and the cost."""
    each = math.ceil(networks / len(FAMILIES))
    jobs = [(name, method) for name in FAMILIES for method in METHODS]
    bar = tqdm(jobs, disable=not progress, desc="faithfulness")
    cells, drawn = [], {}
    for name, method in bar:
        bar.set_postfix_str(f"{name}: {method}")
        if name not in drawn:
            drawn[name] = draw(FAMILIES[name], each, seed)
        found = errors(FAMILIES[name], METHODS[method], *drawn[name])
        cells.append({"family": name, "method": method} | found)
    settings = {"networks": each * len(FAMILIES), "features": FEATURES, "seed": seed}
    environment = measure.environment(jax.devices()[0])
    return {"benchmark": "faithfulness", "environment": environment, **settings, "cells": cells}


def draw(family: Family, networks: int, seed: int) -> tuple[Any, Array]:
    """Inputs, references and weights of networks, and their exact Shapley values."""
    keys = jax.random.split(jax.random.key(seed), (3, networks))
    weights = jax.vmap(family.init)(keys[0])
    x, ref = (jax.vmap(lambda k: jax.random.normal(k, (FEATURES,)))(k) for k in keys[1:])
    exact = jax.jit(jax.vmap(lambda x, r, w: shapley(lambda x: family.apply(x, w), x, r)))
    return (x, ref, weights), exact(x, ref, weights)


def errors(family: Family, method: Any, data: Any, exact: Array) -> dict[str, Any]:
    """Relative distance ‖C - φ‖/‖φ‖ of each network, and the program's FLOPs over a gradient's."""

    def compiled(make: Any) -> Any:
        return jax.jit(jax.vmap(lambda x, ref, w: make(ref)(x, w))).lower(*data).compile()

    explain = compiled(lambda ref: method(family.apply, ref))
    gradient = compiled(lambda ref: jax.grad(family.apply))
    scores = explain(*data)
    distance = jnp.linalg.norm(scores - exact, axis=1) / jnp.linalg.norm(exact, axis=1)
    cost = measure.flops(explain) / measure.flops(gradient)
    return {"error": [round(float(d), 5) for d in distance], "gradients": round(cost, 3)}
