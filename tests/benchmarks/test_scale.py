"""`scale`: sizes grow until memory or time ends, and pages come from JSON alone."""

import json

import jax
import pytest

from benchmarks import devices, measure, scale, scale_report, streaming, sweeps
from benchmarks.sweeps import SWEEPS, Sweep


def cell(value, seconds, **others):
    usual = {
        "sweep": "width", "unit": "units", "method": "deeplift", "flops": 10.0 * value**2,
        "accessed": 4.0 * value, "bytes": {"temp": 8 * value, "peak": 9 * value},
        "compile_seconds": 1.0,
    }  # fmt: skip
    return {**usual, "value": value, "seconds": seconds and [seconds] * 3, **others}


def stored():
    """Streaming's figures, made up: the bare loop takes two seconds beyond starting."""
    row = lambda wall, cpu: {
        "start": {"wall": 1.0, "cpu": 1.0},
        "whole": {"wall": wall, "cpu": cpu},
    }
    samples = {"bare": [row(3, 3)], "streamed": [row(5, 4)], "in chunks": [row(3, 3)]}
    return {"examples": 8, "batch": 2, "long": 10, "growth_bytes": 0, "samples": samples}


@pytest.fixture(scope="module")
def results():
    """A real run of one sweep on one device, after a trip through text."""
    cells = scale.sweep_cells("depth", SWEEPS["depth, scanned"], (2, 4), 2, 5.0, 2**30)
    found = {
        "benchmark": "scale",
        "environment": measure.environment(jax.devices()[0]),
        "settings": {"rounds": 2, "seconds": 5.0, "memory_bytes": 2**30},
        "rates": {"flops": 1e10, "bytes": 1e10},
        "cells": [*cells, cell(64, 0.1), cell(128, 0.4), cell(256, None)],
        "devices": devices.throughput(batch=2, rounds=2, counts=(1,)),
    }
    return json.loads(json.dumps(found))


def test_a_sweep_measures_every_size(results):
    found = [c for c in results["cells"] if c["sweep"] == "depth"]
    assert [(c["value"], c["method"]) for c in found] == [
        (2, "gradient"), (2, "deeplift"), (4, "gradient"), (4, "deeplift"),
    ]  # fmt: skip
    assert all(c["flops"] > 0 and len(c["seconds"]) == 2 for c in found)
    shallow, deep = found[1], found[3]
    assert deep["flops"] / shallow["flops"] == pytest.approx(2, rel=0.1)


def test_a_sweep_ends_where_memory_does():
    sweep = Sweep((1, 2), (1, 2), lambda value: sweeps.depth(value, scanned=False, width=4), "")
    found = scale.sweep_cells("depth", sweep, (1, 2), 2, 5.0, memory=0)
    assert {c["value"] for c in found} == {1} and all(c["seconds"] is None for c in found)


def test_slopes_are_exponents():
    cells = [cell(value, 1e-3 * value**2) for value in (2, 4, 8, 16)]
    assert scale_report.slope(cells, scale_report.time_of) == pytest.approx(2)
    assert scale_report.slope(cells, lambda c: c["bytes"]["temp"]) == pytest.approx(1)
    assert scale_report.slope(cells[:1], scale_report.time_of) is None


def test_the_roofline_is_the_slower_of_two():
    rates = {"flops": 100.0, "bytes": 1.0}
    assert scale_report.bound(cell(10, 1.0), rates) == 40.0  # bytes: 40 s, FLOPs: 10 s
    assert scale_report.bound(cell(100, 1.0), rates) == 1000.0
    assert scale_report.bound(cell(1, 1.0, accessed=None), rates) is None


def test_page_and_figure(results, tmp_path):
    path = tmp_path / "scale.json"
    path.write_text(json.dumps(results))
    scale.write(path)
    page = path.with_suffix(".md").read_text()
    assert "| width | DeepLIFT | 64–128 units | 2.00 |" in page
    assert "0.0 MiB at 256" in page and "| 1 | 2 |" in page
    assert "| streamed | 1." not in page and streaming.ratio(stored(), "streamed", "cpu") == 1.5
    path.write_text(json.dumps(results | {"streaming": stored()}))
    scale.write(path)
    assert "| streamed | 1.50 | 2.00 |" in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_sharded_batch_needs_no_talk_between_devices():
    found = devices.on_host(batch=2, rounds=2, counts=(1, 2))
    assert [c["devices"] for c in found] == [1, 2]
    assert [c["collectives"] for c in found] == [0, 0]


@pytest.mark.slow
def test_what_storing_costs_is_measured():
    found = streaming.alone(examples=64, rounds=1, long=20_000)
    assert streaming.ratio(found, "streamed", "cpu") < 1.25  # of CPU time, which others don't take
    assert found["growth_bytes"] < 64 * 2**20
