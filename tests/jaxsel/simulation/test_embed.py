import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel import simulate
from tests.support.embedded import quick_jit

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@functools.cache
def learner_and_embeddings(num_prompts: int, num_skills: int, num_features: int, noise: float):
    learner = simulate.make_learner(KEY, num_prompts, num_skills=num_skills)
    embeddings = simulate.embed(jax.random.key(1), learner, num_features=num_features, noise=noise)
    return learner, np.asarray(embeddings)


def recovered(num_prompts: int, num_skills: int, num_features: int, noise: float) -> float:
    """Return the share of the difficulty's variance that the best linear map of the embeddings explains."""
    learner, embeddings = learner_and_embeddings(num_prompts, num_skills, num_features, noise)
    inputs = np.concatenate([embeddings, np.ones((num_prompts, 1))], 1).astype(float)
    difficulty = np.asarray(learner.difficulty, float)
    residual = difficulty - inputs @ np.linalg.lstsq(inputs, difficulty)[0]
    return 1 - residual.var() / difficulty.var()


def test_without_noise_a_linear_map_recovers_the_difficulty():
    assert recovered(500, 8, 8, 0.0) > 0.9999


def test_with_fewer_features_than_skills_a_linear_map_recovers_a_part():
    assert 0.1 < recovered(2000, 32, 16, 0.0) < 0.9


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_noise_leaves_the_share_of_the_docstring(noise):
    share = recovered(5000, 4, 64, noise)
    assert 0.9 / (1 + noise**2) < share < 1 / (1 + noise**2) + 0.03


def test_prompts_with_the_same_skills_lie_together():
    learner, embeddings = learner_and_embeddings(300, 32, 32, 0.5)
    skills = np.sort(np.asarray(learner.skill_ids), 0)
    first, second = np.triu_indices(300, 1)
    common = np.array([len({*skills[:, i]} & {*skills[:, j]}) for i, j in zip(first, second, strict=True)])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    alike = (unit @ unit.T)[first, second]
    assert alike[common == 2].mean() > 0.5 > alike[common == 1].mean() > 0.1
    assert abs(alike[common == 0].mean()) < 0.1


def test_embeddings_are_linear_in_the_loadings():
    """Prompt 2 depends on the skills of prompts 0 and 1 with weights 1/4 and 3/4. All are equally difficult."""
    learner = simulate.make_learner(KEY, 3, num_skills=5, difficulty_spread=0.0)._replace(
        skill_ids=jnp.array([[0, 4, 0], [0, 4, 4]]), loadings=jnp.array([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]])
    )
    first, second, mixture = simulate.embed(KEY, learner, noise=0.0)
    np.testing.assert_allclose(mixture, 0.25 * first + 0.75 * second, atol=1e-5)
    assert abs(np.linalg.norm(first) / 32**0.5 - 1) < 0.5


def test_the_key_decides():
    learner, _ = learner_and_embeddings(300, 32, 32, 0.5)
    once, again, other = (simulate.embed(jax.random.key(seed), learner) for seed in (0, 0, 1))
    assert (once.shape, once.dtype) == ((300, 32), jnp.float32)
    np.testing.assert_array_equal(once, again)
    assert abs(np.corrcoef(once.ravel(), other.ravel())[0, 1]) < 0.2
    np.testing.assert_allclose(jax.jit(simulate.embed)(jax.random.key(0), learner), once, rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_with_prompts_times_skills():
    learner = simulate.make_learner(KEY, 3001, num_skills=1999)
    program = str(jax.make_jaxpr(simulate.embed)(KEY, learner))
    assert "[3001,32]" in program
    assert "3001,1999" not in program
    assert "1999,3001" not in program


@pytest.mark.parametrize("options", [{"num_features": 0}, {"noise": -0.1}, {"noise": float("nan")}])
def test_the_wrong_argument_is_named(options):
    learner, _ = learner_and_embeddings(300, 32, 32, 0.5)
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is"):
        simulate.embed(KEY, learner, **options)


@pytest.mark.slow
def test_gps_ranks_unvisited_prompts():
    """MoPPS learns only about observed prompts. GPS learns about all prompts through their embeddings."""
    learner, embeddings = learner_and_embeddings(400, 4, 8, 0.1)
    gps = jaxsel.gps(embeddings, width=16, num_heads=1, num_draws=4, context_size=32)
    run = functools.partial(simulate.simulate, KEY, num_steps=8, batch_size=24)
    gps, mopps = (quick_jit(functools.partial(run, method))(learner) for method in (gps, jaxsel.mopps()))
    assert all(len(set(batch)) == 24 for batch in gps.prompt_ids.tolist())
    assert (gps.spearman[4:] > mopps.spearman[4:] + 0.1).all(), (gps.spearman, mopps.spearman)
    assert gps.spearman[-1] > 0.8
    assert gps.mean_absolute_error[-1] < mopps.mean_absolute_error[-1]
