r"""One generative predictor for all prompts, seen or not: the predictor of GPS (arXiv 2602.01970).

    H_t = {(e_i, s_i, n_i)}             the observations of step t: embeddings, successes, group sizes
    z_t ~ p_eta(z | H_{t-1})            a Gaussian latent, the difficulty of all prompts at step t
    s_i ~ p_psi(s | n_i, e_i, z_t)      the decoder and its likelihood

The networks are trained online. After every step of the policy, a few gradient steps raise

    ELBO_t = E_q[ sum_i log p_psi(s_i | n_i, e_i, z_t) ] - KL( q_phi(z | H_t) || p_eta(z | H_{t-1}) )

for the newest step and for random steps among the last `history`, with a Gaussian prior on the decoder's weights. q_phi
is the posterior of z, given by a second encoder network. A prediction draws z from p_eta(z | H_t) and decodes every
prompt. The paper published no code and no values for sizes, learning rates, likelihood and history. The values here are
our own choice.

With the Beta-Binomial likelihood, the decoder gives every prompt a Beta prior. `decay` goes beyond the paper: as in
MoPPS, a prompt's own successes S and failures F are added to this prior. At every visit, S <- d * S + s and F <- d * F
+ (n - s) with d = `decay`. The decoder is trained on the same visits, so they count slightly more than once.
`decay=None` gives the paper's predictor, which predicts a visited prompt from its embedding and the latent alone.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxsel._shared import shared
from jaxsel.base import Predictor
from jaxsel.predictors import embeddings as _embeddings
from jaxsel.predictors.amortized.config import Config, checked
from jaxsel.predictors.priors import checked_priors, described


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
    prior_alpha: ArrayLike = 1.0,
    prior_beta: ArrayLike = 1.0,
) -> Predictor:
    """Return the predictor of GPS: one latent-variable model of all prompts, given their embeddings.

    Args:
        embeddings: One row per prompt of the pool, in float16, bfloat16 or float32. A NumPy array may be memory-mapped.
            The state holds a copy on the device in the same dtype (float64 becomes float32). On a CPU, a read-only
            memory-mapped file is read in place: keep it unchanged. The predictor also keeps a reference to the array.
        decay: The factor on a prompt's earlier evidence at each visit, from 0 to 1. None: a prompt's own rollouts do
            not count as evidence, as in the paper.
        group_size: n, the rollouts per prompt for which `unsolved`, `mixed` and `solved` are predicted.
        likelihood: "beta_binomial", "binomial" or "squared_error".
        latent_size: The dimension of z. With 0 there is no latent, and the decoder alone predicts.
        history_conditioned: Whether the prior of z is p_eta(z | H_{t-1}). If not, it is a standard normal.
        num_draws: The number of draws of z per prediction.
        width: The size of all hidden layers.
        num_layers: The number of Transformer layers in each encoder.
        num_heads: The number of attention heads in each encoder.
        context_size: The largest number of prompts to keep per step. Of a larger step, a random choice is kept.
        history: The number of steps that are kept, at least 2. The oldest one serves only as H_{t-1} of the next step.
        inner_steps: The number of gradient steps per update.
        replayed: The number of random kept steps that every gradient step uses beside the newest step.
        learning_rate: The final learning rate of Adam. Training starts at five times this rate and reaches it after ten
            updates. Gradients are clipped to norm 1.
        shrinkage: A factor on the precision of the prior on the decoder's weights: the larger, the smaller the weights.
        block_size: The number of prompts that are decoded at a time, which bounds the memory of a prediction. A GPU
            decodes 16 times as many.
        prior_alpha: alpha, one number for all prompts or one per prompt (see `informative_prior`). A prompt starts with
            the evidence of alpha - 1 successes and beta - 1 failures, at least 0, beside what the networks predict.
        prior_beta: beta, in the same form.

    Raises:
        ValueError: An argument is out of its range, the embeddings are not a finite matrix, or `decay` is None and a
            prior is given. From `init`: embeddings or priors do not have one row per prompt, or the embeddings were
            changed in between.
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
    config = checked(config)
    embeddings = _embeddings.checked(embeddings)
    priors = checked_priors(prior_alpha, prior_beta)
    _check_evidence(decay, priors)
    # imported here, because Flax and Optax would add seconds to `import jaxsel`
    from jaxsel.predictors.amortized.training import init

    model, predict, update, screen = _functions(config, embeddings.shape[1])
    scaling, made_with = _embeddings.features(embeddings), _embeddings.checksum(embeddings)
    start = {"embeddings": embeddings, "features": scaling, "made_with": made_with, "priors": priors}
    spec = {"name": "amortized", "embeddings": _embeddings.fingerprint(embeddings), **config._asdict()}
    return Predictor(
        spec | {name: described(prior) for name, prior in priors.items()},
        functools.partial(init, model=model, **start),
        predict,
        update,
        screen,
    )


@shared
def _functions(config: Config, embedding_size: int) -> tuple[Any, ...]:
    """Return the model, `predict`, `update` and `screen`."""
    from jaxsel.predictors.amortized.model import built
    from jaxsel.predictors.amortized.prediction import predict
    from jaxsel.predictors.amortized.training import update

    model = built(config, embedding_size)
    exact, rough = (functools.partial(predict, model=model, rough=rough) for rough in (False, True))
    return model, exact, functools.partial(update, model=model), rough


def _check_evidence(decay: float | None, priors: dict[str, np.ndarray | Array]) -> None:
    if decay is None and not all((prior == 1).all() for prior in priors.values()):
        raise ValueError(
            "decay is None, so a prompt's own evidence does not count; leave out prior_alpha and prior_beta, or "
            "give a decay"
        )
