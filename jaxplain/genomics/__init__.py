"""Attribution of DNA sequences: one-hot arrays (length, 4), their scores, and motifs in them."""

from jaxplain.genomics.bigwig import write_bigwig as write_bigwig
from jaxplain.genomics.calling import Seqlets as Seqlets
from jaxplain.genomics.calling import seqlets as seqlets
from jaxplain.genomics.contributions import deeplift_shap as deeplift_shap
from jaxplain.genomics.contributions import hypothetical_contributions as hypothetical_contributions
from jaxplain.genomics.experiments import ablate as ablate
from jaxplain.genomics.experiments import marginalize as marginalize
from jaxplain.genomics.experiments import spacing as spacing
from jaxplain.genomics.experiments import variant_effects as variant_effects
from jaxplain.genomics.heads import count as count
from jaxplain.genomics.heads import profile as profile
from jaxplain.genomics.letters import dinucleotide_shuffle as dinucleotide_shuffle
from jaxplain.genomics.letters import in_silico_mutagenesis as in_silico_mutagenesis
from jaxplain.genomics.modisco import to_modisco as to_modisco
from jaxplain.genomics.motifs import Matches as Matches
from jaxplain.genomics.motifs import annotate as annotate
from jaxplain.genomics.motifs import consensus as consensus
from jaxplain.genomics.motifs import read_meme as read_meme
from jaxplain.genomics.onehot import decode as decode
from jaxplain.genomics.onehot import one_hot as one_hot
