"""Batches over four devices: the values are those of one device, for each way to shard.

Each test is a process of its own: JAX counts devices once.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SETUP = """
import jax, jax.numpy as jnp, numpy as np
import jaxplain as jxp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

def mesh(kind):
    return jax.make_mesh((4,), ("data",), axis_types=(getattr(AxisType, kind),))

def model(x):
    h = jxp.tag(jnp.tanh(x @ W), "h")
    return jax.nn.relu(jxp.tag(h * h @ V, "z")) + jax.nn.softmax(h)[:3]

W, V, refs, xs = (jax.random.normal(jax.random.key(i), s) for i, s in
                  enumerate([(6, 5), (5, 3), (7, 6), (8, 6)]))
labels = jnp.arange(8) % 3
f = lambda x, label: jxp.logit(model, label)(x)
keyed = lambda explain: lambda x, label: explain(x, label, key=jax.random.key(5))
LOOPS = {
    "gradient": jxp.gradient(f),
    "gradient at": jxp.gradient(f, at=("h", "z")),
    "guided backprop": jxp.guided_backprop(f),
    "deconvnet": jxp.deconvnet(f),
    "deeplift": jxp.deeplift(f, 0.1),
    "deeplift at": jxp.deeplift(f, 0.1, at="h"),
    "reveal cancel": jxp.deeplift(f, 0.1, rules="reveal_cancel"),
    "integrated gradients": jxp.integrated_gradients(f, 0.1, steps=8, chunk=3),
    "deeplift_shap": jxp.deeplift_shap(f, refs, chunk=3),
    "expected gradients": keyed(jxp.expected_gradients(f, refs, samples=8, chunk=3)),
    "guided IG": jxp.guided_integrated_gradients(f, 0.1, steps=8),
    "conductance": jxp.conductance(f, 0.1, at="h", steps=8, chunk=3),
    "neuron conductance": jxp.neuron_conductance(f, 0.1, at="h", steps=2, neuron_chunk=2),
    "influence": jxp.internal_influence(f, 0.1, at="h", steps=8, chunk=3),
    "edges": jxp.edge_attributions(f, jnp.full(6, 0.1), at=["h", "z"]),
    "lrp": jxp.lrp(f),
    "smooth": keyed(jxp.smooth(jxp.deeplift(f, 0.1), stdev=0.1, samples=6, chunk=4)),
    "occlusion": jxp.occlusion(f, 0.1, window=2, strides=1, chunk=2),
    "shapley": jxp.shapley_values(f, 0.1, chunk=5),
}
REFINED = {
    "tolerance": jxp.integrated_gradients(f, 0.1, tolerance=1e-3),
    "conductance, tolerance": jxp.conductance(f, 0.1, at="h", tolerance=1e-3),
    "shapley of references": jxp.shapley_values(f, refs, chunk=5),
}

def same(got, want, name):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
"""


def in_devices(program):
    """Runs a program in a process with four devices."""
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(program)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not done.returncode, done.stderr[-3000:]


def test_what_differs_between_devices_is_explained_for_each():
    """The loop's carry, cotangents of what devices share, and a relu's zero, which is one for each
    device there: a quick part of what follows."""
    in_devices("""
    for name in ("integrated gradients", "conductance", "deconvnet"):
        explain = jax.vmap(LOOPS[name])
        shard = jax.shard_map(explain, mesh=mesh("Auto"), in_specs=P("data"), out_specs=P("data"))
        same(jax.jit(shard)(xs, labels), explain(xs, labels), name)
    """)


@pytest.mark.slow
def test_shards_of_a_batch():
    in_devices("""
    for name, explain in {**LOOPS, **REFINED}.items():
        explain = jax.vmap(explain)
        shard = jax.shard_map(explain, mesh=mesh("Auto"), in_specs=P("data"), out_specs=P("data"))
        same(jax.jit(shard)(xs, labels), jax.jit(explain)(xs, labels), name)
    """)


@pytest.mark.slow
def test_a_batch_on_an_auto_mesh_needs_no_talk_between_devices():
    """But where a loop ends when all examples are done, which the devices tell each other."""
    in_devices("""
    import re
    talk = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)[-(]")
    place = NamedSharding(mesh("Auto"), P("data"))
    for name, explain in {**LOOPS, **REFINED}.items():
        lowered = jax.jit(jax.vmap(explain), in_shardings=(place, place)).lower(xs, labels)
        program = lowered.compile()
        found = talk.findall(program.as_text())
        until_done = name == "guided IG" or "tolerance" in name
        assert found == (["all-reduce"] if until_done else []), (name, found)
        same(program(*jax.device_put((xs, labels), place)), jax.vmap(explain)(xs, labels), name)
    """)


@pytest.mark.slow
def test_shards_of_classes_share_an_input():
    """x is on every device whole, and each explains other classes: nothing is added up."""
    in_devices("""
    for name, explain in {**LOOPS, **REFINED}.items():
        explain = jax.vmap(explain, (None, 0))
        specs = (P(), P("data"))
        shard = jax.shard_map(explain, mesh=mesh("Auto"), in_specs=specs, out_specs=P("data"))
        same(jax.jit(shard)(xs[0], labels), jax.jit(explain)(xs[0], labels), name)
    """)


def test_weights_over_devices_are_added_up_once():
    """A layer whose units lie on several devices: f itself sums over them."""
    in_devices("""
    def split(x, w, v):
        return jax.lax.psum(jnp.tanh(x @ w) @ v, "data")

    def explain(method, f):
        return lambda *args: method(lambda x: f(x, *args[1:]).sum())(args[0])

    methods = {
        "gradient": jxp.gradient,
        "paths": lambda f: jxp.integrated_gradients(f, 0.1, steps=4, chunk=2),
        "deeplift": lambda f: jxp.deeplift(f, 0.1),
    }
    w, v = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(6, 8), (8, 3)]))
    for name, method in methods.items():
        want = explain(method, lambda x, w, v: jnp.tanh(x @ w) @ v)(xs[0], w, v)
        shard = jax.shard_map(explain(method, split), mesh=mesh("Auto"),
                              in_specs=(P(), P(None, "data"), P("data")), out_specs=P())
        same(jax.jit(shard)(xs[0], w, v), want, name)
    """)


def test_explicit_axes():
    """Per-example classes on the mesh that `jax.make_mesh` makes by default from JAX 0.12 on."""
    in_devices("""
    explicit = mesh("Explicit")
    sharded = jax.device_put((xs, labels), NamedSharding(explicit, P("data")))
    explain = jax.jit(jax.vmap(LOOPS["gradient"]))
    same(explain(*sharded), explain(xs, labels), "gradient")
    explain = jax.jit(jax.vmap(LOOPS["deeplift"]))
    want = explain(xs, labels)
    same(explain(*sharded), want, "deeplift")  # nobody has set the mesh
    with jax.sharding.set_mesh(explicit):
        same(explain(*sharded), want, "deeplift")
    """)


@pytest.mark.slow
def test_explicit_axes_and_loops():
    """JAX's own scan asks for the mesh to be set, which methods do where nobody has."""
    in_devices("""
    explicit = mesh("Explicit")
    sharded = jax.device_put((xs, labels), NamedSharding(explicit, P("data")))
    for name, explain in {**LOOPS, **REFINED}.items():
        want = jax.jit(jax.vmap(explain))(xs, labels)
        same(jax.jit(jax.vmap(explain))(*sharded), want, name)
    """)


def test_batched_leaves_rows_on_the_devices_where_they_are():
    in_devices("""
    from jaxplain.combinators.batches import _rows
    for kind in ("Auto", "Explicit"):
        sharded = jax.device_put(xs, NamedSharding(mesh(kind), P("data")))
        for chunk in (3, 4):
            rows = _rows(sharded, 3, chunk)
            np.testing.assert_array_equal(np.asarray(rows), xs[3 : 3 + chunk])
            assert len(rows.sharding.device_set) == 4
            assert rows.sharding.is_fully_replicated == (chunk == 3)
            run = jxp.batched(jax.grad(lambda x: jnp.tanh(x).prod()), chunk=chunk, progress=False)
            same(run(sharded), run(np.asarray(xs)), kind)
    """)
