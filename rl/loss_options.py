"""The options of the losses and the checks of their ranges. Importing them does not load torch."""

from rl import _checks

POLICY_LOSS_NAMES = ("ppo", "gspo", "cispo")
"""The names of `rl.losses.POLICY_LOSSES`."""
AGGREGATIONS = ("token_mean", "sequence_mean", "constant_length")
"""The means over tokens; see `rl.losses.means.means`."""


def check_clips(clip_low: float, clip_high: float) -> None:
    """Refuse clips with which the range of ratios would be empty or would reach 0.

    Raises:
        ValueError: `clip_low` is not from 0 to below 1, or `clip_high` is negative.
    """
    if not (_checks.is_number(clip_low) and 0 <= clip_low < 1):
        raise ValueError(f"clip_low is {clip_low!r}; give a number from 0 to below 1")
    if not clip_high >= 0:
        raise ValueError(f"clip_high is {clip_high}; give a number of at least 0")


def check_dual_clip(dual_clip: float) -> None:
    """Refuse a dual clip with which the objective of unclipped tokens would change.

    Raises:
        ValueError: `dual_clip` is neither 0 nor above 1.
    """
    if not (_checks.is_number(dual_clip) and (dual_clip == 0 or dual_clip > 1)):
        raise ValueError(f"dual_clip is {dual_clip!r}; give a number above 1, or 0 for no dual clip")
