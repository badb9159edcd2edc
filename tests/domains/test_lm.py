"""Language models: a response explained by its prompt."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain._numerics.sharing import at_units
from jaxplain.lm.result import passed_back
from tests.support import language

PARAMS = language.parameters()
SMALL = language.parameters(layers=1)
PROMPT, RESPONSE = [3, 1, 7, 4], [2, 9, 5]
IDS = jnp.array(PROMPT + RESPONSE)
KEY = jax.random.key(0)


def small(ids):
    return language.logits(SMALL, ids)


def bag(ids):
    """What stands before, in any order: quick to compile."""
    return jnp.tanh(jnp.cumsum(SMALL["embed"][ids], 0)) @ SMALL["out"]


def log_p(logits):
    return jax.nn.log_softmax(logits)[jnp.arange(3, 6), jnp.array(RESPONSE)]


METHODS = {
    "gradient": (jxp.gradient, ()),
    "input_x_gradient": (jxp.input_x_gradient, (0.0,)),
    "deeplift": (jxp.deeplift, (0.0,)),
    "attn_lrp": (jxp.attn_lrp, ()),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("name", ["input_x_gradient", *SLOW])
def test_rows_are_separate_explanations_and_what_cannot_be_seen_is_zero(name):
    method, ref = METHODS[name]
    found = jxp.lm.explain(method, small, PROMPT, RESPONSE)
    e, g = jxp.embedded(small)(IDS)
    one = jax.jit(lambda e, t: method(lambda e: log_p(g(e))[t], *ref)(e))
    rows = [one(e, t) for t in range(3)]
    np.testing.assert_allclose(found.scores, [r.sum(-1) for r in rows], atol=1e-5)
    np.testing.assert_allclose(found.norms, [jnp.linalg.norm(r, axis=-1) for r in rows], atol=1e-5)
    np.testing.assert_allclose(found.scores.sum(1), found.rise - found.gap, atol=1e-5)
    assert not found.scores[0, 4:].any() and not found.scores[:, 6].any()
    assert found.scores[1, 4] != 0 and found.scores[2, 5] != 0
    np.testing.assert_allclose(found.total, found.scores.sum(0), atol=2e-5)
    at_ref = log_p(g(0 * e)) if ref else 0
    np.testing.assert_allclose(found.rise, log_p(small(IDS)) - at_ref, atol=1e-5)
    assert found.tokens.tolist() == IDS.tolist() and found.prompt == 4
    if name == "deeplift":
        assert abs(found.gap).max() < 1e-5


def test_chunks_paths_and_compiled_programs_change_nothing():
    explain = lambda **options: (
        jxp.lm.explain(jxp.integrated_gradients, bag, PROMPT, RESPONSE, steps=2, **options).scores
    )
    whole = explain()
    np.testing.assert_allclose(explain(chunk=2), whole, atol=1e-6)
    compiled = jax.jit(
        lambda p, r: jxp.lm.explain(
            jxp.integrated_gradients, bag, p, r, steps=2, tokens=list("abcdefg")
        )
    )(jnp.array(PROMPT), jnp.array(RESPONSE))
    np.testing.assert_allclose(compiled.scores, whole, atol=1e-6)
    assert compiled.tokens == list("abcdefg")


def test_a_contrast_is_the_difference():
    explain = functools.partial(jxp.lm.explain, jxp.input_x_gradient, bag, PROMPT)
    own, foils = explain(RESPONSE), jnp.array([0, 6, 6])
    against = explain(RESPONSE, contrast=foils)
    e, g = jxp.embedded(bag)(IDS)
    foil = lambda e: jax.nn.log_softmax(g(e))[jnp.arange(3, 6), foils]
    rows = [jxp.input_x_gradient(lambda e: foil(e)[t])(e).sum(-1) for t in (0, 2)]
    np.testing.assert_allclose(against.scores[jnp.array([0, 2])], own.scores[jnp.array([0, 2])]
                               - jnp.stack(rows), atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(against.rise - against.gap, against.scores.sum(1), atol=1e-5)
    other = explain([8, 1])
    for contrast in (jxp.lm.instead([8, 1]), [8, 1]):
        both = explain(RESPONSE, contrast=contrast)
        np.testing.assert_allclose(
            both.scores[:2, :6], own.scores[:2, :6] - other.scores, atol=1e-6
        )
        np.testing.assert_allclose(both.total[:6], own.total[:6] - other.total, atol=1e-6)
        np.testing.assert_allclose(both.scores[2], own.scores[2], atol=1e-6)


def test_references():
    explain = lambda ref: jxp.lm.explain(jxp.input_x_gradient, bag, PROMPT, RESPONSE, ref=ref)
    embed = SMALL["embed"]
    rise = lambda rows: log_p(bag(IDS)) - log_p(jxp.embedded(bag)(IDS)[1](rows))
    rows = {
        "mean": (jnp.broadcast_to(embed.mean(0), (7, 8)), "mean"),
        "an id": (embed[jnp.zeros(7, int)], 0),
        "the prompt's": (embed[jnp.array([0, 0, 5, 5, *RESPONSE])], [0, 0, 5, 5]),
        "rows": (embed[:7], embed[:7]),
    }
    found = {name: explain(ref) for name, (_, ref) in rows.items()}
    for name, (expected, _) in rows.items():
        np.testing.assert_allclose(found[name].rise, rise(expected), atol=1e-5)
    assert not found["the prompt's"].scores[:, 4:].any()  # the response is as it was
    several = explain(["mean", 0])
    mean = (found["mean"].scores + found["an id"].scores) / 2
    np.testing.assert_allclose(several.scores, mean, atol=1e-6)


@pytest.mark.slow
def test_methods_that_only_evaluate_have_tokens_as_players():
    found = jxp.lm.explain(jxp.shapley_values, bag, PROMPT, RESPONSE[:2], ref=0)
    assert abs(found.gap).max() < 1e-5
    e, g = jxp.embedded(bag)(IDS[:6])
    second = lambda e: jax.nn.log_softmax(g(e))[4, 9]
    labels = jnp.arange(6)[:, None]
    exact = jax.jit(jxp.shapley_values(second, SMALL["embed"][:1], groups=labels))(e)[:, 0]
    np.testing.assert_allclose(found.scores[1], exact, atol=1e-5)
    drawn = jxp.lm.explain(jxp.shapley_values, bag, PROMPT, [2], ref=0, samples=24, key=KEY)
    np.testing.assert_allclose(drawn.scores.sum(1), drawn.rise - drawn.gap, atol=1e-5)
    pairs = jxp.lm.explain(jxp.ablation, bag, PROMPT, [2], groups=[0, 0, 1, 1, 2])
    assert pairs.scores[0, 0] == pairs.scores[0, 1] != 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [jxp.deeplift, jxp.input_x_gradient])
def test_a_response_decoded_with_a_cache_has_the_scores_of_the_full_pass(method):
    full = jxp.lm.explain(method, small, PROMPT, RESPONSE)
    cached = functools.partial(language.decoded, SMALL)
    found = jxp.lm.explain(method, cached, PROMPT, RESPONSE)
    np.testing.assert_allclose(found.scores, full.scores, atol=2e-5)


def test_hops_pass_on_what_response_tokens_received():
    scores = jnp.array([[1.0, -3, 0, 0, 0], [1, 1, 2, 0, 0], [0, 4, 2, -2, 0]])
    once = passed_back(scores, 2, 1)
    np.testing.assert_allclose(once[2], [0.5 - 0.5, 4 + 1.5 - 0.5, -1.0, 0, 0])
    ends = passed_back(scores, 2, np.inf)
    shares = np.array([[0.25, 0.75], [0.25 + 0.5 * 0.25, 0.25 + 0.5 * 0.75]])
    np.testing.assert_allclose(ends[2, :2], np.array([0, 4]) + [2, -2] @ shares, rtol=1e-6)
    assert not ends[:, 2:].any()
    np.testing.assert_allclose(passed_back(scores, 2, 3), ends, atol=1e-6)
    for passed in (once, ends):
        np.testing.assert_allclose(passed.sum(1), scores.sum(1), atol=1e-6)
    found = jxp.lm.explain(jxp.input_x_gradient, bag, PROMPT, RESPONSE, hops="all")
    np.testing.assert_allclose(found.scores, passed_back(found.direct, 4, np.inf), atol=1e-6)
    np.testing.assert_allclose(found.rise - found.gap, found.scores.sum(1), atol=1e-5)


def test_unit_vectors_give_what_vmap_gives():
    a, b = jax.random.normal(KEY, (2, 5, 3)), jax.random.normal(KEY, (3, 4))

    def function(w):
        """With what a backward pass is made of, and a little that is not linear."""
        rows = jnp.pad(w * 2.0, (2, 0))[:, None] * jnp.ones((7, 3)) + 0 * a[0, 0, 0]
        rows = jnp.where(rows == 0, 0, rows * jnp.arange(7.0)[:, None])[2:]
        mixed = (rows * a[0]) @ b
        heads = jnp.transpose(mixed.reshape(5, 2, 2), (1, 0, 2)) / 3
        back = jnp.einsum("hsd,stx->htdx", heads, a[0][:, None, :] * jnp.ones((5, 6, 1)))
        return {"rows": mixed, "dense": back, "sum": heads.sum((1, 2)), "not": jnp.tanh(mixed) + 1}

    got = jax.vmap(at_units(function, 5, a.dtype))(jnp.arange(5))
    want = jax.vmap(function)(jnp.eye(5))
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5), got, want)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "most"), [("deeplift", 0.40), ("input_x_gradient", 0.55), ("attn_lrp", 0.55)]
)
def test_a_matrix_costs_a_part_of_its_rows(method, most):
    """In FLOPs of the compiled programs, T = 32; parameters are arguments, lest XLA fold them."""
    method, ref = METHODS[method]
    params = {**PARAMS, "places": jnp.ones((64, 8))}
    ids = jnp.concatenate([jnp.arange(24) % 11, jnp.arange(32) % 7])

    def flops(function):
        return jax.jit(function).lower(params, ids).compile().cost_analysis()["flops"]

    def matrix(params, ids):
        model = functools.partial(language.logits, params)
        return jxp.lm.explain(method, model, ids[:24], ids[24:]).scores

    def row(params, ids):
        e, g = jxp.embedded(functools.partial(language.logits, params))(ids)
        return method(lambda e: jax.nn.log_softmax(g(e)[23 + 16])[ids[24 + 16]], *ref)(e).sum(-1)

    cost = flops(matrix) / (32 * flops(row))
    assert cost <= most


# Citing.


LABELS = np.array([-1, 0, 0, 1])


def by_hand(value):
    """Shapley values of two players."""
    v = {s: np.asarray(value(np.array(s, bool))) for s in itertools.product((0, 1), repeat=2)}
    first = ((v[1, 0] - v[0, 0]) + (v[1, 1] - v[0, 1])) / 2
    return np.stack([first, v[1, 1] - v[0, 0] - first], 1)


def shown(present):
    return np.r_[np.where(LABELS < 0, True, present[np.maximum(LABELS, 0)]), [True] * 3]


@pytest.mark.promotes
def test_citations_are_shapley_values_of_masked_runs():
    cite = functools.partial(jxp.lm.cite, groups=LABELS)
    e, g = jxp.embedded(bag)(IDS)
    rows = lambda present: jnp.where(shown(present)[:, None], e, SMALL["embed"][0])
    np.testing.assert_allclose(
        cite(bag, PROMPT, RESPONSE, ref=0)(), by_hand(lambda s: log_p(g(rows(s)))), atol=1e-5
    )
    seeing = functools.partial(language.logits, SMALL)
    np.testing.assert_allclose(
        cite(seeing, PROMPT, RESPONSE, mask="attention")(),
        by_hand(lambda s: log_p(seeing(IDS, shown(s)))), atol=1e-5,
    )  # fmt: skip

    def without(present):
        kept = IDS[shown(present)]
        places = len(kept) - 4 + jnp.arange(3)
        return jax.nn.log_softmax(bag(kept))[places, jnp.array(RESPONSE)]

    np.testing.assert_allclose(
        cite(bag, PROMPT, RESPONSE, mask="deletion")(), by_hand(without), atol=1e-5
    )


@pytest.mark.slow
def test_citations_are_drawn_with_a_key():
    """Six players in 16 runs, on either side of the program the same ones."""
    prompt = [1, *range(2, 8)]
    labels = np.r_[-1, np.arange(6)]
    explain = jxp.lm.cite(bag, prompt, [2, 3], groups=labels, samples=16)
    drawn = explain(key=KEY)
    assert drawn.shape == (2, 6)
    exact = jxp.lm.cite(bag, prompt, [2, 3], groups=labels)()
    np.testing.assert_allclose(drawn.sum(1), exact.sum(1), atol=1e-5)
    assert np.corrcoef(drawn.ravel(), exact.ravel())[0, 1] > 0.8
    with pytest.raises(TypeError, match="a key is missing"):
        explain()
    host = jxp.lm.cite(bag, prompt, [2], groups=labels, samples=12, mask="deletion")
    assert host(key=KEY).shape == (1, 6)


# Units.


CHAT = "<|user|>Dr. No paid 3.5 euros. Who?\nSay e.g. why!<|end|>\n<|bot|>"


def offsets(text):
    """Pieces as a tokenizer's: words with the space before them, marks, and a special token."""
    import re

    spans = [m.span() for m in re.finditer(r"<\|\w+\|>| ?\w+|[^\w\s]|\s", text)]
    return [(0, 0), *spans]


def test_sentences_and_words_of_a_chat():
    messages = [{"role": "user", "content": "Dr. No paid 3.5 euros. Who?\nSay e.g. why!"}]
    pieces = offsets(CHAT)
    found = jxp.lm.units(CHAT, pieces, "sentence", messages=messages)
    assert found.texts == ("Dr. No paid 3.5 euros.", "Who?", "Say e.g. why!")
    assert found.roles == ("user",) * 3 and len(found) == 3
    text_of = [CHAT[a:b] for a, b in pieces]
    assert [text_of[i] for i in found.fixed] == ["", "<|user|>", "<|end|>", "\n", "<|bot|>"]
    assert "".join(text_of[i] for i in np.flatnonzero(found.labels == 1)) == " Who?\n"
    words = jxp.lm.units(CHAT, pieces, "word", messages=messages)
    assert words.texts[:4] == ("Dr.", "No", "paid", "3.5")
    whole = jxp.lm.units(CHAT, pieces, "message", messages=messages)
    assert whole.texts == (messages[0]["content"],)
    mask = [piece.startswith("<|") for piece in text_of]
    assert jxp.lm.units(CHAT, pieces, "word", special=mask).texts[-1] == "why!"
    own = jxp.lm.units(CHAT, pieces, [(8, 14), (32, 36)])
    assert own.texts == ("Dr. No", CHAT[32:36]) and own.roles == (None, None)
    assert jxp.lm.units("好。不好！", [(0, 2), (2, 5)]).texts == ("好。", "不好！")


# Errors.


WRONG_UNITS = [
    (("ab c", [(0, 2), (3, 9)]), ValueError, "token 1 .* outside of the text"),
    (("ab c", [(2, 0), (3, 4)]), ValueError, "token 0 .* ends before it starts"),
    (("ab c", [(3, 4), (0, 2)]), ValueError, "go forward"),
    (("ab c", [1, 2]), TypeError, "pair"),
    (("ab c", [(0, 2)], "line"), ValueError, "unknown kind 'line'"),
    (("ab c", [(0, 2)], [(0, 2), (1, 3)]), ValueError, "overlap"),
    (("ab c", [(0, 2)], [(0, 9)]), ValueError, "span"),
    (("ab c", [(0, 0)]), ValueError, "no unit"),
    (("ab c", [(0, 2)], "message"), ValueError, "`messages` are not given"),
]


@pytest.mark.parametrize(("args", "error", "words"), WRONG_UNITS)
def test_units_that_there_are_not(args, error, words):
    with pytest.raises(error, match=words):
        jxp.lm.units(*args)
    with pytest.raises(ValueError, match="is not in the text"):
        jxp.lm.units("a", [(0, 1)], messages=[{"role": "user", "content": "b"}])


def explained(f=small, prompt=PROMPT, response=RESPONSE, **options):
    return lambda: jxp.lm.explain(jxp.gradient, f, prompt, response, **options)


def cited(f=small, **options):
    return lambda: jxp.lm.cite(f, PROMPT, RESPONSE, **{"groups": LABELS, **options})


def taking(ids):
    return jnp.take(SMALL["embed"], ids, axis=0) + jnp.take(
        SMALL["places"], jnp.arange(len(ids)), axis=0
    )


WRONG = [
    (explained(response=[]), ValueError, "response is empty"),
    (explained(prompt=[]), ValueError, "prompt is empty"),
    (explained(response=[11]), ValueError, "token id 11.*out of range.*0 to 10"),
    (explained(prompt=[-1, 2]), ValueError, "token id -1"),
    (explained(prompt=[[1, 2]]), ValueError, r"give its row \[0\]"),
    (explained(prompt=[0.5]), TypeError, "integers"),
    (explained(prompt="text"), TypeError, "token ids"),
    (explained(prompt=[1] * 20), ValueError, "23 tokens are more.*works on 16"),
    (
        explained(lambda i: taking(i) @ SMALL["out"], [1] * 20),
        ValueError,
        "row 16 of a table of 16",
    ),
    (explained(lambda i: small(jnp.minimum(i + 8, 20))), ValueError, "ids are out of range.*row"),
    (explained(lambda i: small(i)[None]), ValueError, r"f\(ids\)\[0\]"),
    (explained(lambda i: small(i)[-1]), ValueError, "last place alone"),
    (explained(lambda i: {"logits": small(i)}), TypeError, r'\["logits"\]'),
    (explained(lambda i: bag(jnp.roll(i, 1))), ValueError, "moves its token ids about"),
    (explained(lambda i: bag(i) + bag(i)[-1]), ValueError, "sees later tokens"),
    (explained(lambda i: bag(i) - jnp.inf), FloatingPointError, "not finite"),
    (explained(lambda i: jax.nn.one_hot(i, 11)), ValueError, "looks up no row"),
    (explained(at="h"), TypeError, "at= has no place"),
    (explained(ref=0), TypeError, "takes no reference"),
    (explained(contrast=[99, 1, 1]), ValueError, "token id 99"),
    (explained(hops=-1), ValueError, "hops"),
    (explained(tokens=["a"]), ValueError, "1 tokens for 7"),
    (cited(groups=LABELS[1:]), ValueError, "the prompt has 4"),
    (cited(groups=LABELS * [1, 1, 1, 2]), ValueError, "without a gap"),
    (cited(mask="none"), ValueError, "unknown mask"),
    (cited(mask="deletion", ref=0), ValueError, "ref is given"),
    (cited(mask="attention"), TypeError, r"f takes \(ids, mask\)"),
    (lambda: cited(f=bag, samples=2)()(key=KEY), ValueError, "at least 4 samples"),
    (lambda: cited(groups=np.zeros(4, int), mask="deletion")()(), ValueError, "label a token"),
]


@pytest.mark.promotes
@pytest.mark.parametrize(("call", "error", "words"), WRONG)
def test_what_cannot_be_explained_is_told(call, error, words):
    with pytest.raises(error, match=words):
        call()
