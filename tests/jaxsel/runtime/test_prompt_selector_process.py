"""A PromptSelector shared by threads, forked, copied and pickled."""

import copy
import io
import multiprocessing
import os
import pickle
import resource
import threading
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from tests.support.playing import choices
from tests.support.small_gps import EMBEDDINGS, TINY

N = 40
METHODS = {"mopps": jaxsel.mopps(), "dps": jaxsel.dps()}


@pytest.fixture(params=METHODS)
def method(request) -> jaxsel.Selector:
    return METHODS[request.param]


def started(method: jaxsel.Selector, **arguments: Any) -> PromptSelector:
    selector = PromptSelector(method, num_prompts=N, seed=4, **arguments)
    choices(selector, 1)
    return selector


@pytest.mark.slow
def test_four_threads_lose_no_observation(method, tmp_path):
    selector, calls, errors = started(method, track_in_flight=True), 25, []
    selector.predict([1, 2, 3])

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            for _ in range(calls):
                ids = selector.select(4)
                selector.observe(ids, rng.integers(0, 9, 4), 8)
                selector.predict(ids).mixed[:] = 0
                selector.prepare(4)
                selector.release(selector.select(2, exclude=[number]))
                assert selector.metrics()["selector/observes"] > 0
                selector.state_dict()["arrays"].clear()
                if rng.random() < 0.05:
                    selector.save(tmp_path)
                    assert PromptSelector.load(tmp_path, method).visits.sum() > 0
                selector.visits[:] = 0
        except Exception as error:  # an error in a thread would otherwise be lost
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert selector.metrics()["selector/observes"] == 1 + 4 * calls
    assert selector.visits.sum() == 4 * (1 + 4 * calls)


def test_returned_arrays_may_be_written_to(method):
    selector, plain = started(method), started(method)
    for _ in range(2):
        for array in (selector.select(5), *selector.predict(), *selector.predict([1, 2]), selector.visits):
            array[:] = 0
        for array in selector.state_dict()["arrays"].values():
            array[...] = 0
        plain.select(5)
        assert choices(selector, 1) == choices(plain, 1)


ACTS = ["select", "predict", "save", "metrics", "state_dict", "copy", "make", "load", "unpickle"]


@pytest.mark.parametrize("act", ACTS)
def test_a_forked_child_gets_an_error(act, tmp_path):
    selector = started(METHODS["mopps"])
    selector.save(tmp_path / "saved")
    pickled = pickle.dumps(selector)
    call = {
        "make": lambda: PromptSelector(METHODS["mopps"], num_prompts=N),
        "load": lambda: PromptSelector.load(tmp_path / "saved"),
        "unpickle": lambda: pickle.loads(pickled),
        "select": lambda: selector.select(4),
        "predict": selector.predict,
        "save": lambda: selector.save(tmp_path),
        "metrics": selector.metrics,
        "state_dict": selector.state_dict,
        "copy": lambda: copy.copy(selector),
    }[act]
    reading, writing = os.pipe()
    selector._lock._lock.acquire()  # as if another thread were running a method
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX and Python warn about every fork
        child = os.fork()
    if child == 0:
        try:
            call()
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    selector._lock._lock.release()
    os.waitpid(child, 0)
    os.close(writing)
    said = os.read(reading, 9999).decode()
    assert "a fork of it, lacks the threads of JAX; start the process with spawn or forkserver in place of fork" in said
    os.close(reading)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_continue_independently_with_the_same_choices(method, way):
    selector = started(method, candidate_ratio=3, track_in_flight=True)
    selector.select(3)
    copied = way(selector)
    assert copied.spec == selector.spec
    expected = choices(selector)
    assert choices(copied) == expected  # although the original has donated its state meanwhile
    first, second = selector.state_dict(), copied.state_dict()
    assert first["metadata"] == second["metadata"]
    jax.tree.map(np.testing.assert_array_equal, first["arrays"], second["arrays"])


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_an_open_step_stays_open_in_the_selector_and_in_its_copy(method, way):
    selector, undisturbed = started(method), started(method)
    for each in (selector, undisturbed):
        each.observe([1, 2], [3, 8], 8, step=5)
    copied = way(selector)
    for each in (selector, undisturbed, copied):
        assert each.step_is_open
        each.observe([1, 3], [0, 8], 8, step=5)
    assert choices(selector) == choices(undisturbed) == choices(copied)
    assert selector.state_dict() == undisturbed.state_dict() == copied.state_dict()


def test_a_changed_spec_changes_no_selector():
    selector = PromptSelector(jaxsel.mopps(), num_prompts=N)
    for spec in (selector.spec, selector.state_dict()["metadata"]["spec"]):
        spec["predictor"]["decay"] = 0.9
    assert selector.spec["predictor"]["decay"] == 0.5


def test_a_pickled_selector_belongs_to_the_same_pool():
    selector = PromptSelector(METHODS["mopps"], keys=["a", "b", "c"])
    copied = pickle.loads(pickle.dumps(selector))
    copied.load_state_dict(selector.state_dict())
    with pytest.raises(ValueError, match="another pool"):
        copied.load_state_dict(PromptSelector(METHODS["mopps"], keys=["a", "b", "d"]).state_dict())


def test_the_error_of_pickling_gives_the_cure():
    selector = PromptSelector(jaxsel.gps(EMBEDDINGS, **TINY), num_prompts=len(EMBEDDINGS))
    with pytest.raises(ValueError, match=r"pickle its state_dict\(\), make the selector again in the other process"):
        pickle.dump(selector, io.BytesIO())


def _select_in_child(selector: PromptSelector, answers: Any) -> None:
    answers.put(selector.select(4).tolist())


@pytest.mark.slow
def test_spawn_takes_a_selector():
    selector, context = started(METHODS["mopps"]), multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=_select_in_child, args=(selector, answers))
    child.start()
    assert answers.get(timeout=120) == selector.select(4).tolist()
    child.join()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")  # as users have it; the checks take half of the time
def test_repeated_steps_do_not_take_memory(method):
    selector = started(method)

    def cycles(count: int) -> int:
        for _ in range(count):
            ids = selector.select(4)
            selector.observe(ids, ids % 9, 8)
            selector.metrics()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes

    before = cycles(500)
    assert cycles(9500) - before < 4096


UNCALLED: Any = jaxsel  # hides the wrong types from a static type checker


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptSelector(UNCALLED.mopps, num_prompts=3), r"selector is .* call it: mopps\(\.\.\.\)"),
        (lambda: PromptSelector(UNCALLED.beta_bernoulli(), num_prompts=3), "selector is .* compose it: make_selector"),
        (lambda: jaxsel.recalibrated(UNCALLED.dps()), r"predictor is .* give the predictor alone, for example hidden_"),
        (lambda: PromptSelector(UNCALLED.top_k(), num_prompts=3), "selector is .* give a Selector"),
        (lambda: jaxsel.shard(UNCALLED.dps, jaxsel.prompts_mesh(), 3), r"call it: dps\(\.\.\.\)"),
        (lambda: jaxsel.recalibrated(UNCALLED.hidden_markov), r"predictor is .* call it: hidden_markov\(\.\.\.\)"),
        (
            lambda: jaxsel.make_selector(jaxsel.beta_bernoulli(), jaxsel.thompson(), UNCALLED.top_k),
            r"rule is .* call it: top_k\(\.\.\.\)",
        ),
    ],
)
def test_functions_that_were_not_called_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
