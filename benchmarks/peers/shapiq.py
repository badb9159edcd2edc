"""shapiq's methods: {name: (family, task → run)}."""

from collections.abc import Callable

import shapiq

from benchmarks.peers.families import COALITIONS
from benchmarks.peers.task import Task


def each(approximator: type) -> Callable[[Task], Callable]:
    """An approximator on one game after the other."""

    def values(value: Callable, players: int) -> list[float]:
        found = approximator(players, random_state=0).approximate(COALITIONS, value)
        return [found[(player,)] for player in range(players)]

    def make(task: Task) -> Callable:
        games = [task.game(i) for i in range(len(task.xs))]
        return lambda: task.spread([values(*game) for game in games])

    return make


METHODS = {
    "PermutationSamplingSV": ("permutation Shapley", each(shapiq.PermutationSamplingSV)),
    "KernelSHAP": ("KernelSHAP", each(shapiq.KernelSHAP)),
}
