import math

import pytest

from rl.prompts import Verdict
from rl.verification import Verifier
from rl.verifiers import VERIFIERS, RowAnswer, check_of, find_verifier, wanted_columns, with_columns
from tests.support import verifiers

USERS = "tests.support.verifiers"


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_registered_verifier_takes_completion_and_answer_alone(name):
    assert wanted_columns(find_verifier(name)).needed == ()


def test_exact_ignores_spaces_around_and_nothing_else():
    verify = find_verifier("exact")
    assert verify(" 7 8\n", "7 8")
    assert verify("7", 7)
    assert not verify("78", "7 8")
    assert not verify("", "0")


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        (["72", "72.0"], 72.0),
        (["-3"], -3.0),
        (["0.5"], 0.5),
        (["10000000000000000", "1e+16"], 1e16),
        (["inf"], math.inf),
        (["72"], ["72"]),
        (["72"], [[72.0]]),
        (["true", "True"], True),
        (["[72]"], "[72]"),
        (["72.0"], "72.0"),
    ],
)
def test_exact_reads_answers_that_are_not_text(right, answer):
    verify = find_verifier("exact")
    assert [text for text in [*right, "7", "TRUE", "72.00"] if verify(text, answer)] == right


@pytest.mark.parametrize("answer", [["1", "2"], [], {"value": "1"}, [{"value": "1"}], None, [None], [""], [[" "]]])
def test_exact_refuses_answers_of_none_or_several_parts(answer):
    check = check_of("exact")
    assert check is not None
    with pytest.raises(ValueError, match=r"the reference answer is .*; give one text or number, or your own verifier"):
        check(answer)


@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize(("name", "reward"), [("boolean", 1.0), ("number", 1.0), ("verdict", 0.5)])
def test_a_function_by_its_module_may_return_a_boolean_a_number_or_a_verdict(name, reward, own_process):
    with Verifier(find_verifier(f"{USERS}:{name}"), timeout=10.0, own_process=own_process) as verifier:
        right, wrong = verifier(["1", "2"], ["1", "1"], ["a", "b"])
    assert right == Verdict(True, reward)
    assert wrong is not None
    assert not wrong.success


def test_a_function_with_columns_runs_in_its_own_process_too():
    verify = with_columns(verifiers.with_unit)
    with Verifier(verify, timeout=10.0, own_process=True) as verifier:
        answers = [RowAnswer("3", {"unit": "m"}), RowAnswer("3", {"unit": "cm", "sign": "-"})]
        found = verifier(["3 m", "3 m"], answers, ["a", "b"])
    assert found == [Verdict(True, 1.0), Verdict(False, 0.0)]


@pytest.mark.parametrize(
    ("verify", "names", "needed"),
    [
        (verifiers.boolean, (), ()),
        (verifiers.with_unit, ("unit", "sign"), ("unit",)),
        (verifiers.with_all, None, ()),
        (verifiers.with_keyword, ("answer",), ("answer",)),
        (lambda *arguments, level: True, ("level",), ("level",)),
    ],
)
def test_the_parameters_of_a_function_name_the_columns_that_it_takes(verify, names, needed):
    assert wanted_columns(verify)[:2] == (names, needed)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "verifier is ''"),
        ("maths", "verifier is 'maths'"),
        ("no.such.module:verify", "cannot be imported"),
        (f"{USERS}:missing", "cannot be imported"),
        (f"{USERS}:", "verifier is"),
        (":verify", "verifier is"),
        (f"{USERS}:not_a_function", "is of type int, no function"),
    ],
)
def test_a_verifier_that_is_not_there_is_refused_with_the_cure(name, reason):
    with pytest.raises(ValueError, match=f"{reason}.*; give one of exact, .* or module:function"):
        find_verifier(name)


def test_a_function_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="of_one, which does not take a completion and an answer; give one of"):
        wanted_columns(verifiers.of_one)


@pytest.mark.parametrize("verify", [lambda answer, completion: True, lambda text, gold, completion: True])
def test_a_function_whose_arguments_have_another_order_is_refused(verify):
    with pytest.raises(ValueError, match="let completion be the first argument, then answer"):
        wanted_columns(verify)
