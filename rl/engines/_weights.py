"""A check of the weights that an engine is given."""

from collections.abc import Mapping

import torch


def check_fit(weights: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse weights that are not a policy's complete state dict.

    Args:
        weights: The weights, by name.
        shapes: The shapes of the policy's weights, by name.

    Raises:
        ValueError: Names or shapes differ; the message names these weights.
    """
    given = {name: weight.shape for name, weight in weights.items()}
    wrong = [name for name in given | dict(shapes) if given.get(name) != shapes.get(name)]
    if wrong:
        raise ValueError(f"weights do not fit the policy's at {', '.join(wrong)}; give its whole state_dict()")
