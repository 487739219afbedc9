"""Tests of `SelectedPrompts`, the training data for google-tunix, without Tunix.

They cover refused arguments, the columns of batches, and Tunix's counters of steps. The learner here is a stub with the
public attributes that `SelectedPrompts` reads; test_tunix.py has the real one.
"""

import functools
import math
from collections import UserList
from types import SimpleNamespace

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations.tunix import ROW, SelectedPrompts

pytestmark = pytest.mark.slow

ROWS = [{"prompts": f"{row}=", "answer": row, "key": f"p{row}"} for row in range(12)]


def correct(prompts, completions, **_):
    return [1.0] * len(prompts)


def style(prompts, completions, **_):
    return [1.0] * len(prompts)


def made(**options):
    return SelectedPrompts(**{"rows": ROWS, "batch_size": 4, "selector": jaxsel.mopps()} | options)


def learner(reward_fns, root=None, *, iterations=1, mini=None, micro=None, done=0, interval=1, packed=None):
    """Return a stub of Tunix's learner that has trained on `done` micro-batches."""
    accumulated = None if micro is None else mini // micro
    config = {"checkpoint_root_directory": root, "mini_batch_size": mini, "train_micro_batch_size": micro}
    config |= {"gradient_accumulation_steps": accumulated, "max_seq_token_per_tpu": packed}
    config["checkpointing_options"] = SimpleNamespace(save_interval_steps=interval)
    actor = SimpleNamespace(
        iter_steps=done,
        train_steps=done // (accumulated or 1),
        config=SimpleNamespace(checkpoint_root_directory=f"{root}/actor"),
    )
    cluster = SimpleNamespace(
        cluster_config=SimpleNamespace(training_config=SimpleNamespace(**config)), actor_trainer=actor
    )
    return SimpleNamespace(
        rl_cluster=cluster,
        algo_config=SimpleNamespace(num_iterations=iterations),
        reward_manager=SimpleNamespace(reward_fns=reward_fns),
    )


def played(data, judges, batches, count):
    """Take batches and reward them, as Tunix does with two completions per prompt; return the selected rows."""
    chosen = []
    for _ in range(count):
        batch = {name: np.repeat(column, 2, axis=0) for name, column in next(batches).items()}
        for judge in judges:
            judge(completions=["a"] * len(batch["prompts"]), mode="train", **batch)
        chosen.append(batch[ROW].tolist())
    return chosen


# What is refused before training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": iter(ROWS)}, "rows is a list_iterator, whose rows cannot be read by number; give a list"),
        ({"rows": {"prompts": ["a"] * 9}}, "rows is a dict, whose rows cannot be read by number"),
        ({"rows": ROWS[:3]}, "rows has 3 rows, and a batch takes 4 different prompts"),
        ({"rows": [{"prompt": "a"}] * 4}, r"rows\[0\] is {'prompt': 'a'}; give .* where 'prompts' is one text"),
        ({"rows": [{"prompts": ["a"]}] * 4}, "where 'prompts' is one text"),
        ({"rows": [{"prompts": "a", "mode": 1}] * 4}, "rows has the column 'mode', a name that Tunix passes itself"),
        ({"rows": [{"prompts": "a", ROW: 1}] * 4}, f"rows has the column '{ROW}'"),
        ({"key_column": "id"}, r"key_column is 'id', which rows lacks; give one of \['answer', 'key', 'prompts'\]"),
        (
            {"key_column": "prompts", "rows": [{"prompts": "a"}] * 4},
            "column 'prompts' of rows does not identify the prompts",
        ),
        (
            {"key_column": "key", "rows": [{"prompts": "a", "key": 1}, *[{"prompts": "b", "key": None}] * 3]},
            r"keys\[1\] is None",
        ),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"save_every": True}, "save_every is True"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"selector": jaxsel.mopps}, r"call it: mopps\(...\)"),
        ({"selector": jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=9)}, "selector has 9 prompts and rows 12 rows"),
        ({"selector": jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=12)}, "track_in_flight=True"),
        (
            {
                "key_column": "key",
                "selector": jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=12, track_in_flight=True),
            },
            "selector has other keys than the key column of rows",
        ),
    ],
)
def test_bad_arguments_are_refused_before_training(unchecked_types, options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_the_history_of_another_run_is_refused_before_training(tmp_path):
    pytest.importorskip("pyarrow")
    first = made(history=tmp_path)
    judges = first.watched(correct)
    played(first, judges, first.batches(learner(judges)), 1)
    first.edge.flush()
    second = made(history=tmp_path)
    judges = second.watched(correct)
    with pytest.raises(ValueError, match="holds another run"):
        second.batches(learner(judges))


@pytest.mark.parametrize(
    ("success", "reward_fns", "message"),
    [
        ("accuracy", correct, "success is 'accuracy', but the rewards are named 'correct'"),
        (None, [correct, style], "success is None and the rewards are 'correct', 'style'"),
        (None, functools.partial(correct), r"reward_fns\[0\] is functools.partial.*, which has no __name__"),
    ],
)
def test_reward_functions_without_one_named_success_are_refused(success, reward_fns, message):
    with pytest.raises(ValueError, match=message):
        made(success=success).watched(reward_fns)


def test_a_learner_with_other_reward_functions_is_refused():
    data = made()
    data.watched(correct)
    with pytest.raises(ValueError, match=r"reward_fns are not watched; give it reward_fns=prompts\.watched"):
        data.batches(learner([correct]))
    with pytest.raises(ValueError, match="are not watched"):
        data.batches(learner(made().watched(correct)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"mini": 3}, "micro-batches of 3 do not divide; give a multiple of 3, or Tunix a size that divides 4"),
        ({"mini": 8, "micro": 2}, "mini-batches of 8 do not divide"),
        ({"mini": 6, "micro": 2}, "mini-batches of 6 do not divide"),
    ],
)
def test_parts_that_do_not_divide_a_batch_are_refused(tmp_path, sizes, message):
    data = made()
    with pytest.raises(ValueError, match=f"batch_size is 4, which Tunix's {message}"):
        data.batches(learner(data.watched(correct), str(tmp_path), **sizes))


def test_packed_sequences_are_refused_with_checkpoints_alone(tmp_path):
    data = made()
    judges = data.watched(correct)
    with pytest.raises(ValueError, match=r"max_seq_token_per_tpu is 512, with which Tunix packs sequences.* set it to"):
        data.batches(learner(judges, str(tmp_path), mini=4, micro=2, packed=512))
    assert len(played(data, judges, data.batches(learner(judges, mini=4, micro=2, packed=512)), 2)) == 2


def test_remote_checkpoints_need_a_local_folder(tmp_path):
    data = made()
    with pytest.raises(ValueError, match="checkpoint_root_directory is gs://bucket/run; give state_folder, a local"):
        data.batches(learner(data.watched(correct), "gs://bucket/run"))


# Batches


def test_batches_hold_the_selected_rows_unchanged():
    rows = [
        {"prompts": f"q{i}\0", "n": i, "x": i / 3, "any": [i] * (i % 3), "grid": np.full((2, 2), i), "mixed": i or 0.5}
        for i in range(12)
    ]
    data = made(rows=rows, batch_size=12)  # all rows, so "mixed" has integers and floats
    batch = next(data.batches(learner(data.watched(correct))))
    assert sorted(batch) == sorted([*rows[0], ROW])
    for name, column in batch.items():
        if name != ROW:
            for value, row in zip(column, batch[ROW], strict=True):
                np.testing.assert_array_equal(value, rows[row][name])
    assert (batch["n"].dtype.kind, batch["x"].dtype.kind) == ("i", "f")
    assert {type(value) for value in batch["mixed"]} == {int, float}
    assert [len(np.repeat(column, 3, axis=0)) for column in batch.values()] == [36] * 7


def micro_batches(batch, size):
    """Return the parts of a batch as Tunix 0.1.7 makes them: from the entries of every flattened column."""
    columns = {name: list(column.flatten()) for name, column in batch.items()}
    starts = range(0, len(columns["prompts"]), size)
    return [{name: np.array(entries[at : at + size]) for name, entries in columns.items()} for at in starts]


@pytest.mark.parametrize("value", [np.array, list, tuple, lambda pair: np.array([pair] * 3)])
def test_every_prompt_keeps_its_values_in_micro_batches(value):
    rows = [{"pair": value([row, row + 100]), "prompts": f"{row}"} for row in range(12)]
    data = made(rows=rows)
    for part in micro_batches(next(data.batches(learner(data.watched(correct)))), 2):
        expected = [rows[row]["pair"] for row in part[ROW]]
        np.testing.assert_array_equal(part["pair"], expected)


def test_a_row_with_other_columns_is_named():
    rows = [*ROWS[:3], {"prompts": "a"}]
    with pytest.raises(ValueError, match=r"rows\[3\] is {'prompts': 'a'}; give every row the columns of row 0"):
        made(rows=rows, selector=jaxsel.uniform())
    data = made(rows=UserList(rows), selector=jaxsel.uniform())  # to read such rows before training may be costly
    with pytest.raises(ValueError, match=r"row 3 has the columns \['prompts'\], and row 0 has"):
        next(data.batches(learner(data.watched(correct))))


def test_the_other_reward_functions_stay_as_they_are():
    watched = made(success="correct").watched([style, correct])
    assert watched[0] is style
    assert watched[1] is not correct
    assert [judge.__name__ for judge in watched] == ["style", "correct"]


@pytest.mark.parametrize("rewards", [[1.0], [[1.0, 1.0]] * 8, [1.0] * 9])
def test_rewards_of_another_length_are_refused(rewards):
    def wrong(prompts, completions, **_):
        return rewards

    data = made()
    judges = data.watched(wrong)
    batches = data.batches(learner(judges))
    with pytest.raises(ValueError, match=r"the reward function returned rewards of shape .* for 8 completions"):
        played(data, judges, batches, 1)
    assert data.edge.metrics()["selector/observes"] == 0


def test_an_evaluation_is_not_observed_even_if_its_data_has_selected_rows():
    data = made()
    judge = data.watched(correct)[0]
    judge(prompts=["a"], completions=["b"], mode="eval", **{ROW: np.array([1])})
    judge(prompts=["a"], completions=["b"], mode="train")
    assert data.edge.metrics()["selector/observes"] == 0
    assert data.metrics(prompts=["a"]) == {}
    assert data.metrics(prompts=["a"], **{ROW: np.array([1])})["selector/observes"] == (0, np.mean)


# Tunix's counters


@pytest.mark.parametrize(
    ("options", "passes", "skipped"),
    [
        ({}, 1, 1),
        ({"iterations": 3, "interval": 3}, 3, 3),
        ({"mini": 4, "micro": 1}, 4, 1),
        ({"mini": 2, "micro": 1, "interval": 2}, 4, 1),
        ({"mini": 2, "micro": 2, "iterations": 2, "interval": 4}, 4, 2),
    ],
)
def test_a_resumed_run_skips_what_tunix_skips_and_continues_the_choices(tmp_path, options, passes, skipped):
    """A batch takes `passes` steps over micro-batches. On resuming, Tunix skips `skipped` batches per trained batch."""
    data = made(selector=jaxsel.dps())
    judges = data.watched(correct)
    through = played(data, judges, data.batches(learner(judges, str(tmp_path), **options)), 5)
    again = made(selector=jaxsel.dps())
    judges = again.watched(correct)
    batches = again.batches(learner(judges, str(tmp_path), done=2 * passes, **options))
    for _ in range(2 * skipped):
        assert len(next(batches)["prompts"]) == 4
    assert played(again, judges, batches, 3) == through[2:]
    assert again.edge.state_dict() == data.edge.state_dict()


def test_a_second_call_of_train_without_checkpoints_goes_on_with_the_selector():
    data = made()
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges)), 2)
    again = data.batches(learner(judges, done=2))
    skipped = [next(again)[ROW].tolist() for _ in range(2)]
    assert skipped == [[0, 1, 2, 3]] * 2
    played(data, judges, again, 1)
    assert data.edge.metrics()["selector/observes"] == 3


def test_states_of_a_discarded_future_are_deleted_and_other_files_stay(tmp_path):
    data = made()
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges, str(tmp_path))), 3)
    others = ["batch-00000004.npz", "batch-5.npz", "batch-notes.npz", "batch-²³.npz"]
    for name in others:
        np.savez(tmp_path / "selector" / name, shard=np.zeros(3))
    (tmp_path / "selector" / "batch-00000005.npz").write_text("mine")
    again = made()
    judges = again.watched(correct)
    again.batches(learner(judges, str(tmp_path), done=2))
    names = sorted(path.name for path in (tmp_path / "selector").iterdir())
    assert names == sorted(["batch-00000001.npz", "batch-00000002.npz", "batch-00000005.npz", *others])


def test_a_folder_with_the_states_of_another_run_is_refused(tmp_path):
    data, folder = made(state_folder=tmp_path / "states"), tmp_path / "states"
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges, str(tmp_path / "first"))), 2)
    names = sorted(path.name for path in folder.iterdir())
    other = made(state_folder=folder)
    judges = other.watched(correct)
    with pytest.raises(ValueError, match=r"state_folder is .*, with the checkpoint_root_directory .*first; give anot"):
        other.batches(learner(judges, str(tmp_path / "second")))
    assert sorted(path.name for path in folder.iterdir()) == names
    again = made(state_folder=folder)  # the first run's checkpoints may have moved
    judges = again.watched(correct)
    again.batches(learner(judges, str(tmp_path / "moved"), done=2))
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match="holds the states of another run, with the checkpoint_root_directory unknown"):
        other.batches(learner(other.watched(correct), str(tmp_path / "second")))
    (folder / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run.json is damaged .*; give another state_folder"):
        other.batches(learner(other.watched(correct), str(tmp_path / "second")))


def test_states_of_deleted_checkpoints_are_deleted(tmp_path):
    for step in (2, 4):
        (tmp_path / "actor" / str(step)).mkdir(parents=True)
    (tmp_path / "actor" / "7.orbax-checkpoint-tmp").mkdir()  # a checkpoint that is still being written
    data = made()
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges, str(tmp_path))), 6)
    names = sorted(int(path.stem.removeprefix("batch-")) for path in (tmp_path / "selector").iterdir())
    assert names == [2, 4, 5, 6]


def test_files_are_as_far_apart_as_asked(tmp_path):
    data = made(save_every=3, state_folder=tmp_path / "here")
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges, "gs://never-read")), 0)
    data = made(save_every=3)
    judges = data.watched(correct)
    played(data, judges, data.batches(learner(judges, str(tmp_path))), 7)
    assert sorted(path.name for path in (tmp_path / "selector").iterdir()) == [
        "batch-00000003.npz",
        "batch-00000006.npz",
    ]


def test_resuming_inside_a_batch_or_without_a_state_is_refused(tmp_path):
    data = made()
    judges = data.watched(correct)
    with pytest.raises(ValueError, match="resumed from step 3, inside a batch of 2 steps; delete this checkpoint"):
        data.batches(learner(judges, str(tmp_path), mini=2, micro=1, done=6, interval=2))
    with pytest.raises(ValueError, match=r"resumed from step 6, and .*batch-00000006.npz does not exist; delete"):
        data.batches(learner(judges, str(tmp_path), done=6))


def test_checkpoints_inside_a_batch_warn(tmp_path):
    data = made()
    with pytest.warns(UserWarning, match="a batch has 2 of Tunix's steps.* that is a multiple of 2"):
        data.batches(learner(data.watched(correct), str(tmp_path), iterations=2))
