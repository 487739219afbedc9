r"""A reference for calibration: a state-space model of every prompt's success rate p, sampled with NUTS.

Prompt i is visited at some training steps t: then s of its n rollouts are correct.

    mean_i    = mean + e_i . w                              e_i: standardised embedding; without embeddings w = 0
    x_{i,0}   ~ Normal(mean_i, spread)                      x = logit p
    x_{i,t+1} = x_{i,t} + drift + volatility * eps_{i,t}    eps ~ Normal(0, 1)
    s_{i,t}   ~ Binomial(n_{i,t}, sigmoid(x_{i,t}))         at the steps of the prompt's visits

    mean       ~ Normal(0, 2)       at two standard deviations, a median prompt has a success rate of 2% or 98%
    spread     ~ HalfNormal(3)      from pools of equal prompts to pools of prompts that are never or always solved
    drift      ~ Normal(0, 0.3)     at 0.3, a step moves p = 1/2 by 0.07, far more than the average training step
    volatility ~ HalfNormal(0.5)    at 0.5, a step typically moves p = 1/2 of a single prompt by 0.12
    w_j        ~ Normal(0, weight_scale / sqrt(d)),  weight_scale ~ HalfNormal(1)    a common shrinkage of all d weights

Between visits k steps apart, x changes by Normal(k * drift, volatility * sqrt(k)). From mean_i to the first visit, at
step k, x changes by Normal(k * drift, sqrt(spread^2 + k * volatility^2)). The model therefore has one latent variable
per visit, in non-centred form, beside the hyperparameters.

A predictor approximates the posterior of p at a step, given the history before the step. The reference posterior moves
x forward from the prompt's last visit to this step. It shows how far the fast predictors are from the posterior.
Sampling takes about ten seconds for 300 prompts with four visits each. (NUTS: "The No-U-Turn Sampler", Hoffman and
Gelman 2014.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from jaxsel.evaluation.replay import History

SCALARS = ("mean", "spread", "drift", "volatility")


class VisitTable(NamedTuple):
    """The r visits of v prompts: one row per prompt, with up to c visits in order, padded with zeros.

    Attributes:
        row: Row of each visit in the tables below.
        column: Column of each visit in the tables below.
        gap: Steps since the prompt's previous visit, or since step 0 in the first column.
        successes: s, the number of correct rollouts.
        group_size: n, the number of rollouts.
    """

    row: Int[Array, " r"]
    column: Int[Array, " r"]
    gap: Float[Array, "v c"]
    successes: Float[Array, "v c"]
    group_size: Float[Array, "v c"]


def priors() -> dict[str, dist.Distribution]:
    """Return the priors of the scalar hyperparameters by name."""
    return {
        "mean": dist.Normal(0.0, 2.0),
        "spread": dist.HalfNormal(3.0),
        "drift": dist.Normal(0.0, 0.3),
        "volatility": dist.HalfNormal(0.5),
        "weight_scale": dist.HalfNormal(1.0),
    }


def state_space_model(visits: VisitTable, features: Float[Array, "v d"]) -> None:
    """Define the model of this module's docstring for NumPyro.

    The model also reports `last_logit`, which is x at the last visit of each prompt, and `location` and `scale`, which
    `given_neighbours` returns for each visit.

    Args:
        visits: Visits of the visited prompts.
        features: Standardised embeddings of the visited prompts, with d = 0 if there are none.
    """
    prior = priors()
    mean, spread, drift, volatility = (numpyro.sample(name, prior[name]) for name in SCALARS)
    num_prompts, num_features = features.shape
    means = jnp.full(num_prompts, mean)
    if num_features:
        weight_scale = numpyro.sample("weight_scale", prior["weight_scale"])
        raw = numpyro.sample("raw_weights", dist.Normal(0.0, 1.0).expand([num_features]).to_event(1))
        means = means + features @ numpyro.deterministic("weights", raw * weight_scale / num_features**0.5)
    eps = numpyro.sample("eps", dist.Normal(0.0, 1.0).expand(visits.row.shape).to_event(1))
    eps = jnp.zeros_like(visits.gap).at[visits.row, visits.column].set(eps, unique_indices=True)
    first, later = visits.gap[:, :1], visits.gap[:, 1:]
    scale = jnp.concatenate([jnp.sqrt(spread**2 + first * volatility**2), volatility * jnp.sqrt(later)], axis=1)
    # a product with a triangular matrix of ones, because cumulative sums are slow on a CPU
    x = means[:, None] + (visits.gap * drift + scale * eps) @ jnp.triu(jnp.ones((scale.shape[1],) * 2))
    numpyro.deterministic("last_logit", x[:, -1])
    location, scale = given_neighbours(visits.gap, x, means, jnp.asarray(drift), scale)
    numpyro.deterministic("location", location[visits.row, visits.column])
    numpyro.deterministic("scale", scale[visits.row, visits.column])
    # s log sigmoid(x) + (n - s) log sigmoid(-x), because NumPyro's Binomial has a wrong gradient at a logit of 0
    numpyro.factor("successes", (visits.successes * x + visits.group_size * jax.nn.log_sigmoid(-x)).sum())


def given_neighbours(
    gap: Float[Array, "v c"],
    x: Float[Array, "v c"],
    means: Float[Array, " v"],
    drift: Float[Array, ""],
    scale: Float[Array, "v c"],
) -> tuple[Float[Array, "v c"], Float[Array, "v c"]]:
    r"""Return the mean and the standard deviation of each visit's x, given x at the prompt's other visits.

        x_j | x_{j-1}  ~ Normal(before_j, scale_j)            before_j = x_{j-1} + gap_j drift
        x_{j+1} | x_j  ~ Normal(x_j + gap_{j+1} drift, scale_{j+1})

    The product of both densities is a normal density of x_j. The first visit has the prompt's mean in place of x_{j-1}.
    The last visit has no x_{j+1}.

    Args:
        gap: Steps since the prompt's previous visit, with zeros as padding.
        x: Logit of p at the visits.
        means: Mean of each prompt's logit at step 0.
        drift: Mean change of x per step.
        scale: Standard deviation of x, given x at the previous visit.
    """
    before = jnp.concatenate([means[:, None], x[:, :-1]], axis=1) + gap * drift
    is_followed = jnp.pad(gap[:, 1:] > 0, ((0, 0), (0, 1)))
    after = jnp.pad(x[:, 1:] - gap[:, 1:] * drift, ((0, 0), (0, 1)))
    precision = 1 / jnp.where(scale > 0, scale, 1) ** 2  # padded visits have the scale 0
    next_precision = jnp.where(is_followed, jnp.roll(precision, -1, axis=1), 0)
    total = precision + next_precision
    return (precision * before + next_precision * after) / total, jax.lax.rsqrt(total)


def tabulated(history: History) -> tuple[Int[np.ndarray, " v"], VisitTable, Int[np.ndarray, " v"]]:
    """Return the visited prompts in ascending order, their visits, and the step of each prompt's last visit."""
    order = np.lexsort((history.step, history.prompt_ids))
    step = history.step[order]
    visited, first, row, count = np.unique(
        history.prompt_ids[order], return_index=True, return_inverse=True, return_counts=True
    )
    column = np.arange(len(step)) - first[row]
    gap = np.diff(step, prepend=0)
    gap[first] = step[first]

    def table(values: Int[np.ndarray, " r"]) -> Float[Array, "v c"]:
        filled = np.zeros((len(visited), count.max(initial=1)), np.float32)
        filled[row, column] = values
        return jnp.asarray(filled)

    tables = (table(values) for values in (gap, history.successes[order], history.group_size[order]))
    visits = VisitTable(jnp.asarray(row), jnp.asarray(column), *tables)
    return visited, visits, step[first + count - 1]
