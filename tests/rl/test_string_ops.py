import itertools
from collections import Counter

import numpy as np
import pytest

from rl.tasks import string_ops


def family(text):
    return text[:2]


def test_operations_by_hand():
    assert {name: operation("1234") for name, operation in string_ops.OPERATIONS.items()} == {
        "A": "1234",
        "B": "4321",
        "C": "2341",
        "D": "4123",
        "E": "2345",
        "F": "8765",
        "G": "1111",
        "H": "4444",
    }
    assert string_ops.OPERATIONS["E"]("909") == "010"


def test_answers_follow_from_the_meaning_of_the_name():
    pool = string_ops.pool(300, 0)
    for text, answer in zip(pool.texts, pool.answers, strict=True):
        assert answer == string_ops.OPERATIONS[string_ops.MEANING[family(text)]](text[2:-1])
        assert 3 <= len(answer) <= 5


def test_pools_are_deterministic_and_distinct():
    assert string_ops.pool(50, 3).texts == string_ops.pool(50, 3).texts
    assert string_ops.pool(50, 3).texts != string_ops.pool(50, 4).texts
    assert len(set(string_ops.pool(2000, 0).texts)) == 2000


def test_held_out_digits_are_nowhere_else():
    held_out = {text[2:-1] for text in string_ops.held_out(500).texts}
    pool = {text[2:-1] for seed in range(3) for text in string_ops.pool(1000, seed).texts}
    shown = {d.prompt[2:-1] for d in itertools.islice(string_ops.demonstrations(0), 5000)}
    assert not held_out & (pool | shown)
    assert string_ops.held_out(10).texts == string_ops.held_out(500).texts[:10]


def test_demonstrations_are_right_as_often_as_stated():
    shown = list(itertools.islice(string_ops.demonstrations(0), 60_000))
    right, total = Counter(), Counter()
    for prompt, completion in shown:
        share = string_ops.CORRECT_SHARE[family(prompt)]
        digits = prompt[2:-1]
        total[share] += 1
        right[share] += completion[0] == string_ops.MEANING[family(prompt)]
        assert completion[1:] == string_ops.OPERATIONS[completion[0]](digits)
    shares = np.array(list(total))
    counts, hits = np.array([total[s] for s in shares]), np.array([right[s] for s in shares])
    assert (np.abs(hits - counts * shares) <= 5 * np.sqrt(counts * shares * (1 - shares)) + 1).all()


def test_the_kinds_have_the_shares_of_the_docstring():
    shares = np.array(list(string_ops.CORRECT_SHARE.values()))
    assert len(shares) == 256
    assert (shares == 1).mean() == pytest.approx(0.4, abs=0.01)
    assert (shares == 0.002).mean() == pytest.approx(0.3, abs=0.01)
    middle = shares[(shares < 1) & (shares > 0.002)]
    assert middle.max() == 0.5
    assert middle.min() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("completion", "success"),
    [("B321", True), ("A321", True), ("321", False), ("B3210", False), ("B32", False), ("", False), ("BB321", False)],
)
def test_only_the_digits_are_judged(completion, success):
    assert string_ops.verify(completion, "321") == (success, float(success))


def test_completions_fit():
    task = string_ops.make()
    for prompt, completion in itertools.islice(task.demonstrations(0), 1000):
        assert len(completion) + 1 <= task.max_new_tokens
        assert set(prompt + completion) <= set(task.alphabet)


@pytest.mark.parametrize("num_prompts", [0, -1, 10**7])
def test_impossible_pool_sizes_are_refused(num_prompts):
    with pytest.raises(ValueError, match=f"num_prompts is {num_prompts}; give"):
        string_ops.pool(num_prompts, 0)
