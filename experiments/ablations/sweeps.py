"""The sweeps, whose runs differ in one setting each: which settings change, and which runs a sweep needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.running.config import RunConfig
from experiments.running.folders import name_of
from experiments.running.method_config import PRIOR_COUNTS

SHARED = ("pool_size", "method.batch_size", "train.group_size", "train.learning_rate")
"""Settings that the uniform run takes over from the run that is compared with it."""


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in one setting.

    Attributes:
        over: Name of the setting that changes.
        values: Values of the setting.
        fixed: Settings that are the same in all runs but not the defaults.
    """

    over: str
    values: tuple[Any, ...]
    fixed: dict[str, Any]

    def settings(self) -> list[dict[str, Any]]:
        """Return the settings of every run, without the seed."""
        return [self.fixed | {self.over: value} for value in self.values]


_MOPPS, _DPS, _GPS, _ADAPTIVE = ({"method.name": name} for name in ("mopps", "dps", "gps", "adaptive"))
_LARGE = {"pool_size": 20_000, "method.candidate_ratio": 0}
SWEEPS = {
    "decay_of_mopps": Sweep("method.decay", (0.0, 0.25, 0.5, 0.8, 1.0), _MOPPS),
    "decay_of_dps": Sweep("method.dps_decay", (0.5, 0.7, 0.9, 0.97), _DPS),
    "target_of_mopps": Sweep("method.target", (0.3, 0.5, 0.7), _MOPPS),
    "acquisition_and_rule": Sweep("method.name", ("mopps", "mopps_mean", "mopps_mixed", "threshold"), {}),
    "prior_counts_of_dps": Sweep("method.prior_counts", PRIOR_COUNTS, _DPS),
    "entropy_weight_of_dps": Sweep("method.entropy_weight", (0.0, 0.3, 1.0), _DPS),
    "diversity_of_gps": Sweep("method.diversity_weight", (0.0, 0.1, 1.0), _GPS),
    "candidates_of_mopps": Sweep("method.candidate_ratio", (2, 4, 8, 0), _MOPPS),
    "candidates_of_dps": Sweep("method.candidate_ratio", (2, 4, 8, 0), _DPS),
    "learning_rate": Sweep("train.learning_rate", (2e-5, 4e-5, 8e-5), _DPS),
    "batch_size": Sweep("method.batch_size", (8, 16, 32), _MOPPS),
    "temperature_of_adaptive": Sweep("method.temperature", (1.0, 0.333, 0.1, 0.0333), _LARGE | _ADAPTIVE),
    "embeddings_of_adaptive": Sweep("method.embeddings", ("wordllama", "policy", "both"), _LARGE | _ADAPTIVE),
    "advantage_with_adaptive": Sweep("train.advantage", ("grpo", "mapp"), _LARGE | _ADAPTIVE),
    "advantage_with_uniform": Sweep("train.advantage", ("grpo", "mapp"), _LARGE | {"method.name": "uniform"}),
    "acquisition_of_adaptive": Sweep(
        "method.acquisition", ("expected_variance", "expected_signal"), _LARGE | _ADAPTIVE
    ),
    "explore_share_of_adaptive": Sweep("method.explore_share", (0.0, 0.25, 0.5, 0.75), _LARGE | _ADAPTIVE),
    "explore_share_of_dps": Sweep("method.explore_share", (0.0, 0.25, 0.5, 0.75), _LARGE | _DPS),
    "methods": Sweep("method.name", ("mopps", "dps"), {}),
    "methods_in_a_large_pool": Sweep("method.name", ("mopps", "dps"), _LARGE),
    "group_size": Sweep("train.group_size", (4, 8, 16), _MOPPS),
}
SWEEPS["window_of_adaptive_in_a_large_pool"] = Sweep(
    "method.candidate_ratio", (0, 4, 10, 40), {"pool_size": 20_000} | _ADAPTIVE
)
SWEEPS["margin_of_filtered_adaptive"] = Sweep("method.margin", (0.0, 0.2), _LARGE | _ADAPTIVE | {"method.filter": True})
SWEEPS |= {
    f"temperature_of_adaptive_with_{name}": Sweep("method.temperature", (1.0, 0.333), _LARGE | _ADAPTIVE | embeddings)
    for name, embeddings in {"wordllama": {}, "both_embeddings": {"method.embeddings": "both"}}.items()
}
_BOTH_AT_1 = _LARGE | _ADAPTIVE | {"method.embeddings": "both", "method.temperature": 1.0}
SWEEPS["kernel_features_of_adaptive"] = Sweep("method.kernel_features", (0, 64, 256, 512), _BOTH_AT_1)
SWEEPS["learning_rate_in_a_large_pool_of_adaptive_with_kernel_features"] = Sweep(
    "train.learning_rate", (4e-5, 8e-5, 1.6e-4, 3.2e-4, 6.4e-4), _BOTH_AT_1 | {"method.kernel_features": 256}
)
_RATES = (1e-5, 2e-5, 4e-5, 8e-5)
SWEEPS |= {
    f"learning_rate_in_a_large_pool_of_{name}": Sweep("train.learning_rate", _RATES, _LARGE | settings)
    for name, settings in {
        "dps": _DPS,
        "adaptive_at_temperature_0.333": _ADAPTIVE | {"method.temperature": 0.333},
        "adaptive_at_temperature_1": _ADAPTIVE | {"method.temperature": 1.0},
    }.items()
}


def beside(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the uniform run to compare with."""
    return {"method.name": "uniform"} | {name: settings[name] for name in SHARED if name in settings}


def needed(sweeps: Iterable[Sweep]) -> list[dict[str, Any]]:
    """Return the settings of all runs of the sweeps, each once."""
    chosen = [settings for sweep in sweeps for settings in sweep.settings()]
    return list({place(settings): settings for settings in (*map(beside, chosen), *chosen)}.values())


def place(settings: dict[str, Any]) -> str:
    """Return a name made of the settings that differ from the defaults; a run has the same name in every sweep."""
    default = OmegaConf.structured(RunConfig)
    other = {name: value for name, value in settings.items() if value != OmegaConf.select(default, name)}
    method = other.pop("method.name", default.method.name)
    return ",".join([method, *(f"{name}={value}" for name, value in sorted(other.items()))])


def folder_of(settings: dict[str, Any], seed: int) -> Path:
    """Return the folder of a run, relative to the folder of all runs."""
    return Path(name_of({"method": place(settings)}).removeprefix("method=")) / f"seed-{seed}"


def command(sweep: Sweep, seeds: list[int]) -> str:
    """Return the command of the same runs as a Hydra sweep, without the uniform runs."""
    values = ",".join(map(str, sweep.values))
    fixed = [f"{name}={value}" for name, value in sweep.fixed.items() if name != sweep.over]
    swept = [*fixed, f"{sweep.over}={values}", f"seed={','.join(map(str, seeds))}"]
    return " ".join(["python -m experiments.train -m", *swept])
