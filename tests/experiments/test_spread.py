import math

import pytest

from experiments.reporting.spread import over_seeds, shown


def test_mean_and_standard_error():
    assert over_seeds([1.0, 2.0, 6.0]) == {"mean": 3.0, "standard_error": pytest.approx(math.sqrt(7 / 3))}


def test_one_seed_has_no_standard_error():
    found = over_seeds([2.0])
    assert found["mean"] == 2
    assert math.isnan(found["standard_error"])


def test_nested_dictionaries_are_summarised():
    found = over_seeds([{"a": {1: x}, "b": 2 * x} for x in (1.0, 3.0)])
    assert found == {"a": {1: over_seeds([1.0, 3.0])}, "b": over_seeds([2.0, 6.0])}


def test_numbers_are_shown_with_their_errors():
    assert shown({"mean": 0.12345, "standard_error": 0.01}) == "0.123 (0.010)"
    assert shown({"mean": 12345.67, "standard_error": 1234.5}, digits=1) == "12,345.7 (1,234.5)"
    assert shown(over_seeds([2.0]), digits=0) == "2"
    assert shown(over_seeds([math.nan, 1.0])) == "-"
    assert shown(over_seeds([math.inf, 1.0])) == "never"
