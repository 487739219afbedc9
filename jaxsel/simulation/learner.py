r"""A pool whose success rates drift as it is trained on; see `jaxsel.simulate`.

    p_i = sigmoid( sum_j w_ij * skill[k_ij] - difficulty_i + boost_i )

Every prompt i leans on a few of K skills (ids k_ij, loadings w_ij >= 0 with sum 1), has a difficulty that
stays, and a boost of its own. Training on a group of n_i rollouts, s_i of them correct, follows the gradient
dp/dlogit = p (1 - p) in its realised form, the variance of the rewards: 0 for s = 0 and s = n, as in GRPO.

    v_i       = (s_i / n_i) (1 - s_i / n_i)
    skill[k] <- initial[k] + (1 - f) (skill[k] - initial[k]) + skill_gain * mean_i sum_j [k_ij = k] w_ij v_i
    boost_i  <- (1 - f) boost_i + boost_gain * v_i

with f = `forgetting` and the mean over groups with n > 0. So a prompt learns from its own visits and those of
its neighbours, the prompts with skills in common, and forgets what is not practised. Memory is O(N).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxsel import _validate
from jaxsel._visits import merge_visits
from jaxsel.base import Prediction, Rollouts, Selection, Selector, State

_LARGEST_LOGIT = 15.0  # float32 can still tell sigmoid(15) from 1


class Learner(NamedTuple):
    """What training does not change: N prompts, m skills each, of K.

    Attributes:
        skill_ids: k, the skills that a prompt leans on; one may stand there twice.
        loadings: w, how much it leans on each; columns sum to 1.
        difficulty: in logits.
        initial_skills: what the skills start from and are forgotten to, in logits.
        skill_gain: what the mean group of a batch teaches the skills.
        boost_gain: what a group teaches its own prompt.
        forgetting: f, the share of everything learnt that a step loses.
    """

    skill_ids: Int[Array, "m N"]
    loadings: Float[Array, "m N"]
    difficulty: Float[Array, " N"]
    initial_skills: Float[Array, " K"]
    skill_gain: Float[Array, ""]
    boost_gain: Float[Array, ""]
    forgetting: Float[Array, ""]


class LearnerState(NamedTuple):
    """What training changes: the skills, and every prompt's boost, in logits."""

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
) -> Learner:
    """A random pool: Gaussian difficulties and skills, random skills a prompt with exponential loadings.

    Args:
        key: consumed.
        num_prompts: N.
        num_skills: K; the fewer, the more neighbours a prompt has.
        skills_per_prompt: m.
        difficulty_mean: in logits; above 0, the pool is hard.
        difficulty_spread: standard deviation; the larger, the fewer prompts are mixed.
        skill_spread: standard deviation of the initial skills.
        skill_gain: at least 0; at 0, prompts do not learn from each other.
        boost_gain: at least 0; at 0, prompts do not learn of their own.
        forgetting: from 0 to 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.positive_integer(num_prompts=num_prompts, num_skills=num_skills, skills_per_prompt=skills_per_prompt)
    _validate.non_negative(difficulty_spread=difficulty_spread, skill_spread=skill_spread)
    _validate.non_negative(skill_gain=skill_gain, boost_gain=boost_gain)
    _validate.unit_interval(forgetting=forgetting)
    ids_key, loadings_key, difficulty_key, skills_key = jax.random.split(key, 4)
    shape = (skills_per_prompt, num_prompts)
    loadings = jax.random.exponential(loadings_key, shape, jnp.float32)
    return Learner(
        jax.random.randint(ids_key, shape, 0, num_skills, jnp.int32),
        loadings / loadings.sum(0, keepdims=True),
        difficulty_mean + difficulty_spread * jax.random.normal(difficulty_key, (num_prompts,), jnp.float32),
        skill_spread * jax.random.normal(skills_key, (num_skills,), jnp.float32),
        *(jnp.float32(rate) for rate in (skill_gain, boost_gain, forgetting)),
    )


def embed(key: Key[Array, ""], learner: Learner, *, num_features: int = 32, noise: float = 0.5) -> Float[Array, "N f"]:
    """In place of text embeddings: a random linear image of the loadings on the K skills and of the difficulty.

    A skill has an image about sqrt(f) long, so neighbours are alike. A standard deviation of the difficulty has one of
    length 1: a linear map recovers 1 / (1 + noise^2) of its variance at most. Memory is O(N (m + f)).

    Args:
        key: consumed.
        learner: from `make_learner`.
        num_features: f; below K, the skills hide a part of the difficulty too.
        noise: Gaussian, its standard deviation in every feature.

    Raises:
        ValueError: an argument out of its range.
    """
    _validate.positive_integer(num_features=num_features)
    _validate.non_negative(noise=noise)
    image_key, noise_key = jax.random.split(key)
    image = jax.random.normal(image_key, (len(learner.initial_skills) + 1, num_features), jnp.float32)
    hardness = jax.nn.standardize(learner.difficulty)[:, None] * (image[-1:] / jnp.linalg.norm(image[-1]))
    skills = sum(weight[:, None] * image[ids] for ids, weight in zip(learner.skill_ids, learner.loadings, strict=True))
    return skills + hardness + noise * jax.random.normal(noise_key, hardness.shape, jnp.float32)


def initial_state(learner: Learner) -> LearnerState:
    """The learner before any training."""
    return LearnerState(learner.initial_skills, jnp.zeros_like(learner.difficulty))


def success_rate(
    learner: Learner, state: LearnerState, prompt_ids: Int[Array, " m"] | None = None
) -> Float[Array, " m"]:
    """The true p of the prompts asked for, above 0 and below 1; None: of the whole pool."""
    rows = slice(None) if prompt_ids is None else prompt_ids
    ability = (learner.loadings[:, rows] * state.skills[learner.skill_ids[:, rows]]).sum(0)
    logit = ability - learner.difficulty[rows] + state.boost[rows]
    return jax.nn.sigmoid(jnp.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT))


def rollout(
    key: Key[Array, ""], learner: Learner, state: LearnerState, prompt_ids: Int[Array, " b"], group_size: int
) -> Rollouts:
    """Draws s ~ Binomial(n, p) for every prompt, n = `group_size`."""
    rates = success_rate(learner, state, prompt_ids)
    correct = jax.random.bernoulli(key, rates[:, None], (len(prompt_ids), group_size))
    return Rollouts(prompt_ids, correct.sum(1, dtype=jnp.int32), jnp.full_like(prompt_ids, group_size))


def train(learner: Learner, state: LearnerState, rollouts: Rollouts) -> LearnerState:
    """One step on one batch; groups without a rollout and ids outside the pool teach nothing."""
    ids, successes, group_size = merge_visits(rollouts, len(learner.difficulty))
    rate = successes.astype(jnp.float32) / jnp.maximum(group_size, 1).astype(jnp.float32)
    variance = rate * (1 - rate)
    lesson = learner.loadings[:, ids] * variance[None] / jnp.maximum((group_size > 0).sum(dtype=jnp.float32), 1)
    kept = 1 - learner.forgetting
    skills = learner.initial_skills + kept * (state.skills - learner.initial_skills)
    return LearnerState(
        skills.at[learner.skill_ids[:, ids]].add(learner.skill_gain * lesson),
        (kept * state.boost).at[ids].add(learner.boost_gain * variance, mode="drop"),
    )


def oracle(learner: Learner, *, group_size: int = 8) -> Selector:
    """Knows the true success rates and chooses those nearest to 1/2, which are the likeliest to be mixed.

    Its state is the learner's and its update trains it: it stays true as long as it is given every batch that
    the learner is trained on, as `simulate` does.
    """
    _validate.positive_integer(group_size=group_size)

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
        mixed = jnp.zeros_like(rate) if group_size == 1 else jnp.maximum(1 - unsolved - solved, 0)
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
