"""What every test and docstring example shares: the CPU, plain printing, float64 on request."""

import os
from importlib import metadata
from pathlib import Path

# Read when jax is imported, so set before it.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and run little: machine code need not be fast.
FLAGS = ["--xla_backend_optimization_level=0"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones have one way to compile a fusion
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported
# Kept for the other processes of a run and for the next one: half of a test is compiling.
for name, value in {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent / ".pytest_cache" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}.items():
    os.environ.setdefault(name, value)

import hypothesis
import jax
import numpy as np
import pytest

pytest.register_assert_rewrite("tests.support")

pytest_plugins = ["pytester"]  # for the tests of this file

# The same examples in every run: a failure is seen where it was made.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# What the library does not reach yet: by the end of a test's name, with the reason.
KNOWN_LIMITS = {
    "test_second_derivative_at_the_reference[softplus]": "kinks of logaddexp that cancel",
    "test_a_tolerance_is_met_with_few_gradients[kinked]": "142 gradients: parts are made sure of",
}


def pytest_collection_modifyitems(items):
    """Marks the known limits."""
    for item in items:
        reason = KNOWN_LIMITS.get(item.nodeid.rpartition("::")[2])
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=False))


# Why a test may be skipped: what lies beside a clone, and what an environment lacks.
MAY_BE_MISSING = ("no papers' weights", "could not import", "is not installed")


def no_other_skips(report):
    """Fails a report that was skipped for another reason: whatever a clone holds runs in it."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(known in reason for known in MAY_BE_MISSING):
            report.outcome, report.longrepr = "failed", f"nothing in a clone is skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """No test is skipped but for what may be missing."""
    return no_other_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Nor is a whole module."""
    return no_other_skips((yield))


def pytest_terminal_summary(terminalreporter):
    """The completeness gaps that tests recorded, not only asserted."""
    gaps: dict[str, list] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name.startswith("gap"):
                gaps.setdefault(name, []).append((value, report.nodeid.rpartition("[")[2][:-1]))
    for name, rows in sorted(gaps.items()):
        rows.sort(reverse=True)
        worst = ", ".join(f"{model} {value:.1e}" for value, model in rows[:5])
        median = np.median([value for value, _ in rows])
        terminalreporter.write_line(
            f"{name}: {len(rows)} models, median {median:.1e}, largest {worst}"
        )


@pytest.fixture(autouse=True)
def plain_printing():
    """Docstring examples show numbers without their last, rounded digits."""
    with np.printoptions(precision=4, suppress=True):
        yield


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No rank and no dtype is promoted unasked, as in the suites of users who forbid it.

    But in examples of docstrings, in the long tests, whose models are other people's, and where a
    test's own functions promote as users' do, which it then says: `@pytest.mark.promotes`.
    """
    marked = any(map(request.node.get_closest_marker, ("promotes", "slow")))
    if marked or isinstance(request.node, pytest.DoctestItem):
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield
