"""The loop of long runs outside jit: the next batch is read while the device explains this one."""

from __future__ import annotations

import contextlib
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Ticket = TypeVar("Ticket")
Rows = TypeVar("Rows")
Launched = TypeVar("Launched")

_AHEAD = 2  # batches read and not yet launched: one is ready, one is being read


def pipelined(
    tickets: Iterable[Ticket],
    read: Callable[[Ticket], Rows],
    launch: Callable[[Ticket, Rows], Launched],
) -> Iterator[tuple[Ticket, Rows, Launched]]:
    """Each ticket, what was read for it and what was launched with that, in the tickets' order.

    `read` runs in a thread of its own and must not call JAX, whose settings belong to a thread;
    `launch` starts the device and need not wait for it. What was launched is handed out when the
    next is launched too, so that the device has work while results are taken off and written.
    However many tickets there are, memory holds four batches.
    """
    coming = iter(tickets)
    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxplain-read")
    reading: deque[tuple[Ticket, Future[Rows]]] = deque()

    def ask(count: int) -> None:
        reading.extend((ticket, pool.submit(read, ticket)) for ticket in islice(coming, count))

    try:
        ask(_AHEAD)
        running: tuple[Ticket, Rows, Launched] | None = None
        while reading:
            ticket, future = reading.popleft()
            ask(1)
            rows = future.result()
            launched = ticket, rows, launch(ticket, rows)
            if running is not None:
                yield running
            running = launched
        if running is not None:
            yield running
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def bar(count: int, shown: bool) -> Iterator[Callable[[int], Any]]:
    """A progress bar over so many examples, where tqdm is there: a function that moves it on."""
    if not shown or importlib.util.find_spec("tqdm") is None:
        yield lambda examples: None
        return
    from tqdm import tqdm

    with tqdm(total=count, unit="example") as shown_bar:
        yield shown_bar.update
