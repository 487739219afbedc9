"""Metrics of predictions: errors, proper scores, correlations and calibration, and shares of mixed groups.

`mean_at_k` and `pass_at_k` are scores of a policy instead.

All metrics are pure functions of arrays and can be jitted. Each takes `weights`, one per row: rows of weight 1 count,
rows of weight 0 do not and may hold any value. A mask as weights restricts a metric to a part of the rows without
another compilation; see `slices`. A metric of no rows is NaN. `estimate` adds a standard error in closed form to any
metric, and `bootstrap` adds a standard error from resamples:

>>> import jax, numpy as np
>>> predicted, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.2, 0.3, 0.6, 1.0])
>>> visits, last_visit = np.array([0, 0, 3, 1]), np.array([0, 0, 8, 9])
>>> mae = jax.jit(lambda part: estimate(mean_absolute_error, predicted, truth, weights=part))
>>> for name, part in slices(visits, last_visit, 10, visit_edges=(1,), waiting_edges=(1,)).items():
...     print(name, *(f"{number:.3f}" for number in mae(part)))
all 0.075 0.025
unseen 0.100 0.000
seen 0.050 0.050
visits 1+ 0.050 0.050
waiting 1+ 0.050 0.050
"""

from jaxsel.evaluation.metrics.calibration import Reliability as Reliability
from jaxsel.evaluation.metrics.calibration import Uniformity as Uniformity
from jaxsel.evaluation.metrics.calibration import expected_calibration_error as expected_calibration_error
from jaxsel.evaluation.metrics.calibration import maximum_calibration_error as maximum_calibration_error
from jaxsel.evaluation.metrics.calibration import randomised_pit as randomised_pit
from jaxsel.evaluation.metrics.calibration import rate_coverage as rate_coverage
from jaxsel.evaluation.metrics.calibration import rate_pit as rate_pit
from jaxsel.evaluation.metrics.calibration import reliability as reliability
from jaxsel.evaluation.metrics.calibration import success_coverage as success_coverage
from jaxsel.evaluation.metrics.calibration import uniformity as uniformity
from jaxsel.evaluation.metrics.correlations import pearson as pearson
from jaxsel.evaluation.metrics.correlations import pearson_ceiling as pearson_ceiling
from jaxsel.evaluation.metrics.correlations import spearman as spearman
from jaxsel.evaluation.metrics.correlations import spearman_ceiling as spearman_ceiling
from jaxsel.evaluation.metrics.estimates import Estimate as Estimate
from jaxsel.evaluation.metrics.estimates import bootstrap as bootstrap
from jaxsel.evaluation.metrics.estimates import estimate as estimate
from jaxsel.evaluation.metrics.estimates import slices as slices
from jaxsel.evaluation.metrics.pass_at_k import mean_at_k as mean_at_k
from jaxsel.evaluation.metrics.pass_at_k import pass_at_k as pass_at_k
from jaxsel.evaluation.metrics.scores import MixedShares as MixedShares
from jaxsel.evaluation.metrics.scores import beta_binomial_log_score as beta_binomial_log_score
from jaxsel.evaluation.metrics.scores import binomial_log_score as binomial_log_score
from jaxsel.evaluation.metrics.scores import brier_score as brier_score
from jaxsel.evaluation.metrics.scores import mean_absolute_error as mean_absolute_error
from jaxsel.evaluation.metrics.scores import mixed_share as mixed_share
from jaxsel.evaluation.metrics.scores import mixed_shares as mixed_shares
from jaxsel.evaluation.metrics.solve_states import F1 as F1
from jaxsel.evaluation.metrics.solve_states import confusion_matrix as confusion_matrix
from jaxsel.evaluation.metrics.solve_states import solve_state_accuracy as solve_state_accuracy
from jaxsel.evaluation.metrics.solve_states import solve_state_f1 as solve_state_f1
from jaxsel.evaluation.metrics.solve_states import solve_state_log_score as solve_state_log_score
