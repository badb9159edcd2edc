"""Faults from outside: processes killed, disks full, files broken; nothing lost or doubled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxplain as jxp
from tests.stream import nursery

ROOT = Path(__file__).parents[2]


def contents(folder):
    """Every file but the group's own, which holds a date."""
    folder = Path(folder)
    files = [p for p in folder.rglob("*") if p.is_file() and p != folder / "zarr.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def without_locks(files):
    """What a killed process leaves beside them: a file that it had begun, under another name."""
    return {name: value for name, value in files.items() if not name.endswith(".__lock")}


@pytest.mark.slow
def test_killed_runs_end_as_an_undisturbed_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.stream.nursery", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] >= 20 and found["well"]
    whole = nursery.run(tmp_path / "whole")
    assert whole.counts() == {"ok": nursery.COUNT}
    for folder in [*found["folders"], tmp_path / "together"]:
        again = jxp.stream.open(folder)
        assert again.counts() == {"ok": nursery.COUNT} and again.verify() == []
        assert without_locks(contents(folder)) == contents(tmp_path / "whole")


FULL = """
import errno, os, sys
import jax.numpy as jnp, numpy as np
import jaxplain as jxp

path, folder = sys.argv[1:], None
xs = np.random.default_rng(0).normal(size=(400, 256)).astype(np.float32)
explain = jxp.gradient(lambda x: jnp.sin(x).sum())
run = lambda: jxp.stream.run(explain, xs, path[0] + "/run", batch=10, block=50, progress=False)
filler = open(path[0] + "/filler", "wb")
filler.write(bytes(700 * 1024))
filler.close()
try:
    run()
    raise SystemExit("nothing was raised")
except OSError as error:
    assert error.errno == errno.ENOSPC, error
found = jxp.stream.open(path[0] + "/run")
assert 0 < found.counts()["ok"] < 400 and found.counts()["todo"], found.counts()
assert found.verify() == []
os.remove(path[0] + "/filler")
found = run()
assert found.counts() == {"ok": 400} and found.verify() == []
np.testing.assert_allclose(found.contributions[:], np.cos(xs), atol=1e-6)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_committed(tmp_path):
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c '{FULL}'"
    space = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *space, "--mount", "sh", "-c", f"{mount} {tmp_path}"],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-9] + bytes([content[-9] ^ 16]) + content[-8:]


def emptied(content):
    return b""


@pytest.mark.promotes
@pytest.mark.parametrize("name", ["contributions/c/3/0", "prediction/c/3", "status/c/3"])
def test_broken_files_are_found_and_made_again(tmp_path, name, whole):
    for damage in (cut, flipped, emptied, None):
        path, before = whole
        file = Path(path) / name
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes()))
        found = jxp.stream.open(path)
        lost = damage is None and name.startswith("status")  # it was never committed, then
        assert found.verify() == ([] if lost else [3])
        assert jxp.stream.retry(path) == ([] if lost else [3])
        assert jxp.stream.open(path).counts()["todo"] == nursery.BLOCK
        nursery.run(path)
        assert contents(path) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    nursery.run(path)
    assert np.isfinite(jxp.stream.open(path).contributions[:]).all()
    return path, contents(path)
