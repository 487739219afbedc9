"""Counts of successes and of judged completions, from the rewards that a trainer computes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxsel import _validate
from jaxsel._visits import are_above

_GIVE = "give one list of rewards per prompt, an array [b, n], or one reward per entry of prompt_ids"


def one_reward(names: Sequence[str], success: str | None) -> str:
    """Return the name of the reward that tells whether a completion is correct.

    Raises:
        ValueError: There are no rewards, `success` is None and there are several, or `success` is not exactly one of
            the names.
    """
    if not names:
        raise ValueError(f"success is {success!r}, and there are no rewards; give at least one reward")
    listed = ", ".join(map(repr, names))
    if success is None and len(names) != 1:
        raise ValueError(f"success is None and the rewards are {listed}; give the name of the correctness reward")
    chosen = names[0] if success is None else success
    if chosen not in names:
        raise ValueError(f"success is {chosen!r}, but the rewards are named {listed}; give one of these names")
    if list(names).count(chosen) > 1:
        raise ValueError(f"success is {chosen!r}, but the rewards are named {listed}; give each its own name")
    return chosen


def counted(
    prompt_ids: Int[np.ndarray, " b"], rewards: Any, success: str | None, threshold: float
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Return the number of successes and of judged completions, one entry per id.

    A reward of None, NaN or infinity means that the completion was not judged: it is neither a success nor a failure.

    Args:
        prompt_ids: Rows of the pool.
        rewards: One sequence of rewards per id, of any lengths, or one reward per id; or a mapping from the names of
            several rewards to such a value.
        success: Name of the reward to use; `rewards` must be a mapping then. None: there is one reward.
        threshold: The largest reward that is not a success.

    Raises:
        ValueError: The named reward is missing, or the rewards have no names. Or: the lengths differ, or a reward is
            not a number.
    """
    if isinstance(rewards, Mapping):
        rewards = rewards[one_reward(list(rewards), success)]
    elif success is not None:
        raise ValueError(f"success is {success!r}, but rewards have no names; give {{{success!r}: rewards}}")
    flat, lengths = _flat(rewards)
    if len(lengths) != len(prompt_ids):
        raise ValueError(f"prompt_ids has {len(prompt_ids)} entries, and rewards {len(lengths)}; {_GIVE}")
    judged = np.isfinite(flat)
    group = np.repeat(np.arange(len(lengths)), lengths)
    successful = judged & are_above(flat, threshold)
    counts = (np.bincount(group, kept, minlength=len(lengths)) for kept in (successful, judged))
    successes, group_size = (count.astype(np.int32) for count in counts)
    return successes, group_size


def checked_threshold(threshold: float) -> float:
    """Return the threshold if it is a finite number.

    Raises:
        ValueError: The threshold is not a finite number.
    """
    _validate.finite(threshold=threshold)
    return float(threshold)


def _flat(rewards: Any) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " b"]]:
    """Return all rewards in one vector, with NaN for None, and the number of rewards per prompt."""
    rewards = _unmasked(rewards)
    try:
        array = _numbers(rewards)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return _joined(rewards)
    if array.ndim not in (1, 2):
        raise ValueError(f"rewards has shape {array.shape}; {_GIVE}")
    return array.ravel(), np.full(len(array), array.shape[1] if array.ndim == 2 else 1)


def _unmasked(rewards: Any) -> Any:
    """Return the rewards with NaN for masked ones, also in lists of masked arrays."""
    if isinstance(rewards, list | tuple):
        return [_unmasked(one) if isinstance(one, list | tuple | np.ma.MaskedArray) else one for one in rewards]
    return _validate.nan_where_masked(rewards)


def on_the_host(rewards: Any) -> Any:
    """Return the rewards with a tensor of torch, also in a list, as numbers that NumPy reads; others stay.

    NumPy refuses tensors with a gradient, on a GPU or in bfloat16.
    """
    if isinstance(rewards, list | tuple):
        return [on_the_host(one) for one in rewards]
    if not all(hasattr(rewards, name) for name in ("detach", "cpu", "double")):
        return rewards
    return (rewards if rewards.is_complex() else rewards.double()).detach().cpu().numpy()


def _numbers(rewards: Any) -> Float[np.ndarray, "..."]:
    """Return the rewards in float64, with NaN for None. A text such as "1.0" raises an error; NumPy would accept it."""
    given = np.asarray(on_the_host(rewards))
    if given.dtype.kind == "c":
        raise TypeError("a reward is a complex number")
    if given.dtype.kind in "USO" and any(isinstance(reward, str | bytes) for reward in given.flat):
        raise TypeError("a reward is text")
    return given.astype(np.float64)


def _joined(rewards: Any) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " b"]]:
    """Return the rewards of groups of different sizes in one vector, and the size of each group."""
    try:
        groups = [_numbers(group) for group in rewards]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"rewards holds something other than numbers and None ({error}); {_GIVE}") from error
    for row, group in enumerate(groups):
        if group.ndim != 1:
            raise ValueError(f"rewards[{row}] has shape {group.shape}; {_GIVE}")
    return np.concatenate([np.zeros(0), *groups]), np.array([len(group) for group in groups], np.int64)
