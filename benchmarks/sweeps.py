"""What `scale` makes larger: {sweep: its values, and the programs at each}."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxplain as jxp
from benchmarks import models
from benchmarks.methods import CHUNK, METHODS, Method, keyed
from benchmarks.models import Model

Programs = dict[str, tuple[Model, Method]]


@dataclass(frozen=True)
class Sweep:
    """One size, growing.

    Args:
      values: the sizes, in order.
      quick: those of --quick.
      make: a size to the methods and the model that each explains.
      unit: what a size counts.
    """

    values: Sequence[int]
    quick: Sequence[int]
    make: Callable[[int], Programs]
    unit: str


def both(model: Model) -> Programs:
    """The gradient and DeepLIFT."""
    return {name: (model, METHODS[name]) for name in ("gradient", "deeplift")}


def alone(name: str, model: Model, make: Callable[[Model], Any]) -> Programs:
    """A method whose own setting grows, beside one gradient."""
    return {"gradient": (model, METHODS["gradient"]), name: (model, Method(make))}


def doubling(first: int, last: int, factor: int = 2) -> list[int]:
    values = [first]
    while values[-1] * factor <= last:
        values.append(values[-1] * factor)
    return values


def small() -> Model:
    return models.make("cnn", 4)


def batch(size: int) -> Programs:
    return both(models.make("cnn", size))


def references(count: int) -> Programs:
    return alone("deeplift_shap", small(), lambda m: jxp.deeplift_shap(m.f, m.refs(count)))


def steps(count: int) -> Programs:
    integrated = partial(jxp.integrated_gradients, steps=count, chunk=32)
    return alone("integrated_gradients", small(), lambda m: integrated(m.f, m.ref))


def coalitions(count: int) -> Programs:
    def explain(m: Model) -> Any:
        options = {"groups": m.groups, "samples": count, "chunk": CHUNK}
        return keyed(jxp.kernel_shap(m.f, m.ref, **options))

    return alone("kernel_shap", small(), explain)


def depth(layers: int, scanned: bool, width: int = 128) -> Programs:
    """Residual tanh layers, written out or in a scan."""
    key = jax.random.key(0)
    params = jax.random.normal(key, (layers, width, width)) / (2 * width) ** 0.5

    def layer(x: Any, w: Any) -> Any:
        return x + jnp.tanh(x @ w)

    def f(x: Any, params: Any) -> Any:
        if scanned:
            return jax.lax.scan(lambda x, w: (layer(x, w), None), x, params)[0].mean()
        for i in range(layers):
            x = layer(x, params[i])
        return x.mean()

    xs = jax.random.normal(key, (32, width))
    return both(Model(f, params, xs, jnp.zeros(width), "vector"))


def width(units: int) -> Programs:
    return both(models.mlp(jax.random.key(0), batch=64, widths=(units, units)))


def bases(length: int) -> Programs:
    return both(models.bpnet(jax.random.key(0), batch=1, length=length, features=32))


def tokens(count: int) -> Programs:
    return both(
        models.transformer(jax.random.key(0), batch=1, tokens=count, width=64, layers=2, heads=2)
    )


LAYERS, FEW_LAYERS = (2, 6, 12, 24, 48, 96), (2, 6)
SWEEPS: dict[str, Sweep] = {
    "batch": Sweep(doubling(1, 4096, 4), (1, 16), batch, "examples"),
    "references": Sweep((1, 10, 100, 1000), (1, 10), references, "references"),
    "depth, unrolled": Sweep(LAYERS, FEW_LAYERS, partial(depth, scanned=False), "layers"),
    "depth, scanned": Sweep(LAYERS, FEW_LAYERS, partial(depth, scanned=True), "layers"),
    "width": Sweep(doubling(64, 4096), (64, 256), width, "units"),
    "bases": Sweep(doubling(1024, 131072), (256, 1024), bases, "bases"),
    "tokens": Sweep(doubling(128, 8192), (32, 128), tokens, "tokens"),
    "steps": Sweep((1, 10, 100, 1000), (1, 10), steps, "gradients"),
    "coalitions": Sweep(doubling(32, 2048, 4), (32, 64), coalitions, "coalitions"),
}


def arguments(model: Model) -> tuple[Any, Any, Any]:
    return model.xs, model.ref, model.params


def with_batch(model: Model, size: int) -> Model:
    """The same with its first example `size` times."""
    return replace(model, xs=jnp.broadcast_to(model.xs[:1], (size, *model.ref.shape)))
