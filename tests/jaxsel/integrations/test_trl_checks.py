"""The checks before training in TRL. They need no TRL here: rows are lists, and trainers are empty classes."""

import sys
import types

import numpy as np
import pytest

import jaxsel
from jaxsel.integrations import _trl_checks as checks

ROWS = [{"prompt": f"{row}=", "key": f"p{row}"} for row in range(5)]


def generate(self, inputs): ...


def calculate(self, inputs, prompts, completions, completion_ids_list): ...


@pytest.fixture
def of_trl(monkeypatch):
    """Return a function that makes a trainer class of a fake TRL with the given methods."""
    monkeypatch.setitem(sys.modules, "trl", types.ModuleType("trl"))
    monkeypatch.setattr(checks.metadata, "version", lambda name: "9.9")
    return lambda **methods: type("GRPOTrainer", (), {"__module__": "trl.trainer.grpo_trainer", **methods})


def test_the_methods_of_the_tested_versions_are_accepted(of_trl):
    theirs = of_trl(_generate_and_score_completions=generate, _calculate_rewards=calculate)

    class Own(theirs):
        def _calculate_rewards(self, *arguments): ...  # a subclass of the user may take anything

    checks.check_hooks(Own)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({}, "has no method _generate_and_score_completions"),
        ({"_generate_and_score_completions": generate}, "has no method _calculate_rewards"),
        (
            {"_generate_and_score_completions": calculate, "_calculate_rewards": calculate},
            r"has the method _generate_and_score_completions\(self, inputs, prompts, .* expected; use GRPOTrainer",
        ),
    ],
)
def test_other_methods_are_refused_with_the_tested_versions(of_trl, methods, message):
    with pytest.raises(RuntimeError, match=rf"{message}.* tested with TRL 1.3.0 and 1.16.0, and this is TRL 9.9"):
        checks.check_hooks(type("Own", (of_trl(**methods),), {}))


def test_a_class_without_trl_is_refused(of_trl):
    with pytest.raises(RuntimeError, match="is based on none of TRL's trainers"):
        checks.check_hooks(type("Own", (), {}))


def test_streams_and_no_data_are_refused():
    for data, kind in ((iter(ROWS), "list_iterator"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"train_dataset is a {kind}, whose rows .* without streaming=True"):
            checks.check_rows(data)


def test_keys_are_read_from_the_column():
    assert checks.checked_keys(ROWS, "key", 5) == [f"p{row}" for row in range(5)]
    assert checks.checked_keys(ROWS, None, 5) is None


@pytest.mark.parametrize(
    ("column", "size", "message"),
    [
        (None, 6, "train_dataset has 5 rows, and each generation takes 6 different prompts"),
        ("id", 5, r"key_column is 'id', which train_dataset lacks; give one of \['prompt', 'key'\]"),
    ],
)
def test_too_few_rows_and_unknown_columns_are_refused(column, size, message):
    with pytest.raises(ValueError, match=message):
        checks.checked_keys(ROWS, column, size)


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", None, "b"], ["a", 1, "b"]])
def test_keys_that_repeat_or_are_missing_are_refused(keys):
    rows = [{"key": key} for key in keys]
    with pytest.raises(ValueError, match="the column 'key' of train_dataset does not identify the prompts: keys"):
        checks.checked_keys(rows, "key", 2)


def test_a_method_becomes_a_selector_of_the_data():
    keys = [row["key"] for row in ROWS]
    made = checks.prompt_selector(jaxsel.mopps(), ROWS, keys, 7)
    alone = jaxsel.PromptSelector(jaxsel.mopps(), keys=keys, seed=7)
    assert made.pool == alone.pool
    np.testing.assert_array_equal(made.select(3), alone.select(3))
    assert checks.prompt_selector(made, ROWS, keys, 0) is made
    with pytest.raises(ValueError, match="selector has 5 prompts and train_dataset 4 rows"):
        checks.prompt_selector(made, ROWS[:4], None, 0)
    with pytest.raises(ValueError, match="selector has other keys"):
        checks.prompt_selector(made, ROWS, keys[::-1], 0)


def test_rows_are_new_dictionaries():
    first, second = checks.rows(ROWS, np.array([3, 3]))
    assert first == second == ROWS[3]
    first["prompt"] = "another"
    assert second["prompt"] == ROWS[3]["prompt"] == "3="


def test_texts_of_prompts():
    assert checks.text("3=") == "3="
    assert checks.text([{"role": "user", "content": "zwölf"}]) == '[{"content": "zwölf", "role": "user"}]'


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    assert checks.newest_complete(tmp_path) is None
    for step, state in ((2, "{}"), (9, "{}"), (10, '{"cut sho'), (11, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert checks.newest_complete(tmp_path) == tmp_path / "checkpoint-9"
    for step in (2, 9):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").unlink()
    with pytest.raises(
        ValueError, match=r"cut short \(checkpoint-2, checkpoint-9, checkpoint-10, checkpoint-11\); del"
    ):
        checks.newest_complete(tmp_path)


@pytest.mark.parametrize(("batches", "accumulation", "expected"), [(1, 1, 1), (4, 2, 2), (4, 1, 4), (6, 4, 3)])
def test_steps_are_the_fewest_for_a_whole_number_of_generations(batches, accumulation, expected):
    assert checks.steps(batches, accumulation) == expected
    assert expected * accumulation % batches == 0
