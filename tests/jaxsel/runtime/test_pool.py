"""The fingerprint of a pool is the same for the same keys in any container, differs for other keys, and is cheap."""

import hashlib
import re
import tracemalloc
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jaxsel.runtime.pool import identify_pool, size_of

pytestmark = pytest.mark.usefixtures("unchecked_types")  # users run without the type checker
WORDS = ["a", "b", "é☃"]


def name(keys):
    return identify_pool(keys, None).fingerprint


@pytest.mark.parametrize(
    ("keys", "hashed"),
    [
        (WORDS, "a\0b\0é☃".encode()),
        (["x"], b"x"),
        ([str(i) for i in range(3000)], "\0".join(map(str, range(3000))).encode()),
        (["", "a"], b"\0a"),
        ([3, -1, 2], np.array([3, -1, 2], np.int64).tobytes()),
        (list(range(3000)), np.arange(3000, dtype=np.int64).tobytes()),
        ([2**63 - 1, -(2**63)], np.array([2**63 - 1, -(2**63)]).tobytes()),
    ],
)
def test_fingerprints_equal_those_of_earlier_versions(keys, hashed):
    assert identify_pool(keys, None)[:2] == (
        len(keys),
        f"{len(keys)} prompts, sha256:{hashlib.sha256(hashed).hexdigest()[:16]}",
    )


@pytest.mark.parametrize(
    "keys",
    [
        tuple(WORDS),
        np.array(WORDS),
        np.array(WORDS, object),
        np.array(WORDS, np.dtypes.StringDType()),
        [np.str_(word) for word in WORDS],
        pd.Series(WORDS),
        pd.Series(WORDS, dtype=object),
        pd.Index(WORDS),
        pa.array(WORDS),
        pa.chunked_array([WORDS[:1], WORDS[1:]]),
    ],
)
def test_strings_have_one_fingerprint_in_any_container(keys):
    assert name(keys) == name(WORDS)


@pytest.mark.parametrize(
    "keys",
    [
        range(5, 8),
        [np.int32(5), 6, np.uint64(7)],
        np.array([5, 6, 7], np.uint8),
        np.array([5, 6, 7], np.uint64),
        pd.Series([5, 6, 7], dtype="Int64"),
        pa.array([5, 6, 7]),
    ],
)
def test_integers_have_one_fingerprint_in_any_container(keys):
    assert name(keys) == name([5, 6, 7])


def test_distinct_keys_have_distinct_fingerprints():
    pools = [["a\0b", "c"], ["a", "b\0c"], ["a\0", "b"], ["a", "\0b"], ["a\ud83d", "b"], ["a\ud83e", "b"]]
    pools += [["1", "2"], [1, 2], [2**63, 1], [-(2**63), 1], [2**64 + 1, 1 + 2**65], [2**65 + 1, 1 + 2**64]]
    pools += [[-1, 0], [2**64 - 1, 0], ["5", "3"], ["3", "5"]]
    assert len({name(pool) for pool in pools}) == len(pools)
    assert name(np.array([2**63, 1], np.uint64)) == name([2**63, 1])


NAN, MANY = float("nan"), [str(i) for i in range(3000)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            [1, "1"],
            r"keys\[1\] is '1' of type str where keys\[0\] is of type int; give a vector of strings or integers",
        ),
        (["a", 2], r"keys\[1\] is 2 of type int where keys\[0\] is of type str"),
        ([*MANY, None], r"keys\[3000\] is None of type NoneType"),
        (["a", NAN], r"keys\[1\] is nan of type float"),
        ([1, NAN], r"keys\[1\] is nan of type float"),
        ([1.0, 2.0], r"keys\[0\] is 1\.0 of type float"),
        ([True, 2], r"keys\[0\] is True of type bool"),
        ([2, np.True_], r"keys\[1\] is np.True_ of type bool"),
        ([b"a", b"b"], r"keys\[0\] is b'a' of type bytes"),
        ([uuid.UUID(int=7)], r"keys\[0\] is UUID\(.*\) of type UUID"),
        ([("a", 1), ("b", 2)], r"keys\[0\] is \('a', 1\) of type tuple"),
        (pd.Series(["a", None]), r"keys\[1\] is (nan|None) of type"),
        (pd.Series([1, None], dtype="Int64"), r"keys has shape .* type float64; give a vector"),
        (pa.array(["a", None]), r"keys\[1\] is None of type NoneType"),
        (np.array([1.5]), r"keys has shape \(1,\) and type float64; give a vector of strings or integers"),
        (np.array([[1, 2]]), r"keys has shape \(1, 2\) and type int64"),
        (np.array(3), r"keys has shape \(\) and type int64"),
        (np.array([b"a"]), r"type \|S1"),
        (np.ma.masked_equal([1, 2, 3], 3), "keys has masked entries, of which nothing is known"),
        ("abc", r"keys has shape \(\) and type str; give a vector"),
        (b"abc", "and type bytes; give"),
        ({"a": 1}, "and type dict; give"),
        ({"a", "b"}, "and type set; give"),
        ((word for word in "ab"), "and type generator; give"),
        (7, "and type int; give"),
        ([], r"keys has shape \(0,\); give one key for each prompt"),
        (["a", "b", "a"], r"keys holds the entry 'a' 2 times; give distinct entries \(see the rows 0, 2\)"),
        ([5, 6, 6, 6], r"keys holds the entry 6 3 times; give distinct entries \(see the rows 1, 2\)"),
        (np.array([5, 6, 6]), r"keys holds the entry 6 2 times"),
        (["x" * 500, "x" * 500], r"keys holds the entry 'x{59}\.\.\. 2 times"),
    ],
)
def test_keys_that_are_no_vector_of_distinct_entries_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        name(keys)


@pytest.mark.parametrize("keys", [WORDS, [1, 2], [2**70], ["a\0"]])
def test_a_fingerprint_holds_the_size(keys):
    assert size_of(name(keys)) == len(keys)
    assert size_of(identify_pool(None, 12).fingerprint) == 12


@pytest.mark.parametrize("text", ["", "prompts", "-3 prompts", "x prompts", "3", "²3 prompts"])
def test_texts_other_than_fingerprints_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"pool is {text!r}")):
        size_of(text)


def test_one_long_key_takes_no_memory_for_the_others():
    keys = [f"prompt {i} " + "x" * 100 for i in range(10_000)] + ["y" * 100_000]
    tracemalloc.start()
    try:
        name(keys)
        assert tracemalloc.get_traced_memory()[1] < 4e6  # 1.2 MB of text; rows padded to the longest key take 4 GB
    finally:
        tracemalloc.stop()
