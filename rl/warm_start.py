"""Supervised learning of the built-in policy before RL (warm start). The result is cached on disk."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from jaxsel.integrations.cache import cache_root
from rl._supervised import take_step
from rl._written_once import written_once
from rl.policy import Policy, build_policy, load_policy
from rl.progress import bar
from rl.prompts import Demonstration, Task
from rl.run_folder.checkpoint import check_finite
from rl.supervised_config import WarmStartConfig as WarmStartConfig

_FORMAT = 1  # increase it when the same configuration would give other weights


def warm_start(task: Task, config: WarmStartConfig, *, cache: Path | None = None, progress: bool = True) -> Policy:
    """Return the built-in policy after supervised learning on the task's demonstrations.

    The first call trains the policy. Later calls with the same task and settings read it from disk. Of many processes
    that call at once, one trains, and the others wait for it.

    Args:
        task: The task, whose demonstrations the policy imitates.
        config: The settings that the weights depend on.
        cache: The folder of finished policies. None: `cache_root()`.
        progress: Whether to show a progress bar during training.
    """
    # The first demonstrations are part of the name, so that an edited task does not load its old version's policy. They
    # depend on the seed alone: the tasks of the built-in policy have no settings, such as a share that is held out.
    sample = list(itertools.islice(task.demonstrations(config.seed), 256))
    identity = json.dumps([_FORMAT, task.name, task.alphabet, asdict(config), sample], sort_keys=True)
    folder = (cache or cache_root()) / f"{task.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not folder.exists():

        def write(partial: Path) -> None:
            policy = _train(task, config, progress)
            check_finite(dict(policy.model.named_parameters()), folder)
            policy.save(partial)

        written_once(folder, write)
    return load_policy(folder)


def _train(task: Task, config: WarmStartConfig, progress: bool) -> Policy:
    policy = build_policy(
        task.alphabet,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        feed_forward_size=config.feed_forward_size,
        seed=config.seed,
    )
    model = policy.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01, fused=True)
    batches = _batches(task.demonstrations(config.seed), config.batch_size, policy)
    for step in bar(range(config.steps), desc=f"warm start ({task.name})", unit="step", disable=not progress):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        tokens, targets = next(batches)
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        take_step(optimizer, loss, of="warm-start", step=step)
    policy.model.eval()
    return policy


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * step / steps))


def _batches(
    demonstrations: Iterator[Demonstration], batch_size: int, policy: Policy
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield right-padded tokens and targets without end, int64 `[batch_size, t]`.

    Targets are -100 on prompts and padding.
    """
    while True:
        block = list(itertools.islice(demonstrations, 16 * batch_size))
        prompts = _encode([d.prompt for d in block], policy)
        completions = _encode([d.completion for d in block], policy)
        for start in range(0, len(block), batch_size):
            rows = list(zip(prompts, completions, strict=True))[start : start + batch_size]
            width = 1 + max(len(p) + len(c) for p, c in rows)
            tokens = torch.full((batch_size, width), policy.pad_token_id)
            targets = torch.full((batch_size, width), -100)
            for i, (prompt, completion) in enumerate(rows):
                row = torch.tensor([*prompt, *completion, policy.eos_token_id])
                tokens[i, : len(row)] = row
                targets[i, len(prompt) : len(row)] = row[len(prompt) :]
            yield tokens, targets


def _encode(texts: Sequence[str], policy: Policy) -> list[list[int]]:
    return policy.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
