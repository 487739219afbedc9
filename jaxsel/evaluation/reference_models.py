r"""The gold standard of calibration: a state-space model of every prompt's success rate, sampled with NUTS.

    mean_i    = mean + e_i . w                              e_i: its embedding, standardised; without embeddings w = 0
    x_{i,0}   ~ Normal(mean_i, spread)                      x = logit p
    x_{i,t+1} = x_{i,t} + drift + volatility * eps_{i,t}    eps ~ Normal(0, 1)
    s_{i,t}   ~ Binomial(n_{i,t}, sigmoid(x_{i,t}))         at the steps of its visits

    mean       ~ Normal(0, 2)       pools whose median prompt is solved from 2% to 98% of the time
    spread     ~ HalfNormal(3)      from prompts that are all alike to pools where most are solved never or always
    drift      ~ Normal(0, 0.3)     a step moves p = 1/2 by 0.07, far more than a step of training does on average
    volatility ~ HalfNormal(0.5)    likewise, a single prompt by 0.12
    w_j        ~ Normal(0, weight_scale / sqrt(d)),  weight_scale ~ HalfNormal(1)    all d shrunk by how much they tell

Between visits k steps apart x moves by Normal(k * drift, volatility * sqrt(k)), and to the first one, at step k, from
mean_i by Normal(k * drift, sqrt(spread^2 + k * volatility^2)): one latent a visit, non-centred, and none elsewhere.

What is asked for is what a predictor is asked for, p at a step given the history before it: the latent of the last
visit, moved on by as many steps. It takes about ten seconds for 300 prompts with four visits each, and says how far
the cheap posteriors are from the one that they approximate. (NUTS: "The No-U-Turn Sampler", Hoffman and Gelman 2014.)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Int, Key
from numpy.typing import ArrayLike
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.handlers import condition
from numpyro.infer import MCMC, NUTS

from jaxsel import _validate
from jaxsel.base import Prediction
from jaxsel.evaluation.replay import History, make_history
from jaxsel.predictors import embeddings as _embeddings

_SCALARS = ("mean", "spread", "drift", "volatility")
_REPORTED = (*_SCALARS, "weight_scale", "weights", "last_logit")


class VisitTable(NamedTuple):
    """The r visits of v prompts, at most c each, in order. Rows are filled up with gaps and groups of 0.

    Attributes:
        row: of each visit.
        column: of each visit.
        gap: steps since the visit before, in the first column since step 0.
        successes: s.
        group_size: n.
    """

    row: Int[Array, " r"]
    column: Int[Array, " r"]
    gap: Float[Array, "v c"]
    successes: Float[Array, "v c"]
    group_size: Float[Array, "v c"]


class Diagnostics(NamedTuple):
    """Whether to believe the sampler, over the hyperparameters and the logits at the last visits.

    Attributes:
        divergences: transitions that left the posterior; 0 is good.
        largest_r_hat: split R-hat; below 1.01 is good, above 1.05 bad.
        smallest_effective_sample_size: 100 a chain are good.
    """

    divergences: int
    largest_r_hat: float
    smallest_effective_sample_size: float


class ReferencePosterior(NamedTuple):
    """Draws of the success rates of m prompts at one step.

    Attributes:
        success_rate: p, one row a draw, the chains one after the other.
        hyperparameters: draws of mean, spread, drift and volatility, and with embeddings of weight_scale and weights.
        diagnostics: of the sampler.
    """

    success_rate: Float[Array, "draws m"]
    hyperparameters: dict[str, Float[Array, "draws ..."]]
    diagnostics: Diagnostics

    def prediction(self, group_size: int) -> Prediction:
        """Moments, the last draw, and solve states of a group of n averaged over the draws.

        Raises:
            ValueError: a group size below 1.
        """
        _validate.positive_integer(group_size=group_size)
        p = self.success_rate
        unsolved, solved = ((1 - p) ** group_size).mean(0), (p**group_size).mean(0)
        return Prediction(p.mean(0), p.var(0), p[-1], unsolved, jnp.maximum(1 - unsolved - solved, 0), solved)

    def intervals(self, levels: Sequence[float]) -> tuple[Float[Array, "levels m"], Float[Array, "levels m"]]:
        """The ends of the central intervals that hold p with these probabilities.

        Raises:
            ValueError: a level outside of [0, 1].
        """
        for level in levels:
            _validate.unit_interval(levels=level)
        tails = (1 - jnp.asarray(levels, jnp.float32)) / 2
        return jnp.quantile(self.success_rate, tails, axis=0), jnp.quantile(self.success_rate, 1 - tails, axis=0)

    def pit(self, success_rate: Float[Array, " m"] | Float[np.ndarray, " m"]) -> Float[Array, " m"]:
        """The posterior's P(p <= true success rate): uniform if calibrated, see `metrics.uniformity`."""
        return (self.success_rate <= jnp.asarray(success_rate)[None]).mean(0)


def state_space_model(visits: VisitTable, features: Float[Array, "v d"]) -> None:
    """See the head of this file. Its sites: the hyperparameters and `last_logit`, x at the last visit of each prompt.

    Args:
        visits: of the prompts that were visited.
        features: their standardised embeddings; d = 0: there are none.
    """
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(3.0))
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.3))
    volatility = numpyro.sample("volatility", dist.HalfNormal(0.5))
    num_prompts, num_features = features.shape
    means = jnp.full(num_prompts, mean)
    if num_features:
        weight_scale = numpyro.sample("weight_scale", dist.HalfNormal(1.0))
        raw = numpyro.sample("raw_weights", dist.Normal(0.0, 1.0).expand([num_features]).to_event(1))
        means = means + features @ numpyro.deterministic("weights", raw * weight_scale / num_features**0.5)
    eps = numpyro.sample("eps", dist.Normal(0.0, 1.0).expand(visits.row.shape).to_event(1))
    eps = jnp.zeros_like(visits.gap).at[visits.row, visits.column].set(eps, unique_indices=True)
    first, later = visits.gap[:, :1], visits.gap[:, 1:]
    scale = jnp.concatenate([jnp.sqrt(spread**2 + first * volatility**2), volatility * jnp.sqrt(later)], axis=1)
    # a product with a triangle of ones: cumulative sums are slow on a CPU
    x = means[:, None] + (visits.gap * drift + scale * eps) @ jnp.triu(jnp.ones((scale.shape[1],) * 2))
    numpyro.deterministic("last_logit", x[:, -1])
    # s log sigmoid(x) + (n - s) log sigmoid(-x); the gradient of NumPyro's Binomial in its logits is wrong at 0
    numpyro.factor("successes", (visits.successes * x + visits.group_size * jax.nn.log_sigmoid(-x)).sum())


def sample(
    key: Key[Array, ""],
    history: History,
    *,
    num_prompts: int,
    prompt_ids: ArrayLike | None = None,
    step: int | None = None,
    embeddings: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
    num_warmup: int = 400,
    num_samples: int = 400,
    num_chains: int = 4,
) -> ReferencePosterior:
    """Samples success rates at a step, given the history before it. Nothing warns of a bad run but its diagnostics.

    Args:
        key: consumed.
        history: of any method, from `make_history`.
        num_prompts: the size of the pool.
        prompt_ids: whom to predict; None: the whole pool, in the order of its rows. Who never was visited is drawn from
            the prior, at the hyperparameters that the others speak for.
        step: to predict, at least 0; later visits do not count. None: the one after the last of the history.
        embeddings: one row a prompt of the pool; standardised here. None: prompts are exchangeable before their visits.
        fixed: hyperparameters among mean, spread, drift and volatility that are known, with their values.
        num_warmup: transitions of each chain to adapt in.
        num_samples: draws to keep of each chain.
        num_chains: run one after the other, from random starts.

    Raises:
        ValueError: an argument out of its range, or a history of another pool.
    """
    _validate.positive_integer(num_prompts=num_prompts)
    _validate.positive_integer(num_warmup=num_warmup, num_samples=num_samples, num_chains=num_chains)
    history = make_history(*history, num_prompts=num_prompts)
    step = history.num_steps if step is None else step
    _validate.integer_in(0, 2**31, step=step)
    asked = range(num_prompts) if prompt_ids is None else prompt_ids
    ids = _validate.integers("prompt_ids", asked, low=0, high=num_prompts)  # pyright: ignore[reportArgumentType]
    features, known = _standardised(embeddings, num_prompts), _checked(fixed)
    visited, visits, last_step = _tabulated(history.before(step))

    nuts_key, ahead_key = jax.random.split(key)
    chain_keys = jax.random.split(nuts_key, num_chains)
    by_chain, diverging = _run_chains(chain_keys, visits, features[visited], known, num_warmup, num_samples)
    diagnostics = Diagnostics(int(diverging.sum()), *_mixing(by_chain))
    draws = {name: value.reshape(num_chains * num_samples, *value.shape[2:]) for name, value in by_chain.items()}
    last_logit = draws.pop("last_logit")
    draws |= {name: jnp.full(len(last_logit), value) for name, value in known.items()}
    location, scale = _ahead(draws, last_logit, features, visited, last_step, ids, step)
    # by id, so that a prompt's draws do not depend on who else is asked for
    keys = jax.vmap(lambda row: jax.random.fold_in(ahead_key, row))(jnp.asarray(ids))
    eps = jax.vmap(lambda key: jax.random.normal(key, (len(location),)), out_axes=1)(keys)
    return ReferencePosterior(jax.nn.sigmoid(location + scale * eps), draws, diagnostics)


@functools.partial(jax.jit, static_argnames=("num_warmup", "num_samples"))
def _run_chains(
    keys: Key[Array, " chains"],
    visits: VisitTable,
    features: Float[Array, "v d"],
    known: dict[str, Float[Array, ""]],
    num_warmup: int,
    num_samples: int,
) -> tuple[dict[str, Float[Array, "chains draws ..."]], Bool[Array, "chains draws"]]:
    """Draws of what is reported, and which transitions diverged. Compiled once for all histories of one shape."""

    def chain(key: Key[Array, ""]):
        # far from the posterior trees are deep and take most of the time
        model = condition(state_space_model, known)  # pyright: ignore[reportArgumentType]
        kernel = NUTS(model, max_tree_depth=(6, 10))  # pyright: ignore[reportArgumentType]
        sampler = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
        sampler.run(key, visits, features)
        draws = {name: values for name, values in sampler.get_samples().items() if name in _REPORTED}
        return draws, sampler.get_extra_fields()["diverging"]

    return jax.lax.map(chain, keys)


def _tabulated(history: History) -> tuple[Int[np.ndarray, " v"], VisitTable, Int[np.ndarray, " v"]]:
    """The prompts that were visited, ascending, their visits, and the steps of the last ones."""
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


def _ahead(
    draws: dict[str, Float[Array, "draws ..."]],
    last_logit: Float[Array, "draws v"],
    features: Float[Array, "N d"],
    visited: Int[np.ndarray, " v"],
    last_step: Int[np.ndarray, " v"],
    ids: Int[np.ndarray, " m"],
    step: int,
) -> tuple[Float[Array, "draws m"], Float[Array, "draws m"]]:
    """Mean and standard deviation of x at the step, given each draw."""
    row = np.full(len(features), -1)
    row[visited] = np.arange(len(visited))
    seen = row[ids] >= 0
    gap = np.full(len(ids), step, np.float32)
    gap[seen] = step - last_step[row[ids][seen]]
    mean, spread, drift, volatility = (draws[name][:, None] for name in _SCALARS)
    start = jnp.broadcast_to(mean, (len(mean), len(ids)))
    if "weights" in draws:
        start = start + draws["weights"] @ features[ids].T
    start = start.at[:, seen].set(last_logit[:, row[ids][seen]])
    spread = jnp.where(seen[None], 0, spread)
    return start + gap[None] * drift, jnp.sqrt(spread**2 + gap[None] * volatility**2)


def _mixing(by_chain: dict[str, Float[Array, "chains draws ..."]]) -> tuple[float, float]:
    """The largest split R-hat and the smallest effective sample size of everything that is not constant."""
    columns = [np.asarray(value).reshape(*value.shape[:2], -1) for value in by_chain.values()]
    values = np.concatenate(columns, axis=2).astype(np.float64)
    values = values[:, :, np.ptp(values, axis=(0, 1)) > 0]
    if values.shape[1] < 4 or not values.shape[2]:
        return float("nan"), float("nan")
    return float(np.max(split_gelman_rubin(values))), float(np.min(effective_sample_size(values)))


def _standardised(embeddings: ArrayLike | None, num_prompts: int) -> Float[Array, "N d"]:
    """Columns of mean 0 and variance 1; a constant one is 0."""
    if embeddings is None:
        return jnp.zeros((num_prompts, 0))
    array = np.asarray(_embeddings.checked(embeddings), np.float64)
    if len(array) != num_prompts:
        raise ValueError(f"embeddings has {len(array)} rows for {num_prompts} prompts; give one each")
    deviation = array.std(0)
    return jnp.asarray((array - array.mean(0)) / np.where(deviation > 0, deviation, 1), jnp.float32)


def _checked(fixed: Mapping[str, float] | None) -> dict[str, Float[Array, ""]]:
    known = {} if fixed is None else fixed
    for name, value in known.items():
        _validate.one_of(_SCALARS, fixed=name)
        (_validate.positive if name in ("spread", "volatility") else _validate.finite)(**{name: value})
    return {name: jnp.float32(value) for name, value in known.items()}
