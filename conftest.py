"""What every test and docstring example shares: the CPU, plain printing, float64 on request."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is imported, so set before it

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def plain_printing():
    """Docstring examples show numbers without their last, rounded digits."""
    with np.printoptions(precision=4, suppress=True):
        yield


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield
