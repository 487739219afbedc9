"""Metrics and checkpoints of a run's folder, for scripts that read or write them; `rl.run_folder` has the code."""

from rl.run_folder.checkpoint import load_checkpoint as load_checkpoint
from rl.run_folder.checkpoint import save_checkpoint as save_checkpoint
from rl.run_folder.log import Records as Records
from rl.run_folder.log import RunLog as RunLog
from rl.run_folder.log import is_end as is_end
from rl.run_folder.log import read_metrics as read_metrics
