import itertools
import json
import math
import random
from collections import Counter
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from rl.prompts import Verdict
from rl.tasks import countdown

ANSWER = {"target": 22, "numbers": [3, 5, 7]}
SOLVED = Verdict(True, 1.0)


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[Fraction]:
    """Return the values of all expressions that use each number once, by splitting the numbers into two groups."""
    if len(numbers) == 1:
        return frozenset([Fraction(numbers[0])])
    values = set()
    for mask in range(1, 2 ** len(numbers) - 1):
        left = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        right = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        for a, b in itertools.product(reachable(left), reachable(right)):
            values |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return frozenset(values)


def prompts_by_brute_force(counts, max_number, max_target, *, held_out):
    """Return all training prompts, with numbers in every order, or all held-out prompts, with ascending numbers."""
    texts = set()
    for count in counts:
        for numbers in itertools.combinations_with_replacement(range(1, max_number + 1), count):
            for target in range(1, max_target + 1):
                if target in reachable(numbers) and countdown.is_held_out(numbers, target) == held_out:
                    orders = [numbers] if held_out else itertools.permutations(numbers)
                    texts |= {countdown.prompt_text(order, target) for order in orders}
    return texts


def instance_key(answer):
    return tuple(sorted(answer["numbers"])), answer["target"]


DEMONSTRATIONS = 8_000


def demonstrated(seed=0, how_many=DEMONSTRATIONS, **options):
    return list(itertools.islice(countdown.demonstrations(seed, **options), how_many))


def read_prompt(text):
    numbers, target = text.removesuffix(":").split("=")
    return {"target": int(target), "numbers": [int(n) for n in numbers.split(" ")]}


# Tests of the pools.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "max_number", "max_target"),
    [({2: 1}, 9, 99), ({3: 1}, 5, 30), ({2: 1, 3: 1}, 7, 60), ({4: 1}, 4, 20), ({2: 1, 3: 2, 4: 3}, 4, 40)],
)
def test_pool_of_a_small_space_is_exactly_what_brute_force_finds(shares, max_number, max_target):
    bounds = {"shares": shares, "max_number": max_number, "max_target": max_target}
    expected = prompts_by_brute_force(shares, max_number, max_target, held_out=False)
    assert set(countdown.pool(len(expected), 0, **bounds).texts) == expected
    with pytest.raises(ValueError, match=rf"num_prompts={len(expected) + 1}, but only {len(expected)} distinct"):
        countdown.pool(len(expected) + 1, 0, **bounds)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [{2: 1}, {3: 1}, {2: 1, 3: 1}])
def test_held_out_of_a_small_space_is_exactly_what_brute_force_finds(shares):
    expected = prompts_by_brute_force(shares, 9, 99, held_out=True)
    found = countdown.held_out(len(expected), shares=shares)
    assert {countdown.prompt_text(*instance_key(answer)) for answer in found.answers} == expected
    with pytest.raises(ValueError, match="distinct Countdown prompts were found"):
        countdown.held_out(len(expected) + 1, shares=shares)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [{}, {"max_number": 25, "max_target": 300}])
def test_every_target_is_reachable(bounds):
    found = countdown.pool(250, 3, **bounds)
    for pool in (found, countdown.held_out(100, **bounds)):
        for answer in pool.answers:
            assert Fraction(answer["target"]) in reachable(tuple(sorted(answer["numbers"])))


def test_pool_columns_agree_and_stay_within_bounds():
    found = countdown.pool(5000, 1, max_number=12, max_target=50)
    assert [read_prompt(text) for text in found.texts] == list(found.answers)
    assert list(found.keys) == list(found.texts)
    assert len(set(found.texts)) == 5000
    assert {len(answer["numbers"]) for answer in found.answers} == {2, 3, 4}
    assert {n for answer in found.answers for n in answer["numbers"]} == set(range(1, 13))
    assert {answer["target"] for answer in found.answers} == set(range(1, 51))
    assert json.loads(json.dumps(list(found.answers))) == list(found.answers)


def test_shares_hold_where_prompts_do_not_run_out():
    found = countdown.pool(4000, 0, shares={3: 1, 4: 3}, max_number=99, max_target=999)
    threes = sum(len(answer["numbers"]) == 3 for answer in found.answers)
    assert abs(threes - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)


def test_zero_share_leaves_a_count_out():
    found = countdown.pool(500, 0, shares={2: 0, 3: 1})
    assert {len(answer["numbers"]) for answer in found.answers} == {3}


@pytest.mark.parametrize("count", [5, 6])
def test_five_and_six_numbers_are_supported(count):
    task = countdown.make(shares={count: 1}, demonstration_shares={count: 1})
    assert all(len(answer["numbers"]) == count for answer in task.pool(100, 0).answers)
    for prompt, completion in itertools.islice(task.demonstrations(0), 300):
        assert task.verify(completion, read_prompt(prompt)) == SOLVED
        assert len(completion) < task.max_new_tokens


def test_same_seed_same_prompts_and_another_seed_others():
    assert countdown.pool(300, 5) == countdown.pool(300, 5)
    assert countdown.held_out(300) == countdown.held_out(300)
    assert demonstrated(5, 300) == demonstrated(5, 300)
    assert countdown.pool(300, 5) != countdown.pool(300, 6)
    assert demonstrated(5, 300) != demonstrated(6, 300)


def test_the_global_generators_are_neither_read_nor_touched():
    random.seed(0)
    before, states = countdown.pool(100, 0), random.getstate()
    random.seed(1)
    assert countdown.pool(100, 0) == before
    random.seed(0)
    assert random.getstate() == states


# The second case takes all 8959 prompts. Near the end few random draws are new, so the rest comes from a list.
@pytest.mark.slow
@pytest.mark.parametrize(("shares", "sizes"), [({2: 1, 3: 1, 4: 1}, (0, 1, 700)), ({2: 1, 3: 1}, (8000, 8959))])
def test_a_smaller_pool_is_the_beginning_of_a_larger_one(shares, sizes):
    largest = countdown.pool(sizes[-1], 2, shares=shares)
    for size in sizes:
        assert countdown.pool(size, 2, shares=shares).texts == largest.texts[:size]
    assert countdown.held_out(100, shares=shares).texts == countdown.held_out(200, shares=shares).texts[:100]


# Tests of the evaluation split.


@pytest.mark.slow
def test_evaluation_is_disjoint_from_training_and_demonstrations_up_to_order():
    evaluation = {instance_key(answer) for answer in countdown.held_out(3400).answers}
    assert len(evaluation) == 3400
    for seed in range(2):
        training = {instance_key(answer) for answer in countdown.pool(20_000, seed).answers}
        assert not evaluation & training
        assert not evaluation & {instance_key(read_prompt(d.prompt)) for d in demonstrated(seed)}


def test_evaluation_is_disjoint_from_training_of_other_bounds():
    evaluation = {instance_key(answer) for answer in countdown.held_out(1000).answers}
    assert not evaluation & {instance_key(a) for a in countdown.pool(20_000, 0, max_number=12, max_target=120).answers}


# Tests of demonstrations.


@pytest.mark.parametrize("bounds", [{}, {"max_number": 99, "max_target": 999}])
def test_every_demonstration_is_correct_and_fits(bounds):
    task = countdown.make(**bounds)
    characters = set()
    for prompt, completion in itertools.islice(task.demonstrations(0), DEMONSTRATIONS):
        assert task.verify(completion, read_prompt(prompt)) == SOLVED
        assert len(completion) < task.max_new_tokens
        characters |= set(prompt + completion)
    assert characters <= set(task.alphabet)


def test_demonstration_shares():
    counts = Counter(len(read_prompt(d.prompt)["numbers"]) for d in demonstrated())
    for count, share in countdown.DEMONSTRATION_SHARES.items():
        spread = math.sqrt(DEMONSTRATIONS * share * (1 - share))
        assert abs(counts[count] - DEMONSTRATIONS * share) < 5 * spread


def test_demonstrations_show_many_solutions_of_a_prompt_and_stay_mixed():
    shown = demonstrated(how_many=50_000, demonstration_shares={3: 1}, max_number=5)
    solutions = {}
    for prompt, completion in shown:
        solutions.setdefault(prompt, set()).add(completion)
    assert np.mean([len(found) for found in solutions.values()]) > 3
    # Demonstrations are drawn in blocks, one shape of expression at a time; their order must not reveal the shape.
    grouped = ["(" in d.completion for d in shown]
    changes = sum(a != b for a, b in itertools.pairwise(grouped))
    share = np.mean(grouped)
    assert changes > 0.9 * 2 * share * (1 - share) * len(shown)


# Tests of the task.


def test_make_applies_its_options():
    task = countdown.make(shares={3: 1}, demonstration_shares={2: 1}, max_number=20, max_target=40, format_credit=0.2)
    assert task.name == "countdown"
    bounds = {"max_number": 20, "max_target": 40}
    assert task.pool(50, 1) == countdown.pool(50, 1, shares={3: 1}, **bounds)
    assert task.held_out(50) == countdown.held_out(50, shares={3: 1}, **bounds)
    shown = list(itertools.islice(task.demonstrations(1), 50))
    assert shown == demonstrated(1, 50, demonstration_shares={2: 1}, **bounds)
    assert task.verify("1+1", ANSWER) == Verdict(False, 0.2)


def test_later_changes_of_the_shares_do_not_reach_the_task():
    shares = {2: 1.0}
    task = countdown.make(shares=shares)
    shares[4] = 1.0
    assert {len(answer["numbers"]) for answer in task.pool(100, 0).answers} == {2}


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({}, "9*(9-(9-9))"),
        ({"max_number": 99}, "99*(99-(99-99))"),
        ({"shares": {2: 1}, "demonstration_shares": {2: 1}}, "9+9"),
        ({"shares": {2: 1}, "demonstration_shares": {3: 1}}, "9*(9+9)"),
    ],
)
def test_max_new_tokens_is_the_longest_completion_and_its_end(options, longest):
    assert countdown.make(**options).max_new_tokens == len(longest) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_number": 1}, "max_number=1 .*at least 2"),
        ({"max_number": 10**5}, "max_number=100000 .*int64"),
        ({"max_target": 0}, "max_target=0; give at least 1"),
        ({"max_target": 2**31}, "max_target=2147483648; give"),
        ({"shares": {}}, "shares={} has no positive"),
        ({"shares": {3: 0.0}}, "shares={3: 0.0} has no positive"),
        ({"shares": {1: 1.0}}, "shares={1: 1.0}; map counts from 2 to 6"),
        ({"shares": {7: 1.0}}, "shares={7: 1.0}; map counts"),
        ({"shares": {"3": 1.0}}, "shares={'3': 1.0}; map counts"),
        ({"shares": {3: -1.0, 4: 2.0}}, "weights of 0 or more"),
        ({"shares": {3: float("nan")}}, "weights of 0 or more"),
        ({"shares": {3: float("inf")}}, "finite"),
        ({"demonstration_shares": {9: 1.0}}, "demonstration_shares={9: 1.0}; map counts"),
        ({"format_credit": 1.0}, "format_credit=1.0; give at least 0 and less than 1"),
        ({"format_credit": -0.1}, "format_credit=-0.1"),
        ({"format_credit": float("nan")}, "format_credit=nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        countdown.make(**options)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_prompts=-1; give 0 or more"):
        countdown.pool(-1, 0)
    with pytest.raises(ValueError, match="seed=-1; give 0 or more"):
        countdown.pool(1, -1)
    with pytest.raises(ValueError, match="seed=-2; give 0 or more"):
        countdown.demonstrations(-2)
    with pytest.raises(ValueError, match="max_number=0"):
        countdown.demonstrations(0, max_number=0)


def test_a_side_without_instances_is_an_error():
    # Two numbers up to 2 reach the target 1 in three ways, and none of the three is held out.
    with pytest.raises(ValueError, match=r"no Countdown instance of 2 numbers .* for evaluation; raise max_number"):
        countdown.held_out(1, shares={2: 1}, max_number=2, max_target=1)
