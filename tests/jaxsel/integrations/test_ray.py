"""Tests of selectors on a server, with the real Ray on a CPU; `make ray` runs them in a separate environment."""

import contextlib
import functools
import importlib.util
import os
import pickle
import time
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("no Ray in this environment; see `make ray`", allow_module_level=True)

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # pyright: ignore[reportMissingImports]

from jaxsel.integrations._served import STATE_FILE
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.ray import _end, connect, serve
from tests.support.ray_workers import Worker, kill, process_of
from tests.support.served_calls import N, make, rewards_of

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """Start Ray. Its processes share compiled programs, so a server restarts in seconds, not in a minute."""
    names = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}
    names |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "OMP_NUM_THREADS": "1"}
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=8, runtime_env={"env_vars": names}, **options)
    yield
    ray.shutdown()


@pytest.fixture
def started(tmp_path):
    """Return a function that starts servers, which end with the test."""
    handles = []

    def start(name="selector", selector=make, **options):
        handles.append(serve(name, selector, **{"folder": tmp_path / name} | options))
        return handles[-1]

    yield start
    for handle in handles:
        with contextlib.suppress(ValueError):  # the server has stopped already
            _end(ray.get_actor(handle.name, namespace=handle.namespace), handle)


def assert_like_one_process(calls, expected):
    """Check that `expected` gives the answers that workers got, if it is called in the server's order."""
    orders = [order for order, *_ in calls]
    assert orders == list(range(1, len(calls) + 1))  # no call is lost, and none counts twice
    for _, method, arguments, answer in calls:
        assert np.asarray(getattr(expected, method)(**arguments)).tolist() == answer


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_servers_lose_and_repeat_no_call_of_three_workers(started, tmp_path, kills):
    selector, rng = started(save_every=7), np.random.default_rng(0)
    workers = [Worker.remote(selector) for _ in range(3)]
    running = [worker.work.remote(4, tmp_path / "stop") for worker in workers]
    processes = []
    for _ in range(kills):
        processes.append(process_of(selector))
        time.sleep(rng.uniform(0, 0.3))
        kill(processes[-1])
        selector.metrics()  # waits until the server is back
    assert len(set(processes)) == kills
    time.sleep(0.2)
    (tmp_path / "stop").touch()
    ray.get(running)
    calls = sorted((call for worker in workers for call in ray.get(worker.calls.remote())), key=lambda call: call[0])
    assert len(calls) > 3 * 2 * kills
    alone = TrainerEdge(make())
    assert_like_one_process(calls, alone)
    selector.save(tmp_path / "copy.npz")
    saved = TrainerEdge(make())
    saved.load(tmp_path / "copy.npz")
    assert saved.state_dict() == alone.state_dict()


def test_concurrent_callers_never_get_the_same_prompt(started):
    selector = started(draw_size=6)

    def take(handle):
        return [handle.next_prompt() for _ in range(N // 3)]

    remote_take: Any = ray.remote(num_cpus=0)(take)
    taken = ray.get([remote_take.remote(selector) for _ in range(3)])
    assert sorted(prompt for prompts in taken for prompt in prompts) == list(range(N))


def test_errors_are_those_of_an_edge(started):
    selector, alone = started(keys=list(range(N))), TrainerEdge(make(), keys=list(range(N)))
    calls = [
        ("next_batch", N + 1),
        ("next_batch", 0),
        ("observe", [N], [[1.0]]),
        ("observe", [1], [["right"]]),
        ("observe", [1, 2], [[1.0]]),
        ("observe", [1], {"a": [[1.0]], "b": [[1.0]]}),
        ("release", [-1]),
        ("rows", [N]),
        ("load", "/nowhere"),
    ]
    for method, *arguments in calls:
        with pytest.raises(ValueError) as expected:  # noqa: PT011  (the message is compared)
            getattr(alone, method)(*arguments)
        with pytest.raises(ValueError) as found:  # noqa: PT011
            getattr(selector, method)(*arguments)
        assert type(found.value) is ValueError
        assert str(found.value) == str(expected.value)
    assert selector.next_batch(5).tolist() == alone.next_batch(5).tolist()


def test_a_server_has_the_methods_of_an_edge(started):
    selector, alone = started(keys=list(range(N))), TrainerEdge(make(), keys=list(range(N)))
    for both in (selector, alone):
        ids = both.next_batch(4)
        both.observe(ids[:2], np.array([[1, 0], [0, 0]]), step=1)
        both.observe(ids[2:3], [[1.0]], step=1)
        both.end_step()
        both.release(ids[3:])
    assert selector.rows([3, 5]).tolist() == [3, 5]
    assert selector.metrics() == alone.metrics() | {"selector/replayed_calls": 0}
    assert connect("selector").next_prompt() == alone.next_prompt()


def test_servers_of_other_names_are_independent(started):
    first, second = started("first"), started("second", selector=make(seed=1))
    first.observe([1], [[1.0]])
    assert (first.metrics()["selector/observes"], second.metrics()["selector/observes"]) == (1, 0)
    with pytest.raises(ValueError, match="no server is named 'third' in the namespace 'jaxsel'"):
        connect("third")
    with pytest.raises(ValueError, match="in the namespace 'elsewhere'"):
        connect("first", namespace="elsewhere")


def test_serving_again_connects_to_the_running_server_if_it_is_the_same(started, tmp_path):
    started().observe([1], [[1.0]])
    assert started().metrics()["selector/observes"] == 1
    with pytest.raises(ValueError, match=r"selector is mopps for 31 prompts.* has mopps for 30 prompts"):
        started(selector=functools.partial(make, N + 1))
    with pytest.raises(ValueError, match="or other hyperparameters; give another name"):
        started(selector=functools.partial(make, candidate_ratio=2))
    with pytest.raises(ValueError, match=r"elsewhere, but the running server of this name uses .*selector"):
        started(folder=tmp_path / "elsewhere")


def test_a_stopped_server_continues_in_a_new_one(started):
    selector = started()
    selector.next_batch(5)
    selector.observe([1], [[1.0]])
    selector.stop()
    with pytest.raises(ValueError, match="no server is named 'selector'"):
        selector.metrics()
    again = started(selector=make())
    assert again.metrics()["selector/observes"] == selector.metrics()["selector/observes"] == 1
    assert again.metrics()["selector/in_flight"] == 5 - (1 in TrainerEdge(make()).next_batch(5))


def test_a_folder_of_another_pool_or_method_is_refused_and_no_server_stays(started):
    started().stop()
    with pytest.raises(ValueError, match="the checkpoint is of another pool"):
        started(selector=functools.partial(make, N + 1))
    with pytest.raises(ValueError, match="candidate_ratio"):
        started(selector=functools.partial(make, candidate_ratio=2))
    with pytest.raises(ValueError, match="no server is named 'selector'"):
        connect("selector")
    started()


def test_a_selector_that_cannot_be_served_is_refused(started):
    with pytest.raises(ValueError, match="does not track prompts in flight"):
        started(selector=functools.partial(make, track_in_flight=False))
    with pytest.raises(TypeError, match="unknown"):
        started(unknown=1)
    with pytest.raises(ValueError, match="name is ''; give a text"):
        started("")
    with pytest.raises(ValueError, match="save_every is 0"):
        started(save_every=0)


def test_a_trainer_goes_back_to_its_checkpoint(started, tmp_path):
    selector = started()
    selector.observe(selector.next_batch(3), [[1.0], [0.0], [1.0]])
    selector.save(tmp_path / "checkpoint-1.npz")
    ids = selector.next_batch(4)
    selector.observe(ids, rewards_of(ids))
    selector.load(tmp_path / "checkpoint-1.npz")
    assert selector.next_batch(4).tolist() == ids.tolist()


def test_a_copied_handle_is_another_client(started):
    selector = started()
    copied = pickle.loads(pickle.dumps(selector))
    taken = [handle.next_prompt() for handle in (selector, copied, selector, copied)]
    assert len(set(taken)) == 4


def test_a_damaged_folder_is_named_by_every_call_after_a_restart(started, tmp_path):
    selector = started()
    process = process_of(selector)
    (tmp_path / "selector" / STATE_FILE).write_bytes(b"damaged")
    kill(process)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"selector\.npz is damaged"):
            selector.next_batch(3)
