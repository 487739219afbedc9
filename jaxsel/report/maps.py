"""Maps of the pool: prompts in the cells of a grid, by what a method believes and by their embeddings."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxsel.report.cells import belief_bins, numbered_again, parts_of, probability_bins
from jaxsel.report.material import Pool
from jaxsel.report.wording import NOT_DRAWN

_RATES, _DEVIATIONS = 40, 24  # cells of the map of beliefs in both directions
_PLACES = 20  # cells of the map of embeddings in each direction
_MOST_STRATA = 9  # labels that get a colour of their own
_SMALLEST = 0.01  # smallest width of a map, because a page holds four digits after the point
_AT_ONCE = 2**16  # rows of embeddings that are held in 64 bits
_FEW = 20_000  # prompts that give the directions of the embeddings


def beliefs(pool: Pool, strata: Int[np.ndarray, " N"] | None) -> dict[str, np.ndarray]:
    """Return the prompts by predicted success rate, uncertainty, P(mixed), visits and stratum, as sums of cells.

    The columns are `left`, `right`, `low` and `high` (edges of the cell: success rate, and standard deviation of the
    posterior), `bin` (of P(mixed)), `part` (position in `PARTS`), `stratum` (with labels), and the sums of `_sums`.
    """
    rate = np.asarray(pool.prediction.success_rate, np.float64)
    deviation = np.sqrt(np.maximum(np.asarray(pool.prediction.variance, np.float64), 0))
    top = max(float(deviation.max(initial=0)) * 1.001, _SMALLEST)
    x = np.clip((rate * _RATES).astype(int), 0, _RATES - 1)
    y = np.clip((deviation / top * _DEVIATIONS).astype(int), 0, _DEVIATIONS - 1)
    at, sums = _cells(pool, {"x": x, "y": y}, strata)
    edges = {"left": at["x"] / _RATES, "right": (at["x"] + 1) / _RATES}
    edges |= {"low": at["y"] / _DEVIATIONS * top, "high": (at["y"] + 1) / _DEVIATIONS * top}
    return {**edges, **_others(at), **sums}


def meanings(
    places: Float[np.ndarray, "N 2"], pool: Pool, strata: Int[np.ndarray, " N"] | None
) -> dict[str, np.ndarray]:
    """Return the prompts by the place of their embedding, as sums of cells.

    The columns are those of `beliefs`, and the bins of `belief_bins`.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.maximum(high - low, _SMALLEST) * 1.001 / _PLACES
    x, y = ((places[pool.prompt_ids] - low) / size).astype(int).T
    at, sums = _cells(pool, {"x": x, "y": y, **belief_bins(pool.prediction)}, strata)
    edges = {"left": low[0] + at["x"] * size[0], "right": low[0] + (at["x"] + 1) * size[0]}
    edges |= {"low": low[1] + at["y"] * size[1], "high": low[1] + (at["y"] + 1) * size[1]}
    return {**edges, **_others(at), **sums}


def flattened(embeddings: Float[np.ndarray, "N d"], *, seed: int = 0) -> Float[np.ndarray, "N 2"]:
    """Return the two principal components of the embeddings, the directions in which they vary most, from -1 to 1."""
    number = len(embeddings)
    few = np.random.default_rng(seed).choice(number, _FEW, replace=False) if number > _FEW else np.arange(number)
    largest = max(float(embeddings.max(initial=0)), -float(embeddings.min(initial=0)), 1e-300)  # squares may overflow
    mean = embeddings[few].mean(axis=0, dtype=np.float64)
    centred = (embeddings[few] - mean) / largest
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]  # eigenvalues come in ascending order
    starts = range(0, number, _AT_ONCE)
    places = np.concatenate([(embeddings[at : at + _AT_ONCE] - mean) / largest @ directions for at in starts])
    places /= max(float(np.abs(places).max(initial=0)), 1e-30)
    return places if places.shape[1] == 2 else np.pad(places, ((0, 0), (0, 1)))


def numbered(strata: Any) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """Return the labels of the largest strata, the last of them for all others, and each prompt's position in them."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(strata))}  # sorting all would take seconds
    labels, which = np.array(list(numbers), object), np.array([numbers[label] for label in strata])
    size = np.bincount(which)
    order = np.argsort(-size, kind="stable")
    if len(labels) <= _MOST_STRATA:
        place = np.argsort(order)
        return _drawn(labels[order]), place[which]
    kept = order[: _MOST_STRATA - 1]
    place = np.full(len(labels), _MOST_STRATA - 1)
    place[kept] = np.arange(len(kept))
    names = _drawn(labels[kept])
    return [*names, "other" if "other" not in names else "all other labels"], place[which]


def _drawn(labels: np.ndarray) -> list[str]:
    return [NOT_DRAWN.sub("\ufffd", label) for label in labels]


def _cells(
    pool: Pool, places: dict[str, np.ndarray], strata: Int[np.ndarray, " N"] | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the coordinates of all cells with prompts, and the sums over their prompts."""
    mixed = np.asarray(pool.prediction.mixed, np.float64)
    keys = {**places, "bin": probability_bins(mixed), "part": parts_of(pool.visits)}
    if strata is not None:
        keys["stratum"] = strata[pool.prompt_ids]
    sizes = [int(values.max(initial=0)) + 1 for values in keys.values()]
    distinct, cell = numbered_again(np.ravel_multi_index(list(keys.values()), sizes))
    at = dict(zip(keys, np.unravel_index(distinct, sizes), strict=True))

    def summed(values: Any) -> np.ndarray:
        return np.bincount(cell, np.asarray(values, np.float64), len(distinct))

    seen = pool.visits > 0
    sums = {
        "prompts": np.bincount(cell, minlength=len(distinct)),
        "visits": summed(pool.visits),
        "visited": summed(seen),
        "waiting": summed(np.where(seen, pool.waiting, 0)),
        "rate": summed(pool.prediction.success_rate).round(2),  # the tooltips show means in percent
        "mixed": summed(mixed).round(2),
    }
    return at, sums


def _others(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in at.items() if name not in ("x", "y")}
