r"""A simulated learner on real problems: how a policy might learn the MATH training set.

Problem i of subject k_i and level l_i, from 1 to 5, is solved with probability

    p_i = sigmoid( skill[k_i] - difficulty_i + boost_i ),    difficulty_i = 1 + 1.2 (l_i - 3) + noise_i

    noise_i ~ Normal(0, 1), skill[k] ~ Normal(0, 0.7^2) at first, boost_i = 0 at first

The text hints at level and subject, so it predicts p_i only in part. During training, skills and boosts rise as in
`jaxsel.simulate`, with skill_gain = 1 and boost_gain = 0.5: a batch raises the skills of its subjects, and a mixed
group (of 8 rollouts of one problem, some but not all correct) raises the boost of its own problem. The mean success
rate rises from 0.23 to about 0.5 in 100 steps of 256 x 8 rollouts.

A problem without a level counts as level 3. Split, noise and skills depend on the seed.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxsel
from experiments.reporting.provenance import RESULTS
from experiments.running.command import Distinct, module_parser
from jaxsel import simulate
from jaxsel.integrations.embeddings import embed
from rl.progress import bar

GROUP_SIZE = 8


class Problems(NamedTuple):
    """N problems.

    Attributes:
        levels: Level of every problem, 1 to 5.
        subjects: Number of every problem's subject.
        embeddings: Embedding of every problem's text.
        fingerprint: Hash of the texts.
    """

    levels: np.ndarray
    subjects: np.ndarray
    embeddings: np.ndarray
    fingerprint: str


class Recording(NamedTuple):
    """T steps of uniformly drawn batches.

    Attributes:
        prompt_ids: Problems of every batch.
        successes: Successes out of 8 rollouts for every problem of a batch.
        truth: True success rates of all problems before the first step and after every step.
    """

    prompt_ids: np.ndarray
    successes: np.ndarray
    truth: np.ndarray


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all experiments on these problems share."""
    parser = module_parser(module, description)
    parser.add_argument("problems", help="file of JSON lines, or data set on the hub; see load_problems")
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def load_problems(source: str, *, more_than: int = 0) -> Problems:
    """Read problems, and embed them with WordLlama.

    Args:
        source: File of JSON lines with the fields `problem`, `level` or `difficulty`, and `type`; or a data set with
            these fields on the Hugging Face hub.
        more_than: Number of problems that are held out, so that more are needed.

    Raises:
        ValueError: There is no such file, a field is missing, or there are too few problems.
    """
    from datasets import load_dataset

    if Path(source).exists():
        rows: Any = load_dataset("json", data_files=source, split="train")
    elif Path(source).suffix in (".json", ".jsonl"):
        raise ValueError(f"problems is {source}, which does not exist; give a file of JSON lines")
    else:
        rows = load_dataset(source, split="train")
    missing = {"problem", "type"} - {*rows.column_names}
    if missing or not {"difficulty", "level"} & {*rows.column_names}:
        lacking = ", ".join(sorted(missing)) or "level"
        found = ", ".join(rows.column_names)
        raise ValueError(f"{source} has the fields {found}, and lacks {lacking}; give problems with level and type")
    if len(rows) <= more_than:
        raise ValueError(f"{source} has {len(rows)} problems; give more than {more_than}, which are held out")
    levels = rows["difficulty" if "difficulty" in rows.column_names else "level"]
    subjects = np.unique(rows["type"], return_inverse=True)[1]
    texts = list(rows["problem"])
    fingerprint = f"sha256:{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}"
    return Problems(np.array([_level(level) for level in levels]), subjects, embed(texts, progress=bar), fingerprint)


def _level(value: Any) -> float:
    """Return the level as a number: 5 for 5.0, "5" and "Level 5"; 3 where there is none."""
    text = str(value).removeprefix("Level ")
    return float(text) if text.replace(".", "").isdigit() else 3.0


def make_learner(problems: Problems, seed: int) -> simulate.Learner:
    """Return the learner that this module's docstring defines."""
    rng = np.random.default_rng(seed)
    difficulty = 1 + 1.2 * (problems.levels - 3) + rng.normal(size=len(problems.levels))
    skills = 0.7 * rng.normal(size=problems.subjects.max() + 1)
    return simulate.Learner(
        jnp.array(problems.subjects[None], jnp.int32),
        jnp.ones((1, len(difficulty)), jnp.float32),
        jnp.array(difficulty, jnp.float32),
        jnp.array(skills, jnp.float32),
        skill_gain=jnp.float32(1.0),
        boost_gain=jnp.float32(0.5),
        forgetting=jnp.float32(0.0),
    )


def split(num_problems: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows that are never visited."""
    rows = np.random.default_rng([seed, 1]).permutation(num_problems).astype(np.int32)
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])


def record(learner: simulate.Learner, rows: np.ndarray, seed: int, *, steps: int, batch_size: int) -> Recording:
    """Return batches of random rows, on which the learner trains and which every predictor observes."""
    rng = np.random.default_rng([seed, 2])
    state, success_rate, train = (
        simulate.initial_state(learner),
        jax.jit(simulate.success_rate),
        jax.jit(simulate.train),
    )
    truth, ids, successes = [np.asarray(success_rate(learner, state))], [], []
    for _ in range(steps):
        ids.append(rng.choice(rows, batch_size, replace=False))
        successes.append(rng.binomial(GROUP_SIZE, truth[-1][ids[-1]]).astype(np.int32))
        state = train(learner, state, rollouts(ids[-1], successes[-1]))
        truth.append(np.asarray(success_rate(learner, state)))
    return Recording(np.stack(ids), np.stack(successes), np.stack(truth))


def rollouts(prompt_ids: np.ndarray, successes: np.ndarray) -> jaxsel.Rollouts:
    """Return a batch of groups of 8 rollouts."""
    columns = (prompt_ids, successes, np.full(len(prompt_ids), GROUP_SIZE))
    return jaxsel.Rollouts(*(jnp.array(column, jnp.int32) for column in columns))


Predict = Callable[[Recording, Sequence[int]], dict[int, np.ndarray]]
"""`(recording, horizons) -> predicted success rates of all problems after so many steps`."""


def online(predictor: jaxsel.Predictor) -> Predict:
    """Return the predictions of a predictor of jaxsel, which is updated step by step."""
    update = jax.jit(predictor.update, donate_argnums=1)
    rates = jax.jit(lambda key, state: predictor.predict(key, state, None).success_rate)

    def predict(recording: Recording, horizons: Sequence[int]) -> dict[int, np.ndarray]:
        state, predicted = predictor.init(jax.random.key(0), recording.truth.shape[1]), {}
        for t in range(max(horizons)):
            state = update(jax.random.key(2 * t), state, rollouts(recording.prompt_ids[t], recording.successes[t]))
            if t + 1 in horizons:
                predicted[t + 1] = np.asarray(rates(jax.random.key(2 * t + 1), state))
        return predicted

    return predict


def ties_broken(predict: Predict) -> Predict:
    """Return the predictions with ties in a random order; rank correlation favours ties, which share a mean rank."""

    def break_ties(recording: Recording, horizons: Sequence[int]) -> dict[int, np.ndarray]:
        rng = np.random.default_rng(0)
        predicted = predict(recording, horizons)
        return {t: rates + 1e-5 * rng.random(len(rates), np.float32) for t, rates in predicted.items()}

    return break_ties


def ridge(features: np.ndarray, *, last: int | None = None) -> Predict:
    """Return a ridge regression of success rates s / n on standardised features.

    Args:
        features: Features of all prompts.
        last: Number of last steps to fit on; None: all steps. Without a number, the penalty is chosen by leaving out
            one group of rollouts at a time. With a number, five-fold cross-validation leaves out all groups of a prompt
            together; otherwise the fit would still see the prompt's other groups.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold

    standardised, penalties = (features - features.mean(0)) / features.std(0), np.logspace(0, 5, 21)

    def predict(recording: Recording, horizons: Sequence[int]) -> dict[int, np.ndarray]:
        predicted = {}
        for t in horizons:
            steps = slice(max(0, t - last) if last else 0, t)
            seen, rates = recording.prompt_ids[steps].ravel(), recording.successes[steps].ravel() / GROUP_SIZE
            folds = list(GroupKFold(5).split(seen, groups=seen)) if last else None
            model = RidgeCV(alphas=penalties, cv=folds).fit(standardised[seen], rates)
            predicted[t] = np.clip(model.predict(standardised), 0, 1).astype(np.float32)
        return predicted

    return predict


def direction_and_length(embeddings: np.ndarray) -> np.ndarray:
    """Return the features that gps reads from an embedding: its direction and the logarithm of its length."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.concatenate([embeddings / np.maximum(length, 1e-6), np.log(np.maximum(length, 1e-6))], 1)


def scores(predicted: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Return the rank correlation (NaN where all predictions are equal) and mean absolute error at these rows."""
    if len(rows) < 2:
        return {"spearman": float("nan"), "mae": float("nan")}
    prediction, rates = jnp.array(predicted[rows]), jnp.array(truth[rows])
    return {
        "spearman": float(jaxsel.metrics.spearman(prediction, rates)),
        "mae": float(jaxsel.metrics.mean_absolute_error(prediction, rates)),
    }
