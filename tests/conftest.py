"""What every test shares: the CPU, and float64 on request."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is imported, so set before it

import jax
import pytest


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield
