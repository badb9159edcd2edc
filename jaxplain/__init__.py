"""jaxplain: attributions of any JAX program, as composable function transforms."""

import importlib as _importlib

from jaxplain import cam as cam
from jaxplain import datasets as datasets
from jaxplain import genomics as genomics
from jaxplain import references as references
from jaxplain.batches import batched as batched
from jaxplain.cam import grad_cam as grad_cam
from jaxplain.cam import grad_cam_plus_plus as grad_cam_plus_plus
from jaxplain.cam import guided_grad_cam as guided_grad_cam
from jaxplain.cam import hires_cam as hires_cam
from jaxplain.cam import layer_cam as layer_cam
from jaxplain.combinators import expected as expected
from jaxplain.combinators import smooth as smooth
from jaxplain.conductance import conductance as conductance
from jaxplain.conductance import internal_influence as internal_influence
from jaxplain.conductance import neuron_conductance as neuron_conductance
from jaxplain.conductance import neuron_integrated_gradients as neuron_integrated_gradients
from jaxplain.curved_paths import blur_integrated_gradients as blur_integrated_gradients
from jaxplain.curved_paths import guided_integrated_gradients as guided_integrated_gradients
from jaxplain.curved_paths import idgi as idgi
from jaxplain.deeplift import deeplift as deeplift
from jaxplain.deeplift_shap import deeplift_shap as deeplift_shap
from jaxplain.expected_gradients import expected_gradients as expected_gradients
from jaxplain.gradients import deconvnet as deconvnet
from jaxplain.gradients import gradient as gradient
from jaxplain.gradients import guided_backprop as guided_backprop
from jaxplain.gradients import input_x_gradient as input_x_gradient
from jaxplain.gradients import saliency as saliency
from jaxplain.internal import capture as capture
from jaxplain.internal import intervene as intervene
from jaxplain.internal import names as names
from jaxplain.internal import neuron as neuron
from jaxplain.internal import tag as tag
from jaxplain.metrics import completeness_gap as completeness_gap
from jaxplain.patching import attribution_patching as attribution_patching
from jaxplain.patching import edge_attributions as edge_attributions
from jaxplain.paths import integrated_gradients as integrated_gradients
from jaxplain.perturbation import ablation as ablation
from jaxplain.perturbation import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.perturbation import lime as lime
from jaxplain.perturbation import occlusion as occlusion
from jaxplain.perturbation import permutation_importance as permutation_importance
from jaxplain.perturbation import rise as rise
from jaxplain.perturbation import sobol as sobol
from jaxplain.shapley import banzhaf_values as banzhaf_values
from jaxplain.shapley import kernel_shap as kernel_shap
from jaxplain.shapley import owen_values as owen_values
from jaxplain.shapley import permutation_shapley as permutation_shapley
from jaxplain.shapley import shapley_interactions as shapley_interactions
from jaxplain.shapley import shapley_values as shapley_values
from jaxplain.surrogate import RuleTable as RuleTable
from jaxplain.surrogate import UnsupportedPrimitive as UnsupportedPrimitive
from jaxplain.surrogate import override as override
from jaxplain.surrogate import rules as rules
from jaxplain.targets import contrast as contrast
from jaxplain.targets import log_likelihood as log_likelihood
from jaxplain.targets import log_odds as log_odds
from jaxplain.targets import logit as logit
from jaxplain.targets import probability as probability


def __getattr__(name: str) -> object:
    """Modules that need more than jax, imported when they are first used."""
    if name in ("equinox", "flax", "interop", "plots"):
        return _importlib.import_module(f"jaxplain.{name}")
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")
