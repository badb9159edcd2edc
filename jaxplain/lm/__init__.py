"""Language models: which tokens of a prompt an answer came from.

`explain` makes a matrix of response tokens by all tokens with any method of the package, `cite`
shares an answer out among words, sentences or passages by Shapley values of masked runs, `units`
finds these in a text.  A model is a function f of token ids (S,) to logits (S, V).
"""

from jaxplain.lm.citing import cite as cite
from jaxplain.lm.explaining import explain as explain
from jaxplain.lm.result import Explanation as Explanation
from jaxplain.lm.sequences import instead as instead
from jaxplain.lm.text import Units as Units
from jaxplain.lm.text import units as units
