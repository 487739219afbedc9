"""Losses of policies and values, as pure functions that return `(loss, metrics)`."""

import torch
from jaxtyping import Bool, Float

AGGREGATIONS = ("token_mean", "sequence_mean")

MAX_LOG_RATIO = 20.0
"""Logarithms of ratios are clamped to plus or minus this before `exp`, as in verl: e^20 = 5e8 is finite in float32."""


def clipped_policy_loss(
    log_probs: Float[torch.Tensor, "r t"],
    old_log_probs: Float[torch.Tensor, "r t"],
    advantages: Float[torch.Tensor, " r"] | Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    aggregation: str = "token_mean",
    num_tokens: int | None = None,
    num_completions: int | None = None,
    reference_log_probs: Float[torch.Tensor, "r t"] | None = None,
    kl_weight: float = 0.0,
    engine_log_probs: Float[torch.Tensor, "r t"] | None = None,
    importance_cap: float = 2.0,
) -> tuple[Float[torch.Tensor, ""], dict[str, float]]:
    r"""PPO's clipped objective with DAPO's clip-higher and token mean (arXiv 2503.14476, equations 8 to 12).

    $-\frac{1}{\sum_i |o_i|} \sum_i \sum_t \min(\rho_{it} A_i, \mathrm{clip}(\rho_{it}, 1 - c_l, 1 + c_h) A_i)$ with
    $\rho = \exp(\log p - \log p_\mathrm{old})$. An empty mask gives the loss 0.

    Every log-ratio is clamped to plus or minus `MAX_LOG_RATIO`; beyond it a token has no gradient. A token is masked if
    its old, reference or engine log-probability is not finite.

    Options:

    * `aggregation="sequence_mean"` takes the mean over the tokens of each completion, then the mean over completions,
      as in GRPO.
    * `reference_log_probs` adds `kl_weight` times the mean of $e^d - d - 1$, $d = \log p_\mathrm{ref} - \log p$
      (Schulman's k3, arXiv 2402.03300, equation 4). The term acts on every token, also where the advantage is 0.
    * `engine_log_probs` are the log-probabilities of the inference engine, where they differ from the trainer's. They
      weight the objective of a token with $\min(p_\mathrm{old} / p_\mathrm{engine}, C)$ (truncated importance
      sampling), which is constant for the gradient. `old_log_probs` are then the trainer's own.

    Args:
        log_probs: Log-probabilities of the sampled tokens under the policy being trained.
        old_log_probs: Log-probabilities of the same tokens under the policy that sampled them.
        advantages: Advantages, one per completion or one per token.
        mask: The tokens that count.
        clip_low: The largest decrease of the ratio below 1.
        clip_high: The largest increase of the ratio above 1.
        aggregation: token_mean or sequence_mean.
        num_tokens: The divisor of the token mean, if these rows are a part of a batch. None: the number of tokens in
            the mask.
        num_completions: The divisor of the sequence mean, if these rows are a part of a batch. None: the number of rows
            with a token in the mask.
        reference_log_probs: Log-probabilities under the reference policy. None: no KL term.
        kl_weight: The weight of the KL term, at least 0.
        engine_log_probs: Log-probabilities under the inference engine. None: no importance weights.
        importance_cap: The cap C of the importance weights, above 0.

    Returns:
        The loss, a scalar, and metrics as floats with the same kind of mean: clip_share, the share of clipped tokens;
        approx_kl, the KL divergence to the old policy; and with `reference_log_probs` reference_kl. The loss and all
        metrics add up over the parts of a batch.

    Raises:
        ValueError: `aggregation` is unknown, `kl_weight` is negative, `importance_cap` is not above 0, or a clip is out
            of its range.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation is {aggregation!r}; give one of {', '.join(AGGREGATIONS)}")
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight is {kl_weight}; give a number of at least 0")
    if not importance_cap > 0:
        raise ValueError(f"importance_cap is {importance_cap}; give a number above 0")
    check_clips(clip_low, clip_high)
    mask = mask & old_log_probs.isfinite()
    for given in (reference_log_probs, engine_log_probs):
        mask = mask if given is None else mask & given.isfinite()
    if aggregation == "token_mean":
        weight, total = mask, max(int(mask.sum()) if num_tokens is None else num_tokens, 1)
    else:
        length = mask.sum(1, keepdim=True)
        weight = mask / length.clamp_min(1)
        total = max(int((length > 0).sum()) if num_completions is None else num_completions, 1)

    def mean(per_token: torch.Tensor) -> torch.Tensor:
        return (per_token * weight).sum() / total

    log_ratio = _log_ratio(log_probs, old_log_probs, mask)
    ratio = log_ratio.exp()
    advantage = advantages[:, None] if advantages.ndim == 1 else advantages
    unclipped = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    objective = torch.minimum(unclipped, clipped)
    metrics: dict[str, float] = {}
    if engine_log_probs is not None:
        log_weight = _log_ratio(old_log_probs, engine_log_probs, mask).detach()
        objective = objective * log_weight.exp().clamp_max(importance_cap)
    loss = -mean(objective)
    if reference_log_probs is not None:
        log_excess = _log_ratio(reference_log_probs, log_probs, mask)
        kl = mean(log_excess.exp() - log_excess - 1)
        loss = loss + kl_weight * kl
        metrics["reference_kl"] = float(kl.detach())
    with torch.no_grad():
        metrics["clip_share"] = float(mean(clipped < unclipped))
        metrics["approx_kl"] = float(mean(ratio - 1 - log_ratio))
    return loss, metrics


def clipped_value_loss(
    values: Float[torch.Tensor, "r t"],
    old_values: Float[torch.Tensor, "r t"],
    returns: Float[torch.Tensor, "r t"],
    mask: Bool[torch.Tensor, "r t"],
    *,
    clip: float = 0.2,
    num_tokens: int | None = None,
) -> tuple[Float[torch.Tensor, ""], dict[str, float]]:
    r"""PPO's clipped value loss, $\frac12$ the token mean of $\max((V - R)^2, (V_c - R)^2)$.

    $V_c = V_\mathrm{old} + \mathrm{clip}(V - V_\mathrm{old}, -c, c)$: a value that has moved further than c towards its
    return has no gradient. An empty mask gives the loss 0.

    Args:
        values: Values of the value head being trained.
        old_values: Values of the same states at the time when the advantages were estimated.
        returns: Returns, see `advantages.gae`. A token is masked if its return or its old value is not finite.
        mask: The tokens that count.
        clip: The bound c, above 0.
        num_tokens: The divisor of the mean, if these rows are a part of a batch. None: the number of judged tokens in
            the mask.

    Returns:
        The loss, a scalar, and the metric value_clip_share as a float: the share of tokens that the clip leaves without
        a gradient.

    Raises:
        ValueError: `clip` is not above 0.
    """
    if not clip > 0:
        raise ValueError(f"clip is {clip}; give a number above 0")
    mask = mask & returns.isfinite() & old_values.isfinite()
    values, old_values, returns = (torch.where(mask, x, 0.0) for x in (values, old_values, returns))
    total = max(int(mask.sum()) if num_tokens is None else num_tokens, 1)
    unclipped = (values - returns).square()
    clipped = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    loss = torch.maximum(unclipped, clipped).sum() / (2 * total)
    return loss, {"value_clip_share": float((clipped > unclipped).sum() / total)}


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


def check_clips(clip_low: float, clip_high: float) -> None:
    """Refuse clips with which the range of ratios would be empty or would reach 0.

    Raises:
        ValueError: `clip_low` is not from 0 to below 1, or `clip_high` is negative.
    """
    if not 0 <= clip_low < 1:
        raise ValueError(f"clip_low is {clip_low}; give a number from 0 to below 1")
    if not clip_high >= 0:
        raise ValueError(f"clip_high is {clip_high}; give a number of at least 0")


def _log_ratio(
    log_probs: Float[torch.Tensor, "r t"], others: Float[torch.Tensor, "r t"], mask: Bool[torch.Tensor, "r t"]
) -> Float[torch.Tensor, "r t"]:
    """Return the clamped difference of the log-probabilities; it is 0 outside the mask."""
    return torch.where(mask, log_probs - others, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
