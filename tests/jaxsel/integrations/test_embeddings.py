import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsel.integrations import embeddings as module
from jaxsel.integrations._embedding_files import key_of
from jaxsel.integrations.embeddings import Embedder, concatenated, embed, sentence_transformers
from rl.tasks import countdown

if importlib.util.find_spec("wordllama") is None:
    pytest.skip("needs the extra embeddings", allow_module_level=True)

ROOT = Path(__file__).parents[3]
TEXTS = ["one", "three", "", "one", "fifteen", " "]


def lengths(texts):
    return np.array([[len(text), 1.0, len(text) ** 2] for text in texts], np.float32)


class Counted:
    """The embedder `lengths`, which also records the batches of texts that it gets."""

    def __init__(self):
        self.batches = []

    def __call__(self, texts):
        self.batches.append(list(texts))
        return lengths(texts)


@pytest.fixture
def counted():
    return Counted()


def wordllama(texts, **options):
    return embed(texts, cache=None, progress=False, **options)


def distances(vectors):
    return np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)


# Tests with any embedder, which is a function from texts to vectors.


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1024])
def test_every_text_has_a_row_and_equal_texts_are_embedded_once(counted, batch_size):
    vectors = embed(TEXTS, embedder=counted, batch_size=batch_size, progress=False)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, lengths(TEXTS))
    asked = [text for batch in counted.batches for text in batch]
    assert asked == ["one", "three", "", "fifteen", " "]
    assert max(map(len, counted.batches)) <= batch_size


@pytest.mark.parametrize("texts", [tuple(TEXTS), np.array(TEXTS)], ids=["tuple", "array"])
def test_texts_may_come_as_any_sequence(counted, texts):
    np.testing.assert_array_equal(embed(texts, embedder=counted, progress=False), lengths(TEXTS))


def test_the_progress_bar_can_be_switched_off(capsys):
    def slow(texts):
        time.sleep(0.001)
        return lengths(texts)

    embed(TEXTS, embedder=lengths, batch_size=2, progress=False)
    assert capsys.readouterr().err == ""
    embed(TEXTS, embedder=lengths, batch_size=2)
    assert "3/3" in capsys.readouterr().err
    embed([str(i) for i in range(600)], embedder=slow, batch_size=1)
    assert capsys.readouterr().err.count("\r") <= 3  # a log: the start and the end


def test_float16_takes_half_the_bytes():
    vectors = embed(TEXTS, embedder=lengths, dtype="float16", progress=False)
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, lengths(TEXTS))


# Tests of the cache, a folder of files, each with an embedder's vectors of one list of texts.


@pytest.fixture
def cached(tmp_path, counted):
    """Return a function that embeds through the cache in `tmp_path`."""

    def call(texts=TEXTS, *, name="lengths 1", **options):
        return embed(texts, embedder=Embedder(name, counted), progress=False, **{"cache": tmp_path, **options})

    return call


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_call_reads_the_cache(cached, counted):
    first = cached()
    counted.batches.clear()
    second = cached(batch_size=3)
    assert counted.batches == []
    np.testing.assert_array_equal(first, lengths(TEXTS))
    np.testing.assert_array_equal(second, lengths(TEXTS))


def test_a_cached_array_is_a_read_only_view_of_its_file(cached, tmp_path):
    for vectors in (cached(), cached()):
        assert type(vectors) is np.ndarray
        assert isinstance(vectors.base, np.memmap)
        assert not vectors.flags.writeable
    (name,) = files(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / name), lengths(TEXTS))


def test_float16_on_disk(cached, tmp_path):
    texts = [str(i) for i in range(1000)]
    cached(texts, dtype="float16")
    (name,) = files(tmp_path)
    assert 6000 < (tmp_path / name).stat().st_size < 6300
    assert cached(texts, dtype="float16").dtype == np.float16
    assert cached(texts).dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        {"texts": TEXTS[:-1]},
        {"texts": [*TEXTS, ""]},
        {"texts": TEXTS[::-1]},
        {"texts": ["onet", "hree", *TEXTS[2:]]},
        {"name": "lengths 2"},
        {"dtype": "float16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_texts_another_embedder_or_type_get_another_file(cached, counted, tmp_path, change):
    cached()
    counted.batches.clear()
    np.testing.assert_array_equal(cached(**change), lengths(change.get("texts", TEXTS)))
    assert counted.batches
    assert len(files(tmp_path)) == 2


@given(st.lists(st.text("ab", max_size=3), max_size=4), st.lists(st.text("ab", max_size=3), max_size=4))
def test_keys_of_different_texts_differ(one, other):
    assert (key_of(one, "name", "float32") == key_of(other, "name", "float32")) == (one == other)


def spoil(content, how):
    half = len(content) // 2
    return {
        "empty": b"",
        "short": content[:10],
        "truncated": content[:-1],
        "no checksum": content[:-32],
        "half": content[:half],
        "one bit": content[: half - 1] + bytes([content[half - 1] ^ 1]) + content[half:],
        "header": b"x" + content[1:],
        "zeros": bytes(len(content)),
        "longer": content + b"0",
    }[how]


HOWS = ["empty", "short", "truncated", "no checksum", "half", "one bit", "header", "zeros", "longer"]


@pytest.mark.parametrize("how", HOWS)
def test_a_corrupt_file_is_computed_again(cached, counted, tmp_path, how):
    cached()
    (name,) = files(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(spoil(content, how))
    counted.batches.clear()
    np.testing.assert_array_equal(cached(), lengths(TEXTS))
    assert counted.batches
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == content


def test_a_file_that_holds_other_texts_is_computed_again(cached, tmp_path):
    cached()
    (name,) = files(tmp_path)
    cached(TEXTS[::-1])
    (other,) = set(files(tmp_path)) - {name}
    os.replace(tmp_path / other, tmp_path / name)
    np.testing.assert_array_equal(cached(), lengths(TEXTS))


@pytest.mark.parametrize(("owner", "function"), [(np, "save"), (os, "replace")])
def test_an_interrupted_write_leaves_no_file(cached, counted, tmp_path, monkeypatch, owner, function):
    def interrupt(path, *_):
        with open(path, "wb") as file:
            file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached()
    assert files(tmp_path) == []
    monkeypatch.undo()
    np.testing.assert_array_equal(cached(), lengths(TEXTS))
    assert len(counted.batches) == 2


def test_an_interrupted_write_keeps_the_earlier_file(cached, tmp_path, monkeypatch):
    cached()
    before = files(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("no space"))
    with pytest.raises(pytest.fail.Exception):
        cached(TEXTS[:2])
    assert files(tmp_path) == before


def test_vectors_that_cannot_be_cached_are_returned(cached, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="the embeddings are not cached in .*file .*; give cache= a folder"):
        found = cached(cache=tmp_path / "file")
    np.testing.assert_array_equal(found, lengths(TEXTS))
    assert files(tmp_path) == ["file"]


def test_an_embedder_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="returned shape"):
        embed(TEXTS, embedder=Embedder("bad", lambda texts: lengths(texts)[1:]), cache=tmp_path, progress=False)
    assert files(tmp_path) == []


def test_a_plain_function_is_not_cached(counted, tmp_path):
    for _ in range(2):
        embed(TEXTS, embedder=counted, cache=tmp_path, progress=False)
    assert len(counted.batches) == 2
    assert files(tmp_path) == []


def test_the_cache_can_be_turned_off(cached, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path))
    for _ in range(2):
        cached(cache=None)
    assert len(counted.batches) == 2
    assert files(tmp_path) == []


def test_the_default_folder(cached, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEL_CACHE", str(tmp_path / "new" / "folder"))
    for _ in range(2):
        cached(cache="default")
    assert len(counted.batches) == 1
    assert len(files(tmp_path / "new" / "folder")) == 1


# Tests of WordLlama, the default embedder.


def test_wordllama_vectors_equal_the_packages_own_bit_for_bit():
    texts = [*countdown.pool(50, 0).texts, "", "   ", "\n", "naïve 日本語 🙂", "word " * 3000]
    vectors = wordllama(texts)
    assert vectors.shape == (len(texts), 256)
    assert vectors.dtype == np.float32
    model = module._load_wordllama()
    model.tokenizer.enable_padding()
    try:
        np.testing.assert_array_equal(vectors, model.embed(texts))
    finally:
        model.tokenizer.no_padding()


def test_a_row_depends_only_on_its_text():
    texts = ["a", "What is 3 + 4?", "word " * 500, "", "Name a prime."]
    alone = np.concatenate([wordllama([text]) for text in texts])
    for batch_size in (1, 2, 5):
        np.testing.assert_array_equal(wordllama(texts, batch_size=batch_size), alone)
    np.testing.assert_array_equal(wordllama([*texts, *texts[::-1]]), np.concatenate([alone, alone[::-1]]))


def test_only_the_empty_text_has_a_zero_vector():
    vectors = wordllama(["", " ", "\n\t", "a"])
    np.testing.assert_array_equal((vectors == 0).all(1), [True, False, False, False])


def test_similar_prompts_are_nearer():
    vectors = wordllama(
        [
            "What is the sum of the first ten prime numbers?",
            "Compute the sum of all prime numbers below fifty.",
            "Write a short poem about autumn leaves in the rain.",
            "Compose some verses on rain and falling leaves.",
        ]
    )
    between = distances(vectors)
    assert max(between[0, 1], between[2, 3]) < between[:2, 2:].min()


def test_wordllama_ignores_the_order_of_words_and_digits():
    close = distances(wordllama(["Use 12, 34.", "Use 13, 24.", "34. Use 12,", "Use 12, 35."]))[0]
    assert close[1] < 1e-5
    assert close[3] > 0.01


def test_wordllama_is_cached_under_its_version(tmp_path, monkeypatch):
    first = embed(TEXTS, cache=tmp_path, progress=False)
    monkeypatch.setattr(module, "_load_wordllama", lambda: pytest.fail("loaded again"))
    np.testing.assert_array_equal(embed(TEXTS, cache=tmp_path, progress=False), first)
    monkeypatch.setattr(module.metadata, "version", lambda _: "another")
    with pytest.raises(pytest.fail.Exception):
        embed(TEXTS, cache=tmp_path, progress=False)


OFFLINE = """
import json, logging, socket, sys
def refuse(*_, **__):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from jaxsel.integrations.embeddings import embed
shape = embed(["a", "b"], cache=None, progress=False).shape
root = logging.getLogger()
print(json.dumps([shape, root.level, len(root.handlers), *{"torch"} & {*sys.modules}]))
"""


def test_a_fresh_process_needs_no_network_no_home_and_keeps_its_logs(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", OFFLINE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[2, 256], logging.WARNING, 0]
    assert files(tmp_path) == []


# Tests of sentence-transformers, with a stand-in for the package.


@pytest.fixture
def package(monkeypatch):
    """Replace sentence-transformers by a stand-in; return the list of calls that its model gets."""
    calls = []

    class SentenceTransformer:
        def __init__(self, *arguments, **options):
            calls.append((arguments, options))

        def encode(self, texts, **options):
            calls.append((texts, options))
            return lengths(texts).astype(np.float16)

    fake = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    monkeypatch.setattr(module.metadata, "version", lambda name: {"sentence-transformers": "5.0"}[name])
    return calls


def test_sentence_transformers_loads_its_model_once_at_first_use(package, tmp_path):
    embedder = sentence_transformers("some/model", revision="abc", device="cpu", batch_size=7)
    assert package == []
    for _ in range(2):
        vectors = embed(TEXTS, embedder=embedder, batch_size=3, cache=tmp_path, progress=False)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, lengths(TEXTS))
    assert package[0] == (("some/model",), {"revision": "abc", "device": "cpu"})
    options = {"batch_size": 7, "convert_to_numpy": True, "show_progress_bar": False}
    assert package[1:] == [(["one", "three", ""], options), (["fifteen", " "], options)]


def test_names_tell_models_revisions_and_versions_apart(package, tmp_path, monkeypatch):
    def name(*arguments, **options):
        return sentence_transformers(*arguments, **options).name

    assert name("a/b") == name("a/b", device="cpu", batch_size=3)
    names = {name("a/b"), name("a/c"), name("a/b", revision="abc"), name(str(tmp_path))}
    (tmp_path / "weights").write_bytes(b"one")
    names.add(name(str(tmp_path)))
    os.utime(tmp_path / "weights", (1, 1))
    names.add(name(str(tmp_path)))
    monkeypatch.setattr(module.metadata, "version", lambda _: "6.0")
    names.add(name("a/b"))
    assert len(names) == 7


@pytest.mark.parametrize(
    ("make", "extra"),
    [(module.wordllama, "embeddings"), (lambda: sentence_transformers("a/b"), "sentence-transformers")],
    ids=["wordllama", "sentence-transformers"],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, make, extra):
    def missing(name):
        raise module.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "version", missing)
    with pytest.raises(ImportError, match=rf'is not installed; pip install "jaxsel\[{extra}\]"'):
        make()


# Tests of `concatenated`, which joins the vectors of several embedders.


def vowels(texts):
    return np.array([[sum(text.count(vowel) for vowel in "aeiou")] for text in texts], np.float32)


def test_concatenated_vectors_stand_in_the_order_of_the_embedders():
    both = embed(TEXTS, embedder=concatenated(lengths, vowels), progress=False)
    np.testing.assert_array_equal(both, np.concatenate([lengths(TEXTS), vowels(TEXTS)], 1))
    with_words = embed(TEXTS, embedder=concatenated(vowels, "wordllama"), cache=None, progress=False)
    np.testing.assert_array_equal(with_words, np.concatenate([vowels(TEXTS), wordllama(TEXTS)], 1))


def test_concatenated_results_are_cached_if_every_embedder_has_a_name(counted, tmp_path):
    def call(*embedders):
        return embed(TEXTS, embedder=concatenated(*embedders), cache=tmp_path, progress=False)

    named, words = Embedder("lengths 1", counted), Embedder("vowels", vowels)
    first = call(named, words)
    counted.batches.clear()
    np.testing.assert_array_equal(call(named, words), first)
    assert counted.batches == []
    np.testing.assert_array_equal(call(words, named), np.roll(first, 1, axis=1))
    assert len(files(tmp_path)) == 2
    call(named, vowels)
    assert len(files(tmp_path)) == 2  # `vowels` alone has no name, so its vectors are not cached


def test_names_of_concatenated_embedders_do_not_collide():
    def name(*names):
        found = concatenated(*(Embedder(one, lengths) for one in names))
        assert isinstance(found, Embedder)
        return found.name

    assert len({name("a", "b"), name("b", "a"), name("ab"), name("a"), name('a", "b'), name("a", "a")}) == 6


def test_bad_embedders_to_concatenate_are_refused(unchecked_types):
    with pytest.raises(ValueError, match="embedders is empty; give at least one"):
        concatenated()
    unknown: Any = "bert"
    with pytest.raises(ValueError, match="embedder is 'bert'; give 'wordllama', an Embedder or a function"):
        concatenated(lengths, unknown)
    wrong = concatenated(lengths, lambda texts: lengths(texts)[1:])
    with pytest.raises(ValueError, match=r"embedder returned shape \(4, 3\); return \[5, d\]"):
        embed(TEXTS, embedder=wrong, progress=False)


# Tests of refused arguments.


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty; give at least one text"),
        ("abc", "texts is the string 'abc'; give a sequence of strings"),
        (["a", None], r"texts\[1\] is None; give strings"),
        (["a", "b", b"c"], r"texts\[2\] is b'c'; give strings"),
        (["a", float("nan")], r"texts\[1\] is nan; give strings"),
        (["a", "\ud800"], r"texts\[1\] is '\\ud800', which UTF-8 cannot hold"),
    ],
)
def test_bad_texts_are_refused(counted, texts, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        embed(texts, embedder=counted, progress=False)
    assert counted.batches == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give an integer of at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0; give an integer"),
        ({"batch_size": True}, "batch_size is True; give an integer"),
        ({"dtype": "float64"}, "dtype is 'float64'; give 'float32' or 'float16'"),
        ({"embedder": "bert"}, "embedder is 'bert'; give 'wordllama', an Embedder or a function"),
        ({"embedder": None}, "embedder is None; give 'wordllama'"),
    ],
)
def test_bad_arguments_are_refused(options, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        embed(TEXTS, **{"embedder": lengths, "progress": False, **options})


def changed(column, value, dtype=np.float64):
    """Return the embedder `lengths` with one number changed in the vector of "fifteen"."""

    def encode(texts):
        vectors = lengths(texts).astype(dtype)
        vectors[[text == "fifteen" for text in texts], column] = value
        return vectors

    return encode


@pytest.mark.parametrize(
    ("embedder", "options", "message"),
    [
        (lambda texts: lengths(texts)[0], {}, r"shape \(3,\); return \[5, d\], one vector per text"),
        (lambda texts: np.float32(1), {}, r"shape \(\); return \[5, d\]"),
        (lambda texts: lengths(texts)[:, :0], {}, r"shape \(5, 0\); return \[5, d\]"),
        (lambda texts: lengths(texts)[:4], {}, r"shape \(4, 3\); return \[5, d\]"),
        (lambda texts: lengths([*texts, "a"]), {}, r"shape \(6, 3\); return \[5, d\]"),
        (
            lambda texts: lengths(texts)[:, : len(texts)],
            {"batch_size": 3},
            "returned 2 numbers per text after 3; return one length",
        ),
        (lambda texts: np.array([["a"]] * len(texts)), {}, "returned type <U1; return numbers"),
        (lambda texts: lengths(texts) * 1j, {}, "returned type complex64; return numbers"),
        (changed(1, np.nan), {}, r"returned nan for texts\[4\]; return finite numbers within float32"),
        (changed(2, -np.inf), {"batch_size": 1}, r"returned -inf for texts\[4\]"),
        (changed(0, 1e300), {}, r"returned 1e\+300 for texts\[4\]; return finite numbers within float32"),
        (changed(0, 70000), {"dtype": "float16"}, r"returned 70000.0 for texts\[4\]; .* within float16"),
    ],
)
def test_bad_results_of_an_embedder_are_refused(embedder, options, message):
    with pytest.raises(ValueError, match=message):
        embed(TEXTS, embedder=embedder, progress=False, **options)


def test_integer_vectors_are_accepted():
    vectors = embed(TEXTS, embedder=lambda texts: lengths(texts).astype(np.int64), progress=False)
    np.testing.assert_array_equal(vectors, lengths(TEXTS))
