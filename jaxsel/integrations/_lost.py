"""Prompts in flight whose rollouts a trainer has lost without a word: they would use up a small pool."""

import numpy as np
from numpy.typing import ArrayLike

from jaxsel.integrations.edge import TrainerEdge


def release_lost(edge: TrainerEdge, batch_size: int, *, keep: ArrayLike = ()) -> None:
    """Release the prompts that are in flight longest, until `batch_size` prompts can be handed out.

    Their rollouts count as lost, as if they had timed out. If they are observed later, the selector learns from them.

    Args:
        edge: The edge that handed them out.
        batch_size: Number of prompts that will be asked for. If the pool is too small for them, nothing is released.
        keep: Rows that stay in flight.
    """
    own, handed_out = edge.selector, edge.handed_out
    lost = np.setdiff1d(handed_out, keep)
    if batch_size > own.num_prompts - len(handed_out) + len(lost):
        return
    while own.num_prompts - len(edge.handed_out) < batch_size:
        edge.release(own.longest_in_flight(lost))  # those of one selection
