"""Combinators: explanations of explanations, averaged or in batches."""

from jaxplain.combinators.averages import expected as expected
from jaxplain.combinators.averages import smooth as smooth
from jaxplain.combinators.batches import batched as batched
