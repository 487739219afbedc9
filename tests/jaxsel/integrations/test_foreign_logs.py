"""Readers of the logs of other trainers, and the search for the logged prompts among the rows of a pool."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest

import jaxsel
from jaxsel.evaluation.replay import make_history
from jaxsel.integrations.trainer_logs import (
    on_pool,
    read_logs,
    read_nemo_rl,
    read_open_instruct,
    read_prime_rl,
    read_slime,
    read_verl,
    warm_start,
)

TEXTS = ["What is 1+1?", "What is 11+1?", "Name a prime."]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def visits(found):
    """Return a mapping from (step, prompt) to (correct completions, completions with a reward)."""
    history = found.history
    return {
        (int(found.steps[t]), found.prompts[i]): (int(s), int(n))
        for t, i, s, n in zip(*(column.tolist() for column in history), strict=True)
    }


def test_nemo_rl_has_the_step_in_the_name_and_lists_of_one(tmp_path):
    for step, rewards in ((2, [1.0, 0.0]), (10, [1.0, 1.0])):
        rows = [
            {"content": [["user: x\n", "answer"]], "rewards": [r], "input_lengths": [3], "idx": i}
            for i, r in enumerate(rewards)
        ]
        write(tmp_path / "exp_001" / f"train_data_step{step}.jsonl", rows)
    write(tmp_path / "exp_001" / "val_data_step10.jsonl", [{"content": [["user: y\n", "a"]], "rewards": [1.0]}])
    found = read_nemo_rl(tmp_path)
    assert visits(found) == {(2, "user: x\n"): (1, 2), (10, "user: x\n"): (2, 2)}


def test_prime_rl_has_one_folder_per_step(tmp_path):
    for step in (3, 12):
        rows = [
            {"example_id": i, "prompt": [{"role": "user", "content": f"p{i}"}], "reward": float(i == step - 3)}
            for i in (0, 0, 1)
        ]
        end = ".gz" if step == 12 else ""
        write(tmp_path / "rollouts" / f"step_{step}" / f"train_rollouts.jsonl{end}", rows)
        write(tmp_path / "rollouts" / f"step_{step}" / "eval_rollouts.jsonl", rows)
    found = read_prime_rl(tmp_path)
    assert found.steps.tolist() == [3, 12]
    assert found.history.group_size.tolist() == [2, 1, 2, 1]
    assert found.history.successes.tolist() == [2, 0, 0, 0]
    assert visits(read_prime_rl(tmp_path / "rollouts", prompt="example_id"))[12, "0"] == (0, 2)


@pytest.mark.parametrize(
    "name",
    [
        *("step_7/log.jsonl", "global_step_7/log.jsonl", "7/log.jsonl", "step-7.jsonl", "7.jsonl"),
        *("Qwen2.5-run_step_7.jsonl", "v1.2/step_7.rank0.jsonl.gz", "7.rank0.jsonl", "step=7/log.jsonl.gz"),
    ],
)
def test_a_step_without_a_column_is_that_of_the_name(tmp_path, name):
    write(tmp_path / name, [{"prompt": "x", "reward": 1}])
    assert read_logs(tmp_path).steps.tolist() == [7]
    if name.startswith("7/"):  # if a single file is read, the name 7 of its folder is not a step
        with pytest.raises(ValueError, match="no column 'step'"):
            read_logs(tmp_path / name)
    else:
        assert read_logs(tmp_path / name).steps.tolist() == [7]


def test_a_null_step_is_that_of_the_name(tmp_path):
    write(tmp_path / "step_7.jsonl", [{"prompt": "x", "reward": 1, "step": step} for step in (None, 9)])
    assert read_logs(tmp_path).steps.tolist() == [7, 9]


def test_a_file_beside_its_compressed_copy_is_refused(tmp_path):
    for name in ("7.jsonl", "7.jsonl.gz", "8.jsonl.gz"):
        write(tmp_path / name, [{"prompt": "x", "reward": 1}])
    with pytest.raises(ValueError, match=r"7\.jsonl and .*7\.jsonl\.gz would count the same rows twice; delete one"):
        read_logs(tmp_path)
    assert read_logs(tmp_path, files="*.gz").steps.tolist() == [7, 8]


@pytest.mark.parametrize("name", ["log", "Qwen2.5-run"])
def test_a_step_that_nothing_names_is_refused(tmp_path, name):
    write(tmp_path / f"{name}.jsonl", [{"prompt": "x", "reward": 1}])
    with pytest.raises(
        ValueError, match=rf"{name}.jsonl has no column 'step'; give the name of the step among .* file's name"
    ):
        read_logs(tmp_path)


def test_a_row_with_a_list_of_rewards_is_a_group(tmp_path):
    rows = [
        {"step": 1, "prompt": "x", "reward": [1, 0, None, 0.6]},
        {"step": 1, "prompt": "y", "reward": []},
        {"step": 2, "prompt": "x", "reward": 1},
    ]
    write(tmp_path / "a.jsonl", rows)
    found = read_logs(tmp_path)
    assert visits(found) == {(1, "x"): (2, 3), (2, "x"): (1, 1)}
    assert found.prompts == ["x", "y"]


def test_slime_samples(tmp_path):
    sample = {"index": 0, "group_index": 0, "prompt": "x", "response": "r", "label": "1", "status": "completed"}
    write(tmp_path / "rollout_0.jsonl", [sample | {"reward": {"acc": 1, "format": 0}}, sample | {"reward": {"acc": 0}}])
    write(tmp_path / "rollout_1.jsonl", [sample | {"reward": {"acc": 1}, "rollout_id": 5}])
    write(tmp_path / "eval_0.jsonl", [sample | {"reward": {"acc": 1}, "rollout_id": 0}])
    assert visits(read_slime(tmp_path, reward="reward.acc")) == {(0, "x"): (1, 2), (5, "x"): (1, 1)}
    with pytest.raises(ValueError, match=r"rollout_0.jsonl, line 1: 'reward' holds .*; give a column of numbers"):
        read_slime(tmp_path)
    write(tmp_path / "rollout_1.jsonl", [sample | {"reward": {"acc": 1}, "rollout_id": None}])
    assert visits(read_slime(tmp_path, reward="reward.acc")) == {(0, "x"): (1, 2), (1, "x"): (1, 1)}
    assert visits(read_slime(tmp_path / "eval_0.jsonl", reward="reward.acc")) == {(0, "x"): (1, 1)}


def test_slime_files_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    sample = {"prompt": "x", "response": "r", "status": "completed", "tokens": [1, 2], "rollout_log_probs": None}
    sample |= {"rollout_id": None, "loss_mask": torch.ones(2)}
    for number, rewards in {3: [1.0, 0.0], 10: [1.0]}.items():
        content = {"rollout_id": number, "samples": [sample | {"reward": reward} for reward in rewards]}
        torch.save(content, tmp_path / f"data_{number}.pt")
    torch.save({"rollout_id": 3, "samples": [sample | {"reward": 1.0}]}, tmp_path / "eval_3.pt")
    assert visits(read_slime(tmp_path, load=torch.load)) == {(3, "x"): (1, 2), (10, "x"): (1, 1)}
    assert visits(read_slime(tmp_path / "eval_3.pt", load=torch.load)) == {(3, "x"): (1, 1)}
    with pytest.raises(ValueError, match=r"data_3.pt has no column 'score'; give the name of the reward"):
        read_slime(tmp_path / "data_3.pt", reward="score", load=torch.load)
    torch.save({"samples": [sample | {"reward": object}]}, tmp_path / "data_3.pt")
    with pytest.raises(ValueError, match=r"data_3.pt cannot be read \(.*\); copy it again .* a load that opens it"):
        read_slime(tmp_path, load=torch.load)
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "data_3.pt")
    with pytest.raises(ValueError, match=r"data_3.pt holds no samples of slime; give a file of --save-debug"):
        read_slime(tmp_path, load=torch.load)
    (tmp_path / "data_3.pt").write_bytes((tmp_path / "data_10.pt").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"data_3.pt cannot be read"):
        read_slime(tmp_path, load=torch.load)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no file \*\.pt of training rollouts"):
        read_slime(tmp_path / "none", load=torch.load)


@pytest.mark.parametrize("run", ["run", "my_rollouts_1b"])
def test_open_instruct_has_a_file_of_metadata_beside(tmp_path, run):
    rows = [{"step": 4, "prompt_idx": 0, "prompt_tokens": [5, 6], "reward": r, "dataset": "gsm8k"} for r in (10.0, 0.0)]
    write(tmp_path / f"{run}_rollouts_000000.jsonl", rows)
    write(tmp_path / f"{run}_rollouts_000001.jsonl", [rows[0] | {"step": 5}])
    write(tmp_path / f"{run}_metadata.jsonl", [{"run_name": "run", "git_commit": "0"}])
    found = read_open_instruct(tmp_path)
    assert visits(found) == {(4, "[5, 6]"): (1, 2), (5, "[5, 6]"): (1, 1)}
    assert on_pool(found.history, found.prompts, ["a", "b"], keys=["[1]", "[5, 6]"]).history.prompt_ids.tolist() == [
        1,
        1,
    ]


def test_texts_of_csv_stay_texts(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('step,prompt,reward\n1,NA,1\n1,null,0\n2,007,NA\n2,1e5,1\n2,"a\nb, c",0\n')
    assert read_logs(path).prompts == ["NA", "null", "007", "1e5", "a\nb, c"]
    assert read_logs(path).history.group_size.tolist() == [1, 1, 1, 1]  # the reward NA is not judged
    path.write_text("step,prompt,reward\n1,x,1,2\n")
    with pytest.raises(ValueError, match=r"log.csv, row 1, has more or fewer cells than the header; put quotes"):
        read_logs(path)


def test_memory_holds_no_completions(tmp_path):
    """A log of 20 MB, nearly all of it completions, is read with less than 4 MB of memory."""
    write(
        tmp_path / "a.jsonl",
        [{"step": i, "prompt": f"p{i % 9}", "reward": 1, "output": "x" * 20_000} for i in range(1000)],
    )
    tracemalloc.start()
    found = read_logs(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.num_prompts == 9
    assert peak < 4e6


@pytest.mark.parametrize(
    "around",
    ["{}", " {}\n", "system\nBe kind.\nuser\n{}\nassistant\n", "<|u|>{}<|a|><think>", "user\n\n{}assistant\n\n"],
)
def test_a_verl_log_finds_its_rows_by_text_and_warm_starts_a_selector(tmp_path, around):
    scores = {0: [1.0, 1.0], 1: [0.0, 0.0], 2: [1.0, 0.0]}
    for step in (1, 2):
        rows = [
            {"input": around.format(TEXTS[i]), "output": "o", "score": s, "step": step, "uid": f"{step}{i}"}
            for i, group in scores.items()
            for s in group
        ]
        write(tmp_path / f"{step}.jsonl", rows)
    write(tmp_path / "3.jsonl", [{"input": around.format("Something else"), "score": 1.0, "step": 3, "uid": "u"}])
    found = read_verl(tmp_path)
    pool = ["an unused prompt", *TEXTS[::-1]]
    with pytest.warns(UserWarning, match="1 of 4 prompts of the log, such as .*Something else.* not in the pool"):
        mine = on_pool(found.history, found.prompts, pool)
    assert mine.unmatched == [around.format("Something else")]
    assert mine.history.prompt_ids.tolist() == [1, 2, 3] * 2
    selector = jaxsel.PromptSelector(jaxsel.mopps(decay=1.0), num_prompts=mine.num_prompts, seed=0)
    warm_start(selector, mine.history)
    np.testing.assert_allclose(selector.predict().success_rate, [1 / 2, 3 / 6, 1 / 6, 5 / 6], rtol=1e-5)


def test_conversations_and_repeated_texts_on_a_pool():
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    history = jaxsel.make_history([0, 0, 0], [0, 1, 2], [1, 0, 1], 1, num_prompts=3)
    logged = [json.dumps([{"content": "x", "role": "user"}]), "twice", json.dumps(chat)]
    with pytest.warns(UserWarning, match="1 of 3 prompts of the log, such as 'twice', are not .* or in several"):
        mine = on_pool(history, logged, ["x", "twice", "twice", chat])
    assert mine.unmatched == ["twice"]
    assert sorted(mine.history.prompt_ids.tolist()) == [0, 3]
    with pytest.raises(ValueError, match="no prompt of the log, such as 'q', is in the pool; give the prompts or keys"):
        on_pool(history, ["q", "r", "s"], ["x"])
    with pytest.raises(ValueError, match="keys has 1 entries for 2 prompts; give one key per prompt"):
        on_pool(history, logged, ["x", "y"], keys=["a"])
    with pytest.raises(ValueError, match="logged has 2 entries; give all prompts of the log"):
        on_pool(history, logged[:2], ["x", "twice"])
    with pytest.warns(UserWarning, match="2 of 3 prompts"):  # a key that repeats names no row
        found = on_pool(history, ["a", "b", "c"], ["x", "y", "z"], keys=["a", "b", "a"])
    assert found.unmatched == ["a", "c"]


@pytest.mark.parametrize("around", ["{}+5", "3{}", "-{}", "{}.5"])
def test_a_text_of_the_pool_inside_of_a_longer_one_is_another_prompt(around):
    history = make_history([0, 0], [0, 1], [1, 0], [2, 2], num_prompts=2)
    logged = [around.format("2 + 2"), "user: 2 + 2. Think."]
    with pytest.warns(UserWarning, match="1 of 2 prompts"):
        found = on_pool(history, logged, ["2 + 2"])
    assert found.unmatched == logged[:1]
    assert found.history.successes.tolist() == [0]


def test_nemo_rl_messages_may_be_records(tmp_path):
    rows = [
        {
            "content": [[{"role": "user", "content": f"user\n{text}\n", "token_ids": [1]}, {"content": "a"}]],
            "rewards": [1],
        }
        for text in TEXTS
    ]
    write(tmp_path / "train_data_step1.jsonl", rows)
    found = read_nemo_rl(tmp_path)
    assert json.loads(found.prompts[0]) == [{"role": "user", "content": "user\nWhat is 1+1?\n"}]
    assert on_pool(found.history, found.prompts, TEXTS).history.prompt_ids.tolist() == [0, 1, 2]


def test_nemo_rl_rows_with_several_conversations_are_refused(tmp_path):
    write(tmp_path / "train_data_step1.jsonl", [{"content": [["a", "b"], ["c", "d"]], "rewards": [1.0, 0.0]}])
    with pytest.raises(ValueError, match="has no prompt in 'content'"):
        read_nemo_rl(tmp_path)


def test_a_history_of_another_pool_starts_no_selector():
    history = jaxsel.make_history([0, 1], [0, 4], [1, 0], 1, num_prompts=5)
    selector = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=3)
    with pytest.raises(ValueError, match=r"history.prompt_ids\[1\] is 4"):
        warm_start(selector, history)
    assert selector.visits.sum() == 0
