"""Small random vision-language models of several families, with their processors, and drawn figures."""

import copy
import io
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
)
from transformers.utils.import_utils import is_torchvision_available

from rl._processors import without_videos
from rl.policy import Policy, character_tokenizer

ALPHABET = "0123456789=+-? \n.,:/\\{}^_<>#$'\"()!" + "".join(
    chr(c) for c in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))
)
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_key_value_heads": 1,
    "head_dim": 32,  # vLLM reads it for some families, and divides for others; it has no kernels for 16
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    **_LAYERS,
}
_CLIP: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "image_size": 16, "patch_size": 4, **_LAYERS}
_GEMMA_LAYERS = ["sliding_attention", "full_attention"]
_QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4, "intermediate_size": 32}
_M_ROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _template(image: str) -> str:
    return (
        "{% for m in messages %}{{ m['role'] }}:{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )


def _qwen(kind: str, processor: Any, tokens: Any, text: dict[str, Any], vision: dict[str, Any]) -> tuple[Any, Any]:
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    sizes |= {"size": {"shortest_edge": 64, "longest_edge": 576}}
    images = Qwen2VLImageProcessorPil(**sizes)
    if is_torchvision_available():
        made = processor(images, tokens, Qwen2VLVideoProcessor(**sizes), chat_template=_QWEN_TEMPLATE)
    else:
        made = without_videos(processor)(images, tokens, chat_template=_QWEN_TEMPLATE)
    kinds = ("vision_start", "vision_end", "image", "video")
    names = {
        f"{name}_token_id": tokens.convert_tokens_to_ids(token) for name, token in zip(kinds, _QWEN_TOKENS, strict=True)
    }
    text = text | {"rope_parameters": _M_ROPE | ({"mrope_interleaved": True} if kind == "qwen3_vl" else {})}
    return AutoConfig.for_model(kind, text_config=text, vision_config=_QWEN | vision, **names), made


def _qwen2_5_vl(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "out_hidden_size": 64, "window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen("qwen2_5_vl", Qwen2_5_VLProcessor, tokens, text, vision)


def _qwen3_vl(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    vision = {"hidden_size": 32, "out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return _qwen("qwen3_vl", Qwen3VLProcessor, tokens, text, vision)


def _llava(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    images = LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokens,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    config = AutoConfig.for_model(
        "llava",
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": "clip_vision_model", **_CLIP},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def _idefics3(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    try:
        images = Idefics3ImageProcessorPil(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
        )
    except ImportError:
        pytest.skip("this version of Transformers reads images for Idefics3 with torchvision alone")
    processor = Idefics3Processor(images, tokens, image_seq_len=4, chat_template=_template("<image>"))
    config = AutoConfig.for_model(
        "idefics3",
        text_config={"model_type": "llama", **text},
        vision_config=_CLIP,
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def _gemma3(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = Gemma3Processor(images, tokens, image_seq_length=4, chat_template=_template("<boi>"))
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, "sliding_window": 8, "query_pre_attn_scalar": 16, "layer_types": _GEMMA_LAYERS},
        vision_config=_CLIP,
        mm_tokens_per_image=4,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )
    return config, processor


FAMILIES: dict[str, tuple[Any, dict[str, str] | tuple[str, ...]]] = {
    "qwen2_5_vl": (_qwen2_5_vl, _QWEN_TOKENS),
    "qwen3_vl": (_qwen3_vl, _QWEN_TOKENS),
    "llava": (_llava, ("<image>",)),
    "idefics3": (_idefics3, ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")),
    "gemma3": (_gemma3, {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<img>"}),
}


def tiny_vision(kind: str) -> Policy:
    """Return a policy that reads texts and images. Its predictions are far from uniform, and depend on the images."""
    return copy.deepcopy(_made(kind))


@cache
def _made(kind: str) -> Policy:
    make, special = FAMILIES[kind]
    plain = character_tokenizer(ALPHABET)
    named = {"extra_special_tokens": special if isinstance(special, dict) else list(special)}
    tokens = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, **plain.special_tokens_map, **named)
    ends = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    config, processor = make(tokens, _TEXT | ends | {"vocab_size": 160})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)  # Gemma 3 starts with a projection of images that is 0
                if parameter.ndim >= 2:
                    parameter.mul_(8)
    return Policy(model, tokens, processor=processor)


def user(*parts: Any) -> list[dict[str, Any]]:
    """Return a message of the user: every text is a part, and so is every image, given in any form."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return [{"role": "user", "content": content}]


def figure(number: int, size: tuple[int, int] = (24, 16), form: str = "PNG") -> bytes:
    """Return the drawing of a triangle with a number, as the content of an image file."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.polygon([(1, 1), (1, size[1] - 2), (size[0] - 2, size[1] - 2)], outline="black")
    draw.text((3, 3), str(number), fill="black")
    content = io.BytesIO()
    image.save(content, form)
    return content.getvalue()
