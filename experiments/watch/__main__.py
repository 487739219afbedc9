"""A page about running experiments, which refreshes itself: training, and how good the selectors' predictions are.

    python -m experiments.watch RUN... [--port 0] [--every 10]       serves the page on this machine until Ctrl-C
    python -m experiments.watch RUN... --out page.html               writes the page once; it works offline

RUN is the folder of a run, which may not exist yet, or a folder that contains runs at any depth, such as the folder of
a sweep. All runs are shown side by side. Nothing is written into their folders.
"""

import sys
from pathlib import Path

from rich.console import Console

from experiments.running.command import check_page, module_parser, quiet_pipe
from experiments.watch.page import page
from experiments.watch.runs import Watched, repeated
from experiments.watch.server import Server
from jaxsel.integrations.atomic_files import replaced_when_complete

_DAY = 86_400  # seconds; a browser refreshes at once if it is told to wait for a month


def main(arguments: list[str]) -> None:
    """Serve the page, or write it."""
    parser = module_parser("experiments.watch", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--port", type=int, default=0, help="port of the server; 0: a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines read")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two refreshes")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write the page to this file, and serve nothing")
    options = parser.parse_args(arguments)
    if not 0 < options.every <= _DAY:
        parser.error(f"--every is {options.every:g}; give a number of seconds above 0, at most {_DAY}")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port is {options.port}; give a number from 0 to 65535")
    if options.out is not None:
        check_page(parser, options.out)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for place in repeated(options.runs):
        console.print(f"{place} is given twice; it is shown once")
    for place in options.runs:
        if not place.exists():
            console.print(f"{place} does not exist yet; the page waits for it")
        elif not place.is_dir():
            parser.error(f"{place} is not a folder; give folders of runs or sweeps")
    watched = Watched(options.runs)
    if options.out is None:
        _serve(watched, options.host, options.port, options.every, console)
    else:
        console.print(f"page: {write(watched, options.out)}")


def write(watched: Watched, path: Path) -> Path:
    """Write the page with all data to a file that needs no server, and return its path."""
    watched.update()
    while watched.behind:
        watched.update()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_complete(path) as file:
        file.write(page(watched.snapshot(), every=None).encode(errors="backslashreplace"))
    return path


def _serve(watched: Watched, host: str, port: int, every: float, console: Console) -> None:
    try:
        server = Server(watched, host=host, port=port, every=every)
    except OSError as error:
        sys.exit(f"nothing can listen at {host}, port {port} ({error}); give another --port, or 0 for a free one")
    with server:
        console.print(f"page: {server.address}    Ctrl-C ends the server")
        sys.stdout.flush()
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            console.print("ended")


if __name__ == "__main__":
    with quiet_pipe():
        main(sys.argv[1:])
