import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.tasks import countdown
from rl.tasks.countdown_instances import Space, evaluate, held_out_mask, instances, shapes, templates
from rl.tasks.countdown_verifier import parse

# Tests of expressions.


@pytest.mark.parametrize(("count", "trees"), [(1, 1), (2, 1), (3, 2), (4, 5), (5, 14), (6, 42)])
def test_shapes_are_counted_by_catalan_numbers(count, trees):
    assert len(shapes(count)) == trees


@pytest.mark.parametrize("count", [2, 3, 4])
def test_templates_and_evaluate_agree_with_exact_arithmetic(count):
    rng = np.random.default_rng(0)
    sequences = list(itertools.product(range(4), repeat=count - 1))
    for row, shape in zip(templates(count), shapes(count), strict=True):
        leaves = rng.integers(1, 4, size=(count, len(sequences)))
        operations = np.array(sequences).T
        numerators, denominators = evaluate(shape, leaves, operations)
        for text, numbers, above, below in zip(row, leaves.T, numerators, denominators, strict=True):
            expression = parse(text % tuple(numbers))
            assert expression is not None
            assert expression.numbers == numbers.tolist()
            assert expression.value == (Fraction(int(above), int(below)) if below else None)


def test_division_by_zero_stays_visible_through_another_division():
    # 5 + 1 / (1 / (1 - 1)) has no value, although the rule for fractions would make it 5 + 0 / 1.
    shape = (None, (None, (None, (None, None))))
    leaves, operations = np.array([[5], [1], [1], [1], [1]]), np.array([[0], [3], [3], [1]])
    numerators, denominators = evaluate(shape, leaves, operations)
    assert numerators.tolist() == denominators.tolist() == [0]


def test_no_needless_parentheses():
    for text in itertools.chain.from_iterable(templates(4)):
        for opening, closing in itertools.combinations(range(len(text)), 2):
            if text[opening] == "(" and text[closing] == ")":
                shorter = text[:opening] + text[opening + 1 : closing] + text[closing + 1 :]
                if parse(shorter.replace("%d", "2")) is None:
                    continue
                values = [parse(t % (101, 53, 29, 17)) for t in (text, shorter)]
                assert values[0] != values[1], (text, shorter)


def test_order_of_numbers_in_the_prompt_is_uniform():
    rng = np.random.default_rng(0)
    found = itertools.islice(instances(rng, 2, Space(99, 999, False)), 4000)
    ascending = [a < b for (a, b), _, _ in found if a != b]
    assert abs(sum(ascending) - len(ascending) / 2) < 5 * math.sqrt(len(ascending) / 4)


# Tests of the evaluation split.


@given(st.lists(st.integers(1, 99), min_size=2, max_size=6), st.integers(1, 999), st.randoms())
@settings(derandomize=True, deadline=None)
def test_the_order_of_numbers_does_not_affect_the_split(numbers, target, order):
    shuffled = list(numbers)
    order.shuffle(shuffled)
    assert countdown.is_held_out(numbers, target) == countdown.is_held_out(shuffled, target)


def test_the_split_is_frozen():
    # A change of these values would move evaluation prompts of older runs into training.
    sides = [countdown.is_held_out((3, 5, 7), target) for target in range(1, 100)]
    assert [target for target, side in enumerate(sides, 1) if side] == [
        *(1, 6, 8, 11, 25, 30, 33, 34, 37, 46, 54, 61, 75, 77, 89, 96)
    ]


def test_the_split_takes_one_in_eight_of_every_target_and_count():
    for count in (2, 3, 4):
        numbers = np.random.default_rng(count).integers(1, 100, size=(40_000, count))
        targets = np.arange(40_000) % 99 + 1
        sides = held_out_mask(numbers, targets)
        assert abs(sides.mean() - 1 / 8) < 5 * math.sqrt(1 / 8 * 7 / 8 / 40_000)
        by_target = np.bincount(targets, sides)[1:] / np.bincount(targets)[1:]
        assert np.abs(by_target - 1 / 8).max() < 5 * math.sqrt(1 / 8 * 7 / 8 / 404)
