"""Prompts with images: vision-language models of five families read, sample and score them, and embed them."""

import copy
import io
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.utils.import_utils import is_torchvision_available

from rl.engines.hf import HFEngine
from rl.hidden_states import hidden_states
from rl.media import PER_TOKEN, take
from rl.policy import load_policy
from rl.rollout import Sampling
from tests.support.tiny_vision import FAMILIES, figure, tiny_vision, user

SMALL, WIDE, LARGE = figure(3), figure(4, (40, 16)), figure(5, (60, 60), "JPEG")
PROMPTS = [user(SMALL, "Find x?"), "12=", user("a", WIDE, "b", {"bytes": LARGE, "path": None}, "c?"), user(LARGE, "?")]
N = 3


def alone(policy, prompt, completion=()):
    """Return what Transformers' own call of the processor gives the model for a prompt, followed by a completion."""
    messages = user(prompt) if isinstance(prompt, str) else copy.deepcopy(prompt)
    for part in messages[0]["content"]:
        if part["type"] == "image":
            source = part["image"]["bytes"] if isinstance(part["image"], dict) else part["image"]
            part["image"] = Image.open(io.BytesIO(source))
    inputs = policy.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    more = torch.as_tensor(completion, dtype=torch.int64)[None]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in PER_TOKEN & set(inputs):
        inputs[name] = torch.cat([inputs[name], torch.zeros_like(more)], 1)
    return inputs


def without_placeholders(policy, logits):
    return logits.index_fill(-1, torch.tensor(policy.placeholder_ids), -torch.inf)


def scored(policy, out, **options):
    rows = torch.arange(len(out.prompt_tokens)).repeat_interleave(out.group_size)
    arguments = (out.prompt_tokens[rows], out.prompt_mask[rows], out.tokens, out.mask)
    return policy.score(*arguments, media=take(out.media, rows), **options)


@pytest.mark.parametrize("kind", FAMILIES)
def test_sampled_log_probabilities_match_each_row_alone_and_scoring(kind):
    """The batch holds prompts with no image, one and two images of unequal sizes."""
    policy: Any = tiny_vision(kind)
    out = HFEngine(policy).generate(PROMPTS, N, Sampling(8), seed=0)
    with torch.no_grad():
        for share_prompts in (False, True):
            found = scored(policy, out, share_prompts=share_prompts).log_probs
            torch.testing.assert_close(found[out.mask], out.log_probs[out.mask], atol=1e-5, rtol=0)
        for row in range(len(PROMPTS) * N):
            kept = out.tokens[row][out.mask[row]]
            model = copy.deepcopy(policy.model)  # a Qwen model keeps positions of its last batch
            logits = model(**alone(policy, PROMPTS[row // N], kept), use_cache=False).logits[0]
            logits = without_placeholders(policy, logits[-len(kept) - 1 : -1])
            expected = logits.log_softmax(-1).gather(1, kept[:, None])[:, 0]
            torch.testing.assert_close(expected, out.log_probs[row][out.mask[row]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_image_changes_the_predictions(kind):
    policy: Any = tiny_vision(kind)
    out = HFEngine(policy).generate([user(SMALL, "x?")], 1, Sampling(4), seed=0)
    other = out._replace(media=policy.read([user(figure(8), "x?")]).media)
    with torch.no_grad():
        gap = (scored(policy, out).log_probs - scored(policy, other).log_probs).abs().max()
    assert gap > 1e-3


@pytest.mark.parametrize("kind", ["qwen3_vl", "idefics3"])
def test_without_a_cache_and_in_chunks_the_completions_are_the_same(kind, monkeypatch):
    policy, greedy = tiny_vision(kind), Sampling(6, temperature=0)
    expected = HFEngine(policy).generate(PROMPTS, 2, greedy, seed=0)
    one_by_one = HFEngine(policy, max_prompts=1).generate(PROMPTS, 2, greedy, seed=0)
    monkeypatch.setattr("rl.engines.hf.take_cache", lambda output: {})
    slow = HFEngine(policy).generate(PROMPTS, 2, greedy, seed=0)
    assert one_by_one.texts == slow.texts == expected.texts


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_completion_holds_a_token_that_stands_for_an_image(kind):
    policy: Any = tiny_vision(kind)
    assert policy.placeholder_ids
    head = policy.model.get_output_embeddings().weight
    with torch.no_grad():
        head[list(policy.placeholder_ids)] = 20 * head.mean(0) + 1
    out = HFEngine(policy).generate(PROMPTS, 4, Sampling(8), seed=0)
    assert not torch.isin(out.tokens, torch.tensor(policy.placeholder_ids)).any()
    scores = scored(policy, out, entropy=True)
    assert scores.entropy is not None
    assert scores.entropy[out.mask].isfinite().all()
    torch.testing.assert_close(scores.log_probs[out.mask], out.log_probs[out.mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "gemma3"])
def test_hidden_states_are_the_models_own(kind):
    policy: Any = tiny_vision(kind)
    found = hidden_states(policy, batch_size=3)(PROMPTS)
    for prompt, vector in zip(PROMPTS, found, strict=True):
        model = copy.deepcopy(policy.model)
        with torch.no_grad():
            states = model(**alone(policy, prompt), output_hidden_states=True, use_cache=False).hidden_states
        np.testing.assert_allclose(vector, states[-1][0, -1], atol=2e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_policy_reads_the_same(kind, tmp_path):
    policy: Any = tiny_vision(kind)
    policy.save(tmp_path)
    loaded: Any = load_policy(tmp_path)
    expected, found = policy.read(PROMPTS), loaded.read(PROMPTS)
    assert torch.equal(found.tokens, expected.tokens)
    ours: Any = found.media
    for one, other in zip(ours, expected.media, strict=True):
        assert one.keys() == other.keys()
        for name in one:  # torchvision, where it is installed, resizes otherwise than Pillow
            torch.testing.assert_close(one[name], other[name], atol=0.1 if is_torchvision_available() else 0, rtol=0)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in loaded.model.state_dict().items())


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision, Transformers itself saves these settings")
def test_settings_of_videos_survive_loading_and_saving(tmp_path):
    """Without torchvision a processor of videos cannot be loaded, and yet its settings must not be lost."""
    policy: Any = tiny_vision("qwen2_5_vl")
    policy.save(tmp_path / "given")
    (tmp_path / "given" / "video_preprocessor_config.json").write_text('{"fps": 2}')
    load_policy(tmp_path / "given").save(tmp_path / "saved")
    for name in ("video_preprocessor_config.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "saved" / name).read_text() == (tmp_path / "given" / name).read_text()


@pytest.mark.parametrize("lacks", ["a file", "a package"])
def test_a_folder_without_a_processor_gives_a_policy_that_reads_texts(tmp_path, caplog, lacks, monkeypatch):
    policy: Any = tiny_vision("gemma3")
    policy.model.save_pretrained(tmp_path)
    (policy.processor if lacks == "a package" else policy.tokenizer).save_pretrained(tmp_path)
    if lacks == "a package":

        def missing(*arguments, **options):
            raise ImportError("pip install num2words")

        monkeypatch.setattr(type(policy.processor), "from_pretrained", missing)
    with caplog.at_level(logging.WARNING):
        loaded = load_policy(tmp_path)
    assert "has no processor" in caplog.text
    assert HFEngine(loaded).generate(["12="], 2, Sampling(2), seed=0).media is None
    with pytest.raises(ValueError, match=r"this policy reads text alone; leave the row out, or give a vision-language"):
        loaded.read([user(SMALL, "?")])


def test_transparent_pixels_are_white_and_photographs_are_upright():
    def content(image, form="PNG", **options):
        written = io.BytesIO()
        image.save(written, form, **options)
        return written.getvalue()

    policy: Any = tiny_vision("qwen2_5_vl")
    clear = Image.new("RGBA", (24, 16), (0, 0, 0, 0))
    white = Image.new("RGB", (24, 16), "white")
    half = Image.new("RGB", (24, 16), "white")
    half.paste("black", (0, 0, 12, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: the right side of the file is the bottom of the scene
    pairs = [(content(clear), content(white))]
    pairs += [(content(half.rotate(90, expand=True), exif=turned), content(half))]
    for one, other in pairs:
        ours, theirs = (policy.read([user(image, "?")]).media[0]["pixel_values"] for image in (one, other))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (user(SMALL[:60], "?"), r"prompts has an image that cannot be decoded \(.*\) in row 1; mend it, or leave"),
        (user(b"", "?"), "prompts has an image that has no content in row 1"),
        (
            user({"bytes": None, "path": "nowhere.png"}, "?"),
            r"an image that cannot be opened \(.*nowhere.png.*\) in row 1",
        ),
        (user({"url": "https://x.y/z.png"}, "?"), r"the address 'https://x.y/z.png', which is not downloaded in row 1"),
        (user(7, "?"), "an image that is of type int, and no bytes, path or image in row 1"),
        (
            user(SMALL, "<|image_pad|>?"),
            r"prompts has 1 images in row 1, and the policy's processor refuses the prompt",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "video": "a"}]}],
            "prompts has video parts in row 1, and this",
        ),
        (
            user(SMALL, "?" * 1000),
            "prompts has 1023 tokens in row 1, which with max_new_tokens=2 exceeds the limit of 1024",
        ),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        HFEngine(tiny_vision("qwen2_5_vl")).generate(["1=", prompt], 2, Sampling(2), seed=0)


def test_chat_messages_without_a_template_are_refused():
    policy: Any = tiny_vision("llava")
    policy.processor.chat_template = None
    assert policy.read(["12="]).mask.sum() == 3
    with pytest.raises(
        ValueError, match="chat messages in row 0, and the policy's processor has no chat template; give"
    ):
        policy.read([user(SMALL, "?")])


def test_bfloat16_rounds_and_agrees_roughly():
    policy = replace(tiny_vision("qwen2_5_vl"), precision="bfloat16")
    out = HFEngine(policy).generate(PROMPTS, N, Sampling(6), seed=0)
    with torch.no_grad():
        gap = (scored(policy, out).log_probs - out.log_probs)[out.mask].abs()
    assert gap.max() < 0.3
