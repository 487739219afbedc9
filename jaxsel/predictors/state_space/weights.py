r"""The weights that all prompts share: a Gaussian filter in information form.

    (w, d) ~ N(mean, S),    S = (J + diag(prior))^-1

w holds the weights before training, and d their drift since then. phi are the features of a prompt, and phi . (w + d)
is the part of the logit of its success rate that depends on w and d. J is the information of all batches, sum_i iota_i
x_i x_i' with x_i = (slope_i phi_i, phi_i). Here iota_i is the precision of observation i. slope_i is the change of
prompt i's expected logit per unit of phi_i . w: 1 before its first visit, and smaller afterwards.

J is a sum of squares, but float32 rounds it. Features may depend on each other linearly, as one-hot columns do. Then J
is singular, and rounding can make it indefinite. So the errors of rounding do not add up from batch to batch, see
`_decayed_sum`. And no prior precision is below the bound of one rounding, eps g max_j J_jj. This keeps J + diag(prior)
positive definite in float32 for any number of batches.

First visits determine w, and repeated visits determine d. The drift depends on the features too, because training on
some kinds of prompts teaches these kinds more than others. The last weight of d is the level, which moves all prompts
alike.

Once all prompts are visited again and again, their visits hardly tell a higher level from higher logits of them all,
and small errors of the filter would add up in the level for ever. So the level follows what the visited prompts have in
common: with as many repeated visits as there are visited prompts, it moves by a tenth of `in_common` (see `filtering`).
The logits of prompts that are no longer visited, or not yet, then change as those of the visited prompts do on average.

The model learns how fast d changes. Before each update, J keeps only a share of the information about d. The data
decide between ten candidate shares. Let h = sum_i iota_i x_i r_i be the gradient, with residuals r_i: observed minus
predicted logits. For a given share, h has the covariance A + A S A / share, with A = sum_i iota_i x_i x_i'. The score
of a share is the log density of the level's component of h. Scores of earlier batches are discounted. The update uses
the posterior mean of the share. This mean is near 1 while success rates do not change, and near 0 after an abrupt
change of the policy.

w is forgotten very slowly. A selector may visit few kinds of prompts for many steps, and the information about all
other kinds must last that long.

A selector visits similar prompts, for which a linear model has similar errors. The model therefore gives the first
visits of one batch an error of fixed variance in common. A hundred first visits then carry little more information than
ten.

The prior precision lambda of the features' weights in w follows MacKay's fixed point lambda = gamma / |w|^2. Here
gamma = sum_j (1 - lambda S_jj) is the number of weights that the data determine. Weights of noise features approach 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_CONSTANT = 0.1  # prior precision of the constant's weight in w
_LEVEL = 100.0  # prior precision of the level, the constant's weight in d
_DRIFT = 0.1  # prior variance of the features' part of the drift, per prompt, in logits^2
_SIGNAL = 4.0  # prior variance of the features' part of w . phi, per prompt, in logits^2
_SHARES = np.array([0.9999, 0.999, 0.997, 0.99, 0.97, 0.9, 0.5, 0.1, 0.01, 1e-4], np.float32)
_SURPRISE = np.array([0, -0.5, -1, -2, -4, -6, -8, -9, -10, -12], np.float32)  # log prior odds of the shares
_COMMON = 1.0  # variance of the error that the first visits of a batch share
_ROUNDING = np.finfo(np.float32).eps  # smallest prior precision, relative to the size of J and its largest element
_KEPT = np.float32(0.9999)  # share of the information about w that each batch keeps
_PACE = 1.25  # the largest factor by which lambda changes in a step
_MEMORY = 0.98  # factor of the earlier evidence for each share, per step


class Weights(NamedTuple):
    """The belief about g = 2 f weights: w and then d, each of f - 1 features and the constant.

    Attributes:
        mean: Mean of w and d.
        information: J.
        precision: lambda, the prior precision of the features' weights in w.
        evidence: Discounted log evidence for each candidate share.
        kept: Share of the information about d that the last update kept.
        root: A square root of the covariance S: S = root root'.
        remainder: What `information` lacks of J, because float32 rounds it.
        in_common: Mean over the visited prompts of how far the logit minus phi . d has moved since the first visit.
    """

    mean: Float[Array, " g"]
    information: Float[Array, "g g"]
    precision: Float[Array, ""]
    evidence: Float[Array, " k"]
    kept: Float[Array, ""]
    root: Float[Array, "g g"]
    remainder: Float[Array, "g g"]
    in_common: Float[Array, ""]

    @property
    def initial(self) -> Float[Array, " f"]:
        """The mean of w; the constant is last."""
        return self.mean[: len(self.mean) // 2]

    @property
    def drift(self) -> Float[Array, " f"]:
        """The mean of d; the level is last."""
        return self.mean[len(self.mean) // 2 :]


def no_weights(num_features: int) -> Weights:
    """Return the belief before any observation; f = `num_features` + 1. NumPy computes it, which compiles nothing."""
    precision, others = np.float32(_prior_precision(num_features)), _other_priors(num_features)
    prior = np.concatenate([np.full(num_features, precision), others])
    nothing = np.zeros((len(prior), len(prior)), np.float32)
    root = np.diag(1 / np.sqrt(prior))  # S is diagonal
    evidence, kept = np.zeros_like(_SHARES), np.float32(1)
    arrays = (np.zeros_like(prior), nothing, precision, evidence, kept, root, nothing.copy(), np.float32(0))
    return Weights(*map(jnp.asarray, arrays))


def _prior_precision(num_features: int) -> float:
    return max(num_features, 1) / _SIGNAL


def _other_priors(num_features: int) -> Float[np.ndarray, " o"]:
    """Return the prior precisions of all weights but those of the features in w."""
    return np.array([_CONSTANT, *[num_features / _DRIFT] * num_features, _LEVEL], np.float32)


def _prior(precision: Float[Array, ""], information: Float[Array, "g g"]) -> Float[Array, " g"]:
    size = len(information)
    features = size // 2 - 1
    prior = jnp.concatenate([jnp.broadcast_to(precision, (features,)), _other_priors(features)])
    # linearly dependent features leave J singular, and rounding makes it indefinite by less than this
    return jnp.maximum(prior, size * jnp.diag(information).max() * _ROUNDING)


@jax.jit
def _covariance_root(information: Float[Array, "g g"], prior: Float[Array, " g"]) -> Float[Array, "g g"]:
    # S^-1 = L L', S = L^-T L^-1
    lower = jnp.linalg.cholesky(information + jnp.diag(prior))
    return jax.scipy.linalg.solve_triangular(lower, jnp.eye(len(prior), dtype=jnp.float32), lower=True).T


def updated(
    weights: Weights,
    design: Float[Array, "b g"],
    precision: Float[Array, " b"],
    weighted_residual: Float[Array, " b"],
) -> tuple[Weights, Float[Array, " g"]]:
    """Return the belief after a batch, and the change of its mean.

    Args:
        weights: Belief before the batch.
        design: x_i of every observation.
        precision: iota_i of every observation; 0 for a row without an observation.
        weighted_residual: iota_i r_i of every observation.
    """
    constant = len(weights.mean) // 2 - 1
    # at the default precision, a GPU would round the factors to 11 bits, differently on the two sides
    gathered = jnp.matmul((design * precision[:, None]).T, design, precision="highest")
    gradient = weighted_residual @ design
    # the common error acts on a logit as the constant of w does, so its correction has rank one
    share_of_common = gathered[constant] / (1 / _COMMON + gathered[constant, constant])
    gradient = gradient - share_of_common * gradient[constant]
    gathered = gathered - share_of_common[:, None] * gathered[constant][None]
    evidence, kept = _forgotten(weights.evidence, weights.root, gathered, gradient)
    information, remainder = _decayed_sum(weights, gathered, kept)
    root = _covariance_root(information, _prior(weights.precision, information))
    change = root @ (gradient @ root)
    belief = weights._replace(mean=weights.mean + change, information=information, remainder=remainder, root=root)
    return belief._replace(evidence=evidence, kept=kept), change


def _decayed_sum(
    weights: Weights, gathered: Float[Array, "g g"], kept: Float[Array, ""]
) -> tuple[Float[Array, "g g"], Float[Array, "g g"]]:
    """Return F J F + `gathered` and its remainder; F is diagonal, and F^2 holds the shares that the weights keep.

    The errors of J's rounding would add up over the 10,000 batches that w remembers. So each sum starts from the
    remainder of the sum before it (Kahan 1965), and J's losses are computed instead of what remains.
    """
    size = len(weights.mean)
    lost = jnp.where(jnp.arange(size) < size // 2, 1 - _KEPT, 1 - kept)
    either = lost[:, None] + lost[None] - lost[:, None] * lost[None]
    lost = either / (1 + jnp.sqrt(1 - either))  # 1 - sqrt(1 - either)
    change = gathered - lost * weights.information + (1 - lost) * weights.remainder
    information = weights.information + change
    return information, change - (information - weights.information)


def shrunk(weights: Weights) -> Weights:
    """Return the belief with lambda moved towards its fixed point, and the mean that follows from the new lambda."""
    size = len(weights.mean)
    if size == 2:
        return weights
    num_features = size // 2 - 1
    features, variance = weights.mean[:num_features], (weights.root[:num_features] ** 2).sum(1)
    before = _prior(weights.precision, weights.information)
    determined = jnp.clip(1 - before[0] * variance, 0, 1).sum()
    # one imaginary weight, of the size that the first lambda implies, keeps the fixed point finite
    guess = _prior_precision(num_features)
    fixed_point = (determined + 1) / ((features**2).sum() + 1 / guess)
    fixed_point = jnp.clip(fixed_point, weights.precision / _PACE, weights.precision * _PACE)
    precision = jnp.clip(fixed_point, 0.05, 1e4 * guess)
    after = _prior(precision, weights.information)
    root = _covariance_root(weights.information, after)
    change = root @ (((before - after) * weights.mean) @ root)
    return weights._replace(mean=weights.mean + change, precision=precision, root=root)


def _forgotten(
    evidence: Float[Array, " k"], root: Float[Array, "g g"], gathered: Float[Array, "g g"], gradient: Float[Array, " g"]
) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Return the evidence for each candidate share after this batch, and the posterior mean of the share."""
    doubt = gathered[-1] @ root  # its squared length is the level's entry of A S A
    expected = jnp.maximum(gathered[-1, -1] + (doubt**2).sum() / jnp.asarray(_SHARES), 1e-20)
    score = -0.5 * (jnp.log(expected) + gradient[-1] ** 2 / expected)
    evidence = _MEMORY * evidence + score - score.max()
    return evidence, jax.nn.softmax(evidence + jnp.asarray(_SURPRISE)) @ jnp.asarray(_SHARES)
