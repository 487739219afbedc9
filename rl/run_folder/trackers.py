"""A run's metrics at Weights & Biases or trackio, in addition to the metrics on disk."""

import importlib
import logging
import uuid
from pathlib import Path
from typing import Any, Self

from jaxsel.integrations.atomic_files import replaced_when_complete
from rl import _checks
from rl.names import TRACKERS

_log = logging.getLogger(__name__)


class Tracker:
    """One run at the tracker. Opening it again for the same folder continues the same run.

    Args:
        name: wandb, trackio, or an empty text for no tracker.
        run_dir: The folder of the run, created if it is missing. It keeps the run's id and wandb's own files.
        config: The settings that the tracker shows beside the metrics.

    Raises:
        ValueError: The name is unknown, or its package is not installed.
    """

    def __init__(self, name: str, run_dir: Path, config: dict[str, Any]):
        _checks.one_of(("", *TRACKERS), tracker=name)
        self._module: Any = None
        if not name:
            return
        try:
            self._module = importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"tracker is {name!r}, which is not installed; pip install {name}") from error
        number = _kept_id(run_dir / f"{name}_id")
        shown = f"{run_dir.name}-{number}"
        options: dict[str, Any] = {"project": "jaxsel", "name": shown, "config": config, "resume": "allow"}
        if name == "wandb":  # trackio identifies a run by its name
            options |= {"id": number, "dir": str(run_dir)}
        self._module.init(**options)

    def write(self, metrics: dict[str, Any]) -> None:
        """Send the metrics of one step. Metrics without a value are left out."""
        if self._module is not None:
            values = {name: value for name, value in metrics.items() if value is not None and name != "step"}
            self._module.log(values, step=int(metrics["step"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._module is None:
            return
        try:
            self._module.finish()
        except Exception as error:  # the run's metrics are on disk
            _log.warning("the tracker failed at the end of the run (%s)", error)


def _kept_id(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_when_complete(path) as file:
            file.write(uuid.uuid4().hex[:8].encode())
    return path.read_text()
