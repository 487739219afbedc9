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

from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxsel.base import Predictor
from jaxsel.predictors.amortized import embeddings as _embeddings
from jaxsel.predictors.amortized.config import Config, check


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
    config = Config(
        decay=decay,
        group_size=group_size,
        likelihood=likelihood,
        latent_size=latent_size,
        history_conditioned=history_conditioned,
        num_draws=num_draws,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        context_size=context_size,
        history=history,
        inner_steps=inner_steps,
        replayed=replayed,
        learning_rate=learning_rate,
        shrinkage=shrinkage,
        block_size=block_size,
    )
    check(config)
    embeddings = _embeddings.checked(embeddings)
    # Flax and Optax take seconds to import: `import jaxsel` does without them.
    from jaxsel.predictors.amortized.model import built
    from jaxsel.predictors.amortized.prediction import predict
    from jaxsel.predictors.amortized.training import init, update

    model = built(config, _embeddings.features(embeddings))
    return Predictor(
        {"name": "amortized", "embeddings": _embeddings.fingerprint(embeddings), **config._asdict()},
        functools.partial(init, model=model, embeddings=embeddings),
        functools.partial(predict, model=model),
        functools.partial(update, model=model),
    )
