r"""One generative predictor for all prompts, seen or not: the predictor of GPS (arXiv 2602.01970).

    H_t = {(e_i, s_i, n_i)}, what step t observed: embeddings, successes, group sizes
    z_t ~ p_eta(z | H_{t-1})            a Gaussian latent, the difficulty of everything at that time
    s_i ~ p_psi(s | n_i, e_i, z_t)      the decoder and its likelihood

Trained online, a few gradient steps after every step of the policy, to raise

    ELBO_t = E_q[ sum_i log p_psi(s_i | n_i, e_i, z_t) ] - KL( q_phi(z | H_t) || p_eta(z | H_{t-1}) )

of the newest step and of random ones of the last `history`, with a Gaussian prior on the decoder's weights. To predict,
z is drawn from p_eta(z | H_t) and every prompt decoded. No code was published, and neither were sizes, rates,
likelihood and history: those here are ours.

With the Beta-Binomial likelihood the decoder gives every prompt a Beta prior. `decay` goes beyond the paper: what was
observed of a prompt itself joins that prior as it joins that of MoPPS, S <- d * S + s and F <- d * F + (n - s) at every
visit. The decoder is trained on the same visits, so that they count twice, a little. `decay=None` is the paper's
predictor, to which a visited prompt is like any other.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree
from numpy.typing import ArrayLike

from jaxsel import _validate
from jaxsel._visits import accumulated, merge_visits
from jaxsel.base import Prediction, Predictor, Rollouts
from jaxsel.numerics import random
from jaxsel.predictors import embeddings as _embeddings
from jaxsel.predictors.amortized.likelihood import LIKELIHOODS
from jaxsel.predictors.amortized.ring import at_most, batches_of, empty_ring, pushed
from jaxsel.predictors.amortized.state import AmortizedState, Fit


def amortized(
    embeddings: ArrayLike | Array,
    *,
    decay: float | None = 0.5,
    group_size: int = 8,
    likelihood: str = "beta_binomial",
    latent_size: int = 16,
    history_conditioned: bool = True,
    num_draws: int = 10,
    width: int = 64,
    num_layers: int = 1,
    num_heads: int = 4,
    context_size: int = 256,
    history: int = 32,
    inner_steps: int = 10,
    replayed: int = 3,
    learning_rate: float = 1e-3,
    shrinkage: float = 1.0,
    block_size: int = 4096,
) -> Predictor:
    """The latent-variable predictor.

    Args:
        embeddings: one row a prompt of the pool, in float16, bfloat16 or float32; a NumPy array may be memory-mapped.
            They are copied to the device once and stay in their type (float64 becomes float32); the array given stays
            referenced.
        decay: what a visit leaves of the earlier evidence of a prompt's own, 0 to 1; None: there is none (the paper).
        group_size: n, the rollouts a prompt that `unsolved`, `mixed` and `solved` speak of.
        likelihood: beta_binomial, binomial or squared_error.
        latent_size: of z; 0: no latent, the decoder alone.
        history_conditioned: the prior of z is p_eta(z | H_{t-1}); otherwise a standard normal.
        num_draws: M, of z, for a prediction.
        width: of all hidden layers.
        num_layers: of the encoders' Transformers.
        num_heads: of their attention.
        context_size: c, the most prompts of a step that are kept to train on; of more, random ones.
        history: W, the steps that are kept to train on; 2: the newest, and the one before it as its history.
        inner_steps: gradient steps an update.
        replayed: random ones of the steps kept, beside the newest, in every gradient step.
        learning_rate: of Adam, five times that in the first updates; gradients are clipped to norm 1.
        shrinkage: how much the decoder distrusts large weights: a factor of the precision of their prior.
        block_size: prompts that are decoded at a time; bounds the memory of a prediction.

    Raises:
        ValueError: an argument out of its range, embeddings that are no finite matrix; from `init`, embeddings of
            another pool.
    """
    choices = {name: value for name, value in locals().items() if name != "embeddings"}
    # here, not above: `import jaxsel` would take seconds
    import optax
    from flax import nnx

    from jaxsel.predictors.amortized.networks import Networks

    counts = (
        "group_size",
        "num_draws",
        "width",
        "num_layers",
        "num_heads",
        "context_size",
        "inner_steps",
        "block_size",
    )
    _validate.positive_integer(**{name: choices[name] for name in counts})
    _validate.integer_in(0, 2**16, latent_size=latent_size, replayed=replayed)
    _validate.integer_in(2, 2**16, history=history)
    _validate.positive(learning_rate=learning_rate)
    _validate.non_negative(shrinkage=shrinkage)
    _validate.one_of(LIKELIHOODS, likelihood=likelihood)
    if width % num_heads:
        raise ValueError(f"width is {width} with {num_heads} heads; give a multiple of num_heads")
    if decay is not None:
        _validate.unit_interval(decay=decay)
        if not LIKELIHOODS[likelihood].conjugate:
            raise ValueError(f"decay is {decay} with likelihood {likelihood!r}; give decay=None, or beta_binomial")
    embeddings = _embeddings.checked(embeddings)

    features = _embeddings.features(embeddings)

    def new_networks(key: Key[Array, ""]) -> Networks:
        return Networks(
            len(features.shift),
            latent_size,
            history_conditioned=history_conditioned,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            key=key,
        )

    graph = nnx.graphdef(nnx.eval_shape(lambda: new_networks(jax.random.key(0))))
    model = LIKELIHOODS[likelihood]
    schedule = optax.exponential_decay(5 * learning_rate, 10 * inner_steps, 0.2, end_value=learning_rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def init(key: Key[Array, ""], num_prompts: int) -> AmortizedState:
        if len(embeddings) != num_prompts:
            raise ValueError(f"embeddings has {len(embeddings)} rows for {num_prompts} prompts; give one each")
        parameters = nnx.to_pure_dict(nnx.state(new_networks(key)))
        return AmortizedState(
            jnp.array(embeddings),
            parameters,
            optimizer.init(parameters),
            empty_ring(history, context_size),
            successes=jnp.zeros(num_prompts, jnp.float32),
            failures=jnp.zeros(num_prompts, jnp.float32),
            step=jnp.int32(0),
            fit=Fit(*(jnp.float32(0) for _ in Fit._fields)),
        )

    def predict(
        key: Key[Array, ""],
        state: AmortizedState,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction:
        latent_key, draw_key = jax.random.split(key)
        networks = nnx.merge(graph, state.parameters)
        last = state.latest(1)
        mean, scale = networks.prior(features(state.embeddings[last.prompt_ids]), last.successes, last.group_size)
        shape = (num_draws if latent_size else 1, latent_size)
        latents = mean + scale * jax.random.normal(latent_key, shape, jnp.float32)

        def decode(rows: Int[Array, " b"]) -> tuple[Array, ...]:
            parts = networks.decoder.features(features(state.embeddings[rows]))
            evidence = state.successes[rows], state.failures[rows]
            belief = jax.vmap(lambda latent: model.belief(networks.decoder(parts, latent), *evidence, group_size))(
                latents
            )
            rate = belief.success_rate.mean(0)
            variance = (belief.variance + (belief.success_rate - rate[None]) ** 2).mean(0)
            return rate, variance, belief.alpha[0], belief.beta[0], belief.unsolved.mean(0), belief.solved.mean(0)

        rows = jnp.arange(state.successes.shape[0], dtype=jnp.int32) if prompt_ids is None else first_id + prompt_ids
        rate, variance, alpha, beta, unsolved, solved = _in_blocks(decode, rows, block_size)
        draw = random.beta(draw_key, alpha, beta, ids=rows) if model.conjugate else alpha
        mixed = jnp.zeros_like(rate) if group_size == 1 else jnp.maximum(1 - unsolved - solved, 0)
        return Prediction(rate, variance, draw, unsolved, mixed, solved)

    def update(key: Key[Array, ""], state: AmortizedState, rollouts: Rollouts) -> AmortizedState:
        visits = merge_visits(rollouts, state.embeddings.shape[0])
        # only what training changes: the embeddings would be copied
        unchanged = state.parameters, state.optimizer, state.recent, state.step, state.fit
        is_empty = ~(visits.group_size > 0).any()
        changed = jax.lax.cond(is_empty, lambda: unchanged, lambda: learn(key, state, visits))
        state = state._replace(**dict(zip(("parameters", "optimizer", "recent", "step", "fit"), changed, strict=True)))
        if decay is None:
            return state
        successes, failures = accumulated(state.successes, state.failures, visits, decay)
        return state._replace(successes=successes, failures=failures)

    def learn(key: Key[Array, ""], state: AmortizedState, visits: Rollouts) -> tuple[Any, ...]:
        """What training changes of the state."""
        choice_key, training_key = jax.random.split(key)
        kept = at_most(choice_key, visits, context_size)
        step, recent = state.step, pushed(state.recent, state.step, kept)
        num_visits = (recent.group_size > 0).sum(dtype=jnp.float32)

        def descend(trained: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], Fit]:
            parameters, optimizer_state = trained
            age_key, latent_key = jax.random.split(key)
            ages = jax.random.randint(age_key, (replayed,), 0, jnp.clip(step + 1, 1, history - 1), jnp.int32)
            steps = step - jnp.concatenate([jnp.zeros(1, jnp.int32), ages])
            batches = [batches_of(recent, at) for at in (steps - 1, steps)]
            prompts = [features(state.embeddings[batch.prompt_ids]) for batch in batches]

            def loss(parameters: PyTree[Array]) -> tuple[Float[Array, ""], Fit]:
                networks = nnx.merge(graph, parameters)
                fit = networks.fit(latent_key, model.log_prob, batches, prompts)
                return -fit.elbo - shrinkage * networks.decoder.log_prior() / num_visits, fit

            gradient, fit = jax.grad(loss, has_aux=True)(parameters)
            change, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
            fit = fit._replace(gradient_norm=optax.tree.norm(gradient))
            return (optax.apply_updates(parameters, change), optimizer_state), fit

        keys = jax.random.split(training_key, inner_steps)
        (parameters, optimizer_state), fits = jax.lax.scan(descend, (state.parameters, state.optimizer), keys)
        return parameters, optimizer_state, recent, step + 1, jax.tree.map(lambda field: field[-1], fits)

    spec = {"name": "amortized", "embeddings": _embeddings.fingerprint(embeddings), **choices}
    return Predictor(spec, *map(_with_standard_promotion, (init, predict, update)))


def _with_standard_promotion(function: Callable[..., Any]) -> Any:
    """The function, where JAX's setting for type promotion is strict too: Flax and Optax mix types."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*arguments, **options)

    return run


def _in_blocks(
    function: Callable[[Int[Array, " b"]], tuple[Array, ...]], rows: Int[Array, " m"], block_size: int
) -> tuple[Array, ...]:
    """The function of all rows, `block_size` at a time; the last block repeats a row to be full."""
    size = rows.shape[0]
    if size <= block_size:
        return function(rows)
    blocks = jnp.pad(rows, (0, -size % block_size), mode="edge").reshape(-1, block_size)
    return tuple(field.reshape(-1)[:size] for field in jax.lax.map(function, blocks))
