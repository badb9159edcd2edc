"""Perturbation: what happens to f when parts of the input are taken away, mixed or exchanged."""

from jaxplain.methods.perturbation.ablation import ablation as ablation
from jaxplain.methods.perturbation.lime import lime as lime
from jaxplain.methods.perturbation.mutagenesis import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.methods.perturbation.occlusion import occlusion as occlusion
from jaxplain.methods.perturbation.permutation import (
    permutation_importance as permutation_importance,
)
from jaxplain.methods.perturbation.rise import rise as rise
from jaxplain.methods.perturbation.sobol import sobol as sobol
