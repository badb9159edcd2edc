"""Attribution of DNA sequences: one-hot arrays (length, 4), their scores, and motifs in them."""

from jaxplain.genomics.calling import Seqlets as Seqlets
from jaxplain.genomics.calling import seqlets as seqlets
from jaxplain.genomics.contributions import deeplift_shap as deeplift_shap
from jaxplain.genomics.contributions import hypothetical_contributions as hypothetical_contributions
from jaxplain.genomics.experiments import marginalize as marginalize
from jaxplain.genomics.experiments import variant_effects as variant_effects
from jaxplain.genomics.heads import count as count
from jaxplain.genomics.heads import profile as profile
from jaxplain.genomics.modisco import to_modisco as to_modisco
from jaxplain.genomics.onehot import decode as decode
from jaxplain.genomics.onehot import one_hot as one_hot
from jaxplain.methods.perturbation import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.references import dinucleotide_shuffle as dinucleotide_shuffle
