"""Perturbation: what happens to f when parts of the input are taken away, mixed or exchanged."""

from jaxplain.perturbation.ablation import ablation as ablation
from jaxplain.perturbation.lime import lime as lime
from jaxplain.perturbation.mutagenesis import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.perturbation.occlusion import occlusion as occlusion
from jaxplain.perturbation.permutation import permutation_importance as permutation_importance
from jaxplain.perturbation.rise import rise as rise
from jaxplain.perturbation.sobol import sobol as sobol
