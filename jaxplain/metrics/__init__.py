"""Metrics: how far an explanation can be trusted."""

from jaxplain.metrics.agreement import agreement as agreement
from jaxplain.metrics.completeness import completeness_gap as completeness_gap
from jaxplain.metrics.correlations import faithfulness_correlation as faithfulness_correlation
from jaxplain.metrics.correlations import sensitivity_n as sensitivity_n
from jaxplain.metrics.correlations import single_groups as single_groups
from jaxplain.metrics.curves import abpc as abpc
from jaxplain.metrics.curves import comprehensiveness as comprehensiveness
from jaxplain.metrics.curves import deletion as deletion
from jaxplain.metrics.curves import insertion as insertion
from jaxplain.metrics.curves import monotonicity as monotonicity
from jaxplain.metrics.curves import perturbation_curve as perturbation_curve
from jaxplain.metrics.curves import sufficiency as sufficiency
from jaxplain.metrics.imputation import linear_imputation as linear_imputation
from jaxplain.metrics.infidelity import infidelity as infidelity
from jaxplain.metrics.localisation import localisation_auc as localisation_auc
from jaxplain.metrics.localisation import pointing_game as pointing_game
from jaxplain.metrics.localisation import relevance_mass as relevance_mass
from jaxplain.metrics.localisation import relevance_rank as relevance_rank
from jaxplain.metrics.randomization import data_randomization as data_randomization
from jaxplain.metrics.randomization import parameter_randomization as parameter_randomization
from jaxplain.metrics.randomization import random_logit as random_logit
from jaxplain.metrics.sensitivity import max_sensitivity as max_sensitivity
from jaxplain.metrics.statistics import complexity as complexity
from jaxplain.metrics.statistics import histogram_entropy as histogram_entropy
from jaxplain.metrics.statistics import sparseness as sparseness
