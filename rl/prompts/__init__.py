"""Pools of prompts: their columns, their readers and their writer."""

from rl.prompts.messages import Prompt, plain_text
from rl.prompts.pool import Demonstration, PromptPool, Task, Verdict
from rl.prompts.read import Report, read_prompts, read_report
from rl.prompts.write import write_parquet

read_parquet = read_prompts
"""The older name of `read_prompts`."""

__all__ = [
    "Demonstration",
    "Prompt",
    "PromptPool",
    "Report",
    "Task",
    "Verdict",
    "plain_text",
    "read_parquet",
    "read_prompts",
    "read_report",
    "write_parquet",
]
