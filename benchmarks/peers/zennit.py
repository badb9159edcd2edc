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

from benchmarks.peers.families import Member  # noqa: E402
from benchmarks.peers.task import Task  # noqa: E402


def composite(family: str, kind: type) -> Member:
    def make(task: Task, chunk: None) -> Callable:
        x = task.xs

        def run():
            with Gradient(task.module, kind()) as explain:
                return explain(x, first_logit)[1]

        return run

    return Member(family, make)


def first_logit(outputs: torch.Tensor) -> torch.Tensor:
    """What the way back begins with."""
    seed = torch.zeros_like(outputs)
    seed[:, 0] = 1
    return seed


METHODS = {
    "GuidedBackprop": composite("guided backprop", composites.GuidedBackprop),
    "DeconvNet": composite("deconvolution", composites.DeconvNet),
}
