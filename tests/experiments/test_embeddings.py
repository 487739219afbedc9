"""Tests of `experiments.running.embeddings`: the vectors that a run gives to the methods that read embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from experiments.running.curricula import make_curriculum
from experiments.running.embeddings import kernel_features, pool_embeddings
from experiments.running.method_config import MethodConfig
from experiments.running.runs import make_policy
from experiments.running.tasks import make_task
from rl.hidden_states import hidden_states
from rl.prompts import PromptPool
from tests.support.tiny_experiment import CONFIG

pytestmark = pytest.mark.usefixtures("own_cache")


def test_embeddings_are_computed_again_until_the_run_has_a_checkpoint(tmp_path):
    pool = make_task("string_ops").pool(10, 0)
    policies = [make_policy(replace(CONFIG, seed=seed), make_task("string_ops"), progress=False) for seed in (0, 1)]
    one, other = (pool_embeddings("policy", pool, policy, tmp_path) for policy in policies)
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), other)
    (tmp_path / "checkpoint.pt").touch()
    np.testing.assert_array_equal(pool_embeddings("policy", pool, policies[0], tmp_path), other)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "fewer"])
def test_damaged_embeddings_of_a_run_are_named(tmp_path, damage):
    pool, path = make_task("string_ops").pool(10, 0), tmp_path / "embeddings.npy"
    policy = make_policy(CONFIG, make_task("string_ops"), progress=False)
    vectors = pool_embeddings("policy", pool, policy, tmp_path)
    (tmp_path / "checkpoint.pt").touch()
    if damage == "fewer":
        np.save(path, vectors[:9])
    else:
        content = path.read_bytes()
        path.write_bytes({"truncated": content[:-9], "empty": b"", "other": b"text"}[damage])
    with pytest.raises(ValueError, match=r"embeddings\.npy (cannot be read|has shape).*; put back a copy .* delete it"):
        pool_embeddings("policy", pool, policy, tmp_path)
    path.unlink()
    np.testing.assert_array_equal(pool_embeddings("policy", pool, policy, tmp_path), vectors)


def test_difficulties_are_embeddings(tmp_path):
    """The difficulty of a word problem is one of few kinds, and the run keeps the vectors as it keeps a policy's."""
    pool = make_task("word_problems").pool(60, 0)
    vectors = pool_embeddings("difficulty", pool, None, tmp_path)
    kinds = sorted(set(pool.strata or ()))
    assert vectors.shape == (60, len(kinds))
    for i, kind in enumerate(pool.strata or ()):
        assert vectors[i].argmax() == kinds.index(kind)
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), vectors)
    (tmp_path / "checkpoint.pt").touch()
    np.testing.assert_array_equal(pool_embeddings("difficulty", pool, None, tmp_path), vectors)


def test_difficulties_without_strata_are_refused():
    config = replace(CONFIG, method=MethodConfig("adaptive", embeddings="difficulty"))
    with pytest.raises(ValueError, match=r"method\.embeddings is 'difficulty', and the prompts have no strata; name"):
        make_curriculum(config, make_task("string_ops").pool(10, 0))


@pytest.mark.slow
def test_a_method_reads_difficulties():
    pool = make_task("word_problems").pool(60, 0)
    config = replace(CONFIG, method=MethodConfig("adaptive", embeddings="difficulty"))
    assert make_curriculum(config, pool).selector.select(4).shape == (4,)


def test_embeddings_of_chat_messages_are_those_of_the_policys_own_prompts():
    policy = make_policy(CONFIG, make_task(CONFIG.task), progress=False)
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] ~ m['content'] }}{% endfor %}"
    messages = [{"role": "system", "content": "s1"}, {"role": "user", "content": "u2"}]
    pool = PromptPool(["12", messages, "3"], ["1", "2", "3"], ["a", "b", "c"])
    np.testing.assert_allclose(
        pool_embeddings("policy", pool, policy, None), hidden_states(policy)(pool.texts), atol=2e-6
    )
    assert pool_embeddings("wordllama", pool, None, None).shape == (3, 256)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_of_kernel_features_approximate_the_kernel(dtype):
    states = np.random.default_rng(0).normal(size=(50, 6)) * [1, 2, 3, 0, 5, 6] + 7
    features = kernel_features(states.astype(dtype), 20_000)
    scaled = (states - states.mean(0)) / np.where(np.arange(6) == 3, 1, states.std(0))  # one state is constant
    distances = ((scaled[:, None] - scaled) ** 2).sum(-1)
    np.testing.assert_allclose(features @ features.T, np.exp(-distances / 6), atol=0.05)
    np.testing.assert_array_equal(features, kernel_features(states.astype(dtype), 20_000))


def test_a_linear_model_of_kernel_features_predicts_what_is_not_linear_in_the_states():
    states = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    target = np.sign(states[:, 0] * states[:, 1])  # uncorrelated with every state
    trained, unseen = np.arange(1500), np.arange(1500, 2000)

    def share_right(inputs: np.ndarray) -> float:
        model = Ridge(1.0).fit(inputs[trained], target[trained])
        return float((np.sign(model.predict(inputs[unseen])) == target[unseen]).mean())

    assert share_right(states) < 0.6
    assert share_right(kernel_features(states, 256)) > 0.9


def test_kernel_features_follow_the_hidden_states():
    pool = make_task("string_ops").pool(10, 0)
    policy = make_policy(CONFIG, make_task("string_ops"), progress=False)
    states = pool_embeddings("policy", pool, policy, None)
    expected = np.concatenate([states, kernel_features(states, 5)], 1)
    np.testing.assert_array_equal(pool_embeddings("policy", pool, policy, None, 5), expected)
    both = pool_embeddings("both", pool, policy, None, 5)
    np.testing.assert_array_equal(both[:, 256:], expected)
    np.testing.assert_array_equal(both[:, :256], pool_embeddings("wordllama", pool, None, None))


@pytest.mark.parametrize("kind", ["wordllama", "difficulty"])
def test_kernel_features_without_hidden_states_are_refused(kind):
    with pytest.raises(ValueError, match=rf"kernel_features is 8 with method\.embeddings={kind}; give 0, or .*policy"):
        MethodConfig("adaptive", embeddings=kind, kernel_features=8)


def test_embeddings_of_the_policy_need_the_policy():
    pool = make_task("string_ops").pool(10, 0)
    config = replace(CONFIG, method=MethodConfig("adaptive", embeddings="policy"))
    with pytest.raises(ValueError, match=r"policy is None with method\.embeddings 'policy'; give the policy"):
        make_curriculum(config, pool)
    assert make_curriculum(replace(config, method=replace(config.method, name="mopps")), pool)
    with pytest.raises(ValueError, match="embeddings is 'bert'; give one of wordllama, policy, both, difficulty"):
        MethodConfig(embeddings="bert")
