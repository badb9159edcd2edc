"""`peers`: twins with equal outputs, what fails is kept, pages come from JSON alone."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import measure
from benchmarks.peers import compare, report, task
from benchmarks.peers.families import Member

ROOT = Path(__file__).parents[2]


def cell(package, method, seconds, family="DeepLIFT", **others):
    usual = {
        "model": "mlp", "batch": 2, "settings": "", "message": None, "warnings": [],
        "error": None, "rounding": 1e-6, "bytes": 2**20, "chunk": None,
    }  # fmt: skip
    times = {"wall": [seconds] * 3, "cpu": [seconds] * 3}
    return {
        **usual, "family": family, "package": package, "method": method, "seconds": times, **others
    }  # fmt: skip


@pytest.fixture
def results():
    failed = {"message": "AssertionError: no | hooks"}
    environment = measure.environment(jax.devices()[0])
    return {
        "benchmark": "peers",
        "environment": {**environment, "torch": "2", "packages": {"captum": "1"}},
        "settings": {},
        "absent": {"zennit": "ImportError: none"},
        "cells": [
            cell("torch", "gradient", 1.0, "gradient"),
            cell("jaxplain", "gradient", 2.0, "gradient"),
            cell("jaxplain", "DeepLIFT", 2.2, error=1e-7),
            cell("captum", "DeepLift", 4.0, error=0.5),
            cell("jaxplain", "DeepLIFT-SHAP", 9.0, "DeepLIFT-SHAP", error=1e-7),
            cell("shap", "DeepExplainer", 8.0, "DeepLIFT-SHAP", error=1e-6),
            cell("tangermeme", "deep_lift_shap", None, "DeepLIFT-SHAP", **failed),
        ],
    }


def test_tables_say_what_failed_and_what_is_missing(results):
    table = report.ratio_table(results)
    assert "| DeepLIFT | **jaxplain** |  | 1.10 |" in table
    assert "| DeepLIFT | captum DeepLift |  | 4.00 ✗ |" in table
    assert "| DeepLIFT-SHAP | tangermeme deep_lift_shap |  | fails |" in table
    assert "| – | zennit | not installed: ImportError: none |" in table
    assert "fails: AssertionError: no / hooks" in report.messages(results)


def test_claims_are_counted_from_the_cells(results):
    ratios, absolute, complete, rounded, works = report.claims(results).splitlines()
    assert ratios.endswith("2 of 2 cells")
    assert absolute.endswith("1 of 2 cells; not on: MLP shap DeepExplainer")
    assert all(line.endswith("2 of 2 cells") for line in (complete, rounded, works))
    results["cells"][2]["error"] = 0.6
    assert "below the peer's: 1 of 2 cells; not on: MLP captum DeepLift" in report.claims(results)
    results["cells"][2]["message"] = "UnsupportedPrimitive"
    assert "1 of 2 cells; not on: MLP captum DeepLift" in report.claims(results)


def test_page_and_figure(results, tmp_path):
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(results))
    report.write(path)
    assert "2 of 2 cells" in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_peak_memory_sees_what_a_function_holds():
    peak = measure.peak_memory(lambda: np.ones(2**23).sum())
    assert peak is None or peak >= 0.9 * 2**26


def test_memory_of_a_compiled_program_is_seen_again():
    program = measure.compile_program(lambda a: (a @ a.T) @ a, (np.ones((1500, 8), np.float32),))
    assert min(compare.memory_of(program) for _ in range(3)) >= 4 * 1500**2


MANY_SMALL = """
import numpy as np
from benchmarks import measure

def many_small():
    return sum(block[0] for block in [np.ones(2**10) for _ in range(2**13)])

print(*(measure.peak_memory(many_small) for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no malloc_trim")
def test_what_the_allocator_keeps_does_not_hide_the_next_peak():
    """In a process of its own: holes that others left in the heap hold some pages already."""
    command = [sys.executable, "-c", MANY_SMALL]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert all(peak == "None" or int(peak) >= 0.9 * 2**26 for peak in run.stdout.split())
    assert len(run.stdout.split()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "lstm", "cnn", "bpnet", "vgg"])
def test_twins_agree_and_methods_run(name):
    pytest.importorskip("torch")
    one = task.make(name, 2, tiny=True)  # raises where outputs differ
    found = compare.members(one, {}, ["DeepLIFT"])
    cells = {
        package: compare.attempt(member, one, one.ends(), budget=1.0)[0]
        for (package, _), member in found.items()
    }
    assert cells["torch"]["message"] is None and cells["jaxplain"]["error"] < 1e-4


def test_what_fails_is_kept_with_its_message():
    def make(one, chunk):
        raise ValueError("first line\nsecond")

    cell, run = compare.attempt(Member("DeepLIFT", make), None, {}, budget=1.0)
    assert run is None and cell["message"] == "ValueError: first line"


def test_the_fastest_chunk_is_taken():
    def make(one, chunk):
        def run():
            end = time.process_time() + (0.05 if chunk is None else 0.01)
            while time.process_time() < end:
                pass
            return chunk

        return run

    assert compare.fastest(Member("DeepLIFT", make, (None, 8)), None, 10.0)[0] == 8
    assert compare.fastest(Member("DeepLIFT", make, (None, 8)), None, 0.0)[0] is None  # no time
