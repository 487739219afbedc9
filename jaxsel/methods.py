"""The published methods, each one composition of a predictor, an acquisition and a rule."""

from typing import Any

from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel.base import Acquisition, Rule, Selector
from jaxsel.predictors.amortized.predictor import amortized
from jaxsel.predictors.beta import beta_bernoulli
from jaxsel.predictors.hidden_markov import hidden_markov
from jaxsel.selection import acquisition as acquisitions
from jaxsel.selection.composition import make_selector
from jaxsel.selection.diverse import diverse
from jaxsel.selection.rules import random_subset, top_k, within_bounds


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
    """MoPPS: discounted Beta posteriors and Thompson sampling (arXiv 2507.04632).

    Args:
        prior_alpha: see `beta_bernoulli`.
        prior_beta: see `beta_bernoulli`.
        decay: 1.0 on MATH, 0.5 on Countdown and Geometry3k in the paper.
        target: the success rate to look for.
        group_size: rollouts a prompt.
        ageing: see `beta_bernoulli`.
        acquisition: in place of `thompson(target)`.
        rule: in place of `top_k()`.

    Raises:
        ValueError: an argument out of its range.
    """
    predictor = beta_bernoulli(
        prior_alpha=prior_alpha, prior_beta=prior_beta, decay=decay, group_size=group_size, ageing=ageing
    )
    return make_selector(predictor, acquisition or acquisitions.thompson(target), rule or top_k(), method="mopps")


def threshold(
    *, lower: float = 0.3, upper: float = 0.7, decay: float = 0.5, group_size: int = 8, ageing: str = "visit"
) -> Selector:
    """MoPPS's variant that takes random prompts whose draw lies in a band, and the nearest ones when these are too few.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.unit_interval(lower=lower, upper=upper)
    predictor = beta_bernoulli(decay=decay, group_size=group_size, ageing=ageing)
    return make_selector(predictor, acquisitions.posterior_draw(), within_bounds(lower, upper), method="threshold")


def dps(
    *,
    decay: float = 0.7,
    prior_counts: ArrayLike | None = None,
    initial_belief: ArrayLike | None = None,
    entropy_weight: float = 0.0,
    rule: Rule | None = None,
) -> Selector:
    """DPS: a hidden Markov model per prompt, and the largest predicted probability of a mixed group (arXiv 2603.10887).

    Args:
        decay: 0.7 on MATH, 0.5 on Countdown and Geometry3k in the paper.
        prior_counts: see `hidden_markov`.
        initial_belief: see `hidden_markov`.
        entropy_weight: of the entropy of the predicted solve state.
        rule: in place of `top_k()`.

    Raises:
        ValueError: an argument out of its range.
    """
    predictor = hidden_markov(decay=decay, prior_counts=prior_counts, initial_belief=initial_belief)
    acquisition = acquisitions.mixed_probability(entropy_weight=entropy_weight)
    return make_selector(predictor, acquisition, rule or top_k(), method="dps")


def gps(
    embeddings: ArrayLike | Array,
    *,
    target: float = 0.5,
    diversity_weight: float = 0.1,
    anchor_batches: int = 4,
    shortlist: int | None = 8,
    acquisition: Acquisition | None = None,
    rule: Rule | None = None,
    **predictor: Any,
) -> Selector:
    """GPS: one generative predictor for all prompts, and a batch that is diverse (arXiv 2602.01970).

    The paper's own predictor is `decay=None`; by default what was observed of a prompt itself counts as well.

    Args:
        embeddings: one row a prompt of the pool, see `amortized`.
        target: the success rate to look for.
        diversity_weight: see `diverse`.
        anchor_batches: see `diverse`.
        shortlist: see `diverse`.
        acquisition: in place of `target_success_rate(target)`.
        rule: in place of `diverse(...)`.
        **predictor: see `amortized`.

    Raises:
        ValueError: an argument out of its range.
    """
    acquisition = acquisition or acquisitions.target_success_rate(target)
    model = amortized(embeddings, **predictor)
    if rule is None and anchor_batches > model.spec["history"]:
        raise ValueError(f"anchor_batches is {anchor_batches}; give at most history, which is {model.spec['history']}")
    rule = rule or diverse(weight=diversity_weight, anchor_batches=anchor_batches, shortlist=shortlist)
    return make_selector(model, acquisition, rule, method="gps")


def uniform(*, decay: float = 0.5, group_size: int = 8) -> Selector:
    """Uniformly random prompts; the posterior of MoPPS is kept, so that its predictions can be compared.

    Raises:
        ValueError: an argument out of its range.
    """
    predictor = beta_bernoulli(decay=decay, group_size=group_size)
    return make_selector(predictor, acquisitions.target_success_rate(), random_subset(), method="uniform")
