"""shapiq's methods: {name: member}."""

from collections.abc import Callable

import shapiq

from benchmarks.peers.families import COALITIONS, Member
from benchmarks.peers.task import Task


def each(family: str, approximator: type) -> Member:
    """An approximator on one game after the other."""

    def values(value: Callable, players: int) -> list[float]:
        found = approximator(players, random_state=0).approximate(COALITIONS, value)
        return [found[(player,)] for player in range(players)]

    def make(task: Task, chunk: None) -> Callable:
        games = [task.game(i) for i in range(len(task.xs))]
        return lambda: task.spread([values(*game) for game in games])

    return Member(family, make)


METHODS = {
    "PermutationSamplingSV": each("permutation Shapley", shapiq.PermutationSamplingSV),
    "KernelSHAP": each("KernelSHAP", shapiq.KernelSHAP),
}
