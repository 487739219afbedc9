"""Chat messages: the one form that a pool stores, messages of several parts, images, and messages as plain text."""

import json

import pytest

from rl.prompts import plain_text, read_prompts
from rl.prompts.messages import fault, media_kinds, normalised

TEXT = {"type": "text", "text": "What is drawn?"}
IMAGE = {"bytes": b"\x89PNG", "path": None}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def read(write, row, suffix="jsonl"):
    return read_prompts(write(f"data.{suffix}", [{"answer": "1"} | row])).texts[0]


def test_one_user_message_is_a_text():
    assert normalised([user("a")]) == "a"
    assert normalised([user("a", name=None)]) == "a"
    assert normalised([user([TEXT])]) == TEXT["text"]
    assert normalised([user([{"type": "input_text", "text": "a", "image": None}])]) == "a"
    cached = TEXT | {"cache_control": {"type": "ephemeral"}}
    parts = ([TEXT, TEXT], [cached], [{"type": "image", "image": "a.png"}], ["a"], [])
    named = (
        [user("a", name="b")],
        [{"role": "system", "content": "a"}],
        [user([TEXT]), user("b")],
        [user("a"), user("b")],
    )
    for other in (*named, *([user(content)] for content in parts)):
        assert normalised(other) == other


def test_fields_that_arrow_fills_with_null_are_left_out(write):
    parts = [TEXT, {"type": "image", "image": "a.png"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    messages = [user(parts), {"role": "tool", "content": [TEXT], "tool_call_id": "1"}]
    assert read(write, {"prompt": messages}, "parquet") == messages
    assert read(write, {"prompt": [user("a"), call, user("b")]}, "parquet") == [user("a"), call, user("b")]


def test_tool_calls_in_parquet_are_those_in_json(write):
    def row(arguments):
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return {
            "prompt": [user("a"), {"role": "assistant", "content": None, "tool_calls": [call]}, user("b")],
            "answer": "1",
        }

    rows = [row({"city": "x"}), row({"days": [{"n": 3}]})]
    found = [read_prompts(write(f"data.{suffix}", rows)) for suffix in ("jsonl", "parquet")]
    assert found[0].texts == found[1].texts
    assert found[0].fingerprint == found[1].fingerprint


def test_a_json_text_of_messages_is_these_messages(write):
    messages = [{"role": "system", "content": "Be brief."}, user("a")]
    assert read(write, {"prompt": json.dumps(messages)}) == messages
    for text in ('[{"role": "user"}]', "[{", '[{"x": 1}] is a list', '{"role": "user", "content": "a"}', "[1, 2]"):
        assert read(write, {"prompt": text}) == text


def test_the_value_of_the_caller_is_not_changed():
    value = [user([TEXT | {"image": None}], name=None)]
    normalised(value)
    assert value == [user([TEXT | {"image": None}], name=None)]


@pytest.mark.parametrize(
    ("prompt", "images", "expected"),
    [
        ("What is drawn?", ["a"], [user([{"type": "image", "image": "a"}, TEXT])]),
        ([user("<image>What is drawn?")], ["a"], [user([{"type": "image", "image": "a"}, TEXT])]),
        (
            [{"role": "system", "content": "Be brief."}, user("Compare <image> and <image>")],
            ["a", "b"],
            [
                {"role": "system", "content": "Be brief."},
                user(
                    [
                        {"type": "text", "text": "Compare "},
                        {"type": "image", "image": "a"},
                        {"type": "text", "text": " and "},
                        {"type": "image", "image": "b"},
                    ]
                ),
            ],
        ),
        (
            [user([{"type": "text", "text": "<image>What"}, TEXT, {"type": "text", "text": "and <image>?"}])],
            ["a", "b"],
            [
                user(
                    [
                        {"type": "image", "image": "a"},
                        {"type": "text", "text": "What"},
                        TEXT,
                        {"type": "text", "text": "and "},
                        {"type": "image", "image": "b"},
                        {"type": "text", "text": "?"},
                    ]
                )
            ],
        ),
        ([user([TEXT, {"type": "image"}])], ["a"], [user([TEXT, {"type": "image", "image": "a"}])]),
        ([user([TEXT])], ["a", "b"], [user([{"type": "image", "image": "a"}, {"type": "image", "image": "b"}, TEXT])]),
        ("no image here", [], "no image here"),
        ("a text that says <image>", [], "a text that says <image>"),
    ],
)
def test_images_go_to_their_places(write, prompt, images, expected):
    assert read(write, {"prompt": prompt, "images": images}) == expected
    if len(images) == 1:
        assert read(write, {"prompt": prompt, "image": images[0]}) == expected


def test_the_bytes_of_an_image_stay(write):
    (message,) = read(write, {"prompt": "What is drawn?", "images": [IMAGE]}, "parquet")
    assert message["content"][0] == {"type": "image", "image": IMAGE}


@pytest.mark.parametrize("prompt", ["<image> and <image>", [user([TEXT, {"type": "image"}, {"type": "image"}])]])
@pytest.mark.parametrize("images", [["a"], ["a", "b", "c"]])
def test_another_number_of_images_than_places(write, prompt, images):
    with pytest.raises(ValueError, match=r"prompt has another number of places for image parts than .* in row 0 of"):
        read(write, {"prompt": prompt, "images": images})


def test_videos_and_sounds(write):
    (message,) = read(write, {"prompt": "<audio> or <video>", "videos": ["v"], "audio": "s"})
    assert [part["type"] for part in message["content"]] == ["audio", "text", "video"]


def test_kinds_of_parts():
    parts = [TEXT, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio", "input_audio": {}}]
    assert media_kinds([user(parts)]) == {"image", "audio"}
    assert media_kinds([user([TEXT])]) == media_kinds("text") == set()


def test_plain_texts():
    parts = [TEXT, {"type": "image", "image": IMAGE}]
    assert plain_text("a") == "a"
    assert plain_text([{"role": "system", "content": "a"}, user(parts)]) == "system: a\nuser: What is drawn?\n[image]"
    calls = [plain_text([user("a"), {"role": "assistant", "content": None, "tool_calls": [n]}]) for n in "xy"]
    assert len(set(calls)) == 2


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "\ud800"}}]}


@pytest.mark.parametrize(
    "message",
    [
        user("\ud800"),
        user([{"type": "text", "text": "\ud800"}]),
        user([{"type": "image", "image": "\ud800"}]),
        user("a", name="\ud800"),
        user("a", **{"\ud800": 1}),
        {"role": "\ud800", "content": "a"},
        CALL | {"content": "a"},
        CALL | {"content": None},
    ],
)
def test_a_lone_surrogate_is_found_anywhere_in_a_message(message):
    found = fault([user("a"), message])
    assert found is not None
    assert found.what == r"has the lone surrogate '\ud800'"


@pytest.mark.parametrize("prompt", ["a", [user("a"), user("")], [user([{"type": "image", "image": "a"}])]])
def test_readable_prompts(prompt):
    assert fault(prompt) is None
