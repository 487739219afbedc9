"""Selection finds mixed groups in google-tunix: random prompts against three methods in the same GRPOLearner.

    make tunix
    .venv-tunix/bin/python -m experiments.selection_in_tunix [--seeds 0 1 2] [--steps 40] [--pool 96]

Claim, on the mean over seeds: in the second half of training, mopps and dps with their default settings and adaptive at
a temperature of 1/3 have at least 1.5 times the share of mixed groups that random prompts have. A group, the
completions of one prompt in one step, is mixed if some but not all of them have the reward 1.

Tunix's own GRPOLearner samples from a policy of a few thousand weights and updates it. A step has 8 prompts and 64
completions of 6 tokens. The reward is not a task: a hash of prompt and completion decides, and each prompt has a
success rate from Beta(0.3, 0.3). So the runs show whether Tunix trains on what the selector chooses, and not whether
the policy learns more. Seeds vary the success rates, the policy, the sampling and the selector.
"""

import functools
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import jaxsel
from experiments.reporting.provenance import RESULTS, provenance, write_result
from experiments.reporting.spread import standard_error
from experiments.reporting.tables import text_table
from experiments.running.command import Distinct, module_parser, quiet_pipe
from jaxsel.integrations.tunix import SelectedPrompts

GROUP, PROMPTS = 8, 8  # completions per prompt, prompts per step
METHODS = {
    "uniform": jaxsel.uniform,
    "mopps": jaxsel.mopps,
    "dps": jaxsel.dps,
    "adaptive": functools.partial(jaxsel.adaptive, temperature=1 / 3),
}


def main(arguments: list[str]) -> None:
    """Run every method at every seed, print a table and write the result."""
    parser = module_parser("experiments.selection_in_tunix", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", action=Distinct, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pool", type=int, default=96, help="prompts")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    config = vars(parser.parse_args(arguments))
    output = config.pop("output")
    runs = [
        run(method, seed, config["steps"], config["pool"]) for seed in config["seeds"] for method in config["methods"]
    ]
    write_result(output / "selection_in_tunix.json", provenance(config, config["seeds"]) | {"runs": runs})
    lines = [line(method, [one for one in runs if one["method"] == method]) for method in config["methods"]]
    columns = ["prompts", "mixed, first half", "mixed, second half", "per seed"]
    print(text_table("mixed groups in Tunix", columns, lines))


def line(method: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return the method's line of the table."""
    early, late = ([one[f"mixed_{half}_half"] for one in runs] for half in ("first", "second"))
    error = float(standard_error(np.array(late)))
    seeds = " ".join(f"{share:.2f}" for share in late)
    return [method, f"{np.mean(early):.3f}", f"{np.mean(late):.3f} ({error:.3f})", seeds]


def run(method: str, seed: int, steps: int, pool_size: int) -> dict[str, Any]:
    """Train once and return the shares of mixed groups."""
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner  # pyright: ignore[reportMissingImports]

    cluster, words = tiny_cluster(seed, steps)
    rates = np.random.default_rng(seed).beta(0.3, 0.3, pool_size)
    texts = [f"{first} {second}" for first in words for second in words][:pool_size]
    rows = [{"prompts": text, "rate": float(rate)} for text, rate in zip(texts, rates, strict=True)]
    mixed: list[float] = []

    def correct(prompts: Any, completions: Any, rate: Any, **_: Any) -> list[float]:
        hashes = [zlib.crc32(f"{prompt} {text}".encode()) for prompt, text in zip(prompts, completions, strict=True)]
        rewards = [float(number % 1000 < 1000 * chance) for number, chance in zip(hashes, rate, strict=True)]
        means = np.reshape(rewards, (-1, GROUP)).mean(1)
        mixed.append(float(((means > 0) & (means < 1)).mean()))
        return rewards

    prompts = SelectedPrompts(rows, PROMPTS, METHODS[method](), seed=seed)
    learner = GRPOLearner(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=GROUP, num_iterations=1, beta=0.0),
        reward_fns=prompts.watched(correct),
        metric_fns=[prompts.metrics],
    )
    learner.train(prompts.batches(learner))
    halves = {"first": mixed[: steps // 2], "second": mixed[steps // 2 :]}
    shares = {f"mixed_{half}_half": float(np.mean(found)) for half, found in halves.items()}
    return {"method": method, "seed": seed, **shares, "mixed": mixed}


def tiny_cluster(seed: int, steps: int) -> tuple[Any, list[str]]:
    """Return Tunix's cluster with a policy of a few thousand weights, and the words of its vocabulary."""
    import optax
    from flax import nnx
    from jax.interpreters import pxla
    from tunix.rl import rl_cluster  # pyright: ignore[reportMissingImports]
    from tunix.rl.rollout.base_rollout import RolloutConfig  # pyright: ignore[reportMissingImports]
    from tunix.tests import test_common  # pyright: ignore[reportMissingImports]

    vocabulary, roles = test_common.MockVocab(), rl_cluster.Role
    model = test_common.ModelConfig(vocab_size=vocabulary.GetPieceSize())
    cluster = rl_cluster.RLCluster(
        actor=test_common.ToyTransformer(config=model, rngs=nnx.Rngs(seed)),
        reference=test_common.ToyTransformer(config=model, rngs=nnx.Rngs(seed)),
        tokenizer=vocabulary,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), pxla.thread_resources.env.physical_mesh
            ),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(1e-3), eval_every_n_steps=10**6, max_steps=steps
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=6, max_prompt_length=8, kv_cache_size=32, temperature=1.0, seed=seed
            ),
        ),
    )
    return cluster, [word for word in vocabulary.DEFAULT_MAPPING if not word.startswith("<")]


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
