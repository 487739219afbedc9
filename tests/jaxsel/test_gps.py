"""The method `gps`, which predicts success rates from embeddings, end to end: a `PromptSelector` with a small pool."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

import jaxsel
from jaxsel import PromptSelector
from tests.support.playing import choices
from tests.support.small_gps import EMBEDDINGS, GPS, NO_LATENT, TINY, N

pytestmark = pytest.mark.slow

FITTED = {"selector/elbo", "selector/reconstruction", "selector/kl", "selector/gradient_norm"}
SWITCHED_OFF: dict[str, dict[str, Any]] = {
    "diversity": {"diversity_weight": 0},
    "anchors": {"anchor_batches": 0},
    "shortlist": {"shortlist": None},
    "rule": {"rule": jaxsel.top_k()},
    "acquisition": {"acquisition": jaxsel.thompson()},
}


@functools.cache
def without(choice: str) -> jaxsel.Selector:
    """Return NO_LATENT (gps without latent variables) with another way to choose, and the same compiled predictor."""
    other = jaxsel.gps(EMBEDDINGS, **TINY | {"latent_size": 0, "decay": None} | SWITCHED_OFF[choice])
    return other._replace(init=NO_LATENT.init, predict=NO_LATENT.predict, update=NO_LATENT.update)


def make(method: jaxsel.Selector = GPS, **arguments: Any) -> PromptSelector:
    arguments = {"num_prompts": N} | arguments
    return PromptSelector(method, **arguments)


def trained(method: jaxsel.Selector = GPS, **arguments: Any) -> PromptSelector:
    selector = make(method, **arguments)
    choices(selector, 2)
    selector.observe([0, 20, 7], [0, 8, 3], 8)
    return selector


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_valid(selector: PromptSelector, batch_size: int) -> None:
    ids = selector.select(batch_size)
    assert ids.dtype == np.int32
    assert len(set(ids.tolist())) == batch_size
    assert set(ids.tolist()) <= set(range(N))


def assert_probabilities(prediction: jaxsel.Prediction) -> None:
    for field in prediction:
        assert (field.shape, field.dtype) == ((N,), np.float32)
        assert ((field >= 0) & (field <= 1)).all()
    np.testing.assert_allclose(prediction.unsolved + prediction.mixed + prediction.solved, 1, atol=1e-6)


def test_a_run_selects_learns_and_reports():
    selector = make()
    for step in range(4):
        assert_valid(selector, 4)
        ids = selector.select(4)
        selector.observe(ids, ids % 9, 8)
        assert selector.metrics().keys() == FITTED | {
            "selector/observes",
            "selector/coverage",
            "selector/mixed_share",
            "selector/predicted_mixed_share",
            "selector/success_rate_mae",
            "selector/solve_state_accuracy",
        }
        assert all(np.isfinite(value) for value in selector.metrics().values())
        assert selector.metrics()["selector/observes"] == step + 1
    assert_probabilities(selector.predict())
    some = selector.predict([7, 2, 7])
    np.testing.assert_allclose(some.success_rate, selector.predict().success_rate[[7, 2, 7]], rtol=1e-5)


def test_before_the_first_observation_nothing_is_known():
    selector = make()
    assert np.isnan([selector.metrics()[name] for name in FITTED]).all()
    np.testing.assert_allclose(selector.predict().success_rate, 0.5, atol=1e-6)
    selector.observe([], [], 8)
    selector.observe([3], [0], 0)
    assert np.isnan([selector.metrics()[name] for name in FITTED]).all()
    np.testing.assert_allclose(selector.predict().success_rate, 0.5, atol=1e-6)


def test_observations_of_a_prompt_move_its_prediction():
    selector = make()
    selector.observe([1, 2], [0, 8], 8)
    unsolved, solved = selector.predict([1, 2]).success_rate
    assert unsolved < 0.3
    assert solved > 0.7


def test_the_seed_decides_from_the_first_batch_on():
    """Before the first observation all scores are equal, and diversity does not determine a batch's first prompt."""
    first = [tuple(make(seed=seed).select(4).tolist()) for seed in range(10)]
    assert len(set(first)) > 5
    assert make(seed=3).select(4).tolist() == list(first[3])
    assert choices(make(seed=3)) == choices(make(seed=3))


def test_reading_does_not_change_later_choices():
    watched, plain = trained(), trained()
    for _ in range(2):
        watched.predict()
        watched.metrics()
        watched.state_dict()
        assert choices(watched, 1) == choices(plain, 1)


@pytest.mark.parametrize(("way", "method", "candidate_ratio"), [("state_dict", GPS, None), ("save", NO_LATENT, 2)])
def test_a_restored_selector_continues_like_the_original(way, method, candidate_ratio, tmp_path):
    selector = trained(method, seed=5, candidate_ratio=candidate_ratio)
    if way == "save":
        selector.save(tmp_path)
        restored = PromptSelector.load(tmp_path, method, num_prompts=N, candidate_ratio=candidate_ratio)
    else:
        restored = make(method, candidate_ratio=candidate_ratio)
        restored.load_state_dict(selector.state_dict())
    assert_same(restored.state_dict(), selector.state_dict())
    assert choices(restored) == choices(selector)
    assert_same(restored.state_dict(), selector.state_dict())


def test_checkpoints_do_without_the_embeddings(tmp_path):
    embeddings = np.random.default_rng(1).normal(size=(4000, 64)).astype(np.float32)
    method = jaxsel.gps(embeddings, **TINY)
    selector = PromptSelector(method, num_prompts=4000)
    selector.save(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < embeddings.nbytes / 4
    arrays = selector.state_dict()["arrays"]
    assert not [name for name in arrays if "embeddings" in name]
    assert all(len(array["data"]) < embeddings.nbytes / 4 for array in arrays.values())
    assert {"state.successes", "state.recent.prompt_ids", "state.parameters.decoder.direct.kernel"} <= arrays.keys()
    restored = PromptSelector.load(tmp_path, method, num_prompts=4000)
    assert_same(restored.state_dict(), selector.state_dict())
    np.testing.assert_array_equal(restored._belief.state.embeddings, embeddings)


MORE = np.concatenate([EMBEDDINGS, EMBEDDINGS[:1]])
OTHERS = {
    "embeddings": (
        lambda: jaxsel.gps(EMBEDDINGS[::-1], **TINY),
        {},
        r"\(predictor.embeddings: saved 'sha256:\w+', here 'sha256",
    ),
    "type": (lambda: jaxsel.gps(EMBEDDINGS.astype("float16"), **TINY), {}, r"\(predictor.embeddings: saved 'sha256:"),
    "target": (lambda: jaxsel.gps(EMBEDDINGS, target=0.4, **TINY), {}, r"\(acquisition.target: saved 0.5, here 0.4\)"),
    "weight": (lambda: without("diversity"), {}, "rule.weight: saved 0.1, here 0"),
    "draws": (
        lambda: jaxsel.gps(EMBEDDINGS, **{**TINY, "num_draws": 3}),
        {},
        r"\(predictor.num_draws: saved 2, here 3\)",
    ),
    "decay": (lambda: jaxsel.gps(EMBEDDINGS, decay=None, **TINY), {}, "decay: saved 0.5, here None"),
    "rule": (lambda: without("rule"), {}, "rule.name: saved 'diverse', here 'top_k'"),
    "ratio": (lambda: GPS, {"candidate_ratio": 2}, "candidate_ratio: saved None, here 2"),
    "keys": (lambda: GPS, {"keys": [*range(N)], "num_prompts": None}, "another pool .21 prompts without keys, here 21"),
    "size": (lambda: jaxsel.gps(MORE, **TINY), {"num_prompts": N + 1}, "another pool .21 prompts .* here 22 prompts"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_states_of_other_methods_or_pools_are_refused(other, tmp_path):
    build, arguments, message = OTHERS[other]
    method = build()
    selector, receiver = make(), make(method, **arguments)
    before = receiver.state_dict()
    with pytest.raises(ValueError, match=message):
        receiver.load_state_dict(selector.state_dict())
    assert_same(receiver.state_dict(), before)
    selector.save(tmp_path)
    with pytest.raises(ValueError, match=message):
        PromptSelector.load(tmp_path, method, **({"num_prompts": N} | arguments))


def test_embeddings_of_another_pool_are_refused():
    with pytest.raises(ValueError, match="embeddings has 21 rows for 22 prompts; give one row per prompt"):
        make(num_prompts=N + 1)


def test_batches_may_change_in_size():
    selector = trained(NO_LATENT)
    for batch_size in (1, 4, N):
        assert_valid(selector, batch_size)
    for ids in ([5], [*range(8)], [5, 5, 6], [], [*range(6)]):
        selector.observe(ids, [i % 3 for i in ids], 4)
    assert_probabilities(selector.predict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.select(N + 1), f"batch_size is 22 of {N} prompts to choose from; give at most {N}"),
        (lambda s: s.select(3, [1, 2]), "batch_size is 3 of 2 prompts"),
        (lambda s: s.observe([1, N], [0, 0], 8), r"prompt_ids\[1\] is 21"),
        (lambda s: s.observe([1], [9], 8), r"successes\[0\] is 9 of 8 rollouts"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(call, message):
    selector = trained()
    before = selector.state_dict()
    with pytest.raises(ValueError, match=message):
        call(selector)
    assert_same(selector.state_dict(), before)


def test_windows_hold_every_prompt_once_an_epoch():
    selector = make(NO_LATENT, candidate_ratio=1)
    epoch = np.concatenate([selector.select(7) for _ in range(3)])
    assert sorted(epoch.tolist()) == list(range(N))


@pytest.mark.parametrize(
    "method",
    [
        NO_LATENT,
        jaxsel.gps(
            EMBEDDINGS,
            **TINY,
            history_conditioned=False,
            likelihood="squared_error",
            decay=None,
            rule=jaxsel.top_k(),  # compiles faster than `diverse`, the rule of NO_LATENT
        ),
    ],
    ids=["no latent", "no history"],
)
def test_the_options_of_the_predictor_can_be_switched_off(method):
    selector = make(method)
    choices(selector)
    assert all(np.isfinite(value) for value in selector.metrics().values())
    assert (selector.metrics()["selector/kl"] == 0) == (method is NO_LATENT)
    assert_probabilities(selector.predict())


@pytest.mark.parametrize("choice", SWITCHED_OFF)
def test_the_options_of_the_selection_can_be_switched_off(choice):
    selector = trained(without(choice))
    assert_valid(selector, 4)
    assert selector.spec != NO_LATENT.spec | {"candidate_ratio": None}


def test_without_diversity_gps_takes_the_success_rates_next_to_the_target():
    selector = trained(without("diversity"))
    distance = abs(selector.predict().success_rate - 0.5)
    chosen = selector.select(4)
    np.testing.assert_allclose(np.sort(distance[chosen]), np.sort(distance)[:4], atol=1e-6)
    assert trained(without("rule")).select(4).tolist() == chosen.tolist()


def test_a_predictor_without_embeddings_cannot_diversify():
    selector = make(jaxsel.mopps(rule=jaxsel.diverse()))
    before = selector.state_dict()
    with pytest.raises(ValueError, match="the state BetaState lacks embeddings; give the rule diverse with amortized"):
        selector.select(4)
    assert_same(selector.state_dict(), before)
