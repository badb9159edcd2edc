"""Pictures of attributions: matplotlib axes in, axes out, and HTML for text; nothing is shown.

Every function draws on `ax` where it gets one, else on a new figure of pyplot's, and returns the
axes.  Red is for, blue against, on scales with zero in the middle; both are told apart by readers
who do not see red and green alike.  Needs matplotlib (the `plots` extra), imported when used.
"""

from jaxplain.plots.charts import bar as bar
from jaxplain.plots.charts import beeswarm as beeswarm
from jaxplain.plots.charts import curve as curve
from jaxplain.plots.charts import layers as layers
from jaxplain.plots.charts import neurons as neurons
from jaxplain.plots.images import compare as compare
from jaxplain.plots.images import image as image
from jaxplain.plots.matrix import Page as Page
from jaxplain.plots.matrix import token_matrix as token_matrix
from jaxplain.plots.sequences import logo as logo
from jaxplain.plots.sequences import logos as logos
from jaxplain.plots.sequences import mutations as mutations
from jaxplain.plots.sequences import time_series as time_series
from jaxplain.plots.text import Html as Html
from jaxplain.plots.text import tokens as tokens
