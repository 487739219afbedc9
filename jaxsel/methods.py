"""The methods: the published ones and our own. Each is a composition of a predictor, an acquisition and a rule.

The predictor predicts every prompt's success rate, the acquisition turns predictions into scores, and the rule chooses
a batch by the scores.
"""

from typing import Any

from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import Acquisition, Rule, Selector
from jaxsel.predictors.amortized.predictor import amortized
from jaxsel.predictors.arc_length import arc_length
from jaxsel.predictors.beta import beta_bernoulli
from jaxsel.predictors.hidden_markov import hidden_markov
from jaxsel.predictors.priors import initial_beliefs
from jaxsel.predictors.state_space.predictor import state_space
from jaxsel.selection import acquisition as acquisitions
from jaxsel.selection.composition import make_selector
from jaxsel.selection.diverse import diverse
from jaxsel.selection.paced import paced
from jaxsel.selection.rules import gumbel_top_k, random_subset, top_k, within_bounds


def mopps(
    *,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    decay: float = 0.5,
    target: float = 0.5,
    group_size: int = 8,
    ageing: str = "visit",
    acquisition: Acquisition | None = None,
    rule: Rule | None = None,
) -> Selector:
    """Return MoPPS: discounted Beta posteriors and Thompson sampling (arXiv 2507.04632).

    Args:
        prior_alpha: First parameter of the Beta prior, above 0: one for all prompts or one per prompt.
        prior_beta: Second parameter of the Beta prior, in the same form.
        decay: Factor on the earlier evidence at every visit, from 0 to 1. The paper uses 1.0 on MATH and 0.5 on
            Countdown and Geometry3k.
        target: Success rate that the batch should be close to.
        group_size: Rollouts per prompt.
        ageing: "visit" or "step": whether evidence decays at visits of its prompt or at every step.
        acquisition: Replacement for `thompson(target)`.
        rule: Replacement for `top_k()`.

    Raises:
        ValueError: An argument is out of its range.
    """
    predictor = beta_bernoulli(
        prior_alpha=prior_alpha, prior_beta=prior_beta, decay=decay, group_size=group_size, ageing=ageing
    )
    return make_selector(predictor, acquisition or acquisitions.thompson(target), rule or top_k(), method="mopps")


def threshold(
    *,
    lower: float = 0.3,
    upper: float = 0.7,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    decay: float = 0.5,
    group_size: int = 8,
    ageing: str = "visit",
    rule: Rule | None = None,
) -> Selector:
    """Return the variant of MoPPS that chooses random prompts whose posterior draw lies between two bounds.

    If there are too few such prompts, the nearest ones fill the batch.

    Args:
        lower: Lower bound, from 0 to 1.
        upper: Upper bound, from 0 to 1.
        prior_alpha: See `mopps`.
        prior_beta: See `mopps`.
        decay: See `mopps`.
        group_size: Rollouts per prompt.
        ageing: See `mopps`.
        rule: Replacement for `within_bounds(lower, upper)`.

    Raises:
        ValueError: An argument is out of its range.
    """
    _validate.unit_interval(lower=lower, upper=upper)
    predictor = beta_bernoulli(
        prior_alpha=prior_alpha, prior_beta=prior_beta, decay=decay, group_size=group_size, ageing=ageing
    )
    rule = rule or within_bounds(lower, upper)
    return make_selector(predictor, acquisitions.posterior_draw(), rule, method="threshold")


def dps(
    *,
    decay: float = 0.7,
    prior_counts: ArrayLike | None = None,
    initial_belief: ArrayLike | None = None,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    group_size: int = 8,
    entropy_weight: float = 0.0,
    rule: Rule | None = None,
) -> Selector:
    """Return DPS: one hidden Markov model per prompt, and the largest predicted P(mixed) (arXiv 2603.10887).

    Args:
        decay: Factor on the earlier transition counts at every step, from 0 to 1. The paper uses 0.7 on MATH and 0.5 on
            Countdown and Geometry3k.
        prior_counts: Prior counts of the transitions; see `hidden_markov`.
        initial_belief: Probabilities before the first visit that a group of rollouts is all wrong, mixed or all right
            (its solve state); see `hidden_markov`.
        prior_alpha: First parameter of a Beta prior of the success rate, one number or one per prompt (see
            `informative_prior`). It replaces `initial_belief` for every prompt whose prior is not uniform.
        prior_beta: Second parameter, in the same form.
        group_size: Rollouts per prompt, at least 2: a single rollout is never mixed. Only the Beta priors need it.
        entropy_weight: Weight of the predicted solve state's entropy in the score.
        rule: Replacement for `top_k()`.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check_mixes("dps", group_size)
    belief = initial_beliefs(prior_alpha, prior_beta, int(group_size), otherwise=initial_belief)
    predictor = hidden_markov(decay=decay, prior_counts=prior_counts, initial_belief=belief)
    acquisition = acquisitions.mixed_probability(entropy_weight=entropy_weight)
    return make_selector(predictor, acquisition, rule or top_k(), method="dps")


def gps(
    embeddings: ArrayLike | Array,
    *,
    target: float = 0.5,
    diversity_weight: float = 0.1,
    anchor_batches: int = 4,
    shortlist: int | None = 8,
    screened: float | None = None,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    acquisition: Acquisition | None = None,
    rule: Rule | None = None,
    **predictor: Any,
) -> Selector:
    """Return GPS: one generative predictor for all prompts, and a diverse batch (arXiv 2602.01970).

    By default, a prompt's own rollouts also count as evidence. `decay=None`, an argument of `amortized`, gives the
    paper's predictor.

    Args:
        embeddings: One row per prompt of the pool; see `amortized`.
        target: Success rate that the batch should be close to.
        diversity_weight: Weight of the distances between prompts in the choice; see `diverse`.
        anchor_batches: Number of latest batches from which the distances also count; see `diverse`.
        shortlist: Only the `shortlist * batch_size` best scores are considered. None: all scores are.
        screened: Share of the prompts that are decoded with all draws of the latent, for example 0.05. One decoding
            with the mean of the draws finds them. This makes a choice among 1e6 prompts several times as quick. None:
            all prompts are decoded with all draws, as in the paper.
        prior_alpha: First parameter of a Beta prior, one number or one per prompt; see `amortized`.
        prior_beta: Second parameter, in the same form.
        acquisition: Replacement for `target_success_rate(target)`.
        rule: Replacement for `diverse(...)`.
        **predictor: Arguments of `amortized`.

    Raises:
        ValueError: An argument is out of its range.
    """
    acquisition = acquisition or acquisitions.target_success_rate(target)
    model = amortized(embeddings, prior_alpha=prior_alpha, prior_beta=prior_beta, **predictor)
    if rule is None and anchor_batches > model.spec["history"]:
        raise ValueError(f"anchor_batches is {anchor_batches}; give at most history, which is {model.spec['history']}")
    rule = rule or diverse(weight=diversity_weight, anchor_batches=anchor_batches, shortlist=shortlist)
    return make_selector(model, acquisition, rule, method="gps", screened=screened)


def arcus(
    *,
    target: float = 0.5,
    temperature: float = 0.3,
    tolerance: float = 0.03,
    max_step: float = 0.005,
    group_size: int = 8,
    rule: Rule | None = None,
) -> Selector:
    """Return ARCUS: Kalman filters in arc length, and samples near a moving target (arXiv 2609.38018).

    The paper publishes no code, and its results have not been repeated; `arc_length` says what we had to choose.
    P(mixed) is the expectation over the belief, where the paper has an approximation. No embeddings are read: prompts
    without a visit look alike. The state cannot be sharded, see `paced`.

    Args:
        target: Success rate at which the target starts, from 1e-6 to 1 - 1e-6.
        temperature: Temperature of the sampling, at least 1e-30; see `paced`.
        tolerance: Share of mixed groups that may be lost for a harder target, from 0 to 1.
        max_step: Largest change of the target per step, at least 0, in radians of arcsin sqrt(success rate).
        group_size: Rollouts per prompt, at least 2: a single rollout is never mixed.
        rule: Replacement for `gumbel_top_k(temperature)`.

    Raises:
        ValueError: An argument is out of its range.
    """
    _check_mixes("arcus", group_size)
    pace: dict[str, Any] = {"temperature": temperature, "tolerance": tolerance, "max_step": max_step}
    return paced(arc_length(group_size=group_size), target=target, rule=rule, method="arcus", **pace)


def adaptive(
    embeddings: ArrayLike | Array | None = None,
    *,
    group_size: int = 8,
    temperature: float = 1.0,
    screened: float | None = None,
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
    acquisition: Acquisition | None = None,
    rule: Rule | None = None,
) -> Selector:
    """Return our own method: a state-space model of the pool, and a batch sampled by the expected reward variance.

    Each draw of a prompt has a probability proportional to E[p (1 - p)], with the success rate p, or to its power of
    1 / temperature. A batch of the largest values alone would hold one kind of prompts. Training changes the success
    rates of these prompts faster than the model can follow.

    Args:
        embeddings: One row per prompt of the pool; see `state_space`. None: prompts share only a common level.
        group_size: Rollouts per prompt.
        temperature: Spread of the draws, at least 1e-30. A prompt is drawn a tenth as often as the best prompt if its
            value is 10% of the largest (at 1), 46% (at 1/3) or 93% (at 1/30). In training runs, 1/3 found more mixed
            groups than 1, but the policy did not learn more from them at the usual learning rate; 1/30 was as harmful
            as a greedy choice.
        screened: Share of the prompts that are predicted exactly, for example 0.05. A prediction with one variance for
            all embeddings finds them, with the same draws. With long embeddings this is several times as quick. None:
            all prompts are predicted exactly.
        prior_alpha: First parameter of a Beta prior, one number or one per prompt; see `state_space`.
        prior_beta: Second parameter, in the same form.
        acquisition: Replacement for `expected_variance(log=True)`.
        rule: Replacement for `gumbel_top_k(temperature)`.

    Raises:
        ValueError: An argument is out of its range.
    """
    acquisition = acquisition or acquisitions.expected_variance(log=True)
    rule = rule or gumbel_top_k(temperature)
    model = state_space(embeddings, group_size=group_size, prior_alpha=prior_alpha, prior_beta=prior_beta)
    return make_selector(model, acquisition, rule, method="adaptive", screened=screened)


def uniform(
    *, prior_alpha: ArrayLike = 1.0, prior_beta: ArrayLike = 1.0, decay: float = 0.5, group_size: int = 8
) -> Selector:
    """Return a selector of uniformly random prompts. It predicts as MoPPS does, so that predictions can be compared.

    Args:
        prior_alpha: See `mopps`.
        prior_beta: See `mopps`.
        decay: See `mopps`.
        group_size: Rollouts per prompt.

    Raises:
        ValueError: An argument is out of its range.
    """
    predictor = beta_bernoulli(prior_alpha=prior_alpha, prior_beta=prior_beta, decay=decay, group_size=group_size)
    return make_selector(predictor, acquisitions.target_success_rate(), random_subset(), method="uniform")


def _check_mixes(method: str, group_size: int) -> None:
    _validate.positive_integer(group_size=group_size)
    if group_size == 1:
        raise ValueError(
            f"group_size is 1, and {method} chooses mixed groups, which have at least 2 rollouts; take mopps"
        )
