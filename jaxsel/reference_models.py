"""Reference posteriors by MCMC, the gold standard for comparisons with the fast predictors; see `sample`."""

from jaxsel.evaluation.reference_models.model import VisitTable as VisitTable
from jaxsel.evaluation.reference_models.model import state_space_model as state_space_model
from jaxsel.evaluation.reference_models.posterior import Diagnostics as Diagnostics
from jaxsel.evaluation.reference_models.posterior import ReferencePosterior as ReferencePosterior
from jaxsel.evaluation.reference_models.sampling import sample as sample
