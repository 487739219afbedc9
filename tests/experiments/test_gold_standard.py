import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from experiments.gold_standard import __main__ as gold_standard
from experiments.gold_standard.cases import Config, learner_case, state_space_case
from experiments.gold_standard.presentation import SOURCES, STYLES, draw
from experiments.gold_standard.scoring import LEVELS, PARTS, by_part
from jaxsel import Prediction

pytestmark = pytest.mark.slow

SMALL = Config(num_prompts=12, never_visited=3, steps=4, batch_size=5, num_warmup=30, num_samples=30)


@pytest.mark.parametrize("make", [state_space_case, learner_case])
def test_cases_never_visit_the_last_prompts(make):
    case = make(SMALL, 0)
    assert len(case.history.step) == 20
    assert case.history.prompt_ids.max() < 9
    assert case.embeddings.shape == (12, 8)
    assert case.truth.shape == (12,)
    assert ((case.truth > 0) & (case.truth < 1)).all()
    np.testing.assert_array_equal(case.truth, make(SMALL, 0).truth)
    assert not np.array_equal(case.truth, make(SMALL, 1).truth)


def test_the_state_space_has_the_configured_moments():
    """Check 20,000 logits after 16 steps to 5 sigma: mean -0.5 + 16 * 0.03, variance 0.9^2 + 1.2^2 + 16 * 0.3^2."""
    truth = state_space_case(Config(num_prompts=20_000), 0).truth.astype(float)
    logits, variance = np.log(truth / (1 - truth)), 0.81 + 1.44 + 16 * 0.09
    assert logits.mean() == pytest.approx(-0.02, abs=5 * np.sqrt(variance / 20_000))
    assert logits.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / 20_000))


def test_coverage_and_distances_of_every_part_by_hand():
    """Two prompts were visited and one never. The prediction is off by 0.1, and twice as wide as the MCMC posterior."""
    config = Config(num_prompts=3, never_visited=1)
    truth = np.array([0.2, 0.4, 0.9], np.float32)
    held = np.array([[True, False, False], [True, True, False], [True, True, True], [True, True, True]])

    def prediction(mean, deviation):
        other = jnp.full(3, 1 / 3)
        return Prediction(jnp.asarray(mean), jnp.full(3, deviation**2), jnp.asarray(mean), other, other, other)

    found = by_part(
        config,
        prediction(truth + 0.1, 0.2),
        prediction(truth, 0.1),
        truth,
        np.array([1, 3, 8], np.int32),
        held,
        np.array([0.5, 0.5, 1.0], np.float32),
    )
    assert [found[part]["coverage 0.5"] for part in PARTS] == pytest.approx([1 / 3, 1 / 2, 0])
    assert [found[part]["coverage 0.8"] for part in PARTS] == pytest.approx([2 / 3, 1, 0])
    for part in PARTS:
        assert found[part]["difference of means"] == pytest.approx(0.1, abs=1e-6)
        assert found[part]["ratio of deviations"] == pytest.approx(2, rel=1e-5)
    assert [found[part]["pit distance"] for part in PARTS[1:]] == pytest.approx([0.5, 1])


def test_the_figure_is_drawn(tmp_path):
    number = {"mean": 0.8, "standard_error": float("nan")}
    numbers = {f"coverage {level}": number for level in LEVELS}
    summaries = {source: {name: {"visited": numbers} for name in STYLES} for source in SOURCES}
    assert draw(summaries, tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.slow
def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxsel, "gps", lambda embeddings: jaxsel.uniform())  # gps takes half a minute to compile
    found = gold_standard.run(SMALL, [0], [], tmp_path)
    assert set(found) == {"state space"}
    assert set(found["state space"]) == set(STYLES)
    assert found["state space"]["gold standard"]["all"]["difference of means"]["mean"] == 0
    assert (tmp_path / "gold_standard.json").exists()
