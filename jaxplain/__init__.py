"""jaxplain: attributions of any JAX program, as composable function transforms."""

import importlib as _importlib
from importlib import metadata as _metadata
from typing import TYPE_CHECKING as _TYPE_CHECKING

from jaxplain import datasets as datasets
from jaxplain import genomics as genomics
from jaxplain import lm as lm
from jaxplain import metrics as metrics
from jaxplain import references as references
from jaxplain import rules as rules
from jaxplain import stream as stream
from jaxplain.combinators import batched as batched
from jaxplain.combinators import expected as expected
from jaxplain.combinators import smooth as smooth
from jaxplain.methods import cam as cam
from jaxplain.methods.audit import audit as audit
from jaxplain.methods.cam import grad_cam as grad_cam
from jaxplain.methods.cam import grad_cam_plus_plus as grad_cam_plus_plus
from jaxplain.methods.cam import guided_grad_cam as guided_grad_cam
from jaxplain.methods.cam import hires_cam as hires_cam
from jaxplain.methods.cam import layer_cam as layer_cam
from jaxplain.methods.curved_paths import blur_integrated_gradients as blur_integrated_gradients
from jaxplain.methods.curved_paths import guided_integrated_gradients as guided_integrated_gradients
from jaxplain.methods.curved_paths import idgi as idgi
from jaxplain.methods.deeplift import deeplift as deeplift
from jaxplain.methods.deeplift_shap import deeplift_shap as deeplift_shap
from jaxplain.methods.expected_gradients import expected_gradients as expected_gradients
from jaxplain.methods.gradients import deconvnet as deconvnet
from jaxplain.methods.gradients import gradient as gradient
from jaxplain.methods.gradients import guided_backprop as guided_backprop
from jaxplain.methods.gradients import input_x_gradient as input_x_gradient
from jaxplain.methods.gradients import saliency as saliency
from jaxplain.methods.integrated_gradients import integrated_gradients as integrated_gradients
from jaxplain.methods.moments import moment_shapley as moment_shapley
from jaxplain.methods.neurons import conductance as conductance
from jaxplain.methods.neurons import internal_influence as internal_influence
from jaxplain.methods.neurons import neuron_conductance as neuron_conductance
from jaxplain.methods.neurons import neuron_integrated_gradients as neuron_integrated_gradients
from jaxplain.methods.patching import attribution_patching as attribution_patching
from jaxplain.methods.patching import edge_attributions as edge_attributions
from jaxplain.methods.perturbation import ablation as ablation
from jaxplain.methods.perturbation import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.methods.perturbation import lime as lime
from jaxplain.methods.perturbation import occlusion as occlusion
from jaxplain.methods.perturbation import permutation_importance as permutation_importance
from jaxplain.methods.perturbation import rise as rise
from jaxplain.methods.perturbation import sobol as sobol
from jaxplain.methods.relevance import attn_lrp as attn_lrp
from jaxplain.methods.relevance import cp_lrp as cp_lrp
from jaxplain.methods.relevance import lrp as lrp
from jaxplain.methods.shapley.values import banzhaf_values as banzhaf_values
from jaxplain.methods.shapley.values import kernel_shap as kernel_shap
from jaxplain.methods.shapley.values import owen_values as owen_values
from jaxplain.methods.shapley.values import permutation_shapley as permutation_shapley
from jaxplain.methods.shapley.values import shapley_interactions as shapley_interactions
from jaxplain.methods.shapley.values import shapley_values as shapley_values
from jaxplain.metrics.agreement import agreement as agreement
from jaxplain.metrics.completeness import completeness_gap as completeness_gap
from jaxplain.metrics.correlations import faithfulness_correlation as faithfulness_correlation
from jaxplain.metrics.curves import abpc as abpc
from jaxplain.metrics.curves import comprehensiveness as comprehensiveness
from jaxplain.metrics.curves import deletion as deletion
from jaxplain.metrics.curves import insertion as insertion
from jaxplain.metrics.curves import monotonicity as monotonicity
from jaxplain.metrics.curves import sufficiency as sufficiency
from jaxplain.metrics.evaluation import evaluate as evaluate
from jaxplain.metrics.infidelity import infidelity as infidelity
from jaxplain.metrics.localisation import localisation_auc as localisation_auc
from jaxplain.metrics.localisation import pointing_game as pointing_game
from jaxplain.metrics.localisation import relevance_mass as relevance_mass
from jaxplain.metrics.localisation import relevance_rank as relevance_rank
from jaxplain.metrics.randomization import parameter_randomization as parameter_randomization
from jaxplain.metrics.sensitivity import max_sensitivity as max_sensitivity
from jaxplain.metrics.statistics import complexity as complexity
from jaxplain.metrics.statistics import sparseness as sparseness
from jaxplain.named.api import capture as capture
from jaxplain.named.api import intervene as intervene
from jaxplain.named.api import names as names
from jaxplain.named.api import neuron as neuron
from jaxplain.named.api import substitute as substitute
from jaxplain.named.api import tag as tag
from jaxplain.named.rows import embedded as embedded
from jaxplain.surrogate import RuleTable as RuleTable
from jaxplain.surrogate import UnsupportedPrimitive as UnsupportedPrimitive
from jaxplain.surrogate import override as override
from jaxplain.targets import contrast as contrast
from jaxplain.targets import log_likelihood as log_likelihood
from jaxplain.targets import log_odds as log_odds
from jaxplain.targets import logit as logit
from jaxplain.targets import probability as probability

if _TYPE_CHECKING:  # what an editor is to know of the lazy modules
    from jaxplain import interop as interop
    from jaxplain import plots as plots
    from jaxplain.models import equinox as equinox
    from jaxplain.models import flax as flax
    from jaxplain.models import keras as keras

_LAZY = {  # modules that need more than jax, imported when they are first used
    **{name: f"jaxplain.models.{name}" for name in ("equinox", "flax", "keras")},
    **{name: f"jaxplain.{name}" for name in ("interop", "plots")},
}
_PRIVATE = {"combinators", "games", "methods", "models", "named", "surrogate", "targets"}

__all__ = sorted({name for name in globals() if not name.startswith("_")} - _PRIVATE)


def __getattr__(name: str) -> object:
    """The lazy modules, and the version of what is installed."""
    if name in _LAZY:
        return _importlib.import_module(_LAZY[name])
    if name == "__version__":
        return _metadata.version("jaxplain")
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user may type, the lazy modules and no private ones."""
    return [*__all__, *_LAZY, "__version__"]
