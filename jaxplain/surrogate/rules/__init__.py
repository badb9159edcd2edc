"""The rule tables, and the rules that a table of your own is made of."""

from jaxplain.surrogate.rules.backprop import deconvnet, guided_backprop
from jaxplain.surrogate.rules.central_limit import central_limit
from jaxplain.surrogate.rules.freezing import freeze_choices
from jaxplain.surrogate.rules.linear import linear
from jaxplain.surrogate.rules.maximum import winner
from jaxplain.surrogate.rules.parted import Place
from jaxplain.surrogate.rules.path_integral import path_integral
from jaxplain.surrogate.rules.rescale import rescale
from jaxplain.surrogate.rules.reveal_cancel import genomics, reveal_cancel

__all__ = [
    "Place",
    "central_limit",
    "deconvnet",
    "freeze_choices",
    "genomics",
    "guided_backprop",
    "linear",
    "path_integral",
    "rescale",
    "reveal_cancel",
    "winner",
]
