"""Supervised learning of a pretrained policy on the demonstrations of a task, before RL. The result is cached on disk.

A pretrained model rarely answers in the form that a verifier reads. A few dozen steps on demonstrations teach the form.
Then more groups of rollouts hold both right and wrong answers, which GRPO can compare. The loss is the mean of
-log p over the tokens of the completions, end of sequence included. Prompts are rendered as in the rollouts.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from jaxsel.integrations.cache import cache_root
from rl._supervised import take_step
from rl._written_once import written_once
from rl.policy import Policy, load_policy
from rl.progress import bar
from rl.prompts import Demonstration, Task
from rl.run_folder.checkpoint import check_finite
from rl.supervised_config import FineTuningConfig as FineTuningConfig

_FORMAT = 1  # increase it when the same configuration would give other weights
_WARM_UP = 20  # steps
_TOKENIZED = 64  # demonstrations whose tokens are hashed


def fine_tune(
    policy: Policy, task: Task, config: FineTuningConfig, *, cache: Path | None = None, progress: bool = True
) -> Policy:
    """Return the policy after supervised learning on the task's demonstrations.

    The first call trains the policy in place. Later calls with an equal policy, task and settings read the result from
    disk.

    Args:
        policy: A policy with any tokenizer, with or without a chat template.
        task: The task, whose demonstrations the policy imitates.
        config: The settings.
        cache: The folder of finished policies. None: `cache_root()`.
        progress: Whether to show a progress bar during training.

    Raises:
        ValueError: The task has no demonstrations, or a gradient norm or a weight is not finite.
    """
    if not config.steps:
        return policy
    name = "".join(letter if letter.isalnum() else "_" for letter in task.name)[:40]
    folder = (cache or cache_root()) / f"{name}-{_identity(policy, task, config)}"
    if not folder.exists():

        def write(partial: Path) -> None:
            _train(policy, task, config, progress)
            check_finite(dict(policy.model.named_parameters()), folder)
            policy.save(partial)

        written_once(folder, write)
    tuned = load_policy(folder)
    tuned.model.to(policy.device)  # type: ignore[arg-type]
    return replace(tuned, precision=policy.precision)


def _identity(policy: Policy, task: Task, config: FineTuningConfig) -> str:
    """Return a hash of the weights, the precision, the settings, and the demonstrations that the policy imitates.

    The tokens of the first 64 depend on the tokenizer and its chat template. Of the others the texts are hashed, which
    is quicker. Tasks that hold out other prompts may have the same first demonstrations.
    """
    demonstrations = iter(task.demonstrations(config.seed))
    sample = list(itertools.islice(demonstrations, _TOKENIZED))
    batches = [_encode(policy, [demonstration]) for demonstration in sample]
    tokens = [[batch[0].tolist(), batch[2].tolist()] for batch in batches]
    found = hashlib.sha256(json.dumps([_FORMAT, policy.precision, asdict(config), tokens]).encode())
    for demonstration in itertools.islice(demonstrations, max(0, config.steps * config.batch_size - _TOKENIZED)):
        found.update(json.dumps(demonstration).encode())
    for name, weight in policy.model.state_dict().items():
        found.update(f"{name}{weight.dtype}{tuple(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _train(policy: Policy, task: Task, config: FineTuningConfig, progress: bool) -> None:
    parameters = [weight for weight in policy.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    demonstrations = iter(task.demonstrations(config.seed))
    shown = bar(range(config.steps), desc=f"fine-tuning ({task.name})", unit="step", disable=not progress)
    for step in shown:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        loss = _loss(policy, list(itertools.islice(demonstrations, config.batch_size)))
        take_step(optimizer, loss, of="fine-tuning", step=step)


def _schedule(step: int, steps: int) -> float:
    return min((step + 1) / _WARM_UP, (steps - step) / steps)


def _loss(policy: Policy, demonstrations: Sequence[Demonstration]) -> torch.Tensor:
    prompt_tokens, prompt_mask, tokens, mask = _encode(policy, demonstrations)
    return -policy.score(prompt_tokens, prompt_mask, tokens, mask).log_probs[mask].mean()


def _encode(policy: Policy, demonstrations: Sequence[Demonstration]) -> tuple[torch.Tensor, ...]:
    """Return the arguments of `Policy.score`: left-padded prompts, right-padded completions, and their masks."""
    prompts = policy.encode([demonstration.prompt for demonstration in demonstrations])
    rows = [
        [*policy.tokenizer(one.completion, add_special_tokens=False)["input_ids"], policy.eos_token_id]
        for one in demonstrations
    ]
    return *prompts, *_right_padded(rows, policy)


def _right_padded(rows: Iterable[Sequence[int]], policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    rows = list(rows)
    shape = (len(rows), max(map(len, rows)))
    tokens = torch.full(shape, policy.pad_token_id, device=policy.device)
    mask = torch.zeros(shape, dtype=torch.bool, device=policy.device)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return tokens, mask
