"""The selector in a server: it carries out each call once, and no answered call is lost when the process dies.

Two files in a folder hold the state: `selector.npz`, the last save, and `journal.jsonl`, the calls after that save. The
same calls in the same order lead to the same state, so a new process loads the save and repeats the calls. This module
does not need Ray.
"""

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsel import _validate
from jaxsel.integrations._journal import Journal
from jaxsel.integrations._state_file import read_state, write_state
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.runtime.prompt_selector import PromptSelector

STATE_FILE, JOURNAL_FILE = "selector.npz", "journal.jsonl"
CALLS = ("next_batch", "observe", "release", "end_step")
"""The methods that change the state."""
REMEMBERED = 4096
"""Number of clients whose last answer is kept, so that a client that lost its answer gets it again."""
_MEANING = ("success", "threshold", "draw_size")  # repeating the journal's calls under other options would change them
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The answer to a call.

    Attributes:
        number: The client's number of the call.
        order: Number of calls that were carried out up to this one, of all clients.
        value: What the method returned.
    """

    number: int
    order: int
    value: Any


def meaning(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `TrainerEdge` that decide what a call means, as JSON holds them, without the defaults."""
    defaults = inspect.signature(TrainerEdge).parameters
    given = {name: options[name] for name in _MEANING if name in options}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    return {name: value for name, value in plain.items() if value != defaults[name].default}


class Served:
    """A `TrainerEdge` (a selector that observes rewards) that carries out each call once, even if its process dies.

    Args:
        make: Function that makes the selector.
        folder: Folder of the state. It is made where it is missing, and continued where it holds a state.
        save_every: Number of observations after which the state is saved.
        options: Arguments of `TrainerEdge`.

    Attributes:
        folder: Folder of the state.
        meaning: The options that decide what the calls mean, see `meaning`.
        edge: The selector.

    Raises:
        ValueError: The folder is damaged, or belongs to another method or pool.
    """

    def __init__(self, make: Callable[[], PromptSelector], folder: str, save_every: int, options: dict[str, Any]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save_every = save_every
        self.meaning = meaning(options)
        self.edge = TrainerEdge(make(), **options)
        self._journal = Journal(self.folder / JOURNAL_FILE)
        self._order, self._observed, self._replayed = 0, 0, 0
        self._answers: dict[str, Answer] = {}
        if not (self.folder / STATE_FILE).exists():
            if self._journal.read():
                raise ValueError(f"{self.folder} has a journal, but {STATE_FILE} is missing; give another folder")
            self.edge.open_history()  # a history of another run is refused here: `_recover` would continue it
            self._write()
        self._recover()

    def call(self, client: str, number: int, method: str, arguments: dict[str, str]) -> Answer:
        """Carry out a call, unless it was carried out before: then return its answer again.

        Args:
            client: Name of the caller, which waits for the answer before its next call.
            number: The caller's number of the call, one more than in its previous call.
            method: One of `CALLS`.
            arguments: The arguments of the method in JSON.

        Raises:
            ValueError: The arguments are wrong. Nothing changes then, except that a refused `next_batch` ends the step
                that is open.
            OSError: The journal cannot be written. Nothing changes then.
            RuntimeError: The caller has already made a later call.
        """
        _validate.one_of(CALLS, method=method)
        last = self._answers.get(client)
        if last is not None and number <= last.number:
            if number < last.number:
                raise RuntimeError(f"call {number} of client {client} arrived after call {last.number}")
            return last
        answer = self._carried_out(client, number, method, arguments)
        self._save_if_due()
        return answer

    def save(self, path: str | None) -> None:
        """Save the state, and a copy of it in the file `path`. This ends a step that is being observed in parts.

        Raises:
            OSError: The disk is full, or fails otherwise.
        """
        if self.edge.step_is_open:
            self._carried_out("", 0, "end_step", {})
        self._write()
        if path is not None:
            write_state(Path(path), self._state())

    def load(self, path: str) -> None:
        """Go back to the state in a file that `save` or `TrainerEdge.save` wrote.

        Raises:
            ValueError: The file is missing, is damaged, or belongs to another method or pool. Nothing changes then.
        """
        self.edge.load(path)
        try:
            self._write()
        except OSError:
            self._recover()
            raise

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the `TrainerEdge`, and how many calls of the journal the last start repeated."""
        return self.edge.metrics() | {"selector/replayed_calls": float(self._replayed)}

    def rows(self, keys: list[Any]) -> Any:
        """Return the rows of the prompts with these keys."""
        return self.edge.rows(keys)

    def _carried_out(self, client: str, number: int, method: str, arguments: dict[str, str]) -> Answer:
        was_open = self.edge.step_is_open
        try:
            answer = self._apply(client, number, method, arguments)
            call = {"order": answer.order, "client": client, "number": number, "method": method}
            self._journal.append(call | {"arguments": arguments})
        except ValueError:
            if was_open and not self.edge.step_is_open:  # a refused `next_batch` has ended the step: journal that
                self._carried_out("", 0, "end_step", {})
            raise
        except BaseException:  # the edge may have changed, so go back to the state on disk
            self._recover()
            raise
        self._remember(client, answer, method)
        return answer

    def _apply(self, client: str, number: int, method: str, arguments: dict[str, str]) -> Answer:
        given = {name: json.loads(text) for name, text in arguments.items()}
        return Answer(number, self._order + 1, getattr(self.edge, method)(**given))

    def _remember(self, client: str, answer: Answer, method: str) -> None:
        self._order = answer.order
        self._observed += method == "observe"
        if client:
            self._answers.pop(client, None)
            self._answers[client] = answer
        if len(self._answers) > REMEMBERED:
            del self._answers[next(iter(self._answers))]

    def _save_if_due(self) -> None:
        """Save between two steps only: a save would end a step in progress. Until then the journal has all calls."""
        if self._observed < self._save_every or self.edge.step_is_open:
            return
        try:
            self._write()
        except OSError as error:
            _log.warning("the selector was not saved; nothing is lost, and the next call tries again: %s", error)

    def _write(self) -> None:
        write_state(self.folder / STATE_FILE, self._state())
        self._journal.clear()
        self._observed = 0

    def _state(self) -> dict[str, Any]:
        answers = {
            client: answer._replace(value=np.asarray(answer.value).tolist()) for client, answer in self._answers.items()
        }
        server = {"order": self._order, "answers": answers, "meaning": self.meaning}
        return self.edge.state_dict() | {"server": server}

    def _recover(self) -> None:
        """Load the save, and repeat the calls of the journal that came after it."""
        state = read_state(self.folder / STATE_FILE)
        self.edge.load_state_dict(state)
        server = state["server"]
        self._order, self._observed = server["order"], 0
        self._answers = {client: _answer(*answer) for client, answer in server["answers"].items()}
        calls = [call for call in self._journal.read() if call.pop("order") > self._order]
        if calls and meaning(server["meaning"]) != self.meaning:  # earlier versions stored defaults too
            raise ValueError(f"{self.folder} has calls for a server with {server['meaning']}; serve with these options")
        for call in calls:
            self._remember(call["client"], self._apply(**call), call["method"])
        self._replayed = len(calls)
        if calls:
            _log.warning("%s: %d calls after the last save were repeated from the journal", self.folder, len(calls))


def _answer(number: int, order: int, value: Any) -> Answer:
    return Answer(number, order, None if value is None else np.array(value, np.int32))


def encoded(name: str, value: Any) -> str:
    """Return the argument of a call in JSON, which the journal holds too.

    Raises:
        ValueError: The argument holds something other than numbers, texts, lists and arrays.
    """
    try:
        return json.dumps(value, default=_listed)
    except (TypeError, ValueError, RuntimeError) as error:
        cure = "give NumPy arrays, lists or tensors on the CPU"
        raise ValueError(f"{name} holds something other than numbers and texts ({error}); {cure}") from error


def _listed(value: Any) -> Any:
    listed = (value if isinstance(value, np.ma.MaskedArray) else np.asarray(value)).tolist()  # None under a mask
    if listed is value:
        raise TypeError(f"it holds a {type(value).__name__}")
    return listed
