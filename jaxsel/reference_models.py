"""Posteriors of success rates by MCMC, with which the fast predictors can be compared; see `sample`."""

from jaxsel.evaluation.reference_models.model import VisitTable as VisitTable
from jaxsel.evaluation.reference_models.model import state_space_model as state_space_model
from jaxsel.evaluation.reference_models.posterior import Diagnostics as Diagnostics
from jaxsel.evaluation.reference_models.posterior import ReferencePosterior as ReferencePosterior
from jaxsel.evaluation.reference_models.sampling import sample as sample
from jaxsel.evaluation.reference_models.visits import VisitPosterior as VisitPosterior
