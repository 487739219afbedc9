"""The comparison of predictions with and without frozen prompts, on a small recorded run."""

import json

import numpy as np
import pytest

from experiments.frozen_prompts import main
from experiments.simulated_history import record

pytestmark = pytest.mark.slow

SMALL = {"num_prompts": 60, "batch_size": 8, "steps": 8}


def test_scores_of_both_models_by_quarter(tmp_path, capsys):
    history = record(tmp_path / "run", method="uniform", seed=3, probe_every=2, **SMALL)
    main([f"$5_$6={history}", "--results", str(tmp_path / "results")])
    assert "scores by quarter" in capsys.readouterr().out
    found = json.loads((tmp_path / "results" / "frozen_prompts.json").read_text())
    models = found["scores"]["$5_$6"]
    for score, old in models["logits alone"].items():
        assert len(old) == 4
        new, difference = models["with frozen prompts"][score], models["difference"][score]
        for quarter in range(4):
            assert np.isfinite(new[quarter]["mean"])
            expected = new[quarter]["mean"] - old[quarter]["mean"]
            assert difference[quarter]["mean"] == pytest.approx(expected, abs=1e-9)
    assert found["config"] == {"seeds": {"$5_$6": [None]}}
    assert (tmp_path / "results" / "frozen_prompts.png").stat().st_size > 10_000


def test_too_few_probes_are_named(tmp_path):
    history = record(tmp_path / "run", method="uniform", seed=3, probe_every=8, **SMALL)
    with pytest.raises(SystemExit, match="no judged rollouts in steps 0 to 2; give a smaller probe_every"):
        main([f"simulated={history}", "--results", str(tmp_path)])
