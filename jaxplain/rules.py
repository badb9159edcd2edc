"""Rule tables, the rules that they are made of, and what a rule of one's own is made of.

| what | names |
|---|---|
| tables | `rescale`, `reveal_cancel`, `genomics`, `central_limit`, `guided_backprop`, `deconvnet` |
| made of tables | `freeze_choices`, and `by_name` of a table's name |
| rules | `linear`, `bilinear`, `path_integral`, `winner`, `discrete`, `refuse`, `whole` |
| of a rule's own | `Rule`, `Pair`, `Single`, `Equation`, `attach`, `scaled`, `with_backward`, |
|                 | `integrate` |
| where a rule holds | `Place` |
"""

from jaxplain.surrogate.backward import attach as attach
from jaxplain.surrogate.backward import scaled as scaled
from jaxplain.surrogate.backward import with_backward as with_backward
from jaxplain.surrogate.program import Equation as Equation
from jaxplain.surrogate.rules.backprop import deconvnet as deconvnet
from jaxplain.surrogate.rules.backprop import guided_backprop as guided_backprop
from jaxplain.surrogate.rules.bilinear import bilinear as bilinear
from jaxplain.surrogate.rules.by_name import by_name as by_name
from jaxplain.surrogate.rules.central_limit import central_limit as central_limit
from jaxplain.surrogate.rules.freezing import freeze_choices as freeze_choices
from jaxplain.surrogate.rules.linear import discrete as discrete
from jaxplain.surrogate.rules.linear import linear as linear
from jaxplain.surrogate.rules.linear import refuse as refuse
from jaxplain.surrogate.rules.lrp import alpha_beta as alpha_beta
from jaxplain.surrogate.rules.lrp import attn_lrp as attn_lrp
from jaxplain.surrogate.rules.lrp import composite as composite
from jaxplain.surrogate.rules.lrp import cp_lrp as cp_lrp
from jaxplain.surrogate.rules.lrp import epsilon as epsilon
from jaxplain.surrogate.rules.lrp import epsilon_alpha2_beta1 as epsilon_alpha2_beta1
from jaxplain.surrogate.rules.lrp import epsilon_alpha2_beta1_flat as epsilon_alpha2_beta1_flat
from jaxplain.surrogate.rules.lrp import epsilon_gamma_box as epsilon_gamma_box
from jaxplain.surrogate.rules.lrp import epsilon_plus as epsilon_plus
from jaxplain.surrogate.rules.lrp import epsilon_plus_flat as epsilon_plus_flat
from jaxplain.surrogate.rules.lrp import flat as flat
from jaxplain.surrogate.rules.lrp import gamma as gamma
from jaxplain.surrogate.rules.lrp import w_square as w_square
from jaxplain.surrogate.rules.lrp import zbox as zbox
from jaxplain.surrogate.rules.lrp import zplus as zplus
from jaxplain.surrogate.rules.maximum import winner as winner
from jaxplain.surrogate.rules.parted import Place as Place
from jaxplain.surrogate.rules.path_integral import integrate as integrate
from jaxplain.surrogate.rules.path_integral import path_integral as path_integral
from jaxplain.surrogate.rules.rescale import rescale as rescale
from jaxplain.surrogate.rules.reveal_cancel import genomics as genomics
from jaxplain.surrogate.rules.reveal_cancel import reveal_cancel as reveal_cancel
from jaxplain.surrogate.rules.whole import whole as whole
from jaxplain.surrogate.table import Rule as Rule
from jaxplain.surrogate.table import RuleTable as RuleTable
from jaxplain.surrogate.values.pair import Pair as Pair
from jaxplain.surrogate.values.single import Single as Single
