"""Losses of policies and values: pure functions that return `(loss, metrics)`."""

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
    $\rho = \exp(\log p - \log p_\mathrm{old})$. No token, no loss: an empty mask gives 0.

    Every log-ratio is clamped to plus or minus `MAX_LOG_RATIO`; beyond it a token has no gradient. A token counts
    nowhere if an old, reference or engine log-probability of it is not finite.

    Options:

    * `aggregation="sequence_mean"`: the mean over completions of each one's mean over its tokens, as in GRPO.
    * `reference_log_probs`: adds `kl_weight` times the mean of $e^d - d - 1$, $d = \log p_\mathrm{ref} - \log p$
      (Schulman's k3, arXiv 2402.03300, equation 4). It acts on every token, also where the advantage is 0.
    * `engine_log_probs`: what the inference engine says of the tokens it sampled, where that differs from what the
      trainer says. The objective of a token is weighted with $\min(p_\mathrm{old} / p_\mathrm{engine}, C)$ (truncated
      importance sampling), a constant to the gradient; `old_log_probs` are then the trainer's own.

    Args:
        log_probs: of the sampled tokens under the policy being trained.
        old_log_probs: under the policy that sampled them.
        advantages: one a completion, or one a token.
        mask: the tokens that count.
        clip_low: how far the ratio may fall below 1.
        clip_high: how far it may rise above 1.
        aggregation: token_mean or sequence_mean.
        num_tokens: what the sum of the token mean is divided by, when these rows are a part of a batch; None: the
            tokens of the mask.
        num_completions: likewise for the sequence mean; None: the rows with a token.
        reference_log_probs: under a policy to stay close to; None: no such term.
        kl_weight: of that term, at least 0.
        engine_log_probs: under the inference engine; None: no such weights.
        importance_cap: C, above 0.

    Returns:
        The loss, a scalar, and floats, means of the kind that the loss is: clip_share (of clipped tokens), approx_kl
        (to the old policy); with `reference_log_probs` reference_kl. All of them add up over the parts of a batch.

    Raises:
        ValueError: an unknown `aggregation`, a negative `kl_weight`, an `importance_cap` that is not above 0, or a clip
            out of its range.
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
    return has no gradient. No token, no loss.

    Args:
        values: of the value head being trained.
        old_values: what it said when the advantages were estimated.
        returns: see `advantages.gae`; a token whose return or old value is not finite counts nowhere.
        mask: the tokens that count.
        clip: c, above 0.
        num_tokens: what the sum is divided by, when these rows are a part of a batch; None: the judged tokens of the
            mask.

    Returns:
        The loss, a scalar, and as a float value_clip_share, of the tokens without gradient for that reason.

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
    r"""How far trainer and inference engine are apart on the same tokens, under the same weights.

    Args:
        log_probs: of the sampled tokens, as the trainer computes them.
        engine_log_probs: as the engine that sampled them did.
        mask: the tokens that count.

    Returns:
        log_prob_gap_mean and log_prob_gap_max, of $|\log p - \log p_\mathrm{engine}|$ over the tokens for which it is
        finite; 0 without such a token.
    """
    gap = log_probs - engine_log_probs
    gap = gap[mask & gap.isfinite()].abs()
    if not len(gap):
        return {"log_prob_gap_mean": 0.0, "log_prob_gap_max": 0.0}
    return {"log_prob_gap_mean": float(gap.mean()), "log_prob_gap_max": float(gap.max())}


def check_clips(clip_low: float, clip_high: float) -> None:
    """Refuse clips that would turn the range of ratios around, or let it reach 0.

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
    """Their difference, clamped; 0 where the mask is false."""
    return torch.where(mask, log_probs - others, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
