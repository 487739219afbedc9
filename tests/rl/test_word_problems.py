"""The generator of word problems: its solutions, its training and held-out problems, and its verifier."""

import itertools
import re

import pytest

from rl.tasks import word_problems
from rl.tasks.data_config import DataConfig

PLAIN = word_problems.make(DataConfig(template="{prompt}", held_out_share=0.25))
FORWARD = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


def test_solutions_calculate_correctly_with_numbers_of_the_story_and_pass_the_verifier():
    for shown in itertools.islice(PLAIN.demonstrations(0), 500):
        *lines, last = shown.completion.split("\n")
        known = set(map(int, re.findall(r"\d+", str(shown.prompt))))
        for line in lines:
            left, sign, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", line).groups()  # type: ignore[union-attr]
            assert FORWARD[sign](int(left), int(right)) == int(result) > 0
            assert sign != "/" or int(left) % int(right) == 0
            assert {int(left), int(right)} <= known, f"{line} in {shown.prompt}"
            known.add(int(result))
        answer = int(lines[-1].partition("=")[2])
        assert last == f"#### {answer}"
        assert word_problems.verify(shown.completion, {"answer": answer}) == (True, 1.0)
        assert not word_problems.verify(shown.completion, {"answer": answer + 1}).success


def test_a_stratum_is_the_number_of_steps_and_the_size_of_the_numbers():
    pool = PLAIN.pool(900, 0)
    strata = list(pool.strata or ())
    counts = {stratum: strata.count(stratum) for stratum in strata}
    assert len(counts) == 9
    # Nine strata are equally likely, except that repeated problems, most of them small, are dropped. The bound is six
    # standard errors.
    assert all(abs(count - 100) < 6 * (900 * 8 / 81) ** 0.5 for count in counts.values())
    largest = {"small": 9, "medium": 20, "large": 60}
    for text, stratum in zip(pool.texts, strata, strict=True):
        steps, _, size, _ = stratum.replace(",", "").split()
        numbers = list(map(int, re.findall(r"\d+", text)))
        assert max(numbers) <= largest[size] + 1
        assert len(numbers) == int(steps) + 1


def test_training_and_held_out_problems_never_meet_and_repeat():
    held_out = PLAIN.held_out(300)
    assert list(PLAIN.held_out(300).texts) == list(held_out.texts)
    pools = [PLAIN.pool(300, seed) for seed in (0, 1)]
    shown = {str(one.prompt) for one in itertools.islice(PLAIN.demonstrations(0), 300)}
    assert set(held_out.texts).isdisjoint(shown.union(*(pool.texts for pool in pools)))
    assert list(PLAIN.pool(300, 0).texts) == list(pools[0].texts) != list(pools[1].texts)
    assert list(PLAIN.pool(100, 0).texts) == list(pools[0].texts)[:100]


def test_the_template_asks_for_the_form_that_the_verifier_reads():
    task = word_problems.make()
    assert task.pool(1, 0).texts[0].endswith('end with a line of "#### " and the answer.')
    assert next(task.demonstrations(0)).prompt.endswith("and the answer.")


@pytest.mark.parametrize(
    ("completion", "solved"),
    [
        ("#### 24", True),
        ("4*6=24\n#### 24", True),
        ("#### 24 apples", True),
        ("#### 1\n#### 24", True),
        ("#### 24\n25", True),
        ("#### $24", True),
        ("#### 24.0", True),
        ("#### **24**", True),
        *(
            (f"#### {text}", False)
            for text in ("2,4", "24/2", "24e1", "24-5", "24 or 25", "24%", "24.0000000000000000001")
        ),
        ("Mia has 24.", True),
        ("4*6=24", True),
        ("30-6", False),
        ("24\n####", False),
        ("#### 24\n#### 25", False),
        ("#### -24", False),
        ("24, not 25", False),
        ("twenty-four", False),
        ("", False),
    ],
)
def test_the_verifier_reads_the_last_marked_number_or_else_the_last_number(completion, solved):
    assert word_problems.verify(completion, {"answer": 24}) == (solved, float(solved))
    assert word_problems.verify(completion.replace("24", "1,024"), {"answer": 1024}).success is solved


@pytest.mark.parametrize("num_prompts", [0, -1, 10**6 + 1])
def test_a_pool_has_a_possible_size(num_prompts):
    with pytest.raises(ValueError, match=f"num_prompts is {num_prompts}; give an integer from 1 to 1000000"):
        PLAIN.pool(num_prompts, 0)


@pytest.mark.parametrize("share", [1e-9, 0.999999])
def test_a_share_that_leaves_almost_nothing_on_one_side_is_refused(share):
    with pytest.raises(ValueError, match=f"held_out_share is {share} with the task word_problems, .* 0.001 to 0.999"):
        word_problems.make(DataConfig(held_out_share=share))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_small_and_large_shares_leave_problems_on_both_sides(share):
    task = word_problems.make(DataConfig(held_out_share=share))
    shown = {one.prompt for one in itertools.islice(task.demonstrations(0), 5)}
    assert len({*task.pool(5, 0).texts}) == len({*task.held_out(5).texts}) == len(shown) == 5


@pytest.mark.parametrize("given", [{"held_out": "a.json"}, {"answer": "Answer"}, {"merge": True}, {"stratum": "kind"}])
def test_settings_that_the_task_ignores_are_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=rf"data\.{name} is .* with the task word_problems, which has no such setting"):
        word_problems.make(DataConfig(**given))
