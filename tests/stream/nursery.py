"""Worker processes of a run, killed at random: a program of its own, which forks before JAX starts.

`python -m tests.stream.nursery PATH` prints what it did as JSON.
"""

import json
import os
import random
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jxp

COUNT, BLOCK, BATCH = 211, 24, 7  # a prime, of which the block is no divisor; nor the batch of it
KEY = 3


class Slow:
    """Examples that take their time, so that a process can be killed between two."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.xs = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return self.xs[index], np.float32(index % 3)


def f(x, scale, weights):
    return scale * jnp.tanh(x * weights).sum()


def run(path, worker=(0, 1), seconds=0.0):
    weights = jnp.arange(1.0, 6.0)
    explain = jxp.smooth(jxp.deeplift(f, 0.1), stdev=0.1, samples=2)
    return jxp.stream.run(
        explain, Slow(seconds), path, shared=(weights,), batch=BATCH, block=BLOCK,
        key=jax.random.key(KEY), predict=f, worker=worker, progress=False,
    )  # fmt: skip


def fork(path, worker, seconds=0.0):
    child = os.fork()
    if child:
        return child
    try:
        run(path, worker, seconds)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def killed(child, after):
    """Whether the process still ran when it was killed, so many seconds from now."""
    time.sleep(after)
    gone, _ = os.waitpid(child, os.WNOHANG)
    if not gone:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not gone


def ended_well(children):
    return all(os.waitpid(child, 0)[1] == 0 for child in children)


def rounds(path, least):
    """Kills until there were enough of them, over one run and another, then everything finished."""
    draw, kills, folders = random.Random(0), 0, []
    while kills < least:
        folder = f"{path}/{len(folders)}"
        folders.append(folder)
        for workers in (1, 4, 2, 3):
            children = [fork(folder, (i, workers), 0.01) for i in range(workers)]
            # All but one come to harm; where there is one, it does.
            for child in children[: max(1, workers - 1)]:
                kills += killed(child, draw.uniform(0.2, 0.7))
            ended_well(children[max(1, workers - 1) :])
        # More workers than blocks.
        assert ended_well([fork(folder, (i, 11)) for i in (0, 3, 8, 10)])
        assert ended_well([fork(folder, (i, 2)) for i in range(2)])
    return {"kills": kills, "folders": folders}


def together(path):
    """Two runs of all blocks at once, from nothing."""
    return {"well": ended_well([fork(path, (0, 1), 0.002) for _ in range(2)])}


if __name__ == "__main__":
    path = sys.argv[1]
    done = rounds(path, 20)
    print(json.dumps({**done, **together(f"{path}/together")}))
