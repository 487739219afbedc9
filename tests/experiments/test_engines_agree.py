import json

from experiments import engines_agree
from tests.support import vllm_lane

pytestmark = vllm_lane.MARKS


def test_countdown_is_learnt_alike_with_both_engines(tmp_path, capsys):
    engines_agree.main(["--seeds", "0", "--out", str(tmp_path / "runs"), "--results", str(tmp_path)])
    result = json.loads((tmp_path / "engines_agree.json").read_text())
    for name in ("hf", "vllm"):
        run = result["per_seed"][name][0]
        assert run["after"] > run["before"] + 0.1, name
        assert run["gap_max"] < 1e-3
    # eight rollouts of 64 prompts: the standard error of an accuracy is about 0.02
    assert abs(result["vllm_minus_hf"]["mean"]) < 0.1
    assert (tmp_path / "engines_agree.png").exists()
    assert "vllm minus hf" in capsys.readouterr().out
