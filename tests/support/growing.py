"""The folder of a run that grows by a step at a time, as a training run writes it. Nothing is trained."""

import json
from pathlib import Path

import numpy as np

from jaxsel.integrations.history import HistoryLog
from tests.support.reports import GROUP_SIZE, prediction

_POOL, _BATCH = 60, 12


class Growing:
    """A simulated run, whose policy gets better with every step.

    Args:
        folder: Folder of the run, created if it is missing.
        steps: Steps that the settings ask for.
        history: Whether the predictions are recorded.
        gain: Growth of the success rates per step.
        seed: Seed of the outcomes.
    """

    def __init__(self, folder: Path, *, steps: int = 40, history: bool = True, gain: float = 0.02, seed: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.steps, self.done, self._gain = folder, steps, 0, gain
        self._rng = np.random.default_rng(seed)
        self._easy = self._rng.normal(-1, 1.5, _POOL)
        settings = {"task": "string_ops", "seed": seed, "method": {"name": "mopps"}, "train": {"steps": steps}}
        (folder / "config.json").write_text(json.dumps({"config": settings}))
        about = {"num_prompts": _POOL, "spec": {"method": "mopps"}}
        self._log = HistoryLog(folder / "history", **about) if history else None

    def advance(self, steps: int = 1, probe_every: int = 5) -> "Growing":
        """Take steps, with a probe before every fifth."""
        lines = []
        for step in range(self.done, self.done + steps):
            rate = self._rates()
            record = {"step": step, "rollouts": (step + 1) * _BATCH * GROUP_SIZE}
            if step % probe_every == 0:
                record |= self._probe(step)
            ids = self._rng.choice(_POOL, _BATCH, replace=False)
            expected, successes = prediction(rate[ids]), self._rng.binomial(GROUP_SIZE, rate[ids])
            mixed = float(((successes > 0) & (successes < GROUP_SIZE)).mean())
            if self._log is not None:
                self._log.observed(step, (ids, successes, np.full(_BATCH, GROUP_SIZE)), expected)
            record |= {
                "train/reward": successes.mean() / GROUP_SIZE,
                "train/mixed_share": mixed,
                "train/completion_length": 5 + float(self._rng.normal()),
                "selector/mixed_share": mixed,
                "selector/predicted_mixed_share": float(expected.mixed.mean()),
                "policy/entropy": None if step == 0 else 2 / (1 + step / 20),
                "seconds/generating": 0.4,
                "seconds/updating": 0.1,
            }
            lines.append(json.dumps(record) + "\n")
            self.done += 1
        self._write("".join(lines))
        return self

    def finish(self) -> "Growing":
        """Take the steps that are left, and write the final probe."""
        self.advance(self.steps - self.done)
        last = {"step": self.steps, "rollouts": self.steps * _BATCH * GROUP_SIZE, **self._probe(self.steps)}
        self._write(json.dumps(last) + "\n")
        return self

    def _rates(self) -> np.ndarray:
        return 1 / (1 + np.exp(-self._easy - self._gain * self.done))

    def _probe(self, step: int) -> dict[str, float]:
        rate = self._rates()
        successes = self._rng.binomial(GROUP_SIZE, rate)
        if self._log is not None:
            everyone = np.arange(_POOL)
            self._log.probed(step, (everyone, successes, np.full(_POOL, GROUP_SIZE)), prediction(0.2 + 0.6 * rate))
            self._log.flush()
        return {"probe/held_out_accuracy": rate.mean(), "probe/pool_accuracy": successes.mean() / GROUP_SIZE}

    def _write(self, text: str) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(text)
