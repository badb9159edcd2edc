"""shap's methods: {name: member}."""

from collections.abc import Callable

import numpy as np
import shap
from torch import nn

from benchmarks.peers.families import COALITIONS, STEPS, Member
from benchmarks.peers.task import Task


class FirstLogit(nn.Module):
    """What is explained, so that the other nine are not."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[:, :1]


def deep(task: Task, chunk: None) -> Callable:
    explain = shap.DeepExplainer(FirstLogit(task.module), task.tensor(task.refs))
    x = task.xs
    return lambda: explain.shap_values(x, check_additivity=False)


def gradient(task: Task, chunk: None) -> Callable:
    explain = shap.GradientExplainer(FirstLogit(task.module), task.tensor(task.refs))
    x = task.xs
    return lambda: explain.shap_values(x, nsamples=STEPS, rseed=0)


def each(family: str, explain: Callable) -> Member:
    """A method of one game after the other."""

    def make(task: Task, chunk: None) -> Callable:
        games = [task.game(i) for i in range(len(task.xs))]
        return lambda: task.spread([np.ravel(explain(*game)) for game in games])

    return Member(family, make)


def kernel(value: Callable, players: int):
    explain = shap.KernelExplainer(value, np.zeros((1, players)))
    return explain.shap_values(np.ones((1, players)), nsamples=COALITIONS, silent=True)


def permutation(value: Callable, players: int):
    explain = shap.PermutationExplainer(value, np.zeros((1, players)), seed=0)
    return explain(np.ones((1, players)), max_evals=COALITIONS + 2, silent=True).values


METHODS = {
    "DeepExplainer": Member("DeepLIFT-SHAP", deep),
    "GradientExplainer": Member("expected gradients", gradient),
    "PermutationExplainer": each("permutation Shapley", permutation),
    "KernelExplainer": each("KernelSHAP", kernel),
}
