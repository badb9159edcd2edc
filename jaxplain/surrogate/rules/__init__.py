"""The rule tables, and the rules that a table of your own is made of."""

from jaxplain.surrogate.rules.backprop import deconvnet, guided_backprop
from jaxplain.surrogate.rules.rescale import linear, path_integral, rescale, winner

__all__ = ["deconvnet", "guided_backprop", "linear", "path_integral", "rescale", "winner"]
