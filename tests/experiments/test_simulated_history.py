import numpy as np
import pytest

import jaxsel
from experiments.simulated_history import main, record
from jaxsel.integrations.history import read_history

pytestmark = pytest.mark.slow

SMALL = {"seed": 3, "num_prompts": 60, "batch_size": 8, "steps": 7, "probe_every": 3}


def test_a_simulation_is_recorded_as_its_selector_saw_it(tmp_path):
    found = read_history(record(tmp_path, method="mopps", **SMALL))
    assert (found.num_prompts, found.history.num_steps, found.spec["method"]) == (60, 7, "mopps")
    assert found.embeddings is not None
    assert found.embeddings.shape == (60, 32)
    assert np.unique(found.probes["clock"]).tolist() == [0, 3, 6, 7]
    assert (np.bincount(found.probes["prompt_id"]) == 4).all()
    again = jaxsel.replay(found.history, jaxsel.mopps(), num_prompts=60, seed=3, probe_steps=[3])
    order = np.lexsort([found.rollouts["prompt_id"], found.rollouts["clock"]])
    np.testing.assert_array_equal(again.prediction.mixed, found.rollouts["mixed"][order])
    rows = found.probes["clock"] == 3
    np.testing.assert_array_equal(again.probes[3].success_rate, found.probes["success_rate"][rows])


def test_rollouts_are_drawn_from_the_recorded_rates_and_the_rates_rise(tmp_path):
    found = read_history(record(tmp_path, method="uniform", **SMALL | {"num_prompts": 400, "batch_size": 100}))
    for columns in (found.probes, found.rollouts):
        p = columns["truth"].astype(float)
        excess = (columns["successes"] - 8 * p).sum() / np.sqrt((8 * p * (1 - p)).sum())
        assert abs(excess) < 5
    first, last = (found.probes["truth"][found.probes["clock"] == clock].mean() for clock in (0, 7))
    assert last > first + 0.01


def test_the_seed_gives_the_history(tmp_path):
    one, same, other = (
        read_history(record(tmp_path / str(i), method="dps", **SMALL | {"seed": seed}))
        for i, seed in enumerate((0, 0, 1))
    )
    np.testing.assert_array_equal(one.rollouts["successes"], same.rollouts["successes"])
    assert not np.array_equal(one.probes["successes"], other.probes["successes"])


@pytest.mark.parametrize(
    "option", [("--probe-every", "0"), ("--steps", "-3"), ("--batch-size", "65"), ("--seed", "-1")]
)
def test_wrong_options_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "history"), "--num-prompts", "64", *option])
    assert f"{option[0]} is {option[1]}; give" in capsys.readouterr().err
    assert not (tmp_path / "history").exists()


def test_a_folder_with_a_history_is_refused(tmp_path, capsys):
    arguments = [str(tmp_path), "--num-prompts", "20", "--batch-size", "4", "--steps", "2"]
    main(arguments)
    assert str(tmp_path) in capsys.readouterr().out
    with pytest.raises(ValueError, match="already holds a history; give another folder"):
        main(arguments)
