"""Folders, several files, and data sets on the Hugging Face hub. A local folder stands in for the hub."""

import shutil
from pathlib import Path

import pytest

from rl.prompts import read_prompts, sources


def rows(*names):
    return [{"question": name, "answer": name.upper()} for name in names]


def test_all_files_of_a_folder(write, tmp_path):
    write("data/b/two.parquet", rows("c"))
    write("data/a.jsonl", rows("a", "b"))
    write("data/.hidden.jsonl", rows("x"))
    write("data/README.md", "no data")
    pool = read_prompts(tmp_path / "data")
    assert pool.texts == ["a", "b", "c"]
    assert pool.answers == ["A", "B", "C"]


def test_files_in_linked_folders_count(write, tmp_path):
    write("data/extra.jsonl", rows("a"))
    write("far/b.jsonl", rows("b"))
    (tmp_path / "data" / "test").symlink_to(tmp_path / "far")
    assert read_prompts(tmp_path / "data", split="train").texts == ["a"]
    assert read_prompts(tmp_path / "data", split="test").texts == ["b"]


def test_caches_that_datasets_writes_beside_the_rows_are_no_data(tmp_path):
    import datasets

    datasets.Dataset.from_list(rows(*"abcd")).save_to_disk(tmp_path / "data")
    saved = datasets.load_from_disk(tmp_path / "data")
    saved.map(lambda row: {"question": row["question"] * 2})
    saved.shuffle(seed=0)
    assert list((tmp_path / "data").glob("cache-*.arrow"))
    assert read_prompts(tmp_path / "data").texts == [*"abcd"]
    shutil.copytree(tmp_path / "data", tmp_path / "mine")
    (tmp_path / "mine" / "state.json").unlink()
    (tmp_path / "mine" / "dataset_info.json").unlink()
    assert any("cache-" in found.name for found in sources.find_sources(tmp_path / "mine"))


def test_the_home_folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("data/a.jsonl", rows("a"))
    assert read_prompts("~/data").texts == read_prompts("~/data/a.jsonl").texts == ["a"]


def test_several_files(write):
    assert read_prompts([write("a.jsonl", rows("a")), write("b.json", rows("b"))]).texts == ["a", "b"]
    with pytest.raises(ValueError, match=r"source names no file"):
        read_prompts([])


def test_an_empty_shard(write, tmp_path):
    write("data/a.jsonl", "")
    write("data/b.jsonl", rows("b"))
    assert read_prompts(tmp_path / "data").texts == ["b"]


def test_every_file_of_a_folder_has_columns_of_its_own(write, tmp_path):
    write("data/a.jsonl", rows("a"))
    write("data/b.jsonl", [{"prompt": "b", "label": "B"}])
    assert read_prompts(tmp_path / "data").answers == ["A", "B"]


@pytest.mark.parametrize("names", [("train-00000-of-00001.jsonl", "test.jsonl"), ("train/a.jsonl", "test/a.jsonl")])
def test_splits_of_a_folder_are_not_mixed(write, tmp_path, names):
    for name in names:
        write(f"data/{name}", rows(name))
    with pytest.raises(ValueError, match=r"split is None, and .* holds the splits \['test', 'train'\]; name one"):
        read_prompts(tmp_path / "data")
    assert read_prompts(tmp_path / "data", split="test").texts == [names[1]]
    with pytest.raises(ValueError, match=r"split is 'val', and .* holds the splits \['test', 'train'\]"):
        read_prompts(tmp_path / "data", split="val")


def test_files_that_name_no_split_are_train_if_no_file_says_train(write, tmp_path):
    write("data/gsm8k.jsonl", rows("a"))
    write("data/gsm8k_test.jsonl", rows("b"))
    with pytest.raises(ValueError, match=r"split is None, and .* holds the splits \['train', 'test'\]; name one"):
        read_prompts(tmp_path / "data")
    assert read_prompts(tmp_path / "data", split="train").texts == ["a"]
    assert read_prompts(tmp_path / "data", split="test").texts == ["b"]
    write("data/train.jsonl", rows("c"))
    assert read_prompts(tmp_path / "data", split="train").texts == ["c"]


def test_the_folder_itself_says_nothing_about_the_split(write, tmp_path):
    write("test/a.jsonl", rows("a"))
    write("test/b.jsonl", rows("b"))
    assert read_prompts(tmp_path / "test").texts == ["a", "b"]


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "missing.parquet", "a/b/c", Path("missing")])
def test_a_path_that_does_not_exist(source):
    with pytest.raises(ValueError, match=r"where there is no file and no folder; give an existing path"):
        read_prompts(source)


def test_a_folder_without_rows(write, tmp_path):
    write("data/README.md", "no data")
    with pytest.raises(ValueError, match=r"data, which holds no file of .parquet"):
        read_prompts(tmp_path / "data")


def test_a_split_of_a_file(write):
    with pytest.raises(
        ValueError, match=r"split is 'train', and source is the file .*a.jsonl; give a folder, or no split"
    ):
        read_prompts(write("a.jsonl", rows("a")), split="train")


def test_a_configuration_of_a_file_or_a_folder(write, tmp_path):
    file = write("math/algebra/train.jsonl", rows("a"))
    write("math/geometry/train.jsonl", rows("b"))
    for source in (file, tmp_path / "math", [file]):
        with pytest.raises(
            ValueError,
            match=r"config is 'algebra', and source is .*, which is not on the hub; give the folder of that config",
        ):
            read_prompts(source, config="algebra")
    assert read_prompts(tmp_path / "math" / "algebra").texts == ["a"]


def test_the_files_of_a_builder_are_read_as_local_files_are(write, tmp_path, monkeypatch):
    """`datasets` finds the files of a hub data set; the values come from our own readers, unchanged."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write("hub/train.csv", "question,answer\na,007\n")
    write("hub/test.csv", "question,answer\nb,1e5\n")
    real = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, config: real(str(tmp_path / "hub"), config))
    assert read_prompts("owner/data", split="train").answers == ["007"]
    assert read_prompts("owner/data", split="test").answers == ["1e5"]
    with pytest.raises(ValueError, match=r"split is None, and owner/data holds the splits"):
        read_prompts("owner/data")


def test_a_hub_data_set_that_does_not_exist(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def missing(name, config):
        raise DatasetNotFoundError("gone")

    monkeypatch.setattr(datasets, "load_dataset_builder", missing)
    with pytest.raises(ValueError, match=r"source is 'owner/data', neither a path nor a data set on the hub \(gone\)"):
        sources.find_sources("owner/data")


def test_a_hub_that_does_not_answer(monkeypatch):
    import datasets

    def unreachable(name, config):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(ValueError, match=r"source is 'math500', which is no path, and the hub .* \(no network\)"):
        sources.find_sources("math500")
