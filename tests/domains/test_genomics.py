"""Genomics: scores of DNA by their definitions, experiments by loops, files by their readers."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain import genomics
from tests.support.marks import slow_but

KEY = jax.random.key(0)
LENGTH = 24


def shuffles(x, key):
    """References that compile quickly: the same bases in other orders."""
    return jax.vmap(lambda key: jax.random.permutation(key, x))(jax.random.split(key, 6))


def weights():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for s in ((5, 4, 6), (6, 2), (6, 2))]


def model(x):
    """A sequence (length, 4) → profile logits (length, 2) and log counts (2,)."""
    first, second, last = weights()
    windows = jnp.stack([jnp.roll(x, -shift, axis=0) for shift in range(5)], axis=1)
    h = jax.nn.relu(jnp.einsum("lwb,wbk->lk", windows, first))
    return h @ second, jnp.tanh(h.mean(0) @ last)


counts = jax.jit(lambda x: model(x)[1])
f = genomics.count(counts, 0)
xs = jax.nn.one_hot(jax.random.randint(KEY, (5, LENGTH), 0, 4), 4)


def test_one_hot_and_back():
    text = ["ACGTACGT", "nNryswka", "ttgacatg"]
    x = genomics.one_hot(text)
    assert x.shape == (3, 8, 4) and x.dtype == np.float32
    np.testing.assert_array_equal(x[0, :4], np.eye(4))
    assert not x[1, :7].any() and x[1, 7, 0] == 1
    assert genomics.decode(x) == ["ACGTACGT", "NNNNNNNA", "TTGACATG"]
    np.testing.assert_array_equal(genomics.one_hot(genomics.decode(x)), x)
    assert genomics.decode(x[2]) == "TTGACATG"
    np.testing.assert_array_equal(genomics.one_hot("gTN"), genomics.one_hot(["gTN"])[0])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: genomics.one_hot(["ACGT", "ACUT"]), "sequence 1 has 'U' at position 2"),
        (lambda: genomics.one_hot("AC-T"), "sequence 0 has '-' at position 2"),
        (lambda: genomics.one_hot("ACé"), "sequence 0 has 'é' at position 2"),
        (lambda: genomics.one_hot(["ACGT", "AC"]), r"2 to 4 bases.*one length.*pad them with N"),
        (lambda: genomics.one_hot([]), "no sequence"),
        (lambda: genomics.one_hot(["", ""]), "an empty one"),
        (lambda: genomics.decode(np.full((2, 4), 0.25)), r"row \(0,\) is \[0.25"),
        (lambda: genomics.decode(np.ones((2, 3, 4))), r"row \(0, 0\) is \[1. 1. 1. 1.\]"),
        (lambda: genomics.decode(np.zeros((2, 4, 9))), r"and this \(2, 4, 9\).*swap the last two"),
        (lambda: genomics.deeplift_shap(f)(xs.swapaxes(1, 2), key=KEY), "swap the last two"),
        (lambda: genomics.deeplift_shap(f)(xs[0], key=KEY), r"shape \(n, length, 4\)"),
        (lambda: genomics.deeplift_shap(f)(xs, refs=xs[None]), r"\(5, references, 24, 4\), and"),
        (lambda: genomics.deeplift_shap(f, xs[0])(xs), r"\(references, 24, 4\), and are"),
        (lambda: genomics.deeplift_shap(f, batch=0), "batch must be at least 1"),
        (lambda: genomics.deeplift_shap(f)(xs, jnp.ones(4), key=KEY), "leading axis"),
        (lambda: genomics.count(lambda x: x)(jnp.ones(3)), "3 outputs: index="),
        (lambda: genomics.count(lambda x: x, 3)(jnp.ones(3)), "index=3 is beyond"),
    ],
)
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_keys_are_for_what_is_drawn():
    with pytest.raises(TypeError, match=r"key=jax\.random\.key\(0\)"):
        genomics.deeplift_shap(f)(xs)
    for refs, own in ((xs, None), (None, xs[:, None])):
        with pytest.raises(TypeError, match="there is nothing to draw"):
            genomics.deeplift_shap(f, refs)(xs, key=KEY, refs=own)


def projected(multipliers, refs):
    """DeepSHAP's loop: the contributions of a sequence made of one base after another."""
    scores = np.zeros(multipliers.shape[1:])
    for base in range(4):
        everywhere = np.zeros(multipliers.shape[1:])
        everywhere[:, base] = 1
        scores[:, base] = ((everywhere - refs) * multipliers).sum(-1).mean(0)
    return scores


@pytest.fixture(scope="module")
def explained():
    """A sequence with two unknown bases, its shuffles, and its scores."""
    x = xs[0].at[jnp.array([3, 10])].set(0.0)
    refs = shuffles(x, KEY)
    hypothetical = jax.jit(genomics.hypothetical_contributions(f, refs))(x)
    contributions = jax.jit(jxp.deeplift_shap(f, refs))(x)
    return x, refs, hypothetical, contributions


def test_hypothetical_contributions_are_deepshaps(explained):
    x, refs, hypothetical, _ = explained
    each = jax.vmap(lambda ref: jxp.deeplift(f, ref, multiply=False)(x))
    expected = projected(np.asarray(jax.jit(each)(refs)), np.asarray(refs))
    np.testing.assert_allclose(hypothetical, expected, atol=1e-6)


def test_at_the_bases_that_are_there_they_are_contributions(explained):
    x, refs, hypothetical, contributions = explained
    known = np.asarray(x.any(-1))
    np.testing.assert_allclose(
        (x * hypothetical).sum(-1)[known], contributions.sum(-1)[known], atol=1e-6
    )
    assert not (x * hypothetical)[~known].any()
    rise = f(x) - jax.vmap(f)(refs).mean()
    np.testing.assert_allclose(contributions.sum(), rise, atol=1e-6)
    assert abs(contributions).max() > 0.01


def test_a_batch_is_a_loop_with_keys():
    args = jnp.arange(1.0, 6.0)
    scaled = lambda x, scale: scale * f(x)
    keys = jax.random.split(KEY, len(xs))
    for hypothetical, one in (
        (False, jxp.deeplift_shap(scaled, shuffles)),
        (True, genomics.hypothetical_contributions(scaled, shuffles)),
    ):
        explain = genomics.deeplift_shap(
            scaled, shuffles, hypothetical=hypothetical, batch=2, standard_error=True
        )
        got, error = explain(np.asarray(xs), args, key=KEY)
        expected = jax.jit(jax.vmap(lambda x, a, key: one(x, a, key=key)))(xs, args, keys)
        np.testing.assert_allclose(got, expected, atol=2e-6)
        assert error.shape == xs.shape and (error >= 0).all()


def test_references_of_all_and_of_each():
    shared = xs[:3]
    explain = genomics.deeplift_shap(f, shared, batch=2)
    expected = jax.jit(jax.vmap(jxp.deeplift_shap(f, shared)))(xs)
    np.testing.assert_allclose(explain(xs), expected, atol=1e-6)
    own = jnp.broadcast_to(shared, (5, *shared.shape))
    np.testing.assert_allclose(genomics.deeplift_shap(f)(xs, refs=own), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(explain)(xs), expected, atol=1e-6)


def test_profile_target():
    head = lambda x: model(x)[0]
    x, ref = xs[1], xs[2]
    logits, at_ref = head(x), head(ref)
    for axis in (None, 0):
        target = genomics.profile(head, axis)
        share = jax.nn.softmax(logits, axis)
        centred = logits - logits.mean(axis, keepdims=True)
        np.testing.assert_allclose(target(x), (share * centred).sum(), rtol=1e-5)
        # The shares are x's own, and no part of what is explained.
        frozen = lambda x: (share * (head(x) - head(x).mean(axis, keepdims=True))).sum()
        np.testing.assert_allclose(jax.grad(target)(x), jax.grad(frozen)(x), atol=1e-5)
        contributions = jax.jit(jxp.deeplift(target, ref))(x)
        rise = (share * (centred - at_ref + at_ref.mean(axis, keepdims=True))).sum()
        np.testing.assert_allclose(contributions.sum(), rise, rtol=1e-4)
        np.testing.assert_allclose(contributions, jax.jit(jxp.deeplift(frozen, ref))(x), atol=1e-5)


def test_count_target():
    assert float(genomics.count(lambda x: x[None, None])(jnp.array(3.0))) == 3
    assert float(genomics.count(lambda x: x, -1)(jnp.arange(3.0))) == 2


def test_variants_are_mutations():
    every = jax.jit(jxp.in_silico_mutagenesis(counts))(xs[0])  # (2, length, 4)
    positions, bases = jnp.array([0, 7, LENGTH - 1]), jnp.array([1, 2, 0])
    explain = genomics.variant_effects(counts, positions, jnp.eye(4)[bases], chunk=2)
    expected = every[:, positions, bases].T
    np.testing.assert_allclose(explain(xs[0]), expected, atol=1e-6)
    traced = jax.jit(
        lambda x, p: genomics.variant_effects(counts, p, jnp.eye(4)[bases])(x),
    )
    np.testing.assert_allclose(traced(xs[0], positions), expected, atol=1e-6)
    pairs = genomics.one_hot(["GA", "TT"])
    changed = xs[0].at[5:7].set(pairs[1])
    got = genomics.variant_effects(counts, [2, 5], pairs)(xs[0])
    np.testing.assert_allclose(got[1], counts(changed) - counts(xs[0]), atol=1e-6)
    other = genomics.variant_effects(lambda a, x: a * f(x), [2, 5], pairs, argnums=1)
    assert other(2.0, xs[0]).shape == (2,)


def test_a_motif_in_backgrounds():
    motif = genomics.one_hot("GATAAG")
    middle = xs.at[:, 9:15].set(motif)
    expected = jax.vmap(f)(middle) - jax.vmap(f)(xs)
    np.testing.assert_allclose(genomics.marginalize(f, motif)(xs), expected, atol=1e-6)
    last = genomics.marginalize(f, motif, position=LENGTH - 6, chunk=2)(xs)
    expected = jax.vmap(f)(xs.at[:, -6:].set(motif)) - jax.vmap(f)(xs)
    np.testing.assert_allclose(last, expected, atol=1e-6)


MOTIF = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: genomics.variant_effects(f, [21], MOTIF[None])(xs[0]), "from position 21 reach"),
        (lambda: genomics.variant_effects(f, [-1], MOTIF[:1])(xs[0]), "positions are 0 to 23"),
        (lambda: genomics.variant_effects(f, [1, 2], MOTIF[:1]), r"\(2,\) and \(1, 4\)"),
        (lambda: genomics.variant_effects(f, [1], MOTIF[:1])(xs), r"shape \(length, 4\)"),
        (lambda: genomics.marginalize(f, MOTIF, position=21)(xs), "from position 21 reach"),
        (lambda: genomics.marginalize(f, MOTIF)(xs[0]), r"shape \(n, length, 4\)"),
        (lambda: genomics.marginalize(f, MOTIF.repeat(9, 0))(xs), "36 bases"),
        (lambda: genomics.seqlets(np.zeros(9)), r"must be \(n, length\)"),
        (lambda: genomics.seqlets(np.zeros((2, 9)), window=10), "window=10 must fit"),
        (lambda: genomics.seqlets(np.full((2, 99), np.nan)), "not all finite"),
    ],
)
def test_experiments_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


STORED = {
    "contributions": lambda x: genomics.deeplift_shap(f, shuffles)(x[None], key=KEY),
    "all bases": lambda x: genomics.deeplift_shap(f, shuffles, hypothetical=True)(x[None], key=KEY),
    "own references": lambda x: genomics.deeplift_shap(f)(x[None], refs=x[None, None, ::-1]),
    "hypothetical": lambda x: genomics.hypothetical_contributions(f, x[None, ::-1])(x),
    "mutagenesis": lambda x: genomics.in_silico_mutagenesis(counts)(x),
    "variants": lambda x: genomics.variant_effects(f, [3], x[4:5])(x),
    "motif": lambda x: genomics.marginalize(f, x[:5])(x[None]),
    "shuffles": lambda x: genomics.dinucleotide_shuffle(x, KEY, samples=2),
    "spacing": lambda x: genomics.spacing(f, x[:3], x[5:8], [0, 2])(x[None]),
    "ablation": lambda x: genomics.ablate(f, [3], [9], samples=2)(x, key=KEY),
    "ablation, references": lambda x: genomics.ablate(f, [3], [9], x[None, ::-1])(x),
}


@pytest.mark.parametrize(
    "call", slow_but(STORED, ["contributions", "variants", "shuffles", "ablation"])
)
def test_one_hot_stored_small_counts_as_floats(call):
    expected = STORED[call](xs[0])
    for stored in (xs[0].astype(jnp.int8), np.asarray(xs[0], "uint8"), xs[0] > 0):
        got = STORED[call](stored)
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_letters_are_one_hot():
    one = lambda alternatives: genomics.variant_effects(f, [2, 5], alternatives)(xs[0])
    np.testing.assert_array_equal(one("gA"), one(genomics.one_hot("GA")))
    np.testing.assert_array_equal(one("gA"), one([2, 0]))
    np.testing.assert_array_equal(one(["GA", "TT"]), one(genomics.one_hot(["GA", "TT"])))
    motif = genomics.marginalize(f, genomics.one_hot("GATAR"))(xs)
    np.testing.assert_array_equal(genomics.marginalize(f, "GATAR")(xs), motif)
    assert not genomics.one_hot("R").any()  # an unknown base, not one of two


def test_whole_sequences_may_be_letters():
    text = genomics.decode(np.asarray(xs))
    same = lambda call: np.testing.assert_array_equal(call(text[0], text), call(xs[0], xs))
    same(lambda x, xs: genomics.variant_effects(f, [2], "G")(x))
    same(lambda x, xs: genomics.in_silico_mutagenesis(counts)(x))
    same(lambda x, xs: genomics.marginalize(f, "GATAA")(xs))
    same(lambda x, xs: genomics.dinucleotide_shuffle(x, KEY, samples=3))
    same(lambda x, xs: genomics.hypothetical_contributions(f, xs)(x))
    same(lambda x, xs: genomics.deeplift_shap(f, xs, batch=5)(xs))
    same(lambda x, xs: genomics.ablate(f, [2], [7], xs)(x))
    same(lambda x, xs: genomics.ablate(lambda a, x: a * f(x), 2, 7, argnums=1)(2.0, x, key=KEY))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: genomics.marginalize(f, "GAX"), "'X' at position 2"),
        (lambda: genomics.variant_effects(f, [1], "GA"), r"\(1,\) and \(2, 4\)"),
        (lambda: genomics.variant_effects(f, [1, 2], ["G", "AA"]), "letters.*1 to 2 bases"),
        (lambda: genomics.variant_effects(f, [1], [4]), "columns 0 to 3"),
        (lambda: genomics.variant_effects(f, [1], [0.5]), "letters"),
        (lambda: jxp.in_silico_mutagenesis(f)(xs), "jax.vmap"),
    ],
)
def test_letters_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


Heads = collections.namedtuple("Heads", "logits_profile_predictions logcount_predictions")

TWO_HEADED = {
    "names": lambda profile, counts: {"profile": profile, "counts": counts},
    "other names": lambda profile, counts: {"log_counts": counts, "Profile_Head": profile},
    "nested": lambda profile, counts: {"task": {"profile": profile, "counts": counts}},
    "fields": Heads,
    "pair": lambda profile, counts: (profile, counts),
    "list": lambda profile, counts: [profile, counts],
}


@pytest.mark.parametrize("kind", TWO_HEADED)
def test_heads_of_a_model_are_found(kind):
    heads = lambda x: TWO_HEADED[kind](*model(x))
    assert genomics.count(heads, 1)(xs[0]) == model(xs[0])[1][1]
    expected = genomics.profile(lambda x: model(x)[0], 0)(xs[0])
    assert genomics.profile(heads, 0)(xs[0]) == expected


def test_a_model_of_two_heads_is_explained():
    explain = lambda f: genomics.deeplift_shap(f, xs[:2])(xs[:1])
    found = explain(genomics.count(lambda x: dict(profile=model(x)[0], counts=model(x)[1]), 0))
    np.testing.assert_allclose(found, explain(f), atol=1e-6)


def test_a_head_has_a_name_or_a_place():
    profile, counts = model(xs[0])
    tasks = lambda x: {"a": counts, "b": {"counts": counts + 1}, "profile": profile}
    assert genomics.count(tasks, 0, head="a")(xs[0]) == counts[0]
    swapped = lambda x: (counts, profile)
    assert genomics.count(swapped, 0, head=0)(xs[0]) == counts[0]
    assert genomics.profile(swapped, head=-1)(xs[0]) == genomics.profile(lambda x: profile)(xs[0])
    fields = lambda x: Heads(counts, profile)  # the other way round
    named = genomics.count(fields, 1, head="logits_profile_predictions")
    assert named(xs[0]) == counts[1]


@pytest.mark.parametrize(
    "heads, head, words",
    [
        (lambda p, c: (c, p), None, "none of them may be the count head.*head=1"),
        (lambda p, c: (p, p), None, r"f\(x\)\[1\] \(24, 2\), and none of them may be"),
        (lambda p, c: (p, c, c), None, r"f\(x\)\[2\] \(2,\), and none of them"),
        (lambda p, c: {"a": p, "b": c}, None, r"f\(x\)\['a'\] \(24, 2\), f\(x\)\['b'\] \(2,\)"),
        (lambda p, c: {"counts": c, "counts_bias": c, "profile": p}, None, "several of them may"),
        (lambda p, c: {"profile_counts": c, "profile": p}, None, "none of them may"),
        (lambda p, c: {"counts": c, "profile": p}, "count", "head='count' is none of them"),
        (lambda p, c: (p, c), 2, "head=2 is none of them"),
        (lambda p, c: {"counts": {"a": c, "b": c}}, "counts", "head='counts' is none of them"),
        (lambda p, c: c, 0, r"f\(x\) \(2,\), and head=0 is none of them"),
        (lambda p, c: None, None, "returns no head"),
    ],
)
def test_heads_that_may_be_meant_are_named(heads, head, words):
    with pytest.raises(TypeError, match=words):
        genomics.count(lambda x: heads(*model(x)), head=head)(xs[0])


def test_a_method_says_how_to_pick_a_head():
    heads = lambda x: dict(zip(("profile", "counts"), model(x), strict=True))
    with pytest.raises(TypeError, match=r"`lambda x: f\(x\)\['counts'\]`"):
        jxp.deeplift(heads, 0.0)(xs[0])


def test_positions_are_integers():
    with pytest.raises(TypeError, match="positions must be integers"):
        genomics.variant_effects(f, [1.0], MOTIF[:1])


def test_seqlets_are_what_stands_out():
    scores = np.random.default_rng(0).normal(size=(40, 200))
    planted = {(3, 0): 3, (3, 100): -3, (17, 60): 4, (18, 190): 3, (39, 77): -4}
    for (row, start), height in planted.items():
        scores[row, start : start + 10] += height
    found = genomics.seqlets(scores, flank=3)
    assert len(found.start) == len(planted)
    for (row, start), example, first, last, score in zip(planted, *found, strict=True):
        assert example == row and abs(np.clip(start - 3, 0, None) - first) <= 3
        assert (last - first == 16) or first == 0 or last == 200
        assert np.sign(score) == np.sign(planted[row, start])
        inner = slice(first + 3 * (first > 0), last - 3 * (last < 200))
        if first > 0 and last < 200:
            np.testing.assert_allclose(score, scores[row, inner].sum())
    assert all(map(np.array_equal, found, genomics.seqlets(scores, flank=3)))


def test_seqlets_do_not_overlap_and_noise_has_few():
    rng = np.random.default_rng(1)
    assert len(genomics.seqlets(rng.normal(size=(100, 200))).start) <= 1
    assert len(genomics.seqlets(np.zeros((3, 50))).start) == 0
    wide = rng.normal(size=(20, 300, 4)) / 2
    wide[:, 100:170] += 1
    example, start, end, _ = genomics.seqlets(wide, window=8, flank=2)
    assert len(start) > 40
    same = example[1:] == example[:-1]
    assert (start[1:] >= end[:-1] - 2)[same].all() and (end - start == 12).all()
    inside = (start >= 88) & (end <= 182)
    assert inside.mean() > 0.9


def test_files_for_modisco(tmp_path):
    hypothetical = np.asarray(xs) - 0.3
    ohe, attr = genomics.to_modisco(xs, hypothetical, tmp_path / "new" / "folder")
    for path, expected in ((ohe, xs), (attr, hypothetical)):
        read = np.load(path)["arr_0"]
        assert read.shape == (5, 4, LENGTH) and read.dtype == np.float32
        np.testing.assert_allclose(read, np.asarray(expected).transpose(0, 2, 1))
    text = genomics.decode(np.asarray(xs))
    again, _ = genomics.to_modisco(text, hypothetical, tmp_path / "of text")
    np.testing.assert_array_equal(np.load(again)["arr_0"], np.load(ohe)["arr_0"])


@pytest.mark.parametrize(
    "scores, words",
    [
        (lambda x: x[:, :-1], "shapes must agree"),
        (lambda x: x * np.nan, "not all finite"),
        (lambda x: x * 2, "needs hypothetical contributions"),
        (lambda x: np.zeros_like(x), "needs hypothetical contributions"),
    ],
)
def test_what_modisco_cannot_use(tmp_path, scores, words):
    with pytest.raises(ValueError, match=words):
        genomics.to_modisco(xs, scores(np.asarray(xs)), tmp_path)
    with pytest.raises(ValueError, match="one-hot or zero"):
        genomics.to_modisco(xs * 0.9, xs, tmp_path)
    assert not list(tmp_path.iterdir())
