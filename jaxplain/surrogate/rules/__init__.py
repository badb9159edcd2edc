"""The rule tables, and the rules that a table of your own is made of."""

from jaxplain.surrogate.rules.backprop import deconvnet, guided_backprop
from jaxplain.surrogate.rules.rescale import linear, path_integral, rescale, winner
from jaxplain.surrogate.rules.reveal_cancel import Place, genomics, reveal_cancel

__all__ = [
    "Place",
    "deconvnet",
    "genomics",
    "guided_backprop",
    "linear",
    "path_integral",
    "rescale",
    "reveal_cancel",
    "winner",
]
