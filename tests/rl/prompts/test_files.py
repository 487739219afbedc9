"""Formats of files: what is in the file comes back, and a damaged file is named with the place."""

import bz2
import csv
import gzip
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.prompts import files, read_prompts, read_report, write_parquet
from tests.support.damaged import damage, damage_pages

TEXTS = [
    "NA",
    "1e5",
    "007",
    "null",
    "true",
    "2020-01-01",
    "1,5",
    'a "quoted" text',
    "two\nlines",
    " 7 ",
    "3.0",
    "é\u2028x",
]


def as_csv(path, rows, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    "suffix", ["parquet", "json", "jsonl", "ndjson", "csv", "tsv", "jsonl.gz", "json.bz2", "csv.gz"]
)
def test_texts_stay_texts(write, tmp_path, suffix):
    rows = [{"question": f"What is {text}?", "answer": text} for text in TEXTS]
    kind, _, compression = suffix.partition(".")
    if kind in ("csv", "tsv"):
        path = as_csv(tmp_path / f"data.{kind}", rows, "\t" if kind == "tsv" else ",")
    else:
        path = write(f"data.{kind}", rows)
    if compression:
        plain, path = path, tmp_path / f"data.{suffix}"
        path.write_bytes({"gz": gzip, "bz2": bz2}[compression].compress(plain.read_bytes()))
    pool = read_prompts(path)
    assert pool.answers == TEXTS
    assert pool.texts == [row["question"] for row in rows]


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl", "csv"])
def test_a_cell_of_a_megabyte(write, tmp_path, suffix):
    rows = [{"question": "q", "answer": "x" * 2**20}, {"question": "r", "answer": "y"}]
    path = as_csv(tmp_path / "data.csv", rows) if suffix == "csv" else write(f"data.{suffix}", rows)
    assert read_prompts(path).answers == [row["answer"] for row in rows]


def test_a_reader_that_ends_does_not_disturb_one_in_another_thread():
    """The first reader starts before the second one, and ends before the second one reads its long cell."""
    csv.field_size_limit(2**17)  # Python's default
    started, ended = threading.Event(), threading.Event()

    def first():
        yield "question,answer\n"
        assert started.wait(60)
        yield "q,a\n"

    def second():
        started.set()
        yield "question,answer\n"
        assert ended.wait(60)
        yield "q," + "x" * 2**20 + "\n"

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(files._csv, first(), "a.csv")
        one.add_done_callback(lambda _: ended.set())
        assert len(threads.submit(files._csv, second(), "b.csv").result()[0]["answer"]) == 2**20
    assert len(one.result()) == 1


def test_json_lines_in_a_file_called_json(write):
    lines = "".join(json.dumps({"content": f"{i}", "answer": "1"}) + "\n" for i in range(3))
    assert read_prompts(write("data.json", "\n" + lines + "\n")).texts == ["0", "1", "2"]
    assert read_prompts(write("data.json", lines.splitlines()[0])).texts == ["0"]


def test_a_byte_order_mark_and_windows_lines(write):
    text = "\ufeffquestion,answer\r\n1+1=,2\r\n2+2=,4\r\n"
    assert read_prompts(write("data.csv", text)).texts == ["1+1=", "2+2="]
    assert read_prompts(write("data.jsonl", '\ufeff{"prompt": "a", "label": "b"}\r\n\r\n')).texts == ["a"]


def test_rows_that_datasets_saved(tmp_path):
    from datasets import Dataset

    rows = {"question": ["a", "b"], "answer": ["007", "1e5"]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    assert read_prompts(tmp_path / "saved").answers == ["007", "1e5"]


def test_arrow_files_beside_streams(tmp_path):
    table = pa.table({"question": ["a"], "answer": ["007"], "unused": [1]})
    with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read_prompts(tmp_path / "data.arrow").answers == ["007"]


def test_values_that_datasets_stored_as_json(tmp_path):
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this release has no Json feature")
    features = datasets.Features({"prompt": datasets.Value("string"), "answer": datasets.Json()})
    data = datasets.Dataset.from_dict({"prompt": ["a", "b"], "answer": [{"n": [1]}, ["x"]]}, features=features)
    data.to_parquet(tmp_path / "data.parquet")
    assert read_prompts(tmp_path / "data.parquet").answers == [{"n": [1]}, ["x"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            '{"prompt": "a", "label": "b"}\n{"prompt": "a"',
            r"a.jsonl is no JSON in line 2: .*; mend or delete",
        ),
        ("a.jsonl", '["a", "b"]\n', "a.jsonl holds list in line 1; give one record per line"),
        ("a.json", '{"prompt": "a", "label": "b"}\n{"prompt": "a"', r"a.json is no JSON in line 2: .*"),
        ("a.json", '[{"prompt": "a"}', "a.json is no JSON: Expecting ',' delimiter: line 1 column 17"),
        ("a.json", '["a"]', "a.json holds str in row 0; give one record per row"),
        ("a.json", '"a"', "a.json holds str; give a list of rows"),
        ("a.csv", "question,answer\na,b\nc\n", "a.csv has 1 cells in row 1 and 2 columns; put quotes"),
        ("a.csv", "question,answer\na,b,c\n", "a.csv has 3 cells in row 0 and 2 columns; put quotes"),
        ("a.csv", "question,question\na,b\n", r"a.csv has the header .*; give every column a name of its own"),
        ("a.csv", 'question,answer\n"a"b,c\n', r"a.csv is no CSV: .*, in line 2; mend it"),
        ("a.parquet", "no parquet", "a.parquet is no parquet file that can be read .*; write it again"),
        ("a.jsonl", '{"question": ' + "[" * 100_000, "a.jsonl is no JSON in line 1: .*; mend or delete"),
        ("a.json", '{"question": ' + "[" * 100_000, "a.json is no JSON: .*; mend it there"),
        ("a.xlsx", "x", r"source is .*a.xlsx, whose format is unknown; give a file of .parquet, .arrow"),
    ],
)
def test_damaged_files(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(write(name, text))


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "none"])
def test_a_damaged_page_of_parquet(tmp_path, compression):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["question"] * 9, "answer": ["4"] * 9}), path, compression=compression)
    damage_pages(path)
    with pytest.raises(
        ValueError, match=r"a.parquet is no parquet file that can be read \(.*\); write it again, or copy"
    ):
        read_prompts(path)


def test_a_damaged_arrow_file_does_not_end_the_process(tmp_path):
    path = tmp_path / "a.arrow"
    table = pa.table({"prompt": [f"question {i}" for i in range(99)], "answer": ["4"] * 99})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    damage(path, path.read_bytes().index(b"question 0") - 99, 64)  # the offsets of the texts
    with pytest.raises(ValueError, match=r"a.arrow is no arrow file that can be read \(.*\); write it again, or copy"):
        read_prompts(path)


def test_a_csv_with_the_index_of_pandas(write):
    assert read_prompts(write("a.csv", ",question,answer\n0,a,007\n1,b,NA\n")).answers == ["007", "NA"]


def test_an_empty_cell_of_a_csv_is_no_answer(write):
    path = write("a.csv", "question,answer\na,1\nb,\n")
    with pytest.raises(
        ValueError, match=r"answer has an empty answer in row 1 of .*a.csv; give one, or read no .*skip_odd"
    ):
        read_prompts(path)
    assert read_prompts(path, skip_odd=True).texts == ["a"]
    assert read_prompts(path, answer="").texts == ["a", "b"]


def test_bytes_are_no_answer(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "answer": [b"4"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"answer has bytes as an answer, b'4' in row 0 of .*; give a text, for example"
    ):
        read_prompts(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (Decimal("72.50"), pa.decimal128(10, 2), "72.50"),
        (Decimal("72E2"), pa.decimal128(10, 0), "7200"),
        (5, pa.timestamp("ns"), "1970-01-01 00:00:00.000000005"),
        (5, pa.timestamp("us"), "1970-01-01 00:00:00.000005"),
        (5, pa.date32(), "1970-01-06"),
        (5, pa.time64("us"), "00:00:00.000005"),
        (5, pa.duration("us"), "0:00:00.000005"),
    ],
)
def test_values_that_json_cannot_hold_become_texts(tmp_path, value, kind, text):
    if str(kind).endswith("[ns]"):
        pytest.importorskip("pandas")  # without it, pyarrow refuses nanoseconds
    answers = pa.array([{"values": [value]}], pa.struct([("values", pa.list_(kind))]))
    pq.write_table(pa.table({"prompt": ["a"], "answer": answers}), tmp_path / "a.parquet")
    pool = read_prompts(tmp_path / "a.parquet")
    assert pool.answers == [{"values": [text]}]
    write_parquet(pool, tmp_path / "b.parquet", data_source="x", ability="y")
    assert read_prompts(tmp_path / "b.parquet").answers == pool.answers


@pytest.mark.parametrize(
    ("value", "stored", "kind"),
    [
        (2**62, pa.int64(), pa.timestamp("us")),
        (10**9, pa.int32(), pa.date32()),
        (10**15, pa.int64(), pa.timestamp("us", "No/Where")),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_value_that_python_cannot_hold_is_named_with_its_column(tmp_path, value, stored, kind, suffix):
    """Such a value stands for no time, or its time zone is unknown. Only a reader of all columns meets it."""
    table = pa.table({"prompt": ["a", "b"], "answer": ["1", "2"], "when": pa.array([None, value], stored).cast(kind)})
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    assert len(read_prompts(path)) == 2
    message = (
        rf"a.{suffix} has a {re.escape(str(kind))} in the column when that Python cannot hold .*; write it there as"
    )
    with pytest.raises(ValueError, match=message):
        read_report(path, others=None)


def test_a_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\nn\xe9,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.csv is not UTF-8 at byte 17; save it as UTF-8"):
        read_prompts(tmp_path / "a.csv")


@pytest.mark.parametrize("cut", [lambda data: data[:-9], lambda data: data[:3], lambda data: b"plain text"])
@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_a_damaged_compression(tmp_path, ending, cut):
    data = {"gz": gzip, "bz2": bz2}[ending].compress(b'{"prompt": "a", "label": "b"}\n' * 999)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(cut(data))
    with pytest.raises(ValueError, match=rf"a.jsonl.{ending} is no (gzip|bz2) file .* or drop .{ending} from its name"):
        read_prompts(tmp_path / f"a.jsonl.{ending}")


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@pytest.mark.slow
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4, unique_by=lambda row: row[0]))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_any_text_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    records = [{"question": question, "answer": answer} for question, answer in rows]
    files = [as_csv(folder / "a.csv", records), as_csv(folder / "a.tsv", records, "\t")]
    files += [folder / "a.json", folder / "a.jsonl"]
    files[2].write_text(json.dumps(records, ensure_ascii=False))
    files[3].write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    for file in files:
        pool = read_prompts(file)
        assert list(zip(pool.texts, pool.answers, strict=True)) == rows


def test_an_empty_file_is_an_empty_pool(write):
    assert len(read_prompts(write("a.jsonl", ""))) == 0
    assert len(read_prompts(write("a.csv", "question,answer\n"))) == 0
