"""Training in two processes on the CPU, compared with one process."""

import json

import numpy as np
import pytest
import torch

import rl.ranks
from rl.learner import Learner
from rl.policy import build_policy
from rl.ranks import Ranks, join
from tests.support.runs import CONFIG
from tests.support.two_ranks import TRAIN, UPDATES, run_all

pytestmark = pytest.mark.slow
KINDS = ["ddp", "fsdp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    return run_all(folder)


def assert_close(actual, wanted, tolerance):
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


@pytest.mark.parametrize("name", UPDATES)
def test_two_ranks_update_like_one(found, name):
    """Compare Adam's first moments, a tenth of the gradient, because Adam's steps would hide a wrong factor."""
    alone = found[0][f"{name}, alone"]
    # a reward with a KL penalty holds log-probabilities, whose last digits depend on the number of rows in a pass
    of_ddp = 1e-5 if "reward_kl_weight" in UPDATES[name][0] else 1e-6
    for kind, tolerance in zip(KINDS, (of_ddp, 1e-5), strict=True):
        both = [rank[f"{name}, {kind}"] for rank in found]
        assert_close(both[0]["moments"], alone["moments"], tolerance)
        assert both[0]["metrics"] == pytest.approx(both[1]["metrics"], rel=0, abs=0, nan_ok=True)
        assert both[0]["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-6, nan_ok=True)
        assert_equal_weights(both[0]["weights"], both[1]["weights"])
    if name == "no row":
        assert alone["metrics"]["policy/loss"] == alone["metrics"]["policy/grad_norm"] == 0
    else:
        assert max(moment.abs().max() for moment in alone["moments"]) > 1e-4


def test_two_ranks_train_a_vision_language_policy_on_texts_like_one(found):
    """The weights that read images have no gradient then."""
    alone = found[0]["vision, alone"]
    for kind in KINDS:
        both = [rank[f"vision, {kind}"] for rank in found]
        assert_equal_weights(*both)
        for name, weight in alone.items():
            torch.testing.assert_close(both[0][name], weight, atol=1e-4, rtol=1e-4)


def test_ranks_share_their_values(found):
    for rank, agreed in enumerate(result["agree"] for result in found):
        assert agreed["gathered"] == [0, 10]
        assert agreed["from main"] == "from 0"
        assert agreed["own"] == rank
        assert agreed["stacked"].tolist() == [[True], [rank == 1]]
        assert agreed["after that"] == [0, 1]
    assert found[0]["agree"]["first"] <= found[1]["agree"]["first"]


def test_an_error_on_one_rank_is_raised_on_all(found):
    for rank, agreed in enumerate(result["agree"] for result in found):
        assert agreed["failed on 1"] == "ValueError: bad; on rank 1"
        assert agreed["stopped on 1"].startswith("PreemptedError: stopped before it trained")
        assert agreed["failed on main"] == "KeyError: 'k'; on rank 0"
        assert agreed["failed oddly"] == ("RuntimeError: Odd: odd; on rank 1", "Odd: odd; on rank 1")[rank]
        assert agreed["failed on both"] == f"ValueError: bad {rank}; on rank {rank}"


def test_every_rank_completes_its_part_and_gets_all_completions(found):
    one, other = (result["engine"] for result in found)
    assert [prompts for prompts, _ in one["asked"]] == [["12="], ["12="], ["12=", "3="]]
    assert [prompts for prompts, _ in other["asked"]] == [["3=", "4567="]] * 2 + [["4567="], ["4567=", "8="]]
    assert len({seed for _, seed in one["asked"] + other["asked"]}) == 2
    for name, num_prompts in {"three": 3, "again": 3, "one": 1}.items():
        *tensors, texts, media = one[name]
        assert media is other[name][-1] is None
        assert all(torch.equal(mine, yours) for mine, yours in zip(tensors, other[name], strict=False))
        assert texts == other[name][-2]
        assert len(tensors[0]) == num_prompts
        assert len(texts) == len(tensors[2]) == 2 * num_prompts
    assert all(torch.equal(first, again) for first, again in zip(one["three"][:5], one["again"][:5], strict=True))
    assert one["three"][1].sum(1).tolist() == [3, 2, 5]  # in order, padded on the left
    for result in (one, other):
        assert result["error"] == "FloatingPointError: bad kernel; on rank 0"
        assert result["none"] == "ValueError: prompts is empty; give at least one"


def test_one_rank_holds_the_selector_and_all_get_its_results(found):
    for rank, shared in enumerate(result["selector"] for result in found):
        assert shared["holds"] == shared["saves"] == (rank == 0)
        assert shared["prepared"] == [4] * (rank == 0)
        assert shared["spec"]
        assert shared["metrics"][0] == shared["metrics"][1]
        np.testing.assert_array_equal(*shared["rates"])
        np.testing.assert_array_equal(*shared["visits"])
        assert len({tuple(ids) for ids in shared["next"]}) == 1
        assert shared["error"].startswith("ValueError: batch_size is 31 of 30 prompts")
        assert shared["not made"].startswith("ValueError: seed is -1")
        assert shared["refused"].startswith("ValueError: state_dict has the keys []")


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_two_ranks(found, folder, kind):
    one, other = (result[f"train, {kind}"]["undisturbed"] for result in found)
    assert one["kinds"] == {"ddp": {"Parameter"}, "fsdp": {"DTensor"}}[kind]
    assert one["records"] == other["records"]
    assert [record["step"] for record in one["records"]] == [0, 1, 2, 3, 4, 5]
    written = [json.loads(line) for line in (folder / kind / "undisturbed" / "metrics.jsonl").read_text().splitlines()]
    assert [record | one["records"][i] for i, record in enumerate(written)] == written
    assert len(written) == 6
    assert len(list((folder / kind / "undisturbed").glob("events.*"))) == 1
    assert any(record["policy/grad_norm"] > 0 for record in one["records"][:-1])
    assert_equal_weights(one["weights"], other["weights"])
    assert_equal_weights(one["weights"], one["sampler_weights"])
    assert_equal_weights(one["weights"], other["sampler_weights"])
    assert one["chosen"] == other["chosen"]
    assert len(one["chosen"]) == written[-1]["rollouts"] / CONFIG.group_size
    for result in (one, other):
        np.testing.assert_array_equal(result["visits"], np.bincount(result["chosen"], minlength=30))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_on_two_ranks_continues_to_the_same_numbers(found, kind):
    for result in found:
        whole, resumed = (result[f"train, {kind}"][name] for name in ("undisturbed", "resumed"))
        assert whole["records"] == resumed["records"]
        assert_equal_weights(whole["weights"], resumed["weights"])
        assert len(resumed["chosen"]) < len(whole["chosen"])  # the run did not start from its beginning
        assert "already holds a run" in result[f"train, {kind}"]["refused"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_goes_on_from_a_checkpoint_of_two(found, folder, task, kind):
    """A checkpoint of two processes holds the whole policy, also where FSDP had spread it over them."""
    saved = torch.load(folder / kind / "undisturbed" / "checkpoint.pt", weights_only=True)
    policy = build_policy(task.alphabet, hidden_size=32, num_layers=2, feed_forward_size=32, seed=5)
    learner = Learner(TRAIN[kind], policy)
    learner.load_state_dict(saved["learner"])
    assert saved["step"] == 5
    assert_equal_weights(learner.weights(), saved["learner"]["policy"])
    moments = learner.state_dict()["optimizer"]["state"]
    assert len(moments) == len(learner._parameters)
    assert all(values["exp_avg"].shape == learner._parameters[i].shape for i, values in moments.items())


def test_a_single_process_sends_nothing():
    ranks, local = Ranks(), lambda: lambda: 1  # a lambda cannot be pickled
    assert ranks.gather(local)[0]() == ranks.on_main(local)() == ranks.each(local)() == ranks.main_first(local)() == 1
    assert ranks.is_main
    assert not Ranks(parallel="fsdp").sharded
    module = torch.nn.Linear(2, 2)
    assert ranks.spread(module) is module


def test_unknown_and_incomplete_groups_of_processes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="parallel is 'tp'; give one of ddp, fsdp"):
        join("tp")

    class Lonely:
        device, process_index, num_processes = torch.device("cpu"), 0, 1

    monkeypatch.setattr(rl.ranks, "Accelerator", lambda **_: Lonely())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE is 2, but Accelerate joined 1 processes"):
        join()


def test_a_run_is_on_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert Ranks().device == torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert Ranks().device == torch.device("cpu")


@pytest.mark.parametrize(("kind", "cpu"), [("cuda", False), ("mps", True)])
def test_a_gpu_without_float64_is_left_out(monkeypatch, kind, cpu):
    """Advantages and entropies are summed in float64, which Apple's GPU refuses."""
    given = []

    class Pair:
        device, process_index, num_processes = torch.device("cpu"), 0, 2

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(rl.ranks, "Accelerator", lambda **options: given.append(options) or Pair())
    assert (Ranks().device.type == "cpu") == cpu
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert join().count == 2
    assert given[0]["cpu"] == cpu
