import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.prompts import PromptPool, sources
from rl.prompts.features import features_of
from rl.prompts.files import Source
from rl.tasks import presets
from rl.tasks.data import make
from rl.tasks.data_config import DataConfig
from rl.verification import as_verdict
from rl.verifiers import VERIFIERS, RowAnswer
from tests.support import verifiers

pytestmark = pytest.mark.slow


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1), "solve_rate": i / count} for i in range(count)]


def texts(*pools: PromptPool) -> set[str]:
    return {text for pool in pools for text in pool.texts}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "sums.jsonl", numbered(40))


def test_training_and_held_out_prompts_are_all_prompts_and_disjoint(file):
    task = make(file, "exact", DataConfig(held_out_share=0.25))
    training, held_out = task.pool(0, 0), task.held_out(0)
    assert (len(training), len(held_out)) == (30, 10)
    assert texts(training, held_out) == {row["question"] for row in numbered(40)}
    for pool in (training, held_out):
        for text, answer, rate in zip(pool.texts, pool.answers, pool.rates or (), strict=True):
            assert int(answer) == int(text.split()[2]) + 1
            assert rate == int(text.split()[2]) / 40
            assert task.verify(f" {answer}", answer)


def test_only_their_own_seed_changes_the_held_out_prompts(file, tmp_path):
    first = make(file, "exact", DataConfig(held_out_share=0.25))
    shuffled = write(tmp_path / "shuffled.jsonl", numbered(40)[::-1])
    assert make(shuffled, "exact", DataConfig(held_out_share=0.25)).held_out(0).texts == first.held_out(0).texts
    assert make(file, "exact", DataConfig(held_out_share=0.25, held_out_seed=1)).held_out(0).texts != (
        first.held_out(0).texts
    )
    assert first.pool(9, 0).texts != first.pool(9, 1).texts
    assert first.held_out(4).texts == first.held_out(0).texts[:4]
    assert len(first.pool(999, 0)) == 30


@pytest.mark.parametrize("by", ["file", "split"])
def test_given_held_out_prompts_are_left_out_of_training(tmp_path, caplog, by):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", numbered(10))
    write(folder / "test.jsonl", [*numbered(12)[8:], {"question": "Why?", "answer": "no", "solve_rate": 1}])
    config = (
        DataConfig(split="train", held_out_split="test")
        if by == "split"
        else DataConfig(split="train", held_out=str(folder / "test.jsonl"))
    )
    task = make(folder, "exact", config)
    assert texts(task.pool(0, 0)) == {row["question"] for row in numbered(8)}
    assert len(task.held_out(0)) == 5
    assert "2 training prompts are left out, because they are held out too" in caplog.text


def test_prompts_that_differ_in_spaces_or_form_of_unicode_alone_are_held_out_too(tmp_path, caplog):
    rows = [{"question": text, "answer": "1"} for text in ("What is 2+2?", "Na\u00efve?", "Other?")]
    spoiled = [{"question": text, "answer": "1"} for text in (" What is  2+2?\n", "Nai\u0308ve?")]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", spoiled)
    task = make(tmp_path / "train.jsonl", "exact", DataConfig(held_out=str(tmp_path / "test.jsonl")))
    assert texts(task.pool(0, 0)) == {"Other?"}
    assert "2 training prompts are left out, because they are held out too" in caplog.text
    write(tmp_path / "both.jsonl", [*rows, *spoiled])
    for seed in range(5):
        task = make(tmp_path / "both.jsonl", "exact", DataConfig(held_out_share=0.4, held_out_seed=seed))
        pool, held_out = (
            {"".join(text.split()).replace("i\u0308", "\u00ef") for text in side.texts}
            for side in (task.pool(0, 0), task.held_out(0))
        )
        assert not pool & held_out


def test_a_configuration_is_that_of_the_training_prompts_on_the_hub(file, tmp_path, monkeypatch):
    """`gsm8k` has the configuration main, and its held-out prompts may be a file."""
    held_out = write(tmp_path / "held_out.jsonl", [{"question": "Why?", "answer": "#### 1"}])
    asked = []

    def from_hub(name: str, split: str | None, config: str | None) -> list[Source]:
        asked.append((name, split, config))
        return [Source(str(file), str(file))]

    monkeypatch.setattr(sources, "_from_hub", from_hub)
    for task in (
        presets.make("gsm8k", DataConfig(held_out=str(held_out))),
        make("openai/gsm8k", "math", DataConfig(config="main", split="train", held_out=str(held_out))),
    ):
        assert (len(task.pool(0, 0)), len(task.held_out(0))) == (40, 1)
    assert asked == [("openai/gsm8k", "train", "main")] * 2
    assert len(presets.make(f"gsm8k:{file}").pool(0, 0)) == 36
    with pytest.raises(ValueError, match=r"config is 'main', and source is .*sums.jsonl, which is not on the hub"):
        presets.make(f"gsm8k:{file}", DataConfig(config="main", held_out=str(held_out))).pool(0, 0)


def test_several_files_are_one_data_set(tmp_path):
    halves = [write(tmp_path / "a.jsonl", numbered(8)[:4]), write(tmp_path / "b.jsonl", numbered(8)[4:])]
    task = make(halves, "exact")
    assert len(task.pool(0, 0)) + len(task.held_out(0)) == 8
    assert task.name == f"{halves[0]} {halves[1]}"


def test_a_template_surrounds_texts_and_the_last_message_of_the_user(tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "{a}"}]
    path = write(tmp_path / "mixed.jsonl", [{"prompt": messages, "answer": "1"}, {"prompt": "{b}", "answer": "2"}])
    task = make(path, "exact", DataConfig(template="<{prompt}>", held_out_share=0.5))
    found = [*task.pool(0, 0).texts, *task.held_out(0).texts]
    assert "<{b}>" in found
    assert [messages[0], {"role": "user", "content": "<{a}>"}] in found


def test_a_verifier_gets_the_columns_that_it_names(tmp_path):
    rows = [{**row, "unit": "m", "level": 3} for row in numbered(4)]
    path = write(tmp_path / "units.jsonl", rows)
    named, every = make(path, verifiers.with_unit), make(path, "tests.support.verifiers:with_all")
    answer = named.pool(1, 0).answers[0]
    assert answer == RowAnswer(answer.answer, {"unit": "m"})
    assert named.verify(f"{answer.answer} m", answer)
    assert every.verify("level,question,solve_rate,unit", every.pool(1, 0).answers[0])
    lacking = make(write(tmp_path / "none.jsonl", numbered(4)), verifiers.with_unit)
    with pytest.raises(ValueError, match=r"needs the columns \['unit'\], which .*none.jsonl lacks; rename"):
        lacking.pool(1, 0)


@pytest.mark.parametrize(
    ("verifier", "completion"),
    [
        (verifiers.with_own_names, "7,answer"),
        (verifiers.by_position, "7,answer,label,text"),
        (verifiers.with_keyword, "7,long"),
    ],
)
def test_the_first_two_arguments_of_a_verifier_may_have_the_names_of_columns(tmp_path, verifier, completion):
    path = write(tmp_path / "slime.jsonl", [{"text": f"{i}?", "label": "7", "answer": "long"} for i in range(4)])
    task = make(path, verifier)
    assert as_verdict(task.verify(completion, task.pool(1, 0).answers[0])) == (True, 1.0)


def test_a_verifier_does_not_get_the_column_of_the_strata(tmp_path):
    path = write(tmp_path / "units.jsonl", [{**row, "unit": "m", "level": at} for at, row in enumerate(numbered(4))])
    pool = (task := make(path, verifiers.with_unit, DataConfig(stratum="level"))).pool(1, 0)
    assert task.verify(f"{pool.answers[0].answer} m", pool.answers[0])
    assert pool.strata is not None


def test_strata_that_are_records_keep_their_numbers(tmp_path):
    """As JSON with sorted names, whatever the order in the file, they are one number per name for `features_of`."""
    levels = [{"terms": at % 3, "digits": at % 2} for at in range(8)]
    levels = [level if at < 4 else dict(reversed(level.items())) for at, level in enumerate(levels)]
    rows = [{**row, "level": levels[at], "list": [at % 2]} for at, row in enumerate(numbered(8))]
    path = write(tmp_path / "records.jsonl", rows)
    strata = make(path, "exact", DataConfig(stratum="level")).pool(0, 0).strata or ()
    assert set(strata) <= {json.dumps(level, sort_keys=True) for level in levels}
    assert features_of(strata).shape[1] == 2
    assert set(make(path, "exact", DataConfig(stratum="list")).pool(0, 0).strata or ()) == {"[0]", "[1]"}


def test_held_out_prompts_need_only_prompts_and_answers(tmp_path):
    """Training alone uses solve rates, strata and keys; a named key still tells repeated prompts apart."""
    bare = [{name: row[name] for name in ("question", "answer")} for row in numbered(3)]
    rows = [{**row, "level": at % 2, "name": f"n{at}", "rate": 0.5} for at, row in enumerate(bare)]
    config = DataConfig(stratum="level", key="name", rate="rate", held_out=str(tmp_path / "held_out.jsonl"))
    train = write(tmp_path / "train.jsonl", rows)
    repeated, odd = [bare[2] | {"name": name} for name in "ab"], [bare[2] | {"rate": "high"}]
    for others, number in ((bare[2:], 1), (repeated, 2), (odd, 1)):
        write(tmp_path / "held_out.jsonl", others)
        task = make(train, "exact", config)
        assert len(task.held_out(0)) == number
        assert (task.pool(0, 0).strata, task.pool(0, 0).rates) == (["0", "1"], [0.5, 0.5])
    write(tmp_path / "held_out.jsonl", [{"question": " ", "answer": "1"}])
    with pytest.raises(ValueError, match=r"row 0 of .*held_out.jsonl"):
        make(train, "exact", config).held_out(0)


def test_a_column_gives_the_strata(tmp_path):
    path = write(tmp_path / "kinds.jsonl", [{**row, "level": at % 3} for at, row in enumerate(numbered(9))])
    for verifier in ("exact", "tests.support.verifiers:with_all"):
        pool = make(path, verifier, DataConfig(stratum="level", held_out_share=0.1)).pool(0, 0)
        answers = [getattr(answer, "answer", answer) for answer in pool.answers]
        assert pool.strata == [str((int(answer) - 1) % 3) for answer in answers]
    nested = [{**row, "extra_info": {"level": at % 3}} for at, row in enumerate(numbered(9))]
    inside = write(tmp_path / "nested.jsonl", nested)
    for verifier in ("exact", verifiers.with_all):
        assert make(inside, verifier, DataConfig(stratum="extra_info.level")).pool(0, 0).strata == pool.strata
        with pytest.raises(ValueError, match=r"data.stratum is 'extra_info.kind', which prompt 0 of .* lacks .*; give"):
            make(inside, verifier, DataConfig(stratum="extra_info.kind")).pool(1, 0)
    assert make(path, "exact").pool(1, 0).strata is None
    with pytest.raises(ValueError, match=r"data.stratum is 'kind', which prompt 0 of .*kinds.jsonl lacks .*; give"):
        make(path, "exact", DataConfig(stratum="kind")).pool(1, 0)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"template": "Solve it."}, "template is 'Solve it.'; write {prompt}"),
        ({"held_out_share": 0.0}, "held_out_share is 0.0; give a number above 0"),
        ({"held_out_share": 1.5}, "held_out_share is 1.5; give"),
        ({"held_out_seed": -1}, "held_out_seed is -1; give"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give"),
        ({"stop": "###"}, "stop is '###'; give a list"),
        ({"stop": [""]}, r"stop is \[''\]; give a list"),
        ({"merge": "yes"}, "merge is 'yes'; give True or False"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, fault):
    with pytest.raises(ValueError, match=fault):
        DataConfig(**settings)


def test_a_data_set_without_training_prompts_is_refused(tmp_path):
    task = make(write(tmp_path / "one.jsonl", numbered(1)), "exact")
    with pytest.raises(ValueError, match=r"every prompt of .*one.jsonl is held out; give other prompts"):
        task.pool(1, 0)


def test_data_without_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"empty.jsonl holds no prompts; give data with at least two rows"):
        make(write(tmp_path / "empty.jsonl", []), "exact").pool(0, 0)


def test_repeated_prompts_are_named_in_a_warning(tmp_path, caplog):
    rows = [{**row, "index": at} for at, row in enumerate([*numbered(4), *numbered(2)])]
    path = write(tmp_path / "again.jsonl", rows)
    assert len(make(path, "exact", DataConfig(held_out_share=0.25)).pool(0, 0)) >= 4
    assert "2 prompts repeat an earlier one" in caplog.text
    merged = make(path, "exact", DataConfig(merge=True, held_out_share=0.25))
    assert len(merged.pool(0, 0)) + len(merged.held_out(0)) == 4


def test_demonstrations_are_refused_with_the_cure(file):
    with pytest.raises(
        ValueError, match=r"has no demonstrations; give fine_tuning.steps=0, or .* folder as policy=PATH"
    ):
        make(file, "exact").demonstrations(0)


def test_the_pool_of_a_seed_keeps_the_order_of_the_file(file):
    numbers = [int(text.split()[2]) for text in make(file, "exact").pool(20, 3).texts]
    assert np.all(np.diff(numbers) > 0)


def test_a_pool_that_leaves_prompts_out_says_so(file, caplog):
    task = make(file, "exact")
    everything = len(task.pool(0, 0))
    task.pool(everything, 0)
    assert not caplog.text
    task.pool(20, 0)
    assert f"the pool has 20 of {everything} training prompts; pool_size=0 takes all" in caplog.text


@pytest.mark.parametrize(
    ("verifier", "right", "wrong"),
    [
        ("math", "7", ["1", "2"]),
        ("math", ["7"], {"value": 7}),
        ("math", '{"ground_truth": "7"}', '["16", "18"]'),
        ("exact", ["7"], ["1", "2"]),
        ("exact", ["7"], [None]),
        ("string_ops", "7", 7),
        ("countdown", {"numbers": [1, 2], "target": 3}, {"numbers": [1, 2]}),
        ("countdown", '{"nums": "[1, 2]", "target": "3"}', "3"),
    ],
)
def test_an_answer_that_the_verifier_cannot_use_is_refused_when_the_data_are_read(
    tmp_path, verifier, right, wrong, caplog
):
    rows = [{"problem": f"{i}?", "final_answer": wrong if i == 2 else right} for i in range(4)]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"prompt 2 of .*a.jsonl.*answer is .*; give .* or leave out such rows by data.skip"
    ):
        make(path, verifier, whole=True).held_out(0)
    kept = make(path, verifier, DataConfig(skip_odd=True), whole=True).held_out(0)
    assert kept.texts == ["0?", "1?", "3?"]
    assert [one.answer if isinstance(one, RowAnswer) else one for one in kept.answers] == [right] * 3
    assert "1 rows that cannot be read are left out: prompt 2 of" in caplog.text
    assert len(make(path, verifiers.boolean, whole=True).held_out(0)) == 4


@pytest.mark.parametrize(
    ("row", "cures"),
    [
        ({"question": " ", "answer": "1"}, ["data.skip_odd=true"]),
        ({"question": "a", "answer": ""}, ["data.answer=none", "data.skip_odd=true"]),
        ({"question": "a", "answer": "1", "pass_rate": "high"}, ["data.rate=none", "data.skip_odd=true"]),
        ({"question": "a", "answer": "1", "pass_rate": 0.5, "b_pass_rate": 0.5}, ["data.rate=none"]),
        ({"question": "What is 0 + 1?", "answer": "1"}, ["data.merge=true"]),
    ],
)
def test_the_cures_in_the_messages_of_a_reader_are_settings_that_work(tmp_path, row, cures):
    rows = [{name: one[name] for name in ("question", "answer")} for one in numbered(3)]
    path = write(tmp_path / "odd.jsonl", [*rows, row])
    with pytest.raises(ValueError, match=re.escape(cures[0])) as refused:
        make(path, verifiers.boolean).pool(0, 0)
    assert re.findall(r"data\.\w+=\w+", str(refused.value)) == cures
    for cure in cures:
        name, value = cure.removeprefix("data.").split("=")
        given: dict[str, Any] = {name: True if value == "true" else value}
        assert len(make(path, verifiers.boolean, DataConfig(**given), whole=True).held_out(0)) >= 3


def test_a_column_that_is_missing_is_named_as_a_setting(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"task": "p", "gold": "1"}, {"task": "q", "gold": "1"}])
    with pytest.raises(ValueError, match=r"name one of them by data\.prompt=$"):
        make(path, "exact").pool(0, 0)
    with pytest.raises(
        ValueError, match=r"name one of them by data\.answer=, or give data\.answer=none if the verifier"
    ):
        make(path, "exact", DataConfig(prompt="task")).pool(0, 0)
    same = write(tmp_path / "same.jsonl", [{"prompt": "p", "answer": "1"}, {"prompt": "p", "answer": "2"}])
    with pytest.raises(ValueError, match=r"name a column by data\.key="):
        make(same, "exact").pool(0, 0)


def test_data_without_answers_are_refused_by_a_verifier_that_needs_them(file):
    for verifier in sorted(VERIFIERS):
        with pytest.raises(ValueError, match=r"answer is None; give .*, or leave out such rows"):
            make(file, verifier, DataConfig(answer="none")).pool(0, 0)
