"""One architecture in both frameworks, on the same weights and inputs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models import Model
from benchmarks.peers import jax_models

if TYPE_CHECKING:
    from torch import Tensor, nn

REFERENCES = 10
# name → input kind, input shape (channels last), torch layer that is scored; and a small twin.
ARCHITECTURES: dict[str, tuple[str, tuple[int, ...], str]] = {
    "mlp": ("vector", (784,), "3"),
    "cnn": ("image", (28, 28, 1), "3"),
    "bpnet": ("bases", (1000, 4), "relu"),
    "vgg": ("image", (32, 32, 3), "9"),
    "lstm": ("sequence", (64, 64), "lstm"),
    "transformer": ("sequence", (64, 128), "layers.0"),
    "resnet18": ("image", (32, 32, 3), "blocks.7.relu2"),
}
TINY: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "mlp": ({"inputs": 20, "width": 8}, (20,)),
    "cnn": ({"features": (2, 3), "hidden": 4}, (28, 28, 1)),
    "bpnet": ({"features": 4, "layers": 2}, (40, 4)),
    "vgg": ({"features": (3, 4, 5)}, (16, 16, 3)),
    "lstm": ({"inputs": 3, "hidden": 4}, (9, 3)),
    "transformer": ({"width": 8, "layers": 1}, (9, 8)),
    "resnet18": ({"width": 3}, (16, 16, 3)),
}


@dataclass(frozen=True)
class Task:
    """What every package explains: the first logit of a batch.

    Args:
      module: in torch, batch and channels first.
      layer: the torch module whose output is the value "layer" in JAX.
      model: in JAX, f(x, params) → the logit of one example, channels last.
      refs: several references, channels last.
    """

    module: nn.Module
    layer: nn.Module
    model: Model
    refs: np.ndarray

    def tensor(self, array: Any) -> Tensor:
        """To torch, batch in front, channels first where there are any but tokens'."""
        import torch

        array = np.array(array)
        if self.model.kind in ("image", "bases"):
            array = np.ascontiguousarray(np.moveaxis(array, -1, 1))
        return torch.from_numpy(array)

    @property
    def xs(self) -> Tensor:
        return self.tensor(self.model.xs)

    @property
    def ref(self) -> Tensor:
        return self.tensor(self.model.ref[None])

    @property
    def groups(self) -> Tensor:
        """Labels that broadcast to a batch."""
        full = np.broadcast_to(self.model.groups, self.model.ref.shape)
        return self.tensor(full[None])

    def in_float64(self) -> Task:
        """The same in double precision, where JAX's x64 is on."""
        m = self.model
        params, xs, ref = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (m.params, m.xs, m.ref)
        )
        return replace(
            self,
            module=deepcopy(self.module).double(),
            model=replace(m, params=params, xs=xs, ref=ref),
            refs=self.refs.astype(np.float64),
        )

    def game(self, index: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
        """Example `index` as a function of which of its groups show, with their number."""
        import torch

        x, ref, groups = self.xs[index : index + 1], self.ref, self.groups

        def value(coalitions: np.ndarray) -> np.ndarray:
            shown = torch.from_numpy(np.atleast_2d(np.asarray(coalitions, bool)))
            masks = shown[:, groups[0]]  # one mask a coalition, shaped like x
            with torch.no_grad():
                return self.module(torch.where(masks, x, ref))[:, 0].numpy()

        return value, int(groups.max()) + 1

    def spread(self, values: Any) -> Tensor:
        """Values of each example's groups, given to all of their elements."""
        import torch

        return torch.as_tensor(np.asarray(values, np.float32))[:, self.groups[0]]

    def ends(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """f(x) with f at the reference, and with its mean over references."""
        f = jax.jit(jax.vmap(self.model.f, (0, None)))
        y, y0, many = (
            np.asarray(f(points, self.model.params))
            for points in (self.model.xs, self.model.ref[None], jnp.asarray(self.refs))
        )
        return {"ref": (y, y0), "refs": (y, many.mean())}


def make(name: str, batch: int, *, tiny: bool = False) -> Task:
    """A task by name, its outputs in both frameworks equal.

    Raises:
      AssertionError: they are not.
    """
    from benchmarks.peers import torch_models

    kind, shape, layer = ARCHITECTURES[name]
    sizes, shape = TINY[name] if tiny else ({}, shape)
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        if kind == "bases":
            return np.eye(4, dtype=np.float32)[rng.integers(0, 4, (count, shape[0]))]
        return rng.normal(size=(count, *shape)).astype(np.float32)

    module = torch_models.make(name, sizes)
    logits = getattr(jax_models, name)
    params = jax_models.weights({k: v.numpy() for k, v in module.state_dict().items()})
    ref = np.full(shape, 0.25 if kind == "bases" else 0.0, np.float32)
    model = Model(
        lambda x, p: logits(x, p)[0], params, jnp.asarray(draw(batch)), jnp.asarray(ref), kind
    )
    refs = draw(REFERENCES) * np.float32(1 if kind == "bases" else 0.1)
    task = Task(module, module.get_submodule(layer), model, refs)
    ours = jax.vmap(logits, (0, None))(model.xs, params)
    np.testing.assert_allclose(ours, module(task.xs).numpy(), rtol=1e-3, atol=1e-4)
    return task
