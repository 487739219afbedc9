"""Images of prompt files: paths become contents, and an image that cannot be decoded is named by file and row."""

import base64
import io
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rl.prompts.images import ImageError, decoded, embedded
from rl.prompts.read import read_report
from rl.tasks.data import make
from rl.tasks.data_config import DataConfig
from rl.tasks.templates import filled
from tests.support.tiny_vision import figure, user

SMALL = figure(3)
URL = "data:image/png;base64," + base64.b64encode(SMALL).decode()
ROW = {"problem": "<image>Find x.", "answer": "3"}


def read(path, **options):
    return read_report(path, images=True, **options).pool


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": SMALL},
        {"type": "image", "image": {"bytes": SMALL, "path": "gone.png"}},
        {"type": "image", "image": Image.open(io.BytesIO(SMALL))},
        {"type": "image", "image": bytearray(SMALL)},
        {"type": "image", "url": URL},
        {"type": "image", "url": "DATA:image/png;base64,\n" + base64.encodebytes(SMALL).decode()},
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "input_image", "image_url": URL},
    ],
)
def test_every_form_of_an_image_is_decoded(part):
    image = decoded(part)
    assert image.tobytes() == Image.open(io.BytesIO(SMALL)).tobytes()
    assert image.mode == "RGB"
    prompt = [{"role": "user", "content": [part]}]
    assert embedded(prompt, ".") == prompt


def test_base64_without_a_scheme_and_addresses_of_files_are_read(tmp_path):
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(large, "png")
    (tmp_path / "a b.png").write_bytes(large.getvalue())
    sources = [base64.b64encode(large.getvalue()).decode(), f"file://{tmp_path}/a%20b.png", tmp_path / "a b.png"]
    for source in sources:
        found: Any = embedded([{"role": "user", "content": [{"type": "image", "image": source}]}], ".")
        assert found[0]["content"][0]["image"]["bytes"] == large.getvalue()


@pytest.mark.parametrize("source", [np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), "x" * 100_000, 5])
def test_what_is_no_image_is_named_in_a_short_message(source):
    with pytest.raises(ImageError) as found:
        embedded([{"role": "user", "content": [{"type": "image", "image": source}]}], ".")
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("item", ["figures/a.png", {"bytes": None, "path": "figures/a.png"}])
def test_a_path_starts_from_the_folder_of_its_file(write, tmp_path, item):
    """The content is read into the pool, so that the keys stay when data and figures move together."""
    (tmp_path / "here" / "figures").mkdir(parents=True)
    (tmp_path / "here" / "figures" / "a.png").write_bytes(SMALL)
    path = write("here/a.jsonl", [ROW | {"images": [item]}])
    pool = read(path)
    assert pool.texts == [user({"bytes": SMALL, "path": "figures/a.png"}, "Find x.")]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert read(tmp_path / "there" / "a.jsonl").keys == pool.keys
    absolute = write("b.jsonl", [ROW | {"images": [str(tmp_path / "here" / "figures" / "a.png")]}])
    assert read(absolute).texts[0][0]["content"][0]["image"]["bytes"] == SMALL


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"bytes": b"\x89PNG no image", "path": "a.png"}, r"cannot be decoded \(cannot identify image file.*\)"),
        ({"bytes": SMALL[:-30], "path": "a.png"}, r"cannot be decoded \(.*\)"),
        (
            {"bytes": figure(4, (64, 64), "JPEG")[:-200], "path": "a.jpg"},
            r"cannot be decoded \(image file is truncated.*\)",
        ),
        ({"bytes": None, "path": "gone.png"}, r"cannot be opened \(.*gone.png.*\)"),
        ({"bytes": None, "path": "https://a.b/c.png"}, "is the address 'https://a.b/c.png', which is not downloaded"),
        ({"bytes": None, "path": "data:image/png;base64,###"}, "is no data URL that can be read"),
        ({"bytes": b"", "path": "a.png"}, "has no content"),
    ],
)
def test_an_odd_image_is_named_by_file_and_row(write, item, fault):
    good = {"bytes": SMALL, "path": "b.png"}
    path = write("a.parquet", [ROW | {"images": [one]} for one in (good, item)])
    with pytest.raises(ValueError, match=f"problem has an image that {fault}.* in row 1 of .*a.parquet; mend it or"):
        read(path)
    left = read_report(path, images=True, skip_odd=True)
    assert left.pool.texts == [user(good, "Find x.")]
    assert len(left.skipped) == 1
    assert len(read_report(path).pool) == 2  # without `images`, nobody looks at them
    with pytest.raises(ValueError, match=r"in row 1 of .*a.parquet; .*, or leave out odd rows by data.skip_odd=true"):
        make(path, "exact", DataConfig()).pool(0, 0)


def test_prompts_without_images_stay_the_same_objects():
    for prompt in (
        "a",
        [{"role": "user", "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    ):
        assert embedded(prompt, ".") is prompt


def test_an_image_is_known_by_its_content_and_not_by_its_name(write, tmp_path):
    """A held-out prompt must not be trained on because its image has another name there."""
    for name in ("train/0.png", "test/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(SMALL)
    other = {"bytes": figure(5), "path": "0.png"}
    train = read(write("train/a.jsonl", [ROW | {"images": ["0.png"]}]))
    same = read(write("test/a.jsonl", [ROW | {"images": [str(tmp_path / "test" / "a.png")]}]))
    inside = read(write("b.parquet", [ROW | {"images": [SMALL]}]))
    third = read(write("c.parquet", [ROW | {"images": [other]}]))
    assert train.keys == same.keys == inside.keys != third.keys


def test_grey_images_of_16_bits_keep_their_grey_levels():
    levels = np.array([[0, 255, 256, 2**15, 65_535]], np.uint16)
    file, other = io.BytesIO(), io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    Image.frombytes("I;16B", (5, 1), levels.astype(">u2").tobytes()).save(other, "TIFF")
    for source in (file.getvalue(), other.getvalue(), Image.fromarray(levels.astype(np.int32))):
        image = decoded({"type": "image", "image": source})
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    small = np.array([[0, 3, 255]])
    for dtype in (np.int32, np.float32, np.uint16):
        image = decoded({"type": "image", "image": Image.fromarray(small.astype(dtype))})
        assert np.asarray(image)[0, :, 0].tolist() == [0, 3, 255]
    for odd in (levels.astype(np.float32), levels.astype(np.int32) * 2, small - 4, (small / 255).astype(np.float32)):
        with pytest.raises(ImageError, match=r"has pixels of 32 bits from .*, of an unknown scale; save it with 8"):
            decoded({"type": "image", "image": Image.fromarray(odd.astype(np.int32) if odd.dtype == int else odd)})


def test_an_image_without_a_source_is_refused():
    with pytest.raises(ImageError, match="has no content"):
        decoded({"type": "image"})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["a"], ["<a>"]),
        ([SMALL, "a"], ["<", SMALL, "a>"]),
        (["a", SMALL], ["<a", SMALL, ">"]),
        (["a", SMALL, "b", SMALL, "c"], ["<a", SMALL, "b", SMALL, "c>"]),
        ([SMALL], ["<", SMALL, ">"]),
    ],
)
def test_a_template_surrounds_the_parts(parts, expected):
    system = {"role": "system", "content": "s"}
    given = [system, *user(*parts)]
    assert filled("<{prompt}>", given) == [system, *user(*expected)]
    assert given == [system, *user(*parts)]
    assert filled("{prompt}", given) == given
    assert filled("{prompt}!", user(SMALL, "a")) == user(SMALL, "a!")


def test_a_template_with_two_places_cannot_hold_an_image():
    with pytest.raises(
        ValueError, match=r"template is '\{prompt\}\{prompt\}' for prompts with images; write \{prompt\} once"
    ):
        filled("{prompt}{prompt}", user(SMALL, "a"))
