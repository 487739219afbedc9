"""Features of prompts from their strata."""

import json
import tracemalloc

import numpy as np
import pytest

import jaxsel
from rl.prompts.features import features_of


def test_numbers_of_a_difficulty_are_standardised_over_the_prompts():
    terms, digits = np.array([2, 2, 3, 6, 2]), np.array([1.0, 3.0, 1.0, 2.5, 9.0])
    strata = [json.dumps({"terms": int(t), "digits": d, "same": 7}) for t, d in zip(terms, digits, strict=True)]
    found = features_of(strata)
    wanted = [(column - column.mean()) / column.std() for column in (digits, terms)]  # by name; "same" has no variance
    np.testing.assert_allclose(found, np.stack(wanted, 1), rtol=1e-6)
    assert found.dtype == np.float32


def test_other_values_have_a_column_each():
    found = features_of(["geometry", "algebra", "algebra", "true", "[1]"])
    assert found.shape == (5, 4)
    np.testing.assert_array_equal(found[1], found[2])
    assert len(np.unique(found, axis=0)) == 4
    np.testing.assert_allclose((found.mean(0), found.std(0)), [[0] * 4, [1] * 4], atol=1e-6)


@pytest.mark.parametrize("odd", ["1" + "0" * 400, "1e200", "Infinity", "NaN", "[" * 100_000])
def test_values_beyond_all_numbers_are_kinds(odd):
    nested = "{" + f'"size": {odd}' + "}"
    for strata in ([odd, odd, "2", "2"], [nested, nested, '{"size": 2}', '{"size": 2}']):
        found = features_of(strata)
        assert np.isfinite(found).all()
        assert (np.abs(found) == 1).all()
        np.testing.assert_array_equal(found[0], -found[2])


def test_a_number_that_is_missing_counts_as_the_mean():
    found = features_of(['{"a": 1}', '{"a": 3}', '{"b": 1}', '{"b": NaN}'])
    np.testing.assert_allclose(found[:, 0], [-(2**0.5), 2**0.5, 0, 0], rtol=1e-6)
    assert found.shape == (4, 4)  # the values of b are no numbers: 1, nan and none
    np.testing.assert_allclose(features_of(["2", "4"]), [[-1], [1]])


def test_a_field_without_values_gives_no_column():
    found = features_of(['{"a": null, "b": 1}', '{"a": null, "b": 3}', '{"b": 2}'])
    np.testing.assert_allclose(found[:, 0], np.array([-1, 1, 0]) * 1.5**0.5, rtol=1e-6)
    assert found.shape == (3, 1)


def test_strata_that_tell_nothing_are_refused():
    for strata in (['{"terms": 2}'] * 3, ["{}", '{"terms": 2}'], ['{"terms": null}'] * 2):
        with pytest.raises(
            ValueError, match=r"strata, such as .*, have no number and no kind that differs; they tell no"
        ):
            features_of(strata)
    with pytest.raises(ValueError, match=r"strata have 300 distinct values '', such as 'p0'; give numbers, or at most"):
        features_of([f"p{i}" for i in range(300)])


def test_one_long_text_among_many_takes_its_own_memory_alone():
    """An array of texts would take 4 bytes times the longest text for each, here 1 GB."""
    strata = [*(json.dumps({"terms": i}) for i in range(5_000)), '{"terms": 1' + " " * 50_000 + "}"]
    for used in (features_of, lambda texts: jaxsel.stratified(jaxsel.top_k(), texts)):
        tracemalloc.start()
        used(strata)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50e6


def test_a_large_pool_takes_memory_for_its_distinct_strata_alone():
    found = features_of([json.dumps({"terms": i % 5}) for i in range(100_000)])
    assert found.shape == (100_000, 1)
    assert len(np.unique(found)) == 5
