"""Show what prompt files hold: rows, repeated prompts, columns, keys and solve rates.

    python -m experiments.prompts FILES... [--prompt NAME] [--answer NAME] [--key NAME] [--rate NAME] [--merge]

FILES are files of Parquet, Arrow, JSON, JSON lines or CSV, folders of such files, or data sets on the Hugging Face hub.
Each is read as `rl.prompts.read_prompts` reads it, and nothing is written. A key identifies a prompt; a solve rate is
the share of correct answers that the file records for a prompt. "repeated" counts the rows whose prompt
repeats an earlier row's, and in brackets the rows among these with another answer. A file that cannot be read is named
with the reason, and the exit status is 1.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from experiments.reporting.tables import terminal_table
from experiments.running.command import module_parser, quiet_pipe
from rl.prompts import PromptPool, Report, read_report

_LOG_WIDTH = 160  # characters per line of a log, which no terminal limits
_COLUMNS = ("source", "prompts", "form", "answers", "key", "rows", "repeated", "pool", "rates")
_LABELS = 5


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = module_parser("experiments.prompts", __doc__)
    parser.add_argument("sources", nargs="+", metavar="FILES", help="files, folders or data sets on the hub")
    parser.add_argument("--prompt", help="column of the prompts, such as question")
    parser.add_argument("--answer", help="column of the answers, such as reward_model.ground_truth; '': none")
    parser.add_argument("--key", help="column of the keys, such as extra_info.index")
    parser.add_argument("--rate", help="column of the solve rates; '': none")
    parser.add_argument("--split", help="split of a folder or of a data set on the hub, such as train")
    parser.add_argument("--config", help="configuration of a data set on the hub")
    parser.add_argument("--merge", action="store_true", help="merge rows with the same prompt and answer")
    parser.add_argument("--skip-odd", action="store_true", help="leave out rows that cannot be read")
    return parser.parse_args(arguments)


def row(source: str, report: Report) -> list[str]:
    """Return the table's row of one source."""
    pool, columns = report.pool, report.columns
    again = f"{len(report.repeats):,}" + (f" ({report.conflicts:,})" if report.conflicts else "")
    rates = 0 if pool.rates is None else sum(rate is not None for rate in pool.rates)
    shown = (Path(source).name or source) if Path(source).exists() else source
    counts = [f"{report.rows:,}", again, f"{len(pool):,}", f"{rates:,}"]
    return [shown, columns.prompt, form(pool), columns.answer or "none", report.key, *counts]


def form(pool: PromptPool) -> str:
    """Return what most prompts of the pool are: text, or the roles of their messages."""
    forms = Counter(
        "text" if isinstance(prompt, str) else ", ".join(message["role"] for message in prompt) for prompt in pool.texts
    )
    (most, count), *others = forms.most_common() or [("none", 0)]
    return f"{most} ({count:,}), {len(others)} more" if others else most


def main(arguments: list[str]) -> None:
    """Print the table, the rows that were left out, and the sources that cannot be read."""
    options = vars(parsed(arguments))
    sources, rows, notes, failed = options.pop("sources"), [], [], False
    for source in sources:
        try:
            report = read_report(source, **options)
        except (ValueError, OSError) as error:  # an OSError says for example that the hub is out of reach
            notes.append(f"cannot be read: {error}")
            failed = True
            continue
        rows.append(row(source, report))
        notes += [f"left out: {message}" for message in report.skipped]
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    if rows:
        console.print(terminal_table("", _COLUMNS, rows, labels=_LABELS), soft_wrap=False)
    for note in notes:
        console.print(note)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
