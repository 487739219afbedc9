"""Tests of `Served`, the part of a server that writes every change of its `TrainerEdge` to a journal on disk.

A `TrainerEdge` hands out prompts and observes their rewards. A served edge is killed wherever it writes, and compared
with an edge that lives on.
"""

import errno
import json
import math
import os

import numpy as np
import pytest

from jaxsel.integrations import _served
from jaxsel.integrations._journal import Journal
from jaxsel.integrations._served import JOURNAL_FILE, STATE_FILE, Served, encoded
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.history import read_history
from tests.support.served_calls import Client, Killed, N, direct, make, play, rewards_of

pytestmark = pytest.mark.slow

ROUNDS = 8


def start(folder, *, save_every=3, make=make, **options):
    return Served(make, str(folder), save_every, options)


def served(folder, **options):
    return Client(lambda: start(folder, **options))


def journal(folder):
    return [json.loads(line[9:]) for line in (folder / JOURNAL_FILE).read_text().splitlines()]


# The same state as a `TrainerEdge` that was called directly


@pytest.mark.parametrize(("steps", "draw_size"), [(False, None), (True, None), (True, 6)])
def test_a_server_does_what_an_edge_does(tmp_path, steps, draw_size):
    alone, client = TrainerEdge(make(), draw_size=draw_size), served(tmp_path, draw_size=draw_size)
    assert play(client, ROUNDS, steps=steps) == play(direct(alone), ROUNDS, steps=steps)
    assert client.server.edge.state_dict() == alone.state_dict()


def killing(monkeypatch, owner, name, when, moment):
    """Let some calls of a function raise `Killed`, as if the process ended before or after the call."""
    original = getattr(owner, name)

    def run(*args, **kwargs):
        killed = when()
        if killed and moment == "before":
            raise Killed
        result = original(*args, **kwargs)
        if killed:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, run)


@pytest.mark.parametrize(
    ("owner", "name", "moment", "steps"),
    [
        (Journal, "append", "after", True),
        (Journal, "clear", "before", True),
        *(
            pytest.param(*place, moment, steps, marks=pytest.mark.slow)
            for place in ((Journal, "append"), (Journal, "clear"), (_served, "write_state"), (Served, "_save_if_due"))
            for moment in ("before", "after")
            for steps in (False, True)
        ),
    ],
)
def test_a_killed_server_loses_and_repeats_no_call(tmp_path, monkeypatch, owner, name, moment, steps):
    alone, client, rng = TrainerEdge(make(), draw_size=6), served(tmp_path, draw_size=6), np.random.default_rng(3)
    expected = play(direct(alone), ROUNDS, steps=steps)
    killing(monkeypatch, owner, name, lambda: rng.random() < 0.5, moment)
    assert play(client, ROUNDS, steps=steps) == expected
    assert client.restarts > 0
    assert client.server.edge.state_dict() == alone.state_dict()


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_call_that_was_cut_short_on_disk_is_carried_out_when_it_is_tried_again(tmp_path, left):
    alone, client = TrainerEdge(make()), served(tmp_path, save_every=100)
    play(direct(alone), 3, steps=False)
    play(client, 3, steps=False)
    whole = (tmp_path / JOURNAL_FILE).read_bytes()
    ids = client("next_batch", batch_size=3)
    line = (tmp_path / JOURNAL_FILE).read_bytes()[len(whole) :]
    (tmp_path / JOURNAL_FILE).write_bytes(whole + line[:left])
    client._number -= 1
    client.restart()
    assert client("next_batch", batch_size=3).tolist() == ids.tolist() == alone.next_batch(3).tolist()
    client.restart()
    assert client.server.edge.state_dict() == alone.state_dict()


def test_masked_rewards_stay_masked_on_their_way_to_the_server():
    assert json.loads(encoded("rewards", np.ma.array([1.0, 0.0], mask=[True, False]))) == [None, 0.0]


def test_a_history_is_that_of_one_process(tmp_path):
    alone = TrainerEdge(make(), history=tmp_path / "alone")
    client = served(tmp_path / "folder", history=tmp_path / "served")
    for round_ in range(ROUNDS):
        for call in (direct(alone), client):
            ids = call("next_batch", batch_size=3)
            call("observe", prompt_ids=ids, rewards=rewards_of(ids, round_), step=round_ // 2)
        if round_ in (2, 3, 7):
            client.restart()
    alone.flush()
    client.server.edge.flush()
    expected, found = (read_history(tmp_path / name).rollouts for name in ("alone", "served"))
    for name, column in expected.items():
        np.testing.assert_array_equal(column, found[name], err_msg=name)


def test_a_server_that_dies_between_its_history_and_its_first_save_goes_on(tmp_path, monkeypatch):
    client = served(tmp_path / "folder", history=tmp_path / "history")
    ids = client("next_batch", batch_size=3)
    client("observe", prompt_ids=ids, rewards=rewards_of(ids, 0))
    client.server.edge.flush()  # a save writes the history first
    client.restart()
    ids = client("next_batch", batch_size=3)
    client("observe", prompt_ids=ids, rewards=rewards_of(ids, 1))
    client.server.edge.flush()
    assert read_history(tmp_path / "history").history.num_steps == 2


def test_a_new_server_does_not_continue_the_history_of_another(tmp_path):
    client = served(tmp_path / "folder", history=tmp_path / "history")
    client("observe", prompt_ids=[1], rewards=[[1.0]])
    client.server.edge.flush()
    with pytest.raises(ValueError, match="holds another run"):
        served(tmp_path / "other", history=tmp_path / "history")
    assert read_history(tmp_path / "history").history.num_steps == 1


# Calls that are tried again


def test_an_answer_is_given_again_also_after_a_save_and_a_restart(tmp_path):
    server = start(tmp_path)
    first = server.call("a", 1, "next_batch", {"batch_size": "3"})
    server.call("b", 1, "next_batch", {"batch_size": "2"})
    for _ in range(2):
        again = server.call("a", 1, "next_batch", {"batch_size": "3"})
        assert (again.order, again.value.tolist()) == (first.order, first.value.tolist())
        server.save(None)
        server = start(tmp_path)
    assert server.metrics()["selector/in_flight"] == 5


def test_a_call_that_arrives_after_a_later_one_is_refused(tmp_path):
    server = start(tmp_path)
    server.call("a", 2, "end_step", {})
    with pytest.raises(RuntimeError, match="call 1 of client a arrived after call 2"):
        server.call("a", 1, "end_step", {})


def test_answers_of_the_last_clients_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(_served, "REMEMBERED", 2)
    server = start(tmp_path)
    for client in ("a", "b", "a", "c"):
        server.call(client, server._order + 1, "end_step", {})
    assert list(server._answers) == ["a", "c"]


def test_only_calls_of_the_edge_can_be_made(tmp_path):
    with pytest.raises(ValueError, match="method is '__init__'; give one of 'next_batch'"):
        start(tmp_path).call("a", 1, "__init__", {})


# Saves


def test_a_save_happens_after_so_many_observations_and_empties_the_journal(tmp_path):
    client, calls = served(tmp_path, save_every=3), []
    for _ in range(7):
        ids = client("next_batch", batch_size=2)
        client("observe", prompt_ids=ids, rewards=[[1.0], [0.0]])
        calls.append(len(journal(tmp_path)))
    assert calls == [2, 4, 0, 2, 4, 0, 2]
    client.restart()
    assert client.server.metrics()["selector/replayed_calls"] == 2


def test_a_save_waits_for_the_end_of_the_step(tmp_path):
    client = served(tmp_path, save_every=1)
    for row in range(3):
        client("observe", prompt_ids=[row], rewards=[[1.0]], step=0)
        assert client.server.edge.step_is_open
        assert len(journal(tmp_path)) == row + 1
    client("end_step")
    assert journal(tmp_path) == []


def test_a_copy_of_a_save_continues_in_an_edge(tmp_path):
    client = served(tmp_path / "folder")
    play(client, 4, steps=True)
    client.server.save(str(tmp_path / "copy.npz"))
    alone = TrainerEdge(make(seed=5))
    alone.load(tmp_path / "copy.npz")
    assert client("next_batch", batch_size=4).tolist() == alone.next_batch(4).tolist()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_server_goes_back_to_a_copy_of_a_save(tmp_path, is_killed):
    client = served(tmp_path / "folder", save_every=100)
    play(client, 4, steps=False)
    client.server.save(str(tmp_path / "copy.npz"))
    ids = client("next_batch", batch_size=4)
    client("observe", prompt_ids=ids, rewards=rewards_of(ids))
    client.server.load(str(tmp_path / "copy.npz"))
    if is_killed:
        client.restart()
    assert client("next_batch", batch_size=4).tolist() == ids.tolist()


def test_a_save_is_tried_again_after_a_full_disk(tmp_path, monkeypatch, caplog):
    client = served(tmp_path, save_every=1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_served, "write_state", full)
        client("observe", prompt_ids=[1], rewards=[[1.0]])
        with pytest.raises(OSError, match="No space"):
            client.server.save(None)
    assert "the selector was not saved; nothing is lost" in caplog.text
    assert len(journal(tmp_path)) == 1
    client("end_step")
    assert journal(tmp_path) == []


def test_a_call_that_cannot_be_written_is_not_carried_out(tmp_path, monkeypatch):
    client, alone = served(tmp_path), TrainerEdge(make())
    for call in (client, direct(alone)):
        play(call, 2, steps=False)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"journal\.jsonl.*the call was not carried out"):
            client("next_batch", batch_size=3)
    assert client.server.edge.state_dict() == alone.state_dict()
    assert client("next_batch", batch_size=3).tolist() == alone.next_batch(3).tolist()
    client.restart()
    assert client.server.edge.state_dict() == alone.state_dict()


# Folders that are refused


def test_a_folder_of_another_pool_or_method_is_refused(tmp_path):
    play(served(tmp_path), 2, steps=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="the checkpoint is of another pool"):
        start(tmp_path, make=lambda: make(N + 1))
    with pytest.raises(ValueError, match="candidate_ratio"):
        start(tmp_path, make=lambda: make(candidate_ratio=2))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_calls_for_another_meaning_of_success_are_refused(tmp_path):
    client = served(tmp_path, save_every=2)
    client("observe", prompt_ids=[1], rewards=[[0.7]])
    with pytest.raises(ValueError, match=r"has calls for a server with \{\}; serve with these options"):
        start(tmp_path, threshold=0.9)
    client("observe", prompt_ids=[1], rewards=[[0.7]])  # the second observation triggers a save
    start(tmp_path, threshold=0.9)


@pytest.mark.parametrize("line", [0, 1])
def test_a_damaged_journal_is_refused(tmp_path, line):
    client = served(tmp_path, save_every=100)
    for row in range(3):
        client("observe", prompt_ids=[row], rewards=[[1.0]])
    lines = (tmp_path / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"1.0", b"0.0")
    (tmp_path / JOURNAL_FILE).write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=rf"journal\.jsonl is damaged in line {line + 1}"):
        start(tmp_path)


def test_a_journal_without_its_save_is_refused(tmp_path):
    served(tmp_path)("observe", prompt_ids=[1], rewards=[[1.0]])
    (tmp_path / STATE_FILE).unlink()
    with pytest.raises(ValueError, match=r"has a journal, but selector\.npz is missing"):
        start(tmp_path)


# Arguments


def test_rewards_of_all_kinds_arrive_as_they_are(tmp_path):
    groups = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    ragged = [[1.0, None, math.nan], [math.inf], [], [True, 0], [0.5000001]]
    for number, rewards in enumerate([groups, groups.tolist(), {"a": groups, "b": 1 - groups}, ragged]):
        success = "a" if isinstance(rewards, dict) else None
        alone, client = TrainerEdge(make(), success=success), served(tmp_path / str(number), success=success)
        for call in (direct(alone), client):
            call("observe", prompt_ids=np.arange(5, dtype=np.int64), rewards=rewards, step=3)
        assert client.server.edge.state_dict() == alone.state_dict()


@pytest.mark.parametrize("value", [{1, 2}, object(), {("a", 1): [1.0]}, [{"a"}]])
def test_an_argument_without_numbers_is_refused(value):
    with pytest.raises(ValueError, match=r"rewards holds something other than numbers and texts .* give NumPy arrays"):
        encoded("rewards", value)
