"""The methods that the DeepLIFT paper compares, by the names of its published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxplain as jxp

Array = jax.Array
Explain = Callable[[Array], Array]
Method = Callable[[Callable[[Array], Array], Any], Explain]  # (f, ref) → explain(x)


def times_difference(method: Callable[[Any], Explain]) -> Method:
    """The multipliers times the difference from the reference."""
    return lambda f, ref: lambda x: (x - ref) * method(f)(x)


def masked(method: Callable[[Any], Explain]) -> Method:
    """The multipliers themselves, where there is any ink."""
    return lambda f, ref: lambda x: jnp.where(x > 0, method(f)(x), 0)


def integrated_gradients(steps: int) -> Method:
    return lambda f, ref: jxp.integrated_gradients(f, ref, steps=steps, quadrature="midpoint")


def deeplift(rules: str) -> Method:
    return lambda f, ref: jxp.deeplift(f, ref, rules=rules)


METHODS: dict[str, Method] = {
    "simonyan_masked": masked(jxp.saliency),
    "gbp_masked": masked(jxp.guided_backprop),
    "gbp_x_inp": times_difference(jxp.guided_backprop),
    "guided_backprop_x_dinput": times_difference(jxp.guided_backprop),
    "grad_x_inp": jxp.input_x_gradient,
    "grad_x_dinput": jxp.input_x_gradient,
    "ig5": integrated_gradients(5),
    "ig10": integrated_gradients(10),
    "rescale": deeplift("rescale"),
    "genomics_default": deeplift("genomics"),
    "revealcancel": deeplift("reveal_cancel"),
}
LABELS = {
    "simonyan_masked": "absolute gradient, masked",
    "gbp_masked": "guided backprop, masked",
    "gbp_x_inp": "guided backprop × input",
    "guided_backprop_x_dinput": "guided backprop × Δinput",
    "grad_x_inp": "gradient × input",
    "grad_x_dinput": "gradient × Δinput",
    "ig5": "integrated gradients, 5 steps",
    "ig10": "integrated gradients, 10 steps",
    "rescale": "DeepLIFT, Rescale",
    "genomics_default": "DeepLIFT, genomics default",
    "revealcancel": "DeepLIFT, RevealCancel",
}
