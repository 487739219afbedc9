"""Signals that arrive during the update of a selector."""

import signal
from typing import Any

import pytest

from jaxsel import PromptSelector


def interrupt_updates(patch: pytest.MonkeyPatch, selector: PromptSelector, kind: signal.Signals) -> None:
    """Let a signal arrive after each update and before its result is assigned. An exception there would lose both."""
    update = selector._belief._update

    def updates_and_stops(*arguments: Any) -> Any:
        state = update(*arguments)
        signal.raise_signal(kind)
        return state

    patch.setattr(selector._belief, "_update", updates_and_stops)
