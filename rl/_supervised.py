"""One step of supervised training, for warm starts and fine-tuning."""

import math

import torch


def take_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, of: str, step: int) -> None:
    """Step along the gradient of the loss, which is clipped to a norm of 1.

    Args:
        optimizer: The optimiser.
        loss: The loss.
        of: What trains, "warm-start" or "fine-tuning", for the error.
        step: Number of the step, for the error.

    Raises:
        ValueError: The norm of the gradient is NaN or infinite. The weights stay as they were.
    """
    optimizer.zero_grad()
    loss.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    if not math.isfinite(norm):
        setting, rate = f"{of.replace('-', '_')}.learning_rate", optimizer.param_groups[0]["lr"]
        raise ValueError(
            f"the gradient norm of {of} step {step} is {norm:.3g}; lower {setting}, which is {rate:.3g} in this step"
        )
    optimizer.step()
