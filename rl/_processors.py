"""The processors of vision-language models: which models have one, and how it is loaded and saved."""

import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, ProcessorMixin
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.hub import cached_file
from transformers.utils.import_utils import is_torchvision_available

_log = logging.getLogger(__name__)
_FILES = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "chat_template.jinja"),
)


def reads_images(path: str | Path, **options: Any) -> bool:
    """Return whether the model of a folder or a hub name is a vision-language model.

    Args:
        path: The folder or the name.
        **options: Options of `from_pretrained`.
    """
    config: Any = options.pop("config", None)
    if config is None:
        config, _ = AutoConfig.from_pretrained(path, return_unused_kwargs=True, **options)
    architectures = getattr(config, "architectures", None)
    if architectures:
        return architectures[0] in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    kind = config.model_type
    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def load_processor(path: str | Path, tokenizer: Any) -> ProcessorMixin | None:
    """Load the processor of a vision-language model, with this tokenizer.

    A processor of videos needs torchvision. Where torchvision is missing, the processor is loaded without it.

    Args:
        path: The folder of the model, or its name on the hub.
        tokenizer: The tokenizer of the policy.

    Returns:
        The processor. None, after a warning, if there is none, or if it needs a package that is not installed: the
        model then reads texts alone.
    """
    kind: Any = AutoProcessor
    if not is_torchvision_available():
        config = AutoConfig.from_pretrained(path)
        kind = without_videos(PROCESSOR_MAPPING[type(config)]) if type(config) in PROCESSOR_MAPPING else kind
    try:
        processor = kind.from_pretrained(path)
    except (OSError, ImportError, ValueError) as error:
        _log.warning("%s has no processor that can be loaded (%s); the policy reads texts alone", path, error)
        return None
    if not isinstance(processor, ProcessorMixin):  # AutoProcessor falls back to a tokenizer
        _log.warning("%s has no processor that can be loaded; the policy reads texts alone", path)
        return None
    processor.tokenizer = tokenizer  # type: ignore[attr-defined]
    if hasattr(processor, "kept_files"):
        processor.kept_files = _contents(path)  # type: ignore[attr-defined]
    return processor


def without_videos(kind: Any) -> Any:
    """Return a class of processors that needs no processor of videos; the class itself if it never has one.

    A folder that it saves holds the settings of the folder that it was loaded from, those of videos included.
    """
    if "video_processor" not in kind.get_attributes():
        return kind

    class WithoutVideos(kind):
        kept_files: dict[str, bytes]

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.kept_files = {}

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> Any:
            written = super().save_pretrained(save_directory, push_to_hub, **options)
            for name, content in self.kept_files.items():
                Path(save_directory, name).write_bytes(content)
            return written

    WithoutVideos.__name__ = kind.__name__  # a folder that it saves names this class
    return WithoutVideos


def _contents(path: str | Path) -> dict[str, bytes]:
    """Return the content of the processor's files by name."""
    optional: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    found = {name: cached_file(path, name, **optional) for name in _FILES}
    return {name: Path(file).read_bytes() for name, file in found.items() if file is not None}
