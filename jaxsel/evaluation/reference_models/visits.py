r"""What a posterior says about each visit of a history, as if this visit had been left out.

Every visit has a logit x of its own. The likelihood of a visit given its own x is of no use for leave-one-out
cross-validation by importance sampling (PSIS-LOO): x has already moved to the visit's outcome. This module integrates x
out, given the draw's hyperparameters and x at the prompt's other visits:

    p(s | draw) = integral Binomial(s; n, sigmoid(x)) Normal(x; location, scale) dx

The weights 1 / p(s | draw) turn the posterior into the posterior without the visit. (Integrated importance sampling:
"Bayesian Leave-One-Out Cross-Validation Approximations for Gaussian Latent Variable Models", Vehtari et al. 2016.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp
from jaxtyping import Array, Float, Int, Key

from jaxsel.evaluation.replay import History

_NODES = 64
_HALVINGS = 30  # they find the mode to a billionth of the interval in which it lies


class VisitPosterior(NamedTuple):
    """The distribution of x = logit p at each of r visits, given each draw's values for everything but this visit.

    Attributes:
        history: The visits.
        location: Mean of x.
        scale: Standard deviation of x.
    """

    history: History
    location: Float[Array, "draws r"]
    scale: Float[Array, "draws r"]

    def log_likelihood(self) -> Float[Array, "draws r"]:
        """Return log p(s | draw) of each visit, in nats, by adaptive Gauss-Hermite quadrature.

        The error is below 0.0001 nats for a `scale` up to 3, 0.002 nats up to 6 and 0.01 nats up to 10.
        """
        s, n = (jnp.asarray(column, jnp.float32) for column in (self.history.successes, self.history.group_size))
        return _integrated(self.location, self.scale, s, n)

    def successes(self, key: Key[Array, ""]) -> Int[Array, "draws r"]:
        """Return one draw of each visit's number of successes per draw of the posterior, without the visit's outcome.

        Args:
            key: A key, which this method consumes.
        """
        logit_key, count_key = jax.random.split(key)
        x = self.location + self.scale * jax.random.normal(logit_key, self.location.shape)
        counts = jax.random.binomial(count_key, jnp.asarray(self.history.group_size, jnp.float32), jax.nn.sigmoid(x))
        return counts.astype(jnp.int32)


@jax.jit
def _integrated(
    location: Float[Array, "draws r"], scale: Float[Array, "draws r"], s: Float[Array, " r"], n: Float[Array, " r"]
) -> Float[Array, "draws r"]:
    visits = jax.vmap(_integrated_visit)
    return jax.lax.map(lambda draw: visits(draw[0], draw[1], s, n), (location, scale))


def _integrated_visit(
    mu: Float[Array, ""], sigma: Float[Array, ""], s: Float[Array, ""], n: Float[Array, ""]
) -> Float[Array, ""]:
    nodes, weights = np.polynomial.hermite.hermgauss(_NODES)
    mode = _mode(mu, sigma, s, n)
    p = jax.nn.sigmoid(mode)
    width = jax.lax.rsqrt(sigma**-2 + n * p * (1 - p))  # of the normal density with the integrand's curvature
    x = mode + 2**0.5 * width * jnp.asarray(nodes, jnp.float32)
    log_density = -(((x - mu) / sigma) ** 2) / 2 + s * x + n * jax.nn.log_sigmoid(-x)
    total = logsumexp(log_density + jnp.asarray(np.log(weights) + nodes**2, jnp.float32))
    log_choose = gammaln(n + 1) - gammaln(s + 1) - gammaln(n - s + 1)
    return log_choose + jnp.log(width / sigma) - 0.5 * float(np.log(np.pi)) + total


def _mode(mu: Float[Array, ""], sigma: Float[Array, ""], s: Float[Array, ""], n: Float[Array, ""]) -> Float[Array, ""]:
    """Return the mode of the integrand by bisection, because Newton's method may oscillate where `sigma` is large."""

    def halve(_: Int[Array, ""], ends: tuple[Float[Array, ""], Float[Array, ""]]):
        middle = (ends[0] + ends[1]) / 2
        is_below = s - n * jax.nn.sigmoid(middle) > (middle - mu) / sigma**2
        return jnp.where(is_below, middle, ends[0]), jnp.where(is_below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (mu + sigma**2 * (s - n), mu + sigma**2 * s))
    return (low + high) / 2
