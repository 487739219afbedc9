"""jaxsel predicts, before any rollout, how often a policy solves each prompt, and picks the batch worth paying for."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from jaxsel import metrics as metrics
from jaxsel import simulate as simulate
from jaxsel.base import MIXED as MIXED
from jaxsel.base import SOLVED as SOLVED
from jaxsel.base import UNSOLVED as UNSOLVED
from jaxsel.base import Acquisition as Acquisition
from jaxsel.base import Prediction as Prediction
from jaxsel.base import Predictor as Predictor
from jaxsel.base import Rollouts as Rollouts
from jaxsel.base import Rule as Rule
from jaxsel.base import Selection as Selection
from jaxsel.base import Selector as Selector
from jaxsel.evaluation.fitting.fit import Fitted as Fitted
from jaxsel.evaluation.fitting.fit import fit as fit
from jaxsel.methods import adaptive as adaptive
from jaxsel.methods import arcus as arcus
from jaxsel.methods import dps as dps
from jaxsel.methods import gps as gps
from jaxsel.methods import mopps as mopps
from jaxsel.methods import threshold as threshold
from jaxsel.methods import uniform as uniform
from jaxsel.predictors.amortized.predictor import amortized as amortized
from jaxsel.predictors.arc_length import arc_length as arc_length
from jaxsel.predictors.beta import beta_bernoulli as beta_bernoulli
from jaxsel.predictors.hidden_markov import hidden_markov as hidden_markov
from jaxsel.predictors.kalman import kalman as kalman
from jaxsel.predictors.priors import informative_prior as informative_prior
from jaxsel.predictors.recalibration import recalibrated as recalibrated
from jaxsel.predictors.state_space.predictor import state_space as state_space
from jaxsel.replay import History as History
from jaxsel.replay import make_history as make_history
from jaxsel.replay import replay as replay
from jaxsel.report.explore import Report as Report
from jaxsel.report.explore import explore as explore
from jaxsel.report.verdict import Finding as Finding
from jaxsel.runtime.prompt_selector import PromptSelector as PromptSelector
from jaxsel.runtime.sharding import initialize_distributed as initialize_distributed
from jaxsel.runtime.sharding import prompts_mesh as prompts_mesh
from jaxsel.runtime.sharding import shard as shard
from jaxsel.selection.acquisition import entropy as entropy
from jaxsel.selection.acquisition import expected_signal as expected_signal
from jaxsel.selection.acquisition import expected_variance as expected_variance
from jaxsel.selection.acquisition import mixed_near_target as mixed_near_target
from jaxsel.selection.acquisition import mixed_probability as mixed_probability
from jaxsel.selection.acquisition import posterior_draw as posterior_draw
from jaxsel.selection.acquisition import target_success_rate as target_success_rate
from jaxsel.selection.acquisition import thompson as thompson
from jaxsel.selection.allocation import allocate as allocate
from jaxsel.selection.allocation import expected_solved as expected_solved
from jaxsel.selection.composition import make_selector as make_selector
from jaxsel.selection.diverse import diverse as diverse
from jaxsel.selection.exploring import exploring as exploring
from jaxsel.selection.paced import paced as paced
from jaxsel.selection.rules import gumbel_top_k as gumbel_top_k
from jaxsel.selection.rules import random_subset as random_subset
from jaxsel.selection.rules import top_k as top_k
from jaxsel.selection.rules import within_bounds as within_bounds
from jaxsel.selection.stratified import stratified as stratified

if _TYPE_CHECKING:
    from jaxsel import reference_models as reference_models

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """Import `reference_models` at its first use: its import takes as long as the rest of the package."""
    if name != "reference_models":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("jaxsel.reference_models")


def __dir__() -> list[str]:
    return sorted({*globals(), "reference_models"})
