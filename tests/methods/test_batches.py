"""Many examples, some at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp

KEY = jax.random.key(0)
XS = jax.random.normal(KEY, (7, 4))


def f(x, scale):
    return scale * jnp.tanh(x).prod()


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_examples_are_explained_as_by_vmap(chunk):
    traced = []

    def counted(x, scale):
        traced.append(1)
        return {"a": f(x, scale), "b": x}

    run = jxp.batched(counted, chunk=chunk, in_axes=(0, None), progress=False)
    got, expected = run(XS, 2.0), jax.vmap(lambda x: f(x, 2.0))(XS)
    np.testing.assert_allclose(got["a"], expected, rtol=1e-6)
    np.testing.assert_array_equal(got["b"], XS)
    run(XS[:5] if chunk < 5 else XS, 3.0)
    assert len(traced) == 1


def test_every_example_has_its_own_key():
    explain = jxp.shapley_values(f, 0.0, samples=10)
    runs = [
        jxp.batched(explain, chunk=chunk, progress=False)(XS, jnp.arange(7.0), key=KEY)
        for chunk in (2, 7)
    ]
    np.testing.assert_allclose(*runs, atol=1e-6)
    keys = jax.random.split(KEY, 7)
    by_vmap = jax.jit(jax.vmap(lambda x, s, k: explain(x, s, key=k)))(XS, jnp.arange(7.0), keys)
    np.testing.assert_allclose(runs[0], by_vmap, atol=1e-6)


def test_a_bar_counts_examples_outside_jit_alone(capsys):
    run = jxp.batched(jxp.deeplift(jnp.sum, 0.0), chunk=3)
    outside = run(XS)
    assert "7/7" in capsys.readouterr().err
    inside = jax.jit(run)(XS)
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(inside, outside)


def test_errors():
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        jxp.batched(f, chunk=0)
    with pytest.raises(ValueError, match="0 or None for each of 2"):
        jxp.batched(f, chunk=1, in_axes=(0, 1))(XS, 2.0)
    with pytest.raises(ValueError, match="leading axis"):
        jxp.batched(f, chunk=1)(XS, jnp.ones(3))


def test_only_a_chunk_of_what_lies_in_a_file_is_read(tmp_path):
    """The rest is never copied: what is read of the mapped array is a chunk at a time."""
    xs = np.memmap(tmp_path / "xs", np.float32, "w+", shape=(7, 4))
    xs[:] = XS
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            read.append(rows)
            return np.asarray(super().__getitem__(rows))

        def __array__(self, *_, **__):
            raise AssertionError("the whole array was read")

    run = jxp.batched(jxp.gradient(lambda x: f(x, 1.0)), chunk=3, progress=False)
    got = run(xs.view(Watched))
    assert read == [slice(0, 3), slice(3, 6), slice(4, 7)]
    np.testing.assert_allclose(got, run(XS), rtol=1e-6)
