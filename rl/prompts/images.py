"""Images of prompts: where their content is, whether it can be decoded, and how Pillow decodes it.

An image of a message is a part such as `{"type": "image", "image": source}`. The source is the content of an image file
(bytes), a record `{"bytes": ..., "path": ...}` as in data sets of Hugging Face, a path, a data URL, base64, or an image
of Pillow. The fields `path`, `url` and `image_url` may hold the source too.
"""

import base64
import binascii
import io
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import numpy as np

from rl.prompts.messages import Message, Prompt, media_kinds

TYPES = ("image", "image_url", "input_image")
"""The types of parts that are images."""
_LONGEST_PATH = 4096  # on Linux; a longer text is the content itself
_FIELDS = ("image", "path", "url", "image_url")


class ImageError(ValueError):
    """An image cannot be read; the message is the middle of a sentence, such as "has no content"."""


def is_image(part: Any) -> bool:
    """Return whether a part of a message is an image."""
    return isinstance(part, dict) and part.get("type") in TYPES


def embedded(prompt: Prompt, folder: str | Path) -> Prompt:
    """Return a prompt whose images hold their content, after decoding each of them once.

    A path becomes the record `{"bytes": content, "path": path}`, so that the prompt means the same on every machine.
    All other parts stay as they are.

    Args:
        prompt: The prompt.
        folder: The folder from which relative paths start.

    Raises:
        ImageError: An image is missing or cannot be decoded.
    """
    if isinstance(prompt, str) or "image" not in media_kinds(prompt):
        return prompt
    return [_embedded_message(message, Path(folder)) for message in prompt]


def decoded(part: Message) -> Any:
    """Return the image of a part as Pillow's image in RGB, upright, with white behind transparent pixels.

    Raises:
        ImageError: The image is missing or cannot be decoded.
        ImportError: Pillow is not installed.
    """
    from PIL import Image, ImageOps

    content = _content(_source(part), Path())
    try:
        image = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content))
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot be decoded ({error})") from None
    image = _of_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _of_8_bits(image: Any) -> Any:
    """Return a grey image of 16 bits per pixel with the upper 8 of them; Pillow would turn all larger numbers white.

    Numbers up to 255 stay. Images of 32 bits are read as images of 8 or 16 bits if their numbers fit.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    numbers = np.asarray(image)
    lowest, highest = numbers.min(), numbers.max()
    if image.mode != "F" and lowest >= 0 and highest <= 0xFFFF:
        return Image.fromarray((numbers.astype(np.uint16) >> (8 if highest > 0xFF else 0)).astype(np.uint8))
    if image.mode == "F" and lowest >= 0 and 1 < highest <= 0xFF:
        return image
    raise ImageError(f"has pixels of 32 bits from {lowest:g} to {highest:g}, of an unknown scale; save it with 8")


def _embedded_message(message: Message, folder: Path) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_embedded_part(part, folder) if is_image(part) else part for part in content]}


def _embedded_part(part: Message, folder: Path) -> Message:
    source = _source(part)
    path = source.get("path") if isinstance(source, dict) else source
    inside = isinstance(source, dict) and source.get("bytes") is not None
    path = str(path) if isinstance(path, PurePath) else path
    if not inside and isinstance(path, str) and path[:5].lower() != "data:":
        content = _content(path, folder)
        part = {"type": "image", "image": {"bytes": content, "path": path if len(path) <= _LONGEST_PATH else None}}
    decoded(part)
    return part


def _source(part: Message) -> Any:
    found = next((part[name] for name in _FIELDS if part.get(name) is not None), None)
    return found["url"] if isinstance(found, dict) and isinstance(found.get("url"), str) else found


def _content(source: Any, folder: Path) -> Any:
    """Return the content of an image file as bytes, or an image of Pillow."""
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if source is None or (isinstance(source, str | bytes) and not source):
        raise ImageError("has no content")
    if isinstance(source, PurePath):
        source = str(source)
    if not isinstance(source, str):
        return source if hasattr(source, "getexif") else _as_bytes(source)
    scheme = source[:8].lower()
    if scheme.startswith("data:"):
        return _of_base64(source.partition(",")[2], "no data URL that can be read")
    if scheme.startswith(("http://", "https://")):
        raise ImageError(f"is the address {source!r:.80}, which is not downloaded")
    path = unquote(source[len("file://") :]) if scheme.startswith("file://") else source
    if len(path) > _LONGEST_PATH:
        return _of_base64(path, "neither a path nor base64")
    try:
        return (folder / path).read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({error!s:.200})") from None


def _of_base64(text: str, otherwise: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"is {otherwise} ({error})") from None


def _as_bytes(source: Any) -> bytes:
    try:
        if getattr(source, "ndim", None) is not None:  # pixels, whose order and range nobody knows
            raise TypeError
        return bytes(memoryview(source))
    except TypeError:
        raise ImageError(f"is of type {type(source).__name__}, and no bytes, path or image") from None
