"""The parts that all policy losses share: the mean, the KL term and the importance weights.

Importance weights correct for differences between the trainer's log-probabilities and the inference engine's.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Float

from rl.losses.means import means

MAX_LOG_RATIO = 20.0
"""Logarithms of ratios are clamped to plus or minus this before `exp`, as in verl: e^20 is about 5e8."""


class Terms(TypedDict, total=False):
    r"""The options of every policy loss.

    Attributes:
        aggregation: The mean over tokens: token_mean (the default), sequence_mean or constant_length; see
            `rl.losses.means.means`.
        num_tokens: The divisor of the token mean, if these rows are a part of a batch. None: the number of tokens in
            the mask.
        num_completions: The number of completions in the divisor of the other two means, if these rows are a part of a
            batch. None: the number of rows with a token in the mask.
        max_new_tokens: The longest completion that could be generated, for constant_length.
        reference_log_probs: Log-probabilities under the reference policy. They add `kl_weight` times the mean of
            $e^d - d - 1$, $d = \log p_\mathrm{ref} - \log p$ (Schulman's k3, arXiv 2402.03300, equation 4). The term
            acts on every token, also where the advantage is 0. None: no KL term.
        kl_weight: The weight of the KL term, at least 0.
        engine_log_probs: The log-probabilities of the inference engine, where they differ from the trainer's. They
            weight the objective of a token with $\min(p_\mathrm{old} / p_\mathrm{engine}, C)$ (truncated importance
            sampling), which has no gradient. `old_log_probs` are then the trainer's own. None: no weights.
        importance_cap: The cap C of the importance weights, above 0.
    """

    aggregation: str
    num_tokens: int | None
    num_completions: int | None
    max_new_tokens: int | None
    reference_log_probs: torch.Tensor | None
    kl_weight: float
    engine_log_probs: torch.Tensor | None
    importance_cap: float


class Objective(NamedTuple):
    """The objective of each token, and by the name of a metric, the tokens whose share it reports."""

    value: torch.Tensor
    shares: dict[str, torch.Tensor]


def loss_of(
    objective: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Objective],
    log_probs: Float[torch.Tensor, "r t"],
    old_log_probs: Float[torch.Tensor, "r t"],
    advantages: Float[torch.Tensor, " r"] | Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    aggregation: str = "token_mean",
    num_tokens: int | None = None,
    num_completions: int | None = None,
    max_new_tokens: int | None = None,
    reference_log_probs: Float[torch.Tensor, "r t"] | None = None,
    kl_weight: float = 0.0,
    engine_log_probs: Float[torch.Tensor, "r t"] | None = None,
    importance_cap: float = 2.0,
) -> tuple[Float[torch.Tensor, ""], dict[str, float]]:
    """Return minus the mean of an objective, with the terms that `Terms` describes, and the metrics.

    Args:
        objective: A function of the log-ratios, the advantages and the mask, each with one number per token.
        log_probs: Log-probabilities of the sampled tokens under the policy being trained.
        old_log_probs: Log-probabilities of the same tokens under the policy that sampled them.
        advantages: Advantages, one per completion or one per token.
        mask: The tokens that count.
        aggregation: See `Terms`, as for the other arguments.
        num_tokens: See `Terms`.
        num_completions: See `Terms`.
        max_new_tokens: See `Terms`.
        reference_log_probs: See `Terms`.
        kl_weight: See `Terms`.
        engine_log_probs: See `Terms`.
        importance_cap: See `Terms`.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight is {kl_weight}; give a number of at least 0")
    if not importance_cap > 0:
        raise ValueError(f"importance_cap is {importance_cap}; give a number above 0")
    mask = _where_finite(mask, old_log_probs, reference_log_probs, engine_log_probs)
    divisors = {"num_tokens": num_tokens, "num_completions": num_completions, "max_new_tokens": max_new_tokens}
    mean, share = means(mask, aggregation, **divisors)
    ratios = log_ratio(log_probs, old_log_probs, mask)
    value, shares = objective(ratios, advantages[:, None] if advantages.ndim == 1 else advantages, mask)
    metrics: dict[str, float] = {}
    if engine_log_probs is not None:
        log_weight = log_ratio(old_log_probs, engine_log_probs, mask).detach()
        value = value * log_weight.exp().clamp_max(importance_cap)
    loss = -mean(value)
    if reference_log_probs is not None:
        log_excess = log_ratio(reference_log_probs, log_probs, mask)
        kl = log_excess.exp() - log_excess - 1
        loss = loss + kl_weight * mean(kl)
        metrics["reference_kl"] = float(share(kl.detach()))
    with torch.no_grad():
        metrics |= {name: float(share(marked)) for name, marked in shares.items()}
        metrics["approx_kl"] = float(share(ratios.exp() - 1 - ratios))
    return loss, metrics


def _where_finite(mask: torch.Tensor, *log_probs: torch.Tensor | None) -> torch.Tensor:
    for given in log_probs:
        mask = mask if given is None else mask & given.isfinite()
    return mask


def log_prob_gap(
    log_probs: Float[torch.Tensor, "r t"],
    engine_log_probs: Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
) -> dict[str, float]:
    r"""Return the difference between the log-probabilities of the trainer and of the inference engine.

    Args:
        log_probs: Log-probabilities of the sampled tokens, as the trainer computes them.
        engine_log_probs: Log-probabilities of the same tokens under the same weights, as the engine computed them.
        mask: The tokens that count.

    Returns:
        log_prob_gap_mean and log_prob_gap_max: the mean and the maximum of $|\log p - \log p_\mathrm{engine}|$ over the
        tokens where it is finite, or 0 if there is no such token.
    """
    gap = log_probs - engine_log_probs
    gap = gap[mask & gap.isfinite()].abs()
    if not len(gap):
        return {"log_prob_gap_mean": 0.0, "log_prob_gap_max": 0.0}
    return {"log_prob_gap_mean": float(gap.mean()), "log_prob_gap_max": float(gap.max())}


def log_ratio(
    log_probs: Float[torch.Tensor, "r t"], others: Float[torch.Tensor, "r t"], mask: Bool[torch.Tensor, "r t"]
) -> Float[torch.Tensor, "r t"]:
    """Return `log_probs - others`, clamped to plus or minus `MAX_LOG_RATIO`; it is 0 outside the mask."""
    return torch.where(mask, log_probs - others, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
