"""jaxplain: attributions of any JAX program, as composable function transforms."""

from jaxplain import references as references
from jaxplain.combinators import expected as expected
from jaxplain.combinators import smooth as smooth
from jaxplain.deeplift import deeplift as deeplift
from jaxplain.deeplift_shap import deeplift_shap as deeplift_shap
from jaxplain.gradients import deconvnet as deconvnet
from jaxplain.gradients import gradient as gradient
from jaxplain.gradients import guided_backprop as guided_backprop
from jaxplain.gradients import input_x_gradient as input_x_gradient
from jaxplain.gradients import saliency as saliency
from jaxplain.metrics import completeness_gap as completeness_gap
from jaxplain.paths import integrated_gradients as integrated_gradients
from jaxplain.surrogate import RuleTable as RuleTable
from jaxplain.surrogate import UnsupportedPrimitive as UnsupportedPrimitive
from jaxplain.surrogate import override as override
from jaxplain.surrogate import rules as rules
from jaxplain.targets import contrast as contrast
from jaxplain.targets import log_likelihood as log_likelihood
from jaxplain.targets import log_odds as log_odds
from jaxplain.targets import logit as logit
from jaxplain.targets import probability as probability
