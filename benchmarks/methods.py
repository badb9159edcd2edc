"""The methods under the clock, by the name their row carries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

import jaxplain as jxp

Array = jax.Array
BASELINE = "gradient"


@dataclass(frozen=True)
class Method:
    """`make(f, ref)` returns explain(x, params), shaped like x.

    Args:
      make: from a scalar f(x, params) and one reference to an explanation.
      settings: what the method was asked for, as its row shows it.
      contributions: whether it answers with shares of f(x) - f(ref), so that a gap means something.
    """

    make: Callable[[Callable, Array], Callable[[Array, Any], Array]]
    settings: str = ""
    contributions: bool = True


METHODS: dict[str, Method] = {
    BASELINE: Method(lambda f, ref: jax.grad(f), "jax.grad", contributions=False),
    "deeplift": Method(jxp.deeplift, "rescale"),
    "reveal_cancel": Method(partial(jxp.deeplift, rules="reveal_cancel"), "reveal_cancel"),
    "central_limit": Method(partial(jxp.deeplift, rules="central_limit"), "central_limit"),
    "input_x_gradient": Method(lambda f, ref: jxp.input_x_gradient(f, ref)),
    "guided_backprop": Method(lambda f, ref: jxp.guided_backprop(f), contributions=False),
    "integrated_gradients": Method(
        lambda f, ref: jxp.integrated_gradients(f, ref, steps=32), "32 steps"
    ),
}
