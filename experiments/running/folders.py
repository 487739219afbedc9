"""Names of run folders: every choice of settings has one name, short enough for any file system."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.running.config import CONFIG, EMBEDDINGS, RunConfig, flat, flat_settings, read_settings
from experiments.running.job import JOBS
from experiments.running.overrides import swept_in
from rl.run_folder.contents import COMPLETIONS, DAMAGED, ENDED, HISTORY, METRICS, NEWEST, POLICY, PREVIOUS
from rl.run_folder.holder import LOCK
from rl.train_config import may_change

_OF_A_START = ("resume", "threads", "dry_run")
_OF_A_RUN = (
    *(CONFIG, METRICS, ENDED, LOCK, JOBS, EMBEDDINGS, "events.out.tfevents.*", ".*.jaxsel-*"),
    *(NEWEST, PREVIOUS, DAMAGED, POLICY, HISTORY, COMPLETIONS),
    *("wandb", "wandb_id", "trackio_id", ".hydra", "train.log"),  # of trackers and Hydra
)
"""Patterns of the names in a run's folder."""
_PARTS = ("part-*.parquet", ".*.jaxsel-*")
_WITHIN = {
    POLICY: ("*config.json", "tokenizer.json", "special_tokens_map.json", "chat_template.jinja", "model*.safetensors*"),
    HISTORY: ("pool.parquet", *_PARTS),
    COMPLETIONS: _PARTS,
}
"""Patterns of the names in its folders."""
_LONGEST, _MOST = 150, 255  # characters before a hash, and with one; file systems allow 255 bytes


def name_of(settings: Mapping[str, Any]) -> str:
    """Return a folder name such as `method.name=mopps,seed=0`, of characters that every file system allows.

    If the settings contain other characters, such as a slash, or are too long, the name ends in a hash of them.
    """
    said = ",".join(f"{name}={value}" for name, value in settings.items())
    safe = re.sub(r"[^\w.,=+-]", "_", said, flags=re.ASCII)
    return safe if safe == said and len(said) <= _LONGEST else f"{safe[:_LONGEST]}-{_hashed(said)}"


def of_run(config: DictConfig) -> str:
    """Return the folder name of one run: task, method, seed, and every other setting that is not the default."""
    chosen = _chosen(config)
    task, method, seed = (OmegaConf.select(config, name) for name in ("task", "method.name", "seed"))
    for name in ("task", "method.name", "seed"):
        chosen.pop(name, None)
    head = name_of({"run": f"{task}-{method}-{seed}"}).removeprefix("run=")
    name = f"{head},{name_of(chosen)}" if chosen else head
    return name if len(name) <= _MOST else f"{name[:_LONGEST]}-{_hashed(name)}"


def of_sweep(config: DictConfig, swept: Sequence[str]) -> str:
    """Return the folder name of one run of a sweep.

    The name consists of the swept settings and a hash of the other settings that are not the default.

    Args:
        config: Configuration of the run.
        swept: Names of settings with several values on the command line.
    """
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    names = [*swept, *(str(name) for name in params if name not in swept)]
    chosen = _chosen(config)
    named = {name: OmegaConf.select(config, name) for name in names} or chosen
    others = {name: value for name, value in chosen.items() if name not in named}
    name = name_of(named) or "run"
    return f"{name}-{_hashed(json.dumps(others, sort_keys=True, default=str))}" if others else name


def clear_runs(folders: Iterable[Path]) -> None:
    """Delete the runs in the folders, so that other runs can start there.

    Raises:
        ValueError: A folder holds files but no run, a run and something else, or a run that is in progress. Nothing is
            deleted then.
    """
    full = [folder for folder in folders if folder.exists() and any(folder.iterdir())]
    for folder in full:
        _check_run_alone(folder)
    from rl.ranks import Ranks  # these load torch, which no other function of this file needs
    from rl.run_folder.lock import alone_in

    with ExitStack() as locks:
        for folder in full:
            locks.enter_context(alone_in(folder, Ranks()))
        for folder in full:
            shutil.rmtree(folder)


def _check_run_alone(folder: Path) -> None:
    try:
        read_settings(folder)
    except (OSError, ValueError):
        raise ValueError(
            f"{folder} holds files, but no run ({CONFIG}); give another folder, or move them away"
        ) from None
    for place, names in {"": _OF_A_RUN, **_WITHIN}.items():
        for path in sorted((folder / place).glob("*")):
            if not any(path.match(name) for name in names):
                other = path.relative_to(folder)
                raise ValueError(f"{folder} holds {other} beside a run; give another folder, or move it away")


def register() -> None:
    """Register the resolvers `${run_folder:}` and `${sweep_folder:[NAMES]}`, which name folders in a configuration."""
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: of_run(_root_), replace=True)
    OmegaConf.register_new_resolver("sweep_folder", lambda swept, *, _root_: of_sweep(_root_, swept), replace=True)


def sweep_subdir() -> str:
    """Return the interpolation that names the folders of the sweep on this command line.

    It contains the names of the swept settings, because a run of the sweep may have another command line.
    """
    return f"${{sweep_folder:[{','.join(swept_in(sys.argv[1:]))}]}}"


def may_differ(name: str, lr_schedule: str) -> bool:
    """Return whether a resumed run may change the setting with this dotted name; no folder is named after it."""
    of_loop = name.startswith("train.") and may_change(name.removeprefix("train."), lr_schedule)
    return of_loop or name.startswith(("engine.", "eval")) or name in ("tracker", "parallel")


def _chosen(config: DictConfig) -> dict[str, Any]:
    """Return the settings that are not the default, without the settings that may change on resume."""
    settings = {name: value for name, value in config.items() if name != "hydra"}
    found = flat(OmegaConf.to_container(OmegaConf.create(settings), resolve=True))  # type: ignore[arg-type]
    defaults = flat_settings(RunConfig())
    lr_schedule = found.get("train.lr_schedule", "constant")
    return {
        name: value
        for name, value in sorted(found.items())
        if not may_differ(name, lr_schedule)
        and name not in _OF_A_START
        and (name not in defaults or defaults[name] != value)
    }


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
