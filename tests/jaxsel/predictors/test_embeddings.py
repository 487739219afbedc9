import copy
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxsel
from jaxsel.predictors import embeddings as _embeddings
from tests.support.networks_reference import prompt_features

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(50, 4)) * np.exp(RNG.normal(size=(50, 1)))).astype(np.float32)
TYPES = (np.float16, ml_dtypes.bfloat16, np.float32)


def features(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(_embeddings.features(vectors)(jnp.asarray(vectors)))


def test_features_are_direction_and_length_scaled_over_the_pool():
    ours = features(VECTORS)
    np.testing.assert_allclose(ours, prompt_features(VECTORS), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(ours.std(0), 1, rtol=1e-5)


def test_features_of_some_rows_are_scaled_over_the_pool():
    some = np.array([[7, 3], [3, 0]])
    ours = _embeddings.features(VECTORS)(jnp.asarray(VECTORS[some]))
    np.testing.assert_array_equal(ours, features(VECTORS)[some])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_common_scale_does_not_change_the_features(scale):
    vectors = VECTORS * np.float32(scale)
    ours, expected = features(vectors), features(VECTORS)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("dim", [4, 256])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_length_feature_of_unit_vectors_is_0_despite_rounding(dtype, dim):
    vectors = np.random.default_rng(1).normal(size=(200, dim))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    np.testing.assert_array_equal(features(unit)[:, -1], 0)
    np.testing.assert_allclose(features(unit)[:, :-1].std(0), 1, rtol=1e-4)


def test_features_of_equal_rows_are_0():
    vectors = np.tile(VECTORS[:1], (9, 1))
    np.testing.assert_array_equal(features(vectors), 0)
    np.testing.assert_array_equal(features(vectors[:1]), 0)


def test_a_row_of_zeros_has_finite_features():
    vectors = VECTORS.copy()
    vectors[3] = 0
    assert np.isfinite(features(vectors)).all()


def test_scales_use_the_rows_of_all_blocks():
    many = np.concatenate([np.tile(VECTORS, (400, 1)), 5 + VECTORS])
    assert len(many) > _embeddings._ROWS
    np.testing.assert_allclose(features(many), prompt_features(many), rtol=1e-4, atol=1e-4)


def test_a_column_is_dropped_only_if_its_spread_is_rounding(monkeypatch):
    monkeypatch.setattr(_embeddings, "_ROWS", 64)
    noise = np.random.default_rng(0).normal(size=(500, 1))
    spread = np.array([0.01, 0.001, 0.0, 1e-5])  # float32 has steps of 6e-5 near 1000
    matrix = (1000 + noise * spread).astype(np.float32)
    shift, scale = _embeddings.standardisation(_embeddings.blocks(matrix))
    np.testing.assert_array_equal(scale[2:], 0)
    exact = matrix[:, :2].astype(np.float64)
    np.testing.assert_allclose(scale[:2], 1 / exact.std(0), rtol=1e-5)
    np.testing.assert_allclose(shift, matrix.mean(0, np.float64), rtol=1e-7)


@pytest.mark.parametrize("dtype", TYPES)
def test_types_are_kept_and_features_are_float32(dtype):
    vectors = VECTORS.astype(dtype)
    assert _embeddings.checked(vectors) is vectors
    ours = features(vectors)
    assert ours.dtype == np.float32
    exact = vectors.astype(np.float32)
    np.testing.assert_array_equal(ours, features(exact))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_that_is_not_finite_is_named(dtype, bad):
    vectors = VECTORS.astype(dtype)
    vectors[[17, 31], 2] = bad
    with pytest.raises(ValueError, match=r"embeddings\[17\] .* embed that prompt again or drop it"):
        _embeddings.checked(vectors)


def test_a_row_of_a_later_block_is_named():
    vectors = np.ones((_embeddings._ROWS + 9, 2), np.float32)
    vectors[-2, 1] = np.nan
    with pytest.raises(ValueError, match=rf"embeddings\[{len(vectors) - 2}\] "):
        _embeddings.checked(vectors)


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 1e20), (np.float64, 1e300), (ml_dtypes.bfloat16, 1e30)])
def test_a_row_too_long_for_float32_is_named(dtype, large):
    vectors = VECTORS.astype(dtype)
    vectors[5, 1] = large
    with pytest.raises(ValueError, match=r"embeddings\[5\] "):
        _embeddings.checked(vectors)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones(4, np.float32), r"embeddings has shape \(4,\); give a matrix, one row per prompt"),
        (np.ones((2, 3, 4), np.float32), r"embeddings has shape \(2, 3, 4\)"),
        (np.ones((0, 4), np.float32), r"embeddings has shape \(0, 4\)"),
        (np.ones((4, 0), np.float32), r"embeddings has shape \(4, 0\)"),
        ([], "embeddings has shape"),
        (np.ones((4, 2), np.int32), "embeddings is of type int32; give float16, bfloat16 or float32"),
        ([[1, 2], [3, 4]], "embeddings is of type int"),
        (np.ones((4, 2), bool), "embeddings is of type bool"),
        (np.ones((4, 2), complex), "embeddings is of type complex128"),
        (np.ma.masked_equal([[1.0, 2.0], [3.0, 4.0]], 4), "embeddings has masked entries, of which nothing is known"),
    ],
)
def test_anything_but_a_matrix_of_floats_is_refused(embeddings, message):
    with pytest.raises(ValueError, match=message):
        _embeddings.checked(embeddings)


@pytest.mark.parametrize("dtype", [">f4", np.longdouble])
def test_other_kinds_of_floats_are_the_same_numbers(dtype):
    matrix = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    found = _embeddings.checked(matrix.astype(dtype))
    np.testing.assert_array_equal(_embeddings.on_device(found, _embeddings.checksum(matrix)), matrix)
    assert _embeddings.fingerprint(found) == _embeddings.fingerprint(matrix)


def test_the_fingerprint_depends_on_every_number_the_type_and_the_shape():
    changed = VECTORS.copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    half = VECTORS.astype(np.float16)
    different = [VECTORS, changed, VECTORS[::-1], VECTORS.reshape(25, 8), half, half.astype(np.float32)]
    assert len({_embeddings.fingerprint(one) for one in different}) == len(different)
    assert _embeddings.fingerprint(VECTORS.copy()) == _embeddings.fingerprint(VECTORS)
    assert _embeddings.fingerprint(np.asfortranarray(VECTORS)) == _embeddings.fingerprint(VECTORS)


class TensorOnAnotherDevice:
    """A stand-in for a torch tensor that NumPy cannot convert, because it requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("embeddings", [TensorOnAnotherDevice(), [[1.0, 2.0], [3.0]]])
def test_embeddings_other_than_host_arrays_are_refused(embeddings):
    with pytest.raises(ValueError, match=r"embeddings is not an array on the host \(.*give a matrix.*detach\(\)"):
        _embeddings.checked(embeddings)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adaptive", "exploring", "gps"])
def test_a_read_only_file_is_used_in_place_and_other_arrays_are_copied(tmp_path, method):
    matrix = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float16)
    np.save(tmp_path / "embeddings.npy", matrix)
    make = {
        "adaptive": jaxsel.adaptive,
        "exploring": lambda embeddings: jaxsel.exploring(jaxsel.adaptive(embeddings)),
        "gps": lambda embeddings: jaxsel.gps(embeddings, width=4, num_heads=1, context_size=8),
    }[method]

    def held(selector: jaxsel.PromptSelector) -> jax.Array:
        state = selector._belief.state
        return getattr(state, "inner", state).embeddings

    file = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    selector = jaxsel.PromptSelector(make(file), num_prompts=40)
    for _ in range(2):
        assert held(selector).unsafe_buffer_pointer() == file.ctypes.data
        selector.observe(selector.select(4), [0, 1, 2, 3], 4)
    selector = jaxsel.PromptSelector(make(matrix), num_prompts=40)
    matrix[:] = 0
    assert held(selector).any()


@pytest.mark.parametrize("make", [jaxsel.adaptive, functools.partial(jaxsel.gps, width=4, num_heads=1, context_size=8)])
def test_embeddings_that_changed_after_the_method_was_made_are_refused(make, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    method = make(matrix)
    selector = jaxsel.PromptSelector(method, num_prompts=40)
    selector.save(tmp_path)
    changed = matrix.copy()
    matrix[:] = matrix[::-1].copy()
    uses = [
        lambda: jaxsel.PromptSelector(method, num_prompts=40),
        lambda: jaxsel.PromptSelector.load(tmp_path, method),
        lambda: copy.copy(selector),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"embeddings were changed after the method was made, .*; make the method"):
            use()
    matrix[:] = changed
    assert copy.copy(selector).select(4).tolist() == selector.select(4).tolist()


@pytest.mark.parametrize("make", [jaxsel.mopps, jaxsel.dps, jaxsel.adaptive])
def test_a_prior_that_changes_after_the_method_was_made_changes_nothing(make):
    prior = np.linspace(1, 9, 40).astype(np.float32)
    method, plain = make(prior_alpha=prior), make(prior_alpha=prior.copy())
    prior[:] = 1
    one, other = (jaxsel.PromptSelector(selector, num_prompts=40).predict() for selector in (method, plain))
    np.testing.assert_array_equal(one.success_rate, other.success_rate)
