r"""A simulated learner: a pool of prompts whose success rates change with training; see `jaxsel.simulate`.

    p_i = sigmoid( sum_j w_ij * skill[k_ij] - difficulty_i + boost_i )

Every prompt i depends on a few of K skills (ids k_ij, loadings w_ij >= 0 with sum 1). It has a constant difficulty and
its own boost. A step trains on groups of n_i rollouts, s_i of them correct. The effect v_i of a group follows
dp/dlogit = p (1 - p), which the variance of the rewards estimates. As in GRPO, it is 0 for s = 0 and s = n.

    v_i       = ((s_i / n_i) (1 - s_i / n_i))^signal
    taught_k  = skill_gain * mean_i sum_j [k_ij = k] w_ij v_i exp(-memorization boost_i)
    lost      = interference * skill_gain * mean_i v_i / K
    skill[k] <- initial[k] + (1 - f) (skill[k] - initial[k]) + taught_k - lost
    boost_i  <- (1 - f) boost_i + boost_gain * v_i

Here f is `forgetting`, and the means run over groups with n > 0. The success rate of a prompt thus rises with its own
visits and with visits to its neighbours, the prompts that share skills with it. Memory is O(N).

By default nothing is lost. With forgetting, success rates without visits fall back towards their initial values. With
interference, training on some skills lowers all skills a little. With memorization, a prompt that was trained often
raises only its own success rate and no longer its skills. With the values of `TRAINING_LIKE`, a greedy choice from a
large pool is worse than a random choice, as in training runs of a small language model; see
`experiments.simulator_agrees`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel._visits import merge_visits
from jaxsel.base import Prediction, Rollouts, Selection, Selector, State
from jaxsel.numerics.beta_binomial import mixed_of

TRAINING_LIKE: dict[str, Any] = {
    "difficulty_mean": 1.5,
    "difficulty_spread": 10.0,
    "skill_gain": 3.0,
    "boost_gain": 1.0,
    "interference": 0.5,
    "memorization": 0.5,
    "signal": 0.5,
}
"""Arguments of `make_learner`, fitted by hand to runs of a small language model on 20,000 string operations."""
_LARGEST_LOGIT = 15.0  # in float32, sigmoid(15) still differs from 1


class Learner(NamedTuple):
    """The constants of a simulated learner: N prompts with m of K skills each.

    Attributes:
        skill_ids: k, the skills that each prompt depends on. A skill may occur twice in a column.
        loadings: w, the weight of each skill. Columns sum to 1.
        difficulty: Difficulty of each prompt, in logits.
        initial_skills: Skills before training, in logits. Forgetting returns the skills to these values.
        skill_gain: Gain of all skills together per unit of the batch's mean effect v.
        boost_gain: Gain of a prompt's own boost per unit of its effect v.
        forgetting: f, the share of all gains that is lost per step.
        interference: Loss of all skills together in a step, as a share of their gain without memorization.
        memorization: Rate at which a visit's gain of the skills falls with the prompt's boost, per logit.
        signal: Power of the reward variance in the effect v of a group; 1/2 for normalised advantages, as in GRPO.
    """

    skill_ids: Int[Array, "m N"]
    loadings: Float[Array, "m N"]
    difficulty: Float[Array, " N"]
    initial_skills: Float[Array, " K"]
    skill_gain: Float[Array, ""]
    boost_gain: Float[Array, ""]
    forgetting: Float[Array, ""]
    interference: Float[Array, ""] | float = 0.0
    memorization: Float[Array, ""] | float = 0.0
    signal: Float[Array, ""] | float = 1.0


class LearnerState(NamedTuple):
    """The variables of a simulated learner, which training changes.

    Attributes:
        skills: Skills, in logits.
        boost: Boost of each prompt, in logits.
    """

    skills: Float[Array, " K"]
    boost: Float[Array, " N"]


def make_learner(
    key: Key[Array, ""],
    num_prompts: int,
    *,
    num_skills: int = 32,
    skills_per_prompt: int = 2,
    difficulty_mean: float = 1.0,
    difficulty_spread: float = 4.0,
    skill_spread: float = 1.0,
    skill_gain: float = 2.0,
    boost_gain: float = 0.5,
    forgetting: float = 0.0,
    interference: float = 0.0,
    memorization: float = 0.0,
    signal: float = 1.0,
) -> Learner:
    """Return a random learner with Gaussian difficulties and skills, and random skills per prompt.

    The loadings are exponential variables, scaled to sum 1 per prompt.

    Args:
        key: A key, which this function consumes.
        num_prompts: N, the number of prompts.
        num_skills: K, the number of skills. With fewer skills a prompt shares skills with more prompts.
        skills_per_prompt: m, the number of skills per prompt.
        difficulty_mean: Mean difficulty, in logits. Above 0 most prompts are hard.
        difficulty_spread: Standard deviation of the difficulty, in logits. A larger value gives fewer mixed groups.
        skill_spread: Standard deviation of the initial skills, in logits.
        skill_gain: Gain of the skills, at least 0. At 0, a visit does not change other prompts.
        boost_gain: Gain of the boosts, at least 0. At 0, a visit changes a prompt only through its skills.
        forgetting: Share of all gains that is lost per step, from 0 to 1.
        interference: Loss of all skills together in a step, as a share of their gain without memorization, at least 0.
        memorization: Rate at which a visit's gain of the skills falls with the prompt's boost, at least 0, per logit.
        signal: Power of the reward variance in the effect of a group, above 0: 1 without normalised advantages, 1/2
            with them.

    Raises:
        ValueError: An argument is out of its range.
    """
    _validate.positive_integer(num_prompts=num_prompts, num_skills=num_skills, skills_per_prompt=skills_per_prompt)
    _validate.finite(difficulty_mean=difficulty_mean)
    _validate.non_negative(difficulty_spread=difficulty_spread, skill_spread=skill_spread)
    _validate.non_negative(skill_gain=skill_gain, boost_gain=boost_gain)
    _validate.unit_interval(forgetting=forgetting)
    _validate.non_negative(interference=interference, memorization=memorization)
    _validate.positive(signal=signal)
    mean, deviation, spread = map(jnp.float32, (difficulty_mean, difficulty_spread, skill_spread))
    ids_key, loadings_key, difficulty_key, skills_key = jax.random.split(key, 4)
    shape = (skills_per_prompt, num_prompts)
    # one of 2^23 exponential variables is 0, and a sum of zeros would divide by 0
    loadings = jnp.maximum(jax.random.exponential(loadings_key, shape, jnp.float32), jnp.finfo(jnp.float32).tiny)
    return Learner(
        jax.random.randint(ids_key, shape, 0, num_skills, jnp.int32),
        loadings / loadings.sum(0, keepdims=True),
        mean + deviation * jax.random.normal(difficulty_key, (num_prompts,), jnp.float32),
        spread * jax.random.normal(skills_key, (num_skills,), jnp.float32),
        *map(jnp.float32, (skill_gain, boost_gain, forgetting, interference, memorization, signal)),
    )


def embed(key: Key[Array, ""], learner: Learner, *, num_features: int = 32, noise: float = 0.5) -> Float[Array, "N f"]:
    """Return synthetic embeddings: a random linear map of the loadings on the K skills and of the difficulty.

    The image of a skill has a norm of about sqrt(f), so prompts that share skills are similar. The image of one
    standard deviation of the difficulty has norm 1. A linear map therefore recovers at most 1 / (1 + noise^2) of the
    difficulty's variance. Memory is O(N (m + f)).

    Args:
        key: A key, which this function consumes.
        learner: Simulated learner from `make_learner`.
        num_features: f, the number of entries of an embedding. Below K, the skills also hide a part of the difficulty.
        noise: Standard deviation of the Gaussian noise in every feature.

    Raises:
        ValueError: An argument is out of its range.
    """
    _validate.positive_integer(num_features=num_features)
    _validate.non_negative(noise=noise)
    image_key, noise_key = jax.random.split(key)
    image = jax.random.normal(image_key, (len(learner.initial_skills) + 1, num_features), jnp.float32)
    hardness = jax.nn.standardize(learner.difficulty)[:, None] * (image[-1:] / jnp.linalg.norm(image[-1]))
    skills = sum(weight[:, None] * image[ids] for ids, weight in zip(learner.skill_ids, learner.loadings, strict=True))
    return skills + hardness + float(noise) * jax.random.normal(noise_key, hardness.shape, jnp.float32)


def initial_state(learner: Learner) -> LearnerState:
    """Return the state of a learner before training."""
    return LearnerState(learner.initial_skills, jnp.zeros_like(learner.difficulty))


def success_rate(
    learner: Learner, state: LearnerState, prompt_ids: Int[Array, " m"] | None = None
) -> Float[Array, " m"]:
    """Return the true p, above 0 and below 1, of the given prompts, or of the whole pool for None."""
    rows = slice(None) if prompt_ids is None else prompt_ids
    ability = (learner.loadings[:, rows] * state.skills[learner.skill_ids[:, rows]]).sum(0)
    logit = ability - learner.difficulty[rows] + state.boost[rows]
    return jax.nn.sigmoid(jnp.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT))


def rollout(
    key: Key[Array, ""], learner: Learner, state: LearnerState, prompt_ids: Int[Array, " b"], group_size: int
) -> Rollouts:
    """Return rollouts with s ~ Binomial(n, p) for every prompt, n = `group_size`."""
    rates = success_rate(learner, state, prompt_ids)
    correct = jax.random.bernoulli(key, rates[:, None], (len(prompt_ids), group_size))
    return Rollouts(prompt_ids, correct.sum(1, dtype=jnp.int32), jnp.full_like(prompt_ids, group_size))


def train(learner: Learner, state: LearnerState, rollouts: Rollouts) -> LearnerState:
    """Return the state after a step on one batch. Groups with n = 0 and ids outside the pool have no effect."""
    ids, successes, group_size = merge_visits(rollouts, len(learner.difficulty))
    rate = successes.astype(jnp.float32) / jnp.maximum(group_size, 1).astype(jnp.float32)
    effect = (rate * (1 - rate)) ** learner.signal
    share = learner.skill_gain * effect / jnp.maximum((group_size > 0).sum(dtype=jnp.float32), 1)
    new_to_it = jnp.exp(-learner.memorization * state.boost[ids])
    lesson = learner.loadings[:, ids] * (share * new_to_it)[None]
    lost = learner.interference * share.sum() / len(state.skills)
    kept = 1 - learner.forgetting
    skills = learner.initial_skills + kept * (state.skills - learner.initial_skills) - lost
    return LearnerState(
        skills.at[learner.skill_ids[:, ids]].add(lesson),
        (kept * state.boost).at[ids].add(learner.boost_gain * effect, mode="drop"),
    )


def oracle(learner: Learner, *, group_size: int = 8) -> Selector:
    """Return a selector with the true success rates. It chooses rates near 1/2, where P(0 < s < n) is largest.

    The selector's state is a copy of the learner's state, and its update trains the copy. The rates are true if the
    selector observes every batch that the learner is trained on, as in `simulate`.
    """
    _validate.positive_integer(group_size=group_size)
    group_size = int(group_size)

    def init(key: Key[Array, ""], num_prompts: int) -> LearnerState:
        del key, num_prompts
        return initial_state(learner)

    def predict(
        key: Key[Array, ""],
        state: LearnerState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        del key, first_id
        rate = success_rate(learner, state, prompt_ids)
        unsolved, solved = (1 - rate) ** group_size, rate**group_size
        mixed = mixed_of(unsolved, solved, group_size)
        return Prediction(rate, jnp.zeros_like(rate), rate, unsolved, mixed, solved)

    def select(
        key: Key[Array, ""], state: State, batch_size: int, candidates: Int[Array, " c"] | None = None
    ) -> Selection:
        prediction = predict(key, state, candidates)
        scores, chosen = jax.lax.top_k(-jnp.abs(prediction.success_rate - 0.5), batch_size)
        prompt_ids = chosen if candidates is None else candidates[chosen]
        return Selection(prompt_ids, scores, jax.tree.map(lambda field: field[chosen], prediction))

    def update(key: Key[Array, ""], state: LearnerState, rollouts: Rollouts) -> LearnerState:
        del key
        return train(learner, state, rollouts)

    return Selector({"method": "oracle", "group_size": group_size}, init, predict, select, update)
