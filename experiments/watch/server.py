"""A server on this machine that answers one page: the page itself, its data, and the full report of a run."""

import gzip
import json
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jaxsel
from experiments.watch.page import page, specifications
from experiments.watch.runs import Run, Watched

_HTML, _JSON, _TEXT = (f"{kind}; charset=utf-8" for kind in ("text/html", "application/json", "text/plain"))
_LOCAL = ("127.0.0.1", "localhost", "::1")


class _NoAnswerError(Exception):
    """The request has no answer; the message says why."""


class Server(ThreadingHTTPServer):
    """The server of the page. `serve_forever` answers until `shutdown`.

    Args:
        watched: The runs.
        host: Address to listen at.
        port: Port to listen at; 0: a free one.
        every: Seconds between two refreshes of the page.
    """

    daemon_threads = True

    def __init__(self, watched: Watched, *, host: str, port: int, every: float):
        self.watched, self.every = watched, every
        self.reports: dict[str, tuple[int, str]] = {}
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """The address of the page."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def page(self, _: dict[str, str]) -> str:
        """Return the page with the present data."""
        with self.watched.lock:
            self.watched.update()
            return page(self.watched.snapshot(), every=self.every)

    def data(self, asked: dict[str, str]) -> str:
        """Return the data that changed after the version `since`, and the charts if there are other runs."""
        try:
            since = int(asked.get("since", "0"))
        except ValueError:
            raise _NoAnswerError(f"since is {asked['since']!r}; give the number of a version") from None
        with self.watched.lock:
            self.watched.update()
            found = self.watched.snapshot(since)
            if since < self.watched.named:
                found["drawn"] = specifications(list(self.watched.runs))
        return json.dumps(found, separators=(",", ":"))

    def report(self, asked: dict[str, str]) -> str:
        """Return the report of `jaxsel.explore` on the recorded predictions of a run, made anew if they changed."""
        name = asked.get("run", "")
        with self.watched.lock:  # one report at a time; the page waits as long
            run = self.watched.runs.get(name)
            if run is None:
                raise _NoAnswerError(f"there is no run {name!r}; reload the page of all runs")
            made = self.reports.get(name)
            version = run.changed[1]
            if made is None or made[0] != version:
                self.reports[name] = made = version, _explored(name, run)
        return made[1]


def _explored(name: str, run: Run) -> str:
    try:
        return jaxsel.explore(run.folder, title=f"How good are the predictions of {name}?").html
    except ValueError as error:
        raise _NoAnswerError(f"{name} has no report yet: {error}") from error


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Answer a request."""
        try:
            asked = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"the address {self.path!r:.80} is none ({error})", _TEXT)
            return
        routes: dict[str, tuple[Callable[[dict[str, str]], str], str]] = {
            "/": (self.server.page, _HTML),
            "/data": (self.server.data, _JSON),
            "/report": (self.server.report, _HTML),
        }
        if not self._is_meant():
            self._answer(HTTPStatus.FORBIDDEN, "this server answers its own page alone", _TEXT)
            return
        if asked.path not in routes:
            self._answer(HTTPStatus.NOT_FOUND, "there is no such page; the page is /", _TEXT)
            return
        make, kind = routes[asked.path]
        try:
            self._answer(HTTPStatus.OK, make(query), kind)
        except _NoAnswerError as error:
            self._answer(HTTPStatus.NOT_FOUND, str(error), _TEXT)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader has gone
        except Exception as error:  # the page shows it, and goes on when the cause has gone
            traceback.print_exc()
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}", _TEXT)

    def _is_meant(self) -> bool:
        """Return whether the request names this server; another site may have a name with this machine's address."""
        if self.server.server_address[0] not in _LOCAL:
            return True  # whoever listens at another address means others to read
        try:
            return urlsplit("//" + self.headers.get("Host", "")).hostname in _LOCAL  # a browser leaves out port 80
        except ValueError:
            return False

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        content = text.encode(errors="backslashreplace")
        self.send_response(status)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            content = gzip.compress(content, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing per request."""
