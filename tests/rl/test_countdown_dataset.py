import json
from fractions import Fraction

import pytest

from rl.tasks import countdown
from rl.tasks.countdown_dataset import CHAT_PROMPT, load_dataset_pool
from rl.tasks.countdown_verifier import Expression, extract, parse, verify

ROWS = [
    {"target": 22, "nums": [3, 5, 7]},
    {"target": 22, "nums": [7, 5, 3]},
    {"target": 24, "nums": [3, 3, 8, 8]},
    {"target": 22, "nums": [3, 5, 7]},
    {"target": 98, "nums": [44, 19, 35]},
    {"target": 64, "nums": [63, 95, 96]},
    {"target": 28, "nums": [95, 11, 56, 2]},
]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Return a function that writes rows as a folder for `datasets`, whose cache stays out of the home folder."""
    import datasets.config
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(rows=ROWS, suffix="parquet"):
        folder = tmp_path / f"{suffix}-data"
        folder.mkdir()
        path = folder / f"train.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(json.dumps(row) for row in rows))
        return folder, path

    return write


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_load_from_a_folder_and_from_a_file(data_set, suffix):
    folder, path = data_set(suffix=suffix)
    pool = load_dataset_pool(folder)
    assert pool == load_dataset_pool(str(path))
    assert list(pool.keys) == [
        "3 5 7=22",
        "7 5 3=22",
        "3 3 8 8=24",
        "44 19 35=98",
        "63 95 96=64",
        "95 11 56 2=28",
    ]
    assert list(pool.answers) == [
        {"target": row["target"], "numbers": row["nums"]} for i, row in enumerate(ROWS) if i != 3
    ]
    assert "numbers: 3, 5, 7." in pool.texts[0]
    assert "value is 22." in pool.texts[0]


def test_the_example_in_the_prompt_is_an_answer_of_the_grammar():
    expression = parse(extract(CHAT_PROMPT))
    assert expression == Expression([1, 2, 3], Fraction(1))


def test_dataset_answers_verify(data_set):
    pool = load_dataset_pool(data_set()[0], number_counts=(4,))
    assert verify("I try 8/3. <answer>8 / (3 - 8 / 3)</answer>", pool.answers[0]) == (True, 1.0)


@pytest.mark.parametrize(("counts", "rows"), [((3,), 4), ((4,), 2), ({3, 4}, 6), (None, 6)])
def test_number_counts(data_set, counts, rows):
    assert len(load_dataset_pool(data_set()[0], number_counts=counts)) == rows


def test_slices_of_the_split_keep_their_keys(data_set):
    folder, _ = data_set()
    whole = load_dataset_pool(folder)
    assert load_dataset_pool(folder, split="train[:2]").keys == whole.keys[:2]


def test_sides_of_the_dataset_are_disjoint_up_to_order(data_set):
    rows = [{"target": a["target"], "nums": a["numbers"]} for a in countdown.pool(300, 0).answers]
    rows += [{"target": a["target"], "nums": a["numbers"][::-1]} for a in countdown.held_out(40).answers]
    folder, _ = data_set(rows)
    training = load_dataset_pool(folder, held_out=False)
    evaluation = load_dataset_pool(folder, held_out=True)
    assert (len(training), len(evaluation)) == (300, 40)
    assert len(load_dataset_pool(folder)) == 340


def test_a_custom_template_is_filled_in(data_set):
    pool = load_dataset_pool(data_set()[0], template='{"n": [{numbers}], "t": {target}}')
    assert pool.texts[0] == '{"n": [3, 5, 7], "t": 22}'


def test_unusable_datasets_are_refused(data_set):
    folder, _ = data_set()
    with pytest.raises(ValueError, match=r"no row of .* is left; loosen number_counts"):
        load_dataset_pool(folder, number_counts=(5,))
    with pytest.raises(ValueError, match=r"template='\{numbers\}' lacks a placeholder"):
        load_dataset_pool(folder, template="{numbers}")
    other, _ = data_set([{"target": 3, "numbers": [1, 2]}], "jsonl")
    with pytest.raises(ValueError, match=r"has no column \['nums'\]"):
        load_dataset_pool(other)


def test_texts_of_a_csv_are_numbers(tmp_path):
    (tmp_path / "a.csv").write_text('nums,target\n"[3, 5, 7]",22\n3 3 8 8,24.0\n')
    assert list(load_dataset_pool(tmp_path / "a.csv").keys) == ["3 5 7=22", "3 3 8 8=24"]


@pytest.mark.parametrize(("split", "rows"), [("train[2:]", 5), ("train[:50%]", 3), ("train[-1:]", 1), ("training", 6)])
def test_splits_and_slices(data_set, split, rows):
    assert len(load_dataset_pool(data_set()[0], split=split)) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "source is '.*missing.parquet', where there is no file .*; give an existing path"),
        ("missing", None, "source is '.*missing', where there is no file and no folder; give an existing path"),
        ("a.json", '{"nums": [1, 2], "tar', "a.json is no JSON: .*; mend it there"),
        ("a.jsonl", '{"nums": [1, 2], "target": 3}\n{', "a.jsonl is no JSON in line 2: .*; mend or delete the line"),
        ("a.csv", 'nums,target\n"[1, 2",3,4\n', "a.csv has 3 cells in row 0 and 2 columns; put quotes"),
        ("a.parquet", "PAR1", "a.parquet is no parquet file that can be read .*; write it again"),
        ("a.txt", "1 2", "a.txt, whose format is unknown; give a file of .parquet"),
        (
            "data/test.jsonl",
            '{"nums": [1, 2], "target": 3}',
            r"holds the splits \['test'\]; name one.* one of its files",
        ),
        ("data/notes.md", "none", "data, which holds no file of .parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    source = path.parent if "data/" in name else path
    with pytest.raises(ValueError, match=f"name_or_path=.* cannot be read: .*{message}"):
        load_dataset_pool(source)


def test_odd_cells_and_splits_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"nums": [1, 2], "target": 3}\n{"nums": [1, "x"], "target": 3}\n')
    with pytest.raises(ValueError, match=r"row 1 of .*a.jsonl has nums \[1, 'x'\] and target 3; give integers of at"):
        load_dataset_pool(path)
    with pytest.raises(ValueError, match=r"split='train\[:'; give a name, or a name with a slice of rows"):
        load_dataset_pool(path, split="train[:")


def test_a_data_set_that_is_not_on_the_hub(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ValueError, match=r"name_or_path=owner/data with split=train cannot be loaded \(no network\); give"
    ):
        load_dataset_pool("owner/data")
