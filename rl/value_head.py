"""The value head of PPO, which predicts the rewards that follow each token."""

import torch
from jaxtyping import Float


class ValueHead(torch.nn.Module):
    """One linear layer on the decoder's last hidden states, in float32. All values are 0 at the start.

    Args:
        hidden_size: The width of the hidden states.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(hidden_size))
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Float[torch.Tensor, "r t h"]) -> Float[torch.Tensor, "r t"]:
        """Return the predicted return of each state."""
        return hidden.float() @ self.weight + self.bias
