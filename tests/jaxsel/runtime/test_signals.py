"""A signal during an update waits until the selector has the new state."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from jaxsel.runtime.signals import SignalsWait
from tests.support.interruptions import interrupt_updates

METHOD = jaxsel.mopps()
IDS, SUCCESSES, GROUP_SIZES = [1, 2, 5], [3, 8, 0], [8, 8, 8]


def observe_on_device(selector: PromptSelector) -> None:
    selector.observe_on_device(IDS, jnp.array(SUCCESSES), jnp.array(GROUP_SIZES))


def end_step_by(act: Callable[[PromptSelector], Any]) -> Callable[[PromptSelector], Any]:
    def run(selector: PromptSelector) -> None:
        selector.observe(IDS, SUCCESSES, GROUP_SIZES, step=0)
        act(selector)

    return run


ACTS: dict[str, Callable[[PromptSelector], Any]] = {
    "observe": lambda selector: selector.observe(IDS, SUCCESSES, GROUP_SIZES),
    "on a device": observe_on_device,
    "end of a step": end_step_by(PromptSelector.end_step),
    "choice after a step": end_step_by(lambda selector: selector.select(2)),
    "state after a step": end_step_by(PromptSelector.state_dict),
}


class StoppedError(Exception):
    """What the handler of a signal raises here."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGALRM], ids=lambda kind: kind.name)
def kind(request):
    def handler(*_: object) -> None:
        raise StoppedError

    before = signal.signal(request.param, handler)
    yield request.param
    assert signal.getsignal(request.param) is handler
    signal.signal(request.param, before)


@pytest.mark.parametrize("act", ACTS)
def test_a_signal_during_an_update_comes_after_it(act, kind, monkeypatch):
    """The observed prompts are no longer in flight then, and a prepared choice is discarded."""
    stopped, plain = (PromptSelector(METHOD, num_prompts=20, seed=0, track_in_flight=True) for _ in range(2))
    for selector in (stopped, plain):
        selector.select(3, IDS)
        selector.prepare(4)
    with monkeypatch.context() as patched:
        interrupt_updates(patched, stopped, kind)
        with pytest.raises(StoppedError):
            ACTS[act](stopped)
    plain.observe(IDS, SUCCESSES, GROUP_SIZES)
    assert not stopped.step_is_open
    assert stopped.metrics() == plain.metrics()
    assert stopped.visits.tolist() == plain.visits.tolist()
    np.testing.assert_array_equal(stopped.predict().mixed, plain.predict().mixed)
    assert act == "choice after a step" or stopped.select(4).tolist() == plain.select(4).tolist()
    assert not set(stopped.longest_in_flight().tolist()) & set(IDS)


def test_every_signal_is_handled_once_after_the_block():
    heard: list[int] = []
    kinds = [signal.SIGUSR1, signal.SIGUSR2]
    before = [signal.signal(kind, lambda number, _: heard.append(number)) for kind in kinds]
    try:
        with SignalsWait():
            with SignalsWait():
                for kind in kinds:
                    signal.raise_signal(kind)
            assert not heard
        assert sorted(heard) == sorted(kinds)
        signal.raise_signal(kinds[0])
        assert len(heard) == 3
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def test_other_threads_have_no_handlers_to_hold_back():
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with SignalsWait():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
