"""Embeddings of a run's pool: by WordLlama, by the policy at the start of the run, by both, or from difficulties."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.reporting.provenance import write_result
from experiments.running.config import CONFIG, EMBEDDINGS
from jaxsel.integrations.atomic_files import replaced_when_complete
from jaxsel.integrations.embeddings import embed
from rl.hidden_states import hidden_states
from rl.policy import Policy
from rl.prompts import PromptPool
from rl.prompts.features import features_of
from rl.run_folder.contents import NEWEST, PREVIOUS

_PIXELS_AT_ONCE = 64
"""Prompts whose pixels are in memory together: about 1 GB for images of 1,000 by 1,000 pixels."""


def pool_embeddings(
    kind: str, pool: PromptPool, policy: Policy | None, run_dir: Path | None, num_kernel_features: int = 0
) -> np.ndarray:
    """Return one vector per prompt of the pool.

    Embeddings by the policy and those of difficulties are saved in the run's folder, and `config.json` notes the
    seconds they took. A run with a checkpoint reads them again: its selector accepts only the same bits, which another
    machine may not reproduce.

    Args:
        kind: wordllama, policy, both or difficulty; see `MethodConfig`.
        pool: The training prompts.
        policy: The policy at the start of the run.
        run_dir: The run's folder. None: the embeddings are not saved.
        num_kernel_features: Number of the `kernel_features` of the policy's hidden states that follow them.

    Raises:
        ValueError: The kind needs a policy or strata, and there are none, or no stratum tells prompts apart. Or:
            the saved embeddings are damaged.
    """
    if kind == "wordllama":
        return embed(pool.plain_texts, progress=False)
    compute = difficulties(pool) if kind == "difficulty" else _states(kind, pool, policy, num_kernel_features)
    if run_dir is not None and (run_dir / EMBEDDINGS).exists() and _has_checkpoint(run_dir):
        return _saved(run_dir / EMBEDDINGS, len(pool))
    start = time.perf_counter()
    vectors = compute()
    if run_dir is not None:
        _save(vectors, time.perf_counter() - start, run_dir)
    return vectors


def difficulties(pool: PromptPool) -> Callable[[], np.ndarray]:
    """Return a function that computes the embeddings from the strata of the prompts.

    Raises:
        ValueError: The prompts have no strata.
    """
    strata = pool.strata
    if strata is None:
        raise ValueError(
            "method.embeddings is 'difficulty', and the prompts have no strata; name their column by data.stratum, or "
            "give wordllama"
        )
    return lambda: features_of(list(strata))


def kernel_features(states: Float[np.ndarray, "N d"], size: int) -> Float[np.ndarray, "N size"]:
    r"""Return random Fourier features of hidden states (Rahimi and Recht 2007), always the same for the same states.

    Products of two prompts' features approximate the kernel $\exp(-|x - y|^2 / d)$ of their states x and y, which are
    standardised over the pool. So a linear model of the features predicts a prompt from those with similar states.
    """
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sampler = RBFSampler(gamma=1 / states.shape[1], n_components=size, random_state=0)
    features = make_pipeline(StandardScaler(), sampler).fit_transform(states.astype(np.float32, copy=False))
    return features.astype(np.float32, copy=False)


def _states(kind: str, pool: PromptPool, policy: Policy | None, num_kernel_features: int) -> Callable[[], np.ndarray]:
    if policy is None:
        raise ValueError(f"policy is None with method.embeddings {kind!r}; give the policy of the run, or wordllama")

    def compute() -> np.ndarray:
        states = _hidden_states(pool, policy)
        words = [embed(pool.plain_texts, progress=False)] if kind == "both" else []
        features = [kernel_features(states, num_kernel_features)] if num_kernel_features else []
        return np.concatenate([*words, states, *features], 1) if words or features else states

    return compute


def _saved(path: Path, num_prompts: int) -> np.ndarray:
    """Read the embeddings of a run; its selector refuses other bits, so a checksum is not needed."""
    try:
        vectors = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        wrong = f"cannot be read ({error})"
    else:
        if vectors.ndim == 2 and len(vectors) == num_prompts:
            return vectors
        wrong = f"has shape {vectors.shape} for {num_prompts} prompts"
    raise ValueError(f"{path} {wrong}; put back a copy of it, or delete it: the run then computes the embeddings again")


def _hidden_states(pool: PromptPool, policy: Policy) -> np.ndarray:
    texts, encode = pool.plain_texts, hidden_states(policy)
    prompts = dict(zip(texts, pool.texts, strict=True))
    names: Sequence[str] = texts
    if any(prompts[text] != prompt for text, prompt in zip(texts, pool.texts, strict=True)):
        # Prompts with equal texts have different images: here the key names a prompt.
        names = list(pool.keys)
        prompts = dict(zip(names, pool.texts, strict=True))
    options: dict[str, Any] = {} if policy.processor is None else {"batch_size": _PIXELS_AT_ONCE}
    return embed(names, embedder=lambda some: encode([prompts[name] for name in some]), progress=False, **options)


def _has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / name).exists() for name in (NEWEST, PREVIOUS))


def _save(vectors: np.ndarray, seconds: float, run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(run_dir / EMBEDDINGS) as file:
        np.save(file, vectors)
    if (run_dir / CONFIG).exists():
        found = json.loads((run_dir / CONFIG).read_text())
        write_result(run_dir / CONFIG, found | {"embedding_seconds": round(seconds, 3)})
