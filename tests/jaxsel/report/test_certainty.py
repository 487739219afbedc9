"""What is called clear, right or beyond doubt: against simulations of predictions that are right."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from jaxsel.report.cells import scored
from jaxsel.report.certainty import by_chance, error_by_chance, interval, is_clear, is_known, lies_within, t_quantile
from jaxsel.report.gaps import right_places
from jaxsel.report.judgement import judged, sampled
from jaxsel.report.rows import Rows
from jaxsel.report.verdict import grade
from tests.support import reports


def _rows(p, outcomes, ids=None):
    p = np.asarray(p, np.float32)
    number = len(p)
    rest, zero = (1 - p) / 2, np.zeros(number, int)
    rate = np.full(number, 0.5, np.float32)
    fields: list[Any] = [rate, np.full(number, 0.05, np.float32), rate, rest, p, rest]
    prediction = reports.Prediction(*fields)
    ids = np.arange(number) if ids is None else ids
    return Rows(prediction, zero, ids, np.where(outcomes, 4, 8), np.full(number, 8), zero, zero - 1)


def _clear(p, outcomes):
    error, prompts = sampled(p - outcomes, np.arange(len(p)))
    said = float(p.mean())
    gap = said - outcomes.mean()
    return is_clear(gap, error, least=0.05, expected=said, groups=len(p), prompts=prompts)


@pytest.mark.parametrize(("rate", "number"), [(0.8, 3), (0.1, 20), (0.5, 8), (None, 8), (0.9, 40), (0.03, 100)])
def test_a_right_method_hardly_ever_has_a_clear_gap(rate, number):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        p = rng.uniform(size=number) if rate is None else np.full(number, rate)
        found.append(_clear(p, rng.uniform(size=number) < p))
    assert np.mean(found) <= 0.01
    wrong = np.full(400, 0.2)
    assert _clear(wrong, rng.uniform(size=400) < 0.4)


@pytest.mark.parametrize("number", [1, 3, 8, 40])
def test_a_right_method_is_hardly_ever_called_wrong(number):
    rng = np.random.default_rng(1)
    bins = (np.arange(10) + 0.5) / 10
    found = []
    for _ in range(300):
        groups = rng.multinomial(number, np.full(10, 0.1)).astype(float)
        error = np.abs(rng.binomial(groups.astype(int), bins) - groups * bins).sum() / number
        found.append(error_by_chance(error, bins, groups) < 0.003)
    assert np.mean(found) <= 0.01
    many = np.full(10, 100.0)
    assert error_by_chance(0.2, bins, many) < 0.003


@pytest.mark.parametrize(("p", "outcome"), [(0.001, 0), (0.05, 0), (0.0, 0), (0.95, 1), (0.8, 0), (0.095, 1)])
def test_a_single_group_tells_nothing(p, outcome):
    rows = _rows([p], [outcome])
    one = judged(rows, scored(rows), scored(rows))
    assert grade(one) == "unknown"
    assert right_places(one) == "nowhere right for sure, with so few groups"


def test_many_groups_tell_whether_a_method_is_right():
    rng = np.random.default_rng(2)
    p = np.repeat([0.15, 0.55], 2000)
    for shift, said in ((0, "yes"), (0.3, "no")):
        rows = _rows(p, rng.uniform(size=4000) < p + shift)
        one = judged(rows, scored(rows), scored(rows))
        assert grade(one) == said
        assert right_places(one) == ("nowhere right" if shift else "right where it says 10 to 20% and 50 to 60%")


def test_a_binomial_test_is_exact():
    assert by_chance(20, 0.3, 0.1) == pytest.approx(2 * stats.binom.cdf(2, 20, 0.3))
    assert by_chance(20, 0.3, 0.6) == pytest.approx(2 * stats.binom.sf(11, 20, 0.3))
    assert by_chance(3, 0.8, 0.0) == pytest.approx(2 * 0.2**3)
    assert by_chance(5, 0.4, 0.4) == 1
    assert by_chance(20, 0.9, 0.83) == by_chance(20, 0.9, 0.85)  # parts of groups favour the prediction
    assert by_chance(4, 0.0, 0.5) < 1e-9 < 1 == by_chance(4, 0.0, 0.0)
    by_hand = stats.binomtest(7, 50).proportion_ci(method="wilson")
    low, high = interval(np.array([7 / 50]), np.array([50.0]))
    assert (low[0], high[0]) == pytest.approx((by_hand.low, by_hand.high), abs=1e-4)
    within = lies_within(np.array([0.5, 0.5, np.nan]), np.array([0.5, 0.5, np.nan]), np.array([400, 300, 0.0]), 0.05)
    assert within.tolist() == [True, False, False]


def test_few_prompts_need_larger_differences():
    assert t_quantile(2, 10**6) == pytest.approx(2, rel=1e-4)
    assert t_quantile(2, 10) == pytest.approx(stats.t.isf(stats.norm.sf(2), 9))
    assert t_quantile(5, 11) == pytest.approx(stats.t.isf(stats.norm.sf(5), 10))
    assert t_quantile(2, 1) == np.inf
    assert is_known(0.1, 0.01)
    assert not is_known(0.1, 0.0)
    assert not is_known(0.1, 1e-8)  # rounding
    assert not is_known(0.1, np.nan)


def test_errors_of_a_mean_count_prompts():
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(50), 4)
    values = np.repeat(rng.normal(size=50), 4)
    error, number = sampled(values, prompts + 7)
    assert number == 50
    assert error == pytest.approx(values[::4].std(ddof=1) / 50**0.5)
    assert np.isnan(sampled(values[:4], prompts[:4]).error)
