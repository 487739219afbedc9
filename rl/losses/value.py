"""The loss of a value head, as a pure function that returns `(loss, metrics)`."""

import torch
from jaxtyping import Bool, Float


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
        values: The value head's predictions of the returns, under the weights being trained.
        old_values: Values of the same states at the time when the advantages were estimated.
        returns: Returns, see `advantages.gae`. A token is masked if its return or its old value is not finite.
        mask: The tokens that count.
        clip: The bound c, above 0.
        num_tokens: The divisor of the mean, if these rows are a part of a batch. None: the number of tokens in the mask
            whose return and old value are finite.

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
