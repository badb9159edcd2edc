"""`run` and `retry`: the loop over blocks, and what becomes of an example that fails in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import zip_longest
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
from jaxplain.stream.status import GAP, NONFINITE, OK, PENDING, RAISED

Path = str | os.PathLike[str]
Bad = dict[int, tuple[int, str]]  # who is quarantined: status and reason by place


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
        spans hosts (`jax.distributed`) has all of them explain batches in lock step, each reading
        and writing the rows that lie on its own devices.
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
        shared if isinstance(shared, tuple) else (shared,), key, count,
        hosts.Share(mesh_of(mesh, batch), batch),
    )  # fmt: skip
    store = _prepared(path, program, key, samples, count, block, tolerance, accept)
    todo = [b for b, state in store.statuses(mine) if _is_todo(state)]
    if spans:
        todo = hosts.agreed(todo, store.blocks)
    stored = (block for lane in program.share.assigned(todo) for block, here in lane if here)
    with bar(sum(stop - start for start, stop in map(store.span, stored)), progress) as moved:
        _Run(store, examples, program, kinds, tolerance, max_failures, moved).over(todo)
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
    """Examples of a block, from start to stop, for a lane of so many rows; who stores them."""

    block: int
    start: int
    stop: int
    rows: int
    here: bool

    @property
    def size(self) -> int:
        """How many examples."""
        return self.stop - self.start

    @property
    def numbers(self) -> np.ndarray:
        """The rows' examples; those that fill up are the first again."""
        numbers = np.arange(self.start, self.start + self.rows, dtype=np.int64)
        numbers[self.size :] = self.start
        return numbers


Step = list[Ticket]  # of each lane of this host: what the device has at once
Settled = tuple[Ticket, Any, Bad]


class _Run:
    """One worker's way through its blocks."""

    def __init__(
        self,
        store: Store,
        source: Source,
        program: Program,
        kinds: Tree,
        tolerance: float | None,
        max_failures: int | None,
        moved: Callable[[int], Any],
    ):
        self.store, self.source, self.program, self.kinds = store, source, program, kinds
        self.share, self.tolerance, self.moved = program.share, tolerance, moved
        self.max_failures, self.failed = max_failures, 0
        self.blocks: dict[int, _Block] = {}

    def over(self, todo: list[int]) -> None:
        """All of these blocks, each committed as soon as it is whole."""
        with _Writer(self.store) as writer:
            for step, read, launched in pipelined(self.steps(todo), self.read, self.launch):
                for ticket, results, bad in self.settle(step, read, launched):
                    if ticket.here:
                        self.put(ticket, results, bad, writer)

    def put(self, ticket: Ticket, results: Any, bad: Bad, writer: _Writer) -> None:
        """A batch's rows into their block, which is committed with its last."""
        if ticket.block not in self.blocks:
            self.blocks[ticket.block] = _Block(self.store, ticket.block)
        block = self.blocks[ticket.block]
        block.put(ticket, results, bad, self.reasons(ticket, results, bad))
        self.failed += block.failed_since()
        if self.max_failures is not None and self.failed > self.max_failures:
            number, reason = list(block.failures.items())[-1]
            raise RuntimeError(
                f"{self.failed} examples failed, and max_failures is {self.max_failures}; "
                f"the last, example {number}: {reason}"
            )
        if ticket.stop == self.store.span(ticket.block)[1]:
            writer.commit(self.blocks.pop(ticket.block))
        self.moved(ticket.size)

    def steps(self, todo: list[int]) -> Iterator[Step]:
        """Batch by batch what this host's lanes explain; one that is done repeats another's rows.

        So that hosts in lock step take as many, there is a step as long as any lane has one.
        """
        lanes = zip(self.share.lanes, self.share.assigned(todo), strict=True)
        for tickets in zip_longest(*(self.tickets(lane, blocks) for lane, blocks in lanes)):
            yield [tickets[lane.number] or self.idle(todo[0], lane) for lane in self.share.mine]

    def tickets(self, lane: hosts.Lane, blocks: list[tuple[int, bool]]) -> Iterator[Ticket]:
        """A lane's, but for blocks that another run has done in the meantime."""
        for block, here in blocks:
            start, stop = self.store.span(block)
            if self.share.spans_hosts or not self.store.is_committed(block):
                for begin in range(start, stop, lane.size):
                    end = min(begin + lane.size, stop)
                    yield Ticket(block, begin, end, lane.size, here)

    def idle(self, block: int, lane: hosts.Lane) -> Ticket:
        """What a lane that is done explains beside the others, for nobody."""
        start, stop = self.store.span(block)
        return Ticket(block, start, min(start + lane.size, stop), lane.size, False)

    def read(self, step: Step) -> list[Rows]:
        """The rows, filled up."""
        return [self.source.read(t.start, t.stop, self.kinds, t.rows) for t in step]

    def launch(self, step: Step, read: list[Rows]) -> Any:
        """The batch's results, not waited for, or an exception."""
        if not self.share.spans_hosts and len(read[0].bad) == step[0].size:
            return None
        beside = lambda *rows: rows[0] if len(rows) == 1 else np.concatenate(rows)
        args = jax.tree.map(beside, *(rows.args for rows in read))
        try:
            return self.program(args, beside(*(ticket.numbers for ticket in step)))
        except Exception as error:
            return error

    def settle(self, step: Step, read: list[Rows], launched: Any) -> Iterator[Settled]:
        """Of each ticket the results in NumPy, and who is quarantined."""
        bads = [dict(rows.bad) for rows in read]
        results: Any = None
        if launched is not None:
            try:
                results = self.taken(launched)
            except Exception as error:
                _raise_if_of_the_device(error)
                if self.share.spans_hosts:  # the others may not have met it
                    raise
                results = self.one_by_one(step[0], read[0], bads[0])
        first = 0
        for ticket, bad in zip(step, bads, strict=True):
            if ticket.here and len(bad) == ticket.size > 1:
                _, reason = bad[min(bad)]
                raise RuntimeError(
                    f"every example of a batch failed, {ticket.start} to {ticket.stop - 1}; the "
                    f"first: {reason}"
                )
            rows = slice(first, first + ticket.rows)
            yield ticket, jax.tree.map(lambda leaf, rows=rows: leaf[rows], results), bad
            first += ticket.rows

    def taken(self, launched: Any) -> Any:
        """This host's rows of the results, or what was raised instead."""
        if isinstance(launched, Exception):
            raise launched
        return jax.tree.map(self.share.collected, launched)

    def one_by_one(self, ticket: Ticket, rows: Rows, bad: Bad) -> Any:
        """The results of a batch that raised: each example alone in it, in its own place.

        The program is the same, so what doesn't raise comes out as it would have.
        """
        results: Any = None
        for place in range(ticket.size):
            if place in bad:
                continue
            args = jax.tree.map(lambda leaf: leaf[[place] * ticket.rows], rows.args)
            try:
                one = self.taken(self.program(args, np.full(ticket.rows, ticket.start + place)))
            except Exception as error:
                _raise_if_of_the_device(error)
                bad[place] = RAISED, described(error)
                continue
            if results is None:
                results = jax.tree.map(np.copy, one)
            for to, array in zip(jax.tree.leaves(results), jax.tree.leaves(one), strict=True):
                to[place] = array[place]
        return results

    def reasons(self, ticket: Ticket, results: Any, bad: Bad) -> Any:
        """Why the examples of this batch that aren't ok aren't."""
        reasons = {place: reason for place, (_, reason) in bad.items()}
        if results is not None:
            judged = results["status"][: ticket.size]
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

    def put(self, ticket: Ticket, results: Any, bad: Bad, why: Any) -> None:
        """A batch's rows."""
        size, to = ticket.size, ticket.start - self.start
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
    return [n for n in sampled if n // found.store.block in states and of(n) not in (PENDING, OK)]


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


def _raise_if_of_the_device(error: Exception) -> None:
    """Want of memory says nothing of an example: the batch is too large."""
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        raise error


def _blank(dtype: str) -> Any:
    return np.nan if jax.numpy.issubdtype(np.dtype(dtype), jax.numpy.floating) else 0
