"""Bridges to other libraries: shap's plots and Quantus's metrics take what stands here."""

from jaxplain.interop.quantus import to_quantus as to_quantus
from jaxplain.interop.shap import to_shap as to_shap
