r"""A hidden Markov model of every prompt's solve state, filtered online: the predictor of DPS.

    z in {UNSOLVED: s = 0, MIXED: 0 < s < n, SOLVED: s = n}, A[i, j] = P(z' = j | z = i),  rows of A ~ Dirichlet(counts)

A group is n rollouts of one prompt, s of them correct, and z is its solve state. filtered_t is P(z_t) given the groups
up to step t, and predicted_t is P(z_t) given the groups before step t.

One step, for every prompt (A = row-normalised counts, d = `decay`):

    condition    filtered_t = one-hot(z observed) if visited, else predicted_t
    count        xi_t[i, j] = filtered_{t-1}[i] * A_{t-1}[i, j] * filtered_t[j] / (sum over i, j)    if visited, else 0
                 counts_t = d * counts_{t-1} + (1 - d) * counts_0 + xi_t
    predict      predicted_{t+1} = filtered_t @ A_t

filtered_0 and predicted_1 both equal the initial belief, the probabilities of the solve states at the first step.

"Dynamics-Predictive Sampling for Active RL Finetuning of Large Reasoning Models" (DPS, arXiv 2603.10887).
"""

from jaxsel.predictors.hidden_markov.filtering import HMMState as HMMState
from jaxsel.predictors.hidden_markov.filtering import filtered as filtered
from jaxsel.predictors.hidden_markov.filtering import predicted as predicted
from jaxsel.predictors.hidden_markov.filtering import transition_counts as transition_counts
from jaxsel.predictors.hidden_markov.filtering import update as update
from jaxsel.predictors.hidden_markov.predictor import PRIOR_COUNTS as PRIOR_COUNTS
from jaxsel.predictors.hidden_markov.predictor import hidden_markov as hidden_markov
