"""What is compared: families of methods, with jaxplain's member of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxplain as jxp
from benchmarks.methods import keyed
from benchmarks.models import Model

STEPS, COALITIONS, CHUNK = 50, 64, 8


@dataclass(frozen=True)
class Family:
    """Methods that compute the same thing, at the same settings.

    Args:
      ours: jaxplain's, (model, refs) → explain(x, params).
      settings: what every member is asked for.
      shares: what the result adds up to: the rise of f above "ref", or above its mean over "refs".
      players: whether elements carry their group's share.
      kinds: the kinds of input it is for; all by default.
    """

    ours: Callable[[Model, Any], Callable[[Any, Any], Any]]
    settings: str = ""
    shares: str | None = None
    players: bool = False
    kinds: tuple[str, ...] = ("vector", "image", "bases", "sequence")


GROUPS = f"16 groups, {COALITIONS} coalitions"
FAMILIES: dict[str, Family] = {
    "DeepLIFT": Family(lambda m, refs: jxp.deeplift(m.f, m.ref), "1 reference", "ref"),
    "DeepLIFT-SHAP": Family(
        lambda m, refs: jxp.deeplift_shap(m.f, refs), "10 references", "refs"
    ),
    "integrated gradients": Family(
        lambda m, refs: jxp.integrated_gradients(m.f, m.ref, steps=STEPS), f"{STEPS} steps", "ref"
    ),
    "expected gradients": Family(
        lambda m, refs: keyed(jxp.expected_gradients(m.f, refs, samples=STEPS)),
        f"10 references, {STEPS} samples",
        "refs",
    ),
    "layer conductance": Family(
        lambda m, refs: jxp.conductance(m.f, m.ref, at="layer", steps=STEPS),
        f"{STEPS} steps",
        "ref",
    ),
    "ablation": Family(
        lambda m, refs: jxp.ablation(m.f, m.ref, groups=m.groups, chunk=CHUNK), "16 groups"
    ),
    "occlusion": Family(
        lambda m, refs: jxp.occlusion(
            m.f, m.ref, window=m.window, strides=m.window, chunk=CHUNK
        ),
        "16 windows",
    ),
    "permutation Shapley": Family(
        lambda m, refs: keyed(
            jxp.permutation_shapley(
                m.f, m.ref, groups=m.groups, samples=COALITIONS, chunk=CHUNK
            )
        ),
        GROUPS, "ref", True,
    ),
    "KernelSHAP": Family(
        lambda m, refs: keyed(
            jxp.kernel_shap(m.f, m.ref, groups=m.groups, samples=COALITIONS, chunk=CHUNK)
        ),
        GROUPS, "ref", True,
    ),
    "guided backprop": Family(lambda m, refs: jxp.guided_backprop(m.f)),
    "deconvolution": Family(lambda m, refs: jxp.deconvnet(m.f)),
    "in silico mutagenesis": Family(
        lambda m, refs: jxp.in_silico_mutagenesis(m.f, chunk=CHUNK),
        "all substitutions",
        kinds=("bases",),
    ),
}  # fmt: skip
