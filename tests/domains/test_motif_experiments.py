"""Motifs in the model and in files, on models whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import datasets, genomics

KEY = jax.random.key(0)
BACKGROUNDS = jax.nn.one_hot(jax.random.randint(KEY, (4, 40), 0, 4), 4)


def occurrences(x, motif):
    """Where a motif is, (places,) of zeros and ones."""
    motif = genomics.one_hot(motif)
    windows = jnp.stack([x[i : len(x) - len(motif) + 1 + i] for i in range(len(motif))], 1)
    return (jnp.einsum("pwb,wb->p", windows, motif) == len(motif)).astype(float)


def grammar(x):
    """2 for GATTC, 3 for CCGTA, and 5 where the second ends six bases behind the first's end."""
    first, second = occurrences(x, "GATTC"), occurrences(x, "CCGTA")
    return 2 * first.sum() + 3 * second.sum() + 5 * (first[:-6] * second[6:]).sum()


def test_spacing_finds_the_distance_that_matters():
    explain = genomics.spacing(grammar, "GATTC", "CCGTA", range(4))
    gains = explain(BACKGROUNDS)
    expected = np.array([5.0, 10, 5, 5])  # one base between them
    np.testing.assert_allclose(gains, np.tile(expected, (4, 1)))
    both = genomics.spacing(grammar, "GATTC", "CCGTA", range(4), interaction=True, chunk=3)
    np.testing.assert_allclose(both(BACKGROUNDS), np.tile(expected - 5, (4, 1)))
    np.testing.assert_allclose(jax.jit(both)(BACKGROUNDS), both(BACKGROUNDS))


def test_spacing_is_two_substitutions():
    f = lambda a, x: a * jnp.stack([jnp.sin(x @ jnp.arange(4.0)).cumsum(0)[20], x[:, 1].sum()])
    first, second = genomics.one_hot("GAT"), genomics.one_hot("TA")
    got = genomics.spacing(f, "GAT", "TA", [4, 0], position=6, argnums=1)(2.0, BACKGROUNDS)
    assert got.shape == (4, 2, 2)
    for gap, gains in zip([4, 0], got.swapaxes(0, 1), strict=True):
        changed = BACKGROUNDS.at[:, 6:9].set(first).at[:, 9 + gap : 11 + gap].set(second)
        each = jax.vmap(functools.partial(f, 2.0))
        np.testing.assert_allclose(gains, each(changed) - each(BACKGROUNDS), atol=1e-5)


def test_ablation_takes_a_motif_away():
    x = BACKGROUNDS[0].at[10:15].set(genomics.one_hot("GATTC"))
    x = x.at[16:21].set(genomics.one_hot("CCGTA"))
    plain = genomics.one_hot(["A" * 40])
    # The first is worth 2 and the pair's 5, the second 3 and the same 5, both together all.
    explain = genomics.ablate(grammar, [10, 16, 10, 25], [15, 21, 21, 30], plain)
    np.testing.assert_allclose(explain(x), [7, 8, 10, 0])
    np.testing.assert_allclose(jax.jit(genomics.ablate(grammar, 10, 15, plain))(x), 7)
    halves = np.concatenate([plain, x[None]])  # one of two references has the motif still
    np.testing.assert_allclose(genomics.ablate(grammar, 10, 15, halves)(x), 3.5)


@pytest.mark.promotes
def test_orders_of_a_stretch_are_its_own_bases():
    x = BACKGROUNDS[1]
    kept = genomics.ablate(lambda x: x, [5, 30], [9, 40], samples=400, chunk=1)(x, key=KEY)
    outside = np.ones((2, 40), bool)
    outside[0, 5:9] = outside[1, 30:40] = False
    assert not kept[outside].any()  # nothing moves outside
    np.testing.assert_allclose(kept.sum(1), 0, atol=1e-4)  # and the bases are the same
    for row, stretch in enumerate((slice(5, 9), slice(30, 40))):
        # Every base is as likely everywhere: x less its mean over the stretch, to 4 σ of 400 draws.
        np.testing.assert_allclose(
            kept[row, stretch], x[stretch] - x[stretch].mean(0), atol=4 * 0.5 / 20
        )
    again = genomics.ablate(lambda x: x, [5, 30], [9, 40], samples=400)(x, key=KEY)
    np.testing.assert_allclose(kept, again, atol=1e-6)


def test_drawn_references_take_a_key():
    drawn = lambda x, key: jax.random.permutation(key, x)[None]
    explain = genomics.ablate(lambda x: x, 3, 5, drawn)
    other = drawn(BACKGROUNDS[2], KEY)[0]
    got = explain(BACKGROUNDS[2], key=KEY)
    np.testing.assert_array_equal(got[3:5], BACKGROUNDS[2, 3:5] - other[3:5])
    assert not got[:3].any() and not got[5:].any()
    batch = jax.vmap(lambda x, key: explain(x, key=key))
    keys = jax.random.split(KEY, 4)
    expected = explain(BACKGROUNDS[3], key=keys[3])
    np.testing.assert_array_equal(batch(BACKGROUNDS, keys)[3], expected)
    with pytest.raises(TypeError, match="a key is missing"):
        explain(BACKGROUNDS[2])
    with pytest.raises(TypeError, match="there is nothing to draw"):
        genomics.ablate(grammar, 3, 5, BACKGROUNDS)(BACKGROUNDS[0], key=KEY)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: genomics.ablate(grammar, [3], [3]), ValueError, "starts below their ends"),
        (lambda: genomics.ablate(grammar, [3, 4], [5]), ValueError, "starts below their ends"),
        (lambda: genomics.ablate(grammar, 3.0, 5), TypeError, "starts must be integers"),
        (lambda: genomics.ablate(grammar, 3, 5, samples=0), ValueError, "samples"),
        (
            lambda: genomics.ablate(grammar, 30, 41)(BACKGROUNDS[0], key=KEY),
            ValueError,
            "from 30 to 41 reach beyond a sequence of 40",
        ),
        (
            lambda: genomics.ablate(grammar, 3, 5, BACKGROUNDS[:, :9])(BACKGROUNDS[0]),
            ValueError,
            r"must be \(references, 40, 4\): \(4, 9, 4\)",
        ),
        (lambda: genomics.spacing(grammar, "A", "C", []), TypeError, "must be integers"),
        (lambda: genomics.spacing(grammar, "A", "C", [-1]), ValueError, "0 or more"),
        (
            lambda: genomics.spacing(grammar, "A", "C", [39])(BACKGROUNDS),
            ValueError,
            "41 bases",
        ),
    ],
)
def test_experiments_that_do_not_fit(make, error, words):
    with pytest.raises(error, match=words):
        make()


MEME = """MEME version 4

ALPHABET= ACGT

MOTIF MA0001.1 FIRST
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
0.1 0.1 0.7 0.1
1 0 0 0
0.2 0.2 0.2 0.4
URL http://example.org

MOTIF  second
letter-probability matrix: alength= 4 w= 2
0 0 0 1
0.25 0.25 0.25 0.25
"""


@pytest.mark.promotes
def test_motifs_of_a_file_are_used_as_they_are(tmp_path):
    path = tmp_path / "motifs.meme"
    path.write_text(MEME)
    motifs = genomics.read_meme(path)
    assert list(motifs) == ["MA0001.1 FIRST", "second"]
    assert motifs["second"].tolist() == [[0, 0, 0, 1], [0.25] * 4]
    first = motifs["MA0001.1 FIRST"]
    assert genomics.consensus(first) == "GAT"
    f = lambda x: occurrences(x, "GAT").sum() + (x * jnp.arange(4.0)).sum()
    got = genomics.marginalize(f, first)(BACKGROUNDS)  # its likeliest bases
    np.testing.assert_array_equal(got, genomics.marginalize(f, "GAT")(BACKGROUNDS))
    gap = genomics.spacing(f, first, first, [2])(BACKGROUNDS)
    np.testing.assert_array_equal(gap, genomics.spacing(f, "GAT", "GAT", [2])(BACKGROUNDS))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "has no motif"),
        (">chr1\nACGT\n", "has no motif"),
        (MEME.replace("0.7", "0.1"), "rows of 'MA0001.1 FIRST' are not probabilities"),
        (MEME.replace("0 0 0 1\n", "0 0 1\n"), "not in MEME's format, for DNA"),
        (MEME.replace("w= 2", ""), "not in MEME's format"),
    ],
)
def test_files_that_hold_no_motifs(tmp_path, text, words):
    path = tmp_path / "motifs.meme"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        genomics.read_meme(path)


def collection():
    rng = np.random.default_rng(0)
    others = {f"other {i}": rng.dirichlet(np.full(4, 0.1), size=9) for i in range(30)}
    return others | datasets.MOTIFS


def test_annotations_that_do_not_fit():
    found = genomics.Seqlets(*np.array([[0], [3], [12], [1]]))
    motifs = collection()
    for nearest in (0, 33):
        with pytest.raises(ValueError, match=f"nearest={nearest} of 32"):
            genomics.annotate(found, BACKGROUNDS, motifs, nearest=nearest)
    with pytest.raises(ValueError, match="of other sequences"):
        genomics.annotate(found, BACKGROUNDS[:, :11], motifs)
    with pytest.raises(ValueError, match="swap the last two"):
        genomics.annotate(found, BACKGROUNDS, motifs | {"turned": np.ones((4, 9))})
    none = genomics.annotate(genomics.seqlets(np.zeros((4, 40))), BACKGROUNDS, motifs, nearest=2)
    assert [field.shape for field in none] == [(0, 2)] * 4


@pytest.mark.slow  # what TOMTOM needs is compiled for half a minute
@pytest.mark.parametrize("strand", ["+", "-"])
def test_planted_motifs_are_named(strand):
    data, names = datasets.tal_gata(0, 60), np.array([*datasets.MOTIFS])
    xs = data.sequences if strand == "+" else data.sequences[:, ::-1, ::-1]
    example, which, instance = np.nonzero(data.starts >= 0)
    start = data.starts[example, which, instance]
    width = np.array([len(motif) for motif in datasets.MOTIFS.values()])[which]
    start = start if strand == "+" else xs.shape[1] - start - width
    flanks = np.maximum(start - 3, 0), np.minimum(start + width + 2, xs.shape[1])
    found = genomics.Seqlets(example, *flanks, np.ones(len(start)))
    got = genomics.annotate(found, xs, collection(), nearest=3)
    assert got.name.shape == got.p_value.shape == (len(start), 3) and len(start) > 60
    assert (np.diff(got.p_value, axis=1) >= 0).all()
    named = (got.name[:, 0] == names[which]) & (got.start[:, 0] == start)
    assert named.mean() > 0.8
    assert (got.strand[named, 0] == strand).all()


def test_contributions_are_a_track(tmp_path):
    pybigtools = pytest.importorskip("pybigtools")
    scores = np.random.default_rng(0).normal(size=(3, 20, 4))
    windows, sizes = [("chr2", 5), ("chr1", 30), ("chr1", 20)], {"chr1": 50, "chr2": 100}
    path = genomics.write_bigwig(tmp_path / "track.bw", scores, windows, sizes)
    track, rows = pybigtools.open(str(path)), scores.sum(-1)
    read = functools.partial(type(track).values, fillna=0)
    np.testing.assert_allclose(read(track, "chr2", 5, 25), rows[0], rtol=1e-6)
    expected = np.concatenate([rows[2, :10], (rows[2, 10:] + rows[1, :10]) / 2, rows[1, 10:]])
    np.testing.assert_allclose(read(track, "chr1", 20, 50), expected, rtol=1e-5)
    assert track.chroms() == sizes
    by_position = genomics.write_bigwig(tmp_path / "sums.bw", rows, windows, sizes)
    again = pybigtools.open(str(by_position))
    np.testing.assert_array_equal(read(again, "chr1", 20, 50), read(track, "chr1", 20, 50))


@pytest.mark.parametrize(
    "scores, windows, words",
    [
        (np.zeros((2, 9)), [("chr1", 0)], r"\(2, 9\) must be.*these are 1"),
        (np.zeros(9), [("chr1", 0)], r"must be \(n, length\)"),
        (np.full((1, 9), np.nan), [("chr1", 0)], "not all finite"),
        (np.zeros((1, 9)), [("chr1", 42)], "chr1:42-51, does not lie inside 50"),
        (np.zeros((1, 9)), [("chr3", 0)], "inside a chromosome that has a size"),
    ],
)
def test_what_is_no_track(tmp_path, scores, windows, words):
    pytest.importorskip("pybigtools")
    with pytest.raises(ValueError, match=words):
        genomics.write_bigwig(tmp_path / "track.bw", scores, windows, {"chr1": 50})
