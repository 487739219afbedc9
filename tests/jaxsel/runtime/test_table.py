"""Tests of `PromptSelector.table`, which gives other programs what the selector knows about every prompt."""

import numpy as np
import pytest
from scipy import stats

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime.table import interval

KEYS = [f"prompt {row}" for row in range(6)]


@pytest.fixture
def selector():
    selector = PromptSelector(jaxsel.mopps(decay=1.0), keys=KEYS)
    selector.observe([0, 1], [8, 2], 8)
    selector.observe([1, 3], [1, 0], [8, 0])  # prompt 3 has no rollouts
    selector.observe([2], [4], 8, step=7)  # counts too, although step 7 has not ended
    return selector


def test_columns_hold_visits_and_predictions(selector):
    table = selector.table(KEYS)
    assert table["key"].tolist() == KEYS
    assert table["visits"].tolist() == [1, 2, 1, 0, 0, 0]
    assert table["last_visit"].tolist() == [0, 1, 2, -1, -1, -1]
    prediction = selector.predict()
    np.testing.assert_array_equal(table["success_rate"], prediction.success_rate)
    np.testing.assert_array_equal(table["mixed"], prediction.mixed)
    assert "key" not in selector.table()


def test_the_interval_of_mopps_is_that_of_its_posterior(selector):
    table = selector.table(level=0.8)
    exact = stats.beta([9, 4, 5, 1, 1, 1], [1, 14, 5, 1, 1, 1])
    for name, quantile in (("lower", 0.1), ("upper", 0.9)):
        np.testing.assert_allclose(table[name], exact.ppf(quantile), rtol=1e-4)


def test_intervals_exist_for_every_mean_and_variance():
    mean = np.array([0, 1, 0.5, 0.5, 0.5, 1e-9, 0.3], np.float32)
    variance = np.array([0, 0, 0.25, 0, 0.3, 1e-12, np.float32(0.21)], np.float32)
    lower, upper = interval(mean, variance, 0.9)
    assert np.isfinite([lower, upper]).all()
    assert (lower <= upper).all()
    assert ((lower >= 0) & (upper <= 1)).all()


def test_last_visits_survive_a_checkpoint_and_a_changed_pool(selector, tmp_path):
    selector.save(tmp_path)
    loaded = PromptSelector.load(tmp_path)
    for name, column in selector.table().items():
        np.testing.assert_array_equal(loaded.table()[name], column)
    loaded.observe([5], [1], 8)
    assert loaded.table()["last_visit"].tolist() == [0, 1, 2, -1, -1, 3]
    changed = loaded.with_pool(["new", *KEYS[::-1]])
    assert changed.table()["last_visit"].tolist() == [-1, 3, -1, -1, 2, 1, 0]


def test_bad_arguments_are_named(selector):
    with pytest.raises(ValueError, match="keys are not those of this selector's pool"):
        selector.table(KEYS[::-1])
    with pytest.raises(ValueError, match="level is 1; give a number above 0"):
        selector.table(level=1)


def test_pandas_and_arrow_take_the_columns(selector):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(selector.table(KEYS))
    assert table.num_rows == 6
    assert table.column("key").to_pylist() == KEYS
