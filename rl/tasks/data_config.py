"""The settings that turn a data set into a task."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields

from rl import _checks
from rl.tasks.held_out import check_share
from rl.tasks.templates import check_template

NONE = "none"
"""Given in place of a column's name, it says that the data have no such column."""
_ESCAPED = re.compile(r"\\n(?![a-z])")
r"""A line break as it is written in code, unlike LaTeX such as \neq."""


@dataclass(frozen=True)
class DataConfig:
    r"""How a data set becomes a task.

    Attributes:
        template: Text with the placeholder {prompt}, which is replaced by the prompt, or by the text of its last
            message of role user. Empty: the prompt itself.
        max_new_tokens: Longest completion in tokens.
        stop: Texts that end a completion, besides the end of sequence. Two line breaks are, in bash, $'["\n\n"]'.
        prompt: Column of the prompts; empty: found by name.
        answer: Column of the answers; empty: found by name; none: the data have no answers.
        key: Column of the keys, which identify prompts; empty: the first known column that tells all rows apart.
        rate: Column of known solve rates; empty: found by name, if there is one; none: read no rates.
        stratum: Column of the strata, such as data_source or extra_info.level, for method.stratified; empty: the data
            have no strata.
        split: Split of a folder or of a data set on the hub, such as train; empty: the only one.
        config: Configuration of a data set on the hub; refused for files and folders.
        held_out: File or folder of the held-out prompts, which are for evaluation; empty: the data set itself has them.
        held_out_split: Split of the held-out prompts, such as test; empty: held_out or held_out_share gives them.
        held_out_share: Share of the distinct prompts that is held out, if held_out and held_out_split are empty.
        held_out_seed: Seed of the choice of the held-out prompts; the seed of the run does not change them.
        merge: Whether rows with the same prompt and answer become one row.
        skip_odd: Whether rows that cannot be read are left out with a warning, instead of refused.
    """

    template: str = ""
    max_new_tokens: int = 512
    stop: list[str] = field(default_factory=list)
    prompt: str = ""
    answer: str = ""
    key: str = ""
    rate: str = ""
    stratum: str = ""
    split: str = ""
    config: str = ""
    held_out: str = ""
    held_out_split: str = ""
    held_out_share: float = 0.1
    held_out_seed: int = 0
    merge: bool = False
    skip_odd: bool = False

    def __post_init__(self):
        _checks.integers(1, max_new_tokens=self.max_new_tokens)
        _checks.integers(0, held_out_seed=self.held_out_seed)
        _checks.booleans(merge=self.merge, skip_odd=self.skip_odd)
        check_share(self.held_out_share)
        check_template(self.template)
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop is {self.stop!r}; give a list of texts that are not empty")
        if escaped := [text for text in self.stop if _ESCAPED.search(text)]:
            raise ValueError(
                f"stop holds the text {escaped[0]}, with a backslash and an n, which is no line break; give the "
                """line break itself, in bash by $'["\\n\\n"]'"""
            )


def refuse_unused(task: str, config: DataConfig, used: Collection[str], cure: str = "leave it out") -> None:
    """Refuse settings that would have no effect.

    Args:
        task: Name of the task.
        config: The settings.
        used: Names of the settings that the task uses.
        cure: What to do instead.

    Raises:
        ValueError: A setting that the task does not use differs from its default.
    """
    for one in fields(DataConfig):
        value = getattr(config, one.name)
        if one.name not in used and value != getattr(DataConfig(), one.name):
            raise ValueError(f"data.{one.name} is {value!r} with the task {task}, which has no such setting; {cure}")
