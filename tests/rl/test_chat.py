"""Chat messages reach the chat template with their roles, and engines refuse what they cannot read."""

from dataclasses import replace

import pytest
import torch

from rl.engines.hf import HFEngine
from rl.hidden_states import hidden_states
from rl.policy import build_policy
from rl.prompts import PromptPool, read_prompts, write_parquet
from rl.rollout import Sampling

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m['role'][0] }}>{{ m['content'] }}{% if not loop.last or m['role'] != 'assistant' %};{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SYSTEM, USER = {"role": "system", "content": "1"}, {"role": "user", "content": "2="}
IMAGE = {"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "2="}]}


@pytest.fixture
def plain():
    return build_policy("0123456789=<>;sua\n", hidden_size=32, num_layers=1, feed_forward_size=32)


@pytest.fixture
def chat(plain):
    plain.tokenizer.chat_template = TEMPLATE
    return plain


def text_of(policy, prompt):
    tokens, mask = policy.encode([prompt])
    assert mask.all()
    return policy.tokenizer.decode(tokens[0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("2=", "<u>2=;<a>"),
        ([USER], "<u>2=;<a>"),
        ([SYSTEM, USER], "<s>1;<u>2=;<a>"),
        ([USER, {"role": "assistant", "content": "4"}, USER], "<u>2=;<a>4;<u>2=;<a>"),
        ([{"role": "user", "content": [{"type": "text", "text": t} for t in ("3", "4=")]}], "<u>3\n4=;<a>"),
        ([USER, {"role": "assistant", "content": "4"}], "<u>2=;<a>4"),
    ],
)
def test_the_template_gets_the_roles(chat, prompt, expected):
    assert text_of(chat, prompt) == expected


def test_texts_and_messages_share_a_batch(chat):
    tokens, mask = chat.encode(["2=", [SYSTEM, USER]])
    assert mask.sum(1).tolist() == [9, 14]
    assert chat.tokenizer.decode(tokens[0][mask[0].bool()]) == "<u>2=;<a>"


def test_engine_and_hidden_states_read_messages(chat):
    engine, sampling = HFEngine(chat), Sampling(4)
    of_messages = engine.generate([[SYSTEM, USER]], 3, sampling, seed=0)
    plain = replace(chat, tokenizer=build_policy("0123456789=<>;sua\n").tokenizer)
    of_text = HFEngine(plain).generate(["<s>1;<u>2=;<a>"], 3, sampling, seed=0)
    assert torch.equal(of_messages.prompt_tokens, of_text.prompt_tokens)
    assert of_messages.texts == of_text.texts
    states = hidden_states(chat)([[SYSTEM, USER], "2="])
    assert (states[0] == hidden_states(plain)(["<s>1;<u>2=;<a>"])[0]).all()


def test_a_file_reaches_the_template_unchanged(chat, tmp_path):
    write_parquet(PromptPool([[SYSTEM, USER]], ["4"], ["k"]), tmp_path / "a.parquet", data_source="x", ability="y")
    assert text_of(chat, read_prompts(tmp_path / "a.parquet").texts[0]) == "<s>1;<u>2=;<a>"


def test_without_a_chat_template_messages_are_refused(plain):
    with pytest.raises(ValueError, match=r"prompts has chat messages in row 1, and the policy's tokenizer has no chat"):
        HFEngine(plain).generate(["2=", [SYSTEM, USER]], 2, Sampling(2), seed=0)


@pytest.mark.parametrize("with_template", [False, True])
def test_images_are_refused(plain, with_template):
    plain.tokenizer.chat_template = TEMPLATE if with_template else None
    with pytest.raises(ValueError, match=r"prompts has image parts in row 1, and this policy reads text alone; leave"):
        HFEngine(plain).generate(["2=", [IMAGE]], 2, Sampling(2), seed=0)


def test_messages_that_the_template_refuses(chat):
    messages = [USER, {"role": "tool", "content": "3"}]
    with pytest.raises(
        ValueError, match=r"with the roles user, tool in row 1, .* refuses \(no tools here\); give other"
    ):
        chat.encode(["2=", messages])


def test_a_template_that_drops_the_message_to_continue(chat):
    chat.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match=r"with the roles user, assistant in row 1, .* refuses"):
        chat.encode(["2=", [USER, {"role": "assistant", "content": "3"}]])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompts has no messages in row 1"),
        ([{"role": "user", "content": None}], "content is not text in row 1"),
        ([{"content": "2="}], r"prompts has a message without role, but with \['content'\] in row 1"),
        (None, "prompts has a value of type NoneType in row 1; give text or chat messages"),
    ],
)
def test_prompts_that_no_policy_can_read(chat, prompt, message):
    with pytest.raises(ValueError, match=message):
        chat.encode(["2=", prompt])
