import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsel.predictors.amortized.networks import Decoder, Networks, SetEncoder
from tests.support.networks_reference import decoded, encoded

F, K, WIDTH, C = 5, 3, 16, 8
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PROMPTS = jnp.asarray(RNG.normal(size=(C, F)), jnp.float32)
GROUP_SIZE = jnp.asarray([8, 8, 1, 2, 8, 16, 4, 8], jnp.int32)
SUCCESSES = jnp.asarray([0, 8, 1, 1, 3, 16, 0, 5], jnp.int32)


def randomised(module: nnx.Module, scale: float = 0.5) -> nnx.Module:
    """Return the module with weights that are all different and not 0."""
    rng = np.random.default_rng(1)
    graph, state = nnx.split(module)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), state)
    )


def weights_of(module: nnx.Module) -> dict:
    return nnx.to_pure_dict(nnx.state(module))


def encoder(num_layers: int = 1) -> SetEncoder:
    module = SetEncoder(F, K, width=WIDTH, num_layers=num_layers, num_heads=2, rngs=nnx.Rngs(KEY))
    return randomised(module)  # pyright: ignore[reportReturnType]


def decoder(latent_size: int) -> Decoder:
    return randomised(Decoder(F, latent_size, width=WIDTH, rngs=nnx.Rngs(KEY)))  # pyright: ignore[reportReturnType]


ENCODER = encoder()


@jax.jit
def encode(prompts, successes, group_size):
    return ENCODER(prompts, successes, group_size)


def assert_same(ours, expected, atol: float = 2e-6) -> None:
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_encoder_equals_the_transformer_in_numpy(num_layers):
    module = encoder(num_layers)
    expected = encoded(weights_of(module), PROMPTS, SUCCESSES, GROUP_SIZE)
    assert_same(module(PROMPTS, SUCCESSES, GROUP_SIZE), expected)


def test_the_order_of_the_set_does_not_matter():
    whole = encode(PROMPTS, SUCCESSES, GROUP_SIZE)
    order = RNG.permutation(C)
    assert_same(encode(PROMPTS[order], SUCCESSES[order], GROUP_SIZE[order]), whole)
    other = encode(PROMPTS[order], SUCCESSES, GROUP_SIZE)
    assert np.abs(other.mean - whole.mean).max() > 1e-3


@pytest.mark.parametrize("garbage", [0.0, 7.0, -1e6])
def test_masked_rows_change_nothing(garbage):
    known = np.array([5, 0, 3])
    at = np.array([1, 4, 6])
    prompts = jnp.full((C, F), garbage).at[at].set(PROMPTS[known])
    successes, group_size = (jnp.zeros(C, jnp.int32).at[at].set(column[known]) for column in (SUCCESSES, GROUP_SIZE))
    expected = encoded(weights_of(ENCODER), PROMPTS[known], SUCCESSES[known], GROUP_SIZE[known])
    assert_same(encode(prompts, successes, group_size), expected)


def test_the_empty_set_has_a_gaussian_with_gradients():
    nothing = jnp.zeros(C, jnp.int32)
    expected = encoded(weights_of(ENCODER), np.zeros((0, F)), [], [])
    assert_same(encode(PROMPTS, nothing, nothing), expected)

    def total(module, prompts):
        mean, scale = module(prompts, nothing, nothing)
        return mean.sum() + scale.sum()

    of_weights, of_prompts = nnx.jit(nnx.grad(total, argnums=(0, 1)))(ENCODER, PROMPTS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_weights))
    np.testing.assert_array_equal(of_prompts, 0)


def test_a_batch_of_sets_is_encoded_set_by_set():
    prompts = jnp.stack([PROMPTS, PROMPTS[::-1], 2 * PROMPTS])
    successes = jnp.stack([SUCCESSES, SUCCESSES, jnp.zeros_like(SUCCESSES)])
    group_size = jnp.stack([GROUP_SIZE, GROUP_SIZE.at[2:].set(0), jnp.zeros_like(GROUP_SIZE)])
    batched = encode(prompts, successes.at[1, 2:].set(0), group_size)
    for i in range(3):
        known = np.asarray(group_size[i]) > 0
        one = (np.asarray(column[i])[known] for column in (prompts, successes, group_size))
        assert_same((batched.mean[i], batched.scale[i]), encoded(weights_of(ENCODER), *one))


def test_scales_lie_between_a_tenth_and_one():
    weights = nnx.state(ENCODER)
    extreme = nnx.merge(nnx.graphdef(ENCODER), jax.tree.map(lambda leaf: 100 * leaf, weights))
    scale = np.concatenate([extreme(sign * PROMPTS, SUCCESSES, GROUP_SIZE).scale for sign in (1, -1)])
    assert scale.min() >= 0.1
    assert scale.max() <= 1
    assert (scale < 0.11).any()
    assert (scale > 0.99).any()


def test_the_encoding_depends_on_the_number_of_rollouts():
    half_of_two, half_of_eight = (encode(PROMPTS, jnp.full(C, n // 2), jnp.full(C, n)) for n in (2, 8))
    assert np.abs(half_of_two.mean - half_of_eight.mean).max() > 1e-3


@pytest.mark.parametrize("latent_size", [0, 1, K])
def test_the_decoder_is_an_mlp_on_latent_and_prompt(latent_size):
    module = decoder(latent_size)
    latents = jnp.asarray(RNG.normal(size=(2, latent_size)), jnp.float32)
    parts = module.features(PROMPTS)
    for latent in latents:
        expected = decoded(weights_of(module), PROMPTS, latent)
        np.testing.assert_allclose(module(parts, latent), expected, rtol=1e-5, atol=1e-5)
    both = module(module.features(jnp.stack([PROMPTS, -PROMPTS])), latents)
    expected = [decoded(weights_of(module), sign * PROMPTS, z) for sign, z in zip((1, -1), latents, strict=True)]
    np.testing.assert_allclose(both, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("latent_size", [0, K])
def test_a_new_decoder_gives_even_odds_to_everything(latent_size):
    module = Decoder(F, latent_size, width=WIDTH, rngs=nnx.Rngs(KEY))
    np.testing.assert_array_equal(module(module.features(PROMPTS), jnp.ones(latent_size)), 0)

    def total(module):
        return module(module.features(PROMPTS), jnp.ones(latent_size)).sum()

    gradient = weights_of(nnx.grad(total)(module))
    for name in ("direct", "outputs"):
        assert (np.abs(gradient[name]["kernel"]) > 0).any()


def networks(latent_size: int = K, *, history_conditioned: bool = True, key=KEY) -> Networks:
    return Networks(
        F, latent_size, history_conditioned=history_conditioned, width=WIDTH, num_layers=1, num_heads=2, key=key
    )


def test_without_history_the_prior_is_a_standard_normal():
    module = networks(history_conditioned=False)
    for shape in [(), (2,)]:
        prior = module.prior(
            *(jnp.broadcast_to(column, (*shape, *column.shape)) for column in (PROMPTS, SUCCESSES, GROUP_SIZE))
        )
        np.testing.assert_array_equal(prior.mean, np.zeros((*shape, K)))
        np.testing.assert_array_equal(prior.scale, np.ones((*shape, K)))
    assert np.abs(module.posterior(PROMPTS, SUCCESSES, GROUP_SIZE).mean).max() > 0


def test_prior_and_posterior_have_networks_of_their_own():
    module = networks()
    weights = weights_of(module)
    for name in ("prior", "posterior"):
        expected = encoded(weights[f"{name}_encoder"], PROMPTS, SUCCESSES, GROUP_SIZE)
        assert_same(getattr(module, name)(PROMPTS, SUCCESSES, GROUP_SIZE), expected)
    prior, posterior = (module.prior_encoder, module.posterior_encoder)
    assert not np.allclose(weights_of(prior)["inputs"]["kernel"], weights_of(posterior)["inputs"]["kernel"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("history_conditioned", [False, True])
def test_without_a_latent_there_is_only_a_decoder(history_conditioned):
    module = networks(0, history_conditioned=history_conditioned)
    assert set(weights_of(module)) == {"decoder"}
    assert module.prior(PROMPTS, SUCCESSES, GROUP_SIZE).mean.shape == (0,)
    assert module.posterior(PROMPTS, SUCCESSES, GROUP_SIZE).scale.shape == (0,)


def test_the_key_determines_the_weights():
    one, same, other = (weights_of(networks(key=jax.random.key(seed))) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["decoder"]["hidden"]["kernel"], other["decoder"]["hidden"]["kernel"])
