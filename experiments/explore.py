"""An interactive page about the predictions of a recorded run, which begins with a verdict in words.

    python -m experiments.explore RUN [--methods mopps adaptive] [--out runs/explore.html]

RUN is the folder of a run with `train.history=true`, or a folder with a history. Without `--methods` the page shows the
predictions that the run's own method made; with them, each method is replayed on the recorded batches. adaptive and gps
read the recorded embeddings, or those of the recorded texts (by WordLlama, from the extra `embeddings`). The page is
one file and works offline. `jaxsel.explore` shows the same in a notebook.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

import jaxsel
from experiments.running.command import check_integers, check_page, module_parser, quiet_pipe
from experiments.running.compiled_programs import keep_compiled_programs
from experiments.running.config import clear_errors
from jaxsel.integrations.embeddings import embed
from jaxsel.integrations.history import Recorded
from jaxsel.report.material import recorded_in

METHODS: dict[str, Callable[..., jaxsel.Selector]] = {
    "uniform": jaxsel.uniform,
    "mopps": jaxsel.mopps,
    "threshold": jaxsel.threshold,
    "dps": jaxsel.dps,
    "adaptive": jaxsel.adaptive,
    "arcus": jaxsel.arcus,
    "gps": jaxsel.gps,
}
READS_EMBEDDINGS = ("adaptive", "gps")


def make_methods(names: Sequence[str], recorded: Recorded) -> dict[str, jaxsel.Selector]:
    """Return the methods by name, with the group size of the run; adaptive and gps read the embeddings of the prompts.

    Without embeddings, adaptive is called "adaptive, no embeddings".

    Raises:
        ValueError: The history is empty, or gps is asked for, and the history has neither texts nor embeddings.
    """
    if not len(recorded.history.step):
        raise ValueError("the history has no judged rollouts; give the history of a run that was trained")
    embeddings = _embeddings(names, recorded)
    if "gps" in names and embeddings is None:
        raise ValueError("gps needs the prompts' texts or embeddings, and the history has neither; leave it out")
    options = {"group_size": int(np.median(recorded.history.group_size))}
    made = {}
    for name in names:
        reads = name in READS_EMBEDDINGS
        given = (embeddings,) if reads and embeddings is not None else ()
        made[f"{name}, no embeddings" if reads and not given else name] = METHODS[name](*given, **options)
    return made


def _embeddings(names: Sequence[str], recorded: Recorded) -> np.ndarray | None:
    if recorded.embeddings is None and recorded.texts is not None and set(READS_EMBEDDINGS) & set(names):
        try:
            return np.asarray(embed(recorded.texts, progress=False))
        except ImportError:  # WordLlama is not installed, and adaptive works without it
            if "gps" in names:
                raise
    return recorded.embeddings


def main(arguments: list[str]) -> None:
    """Write the page and print its verdict."""
    parser = module_parser("experiments.explore", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", nargs="*", choices=sorted(METHODS), default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/explore.html"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    keep_compiled_programs()
    check_page(parser, options.out)
    check_integers(parser, options, seed=0)
    with clear_errors():
        recorded = recorded_in(options.run)
        methods = make_methods(options.methods, recorded) or None
        report = jaxsel.explore(recorded, methods, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    for finding in report.verdict:
        console.print(f"[bold]{finding.question}[/] {escape(finding.answer)}")
        for sentence in finding.details:
            console.print(f"  {sentence}", markup=False)
    print(f"page: {report.save(options.out)}")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
