"""`run` and `retry`: the loop over blocks, and what becomes of an example that fails in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxplain._numerics.pipeline import bar, pipelined
from jaxplain._types import Function, Key, Tree
from jaxplain.stream import hosts, layout, provenance, status, workers
from jaxplain.stream.layout import Store
from jaxplain.stream.program import Program, mesh_of
from jaxplain.stream.results import Stream, leaves_of_held, open_store
from jaxplain.stream.source import Rows, Source, described, kinds_of
from jaxplain.stream.status import GAP, NONFINITE, OK, RAISED, TODO

Path = str | os.PathLike[str]


def run(
    explain: Function,
    source: Any,
    path: Path,
    *,
    shared: Tree = (),
    batch: int = 256,
    block: int = 4096,
    key: Key | None = None,
    predict: Function | None = None,
    gap: Function | bool | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    worker: tuple[int, int] | None = None,
    blocks: Iterable[int] | None = None,
    mesh: Mesh | None = None,
    max_failures: int | None = 100,
    accept: Iterable[str] = (),
    progress: bool = True,
) -> Stream:
    r"""explain of every example of a source, stored as it goes: E_i = explain(x_i, …) in row i.

    Examples are explained `batch` at a time in one compiled program and stored `block` at a time in
    a zarr v3 group.  A block's last act is to write its `status`: what was killed, interrupted or
    refused a write before leaves the block to do, and the same call again, by as many workers as
    there then are, does what is left and nothing else.

    Args:
      explain: `explain(x, *args, *shared)`, with `key=` where a key is given, → a tree of floating
        arrays, or (such a tree, gap) as methods with `return_gap=True` return.
      source: an array, a memory map or a tree of them with a leading axis of N examples, a tuple
        being (x, *args); or anything with a length and `[i]` → x or (x, *args), such as a list, a
        `grain.MapDataset` or a Dataset of torch (`__getitems__` is used where there is one).
      path: the folder to store in, or an address that TensorStore knows (`gs://…`, `s3://…`).
      shared: a tuple of parameters, passed after each example's own arguments.
      batch: how many examples the device has at once; filled up, so that one program serves all.
      block: how many examples a file holds and a commit covers.
      key: for methods that draw.  Example i gets `jax.random.fold_in(key, i)`, whatever the batch,
        the devices and the workers.
      predict: `predict(x, *args, *shared)` → what is stored as `prediction`.
      gap: `gap(contributions, x, *args, *shared)` → what is stored as `gap`, such as
        `jaxplain.completeness_gap(f, ref)`; True or False say whether explain returns a pair.
      tolerance: the largest |gap|, in f's units, of an example that is ok.
      dtype: in which contributions are stored, e.g. `jnp.float16`; explain's own by default.
      worker: (i, n), this process among n; block b is worker b mod n's.  By default what SLURM
        says (array tasks, steps), then JAX's processes, then (0, 1).
      blocks: numbers of blocks to do, all by default.
      mesh: a batch lies along its first axis; all of this process's devices by default.  One that
        spans hosts (`jax.distributed`) has all of them explain the same batches in lock step.
      max_failures: how many examples of this call may be quarantined; None: any number.
      accept: names of what may differ from what is stored ("jax", "platform", …), which is put
        on record.
      progress: show a tqdm bar.

    Returns:
      `open(path)`.  Rows of examples that could not be read, have another shape, or raised inside
      the program are NaN; their neighbours are as ever, and `.failures()` says why.

    Raises:
      Refused: the path holds results of something else; the message names what (function,
        reference, rules, closed-over arrays, parameters, key, source, length, block …).
      TypeError: the source is an iterator, or explain returns no floating arrays.
      ValueError: an argument out of its range; a tolerance without a gap.
      OSError: no room to write in.
      RuntimeError: every example of a batch failed, or more than max_failures did.
      Whatever the device raises when it has no memory left.  The block at hand is not committed.

    Example:
      >>> import tempfile, jax.numpy as jnp, numpy as np, jaxplain as jxp
      >>> explain = jxp.deeplift(lambda x: jnp.tanh(x).sum(), 0.0, return_gap=True)
      >>> xs = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
      >>> with tempfile.TemporaryDirectory() as path:
      ...     found = jxp.stream.run(explain, xs, path, block=2, progress=False)
      ...     found.contributions[3:5].shape, found.counts()
      ((2, 3), {'ok': 5})
    """
    path = os.fspath(path)
    examples = Source(source)
    count = len(examples)
    if batch < 1 or block < 1:
        raise ValueError(f"batch and block must be at least 1, and are {batch} and {block}")
    spans = mesh is not None and mesh.is_multi_process
    i, n = workers.find((0, 1) if worker is None and spans else worker)
    mine = [b for b in _numbers(blocks, -(-count // block)) if b % n == i]
    batch = min(batch, block, count)
    if mesh is not None:
        batch = -(-batch // mesh.shape[mesh.axis_names[0]]) * mesh.shape[mesh.axis_names[0]]
    samples = examples.sample()
    kinds = kinds_of(samples)
    program = Program(
        explain, predict, gap, tolerance, dtype, kinds,
        shared if isinstance(shared, tuple) else (shared,), key, count, mesh_of(mesh, batch),
    )  # fmt: skip
    store = _prepared(path, program, key, samples, count, block, tolerance, accept)
    todo = [b for b, state in store.statuses(mine) if _is_todo(state)]
    if spans:
        todo = hosts.agreed(todo, store.blocks)
    with bar(sum(stop - start for start, stop in map(store.span, todo)), progress) as moved:
        _Run(store, examples, program, kinds, batch, tolerance, max_failures, moved).over(todo)
    if spans:
        hosts.wait(path)
    return open_store(path)


def retry(path: Path, status: str | Iterable[str] = ("failed", "nonfinite")) -> list[int]:
    """Puts blocks back to what is to do: those with such examples, and those that are broken.

    The next `run` does them again.  Broken files (`verify`) are deleted first.

    Args:
      path: of a run.
      status: names of the examples' statuses: "failed" (all three of "unreadable", "shape" and
        "raised"), "nonfinite", "gap", "ok".

    Returns:
      The numbers of the blocks.

    Example:
      >>> import tempfile, jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.gradient(lambda x: jnp.log(x).sum())
      >>> xs = jnp.arange(5.0)[:, None]
      >>> with tempfile.TemporaryDirectory() as path:
      ...     found = jxp.stream.run(explain, xs, path, block=2, progress=False)
      ...     found.failures(), jxp.stream.retry(path)
      ({0: 'contributions are not finite (1 of 1)'}, [0])
    """
    wanted = np.array(_codes(status), np.uint8)
    found = open_store(os.fspath(path))
    broken = set(found.verify())
    store = found.store
    again = {
        block
        for block, state in store.statuses()
        if not isinstance(state, Exception) and np.isin(state, wanted).any()
    }
    mended = [  # perhaps: whoever is not ok there is explained again
        store.span(block)[0] + int(place)
        for block, state in store.statuses(sorted(again))
        for place in np.flatnonzero((state != OK) | np.isin(state, wanted))
    ]
    layout.change(store.path, lambda held: _without(held, mended))
    for block in sorted(broken | again):
        store.withdraw(block, block in broken)
    return sorted(broken | again)


def _recorded(held: Any, accepted: list[Any]) -> Any:
    news = [row for row in accepted if row not in held["accepted"]]
    return {**held, "accepted": held["accepted"] + news}


def _without(held: Any, numbers: list[int]) -> Any:
    return {**held, "provenance": provenance.without_samples(held["provenance"], numbers)}


_codes = status.codes  # `retry` has an argument of the module's name


class Ticket(NamedTuple):
    """A batch: its block, and its examples from start to stop."""

    block: int
    start: int
    stop: int


class _Run:
    """One worker's way through its blocks."""

    def __init__(
        self,
        store: Store,
        source: Source,
        program: Program,
        kinds: Tree,
        batch: int,
        tolerance: float | None,
        max_failures: int | None,
        moved: Callable[[int], Any],
    ):
        self.store, self.source, self.program, self.kinds = store, source, program, kinds
        self.batch, self.tolerance, self.moved = batch, tolerance, moved
        self.max_failures, self.failed = max_failures, 0

    def over(self, todo: list[int]) -> None:
        """All of these blocks, each committed as soon as it is whole."""
        block: _Block | None = None
        with _Writer(self.store) as writer:
            for ticket, rows, launched in pipelined(self.tickets(todo), self.read, self.launch):
                if block is None or block.number != ticket.block:
                    block = _Block(self.store, ticket.block)
                results, bad = self.settle(ticket, rows, launched)
                block.put(ticket, results, bad, self.reasons(ticket, results, bad))
                self.failed += block.failed_since()
                if self.max_failures is not None and self.failed > self.max_failures:
                    number, reason = list(block.failures.items())[-1]
                    raise RuntimeError(
                        f"{self.failed} examples failed, and max_failures is {self.max_failures}; "
                        f"the last, example {number}: {reason}"
                    )
                mine = not self.program.spans_hosts or hosts.writes(block.number)
                if mine and ticket.stop == self.store.span(ticket.block)[1]:
                    writer.commit(block)
                self.moved(ticket.stop - ticket.start)

    def tickets(self, todo: list[int]) -> Iterator[Ticket]:
        """Batch by batch, but for blocks that another run has done in the meantime."""
        for block in todo:
            start, stop = self.store.span(block)
            if self.program.spans_hosts or not self.store.is_committed(block):
                for begin in range(start, stop, self.batch):
                    yield Ticket(block, begin, min(begin + self.batch, stop))

    def read(self, ticket: Ticket) -> Rows:
        """The batch's rows, filled up."""
        return self.source.read(ticket.start, ticket.stop, self.kinds, self.batch)

    def launch(self, ticket: Ticket, rows: Rows) -> Any:
        """The batch's results, not waited for, or an exception."""
        size = ticket.stop - ticket.start
        if len(rows.bad) == size:
            return None
        numbers = np.arange(ticket.start, ticket.start + self.batch, dtype=np.int64)
        numbers[size:] = ticket.start
        try:
            return self.program(rows.args, numbers)
        except Exception as error:
            return error

    def settle(self, ticket: Ticket, rows: Rows, launched: Any) -> tuple[Any, Any]:
        """The batch's results in NumPy, and who is quarantined: status and reason by place."""
        bad = dict(rows.bad)
        results: Any = None
        if launched is not None:
            try:
                results = _taken(launched)
            except Exception as error:
                _raise_if_of_the_device(error)
                if self.program.spans_hosts:  # the others may not have met it
                    raise
                results = self.one_by_one(ticket, rows, bad)
        size = ticket.stop - ticket.start
        if len(bad) == size > 1:
            _, reason = bad[min(bad)]
            raise RuntimeError(
                f"every example of a batch failed, {ticket.start} to {ticket.stop - 1}; the first: "
                f"{reason}"
            )
        return results, bad

    def one_by_one(self, ticket: Ticket, rows: Rows, bad: dict[int, tuple[int, str]]) -> Any:
        """The results of a batch that raised: each example alone in it, in its own place.

        The program is the same, so what doesn't raise comes out as it would have.
        """
        results: Any = None
        for place in range(ticket.stop - ticket.start):
            if place in bad:
                continue
            args = jax.tree.map(lambda leaf: leaf[[place] * self.batch], rows.args)
            try:
                one = _taken(self.program(args, np.full(self.batch, ticket.start + place)))
            except Exception as error:
                _raise_if_of_the_device(error)
                bad[place] = RAISED, described(error)
                continue
            if results is None:
                results = jax.tree.map(np.copy, one)
            for to, array in zip(jax.tree.leaves(results), jax.tree.leaves(one), strict=True):
                to[place] = array[place]
        return results

    def reasons(self, ticket: Ticket, results: Any, bad: dict[int, tuple[int, str]]) -> Any:
        """Why the examples of this batch that aren't ok aren't."""
        reasons = {place: reason for place, (_, reason) in bad.items()}
        if results is not None:
            judged = results["status"][: ticket.stop - ticket.start]
            for place in map(int, np.flatnonzero(judged != OK)):
                if place not in reasons:
                    reasons[place] = self.judged(results, place, int(judged[place]))
        return {ticket.start + place: reasons[place] for place in sorted(reasons)}

    def judged(self, results: Any, place: int, code: int) -> str:
        """Why an example that has results is not ok."""
        if code == GAP:
            gaps = [float(np.abs(g[place]).max()) for g in jax.tree.leaves(results["gap"])]
            return f"the gap is {max(gaps):.6g}, and the tolerance {self.tolerance:g}"
        if code != NONFINITE:
            raise AssertionError(code)
        leaves = [leaf[place] for leaf in jax.tree.leaves(results["contributions"])]
        wrong = sum(int((~np.isfinite(leaf.astype(np.float64))).sum()) for leaf in leaves)
        if not wrong:
            return "the gap is not finite"
        return f"contributions are not finite ({wrong} of {sum(leaf.size for leaf in leaves)})"


class _Block:
    """A block's rows as they come in, on the host."""

    def __init__(self, store: Store, number: int):
        self.number, self.leaves = number, store.leaves
        self.start, stop = store.span(number)
        rows = stop - self.start
        self.values = {
            leaf.name: np.empty((rows, *leaf.shape), leaf.dtype) for leaf in store.leaves
        }
        self.status = np.zeros(rows, np.uint8)
        self.failures: dict[int, str] = {}
        self._told = 0

    def put(self, ticket: Ticket, results: Any, bad: dict[int, tuple[int, str]], why: Any) -> None:
        """A batch's rows."""
        size, to = ticket.stop - ticket.start, ticket.start - self.start
        if results is not None:
            arrays = {"/".join(map(str, leaf.path)): leaf for leaf in self.leaves}
            for path, rows in layout.rows_by_path(results):
                leaf = arrays.get("/".join(map(str, path)))
                if leaf is not None:
                    self.values[leaf.name][to : to + size] = rows[:size]
            self.status[to : to + size] = results["status"][:size]
        for place, (code, _) in bad.items():
            self.status[to + place] = code
            for leaf in self.leaves:
                self.values[leaf.name][to + place] = _blank(leaf.dtype)
        self.failures.update(why)

    def failed_since(self) -> int:
        """How many failures there are that were not asked for before."""
        news, self._told = len(self.failures) - self._told, len(self.failures)
        return news


class _Writer:
    """Commits blocks in a thread, one at a time, while the device goes on with the next."""

    def __init__(self, store: Store):
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jaxplain-write")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def commit(self, block: _Block) -> None:
        """Writes the block; what the one before raised is raised here."""
        self._settle()
        self._pending = self._pool.submit(
            self._store.write, block.number, block.values, block.status, block.failures
        )

    def _settle(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._settle()
        finally:
            self._pool.shutdown()  # a block that is whole is still committed


def _prepared(
    path: str,
    program: Program,
    key: Key | None,
    samples: Any,
    count: int,
    block: int,
    tolerance: float | None,
    accept: Iterable[str],
) -> Store:
    """The store at the path, made or found to be of the same run."""
    leaves = layout.leaves_of({k: v for k, v in program.results.items() if k != "status"})
    here = provenance.of_run(
        program.functions,
        program.shared,
        key,
        samples,
        program.kinds,
        {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves},
        length=count,
        block=block,
        tolerance=tolerance,
    )
    there = layout.attributes(path)
    if there is None:
        held = {
            "format": layout.FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "count": count,
            "block": block,
            "leaves": [leaf._asdict() for leaf in leaves],
            "provenance": here,
            "accepted": [],
        }
        provenance.check(here, here, accept, path)
        if not layout.create(path, held):
            there = layout.attributes(path)
    if there is not None:
        layout.make_arrays(path, there["count"], there["block"], leaves_of_held(there))
        before = provenance.without_samples(there["provenance"], _quarantined(path, there))
        accepted = provenance.check(before, here, accept, path)
        if accepted:
            layout.change(path, lambda held: _recorded(held, accepted))
    layout.make_arrays(path, count, block, leaves)
    return Store(path, count, block, leaves)


def _quarantined(path: str, there: Any) -> list[int]:
    """The sampled examples that were explained and are not ok: they may be mended since."""
    found = open_store(path, there)
    sampled = [int(number) for number in there["provenance"]["source"]]
    blocks = sorted({number // found.store.block for number in sampled})
    states = {b: s for b, s in found.store.statuses(blocks) if not isinstance(s, Exception)}
    of = lambda number: states[number // found.store.block][number % found.store.block]
    return [n for n in sampled if n // found.store.block in states and of(n) not in (TODO, OK)]


def _numbers(blocks: Iterable[int] | None, count: int) -> list[int]:
    if blocks is None:
        return list(range(count))
    if isinstance(blocks, int):
        raise TypeError(f"blocks are the numbers of blocks: [{blocks}] or range({blocks})")
    numbers = sorted({int(block) for block in blocks})
    if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
        raise ValueError(f"there are blocks 0 to {count - 1}, and {numbers} are asked for")
    return numbers


def _is_todo(state: Any) -> bool:
    """A block whose commit is missing, or broken: its chunk is written again."""
    return isinstance(state, Exception) or not state.all()


def _taken(launched: Any) -> Any:
    if isinstance(launched, Exception):
        raise launched
    return jax.tree.map(lambda leaf: np.asarray(hosts.whole(leaf)), launched)


def _raise_if_of_the_device(error: Exception) -> None:
    """Want of memory says nothing of an example: the batch is too large."""
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        raise error


def _blank(dtype: str) -> Any:
    return np.nan if jax.numpy.issubdtype(np.dtype(dtype), jax.numpy.floating) else 0
