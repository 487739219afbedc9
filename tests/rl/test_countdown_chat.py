import itertools
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from rl.tasks import countdown_chat
from rl.tasks.countdown_instances import held_out_mask
from rl.tasks.countdown_published import drawn, reachable
from rl.tasks.countdown_verifier import verify
from rl.tasks.data_config import DataConfig

ROWS = [
    {"target": 22, "nums": [3, 5, 7]},
    {"target": 22, "nums": [7, 5, 3]},
    {"target": 24, "nums": [3, 3, 8, 8]},
    {"target": 98, "nums": [44, 19, 35]},
    {"target": 28, "nums": [95, 11, 56, 2]},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def values(numbers):
    """Return the exact values of all expressions, signs included: an oracle by plain recursion over splits."""
    found = set()
    for order in set(itertools.permutations(numbers)):
        found |= values_in_order(order)
    return found


def values_in_order(numbers):
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    found = set()
    for at in range(1, len(numbers)):
        for a, b in itertools.product(values_in_order(numbers[:at]), values_in_order(numbers[at:])):
            found |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return found


@pytest.mark.parametrize(("count", "rows"), [(2, 30), (3, 20), (4, 3)])
def test_reachable_agrees_with_exact_enumeration(count, rows):
    rng = np.random.default_rng(count)
    for numbers in rng.integers(1, 99, size=(rows, count), endpoint=True).tolist():
        targets = np.arange(1, 201)
        exact = values(numbers)
        found = reachable(np.tile(numbers, (len(targets), 1)), targets)
        assert found.tolist() == [int(target) in exact for target in targets]


def test_no_value_of_four_numbers_is_close_to_a_target_that_it_misses():
    """The tolerances of `reachable` and of the published reward therefore never accept a wrong value."""
    rng = np.random.default_rng(0)
    for numbers in rng.integers(1, 99, size=(3, 4), endpoint=True).tolist():
        assert all(
            value.denominator == 1 or abs(value - round(value)) > 1e-5 for value in values(numbers) if value >= 1
        )


def test_made_instances_follow_the_published_distribution():
    """Ranges must match exactly, and shares within five standard errors."""
    instances = list(itertools.islice(drawn(np.random.default_rng(0), (3, 4)), 4000))
    targets = np.array([target for _, target in instances])
    assert set(targets) == set(range(10, 101))
    assert np.abs(np.bincount(targets)[10:] - 4000 / 91).max() < 5 * (4000 / 91) ** 0.5
    numbers = np.concatenate([numbers for numbers, _ in instances])
    assert (numbers.min(), numbers.max()) == (1, 99)
    sizes = Counter(len(numbers) for numbers, _ in instances)
    assert set(sizes) == {3, 4}
    assert abs(sizes[3] - 2000) < 5 * (4000 / 4) ** 0.5
    # Of 10,240 published rows, 15.6% of the numbers are below 11 and 8.0% above 89.
    for share, measured in ((np.mean(numbers < 11), 0.156), (np.mean(numbers > 89), 0.080)):
        assert abs(share - measured) < 5 * (measured / len(numbers) + measured / 36000) ** 0.5
    for numbers, target in instances[:20]:
        assert target in values(numbers) if len(numbers) == 3 else reachable(np.array([numbers]), np.array([target]))


@pytest.mark.parametrize(("name", "counts"), [("countdown-34", {3, 4}), ("countdown-4", {4})])
def test_made_pools_are_distinct_and_apart_from_the_held_out_side(name, counts):
    task = countdown_chat.make(name)
    pool, held_out = task.pool(300, 0), task.held_out(100)
    assert {len(answer["numbers"]) for answer in pool.answers} == counts
    unordered = [{(tuple(sorted(a["numbers"])), a["target"]) for a in side.answers} for side in (pool, held_out)]
    assert [len(side) for side in unordered] == [300, 100]
    assert unordered[0].isdisjoint(unordered[1])
    assert task.held_out(100) == held_out
    assert task.held_out(10).keys == held_out.keys[:10]
    assert task.pool(30, 0).keys == pool.keys[:30]
    assert task.pool(30, 1).keys != pool.keys[:30]
    with pytest.raises(ValueError, match="num_prompts is 0, and this task makes as many prompts as are asked for"):
        task.pool(0, 0)


def test_the_prompt_has_tinyzeros_words():
    task = countdown_chat.make("countdown-34")
    pool = task.pool(1, 0)
    numbers, target = pool.answers[0]["numbers"], pool.answers[0]["target"]
    assert f"\nUser: Using the numbers {numbers}, create an equation that equals {target}. You can" in pool.texts[0]
    assert pool.texts[0].endswith("\nAssistant: Let me solve this step by step.\n<think>")
    assert "{" not in pool.texts[0]
    own = countdown_chat.make("countdown-34", DataConfig(template="{prompt}\nThink.", max_new_tokens=7, stop=["\n"]))
    assert own.pool(1, 0).texts[0] == f"Using the numbers {numbers}, create an equation that equals {target}. " + (
        "You can use basic arithmetic operations (+, -, *, /) and each number can only be used once.\nThink."
    )
    assert (own.max_new_tokens, own.stop) == (7, ("\n",))


def test_a_file_is_split_by_its_instances(tmp_path):
    path = tmp_path / "train.csv"
    instances = list(itertools.islice(drawn(np.random.default_rng(3), (3, 4)), 200))
    path.write_text("nums,target\n" + "".join(f'"{numbers}",{target}\n' for numbers, target in instances))
    task = countdown_chat.make(f"countdown-34:{path}")
    pool, held_out = task.pool(0, 0), task.held_out(0)
    sides = [held_out_mask(np.array([numbers]), np.array([target]))[0] for numbers, target in instances]
    assert len(held_out) == sum(sides)
    assert len(pool) == 200 - sum(sides)
    assert set(pool.keys).isdisjoint(held_out.keys)
    assert task.pool(9, 0).keys != task.pool(9, 1).keys
    assert set(task.pool(9, 0).keys) < set(pool.keys)
    fours = countdown_chat.make(f"countdown-4:{path}").pool(0, 0)
    assert list(fours.answers) == [answer for answer in pool.answers if len(answer["numbers"]) == 4]
    assert all(type(number) is int for answer in pool.answers for number in answer["numbers"])


def test_held_out_instances_of_a_file_are_left_out_of_training(tmp_path, file):
    apart = tmp_path / "test.jsonl"
    apart.write_text(json.dumps({"target": 22, "nums": [5, 3, 7]}))
    task = countdown_chat.make(f"countdown-34:{file}", DataConfig(held_out=str(apart)))
    assert task.held_out(5).keys == ["5 3 7=22"]
    assert task.pool(0, 0).keys == ["3 3 8 8=24", "44 19 35=98", "95 11 56 2=28"]
    made = countdown_chat.make("countdown-34", DataConfig(held_out=str(file)))
    assert made.held_out(2).keys == ["3 5 7=22", "7 5 3=22"]
    assert set(made.pool(50, 0).keys).isdisjoint(made.held_out(0).keys)
    with pytest.raises(ValueError, match=r"data.held_out is .*, which holds every prompt; give another file"):
        countdown_chat.make(f"countdown-34:{file}", DataConfig(held_out=str(file))).pool(0, 0)


def test_answers_of_the_pool_are_judged(file):
    (eights,) = [one for one in countdown_chat.make(f"countdown-4:{file}").pool(0, 0).answers if one["target"] == 24]
    said = "Hm, 8/3.</think> <answer> (1 + 2) / 3 </answer> No. <answer>8 ÷ (3 − 8 ÷ 3) = 24</answer>"  # noqa: RUF001
    assert verify(said, eights) == (True, 1.0)
    assert verify(said.replace("= 24", "= 25"), eights) == (False, 0.0)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"nums": [1, "x"], "target": 3}, r"nums \[.*x.*\] and target"),
        ({"nums": [1, 2.5], "target": 3}, r"nums \[1, 2.5\] and target 3"),
        ({"nums": None, "target": 3}, "nums None and target 3"),
        ({"nums": [1, 2], "target": None}, r"nums \[1, 2\] and target None"),
        ({"nums": [1, -2], "target": 3}, r"nums \[1, -2\] and target 3"),
        ({"nums": "1 two", "target": 3}, "nums '1 two' and target 3"),
    ],
)
def test_odd_rows_are_named(tmp_path, row, fault):
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=rf"row 0 of .*odd.jsonl has {fault}.*; give integers of at least 0"):
        countdown_chat.make(f"countdown-34:{path}").pool(0, 0)


@pytest.mark.parametrize(
    ("name", "config", "fault"),
    [
        ("countdown-3", None, "task is 'countdown-3'; give countdown-34, countdown-4"),
        ("countdown-4:", None, "task is 'countdown-4:'; give countdown-34, countdown-4, or one of them with a colon"),
        ("countdown-4", DataConfig(key="index"), "data.key is 'index' with the task countdown-4, which has no such"),
        ("countdown-34", DataConfig(held_out_share=0.5), "data.held_out_share is 0.5 with the task countdown-34"),
    ],
)
def test_unusable_names_and_settings_are_refused(name, config, fault):
    with pytest.raises(ValueError, match=fault):
        countdown_chat.make(name, config)
    with pytest.raises(ValueError, match="is above 0 with the task countdown-4, which has no demonstrations"):
        countdown_chat.make("countdown-4").demonstrations(0)
