import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import stats

import jaxsel
from tests.support import networks_reference as reference
from tests.support.embedded import (
    CONTEXT,
    EMBEDDINGS,
    GROUP,
    KEY,
    LATENT,
    PLAIN,
    N,
    compiled,
    history,
    padded,
    quick_jit,
    randomised,
    small,
    wild_history,
)
from tests.support.histories import rollouts

pytestmark = pytest.mark.slow  # 10 s: the networks are compiled for each shape

EVERYTHING = padded(np.arange(N), np.arange(N) % (GROUP + 1), np.full(N, GROUP))


def assert_same(ours, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def assert_close(ours, expected) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, expected)


@functools.cache
def learnt():
    method = compiled(**PLAIN)
    return method, method.after(history(5))


@pytest.mark.parametrize(
    "nothing", [padded([], [], []), padded([0, 1], [0, 0], [0, 0]), padded([-1, N, 2**30], [3, 2, 1], [8, 8, 8])]
)
def test_a_batch_without_visits_changes_nothing(nothing):
    method, state = learnt()
    for before in (method.init(), state):
        assert_same(method.update(KEY, before, nothing), before)


def test_repeated_ids_are_one_visit_with_summed_counts():
    method, state = learnt()
    for repeated, summed in [
        (padded([2, 5, 2, 5], [1, 0, 3, 2], [4, 2, 8, 2]), padded([2, 5], [4, 2], [12, 4])),
        (padded([2, 2, 2, N, 5], [0, 4, 0, 1, 2], [8, 4, 0, 8, 4]), padded([5, 2], [2, 4], [4, 12])),
    ]:
        assert_same(method.update(KEY, state, repeated), method.update(KEY, state, summed))


def test_a_large_batch_keeps_random_visits_and_counts_all_as_evidence():
    method = compiled(**PLAIN)
    kept = []
    for seed in range(20):
        state = method.update(jax.random.key(seed), method.init(), EVERYTHING)
        ids, successes, group_size = (np.asarray(column[0]) for column in state.latest(1))
        assert len(set(ids)) == CONTEXT
        np.testing.assert_array_equal(successes, np.arange(N)[ids] % (GROUP + 1))
        np.testing.assert_array_equal(group_size, GROUP)
        np.testing.assert_array_equal(state.successes + state.failures, GROUP)
        kept.append(ids)
    assert len(np.unique(kept)) > 0.9 * N


def test_the_latest_batches_come_newest_first():
    method = compiled(**PLAIN)
    batches = [padded([i, 2 * i + 1], [0, i], [i + 1, i + 2]) for i in range(3)]
    latest = method.after(batches).latest(5)
    for age, batch in enumerate(reversed(batches)):
        expected = {tuple(row) for row in np.stack(batch, 1)[:2].tolist()}
        found = {tuple(row) for row in np.stack([column[age] for column in latest], 1).tolist() if row[2]}
        assert found == expected
    np.testing.assert_array_equal(latest.group_size[3:], 0)
    assert method.init().latest(100).group_size.shape == (16, CONTEXT)


def types(state) -> list:
    return [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize(("options", "size"), [(PLAIN, 0), (PLAIN, 1), (PLAIN, 2 * N), (LATENT, N)])
def test_an_update_keeps_shapes_and_types(options, size):
    method = compiled(**options)
    state, batch = method.init(), rollouts(*np.zeros((3, size)))
    after = jax.eval_shape(method.method.update, KEY, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert types(after) == types(state)


def test_eager_equals_jit():
    method, state = learnt()
    batch = wild_history(1)[0]
    assert_close(method.method.update(KEY, state, batch), method.update(KEY, state, batch))
    assert_close(method.method.predict(KEY, state, None), method.predict(KEY, state, None))


def test_a_vmapped_scan_over_keys_equals_a_loop_per_key():
    method, batches = compiled(**PLAIN), wild_history(3)
    stacked = jax.tree.map(lambda *columns: jnp.stack(columns), *batches)

    @quick_jit
    @jax.vmap
    def trained(key):
        def step(state, batch):
            return method.method.update(key, state, batch), None

        return jax.lax.scan(step, method.method.init(key, N), stacked)[0]

    keys = jax.random.split(KEY, 2)
    many = trained(keys)
    for i, key in enumerate(keys):
        state = functools.reduce(functools.partial(method.update, key), batches, method.init(key))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], many), state)


def test_the_same_keys_and_data_give_the_same_bits():
    method = compiled(**LATENT)
    one, two, other = (
        method.update(jax.random.key(seed), method.init(jax.random.key(init)), EVERYTHING)
        for init, seed in [(1, 2), (1, 2), (1, 3)]
    )
    assert_same(one, two)
    decoder, other_decoder = (state.parameters["decoder"]["hidden"]["kernel"] for state in (one, other))
    assert not np.array_equal(decoder, other_decoder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_embeddings_keep_their_type_and_are_used_as_given(dtype):
    given = EMBEDDINGS.astype(dtype)
    method = small(given, **PLAIN)
    state = method.init(KEY, N)
    state = state._replace(parameters=randomised(state.parameters)[0])
    np.testing.assert_array_equal(state.embeddings, given)
    assert state.embeddings.dtype == dtype
    assert jax.eval_shape(method.update, KEY, state, EVERYTHING).embeddings.dtype == dtype
    outputs = reference.decoded(state.parameters["decoder"], reference.prompt_features(given))
    expected = stats.beta(*reference.beta_shapes(outputs)).mean()
    np.testing.assert_allclose(quick_jit(method.predict)(KEY, state, None).success_rate, expected, rtol=1e-4)


def test_embeddings_may_lie_in_a_file(tmp_path):
    file = np.memmap(tmp_path / "embeddings", np.float32, "w+", shape=EMBEDDINGS.shape)
    file[:] = EMBEDDINGS
    mapped = np.memmap(tmp_path / "embeddings", np.float32, "r", shape=EMBEDDINGS.shape)
    method, same = small(mapped), small(EMBEDDINGS)
    assert method.spec == same.spec
    assert_same(method.init(KEY, N), same.init(KEY, N))
    assert_same(small(jnp.asarray(EMBEDDINGS)).init(KEY, N), same.init(KEY, N))


def test_the_spec_tells_embeddings_apart_and_the_state_declares_them_constant():
    spec = small().spec
    assert json.loads(json.dumps(spec)) == spec
    assert spec == small(EMBEDDINGS.copy()).spec
    changed = EMBEDDINGS.copy()
    changed[-1, -1] += 1e-6
    different = [small(changed), small(EMBEDDINGS.astype(np.float16)), small(latent_size=3), small(decay=None)]
    assert all(other.spec != spec for other in different)
    method, state = learnt()
    assert state.constants() == ("embeddings",)
    assert_same(state.embeddings, method.init().embeddings)
    assert set(state.metrics()) == {"elbo", "reconstruction", "kl", "gradient_norm"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.5}, r"decay is 1\.5; give a number from 0 to 1"),
        ({"decay": float("nan")}, "decay is nan"),
        (
            {"likelihood": "binomial"},
            r"decay is 0\.5 with likelihood 'binomial'; give decay=None, or likelihood='beta_binomial'",
        ),
        ({"likelihood": "squared_error", "decay": 0.0}, r"decay is 0\.0 with likelihood 'squared_error'"),
        ({"likelihood": "normal"}, "likelihood is 'normal'; give one of 'beta_binomial', 'binomial', 'squared_error'"),
        ({"width": 10, "num_heads": 4}, "width is 10 with 4 heads; give a multiple of num_heads"),
        *(
            ({name: 0}, f"{name} is 0; give an integer of at least 1")
            for name in (
                *("group_size", "num_draws", "width", "num_layers"),
                *("num_heads", "context_size", "inner_steps", "block_size"),
            )
        ),
        ({"latent_size": -1}, "latent_size is -1; give an integer from 0 to"),
        ({"replayed": -1}, "replayed is -1; give an integer from 0 to"),
        ({"history": 1}, "history is 1; give an integer from 2 to"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; give a finite number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"shrinkage": -1.0}, r"shrinkage is -1\.0; give a finite number of at least 0"),
        ({"embeddings": EMBEDDINGS[0]}, r"embeddings has shape \(4,\); give a matrix"),
        ({"embeddings": EMBEDDINGS * np.float32(np.nan)}, r"embeddings\[0\] "),
        ({"embeddings": np.ones((N, 4), int)}, "embeddings is of type int64; give float16"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxsel.amortized(**{"embeddings": EMBEDDINGS, **arguments})


@pytest.mark.parametrize("num_prompts", [N - 1, N + 1])
def test_embeddings_of_another_pool_are_refused(num_prompts):
    with pytest.raises(ValueError, match=f"embeddings has {N} rows for {num_prompts} prompts; give one row per prompt"):
        small().init(KEY, num_prompts)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("arguments", [{"width": 16.0}, {"history": 2.5}, {"group_size": True}, {"latent_size": False}])
def test_counts_that_are_no_integers_are_refused(arguments):
    with pytest.raises(ValueError, match="give an integer"):
        jaxsel.amortized(EMBEDDINGS, **arguments)


def test_a_pool_of_one_prompt_with_decay_0_keeps_only_the_last_visit():
    method = small(EMBEDDINGS[:1], **PLAIN, decay=0.0)
    update, state = quick_jit(method.update), method.init(KEY, 1)
    for group_size in range(1, 21):
        state = update(KEY, state, rollouts([0], [group_size - 1], [group_size]))
        np.testing.assert_array_equal((state.successes, state.failures), [[group_size - 1], [1]])
    prediction = quick_jit(method.predict)(KEY, state, None)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, prediction)))
    assert prediction.success_rate[0] > 0.8
