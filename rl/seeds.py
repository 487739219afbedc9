"""Seeds that are derived from other numbers."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """Return a seed of 32 bits that depends on all the numbers and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
