import ast
import importlib
from pathlib import Path

import transformers
from transformers.utils.import_utils import DummyObject, is_torchvision_available

_STUB = Path(__file__).parents[2] / "typings" / "transformers" / "__init__.pyi"


def test_pyright_sees_the_same_objects_as_a_program() -> None:
    imports = [node for node in ast.parse(_STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert imports
    for statement in imports:
        assert statement.module
        if "video_processing" in statement.module and not is_torchvision_available():
            continue
        module = importlib.import_module(statement.module)
        for alias in statement.names:
            found = getattr(transformers, alias.name)
            if not is_torchvision_available() and isinstance(found, DummyObject):  # it stands for a class that needs it
                continue
            assert getattr(module, alias.name) is found, alias.name
    assert transformers.PreTrainedTokenizerFast is transformers.TokenizersBackend
