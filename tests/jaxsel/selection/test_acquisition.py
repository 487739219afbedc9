import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsel

RATE = np.array([0.0, 0.2, 0.5, 0.9])
BELIEF = np.array([[1.0, 0.5, 0.2, 0.0], [0.0, 0.3, 0.6, 0.0], [0.0, 0.2, 0.2, 1.0]])


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
