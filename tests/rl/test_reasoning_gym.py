"""Tasks of reasoning-gym, with the library itself where it is installed."""

import builtins
import itertools
import os
import re
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from rl.prompts import Verdict
from rl.tasks import reasoning_gym
from rl.tasks.data_config import DataConfig
from rl.tasks.held_out import Split
from rl.tasks.reasoning_gym import Generated
from rl.verification import Verifier

NAME = "reasoning_gym:basic_arithmetic"


def test_a_missing_library_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match=r"task needs the library reasoning-gym .*; pip install reasoning-gym"):
        reasoning_gym.make(NAME)


def test_a_generated_column_computes_only_what_is_read():
    read = []
    column = Generated(10**6, lambda row: read.append(row) or 2 * row)
    assert len(column) == 10**6
    assert (column[3], column[-1], column[2:4]) == (6, 2 * 10**6 - 2, [4, 6])
    assert read == [3, 10**6 - 1, 2, 3]
    with pytest.raises(IndexError):
        column[10**6]


def test_about_the_share_of_all_texts_is_held_out_and_the_seed_chooses():
    sides = [[Split(0.25, seed).is_held_out(str(i)) for i in range(4000)] for seed in (0, 1)]
    for side in sides:
        assert abs(sum(side) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert sides[0] != sides[1]


class _Numbers:
    """A data set in the manner of the library, whose prompt i has the number seed + i and perhaps no answer.

    The prompts of the kind single are all the same.
    """

    def __init__(self, kind: str, seed: int, size: int):
        self._numbers, self._has_answers = range(seed, seed + size), kind != "open"
        self._is_single = kind == "single"

    def __getitem__(self, at: int) -> dict[str, object]:
        number = "0" if self._is_single else str(self._numbers[at])
        return {"question": number, "answer": number if self._has_answers else None, "metadata": {}}

    def score_answer(self, answer: str, entry: dict[str, object]) -> float:
        if answer in vars(builtins):
            raise vars(builtins)[answer]
        return float(answer) == float(str(entry["question"]))


def _extracted(completion: str) -> str | None:
    found = re.search("<answer>(.*)</answer>", completion)
    return found and found.group(1)


class TestWithALibraryOfNumbers:
    @pytest.fixture(autouse=True)
    def _library_of_numbers(self, monkeypatch):
        reasoning_gym._dataset.cache_clear()
        reasoning_gym._entry.cache_clear()
        library = SimpleNamespace(
            DATASETS={"count": 0, "open": 0, "single": 0, "ransom_note": 0},
            create_dataset=_Numbers,
            extract_answer=_extracted,
        )
        monkeypatch.setattr(reasoning_gym, "_library", lambda module: library)
        yield
        reasoning_gym._dataset.cache_clear()
        reasoning_gym._entry.cache_clear()

    def test_a_key_names_one_prompt_whatever_the_size_of_the_pool(self):
        config = DataConfig(held_out_share=0.3, template="{prompt}")
        named: dict[str, str] = {}
        for size, seed in itertools.product((50, 400, 1000), (0, 7, 299)):
            task = reasoning_gym.make("reasoning_gym:count", config)
            for pool in (task.pool(size, seed), task.held_out(size)):
                assert len(set(pool.texts)) == size
                assert [named.setdefault(*pair) for pair in zip(pool.keys, pool.texts, strict=True)] == [*pool.texts]
        assert len(set(named.values())) == len(named) == 4000

    def test_another_split_has_other_keys(self):
        task = reasoning_gym.make("reasoning_gym:count", DataConfig(held_out_share=0.3))
        for other in (DataConfig(held_out_share=0.4), DataConfig(held_out_share=0.3, held_out_seed=1)):
            again = reasoning_gym.make("reasoning_gym:count", other)
            assert set(again.pool(9, 0).keys).isdisjoint(task.pool(9, 0).keys)
            assert set(again.held_out(9).keys).isdisjoint(task.held_out(9).keys)

    def test_a_held_out_pool_can_be_read_in_any_order(self):
        pools = [reasoning_gym.make("reasoning_gym:count").held_out(30) for _ in range(2)]
        assert [pools[0].texts[row] for row in reversed(range(30))][::-1] == list(pools[1].texts)

    def test_pools_and_demonstrations_never_share_a_prompt(self):
        task = reasoning_gym.make("reasoning_gym:count", DataConfig(template="{prompt}"))
        shown = {one.prompt for seed in range(700) for one in itertools.islice(task.demonstrations(seed), 5)}
        assert shown.isdisjoint(text for seed in range(700) for text in task.pool(5, seed).texts)

    @pytest.mark.parametrize("given", [{"held_out": "a.json"}, {"answer": "Answer"}, {"merge": True}, {"key": "id"}])
    def test_settings_that_the_task_ignores_are_refused(self, given):
        (name,) = given
        with pytest.raises(ValueError, match=rf"data\.{name} is .* with the task reasoning_gym:count, which has no"):
            reasoning_gym.make("reasoning_gym:count", DataConfig(**given))

    def test_a_random_hash_seed_is_refused_where_prompts_depend_on_it(self, monkeypatch):
        for is_random in (0, 1):
            monkeypatch.setattr(sys, "flags", SimpleNamespace(hash_randomization=is_random))
            assert reasoning_gym.make("reasoning_gym:count")
            if not is_random:
                assert reasoning_gym.make("reasoning_gym:ransom_note")
        with pytest.raises(ValueError, match=r"depend on Python's hash seed; start Python with PYTHONHASHSEED=0"):
            reasoning_gym.make("reasoning_gym:ransom_note")

    def test_tasks_without_reference_answers_have_no_demonstrations(self):
        with pytest.raises(ValueError, match=r"task reasoning_gym:open, .* no reference .*; give fine_tuning\.steps=0"):
            next(reasoning_gym.make("reasoning_gym:open").demonstrations(0))

    @pytest.mark.parametrize("kind", ["count", "open"])
    def test_an_answer_that_the_library_cannot_read_is_wrong(self, kind):
        place = {"seed": 5, "index": 0}
        assert reasoning_gym.score(kind, "<answer>5</answer>", place) == Verdict(True, 1.0)
        for odd in ("five", "KeyError", "SyntaxError", "RecursionError", "NameError", "AssertionError", "MemoryError"):
            assert reasoning_gym.score(kind, f"<answer>{odd}</answer>", place) == Verdict(False, 0.0)

    @pytest.mark.parametrize("kind", ["count", "open"])
    @pytest.mark.parametrize("error", [ImportError, ModuleNotFoundError, FileNotFoundError])
    def test_a_missing_package_or_file_is_no_verdict(self, kind, error):
        with pytest.raises(error):
            reasoning_gym.score(kind, f"<answer>{error.__name__}</answer>", {"seed": 5, "index": 0})

    def test_a_verifier_that_cannot_judge_the_own_answer_either_gives_no_verdict(self, monkeypatch):
        def broken(*_):
            raise AttributeError("module 'numpy' has no attribute 'float'")

        monkeypatch.setattr(_Numbers, "score_answer", broken)
        with Verifier(partial(reasoning_gym.score, "count")) as verifier:
            assert verifier(["<answer>5</answer>", "5"], [{"seed": 5, "index": 0}] * 2, ["a", "b"]) == [
                None,
                Verdict(False, 0.0),
            ]
            assert verifier.take_counts()["train/verifier_errors"] == 1

    @pytest.mark.parametrize("share", [1e-9, 0.999999])
    def test_a_share_that_leaves_almost_nothing_on_one_side_is_refused(self, share):
        with pytest.raises(
            ValueError, match=f"held_out_share is {share} with the task reasoning_gym:count, .* to 0.999"
        ):
            reasoning_gym.make("reasoning_gym:count", DataConfig(held_out_share=share))

    @pytest.mark.parametrize(
        ("share", "side", "read"),
        [
            (0.999, "1 training prompts", lambda task: task.pool(1, 0).texts[0]),
            (0.999, "demonstrations", lambda task: next(task.demonstrations(0))),
            (0.001, "1 held-out prompts", lambda task: task.held_out(1).texts[0]),
        ],
    )
    def test_a_side_without_prompts_is_named(self, share, side, read):
        task = reasoning_gym.make("reasoning_gym:single", DataConfig(held_out_share=share))
        with pytest.raises(ValueError, match=f"held_out_share is {share}, and single has too few prompts for {side};"):
            read(task)


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def _needs_the_library(self):
        pytest.importorskip("reasoning_gym")

    def test_training_and_held_out_prompts_never_meet(self):
        task = reasoning_gym.make(NAME, DataConfig(held_out_share=0.3, template="{prompt}"))
        held_out = set(task.held_out(200).texts)
        assert held_out.isdisjoint(text for seed in (0, 1) for text in task.pool(500, seed).texts)
        assert task.pool(5, 0).texts[:] != task.pool(5, 1).texts[:]
        assert list(task.held_out(200).texts) == list(task.held_out(200).texts)

    @pytest.mark.parametrize("share", [0.001, 0.99])
    def test_small_and_large_shares_leave_prompts_on_both_sides(self, share):
        task = reasoning_gym.make("reasoning_gym:chain_sum", DataConfig(held_out_share=share))
        assert len({*task.pool(20, 0).texts}) == len({*task.held_out(20).texts}) == 20

    @pytest.mark.parametrize("kind", ["chain_sum", "pool_matrix"])
    def test_every_seed_has_prompts_of_its_own(self, kind):
        task = reasoning_gym.make(f"reasoning_gym:{kind}", DataConfig(template="{prompt}"))
        seeds = (0, 1, 298, 299, 300, 598, 10**5)
        pools = [set(task.pool(20, seed).texts) for seed in seeds]
        pools += [{str(one.prompt) for one in itertools.islice(task.demonstrations(seed), 20)} for seed in seeds]
        most = max(len(one & other) for one, other in itertools.combinations(pools, 2))
        assert most <= 2

    @pytest.mark.parametrize("kind", ["graph_color", "propositional_logic"])
    def test_tasks_without_reference_answers_have_no_demonstrations(self, kind):
        task = reasoning_gym.make(f"reasoning_gym:{kind}")
        with pytest.raises(
            ValueError, match=f"task reasoning_gym:{kind}, .* no reference answers .*fine_tuning.steps=0"
        ):
            next(task.demonstrations(0))

    def test_the_librarys_own_verifier_judges(self):
        task = reasoning_gym.make(NAME)
        pool = task.pool(20, 0)
        for text, answer in zip(pool.texts, pool.answers, strict=True):
            entry = reasoning_gym._dataset("basic_arithmetic", answer["seed"])[answer["index"]]
            assert entry["question"] in text
            assert task.verify(f"<answer>{entry['answer']}</answer>", answer) == (True, 1.0)
            wrong = task.verify(f"<answer>{entry['answer']}1</answer>", answer)
            assert wrong is not None
            assert not wrong.success
            assert task.verify("I do not know.", answer) == (False, 0.0)

    @pytest.mark.parametrize("kind", ["chain_sum", "basic_arithmetic"])
    def test_demonstrations_are_right_and_not_held_out(self, kind):
        task = reasoning_gym.make(f"reasoning_gym:{kind}", DataConfig(held_out_share=0.3, template="{prompt}"))
        shown = list(itertools.islice(task.demonstrations(1), 20))
        assert not any(Split(0.3, 0).is_held_out(str(one.prompt)) for one in shown)
        dataset = reasoning_gym._dataset(kind, reasoning_gym._SPACING * 4)
        rows = {dataset[at]["question"]: at for at in range(200)}
        for one in shown:
            answer = {"seed": dataset.seed, "index": rows[str(one.prompt)]}
            assert task.verify(one.completion, answer) == (True, 1.0)

    def test_a_million_prompts_take_less_than_a_minute(self):
        start = time.monotonic()
        pool = reasoning_gym.make(NAME).pool(10**6, 0)
        assert len(pool) == 10**6
        assert pool.texts[999_999] != pool.texts[0]
        assert time.monotonic() - start < 60

    @pytest.mark.slow
    def test_a_verifier_in_its_own_process_judges_the_same_prompts(self):
        code = """
from rl.tasks import reasoning_gym
from rl.verification import Verifier
if __name__ == "__main__":
    for kind in (*sorted(reasoning_gym._HASHED), "chain_sum"):
        task = reasoning_gym.make(f"reasoning_gym:{kind}")
        answers = task.pool(4, 0).answers[:]
        entries = [reasoning_gym._entry(kind, **answer) for answer in answers]
        with Verifier(task.verify, own_process=task.own_process) as verifier:
            texts = [f"<answer>{entry['answer']}</answer>" for entry in entries]
            print(kind, [verdict.success for verdict in verifier(texts, answers, list("abcd"))])
"""
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == [str([True] * 4)] * 4

    def test_strata_are_the_difficulties(self):
        found = reasoning_gym.make(NAME).pool(50, 0).strata
        assert found is not None
        assert len(found) == 50
        assert 1 < len(set(found)) < 50

    def test_an_answer_that_the_library_cannot_read_is_wrong(self):
        task = reasoning_gym.make("reasoning_gym:prime_factorization")
        assert task.verify("<answer>many primes</answer>", task.pool(1, 0).answers[0]) == (False, 0.0)

    @pytest.mark.parametrize("kind", ["word_ladder", "gsm_symbolic", "graph_color", "basic_arithmetic"])
    def test_tasks_of_many_forms_have_pools_and_strata(self, kind):
        pool = reasoning_gym.make(f"reasoning_gym:{kind}").pool(3, 0)
        assert len(set(pool.texts)) == 3
        assert len(list(pool.strata or ())) == 3

    def test_more_prompts_than_a_task_generates_are_refused(self):
        task = reasoning_gym.make("reasoning_gym:word_ladder")
        assert len(set(task.pool(20_000, 0).texts[-20:])) == 20
        with pytest.raises(ValueError, match=r"num_prompts is 20001 .*word_ladder; give an integer from 1 to 20000"):
            task.pool(20_001, 0)

    @pytest.mark.parametrize("kind", ["composite", "game_of_life_halting"])
    def test_tasks_that_cannot_be_judged_are_refused(self, kind):
        with pytest.raises(ValueError, match=rf"task is 'reasoning_gym:{kind}', wh.*; give another task"):
            reasoning_gym.make(f"reasoning_gym:{kind}")

    def test_an_unknown_task_is_refused(self):
        with pytest.raises(ValueError, match="task is 'reasoning_gym:nope'; give reasoning_gym: and one of ab, "):
            reasoning_gym.make("reasoning_gym:nope")
