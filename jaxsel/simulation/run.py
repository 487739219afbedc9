"""A whole run of a selector with a simulated learner, in one `jax.lax.scan`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel.base import Prediction, Rollouts, Selector, State
from jaxsel.evaluation.metrics.correlations import spearman
from jaxsel.evaluation.metrics.scores import mean_absolute_error, mixed_share
from jaxsel.evaluation.metrics.solve_states import solve_state_accuracy
from jaxsel.simulation.learner import Learner, LearnerState, initial_state, rollout, success_rate, train


class Trace(NamedTuple):
    """The record of T simulated steps.

    The probe is a set of m random prompts, the same at all steps. At each step its prompts are predicted, and get a
    fresh group of n rollouts each, on which the learner does not train. `spearman`, `mean_absolute_error` and
    `solve_state_accuracy` score these predictions.

    Attributes:
        prompt_ids: Chosen batches.
        successes: s, the correct rollouts of each chosen prompt, out of n. `jaxsel.evaluation.replay.make_history`
            turns the batches and their successes into a history, on which other predictors can be replayed.
        mixed_share: Share of the batch's prompts with 0 < s < n.
        mean_success_rate: Mean of the true success rates of the probe.
        spearman: Rank correlation of predicted and true success rates; NaN while all predictions are equal.
        mean_absolute_error: Mean absolute error of the predicted success rates.
        solve_state_accuracy: How often a fresh group has the likeliest predicted solve state (unsolved, mixed or
            solved).
        rollouts: Number of rollouts up to and including this step, without the fresh groups.
        predicted_mixed: Predicted P(mixed) of each chosen prompt before its rollouts.
        probe_predicted_mixed: Predicted P(mixed) of each prompt of the probe.
        probe_successes: s of each fresh group.
    """

    prompt_ids: Int[Array, "T b"]
    successes: Int[Array, "T b"]
    mixed_share: Float[Array, " T"]
    mean_success_rate: Float[Array, " T"]
    spearman: Float[Array, " T"]
    mean_absolute_error: Float[Array, " T"]
    solve_state_accuracy: Float[Array, " T"]
    rollouts: Int[Array, " T"]
    predicted_mixed: Float[Array, "T b"]
    probe_predicted_mixed: Float[Array, "T m"]
    probe_successes: Int[Array, "T m"]


def simulate(
    key: Key[Array, ""],
    selector: Selector,
    learner: Learner,
    *,
    num_steps: int,
    batch_size: int,
    group_size: int = 8,
    candidate_ratio: int | None = None,
    num_probes: int = 1024,
    belief: State | None = None,
) -> Trace:
    """Select, roll out, observe and train `num_steps` times in one scan. The function can be jitted and vmapped.

    Probe and candidates depend on the key alone, so methods with the same key are compared on the same prompts.

    Args:
        key: A key, which this function consumes.
        selector: Method, for example `jaxsel.mopps()` or `oracle(learner)`.
        learner: Simulated learner from `make_learner`, which starts from its `initial_state`.
        num_steps: T, the number of steps.
        batch_size: b, the prompts per step.
        group_size: n, the rollouts per prompt.
        candidate_ratio: Choose among `candidate_ratio * batch_size` random prompts, drawn anew at every step. None:
            choose among the whole pool.
        num_probes: Number of prompts in the probe. In a smaller pool, the probe is the whole pool.
        belief: Initial state of the selector. None: from the selector's `init`. Pass a state with large embeddings into
            a `jit` as an argument, so that the compiled program does not contain the embeddings as constants.

    Raises:
        ValueError: An argument is not an integer of at least 1, the batch is larger than the pool, or the rollouts of
            all steps are 2^31 or more.
    """
    _validate.made(Selector, selector=selector)
    num_prompts = len(learner.difficulty)
    _validate.positive_integer(num_steps=num_steps, batch_size=batch_size, group_size=group_size)
    _validate.positive_integer(candidate_ratio=1 if candidate_ratio is None else candidate_ratio, num_probes=num_probes)
    if batch_size > num_prompts:
        raise ValueError(f"batch_size is {batch_size} of {num_prompts} prompts; give at most {num_prompts}")
    if (num_rollouts := int(num_steps) * int(batch_size) * int(group_size)) >= 2**31:
        raise ValueError(
            f"num_steps is {num_steps}, batch_size {batch_size} and group_size {group_size}, {num_rollouts} rollouts "
            f"in all; give a product of at most {2**31 - 1}, because int32 counts them"
        )
    num_candidates = None if candidate_ratio is None else min(candidate_ratio * batch_size, num_prompts)
    init_key, probe_key, steps_key = jax.random.split(key, 3)
    probe = _random_rows(probe_key, num_prompts, min(num_probes, num_prompts))

    if belief is None:
        belief = selector.init(init_key, num_prompts)

    def step(carry: tuple[State, LearnerState], t: Int[Array, ""]) -> tuple[tuple[State, LearnerState], Trace]:
        belief, state = carry
        keys = jax.random.split(jax.random.fold_in(steps_key, t), 6)
        candidates = None if num_candidates is None else _random_candidates(keys[0], num_prompts, num_candidates)
        chosen = selector.select(keys[1], belief, batch_size, candidates)
        rollouts = rollout(keys[2], learner, state, chosen.prompt_ids, group_size)
        prediction = selector.predict(keys[3], belief, probe)
        fresh = rollout(keys[4], learner, state, probe, group_size)
        truth = success_rate(learner, state, probe)
        trace = _traced(rollouts, chosen.prediction.mixed, prediction, fresh, truth, t)
        return (selector.update(keys[5], belief, rollouts), train(learner, state, rollouts)), trace

    return jax.lax.scan(step, (belief, initial_state(learner)), jnp.arange(num_steps, dtype=jnp.int32))[1]


def _random_rows(key: Key[Array, ""], num_prompts: int, size: int) -> Int[Array, " c"]:
    """Return distinct rows of the pool, without the sort of the whole pool that a permutation needs."""
    return jax.lax.top_k(jax.random.uniform(key, (num_prompts,), jnp.float32), size)[1]


def _random_candidates(key: Key[Array, ""], num_prompts: int, size: int) -> Int[Array, " c"]:
    """Return distinct rows, one from each of `size` equal parts of the pool, in O(`size`) time.

    Every row is equally likely, but two rows of one part are never drawn together. This does no harm, because the rows
    of a simulated pool are in random order.
    """
    start_key, place_key = jax.random.split(key)
    width = num_prompts // size
    rows = jnp.arange(size, dtype=jnp.int32) * width + jax.random.randint(place_key, (size,), 0, width, jnp.int32)
    return (rows + jax.random.randint(start_key, (), 0, num_prompts, jnp.int32)) % num_prompts


def _traced(
    rollouts: Rollouts,
    predicted_mixed: Float[Array, " b"],
    prediction: Prediction,
    fresh: Rollouts,
    truth: Float[Array, " m"],
    t: Int[Array, ""],
) -> Trace:
    """Return the record of step t. `prediction`, `fresh` and `truth` belong to the prompts of the probe."""
    return Trace(
        rollouts.prompt_ids,
        rollouts.successes,
        mixed_share(rollouts.successes, rollouts.group_size),
        truth.mean(),
        spearman(prediction.success_rate, truth),
        mean_absolute_error(prediction.success_rate, truth),
        solve_state_accuracy(prediction, fresh.successes, fresh.group_size),
        (t + 1) * rollouts.group_size.sum(dtype=jnp.int32),
        predicted_mixed,
        prediction.mixed,
        fresh.successes,
    )
