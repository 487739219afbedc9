"""Reference posteriors by MCMC, the gold standard for comparisons with the fast predictors; see `sample`."""

from jaxsel.evaluation.reference_models import Diagnostics as Diagnostics
from jaxsel.evaluation.reference_models import ReferencePosterior as ReferencePosterior
from jaxsel.evaluation.reference_models import VisitTable as VisitTable
from jaxsel.evaluation.reference_models import sample as sample
from jaxsel.evaluation.reference_models import state_space_model as state_space_model
