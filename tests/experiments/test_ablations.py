import inspect
import json

import pytest
from omegaconf.errors import ConfigAttributeError

import jaxsel
from experiments.ablations import __main__ as ablations
from experiments.ablations.presentation import draw, sweep_numbers
from experiments.ablations.sweeps import SWEEPS, Sweep, beside, command, needed, place
from experiments.reporting import drawing
from experiments.running.config import configured


def test_configured_takes_the_setting_names_of_the_command_line():
    config = configured({"method.name": "dps", "method.dps_decay": 0.7, "train.group_size": 4, "seed": 3})
    assert (config.method.name, config.method.dps_decay, config.train.group_size, config.seed) == ("dps", 0.7, 4, 3)
    with pytest.raises(ConfigAttributeError, match="dekay"):
        configured({"method.dekay": 0.7})


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_every_sweep_has_one_config_per_value_and_a_run_with_only_its_fixed_settings(sweep):
    configs = [configured(settings) for settings in sweep.settings()]
    assert len({str(config) for config in configs}) == len(sweep.values)
    plain = configured(sweep.fixed)
    if sweep.over == "method.temperature" and plain.method.temperature is None:  # the default of the method
        default = inspect.signature(getattr(jaxsel, plain.method.name)).parameters["temperature"].default
        plain = configured(sweep.fixed | {sweep.over: default})
    assert plain in configs


def test_runs_that_sweeps_share_are_run_once():
    sweeps = (SWEEPS[name] for name in ("batch_size", "group_size", "target_of_mopps"))
    names = [place(settings) for settings in needed(sweeps)]
    assert len(names) == len(set(names))
    assert {"mopps", "uniform", "uniform,method.batch_size=8", "mopps,train.group_size=16"} <= set(names)
    assert place({"method.decay": 0.5}) == "mopps"  # the defaults


def test_the_uniform_run_beside_a_method_keeps_the_batch_size():
    settings = {"method.name": "dps", "method.dps_decay": 0.7, "method.batch_size": 8}
    assert beside(settings) == {"method.name": "uniform", "method.batch_size": 8}


def test_the_command_is_a_sweep_of_hydra():
    said = command(SWEEPS["decay_of_dps"], [1, 2])
    assert said.startswith("python -m experiments.train -m method.name=dps method.dps_decay=0.5,0.7,0.9,0.97 seed=1,2")


def test_gains_and_shares_of_steps_by_hand():
    def run(held_out, mixed):
        """Return a run whose accuracy rises by 0.2 in ten steps; the mean of its last two probes is `held_out`."""
        seconds = dict.fromkeys(("seconds/selecting", "seconds/generating", "seconds/updating"), 0.1)
        steps = ((step, held_out + 0.1 + (step - 30) / 50) for step in range(0, 31, 10))
        return [
            {"step": step, "rollouts": 100, "train/mixed_share": mixed, "probe/held_out_accuracy": value} | seconds
            for step, value in steps
        ]

    found = {"uniform": [run(0.4, 0.2), run(0.5, 0.2)], "mopps": [run(0.5, 0.3), run(0.8, 0.5)]}
    found["mopps,method.target=0.3"] = [run(0.3, 0.3), run(0.4, 0.5)]
    result = sweep_numbers(Sweep("method.target", (0.3, 0.5), {"method.name": "mopps"}), found)
    assert result["0.5"]["gain"] == {"mean": pytest.approx(0.2), "standard_error": pytest.approx(0.1)}
    # the mean of two neighbouring probes reaches uniform's final value at step 15, and uniform reaches it at step 25
    assert result["0.5"]["share_of_steps"]["mean"] == pytest.approx(15 / 25)
    assert result["0.3"]["share_of_steps"]["mean"] == float("inf")
    assert result["0.3"]["gain"]["mean"] == pytest.approx(-0.1)
    assert result["0.3"]["mixed_share"]["mean"] == pytest.approx(0.4)


@pytest.mark.slow
def test_runs_become_a_result_and_a_figure(tmp_path, monkeypatch, capsys):
    def pretend(configs, *, resume):
        assert resume
        assert all("pool_size=64" in str(folder) for folder in configs)
        record = {"rollouts": 128, "train/mixed_share": 0.5, "probe/spearman": 0.5}
        record |= dict.fromkeys(("seconds/selecting", "seconds/generating", "seconds/updating"), 0.1)
        return {
            folder: [record | {"step": step, "probe/held_out_accuracy": config.method.target} for step in (0, 9)]
            for folder, config in configs.items()
        }

    monkeypatch.setattr(ablations, "run_many", pretend)
    monkeypatch.setattr(ablations, "commits", lambda folders: ["abc"])
    sweeps = ["target_of_mopps", "prior_counts_of_dps"]
    ablations.main(["--sweeps", *sweeps, "--set", "pool_size=64", "--results", str(tmp_path), "--out", str(tmp_path)])
    written = json.loads((tmp_path / "ablations.json").read_text())
    assert written["sweeps"]["target_of_mopps"]["0.7"]["gain"]["mean"] == pytest.approx(0.2)
    assert written["config"] == {"set": {"pool_size": "64"}}
    assert (tmp_path / "ablations.png").stat().st_size > 10_000
    assert "prior counts of dps" in capsys.readouterr().out


def test_set_needs_a_name_and_a_value(capsys):
    with pytest.raises(SystemExit):
        ablations.main(["--set", "pool_size"])
    assert "--set: pool_size is not NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sweep", "setting"),
    [
        ("group_size", "train.group_size=4"),
        ("temperature_of_adaptive", "pool_size=64"),
        ("target_of_mopps", "method.name=dps"),
        ("target_of_mopps", "seed=3"),
    ],
)
def test_settings_of_the_sweeps_themselves_cannot_be_set_for_all_runs(capsys, sweep, setting):
    with pytest.raises(SystemExit):
        ablations.main(["--sweeps", sweep, "--set", "held_out_size=4", "--set", setting])
    assert f"--set {setting.partition('=')[0]}: a sweep sets it itself; give another" in capsys.readouterr().err


def test_a_sweep_takes_other_values(monkeypatch, capsys):
    def stop(configs, *, resume):
        raise KeyboardInterrupt([(config.method.name, config.method.decay, config.seed) for config in configs.values()])

    monkeypatch.setattr(ablations, "run_many", stop)
    arguments = ["--sweeps", "decay_of_mopps", "--seeds", "7", "--values", "0.90", "0.5"]
    with pytest.raises(KeyboardInterrupt) as stopped:
        ablations.main(arguments)
    assert stopped.value.args[0][1:] == [("mopps", 0.9, 7), ("mopps", 0.5, 7)]  # after the uniform run
    ablations.main([*arguments, "--print"])
    assert "method.decay=0.9,0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweeps", "decay_of_mopps", "decay_of_dps", "--values", "1"], "--values changes one sweep"),
        (["--sweeps", "decay_of_mopps", "--values", "1.5"], "decay is 1.5"),
        (["--sweeps", "decay_of_mopps", "--values", "half"], "method.decay: Value 'half'"),
        (["--sweeps", "decay_of_mopps", "--values", "1", "1"], "--values holds 1 2 times"),
    ],
)
def test_values_that_a_sweep_cannot_take(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(ablations, "run_many", None)
    with pytest.raises(SystemExit) as ended:
        ablations.main(arguments)
    assert message in f"{ended.value}{capsys.readouterr().err}"


def test_print_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(ablations, "run_many", None)
    ablations.main(["--print"])
    assert capsys.readouterr().out.count("experiments.train -m") == len(SWEEPS)


@pytest.mark.parametrize("count", [1, 2])
def test_the_title_of_a_figure_is_not_cut_off(count, tmp_path, monkeypatch):
    number = {"mean": 0.1, "standard_error": 0.01}
    by_value = {"1.0": dict.fromkeys(("mixed_share", "gain", "mixed_share_of_uniform"), number)}
    drawn = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: drawn.append(figure) or path)
    draw({f"sweep {at}": by_value for at in range(count)}, tmp_path / "figure.png")
    figure = drawn[0]
    figure.canvas.draw()
    title = figure._suptitle.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= figure.bbox.width
    drawing.plt.close(figure)


def test_a_seed_counts_once(capsys):
    with pytest.raises(SystemExit):
        ablations.main(["--sweeps", "decay_of_dps", "--seeds", "1", "2", "1"])
    assert "--seeds holds 1 2 times; give every value once" in capsys.readouterr().err
