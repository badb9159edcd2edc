"""Programs of other libraries and of JAX's own corners: whatever jax.grad takes is explained."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain as jxp
from tests.support.checks import magnitude, total
from tests.support.marks import some_slow
from tests.support.programs import PROGRAMS

QUICK = ["callback_with_a_rule", "bcoo_matvec", "switch_on_rank", "shard_map_with_a_sum"]
KNOWN = {
    "bcoo_product_of_two": "JAX has no transpose of it",
}


def programs(names):
    return [
        pytest.param(*p.values, marks=[*p.marks, pytest.mark.xfail(reason=KNOWN[p.values[0]])])
        if p.values[0] in KNOWN
        else p
        for p in (
            p if hasattr(p, "values") else pytest.param(p)
            for p in some_slow(names, set(PROGRAMS) - set(QUICK))
        )
    ]


def near(x):
    return x + jnp.asarray(np.random.default_rng(0).normal(size=x.shape) * 0.5, x.dtype)


def assert_complete(name, jit=True, **options):
    f, x = PROGRAMS[name]()
    ref = near(x)
    explain = jxp.deeplift(f, ref, **options)
    c = (jax.jit(explain) if jit else explain)(x)
    change = float(jax.jit(f)(x) - jax.jit(f)(ref))
    assert np.isfinite(c).all()
    assert abs(total(c) - change) <= 1e-3 * max(abs(change), 1e-2 * magnitude(c))


@pytest.mark.parametrize("name", programs(PROGRAMS))
def test_sums_to_the_change(name):
    assert_complete(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", programs(list(PROGRAMS)[::3]))
@pytest.mark.parametrize("rules", ["reveal_cancel", "central_limit"])
def test_sums_to_the_change_in_parts(name, rules):
    assert_complete(name, rules=rules)


@pytest.mark.slow
@pytest.mark.parametrize("name", programs(list(PROGRAMS)[1::3]))
def test_sums_to_the_change_without_jit(name):
    assert_complete(name, jit=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffrax_direct", "optimistix_root_find", "lineax_auto_of_x",
                                  "bcoo_matvec", "switch_on_rank"])  # fmt: skip
def test_a_batch_is_its_rows(name):
    f, x = PROGRAMS[name]()
    ref, xs = near(x), jnp.stack([x, near(x[::-1])])
    explain = jxp.deeplift(f, ref)
    rows = jnp.stack([jax.jit(explain)(row) for row in xs])
    np.testing.assert_allclose(jax.jit(jax.vmap(explain))(xs), rows, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_shards_on_several_devices():
    program = """
        import jax, jax.numpy as jnp, jaxplain as jxp
        from jax.sharding import PartitionSpec as P
        mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        def body(v):
            return jnp.tanh(v * jax.lax.psum(v.sum(), "d"))
        def f(x):
            y = jax.shard_map(body, mesh=mesh, in_specs=P("d"), out_specs=P("d"))(x)
            z = jax.pmap(lambda v: jnp.sin(v) * jax.lax.psum(v, "i"), axis_name="i")(x[:4])
            return (y * jnp.arange(8.0)).sum() + (z * jnp.arange(4.0)).sum()
        x, ref = jnp.linspace(-1, 1, 8), jnp.cos(jnp.arange(8.0))
        c = jax.jit(jxp.deeplift(f, ref))(x)
        assert abs(c.sum() - f(x) + f(ref)) < 1e-4 * abs(c).sum(), (c.sum(), f(x) - f(ref))
    """
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- what has no derivative is refused as late as JAX refuses it ----------------------


def counted_root(x):
    step = lambda y: (y + x / y) / 2
    return lax.while_loop(lambda y: jnp.abs(y * y - x) > 1e-4, step, x)


def test_what_is_frozen_or_decided_by_needs_no_derivative():
    frozen = lambda x: x * lax.stop_gradient(counted_root(x[0] ** 2 + 1))
    np.testing.assert_allclose(
        jxp.deeplift(lambda x: frozen(x).sum(), 0.0)(jnp.array([1.0, 2.0])),
        np.sqrt(2) * np.array([1.0, 2.0]), rtol=1e-4,
    )  # fmt: skip

    def chosen(x):
        far = counted_root(x[0] ** 2 + 1) > 1.2
        return jnp.where(far, x**2, x).sum()

    x = jnp.array([1.0, 3.0])
    c = jxp.deeplift(chosen, 0.5)(x)
    np.testing.assert_allclose(c.sum(), chosen(x) - chosen(0 * x + 0.5), rtol=1e-4)


def test_what_needs_a_derivative_that_there_is_not_is_refused():
    with pytest.raises(jxp.UnsupportedPrimitive, match="while"):
        jxp.deeplift(lambda x: counted_root(x**2 + 1), 0.0)(1.0)


def test_a_constant_derivative_that_is_not_the_functions_is_complete():
    """A straight-through callback: JAX's derivative is 1 wherever it is asked."""

    @jax.custom_vjp
    def rounded(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.round, shape, x, vmap_method="sequential")

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))
    x = jnp.array([0.7, -1.2, 2.4])
    c = jxp.deeplift(lambda x: rounded(x).sum(), 0.1)(x)
    np.testing.assert_allclose(c.sum(), np.round(x).sum(), rtol=1e-5)


def test_a_refusal_names_the_users_line_and_not_a_librarys():
    eqxi = pytest.importorskip("equinox.internal")

    def mine(x):
        grow = lambda y: y * (1 + x)
        return eqxi.while_loop(lambda y: jnp.abs(y) < 9, grow, x, kind="lax")

    with pytest.raises(jxp.UnsupportedPrimitive, match="while") as error:
        jxp.deeplift(mine, 0.1)(0.5)
    assert "test_libraries.py" in str(error.value) and "site-packages" not in str(error.value)
