"""A policy of a few thousand weights in Tunix's GRPOLearner, for test_tunix.py."""

import zlib
from pathlib import Path
from typing import Any

import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.interpreters import pxla
from tunix.rl import rl_cluster  # pyright: ignore[reportMissingImports]
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner  # pyright: ignore[reportMissingImports]
from tunix.rl.rollout.base_rollout import RolloutConfig  # pyright: ignore[reportMissingImports]
from tunix.tests import test_common  # pyright: ignore[reportMissingImports]

import jaxsel
from jaxsel.integrations.tunix import SelectedPrompts

N, K, G = 24, 4, 4  # prompts of the pool, prompts per batch, completions per prompt
VOCABULARY = test_common.MockVocab()
WORDS = [word for word in VOCABULARY.DEFAULT_MAPPING if not word.startswith("<")]
ROWS = [{"prompts": f"{WORDS[i % 16]} {WORDS[i // 16]}", "level": 20 + 3 * i, "key": f"p{i}"} for i in range(N)]


class Judge:
    """A reward function that records each call: training or evaluation, the selected rows if any, and the rewards."""

    def __init__(self) -> None:
        self.__name__ = "correct"
        self.seen: list[tuple[str, list[int] | None, list[Any]]] = []

    def __call__(self, prompts: Any, completions: Any, level: Any, mode: str, **columns: Any) -> list[Any]:
        """Return pseudo-random rewards, 0 or 1. Higher levels succeed more often."""
        pairs = zip(prompts, completions, level, strict=True)
        rewards = [float(zlib.crc32(f"{prompt} {text}".encode()) % 100 < high) for prompt, text, high in pairs]
        rows = columns.get("selected_row")
        self.seen.append((mode, None if rows is None else rows.tolist(), rewards))
        return rewards


def prompts(**options: Any) -> SelectedPrompts:
    """Return training data; the options replace the defaults."""
    return SelectedPrompts(**{"rows": ROWS, "batch_size": K, "selector": jaxsel.mopps(), "seed": 0} | options)


def learner(folder: Path | None, reward_fns: Any, *, iterations: int = 1, steps: int = 3, **config: Any) -> Any:
    """Return a learner, with a checkpoint after every step if there is a folder."""
    metric_fns = config.pop("metric_fns", None)
    group, save_every, kind = config.pop("group", G), config.pop("interval", 1), config.pop("kind", GRPOLearner)
    mesh, roles = pxla.thread_resources.env.physical_mesh, rl_cluster.Role
    model = test_common.ModelConfig(vocab_size=VOCABULARY.GetPieceSize(), num_layers=1)
    saving = {} if folder is None else {"checkpoint_root_directory": str(folder)}
    saving |= {} if folder is None else {"checkpointing_options": ocp.CheckpointManagerOptions(save_every, 3)}
    defaults = {"actor_optimizer": optax.sgd(1e-2), "eval_every_n_steps": 10**6, "max_steps": steps}
    cluster = rl_cluster.RLCluster(
        actor=test_common.ToyTransformer(config=model, rngs=nnx.Rngs(0)),
        reference=test_common.ToyTransformer(config=model, rngs=nnx.Rngs(0)),
        tokenizer=VOCABULARY,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys((roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
            training_config=rl_cluster.RLTrainingConfig(**{**defaults, **saving, **config}),
            rollout_config=RolloutConfig(max_tokens_to_generate=3, max_prompt_length=4, kv_cache_size=16),
        ),
    )
    algorithm = GRPOConfig(num_generations=group, num_iterations=iterations, beta=0.0)
    return kind(rl_cluster=cluster, algo_config=algorithm, reward_fns=reward_fns, metric_fns=metric_fns)


def train(folder: Path | None = None, eval_ds: Any = None, judge: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    """Train and return the reward function, the training data and the metrics per step."""
    ours = {"rows", "selector", "seed", "success", "threshold", "key_column", "state_folder", "save_every"}
    ours |= {"history", "batch_size"}
    data = prompts(**{name: options.pop(name) for name in ours & options.keys()})
    judge, logs = judge or Judge(), []
    run = learner(folder, data.watched(judge), metric_fns=[data.metrics], **options)
    run.rl_cluster.with_external_metrics_logger(lambda metrics: logs.append((metrics.mode, metrics.metrics)))
    run.train(data.batches(run), eval_ds)
    return judge, data, logs
