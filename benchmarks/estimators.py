"""Estimators of Shapley values by other packages, and one by its paper, behind one signature.

Each is estimate(game, n, budget, seed) → φ (n,), game(masks (k, n)) → values (k,), and evaluates
at most `budget` coalitions, ∅, N and repetitions counted: the most its parameters allow. (shapiq's
SPEX is left out: it needs more than 20n, and takes seconds at 80n. ProxySPEX stands without its
search over its trees' settings, which takes seconds an estimate and changes its error little;
ProxySHAP and RegressionMSR use xgboost's trees, or lightgbm's where that is not installed.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import numpy as np

from jaxplain.methods.shapley import designs

Game = Callable[[np.ndarray], np.ndarray]
Estimate = Callable[[Game, int, int, int], np.ndarray]


class TooFew(ValueError):
    """The budget is below what an estimator needs."""


def shap_kernel(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    """Without its l1 selection of features, which is on by default and hurts here."""
    import shap

    np.random.seed(seed)
    explainer = shap.KernelExplainer(game, np.zeros((1, n)))  # evaluates ∅, and N when it explains
    return explainer.shap_values(np.ones((1, n)), nsamples=budget - 2, l1_reg=False, silent=True)[0]


def shap_permutation(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    import shap

    explainer = shap.PermutationExplainer(game, np.zeros((1, n)), seed=seed)
    _at_least(2 * n + 1, budget)
    return explainer(np.ones((1, n)), max_evals=budget, silent=True).values[0]


def shap_sampling(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    """Two evaluations a sample, of which each player needs two for the variance."""
    import shap

    np.random.seed(seed)
    explainer = shap.SamplingExplainer(game, np.zeros((1, n)))
    samples = (budget - 2) // 4 * 2  # it makes them even
    _at_least(2 * n, samples)
    return explainer.shap_values(
        np.ones((1, n)), nsamples=samples, min_samples_per_feature=4, silent=True
    )[0]


def shapiq(name: str, **options: Any) -> Estimate:
    def estimate(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
        from shapiq import approximator

        method = getattr(approximator, name, None)
        if method is None or not {*options} <= {*inspect.signature(method).parameters}:
            raise ImportError(f"shapiq {version('shapiq')} has none with these options")
        method = method(n=n, random_state=seed, **options)
        found = method.approximate(budget, game)
        return np.array([found[(player,)] for player in range(n)])

    return estimate


def shapiq_owen(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    """With as many anchor points as leave each player one sample at each, ten at most."""
    points = min(10, (budget - 2) // (2 * n))
    return shapiq("OwenSamplingSV", n_anchor_points=points)(game, n, budget, seed)


def captum_sampling(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    import torch
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(seed)
    orders = (budget - 1) // n
    _at_least(1, orders)
    found = ShapleyValueSampling(_of_tensors(game)).attribute(
        torch.ones(1, n), torch.zeros(1, n), n_samples=orders, perturbations_per_eval=n
    )
    return found[0].numpy()


def captum_kernel(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    import torch
    from captum.attr import KernelShap

    torch.manual_seed(seed)
    found = KernelShap(_of_tensors(game)).attribute(
        torch.ones(1, n), torch.zeros(1, n), n_samples=budget - 1, perturbations_per_eval=budget
    )
    return found[0].numpy()


def leverage_shap(game: Game, n: int, budget: int, seed: int) -> np.ndarray:
    r"""LeverageSHAP by its paper: pairs kept with probability min(1, 2c ℓ_s), weighted inversely.

    A pair's size is drawn binomially, so the number of evaluations is `budget` in expectation.
    Source: Musco & Witter, arXiv 2410.01917, algorithm 1.
    """
    from scipy.optimize import brentq
    from scipy.special import comb

    rng = np.random.default_rng(seed)
    sizes = np.arange(1, n // 2 + 1)
    pairs = comb(n, sizes) / np.where(2 * sizes == n, 2, 1)
    leverage = 1 / comb(n, sizes)
    expected = lambda c: (pairs * np.minimum(1, 2 * c * leverage)).sum() - (budget - 2) / 2
    c = brentq(expected, 0, comb(n, n // 2)) if expected(comb(n, n // 2)) > 0 else comb(n, n // 2)
    kept = np.minimum(1, 2 * c * leverage)
    counts = rng.binomial(pairs.astype(int), kept)
    half = np.concatenate(
        [designs.distinct(n, int(s), int(k), rng) for s, k in zip(sizes, counts, strict=True)]
    )
    size = np.minimum(half.sum(1), n - half.sum(1))
    masks = np.concatenate([half, ~half]).astype(float)
    weight = 1 / (comb(n, size) * size * (n - size) * kept[size - 1])
    root = np.sqrt(np.tile(weight, 2))
    empty, full = game(np.stack([np.zeros(n), np.ones(n)]))
    centred = root[:, None] * (masks - masks.mean(1, keepdims=True))  # √W Z P
    even = masks.mean(1) * (full - empty)
    target = root * (game(masks) - empty - even)
    return np.linalg.lstsq(centred, target, rcond=None)[0] + (full - empty) / n


def _of_tensors(game: Game) -> Callable[[Any], Any]:
    import torch

    return lambda masks: torch.as_tensor(game(masks.numpy()), dtype=torch.float32)


def _at_least(least: int, given: int) -> None:
    if given < least:
        raise TooFew(f"needs {least}, and has {given}")


LEVERAGE = "LeverageSHAP (as published)"
_VALUES = {"index": "SV", "max_order": 1}
PEERS: dict[str, Estimate] = {
    "shap KernelExplainer": shap_kernel,
    "shap PermutationExplainer": shap_permutation,
    "shap SamplingExplainer": shap_sampling,
    "shapiq KernelSHAP": shapiq("KernelSHAP", pairing_trick=True),
    "shapiq kADDSHAP": shapiq("kADDSHAP", pairing_trick=True),
    "shapiq KernelSHAPIQ": shapiq("KernelSHAPIQ", index="SII", max_order=2, pairing_trick=True),
    "shapiq UnbiasedKernelSHAP": shapiq("UnbiasedKernelSHAP", pairing_trick=True),
    "shapiq SVARM": shapiq("SVARM", pairing_trick=True),
    "shapiq PermutationSamplingSV": shapiq("PermutationSamplingSV"),
    "shapiq StratifiedSamplingSV": shapiq("StratifiedSamplingSV"),
    "shapiq OwenSamplingSV": shapiq_owen,
    "shapiq LeverageSHAP": shapiq("LeverageSHAP"),
    "shapiq PolySHAP": shapiq("PolySHAP", pairing_trick=True),
    "shapiq OddSHAP": shapiq("OddSHAP"),
    "shapiq RegressionMSR": shapiq("RegressionMSR", index="SV"),
    "shapiq ProxySHAP": shapiq("ProxySHAP", adjustment=True, **_VALUES),
    "shapiq ProxySPEX": shapiq("ProxySPEX", hpo=False, pairing_trick=True, **_VALUES),
    "captum ShapleyValueSampling": captum_sampling,
    "captum KernelShap": captum_kernel,
    LEVERAGE: leverage_shap,
}


def _distribution(package: str) -> str:
    """What was installed to have it: xgboost-cpu has the same package as xgboost."""
    return packages_distributions().get(package, [package])[0]


def versions() -> dict[str, str | None]:
    """What is installed of the packages compared with."""
    found: dict[str, str | None] = {}
    for package in ("shap", "shapiq", "lightgbm", "xgboost", "captum", "torch"):
        try:
            found[package] = version(_distribution(package))
        except PackageNotFoundError:
            found[package] = None
    return found


# They ask about as often as the budget says: the one draws the number of its coalitions, the other
# rounds each player's share up.
ABOUT = {LEVERAGE, "shap SamplingExplainer"}
