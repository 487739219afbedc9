"""Tests with the real google-tunix and a tiny policy; `make tunix` runs them in a separate environment."""

import importlib.util
import shutil

import jax
import numpy as np
import pytest

if importlib.util.find_spec("tunix") is None:
    pytest.skip("no google-tunix in this environment; see `make tunix`", allow_module_level=True)

from tunix.rl.grpo.drgrpo_learner import DrGRPOLearner  # pyright: ignore[reportMissingImports]

import jaxsel
from jaxsel.integrations.history import read_history
from tests.support.tiny_tunix import ROWS, G, Judge, K, N, learner, prompts, train

pytestmark = [
    pytest.mark.tunix,
    pytest.mark.slow,
    # Tunix and the packages that it imports cause these warnings
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def settings_of_tunix():
    """Allow rank promotion, which Tunix relies on. It trains in threads, so the setting has to be global."""
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")


def counts(rewards, threshold=0.5):
    """Return the successes and judged completions of each group, by loops."""
    groups = [[x for x in rewards[i : i + G] if x is not None] for i in range(0, len(rewards), G)]
    return [sum(x > threshold for x in group) for group in groups], [len(group) for group in groups]


def choices_of(selector, seen):
    """Return what a plain selector chooses when it observes the same rewards."""
    chosen = []
    for _, rows, rewards in seen:
        ids = selector.select(len(rows) // G)
        selector.observe(ids, *counts(rewards))
        chosen.append(np.repeat(ids, G).tolist())
    return chosen


# Prompts and rewards


@pytest.mark.parametrize("method", [jaxsel.dps, jaxsel.adaptive])
def test_training_chooses_like_a_plain_selector(method):
    judge, data, _ = train(selector=method(), seed=7)
    assert [rows for _, rows, _ in judge.seen] == choices_of(
        jaxsel.PromptSelector(method(), num_prompts=N, seed=7), judge.seen
    )
    assert len(judge.seen) == 3
    assert data.edge.metrics()["selector/in_flight"] == 0


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"iterations": 2}, 6),
        ({"mini_batch_size": 4, "train_micro_batch_size": 2}, 3),
        ({"mini_batch_size": 2, "train_micro_batch_size": 1}, 6),
        ({"mini_batch_size": 4, "train_micro_batch_size": 1, "rollout_micro_batch_size": 2}, 3),
    ],
    ids=["iterations", "accumulation", "mini-batches", "micro-batches of rollouts"],
)
def test_each_batch_is_chosen_after_the_rewards_of_the_last(options, steps):
    judge, data, _ = train(steps=steps, **options)
    rows = [row for _, part, _ in judge.seen for row in part]
    rewards = [reward for _, _, part in judge.seen for reward in part]
    whole = [("train", rows[i : i + K * G], rewards[i : i + K * G]) for i in range(0, len(rows), K * G)]
    assert len(whole) == 3
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0)
    assert [part for _, part, _ in whole] == choices_of(selector, whole)
    assert data.edge.metrics()["selector/observes"] == 3


def test_prompts_and_columns_reach_the_reward_function_unchanged():
    class Checks(Judge):
        def __call__(self, prompts, completions, level, mode, **columns):
            rows = columns["selected_row"]
            assert list(prompts) == [ROWS[row]["prompts"] for row in rows]
            assert level.tolist() == [ROWS[row]["level"] for row in rows]
            assert list(columns["key"]) == [ROWS[row]["key"] for row in rows]
            return super().__call__(prompts, completions, level, mode, **columns)

    judge, _, _ = train(judge=Checks(), steps=2, mini_batch_size=4, train_micro_batch_size=2)
    assert len(judge.seen) == 4


def test_a_missing_reward_is_not_a_failure(tmp_path):
    class Sometimes(Judge):
        def __call__(self, *args, **kwargs):
            rewards = super().__call__(*args, **kwargs)
            rewards[::4] = [None] * (len(rewards) // 4)
            return rewards

    judge, _, _ = train(judge=Sometimes(), steps=2, history=tmp_path / "history")
    seen = read_history(tmp_path / "history").rollouts
    expected = {}
    for clock, (_, rows, rewards) in enumerate(judge.seen):
        successes, judged = counts(rewards)
        assert judged == [G - 1] * K
        expected |= {(clock, row): pair for row, *pair in zip(rows[::G], successes, judged, strict=True)}
    names = ("clock", "prompt_id", "successes", "group_size")
    found = zip(*(seen[name].tolist() for name in names), strict=True)
    assert {(clock, row): pair for clock, row, *pair in found} == expected


def test_success_is_one_named_reward_above_a_threshold():
    judge = Judge()

    def accuracy(prompts, completions, **columns):
        return [0.1 + 0.8 * reward for reward in judge(prompts, completions, **columns)]

    def style(prompts, **_):
        return [1.0] * len(prompts)

    data = prompts(success="accuracy", threshold=0.85)
    run = learner(None, data.watched([style, accuracy]), metric_fns=[data.metrics], steps=2)
    run.train(data.batches(run))
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0)
    assert [rows for _, rows, _ in judge.seen] == choices_of(selector, judge.seen)
    successes = counts(judge.seen[-1][2])[0]
    assert data.edge.metrics()["selector/mixed_share"] == np.mean([0 < s < G for s in successes])


def test_evaluation_neither_selects_nor_observes():
    held_out = [{"prompts": np.array(["My name", "hello world"]), "level": np.array([50, 50])}]
    judge, data, logs = train(eval_ds=held_out, eval_every_n_steps=1, steps=2)
    assert [mode for mode, _, _ in judge.seen].count("eval") >= 2
    training = [seen for seen in judge.seen if seen[0] == "train"]
    assert [rows for _, rows, _ in training] == choices_of(
        jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0), training
    )
    assert data.edge.metrics()["selector/observes"] == 2
    evaluations = [metrics for mode, metrics in logs if mode == "eval"]
    assert evaluations
    assert not [name for metrics in evaluations for name in metrics if name.startswith("selector/")]


def test_logs_have_the_selectors_metrics():
    judge, _, logs = train()
    found = [metrics for mode, metrics in logs if mode == "train" and "selector/observes" in metrics]
    assert [metrics["selector/observes"][0] for metrics in found] == [[1], [2], [3]]
    mixed = [np.mean([0 < s < G for s in counts(rewards)[0]]) for _, _, rewards in judge.seen]
    assert [metrics["selector/mixed_share"][0][0] for metrics in found] == pytest.approx(mixed)


def test_a_subclass_of_the_learner_is_supported():
    data, judge = prompts(), Judge()
    run = learner(None, data.watched(judge), kind=DrGRPOLearner, steps=2)
    run.train(data.batches(run))
    assert len(judge.seen) == 2


# Resuming


def forget(folder, *steps):
    for step in steps:
        shutil.rmtree(folder / "actor" / str(step))


@pytest.mark.parametrize("method", [jaxsel.mopps, jaxsel.dps, jaxsel.adaptive])
def test_a_resumed_run_has_the_same_choices_and_rewards(tmp_path, method):
    options = {"selector": method(), "key_column": "key", "steps": 5}
    through, data, _ = train(tmp_path, **options)
    forget(tmp_path, 5, 4)
    resumed, again, _ = train(tmp_path, **options)
    assert resumed.seen == through.seen[3:]
    assert again.edge.state_dict() == data.edge.state_dict()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"iterations": 2, "interval": 2}, 1),
        ({"mini_batch_size": 4, "train_micro_batch_size": 2}, 2),
        ({"mini_batch_size": 2, "train_micro_batch_size": 1, "interval": 2}, 4),
    ],
    ids=["iterations", "accumulation", "mini-batches"],
)
def test_a_run_resumes_between_whole_batches(tmp_path, options, parts):
    per_batch = options.get("interval", 1)
    options |= {"steps": 4 * per_batch}
    through, data, _ = train(tmp_path, **options)
    forget(tmp_path, 4 * per_batch, 3 * per_batch)
    resumed, again, _ = train(tmp_path, **options)
    assert resumed.seen == through.seen[2 * parts :]
    assert again.edge.state_dict() == data.edge.state_dict()


def test_a_failed_run_resumes_like_the_uninterrupted_run(tmp_path):
    class Fails(Judge):
        def __call__(self, *args, **kwargs):
            if len(self.seen) == 3:
                raise OSError("the judge is down")
            return super().__call__(*args, **kwargs)

    through, _, _ = train(tmp_path / "through", steps=5, history=tmp_path / "one")
    with pytest.raises(OSError, match="the judge is down"):
        train(tmp_path / "failed", judge=Fails(), steps=5, history=tmp_path / "other")
    while not (tmp_path / "failed" / "actor" / "3").exists():  # Tunix writes checkpoints in a thread
        pass
    resumed, _, _ = train(tmp_path / "failed", steps=5, history=tmp_path / "other")
    assert resumed.seen == through.seen[3:]
    expected, found = (read_history(tmp_path / name).rollouts for name in ("one", "other"))
    for name, column in expected.items():
        np.testing.assert_array_equal(column, found[name], err_msg=name)


def test_states_that_no_checkpoint_needs_are_deleted(tmp_path):
    train(tmp_path, steps=8)
    steps = {int(path.name) for path in (tmp_path / "actor").iterdir()}
    states = {int(path.stem.removeprefix("batch-")) for path in (tmp_path / "selector").iterdir()}
    assert steps == {6, 7, 8}
    assert states >= steps
    assert len(states) < 8


def test_a_checkpoint_without_a_state_or_of_another_pool_is_refused(tmp_path):
    train(tmp_path, steps=2, key_column="key")
    with pytest.raises(ValueError, match="the checkpoint is of another pool"):
        train(tmp_path, steps=3, key_column="key", rows=ROWS[::-1])
    shutil.rmtree(tmp_path / "selector")
    with pytest.raises(ValueError, match=r"resumed from step 2, and .*batch-00000002.npz does not exist; delete"):
        train(tmp_path, steps=3, key_column="key")


def test_a_checkpoint_inside_a_batch_is_refused(tmp_path):
    options = {"mini_batch_size": 2, "train_micro_batch_size": 2}
    with pytest.warns(UserWarning, match="a batch has 2 of Tunix's steps"):
        train(tmp_path, steps=4, **options)
    forget(tmp_path, 4)
    with pytest.raises(ValueError, match="resumed from step 3, inside a batch of 2 steps; delete this checkpoint"):
        train(tmp_path, steps=4, **options)
