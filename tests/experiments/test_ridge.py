import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from experiments.calibration.ridge import _PENALTIES, ridge
from tests.support.histories import rollouts

pytestmark = pytest.mark.slow

N, D = 80, 6
KEY = jax.random.key(0)
EMBEDDINGS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32) * np.linspace(0.1, 3, D, dtype=np.float32)


def seen(seed: int, steps: int, slope: float = 0.15):
    """Return batches, the pool's standardised features, and features and success shares of all prompts in batches."""
    rng = np.random.default_rng(seed)
    x = (EMBEDDINGS - EMBEDDINGS.mean(0)) / EMBEDDINGS.std(0)
    p = np.clip(0.5 + slope * x[:, 0] + 0.05 * rng.normal(size=N), 0, 1)
    batches = []
    for _ in range(steps):
        ids = rng.permutation(N)[:10]
        batches.append((ids, rng.binomial(8, p[ids])))
    ids, s = (np.concatenate(columns) for columns in zip(*batches, strict=True))
    return batches, x, x[ids], s / 8


def run(predictor, batches):
    state = predictor.init(KEY, N)
    for ids, s in batches:
        state = predictor.update(KEY, state, rollouts(ids, s, np.full(len(ids), 8)))
    return predictor.predict(KEY, state, None), state


def test_predictions_equal_scikit_learns_ridge_with_the_least_generalised_error():
    batches, pool, x, y = seen(1, 12)

    def error(penalty: float) -> float:
        centred = x - x.mean(0)
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(D), centred.T)
        rest = (y - y.mean()) - hat @ (y - y.mean())
        return len(y) * (rest @ rest) / (len(y) - 1 - np.trace(hat)) ** 2

    best = min(_PENALTIES, key=error)
    expected = Ridge(alpha=best).fit(x, y).predict(pool)
    found, _ = run(ridge(EMBEDDINGS, memory=1.0), batches)
    np.testing.assert_allclose(found.success_rate, np.clip(expected, 0.01, 0.99), atol=2e-3)
    np.testing.assert_allclose(found.unsolved + found.mixed + found.solved, 1, atol=1e-5)


def test_the_variance_measures_the_spread_of_rates_around_the_line():
    """The predicted variance is that of the rates, without the noise of the rollouts in the success shares."""
    batches, *_ = seen(2, 200)
    found, _ = run(ridge(EMBEDDINGS, memory=1.0), batches)
    np.testing.assert_allclose(np.sqrt(found.variance[0]), 0.05, rtol=0.3)


def test_old_visits_fade():
    first, *_ = seen(3, 40, slope=0.15)
    then, *_ = seen(3, 40, slope=-0.15)
    x = (EMBEDDINGS[:, 0] - EMBEDDINGS[:, 0].mean()) / EMBEDDINGS[:, 0].std()
    for memory, sign in ((0.8, -1), (1.0, 0)):
        found, _ = run(ridge(EMBEDDINGS, memory=memory), [*first, *then])
        slope = np.polyfit(x, found.success_rate, 1)[0]
        assert slope == pytest.approx(0.15 * sign, abs=0.04)


def test_before_any_visit_rates_are_one_half_and_rows_without_a_visit_change_nothing():
    predictor = ridge(EMBEDDINGS)
    state = predictor.init(KEY, N)
    blank = predictor.predict(KEY, state, None)
    np.testing.assert_array_equal(blank.success_rate, 0.5)
    np.testing.assert_allclose(blank.mixed, 7 / 9, rtol=1e-3)  # 1 - 2 / 9, for a uniform rate and 8 rollouts
    after = predictor.update(KEY, state, rollouts([-1, 3, N], [1, 0, 2], [8, 0, 8]))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    one = predictor.predict(KEY, predictor.update(KEY, state, rollouts([4], [8], [8])), None)
    assert all(np.isfinite(np.asarray(field)).all() for field in one)
