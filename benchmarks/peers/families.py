"""What is compared: families of methods, with jaxplain's member of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxplain as jxp
from benchmarks.methods import keyed
from benchmarks.models import Model
from benchmarks.peers.task import Task

STEPS, COALITIONS = 50, 64
# How many evaluations of the batch are in memory at once, None all: the fastest is taken.
PATH_CHUNKS, MASK_CHUNKS = (1, 8, None), (8, 1)


@dataclass(frozen=True)
class Member:
    """A package's method of a family.

    Args:
      family: its name, out of `FAMILIES`, or "gradient".
      make: (task, chunk) → run.
      chunks: those it may be tried with.
    """

    family: str
    make: Callable[[Task, int | None], Callable[[], Any]]
    chunks: tuple[int | None, ...] = (None,)


@dataclass(frozen=True)
class Family:
    """Methods that compute the same thing, at the same settings.

    Args:
      ours: jaxplain's, (model, refs, chunk) → explain(x, params).
      settings: what every member is asked for.
      shares: what the result adds up to: the rise of f above "ref", or above its mean over "refs".
      players: whether elements carry their group's share.
      kinds: the kinds of input it is for; all by default.
      equal: whether every member's scores are ours, to rounding.
      chunks: as a `Member`'s.
    """

    ours: Callable[[Model, Any, int | None], Callable[[Any, Any], Any]]
    settings: str = ""
    shares: str | None = None
    players: bool = False
    kinds: tuple[str, ...] = ("vector", "image", "bases", "sequence")
    equal: bool = False
    chunks: tuple[int | None, ...] = (None,)


def coalitions(method: Callable[..., Any]) -> Family:
    """One of the estimators of groups' Shapley values."""

    def ours(m: Model, refs: Any, chunk: int | None) -> Callable[[Any, Any], Any]:
        return keyed(method(m.f, m.ref, groups=m.groups, samples=COALITIONS, chunk=chunk))

    settings = f"16 groups, {COALITIONS} coalitions"
    return Family(ours, settings, "ref", players=True, chunks=MASK_CHUNKS)


BOX = (-3.0, 3.0)  # between which nearly all inputs lie
# LRP's composites: what zennit has them for.
COMPOSITES: dict[str, Callable[[], Any]] = {
    "LRP EpsilonPlus": jxp.rules.epsilon_plus,
    "LRP EpsilonPlusFlat": jxp.rules.epsilon_plus_flat,
    "LRP EpsilonAlpha2Beta1": jxp.rules.epsilon_alpha2_beta1,
    "LRP EpsilonAlpha2Beta1Flat": jxp.rules.epsilon_alpha2_beta1_flat,
    "LRP EpsilonGammaBox": lambda: jxp.rules.epsilon_gamma_box(*BOX),
}


def relevance(name: str, rules: Callable[[], Any]) -> Family:
    """A composite, which every member computes alike: scores are compared.

    zennit's box is for convolutions alone, ours for whatever sees the input.
    """
    kinds = ("image",) if "Box" in name else ("vector", "image")
    return Family(lambda m, refs, chunk: jxp.lrp(m.f, rules=rules()), equal=True, kinds=kinds)


FAMILIES: dict[str, Family] = {
    "DeepLIFT": Family(lambda m, refs, chunk: jxp.deeplift(m.f, m.ref), "1 reference", "ref"),
    "DeepLIFT-SHAP": Family(
        lambda m, refs, chunk: jxp.deeplift_shap(m.f, refs), "10 references", "refs"
    ),
    "integrated gradients": Family(
        lambda m, refs, chunk: jxp.integrated_gradients(m.f, m.ref, steps=STEPS, chunk=chunk),
        f"{STEPS} steps",
        "ref",
        chunks=PATH_CHUNKS,
    ),
    "expected gradients": Family(
        lambda m, refs, chunk: keyed(jxp.expected_gradients(m.f, refs, samples=STEPS, chunk=chunk)),
        f"10 references, {STEPS} samples",
        "refs",
        chunks=PATH_CHUNKS,
    ),
    "layer conductance": Family(  # as Captum has it: by differences between the steps
        lambda m, refs, chunk: jxp.neuron_integrated_gradients(
            m.f, m.ref, at="layer", steps=STEPS, quadrature="right", chunk=chunk
        ),
        f"{STEPS} steps",
        "ref",
        chunks=PATH_CHUNKS,
    ),
    "ablation": Family(
        lambda m, refs, chunk: jxp.ablation(m.f, m.ref, groups=m.groups, chunk=chunk),
        "16 groups",
        chunks=MASK_CHUNKS,
    ),
    "occlusion": Family(
        lambda m, refs, chunk: jxp.occlusion(
            m.f, m.ref, window=m.window, strides=m.window, chunk=chunk
        ),
        "16 windows",
        chunks=MASK_CHUNKS,
    ),
    "permutation Shapley": coalitions(jxp.permutation_shapley),
    "KernelSHAP": coalitions(jxp.kernel_shap),
    "guided backprop": Family(lambda m, refs, chunk: jxp.guided_backprop(m.f)),
    "deconvolution": Family(lambda m, refs, chunk: jxp.deconvnet(m.f)),
    **{name: relevance(name, rules) for name, rules in COMPOSITES.items()},
    "in silico mutagenesis": Family(
        lambda m, refs, chunk: jxp.in_silico_mutagenesis(m.f, chunk=chunk),
        "all substitutions",
        kinds=("bases",),
        chunks=MASK_CHUNKS,
    ),
}
