"""References: what they are, and that a dinucleotide shuffle keeps what it promises."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from jaxplain import references

KEY = jax.random.key(0)
BASES = 4


def one_hot(letters):
    """Letters 0–3 are bases, 4 is unknown: a column of zeros."""
    return jax.nn.one_hot(jnp.asarray(letters, int), BASES)


def letters(x):
    """The inverse; fails where x is not one-hot or zero."""
    x = np.asarray(x)
    assert set(np.unique(x)) <= {0, 1}
    assert (x.sum(-1) <= 1).all()
    return np.where(x.any(-1), x.argmax(-1), BASES)


def dinucleotides(sequence):
    return Counter(itertools.pairwise(np.asarray(sequence).tolist()))


@functools.partial(jax.jit, static_argnames="samples")
def shuffle(x, key, samples):
    return references.dinucleotide_shuffle(x, key, samples=samples)


def test_zeros_and_constant_are_shaped_and_typed_like_x():
    x = {"image": jnp.ones((2, 3), jnp.bfloat16), "age": jnp.array(4.0)}
    for got, value in (
        (references.zeros(x), 0),
        (references.constant(x, 2), 2),
        (references.constant(x, {"image": jnp.ones(3), "age": 1}), 1),
    ):
        assert jax.tree.map(lambda a: (a.shape, a.dtype), got) == jax.tree.map(
            lambda a: (a.shape, a.dtype), x
        )
        assert all((leaf == value).all() for leaf in jax.tree.leaves(got))
    with pytest.raises(ValueError, match=r"does not broadcast[\s\S]*f32\[5\][\s\S]*f32\[2,3\]"):
        references.constant(jnp.ones((2, 3)), jnp.ones(5))


def test_mean_and_median_are_numpys():
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    data = {"rows": rows, "ages": np.arange(8)}
    for ours, numpys in ((references.mean, np.mean), (references.median, np.median)):
        got = ours(data)
        np.testing.assert_allclose(got["rows"], numpys(rows, axis=0), rtol=1e-6, atol=1e-7)
        assert got["ages"] == 3.5


def test_training_sample_draws_whole_examples_once_each():
    data = {"id": jnp.arange(50), "row": jnp.arange(100).reshape(50, 2)}
    got = references.training_sample(data, KEY, 20)
    assert len(set(got["id"].tolist())) == 20
    np.testing.assert_array_equal(got["row"][:, 0], 2 * got["id"])
    everything = references.training_sample(data, KEY, 50)
    assert sorted(everything["id"].tolist()) == list(range(50))
    other = references.training_sample(data, jax.random.key(1), 20)
    assert other["id"].tolist() != got["id"].tolist()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: references.training_sample(jnp.ones(3), KEY, 4), "between 1 and the 3 examples"),
        (lambda: references.training_sample(jnp.ones(3), KEY, 0), "between 1 and the 3 examples"),
        (lambda: references.mean({"a": jnp.ones(3), "b": jnp.ones(4)}), "same, non-empty leading"),
        (lambda: references.median(jnp.ones((0, 3))), "same, non-empty leading"),
        (lambda: references.mean({}), "no leaves"),
        (lambda: references.uniform_noise(jnp.ones(3), KEY, samples=0), "at least 1"),
        (lambda: references.uniform_noise(jnp.ones(3), KEY, low=[1, 2], samples=1), "broadcast"),
        (lambda: references.dinucleotide_shuffle(one_hot([0, 1]), KEY, samples=0), "at least 1"),
        (lambda: references.dinucleotide_shuffle(jnp.ones((3, 5)), KEY, samples=1), "length, 4"),
        (lambda: references.dinucleotide_shuffle(jnp.ones((2, 3, 4)), KEY, samples=1), "vmap"),
        (lambda: references.gaussian_blur(jnp.ones(3), stdev=-1, axes=0), "one number ≥ 0"),
        (lambda: references.gaussian_blur(jnp.ones(3), stdev=(1, 2), axes=0), "one number ≥ 0"),
    ],
)
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "shape, stdev, axes",
    [
        ((9,), 1.0, 0),
        ((12, 10, 3), 1.5, (0, 1)),
        ((12, 10, 3), (0.7, 2), (0, -2)),
        ((2, 6, 7, 5), 1, (1, 2, 3)),
        ((5, 4), 6.0, (0, 1)),  # the kernel is longer than the axis
        ((5, 4), 0.0, 1),
    ],
)
def test_blur_is_scipys(shape, stdev, axes):
    x = jax.random.normal(KEY, shape)
    blur = functools.partial(references.gaussian_blur, stdev=stdev, axes=axes)
    expected = ndimage.gaussian_filter(np.asarray(x), stdev, axes=axes, mode="reflect")
    np.testing.assert_allclose(blur(x), expected, atol=2e-6)
    np.testing.assert_allclose(jax.jit(blur)(x), expected, atol=2e-6)


def test_blur_keeps_constants_sums_and_types():
    x = jax.random.uniform(KEY, (8, 9))
    blur = functools.partial(references.gaussian_blur, stdev=2.0, axes=(0, 1))
    np.testing.assert_allclose(blur(jnp.ones_like(x)), 1, rtol=1e-6)
    np.testing.assert_allclose(blur(x).sum(), x.sum(), rtol=1e-6)
    assert blur(x.astype(jnp.float16)).dtype == jnp.float16
    images = jnp.stack([x, 2 * x])
    looped = jnp.stack([blur(image) for image in images])
    np.testing.assert_allclose(jax.vmap(blur)(images), looped, rtol=1e-6)


@pytest.mark.promotes
def test_uniform_noise():
    x = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((), jnp.float16)}
    low, high = {"a": jnp.array([0.0, 1.0, 2.0, 3.0]), "b": -1.0}, 5.0
    refs = references.uniform_noise(x, KEY, low=low, high=high, samples=4000)
    assert refs["a"].shape == (4000, 3, 4) and refs["b"].shape == (4000,)
    assert refs["b"].dtype == jnp.float16
    for leaf, bound in zip(jax.tree.leaves(refs), jax.tree.leaves(low), strict=True):
        assert (leaf >= bound).all() and (leaf <= high).all()
    np.testing.assert_allclose(refs["a"].mean((0, 1)), (low["a"] + high) / 2, atol=0.1)
    uniform = stats.kstest(np.asarray(refs["a"][:, 0, 0]) / 5, "uniform")
    assert uniform.pvalue > 0.01
    correlation = np.corrcoef(refs["a"].reshape(4000, -1).T) - np.eye(12)
    assert abs(correlation).max() < 0.08


LENGTHS = (1, 2, 3, 7, 24)  # a program is compiled for each
SEQUENCES = st.sampled_from(LENGTHS).flatmap(
    lambda length: st.lists(st.integers(0, BASES), min_size=length, max_size=length)
)


@settings(max_examples=200, deadline=None)
@given(SEQUENCES, st.integers(0, 2**32 - 1))
def test_shuffle_keeps_dinucleotides_and_ends_exactly(sequence, seed):
    shuffles = shuffle(one_hot(sequence), jax.random.key(seed), samples=4)
    assert shuffles.shape == (4, len(sequence), BASES)
    for shuffled in letters(shuffles):
        assert dinucleotides(shuffled) == dinucleotides(sequence)
        assert shuffled[0] == sequence[0] and shuffled[-1] == sequence[-1]


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_shuffle_of_a_long_sequence(unknown):
    first, second = jax.random.split(KEY)
    sequence = jax.random.randint(first, (1000,), 0, BASES)
    sequence = jnp.where(jax.random.bernoulli(second, unknown, (1000,)), BASES, sequence)
    for shuffled in letters(shuffle(one_hot(sequence), KEY, samples=20)):
        assert dinucleotides(shuffled) == dinucleotides(sequence)
        assert (shuffled != np.asarray(sequence)).mean() > 0.5


def same_dinucleotides(sequence):
    """All sequences with the same dinucleotides and ends, by walking through every choice."""
    left = dinucleotides(sequence)

    def walks(path, left):
        if not +left:
            yield tuple(path)
        for target in range(BASES + 1):
            if left[edge := (path[-1], target)] > 0:
                yield from walks([*path, target], left - Counter([edge]))

    return sorted(walks([sequence[0]], left))


@pytest.mark.parametrize(
    "sequence",
    [
        [0, 1, 0, 2, 1, 0, 0, 2, 1, 0],  # closed
        [0, 1, 2, 3, 1, 0, 2, 2, 1, 3],  # open
        [3, 0, 3, 3, 1, 0, 1, 3, 0, 0],  # few letters, repeated edges
        [0, 4, 1, 4, 4, 0, 1, 0, 4, 1],  # unknown ones
        [2, 0, 2, 1, 2, 3, 2, 4, 2, 2],  # a star
    ],
    ids=lambda sequence: "".join("ACGTN"[i] for i in sequence),
)
def test_shuffle_is_uniform_over_all_such_sequences(sequence):
    possible = same_dinucleotides(sequence)
    assert 5 < len(possible) < 200
    drawn = Counter(map(tuple, letters(shuffle(one_hot(sequence), KEY, 20_000)).tolist()))
    assert set(drawn) == set(possible)
    assert stats.chisquare([drawn[p] for p in possible]).pvalue > 0.01


def test_shuffle_under_transformations():
    batch = one_hot(jax.random.randint(KEY, (3, 40), 0, BASES + 1))
    keys = jax.random.split(KEY, 3)
    looped = [shuffle(x, k, 5) for x, k in zip(batch, keys, strict=True)]
    mapped = jax.vmap(lambda x, k: shuffle(x, k, 5))(batch, keys)
    np.testing.assert_array_equal(mapped, jnp.stack(looped))
    eager = references.dinucleotide_shuffle(batch[0], keys[0], samples=5)
    np.testing.assert_array_equal(mapped[0], eager)
    assert shuffle(batch[0].astype(jnp.bfloat16), KEY, 2).dtype == jnp.bfloat16
    assert len({shuffled.tobytes() for shuffled in np.asarray(looped[0])}) == 5
