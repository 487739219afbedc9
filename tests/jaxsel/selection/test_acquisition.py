import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel

RATE = np.array([0.0, 0.2, 0.5, 0.9])
BELIEF = np.array([[1.0, 0.5, 0.2, 0.0], [0.0, 0.3, 0.6, 0.0], [0.0, 0.2, 0.2, 1.0]])


def near(target: float) -> np.ndarray:
    """Return P(mixed) times a normal density of the angle arcsin(sqrt(rate)), scaled to a largest value of 1."""
    centre = np.arcsin(np.sqrt(target))
    width = min(np.sin(centre), np.cos(centre)) / np.sqrt(2)
    density = stats.norm.pdf(np.arcsin(np.sqrt(RATE)), centre, width)
    return BELIEF[1] * density / stats.norm.pdf(centre, centre, width)


@pytest.fixture
def prediction() -> jaxsel.Prediction:
    fields = (RATE, RATE * (1 - RATE), RATE[::-1], *BELIEF)
    return jaxsel.Prediction(*(jnp.asarray(field, jnp.float32) for field in fields))


@pytest.mark.parametrize(
    ("acquisition", "scores"),
    [
        (jaxsel.thompson(), -((RATE[::-1] - 0.5) ** 2)),
        (jaxsel.thompson(0.8), -((RATE[::-1] - 0.8) ** 2)),
        (jaxsel.target_success_rate(), -((RATE - 0.5) ** 2)),
        (jaxsel.posterior_draw(), RATE[::-1]),
        (jaxsel.mixed_probability(), BELIEF[1]),
        (jaxsel.mixed_probability(entropy_weight=2), BELIEF[1] + 2 * stats.entropy(BELIEF)),
        (jaxsel.mixed_probability(log=True), [-np.inf, np.log(0.3), np.log(0.6), -np.inf]),
        (jaxsel.mixed_near_target(), near(0.5)),
        (jaxsel.mixed_near_target(0.2), near(0.2)),
        (
            jaxsel.mixed_near_target(0.9, log=True),
            np.log(np.maximum(near(0.9), 1e-300)) + np.where(near(0.9), 0, -np.inf),
        ),
        (jaxsel.entropy(), stats.entropy(BELIEF)),
    ],
)
def test_scores(prediction, acquisition, scores):
    np.testing.assert_allclose(acquisition.score(prediction), scores, rtol=1e-5, atol=1e-6)
    json.dumps(acquisition.spec)


@pytest.mark.parametrize(
    ("acquisition", "arguments", "message"),
    [
        (jaxsel.thompson, {"target": 1.2}, r"target is 1\.2; give a number from 0 to 1"),
        (jaxsel.target_success_rate, {"target": -1.0}, "target is"),
        (jaxsel.mixed_near_target, {"target": 0.0}, "target is 0.0; give a number from 1e-06 to 0.999999"),
        (jaxsel.mixed_near_target, {"target": 1.0}, r"target is 1\.0; give"),
        (jaxsel.mixed_near_target, {"target": 1e-50}, "target is 1e-50; give"),
        (jaxsel.mixed_near_target, {"target": float("nan")}, "target is nan"),
        (
            jaxsel.mixed_probability,
            {"entropy_weight": -0.5},
            r"entropy_weight is -0\.5; give a finite number",
        ),
    ],
)
def test_bad_arguments_are_named(acquisition, arguments, message):
    with pytest.raises(ValueError, match=message):
        acquisition(**arguments)


def test_the_kernel_is_symmetric_and_falls_with_the_distance_to_its_target():
    rates = np.array([0.5, 0.3, 0.7, 0.1, 0.9, 0.0, 1.0 + 1e-7])
    fields = dict.fromkeys(jaxsel.Prediction._fields, jnp.asarray(rates, jnp.float32))
    prediction = jaxsel.Prediction(**fields | {"mixed": jnp.ones(7)})
    score = np.asarray(jaxsel.mixed_near_target().score(prediction))
    np.testing.assert_allclose(score[1::2], score[2::2], rtol=1e-3)  # arcsin is steep at 1
    assert (np.diff(score[::2]) < 0).all()
    assert score[0] == 1
