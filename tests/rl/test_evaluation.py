"""Evaluation sets: their counts and scores, and their place in a training run."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from rl.engines.hf import HFEngine
from rl.evaluation import Counts, Evaluation, EvaluationSet, scores
from rl.prompts import PromptPool, Verdict
from rl.run_log import is_end, read_metrics
from tests.support.hanging_verifier import elsewhere
from tests.support.runs import CONFIG, assert_same_run, start, until_killed

pytestmark = pytest.mark.slow  # 5 s


def a_set(task, name="digits", count=6):
    """Return a set whose problems 0, 2, 4, ... are always solved and the others never, whatever the completion is."""
    pool = task.held_out(count)
    solved = PromptPool(pool.texts, [i % 2 == 0 for i in range(count)], pool.keys)
    return EvaluationSet(name, task._replace(verify=by_answer), solved)


def by_answer(completion, answer):
    return None if answer is None else Verdict(answer, float(answer))


class PartlyFailing(HFEngine):
    """An engine that loses the last completion of every problem: its text is None."""

    def generate(self, prompts, group_size, sampling, *, seed):
        out = super().generate(prompts, group_size, sampling, seed=seed)
        return out._replace(texts=[None if i % group_size == group_size - 1 else t for i, t in enumerate(out.texts)])


def test_scores_are_means_over_problems_with_their_standard_errors():
    successes, n = np.array([0, 1, 4, 4]), 4
    found = scores(Counts(successes, np.full(4, n), 16, 2.5, {}), [2, 4])
    one_of_two = np.array([0, 1 / 2, 1, 1])  # of problem 1's six pairs of completions, three hold its correct one
    for name, each in (("mean@4", successes / 4), ("pass@2", one_of_two), ("pass@4", successes > 0)):
        assert found[name] == pytest.approx(np.mean(each))
        assert found[f"{name}/stderr"] == pytest.approx(np.std(each, ddof=1) / 2)
    assert (found["judged_share"], found["tokens"]) == (1, 2.5)
    assert math.isnan(scores(Counts(np.array([1]), np.array([2]), 2, 1.0, {}), [2])["mean@2/stderr"])


def test_metrics_of_every_set_are_named(task, policy):
    evaluation = Evaluation([a_set(task), a_set(task, "more", 3)], k=2)
    found = evaluation.measure(HFEngine(policy), 0)
    assert found["eval/digits/mean@2"] == found["eval/digits/pass@2"] == 1 / 2
    assert found["eval/more/mean@2"] == pytest.approx(2 / 3)
    assert found["eval/digits/mean@2/stderr"] == pytest.approx(np.std([0, 1] * 3, ddof=1) / 6**0.5)
    assert found["eval/rollouts"] == (6 + 3) * 2
    assert Evaluation().measure(HFEngine(policy), 0) == {}


def test_completions_that_are_not_judged_count_nowhere(task, policy):
    found = Evaluation([a_set(task)], k=3).measure(PartlyFailing(policy), 0)
    assert found["eval/digits/judged_share"] == pytest.approx(2 / 3)
    assert found["eval/digits/mean@3"] == 1 / 2
    assert math.isnan(found["eval/digits/pass@3"])  # no problem has three judged completions


def a_set_judged_elsewhere(task):
    """Return a set whose problems are solved if another process than this one judges them."""
    pool = task.held_out(3)
    here = PromptPool(pool.texts, [str(os.getpid())] * 3, pool.keys)
    return EvaluationSet("elsewhere", task._replace(verify=elsewhere), here)


@pytest.mark.parametrize("own_process", [False, True])
def test_a_verifier_runs_in_its_own_process_if_the_run_or_the_task_asks_for_it(task, policy, tmp_path, own_process):
    one = a_set_judged_elsewhere(task)
    if own_process:
        asking = Evaluation([one._replace(task=one.task._replace(own_process=True))], k=2)
        assert asking.measure(HFEngine(policy), 0)["eval/elsewhere/mean@2"] == 1
    found = Evaluation([one], k=2).measure(HFEngine(policy), 0, own_process=own_process)
    assert found["eval/elsewhere/mean@2"] == own_process
    config = replace(CONFIG, steps=1, verify_process=own_process, checkpoint_every=0)
    records, _ = start(task, tmp_path, config, evaluation=Evaluation([one], k=2))
    assert [record["eval/elsewhere/mean@2"] for record in records] == [own_process] * 2


def test_a_set_is_the_same_problem_for_every_seed_but_not_the_same_completions(task, policy):
    judged = EvaluationSet("digits", task, task.held_out(40))
    one, again, other = (Evaluation([judged], k=4).measure(HFEngine(policy), seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_problem_that_is_too_long_is_named(task, policy):
    pool = PromptPool(["1=", "1" * 300], ["1", "1"], ["a", "b"])
    with pytest.raises(ValueError, match="evaluation set long: prompts has 300 tokens in row 1"):
        Evaluation([EvaluationSet("long", task, pool)], k=1).measure(HFEngine(policy), 0)


def test_two_sets_of_one_name_are_refused(task):
    with pytest.raises(ValueError, match="the evaluation sets are named digits, digits; give every set a name"):
        Evaluation([a_set(task), a_set(task)])
    with pytest.raises(ValueError, match="k is 0; give an integer of at least 1"):
        Evaluation([a_set(task)], k=0)


@pytest.mark.parametrize(("every", "steps"), [(0, [0, 8]), (3, [0, 3, 6, 8]), (4, [0, 4, 8])])
def test_a_run_measures_its_sets(task, tmp_path, every, steps):
    records, _ = start(task, tmp_path, evaluation=Evaluation([a_set(task)], k=2, every=every))
    assert [record["step"] for record in records if "eval/digits/mean@2" in record] == steps
    assert records == read_metrics(tmp_path / "metrics.jsonl")
    assert [is_end(record) for record in records] == [False] * 8 + [True]
    assert records[-1]["rollouts"] == 8 * 4 * 4  # the evaluation's completions are not counted


def test_an_evaluation_changes_nothing_else_and_a_resumed_run_repeats_it(task, tmp_path):
    evaluation = Evaluation([EvaluationSet("digits", task, task.held_out(5))], k=2, every=2)
    whole = start(task, tmp_path / "whole", evaluation=evaluation)
    plain = start(task, tmp_path / "plain")
    kept = [{k: v for k, v in r.items() if not k.startswith(("eval/", "seconds/evaluating"))} for r in whole[0]]
    assert_same_run((kept, whole[1]), plain)
    with pytest.raises(KeyboardInterrupt):
        start(task, tmp_path / "killed", evaluation=evaluation, progress=until_killed(5))
    assert_same_run(start(task, tmp_path / "killed", evaluation=evaluation, resume=True), whole)
    longer = replace(CONFIG, steps=10)
    records, _ = start(task, tmp_path / "whole", longer, evaluation=replace(evaluation, every=9), resume=True)
    assert [r["step"] for r in records if "eval/rollouts" in r] == [0, 2, 4, 6, 9, 10]
    assert records == read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert records[-1]["eval/rollouts"] == 10
    assert read_metrics(tmp_path / "whole" / "metrics-ended.jsonl") == whole[0][-1:]


def test_a_finished_run_measures_a_set_that_is_new(task, tmp_path):
    first = Evaluation([a_set(task)], k=2)
    records, _ = start(task, tmp_path, evaluation=first)
    both = Evaluation([a_set(task), a_set(task)._replace(name="other")], k=2)
    again, _ = start(task, tmp_path, evaluation=both, resume=True)
    assert again[:-1] == records[:-1]
    assert again[-1].keys() - records[-1].keys() >= {"eval/other/mean@2", "eval/other/pass@2"}
    assert {**again[-1], **records[-1]} == again[-1] | {"eval/rollouts": records[-1]["eval/rollouts"]}
    assert again == read_metrics(tmp_path / "metrics.jsonl")
    assert start(task, tmp_path, evaluation=both, resume=True)[0] == again


@pytest.mark.parametrize(
    "setting", [{"k": 0}, {"every": -1}, {"temperature": math.inf}, {"top_p": 0.0}, {"top_p": 2.0}]
)
def test_a_setting_out_of_range_is_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} is .*; give "):
        Evaluation(**setting)
