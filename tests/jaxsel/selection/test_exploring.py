"""Tests of `exploring`, a selector that gives a part of every batch to the prompts with the longest waits.

A prompt waits since the step in which its rollouts were last observed. An inner selector chooses the rest of the batch.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsel
from jaxsel.runtime.checkpoint.rebuild import selector_from_spec
from tests.support.reference import assert_frequency

pytestmark = pytest.mark.slow  # takes 7 s

KEY = jax.random.key(0)
N = 40
SHARE, AFTER = 0.25, 12


def minus_row(key, state, prompt_ids, first_id: Any = 0) -> jaxsel.Prediction:
    """Predict minus the prompt's row, so that the first rows always score best."""
    rows = jnp.arange(len(state)) if prompt_ids is None else prompt_ids
    return jaxsel.Prediction(*[-(first_id + rows).astype(jnp.float32)] * 6)


ROW = jaxsel.Predictor(
    {"name": "row"},
    lambda key, num_prompts: jnp.zeros(num_prompts, jnp.float32),
    minus_row,
    lambda key, state, rollouts: state,
)
GREEDY = jaxsel.make_selector(ROW, jaxsel.posterior_draw(), jaxsel.top_k(), method="greedy")


def greedy(**options) -> jaxsel.Selector:
    return jaxsel.exploring(GREEDY, **options)


@functools.cache
def played(share: float, after: int | None, batch_size: int, selector: str) -> np.ndarray:
    """Return the prompts that are chosen, and then observed, in each of 60 steps."""
    inner = GREEDY if selector == "greedy" else jaxsel.mopps()
    method = jaxsel.exploring(inner, share=share, after=after)

    @jax.jit
    def play():
        def step(state, key):
            ids, scores, _ = method.select(key, state, batch_size)
            rollouts = jaxsel.Rollouts(ids, ids % 9, jnp.full(batch_size, 8))
            return method.update(key, state, rollouts), (ids, scores)

        return jax.lax.scan(step, method.init(KEY, N), jax.random.split(KEY, 60))[1]

    ids, scores = play()
    assert (np.diff(scores, axis=1) <= 0).all()
    return np.asarray(ids)


def waits(batches: np.ndarray) -> list[np.ndarray]:
    """Return, for every step, how many steps before it each prompt was chosen last; at the start, all waits are 1."""
    last, found = np.full(N, -1), []
    for step, ids in enumerate(batches):
        found.append(step - last)
        last[ids] = step
    return found


@pytest.mark.parametrize(("batch_size", "after", "selector"), [(8, 12, "greedy"), (5, 3, "greedy"), (8, 12, "mopps")])
def test_no_prompt_starves(batch_size, after, selector):
    batches = played(0.0, after, batch_size, selector)
    longest = max(wait.max() for wait in waits(batches))
    assert after < longest <= after + N / batch_size
    assert len(np.unique(batches[: int(after + N / batch_size)])) == N


def test_the_greedy_selector_alone_starves_most_prompts():
    chosen = jax.jit(GREEDY.select, static_argnums=2)(KEY, GREEDY.init(KEY, N), 8).prompt_ids
    np.testing.assert_array_equal(chosen, np.arange(8))


@pytest.mark.parametrize(("share", "after"), [(0.25, None), (0.25, 6), (0.3, 30), (1.0, None), (0.0, 6), (1e-4, None)])
def test_every_batch_holds_the_longest_waits_and_the_best_others(share, after):
    batch_size = 8
    batches = played(share, after, batch_size, "greedy")
    for ids, wait in zip(batches, waits(batches), strict=True):
        overdue = 0 if after is None else (wait > after).sum()
        number = min(batch_size, max(int(np.ceil(share * batch_size)), overdue))
        shortest = np.sort(wait)[N - number] if number else np.inf
        longest = np.flatnonzero(wait > shortest)
        # which of the prompts with the wait `shortest` are explored is random, and the inner selector takes the lowest
        # rows; counting the highest of the chosen ones as explored gives the same batch
        equal = np.sort(ids[wait[ids] == shortest])[::-1][: number - len(longest)]
        explored = np.concatenate([longest, equal])
        assert len(explored) == number
        others = np.setdiff1d(np.arange(N), explored)[: batch_size - number]
        np.testing.assert_array_equal(np.sort(ids), np.sort(np.concatenate([explored, others])))


def test_never_visited_prompts_come_first_and_at_random():
    method = greedy(share=0.5)
    state = method.init(KEY, N)
    seen = jnp.arange(10, 30)
    state = method.update(KEY, state, jaxsel.Rollouts(seen, jnp.zeros(20, jnp.int32), jnp.full(20, 8)))
    trials = 4000

    @jax.jit
    def counts(keys):
        chosen = jax.lax.map(lambda key: method.select(key, state, 8).prompt_ids, keys)
        return jnp.zeros(N, jnp.int32).at[chosen].add(1)

    found = np.asarray(counts(jax.random.split(KEY, trials)))
    assert found.sum() == 8 * trials
    # each batch has 4 of the 20 unvisited rows (0 to 9, 30 to 39), and then the first 4 of the other rows
    assert found[10:30].sum() == 0
    assert_frequency(found[30:], trials, 4 / 20)


def test_prompts_that_join_late_wait_from_then_on():
    selector = jaxsel.exploring(jaxsel.mopps(), after=50)
    state = selector.init(jax.random.key(0), 4)._replace(
        step=jnp.int32(200), last_visit=jnp.array([199, 197, 198, 196])
    )
    wider = state.with_rows(np.array([0, 1, 2, 3, -1, -1]), selector.init(jax.random.key(0), 6))
    np.testing.assert_array_equal(wider.last_visit, [199, 197, 198, 196, 199, 199])
    assert int(wider.metrics()["longest_wait"]) == int(state.metrics()["longest_wait"]) == 3


@pytest.mark.parametrize(
    ("share", "size", "number"), [(0.1, 20, 2), (0.7, 10, 7), (0.5001, 4, 3), (0.30001, 10, 4), (0.3, 10, 3)]
)
def test_a_share_is_rounded_up_to_whole_prompts(share, size, number):
    selector = greedy(share=share)  # it takes the lowest rows, and the highest rows wait longest
    last_visit = jnp.where(jnp.arange(N) < N // 2, 9, 0)
    state = selector.init(jax.random.key(0), N)._replace(step=jnp.int32(10), last_visit=last_visit)
    assert (np.asarray(selector.select(jax.random.key(0), state, size).prompt_ids) >= N // 2).sum() == number


def test_only_observed_prompts_count_as_visited():
    method = greedy(share=1.0)
    state = method.init(KEY, N)
    ids = jnp.array([3, 4, 4, 5, -1, N, 2 * N])
    state = method.update(KEY, state, jaxsel.Rollouts(ids, jnp.zeros(7, jnp.int32), jnp.array([8, 8, 1, 0, 8, 8, 8])))
    expected = np.full(N, -1)
    expected[[3, 4]] = 0
    np.testing.assert_array_equal(state.last_visit, expected)
    assert int(state.step) == 1
    state = method.update(KEY, state, jaxsel.Rollouts(ids[:1], jnp.zeros(1, jnp.int32), jnp.full(1, 8)))
    expected[3] = 1
    np.testing.assert_array_equal(state.last_visit, expected)
    assert int(state.metrics()["longest_wait"]) == 2


def test_candidates_exclusions_and_counts_are_obeyed():
    method = greedy(share=0.25, after=30)
    candidates = jnp.array([7, -1, 30, 31, 9, 11, 20, 2, 1, 0, 39, 38])
    excluded = jnp.zeros(N, bool).at[jnp.array([7, 0])].set(True)
    select = jax.jit(method.select, static_argnums=2)
    state = method.init(KEY, N)
    for count in (1, 3, 8):
        ids, scores, prediction = select(KEY, state, 8, candidates, excluded, jnp.int32(count))
        ids, scores = np.asarray(ids), np.asarray(scores)
        assert (ids[count:] == -1).all()
        assert np.isneginf(scores[count:]).all()
        real = ids[:count]
        assert len(set(real.tolist())) == count
        assert np.isin(real, [30, 31, 9, 11, 20, 2, 1, 39, 38]).all()
        np.testing.assert_array_equal(scores[:count], -real)
        np.testing.assert_array_equal(np.asarray(prediction.draw)[:count], -real)
        by_score = count - int(np.ceil(0.25 * count))
        assert np.isin([1, 2, 9, 11, 20][:by_score], real).all()


def test_scores_of_minus_infinity_leave_no_padding_in_the_batch():
    nowhere = jaxsel.Acquisition({"name": "none"}, lambda p: jnp.full_like(p.draw, -jnp.inf))
    method = jaxsel.exploring(jaxsel.make_selector(ROW, nowhere, jaxsel.top_k()), share=0.2)
    ids = np.asarray(jax.jit(method.select, static_argnums=2)(KEY, method.init(KEY, N), 10).prompt_ids)
    assert (ids >= 0).all()
    assert len(set(ids.tolist())) == 10


def test_a_whole_pool_can_be_chosen():
    method = greedy(share=0.1, after=2)
    ids = jax.jit(method.select, static_argnums=2)(KEY, method.init(KEY, N), N).prompt_ids
    np.testing.assert_array_equal(np.sort(ids), np.arange(N))


def test_scores_use_the_draws_of_the_returned_prediction():
    method = jaxsel.exploring(jaxsel.mopps(), share=0.5)
    chosen = jax.jit(method.select, static_argnums=2)(KEY, method.init(KEY, N), 8)
    np.testing.assert_allclose(chosen.scores, jaxsel.thompson().score(chosen.prediction), atol=1e-6)


def test_exploring_works_with_every_part_of_a_run(tmp_path):
    """The run uses strata, recalibration, windows of candidates, prompts in flight, a checkpoint and a copy."""
    strata = np.arange(N) % 2
    rule = jaxsel.stratified(jaxsel.gumbel_top_k(), strata)
    predictor = jaxsel.recalibrated(jaxsel.hidden_markov(), window=16)
    inner = jaxsel.make_selector(predictor, jaxsel.mixed_near_target(log=True), rule)
    method = jaxsel.exploring(inner, share=SHARE, after=AFTER)
    live = jaxsel.PromptSelector(method, num_prompts=N, candidate_ratio=3, track_in_flight=True)

    def step(live):
        ids = live.select(6)
        assert len(set(ids.tolist())) == 6
        live.observe(ids, ids % 9, 8)
        return ids.tolist()

    first = [step(live) for _ in range(3)]
    assert len(first) == 3
    live.save(tmp_path)
    again = jaxsel.PromptSelector.load(tmp_path, method, num_prompts=N, candidate_ratio=3, track_in_flight=True)
    copied = again.__copy__()
    assert step(live) == step(again) == step(copied)
    assert live.metrics()["selector/longest_wait"] == 4
    other = jaxsel.exploring(inner, share=SHARE, after=AFTER + 1)
    with pytest.raises(ValueError, match=r"rule.after: saved 12, here 13"):
        jaxsel.PromptSelector.load(tmp_path, other, num_prompts=N, candidate_ratio=3, track_in_flight=True)


def test_simulation_and_replay_accept_exploring():
    learner = jaxsel.simulate.make_learner(KEY, 200)
    run = functools.partial(jaxsel.simulate.simulate, num_steps=30, batch_size=10)
    greedily = jaxsel.dps()
    coverage = {
        name: len(np.unique(jax.jit(lambda key, m=method: run(key, m, learner))(KEY).prompt_ids))
        for name, method in {"dps": greedily, "exploring": jaxsel.exploring(greedily, share=0.0, after=10)}.items()
    }
    assert coverage["exploring"] == 200 > coverage["dps"]
    history = jaxsel.make_history([0, 1], [3, 4], [1, 2], 4, num_prompts=N)
    plain, explored = (
        jaxsel.replay(history, method, num_prompts=N) for method in (greedily, jaxsel.exploring(greedily))
    )
    np.testing.assert_array_equal(plain.prediction.success_rate, explored.prediction.success_rate)


def test_the_spec_names_the_inner_rule_and_can_be_rebuilt():
    method = jaxsel.exploring(jaxsel.exploring(jaxsel.dps(), share=0.5), share=0, after=9)
    inner = {"name": "exploring", "rule": {"name": "top_k"}, "share": 0.5, "after": None}
    assert method.spec == jaxsel.dps().spec | {"rule": {"name": "exploring", "rule": inner, "share": 0.0, "after": 9}}
    rebuilt = selector_from_spec(json.loads(json.dumps(method.spec)))
    assert rebuilt.spec == method.spec
    assert rebuilt.init(KEY, 3).inner.inner is not None


def no_options(key, state, batch_size, candidates=None):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: greedy(share=1.5), r"share is 1\.5; give a number from 0 to 1"),
        (lambda: greedy(share=float("nan")), "share is nan"),
        (lambda: greedy(after=0), "after is 0; give an integer of at least 1"),
        (lambda: greedy(share=0), "share is 0 and after is None; give a share above 0, or give after"),
        (lambda: jaxsel.exploring(GREEDY._replace(select=no_options)), "'greedy'.* cannot exclude and count prompts"),
        (
            lambda: jaxsel.exploring(
                jaxsel.make_selector(ROW, jaxsel.entropy(), jaxsel.Rule({"name": "mine"}, no_options))
            ),
            "cannot exclude and count prompts; give a selector of make_selector",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
