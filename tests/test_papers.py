"""What the original DeepLIFT package scores in its paper's experiments, from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest

import jaxplain as jxp

SLOW = {"8->3/ig10", "9->1/ig10", "9->1/ig5", "9->1/revealcancel", "9->1/genomics_default"}


def gradient_like(method):
    return lambda f, ref: lambda x: (x - ref) * method(f)(x)


def masked(method):
    """The multipliers themselves, where there is any ink."""
    return lambda f, ref: lambda x: jnp.where(x > 0, method(f)(x), 0)


def integrated_gradients(steps):
    return lambda f, ref: jxp.integrated_gradients(f, ref, steps=steps, quadrature="midpoint")


def deeplift(rules):
    return lambda f, ref: jxp.deeplift(f, ref, rules=rules)


METHODS = {
    "simonyan_masked": masked(jxp.saliency),
    "gbp_masked": masked(jxp.guided_backprop),
    "gbp_x_inp": gradient_like(jxp.guided_backprop),
    "guided_backprop_x_dinput": gradient_like(jxp.guided_backprop),
    "grad_x_inp": jxp.input_x_gradient,
    "grad_x_dinput": jxp.input_x_gradient,
    "ig5": integrated_gradients(5),
    "ig10": integrated_gradients(10),
    "rescale": deeplift("rescale"),
    "revealcancel": deeplift("reveal_cancel"),
    "genomics_default": deeplift("genomics"),
}


def table(name):
    rows = papers.load(f"{name}_expected.json").items()
    rows = [{"id": k, "method": k.split("/")[1], "expected": v} for k, v in rows]
    return [pytest.param(row, id=row["id"], marks=marks(row["id"])) for row in rows]


def marks(row):
    """Several passes each over a thousand digits take long."""
    return [pytest.mark.slow] if row in SLOW else []


@pytest.mark.parametrize("row", table("mnist"))
def test_digit_conversion(row):
    """The drop in log-odds when the pixels that speak most for the first digit are erased."""
    source, other = (int(digit) for digit in row["id"].split("/")[0].split("->"))
    method, pair = METHODS[row["method"]], jnp.array([source, other])

    def drop(image):
        explain = lambda digit: method(jxp.logit(papers.mnist, digit), 0.0)(image)
        scores = jax.vmap(explain)(pair)
        odds = jxp.log_odds(papers.mnist, source, other)
        left = odds(papers.erase(image, scores[0] - scores[1]))
        return odds(image) - left, left < 0

    images = papers.digits(source)
    drops, flipped = jax.jit(jax.vmap(drop))(images)
    quartiles = np.percentile(drops, [25, 50, 75])
    got = dict(zip(("q25", "median", "q75"), quartiles, strict=True), n=len(images))
    got |= {"mean": drops.mean(), "flipped": flipped.mean()}
    for name, expected in row["expected"].items():
        assert got[name] == pytest.approx(expected, rel=1e-3), name


@pytest.mark.parametrize("row", table("tal_gata"))
def test_motifs_overlooked(row):
    """Strong motif instances of positive sequences that get no positive score."""
    motif = {"TAL1_known1": "pwm_tal1", "GATA_disc1": "pwm_gata1"}[row["id"].split("/")[0]]
    bases = papers.labelled_sequences()
    ref = jnp.asarray(papers.BACKGROUND, jnp.float32)
    explain = METHODS[row["method"]](jxp.logit(papers.genomics, 0), ref)
    scores = jax.jit(jax.vmap(explain))(jax.nn.one_hot(bases, 4)).sum(-1)
    missed, hits = papers.false_negatives(
        bases, papers.load("tal_gata_test.npz")[motif], np.asarray(scores)
    )
    assert [missed, hits] == row["expected"][:2]
