"""The contract of `jxp.stream`: what is stored, refused, quarantined and read."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.stream import STATUS, provenance, workers
from jaxplain.stream.hosts import Share
from jaxplain.stream.program import Program

XS = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
WEIGHTS = jnp.array([1.0, -2.0, 0.5])
SIZES = dict(batch=4, block=6, progress=False)  # the block is a multiple of neither


def f(x, weights):
    return jnp.tanh(x * weights).sum()


EXPLAIN = jxp.deeplift(f, 0.1, return_gap=True)


def run(path, explain=EXPLAIN, source=XS, **changes):
    return jxp.stream.run(
        explain, source, path, **{"shared": (WEIGHTS,), "predict": f, **SIZES, **changes}
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp("done")
    return run(path), path


def test_rows_are_those_of_vmap(done):
    found, _ = done
    want, gap = jax.jit(jax.vmap(EXPLAIN, (0, None)))(XS, WEIGHTS)
    np.testing.assert_allclose(found.contributions[:], want, atol=1e-6)
    np.testing.assert_allclose(found.contributions[7:9], want[7:9], atol=1e-6)
    np.testing.assert_allclose(found.gap[:], gap, atol=1e-6)
    np.testing.assert_allclose(found.prediction[4], f(XS[4], WEIGHTS), rtol=1e-5)
    assert (found.status == STATUS["ok"]).all() and found.verify() == [] and not found.failures()
    assert found.contributions.shape == (23, 3) == np.asarray(found.contributions).shape
    assert json.dumps(found.provenance) and "23 ok" in repr(found)


def test_files_are_shards_of_whole_blocks(done):
    _, path = done
    group = json.loads((path / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    for name, shape in {"contributions": [6, 3], "gap": [6], "status": [6]}.items():
        grid = json.loads((path / name / "zarr.json").read_text())["chunk_grid"]
        assert grid == {"name": "regular", "configuration": {"chunk_shape": shape}}
        assert {file.name for file in (path / name / "c").iterdir()} == set("0123")


@pytest.mark.parametrize("sharded", ["batches", "trees"])
def test_trees_keys_and_any_batch(tmp_path, sharded):
    """Example i draws from fold_in(key, i); arrays of a tree are stored by name."""
    key = jax.random.key(5)
    explain = lambda x, y, key: {"a": x["u"] + jax.random.normal(key), "b/c": (y, 2 * x["u"])}
    source = {"u": XS}, XS[:, 0]
    if sharded == "trees":
        source = [({"u": x}, y) for x, y in zip(XS, XS[:, 0], strict=True)]
    changes = dict(shared=(), predict=None, key=key, batch=5, block=7)
    found = run(tmp_path, explain, source, **changes)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(23))
    want = jax.vmap(explain)({"u": XS}, XS[:, 0], keys)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found.contributions[:], want
    )
    np.testing.assert_array_equal(found.contributions["b/c"][2:4][1], 2 * XS[2:4])
    assert (tmp_path / "contributions" / "b" / "c" / "0" / "zarr.json").exists()


def test_a_key_beyond_a_word_is_folded_twice():
    key, count, number = jax.random.key(0), 2**33, 2**32 + 5
    explain = lambda x, key: x + jax.random.normal(key)
    kinds = (jax.ShapeDtypeStruct((), jnp.float32),)
    share = Share(None, batch=2)
    program = Program(explain, None, None, None, None, kinds, (), key, count, share)
    got = program((np.zeros(2, np.float32),), np.array([5, number]))["contributions"]
    keys = jax.random.fold_in(key, 5), jax.random.fold_in(jax.random.fold_in(key, 1), 5)
    np.testing.assert_allclose(got, [jax.random.normal(k) for k in keys], rtol=1e-6)


def test_workers_share_blocks_and_any_number_ends_what_others_began(tmp_path):
    assert run(tmp_path, worker=(1, 3)).counts() == {"todo": 17, "ok": 6}
    assert run(tmp_path, blocks=[0, 1]).counts() == {"todo": 11, "ok": 12}
    assert run(tmp_path, worker=(5, 6)).counts() == {"todo": 11, "ok": 12}  # it has no block
    read = []
    watched = type(
        "Watched",
        (),
        {"__len__": lambda _: 23, "__getitem__": lambda _, i: read.append(i) or XS[i]},
    )
    assert run(tmp_path, source=watched()).counts() == {"ok": 23}
    assert set(read[23:]) == set(range(12, 23))  # after a look at all of them


def test_workers_are_found():
    of = workers.of_slurm
    assert of({}) is None and workers.find((2, 5)) == (2, 5)
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": "9"}
    assert of(array) == (2, 4) and of(step) == (1, 3) and of(array | step) == (7, 12)
    # The batch script itself is told how many tasks a step may have, and is no step.
    assert of({"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "9"}) is None
    with pytest.raises(ValueError, match="0 ≤ i < n"):
        workers.find((3, 3))


def table():
    return jxp.rules.rescale(norm_theta=0.5)


OTHERS = {
    "the function": dict(explain=jxp.deeplift(lambda x, w: f(x, w) ** 2, 0.1, return_gap=True)),
    "the reference": dict(explain=jxp.deeplift(f, 0.2, return_gap=True)),
    "the rules": dict(explain=jxp.deeplift(f, 0.1, rules="reveal_cancel", return_gap=True)),
    "the parameters": dict(shared=(WEIGHTS + 1,)),
    "the source": dict(source=XS + 1),
    "the length": dict(source=XS[:-1]),
    "the block": dict(block=7),
    "the prediction": dict(predict=lambda x, weights: 2 * f(x, weights)),
    "the tolerance": dict(tolerance=1.0),
    "the results": dict(dtype=jnp.float16),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_by_name(done, name):
    with pytest.raises(jxp.stream.Refused, match=f"differs in {name}"):
        run(done[1], **OTHERS[name])


def test_other_keys_and_arrays_held_are_refused_by_name(tmp_path):
    def of(shift, ref, key):
        explain = jxp.deeplift(lambda x: jnp.tanh(x + shift).sum(), ref)
        keyed = jxp.smooth(explain, stdev=0.1, samples=2)
        return dict(explain=keyed, key=jax.random.key(key), shared=(), predict=None)

    shift, ref = jnp.arange(3.0), np.linspace(0, 1, 3)
    run(tmp_path, **of(shift, ref, 0))
    run(tmp_path, **of(shift, ref, 0))
    for other, name in (
        (of(shift + 1, ref, 0), "the closed-over arrays:"),
        (of(shift, ref + 1, 0), "the reference:"),
        (of(shift, ref, 1), "the key:"),
    ):
        with pytest.raises(jxp.stream.Refused, match=name):
            run(tmp_path, **other)


def test_what_differs_may_be_accepted_and_is_recorded(tmp_path):
    run(tmp_path, blocks=[0])
    with jax.default_matmul_precision("highest"):
        with pytest.raises(jxp.stream.Refused, match=r"accept=\(.*'precision'"):
            run(tmp_path)
        found = run(tmp_path, accept=("precision",))
    assert found.counts() == {"ok": 23}
    assert "precision" in [row["name"] for row in found.provenance["accepted"]]
    with pytest.raises(ValueError, match="laid out for one length"):
        run(tmp_path, accept=("length",))
    with pytest.raises(ValueError, match="accept= can't take"):
        run(tmp_path, accept=("nothing",))


def test_provenance_is_the_same_in_another_process(done):
    """And on another version of what it is compared without."""
    code = (
        "from tests.stream.test_stream import *\n"
        f"print(run({str(done[1])!r}, progress=False).counts())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                         cwd=Path(__file__).parents[2])  # fmt: skip
    assert out.stdout == "{'ok': 23}\n", out.stderr[-2000:]


def test_a_table_is_known_by_what_its_rules_hold():
    digest = provenance.of_table
    assert digest(table()) == digest(table()) != digest(jxp.rules.rescale(norm_theta=1.0))


# --- quarantine ---------------------------------------------------------------------------------


def outside(x):
    if x[0] > 50:
        raise ValueError("x is too large for this")
    return np.float32(0)


def poisoned(x):
    nothing = jax.pure_callback(
        outside, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential"
    )
    gap = jnp.where(x[1] > 50, 2.0, 0.0)
    return jnp.where(x[2] > 50, jnp.nan, x) + nothing, gap


class Poisoned:
    def __init__(self, healed=False):
        self.healed = healed

    def __len__(self):
        return len(XS)

    def __getitem__(self, i):
        x = XS[i].copy()
        if self.healed:
            return x
        if i == 1:
            raise KeyError("record 1 is corrupt")
        if i == 2:
            return x[:2]
        x[{8: 0, 9: 1, 14: 2}.get(i, [])] = 99
        x[[0] if i == 15 else []] = np.nan
        return x


POISON = dict(shared=(), predict=None, tolerance=1e-3)


def test_poisoned_examples_are_quarantined_and_their_neighbours_untouched(tmp_path, capfd):
    healthy = run(tmp_path / "healthy", poisoned, Poisoned(healed=True), **POISON)
    found = run(tmp_path / "found", poisoned, Poisoned(), **POISON)
    names = {1: "unreadable", 2: "shape", 8: "raised", 9: "gap", 14: "nonfinite", 15: "nonfinite"}
    words = {1: "record 1 is corrupt", 2: "(2,)", 8: "x is too large for this", 9: "gap is 2",
             14: "3 of 3", 15: "1 of 3"}  # fmt: skip
    reasons = found.failures()
    assert reasons.keys() == names.keys() and found.verify() == []
    for number, name in names.items():
        assert found.status[number] == STATUS[name] and words[number] in reasons[number]
    assert (
        np.isnan(found.contributions[:][[1, 2, 8]]).all()
        and np.isnan(found.gap[:][[1, 2, 8]]).all()
    )
    fine = found.status == STATUS["ok"]
    assert fine.sum() == 23 - 6
    np.testing.assert_array_equal(found.contributions[:][fine], healthy.contributions[:][fine])

    # What failed or was not finite is put back; what was beyond the tolerance is on request.
    assert jxp.stream.retry(tmp_path / "found") == [0, 1, 2]
    assert jxp.stream.retry(tmp_path / "found", "gap") == []  # its block is back already
    again = run(tmp_path / "found", poisoned, Poisoned(healed=True), **POISON)
    assert again.counts() == {"ok": 23} and again.failures() == {} and again.verify() == []
    np.testing.assert_array_equal(again.contributions[:], healthy.contributions[:])


def test_too_many_failures_and_whole_batches_are_raised(tmp_path):
    broken = type(
        "Broken", (Poisoned,), {"__getitem__": lambda _, i: 1 / 0 if 10 <= i < 12 else XS[i]}
    )
    with pytest.raises(RuntimeError, match="every example of a batch failed, 10 to 11"):
        run(tmp_path / "batch", source=broken())
    assert jxp.stream.open(tmp_path / "batch").counts()["todo"] >= 11
    with pytest.raises(RuntimeError, match="max_failures is 0; the last, example 2"):
        run(tmp_path / "many", poisoned, Poisoned(), max_failures=0, **POISON)
    assert jxp.stream.open(tmp_path / "many").counts() == {"todo": 23}


def test_an_interrupt_leaves_the_block_to_do(tmp_path):
    def interrupted(_, i):
        if i == 13 and armed:
            raise KeyboardInterrupt
        return XS[i]

    armed = False
    source = type("Interrupted", (Poisoned,), {"__getitem__": interrupted})()
    run(tmp_path, source=source, blocks=[])
    armed = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, source=source, blocks=[0, 2])
    assert set(np.flatnonzero(jxp.stream.open(tmp_path).status)) <= set(range(6))


def test_want_of_memory_is_no_fault_of_an_example(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    run(tmp_path, blocks=[])
    monkeypatch.setattr(Program, "__call__", full)
    with pytest.raises(RuntimeError, match="Out of memory"):
        run(tmp_path)
    assert jxp.stream.open(tmp_path).counts() == {"todo": 23}


# --- reading, errors ----------------------------------------------------------------------------


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(TypeError, match="an iterator can't be resumed"):
        run(tmp_path, source=iter(XS))
    with pytest.raises(ValueError, match="a tolerance is of the gap"):
        run(tmp_path, jxp.deeplift(f, 0.1), tolerance=1.0)
    with pytest.raises(ValueError, match="returns \\(contributions, gap\\)"):
        run(tmp_path, jxp.deeplift(f, 0.1), gap=True)
    with pytest.raises(TypeError, match="int32"):
        run(tmp_path, lambda x, w: jnp.arange(3))
    with pytest.raises(TypeError, match=r"range\(3\)"):
        run(tmp_path, blocks=3)
    with pytest.raises(FileNotFoundError, match="no results"):
        jxp.stream.open(tmp_path)
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    for step in (run, jxp.stream.open):
        with pytest.raises(ValueError, match="and not of jaxplain"):
            step(tmp_path)
    with pytest.raises(ValueError, match="no status is called"):
        jxp.stream.retry(tmp_path, "lost")


def test_a_command_tells_of_a_run(done, tmp_path, capsys, monkeypatch):
    from jaxplain.__main__ import main

    def said(*words):
        monkeypatch.setattr(sys, "argv", ["jaxplain", "runs", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return end.value.code, shown.out + shown.err

    code, text = said(done[1])
    assert code == 0 and "23 examples in 4 blocks of 6\n  ok: 23 (100.0%)" in text
    assert "verify: all files" in text and '"parameters"' in text
    run(tmp_path, poisoned, Poisoned(), **POISON)
    (tmp_path / "gap" / "c" / "1").unlink()
    code, text = said(tmp_path, "status", "verify")
    assert code == 1 and "example 1: KeyError" in text and "broken: [1]" in text
    assert said(tmp_path / "none")[0] == 2 and said(done[1], "foo")[0] == 2


def test_sequences_go_to_modisco_and_rows_to_xarray(tmp_path):
    xs = jxp.genomics.one_hot(["ACGTAC", "TTGACA", "ACNTAG"])
    weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    explain = lambda x: x * 0 + weights * x[0, 0]
    found = jxp.stream.run(explain, xs, tmp_path / "run", block=2, progress=False)
    ohe, attr = found.to_modisco(tmp_path / "modisco", source=xs)
    assert np.load(ohe)["arr_0"].shape == (3, 4, 6) == np.load(attr)["arr_0"].shape
    np.testing.assert_array_equal(np.load(attr)["arr_0"][0], weights.T)
    with pytest.raises(ValueError, match="give source="):
        found.to_modisco(tmp_path / "modisco")


def test_windows_that_overlap_are_averaged():
    from jaxplain.genomics.bigwig import intervals

    rows = np.arange(16.0).reshape(4, 4)
    windows = [("a", 2, 0), ("a", 4, 1), ("a", 20, 2), ("b", 0, 3)]
    found = list(intervals(windows, lambda numbers: rows[numbers]))
    values = {(chromosome, start): value for chromosome, start, _, value in found}
    assert [(c, s) for c, s, _, _ in found] == sorted(values)
    assert len(found) == 6 + 4 + 4 and all(end == start + 1 for _, start, end, _ in found)
    assert values["a", 3] == 1 and values["a", 4] == (2 + 4) / 2 and values["b", 0] == 12


@pytest.mark.slow
def test_a_track_is_written(tmp_path):
    pybigtools = pytest.importorskip("pybigtools")
    xs = jxp.genomics.one_hot(["ACGTAC", "TTGACA", "ACTTAG"])
    found = jxp.stream.run(lambda x: 2 * x, xs, tmp_path / "run", progress=False)
    windows, sizes = [("chr2", 5), ("chr1", 0), ("chr1", 4)], {"chr2": 20, "chr1": 30}
    track = pybigtools.open(str(found.to_bigwig(tmp_path / "t.bw", windows, sizes)))
    np.testing.assert_array_equal(track.values("chr1", 0, 11, fillna=0), [2] * 10 + [0])
    with pytest.raises(ValueError, match="does not lie inside 20"):
        found.to_bigwig(tmp_path / "t.bw", [("chr2", 15), *windows[1:]], sizes)


@pytest.mark.slow
def test_xarray_reads_the_same(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    explain = lambda x: {"a": x, "b": (2 * x[:2], x[0])}
    found = run(tmp_path, explain, shared=(), predict=lambda x: x[0])
    read = found.to_xarray()
    assert isinstance(read, xarray.Dataset) and read.sizes["example"] == 23
    assert set(read) == {"contributions/a", "contributions/b/0", "contributions/b/1", "prediction",
                         "status"}  # fmt: skip
    np.testing.assert_array_equal(read["contributions/b/0"][3:5], 2 * XS[3:5, :2])


def test_a_gap_of_ones_own_and_a_narrow_type(tmp_path):
    gap = jxp.completeness_gap(f, 0.1)
    found = run(tmp_path, jxp.deeplift(f, 0.1), gap=gap, tolerance=1e-4, dtype=jnp.bfloat16)
    assert found.contributions.dtype == jnp.bfloat16 and found.counts() == {"ok": 23}
    assert np.abs(found.gap[:]).max() < 1e-5


def test_items_are_asked_for_together_where_they_can_be(tmp_path):
    asked = []

    class Together(Poisoned):
        def __getitems__(self, numbers):
            asked.append(numbers)
            return [XS[i] for i in numbers]

    run(tmp_path, source=Together(healed=True))
    assert asked[0] == [0, 1, 2, 3] and asked[1] == [4, 5]


def test_only_rows_that_are_wanted_are_read_of_a_file(tmp_path):
    xs = np.memmap(tmp_path / "xs", np.float32, "w+", shape=XS.shape)
    xs[:] = XS
    found = run(tmp_path / "run", source=xs)
    np.testing.assert_array_equal(found.contributions[:], run(tmp_path / "as").contributions[:])
