"""One traversal of programs, and what it says through every equation with a body."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import jaxplain as jxp
from jaxplain._numerics.cpu_layout import channels_last
from jaxplain.surrogate import walk

PACKAGE = Path(jxp.__file__).parent


# `compat` looks primitives up in small programs of its own, and goes through nobody else's.
LOOKS_UP = "compat.py"


def test_one_place_goes_through_the_equations_of_a_jaxpr():
    places = [
        (path.name, line)
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\.eqns\b", line) and path.name != LOOKS_UP
    ]
    assert [name for name, _ in places] == ["walk.py"], places


def shard(f):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(f, mesh=mesh, in_specs=P(), out_specs=P())


def scan(f):
    def body(carry, _):
        return f(*carry), None

    return lambda x, y: lax.scan(body, (x, y), None, length=3)[0]


AROUND = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "shard_map": shard,
    "cond": lambda f: lambda x, y: lax.cond(jnp.array(True), f, lambda x, y: (x, y), x, y),
    "scan": scan,
    "remat in scan": lambda f: scan(jax.checkpoint(f)),
}


@pytest.mark.parametrize("around", AROUND)
def test_what_depends_on_what_is_seen_through_bodies(around):
    f = AROUND[around](lambda x, y: (jnp.sin(x), y * 2 + 1))
    closed = jax.make_jaxpr(f)(1.0, 1.0)
    assert walk.reaches(closed, [True, False]) == [True, False]
    assert walk.reaches(closed, [False, True]) == [False, True]
    assert walk.reaches(closed, [False, False]) == [False, False]


def test_a_scan_carries_dependence_from_one_step_to_the_next():
    def step(c, _):
        return (c[0], c[0] + c[1], c[1] + c[2]), None

    def f(x, y, z):
        return lax.scan(step, (x, y, z), None, 3)[0]

    closed = jax.make_jaxpr(f)(1.0, 1.0, 1.0)
    assert walk.reaches(closed, [True, False, False]) == [True, True, True]
    assert walk.reaches(closed, [False, True, False]) == [False, True, True]
    assert walk.reaches(closed, [False, False, True]) == [False, False, True]


def convolution(x, kernel):
    return lax.conv(x, kernel, (1, 1), "SAME")


LAYERS = {
    "plain": convolution,
    "jit": jax.jit(convolution),
    "remat": jax.checkpoint(convolution),
    "scan": lambda x, k: lax.scan(lambda c, _: (c, convolution(x, k)), 0.0, length=2)[1],
    "gradient of remat": jax.grad(lambda x, k: jax.checkpoint(convolution)(x, k).sum()),
    "cond": lambda x, k: lax.cond(jnp.array(True), convolution, lambda x, k: 0 * x, x, k),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_convolutions_have_the_fast_layout_within_every_body(layer):
    f = LAYERS[layer]
    x, kernel = jnp.ones((1, 2, 8, 8)), jnp.full((2, 2, 3, 3), 0.1)
    closed = jax.make_jaxpr(channels_last(f))(x, kernel)
    found = [e for _, e in walk.equations(closed) if e.primitive is lax.conv_general_dilated_p]
    assert found
    for equation in found:
        numbers = equation.params["dimension_numbers"]
        assert numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1)
    np.testing.assert_allclose(channels_last(f)(x, kernel), f(x, kernel), rtol=1e-5)
