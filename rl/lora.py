"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a policy's own model, by the library peft.

The adapters are put into the linear layers in place, so the policy stays a model of Transformers. Transformers'
own method `add_adapter` is not used: Transformers 5.24 refuses every released version of peft.
"""

import hashlib
import importlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

_NAME = "policy"
_MARK = ".lora_"


class Adapters:
    """Adapters in a model. Their weights are trained, and all other weights are frozen.

    Args:
        model: The model, which is changed in place. It computes the same as before, until the adapters are trained.
        rank: The rank of every adapter.
        alpha: The scale of the adapters: their product is multiplied by `alpha / rank`.
        targets: The names of the linear layers that get adapters, separated by commas; all-linear: every linear layer
            but the output layer.
        seed: The seed of the adapters' initial weights.

    Raises:
        ImportError: peft is not installed.
        ValueError: The model has adapters already, no layer has one of the names, or such a layer shares its weight
            with another one, as tied embeddings do.
    """

    def __init__(self, model: PreTrainedModel, *, rank: int, alpha: float, targets: str, seed: int):
        peft = _peft()
        if is_adapted(model):
            raise ValueError(f"lora_rank is {rank}, but the policy has adapters already; load the policy again")
        names: str | list[str] = targets
        if targets != "all-linear":
            names = [name.strip() for name in targets.split(",")]
            _check_not_shared(model, names)
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
            except ValueError as error:
                cure = "give names of its linear layers, separated by commas, or all-linear"
                raise ValueError(f"lora_targets is {targets!r}, which does not fit the model; {cure}") from error
        for name, weight in model.named_parameters():
            weight.requires_grad_(_MARK in name)
        self._model = model
        self._layers = [layer for layer in model.modules() if hasattr(layer, "get_delta_weight")]
        self._fingerprint = ""

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute with the base model inside the `with` block."""
        for layer in self._layers:
            layer.enable_adapters(False)  # type: ignore[operator]
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)  # type: ignore[operator]

    @torch.no_grad()
    def merged(self) -> dict[str, torch.Tensor]:
        """Return a state dict of the model without adapters. The adapters' products are added to the weights."""
        added = {
            f"{name}.base_layer.weight": layer.get_delta_weight(_NAME)  # type: ignore[operator]
            for name, layer in self._model.named_modules()
            if hasattr(layer, "get_delta_weight")
        }
        found = {}
        for name, weight in self._model.state_dict().items():
            if _MARK not in name:
                plain = name.replace(".base_layer.", ".")
                found[plain] = weight + added[name].to(weight.dtype) if name in added else weight
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the adapters, and a fingerprint of the base model, which the state does not hold."""
        own = {name: weight for name, weight in self._model.state_dict().items() if _MARK in name}
        return {"adapters": own, "base": self._base()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the weights of the adapters.

        Raises:
            ValueError: The state belongs to another base model.
        """
        if state["base"] != self._base():
            cure = "give the policy that the run started from"
            raise ValueError(f"the checkpoint's adapters belong to another base model; {cure}")
        self._model.load_state_dict(state["adapters"], strict=False)

    def _base(self) -> str:
        """Return a hash of the base weights, which never change; it is computed once."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            for name, weight in self._model.state_dict().items():
                if _MARK not in name:
                    digest.update(f"{name}{weight.dtype}{tuple(weight.shape)}".encode())
                    digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _check_not_shared(model: PreTrainedModel, targets: list[str]) -> None:
    """Refuse layers whose weight is another layer's too: with merged adapters, there is no one weight for both."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    count = Counter(map(id, weights.values()))
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        if count[id(weight)] > 1 and any(layer == target or layer.endswith(f".{target}") for target in targets):
            raise ValueError(
                f"lora_targets is {','.join(targets)!r}, and {layer} shares its weight with another layer (tied "
                "embeddings); leave it out"
            )


def is_adapted(model: torch.nn.Module) -> bool:
    """Return whether the model holds adapters."""
    return any(_MARK in name for name, _ in model.named_parameters())


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError('peft is not installed; pip install "jaxsel[lora]"', name="peft") from error
