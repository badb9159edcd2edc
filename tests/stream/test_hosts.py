"""A mesh that spans hosts: two processes in lock step, each of which writes what lies on it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HOST = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

rank, port, path, spanning = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", 2, rank)
import jaxplain as jxp
from jaxplain.stream import layout

devices = np.array(jax.devices()).reshape(2, 2)
mesh = Mesh(devices.T if spanning == "model" else devices, ("data", "model"))
draw = np.random.default_rng(0)
w, v, xs = (draw.normal(size=s).astype(np.float32) for s in [(6, 8), (8,), (29, 6)])
laid = lambda a, s: jax.make_array_from_callback(a.shape, NamedSharding(mesh, s), lambda p: a[p])
shared = laid(w, P(None, "model")), laid(v, P("model"))
f = lambda x, w, v: jnp.tanh(x @ w) @ v
read, wrote, gathered = set(), [], set()
write, gather = layout.Store.write, multihost_utils.process_allgather


class Source:
    def __len__(self):
        return 29

    def __getitem__(self, i):
        return xs[i] if i != 5 else xs[i, :2]

    def __getitems__(self, numbers):
        read.update(numbers)
        return [self[i] for i in numbers]


def written(store, block, *rest):
    wrote.append(block)
    write(store, block, *rest)


def gathering(array, **options):
    gathered.add(np.shape(array))
    return gather(array, **options)


def run(**blocks):
    return jxp.stream.run(
        jxp.deeplift(f, 0.1, return_gap=True), Source(), path, shared=shared,
        batch=4, block=8, mesh=mesh, progress=False, **blocks,
    )


layout.Store.write, multihost_utils.process_allgather = written, gathering
assert run(blocks=[0, 1, 3]).counts()["todo"] == 8
first = sorted(read)
found = run()
want = jax.vmap(lambda x: jxp.deeplift(f, 0.1)(x, w, v))(xs)
fine = np.arange(29) != 5
np.testing.assert_allclose(found.contributions[:][fine], np.asarray(want)[fine], atol=1e-5)
assert found.failures().keys() == {5} and found.verify() == []
assert run().counts() == {"ok": 28, "shape": 1}
assert gathered <= {(), (6, 8), (8,)}, gathered  # parameters, of which a digest is stored
print(json.dumps([wrote, first]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("spanning", ["model", "batch"])
def test_hosts_write_what_lies_on_them_and_together_what_one_alone_would(tmp_path, spanning):
    """Blocks go to the lanes in turn, and a lane that the model spans is written in turns."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(rank), port, str(tmp_path / "run"), spanning],
            cwd=Path(__file__).parents[2], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    wrote, read = zip(*(json.loads(out.splitlines()[-1]) for out, _ in said), strict=True)
    assert wrote == ([0, 3, 2], [1])
    last = [*range(24, 29)]
    if spanning == "model":
        assert read == ([*range(16), *last],) * 2
    else:  # the second host has nothing to do while the first is at its second block
        assert read == ([*range(8), *last], [0, 1, *range(8, 16)])


DEVICES = """
import sys, tempfile
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import jaxplain as jxp

draw = np.random.default_rng(0)
w, xs = draw.normal(size=(6, 4)).astype(np.float32), draw.normal(size=(53, 6)).astype(np.float32)
f = lambda x, label, w: jnp.tanh(x @ w)[label]
labels = np.arange(53) % 4
want = jax.vmap(lambda x, label: jxp.deeplift(f, 0.1)(x, label, w))(xs, labels)
plane = jax.make_mesh((4, 2), ("data", "model"))
split = jax.device_put(w, NamedSharding(plane, P(None, "model")))
for mesh, weights in ((None, w), (jax.make_mesh((8,), ("data",)), w), (plane, split)):
    with tempfile.TemporaryDirectory() as path:
        found = jxp.stream.run(
            jxp.deeplift(f, 0.1, return_gap=True), (xs, labels), path, shared=(weights,),
            batch=16, block=24, mesh=mesh, progress=False,
        )
        assert found.counts() == {"ok": 53}
        np.testing.assert_allclose(found.contributions[:], want, atol=1e-5)
"""


@pytest.mark.slow
def test_a_batch_lies_on_all_devices_or_on_those_of_a_mesh():
    """The mesh that `jax.make_mesh` makes by default too, with a class for each example."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
