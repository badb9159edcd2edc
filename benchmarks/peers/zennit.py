"""zennit's methods: {name: member}."""

from collections.abc import Callable

import torch

# zennit imports torchvision, whose CPU wheels may lack the compiled operators that its import
# registers further functions for; declared, the import goes through.
_operators = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from zennit import composites  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.canonizers import AttributeCanonizer, SequentialMergeBatchNorm  # noqa: E402
from zennit.layer import Sum  # noqa: E402

from benchmarks.peers import torch_models  # noqa: E402
from benchmarks.peers.families import BOX, Member  # noqa: E402
from benchmarks.peers.task import Task  # noqa: E402


def composite(family: str, kind: type) -> Member:
    def make(task: Task, chunk: None) -> Callable:
        x = task.xs

        def run():
            with Gradient(task.module, kind()) as explain:
                return explain(x, first_logit)[1]

        return run

    return Member(family, make)


class MergedBatchNorm(SequentialMergeBatchNorm):
    """zennit's, which leaves ε in a batch norm that is merged: the network is then another one.

    ResNet-18's logits are 1e-5 off, and the relevance of its inputs 1e-4.
    """

    def register(self, linears: list, batch_norm: torch.nn.Module) -> None:
        super().register(linears, batch_norm)
        self.epsilon, batch_norm.eps = batch_norm.eps, 0.0

    def remove(self) -> None:
        super().remove()
        self.batch_norm.eps = self.epsilon


class Residuals(AttributeCanonizer):
    """ResNet-18's sums and mean as modules, which zennit's rules are hooked to."""

    def __init__(self):
        super().__init__(self.attributes)

    @staticmethod
    def attributes(name: str, module: torch.nn.Module) -> dict | None:
        if isinstance(module, torch_models.ResidualBlock):
            return {"forward": block_forward.__get__(module), "sum": Sum()}
        if isinstance(module, torch_models.ResNet18):
            pool = torch.nn.AdaptiveAvgPool2d(1)
            return {"forward": network_forward.__get__(module), "pool": pool}
        return None


def block_forward(self, x: torch.Tensor) -> torch.Tensor:
    y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
    x = x if self.shortcut is None else self.shortcut(x)
    return self.relu2(self.sum(torch.stack([y, x], dim=-1)))


def network_forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.relu(self.norm(self.stem(x)))
    for block in self.blocks:
        x = block(x)
    return self.out(self.pool(x).flatten(1))


def relevance(kind: type, box: bool = False) -> Member:
    """A composite of LRP, from the first logit itself at the output."""

    def make(task: Task, chunk: None) -> Callable:
        x = task.xs
        low, high = (torch.full_like(x[:1], end) for end in BOX)
        options = {"low": low, "high": high} if box else {}
        canonizers = [MergedBatchNorm(), Residuals()]

        def run():
            rules = kind(canonizers=canonizers, **options)
            with Gradient(task.module, rules) as explain:
                return explain(x, lambda y: y * first_logit(y))[1]

        return run

    return Member(f"LRP {kind.__name__}", make)


def first_logit(outputs: torch.Tensor) -> torch.Tensor:
    """What the way back begins with."""
    seed = torch.zeros_like(outputs)
    seed[:, 0] = 1
    return seed


METHODS = {
    "GuidedBackprop": composite("guided backprop", composites.GuidedBackprop),
    "DeconvNet": composite("deconvolution", composites.DeconvNet),
    "EpsilonPlus": relevance(composites.EpsilonPlus),
    "EpsilonPlusFlat": relevance(composites.EpsilonPlusFlat),
    "EpsilonAlpha2Beta1": relevance(composites.EpsilonAlpha2Beta1),
    "EpsilonAlpha2Beta1Flat": relevance(composites.EpsilonAlpha2Beta1Flat),
    "EpsilonGammaBox": relevance(composites.EpsilonGammaBox, box=True),
}
