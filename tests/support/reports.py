"""A small run with predictions made by hand, for the tests of reports: nothing is replayed and nothing compiled."""

from typing import Any

import numpy as np

from jaxsel.base import Prediction
from jaxsel.evaluation.replay import earlier_visits, make_history
from jaxsel.report.material import Material, Pool
from jaxsel.report.rows import Replayed, Rows

NUM_PROMPTS, STEPS, GROUP_SIZE = 60, 12, 4
TEXTS = [f"What is {i} + {i}?" for i in range(NUM_PROMPTS - 1)] + ['</script><b>not bold</b> & "more" \u2028 \'']


def prediction(rate, strength=6.0):
    """Return the Beta posteriors with these means, and what they imply for groups of four rollouts."""
    rate = np.clip(np.asarray(rate, np.float64), 0.02, 0.98)
    a, b = rate * strength, (1 - rate) * strength
    none, every = (
        np.prod([(x + k) / (strength + k) for k in range(GROUP_SIZE)], axis=0) for x in (b, a)
    )  # the Beta-Binomial probabilities of no and of only successes
    fields = (rate, rate * (1 - rate) / (strength + 1), rate, none, 1 - none - every, every)
    arrays: list[Any] = [np.asarray(field, np.float32) for field in fields]
    return Prediction(*arrays)


def material(*, texts=True):
    """Return a run in which "good" knows the true rates, and "bad" knows only half of the pool's differences."""
    rng = np.random.default_rng(0)
    truth = rng.beta(0.7, 0.7, NUM_PROMPTS)
    step = np.repeat(np.arange(STEPS), 10)
    ids = np.concatenate([rng.choice(NUM_PROMPTS, 10, replace=False) for _ in range(STEPS)])
    history = make_history(step, ids, rng.binomial(GROUP_SIZE, truth[ids]), GROUP_SIZE, num_prompts=NUM_PROMPTS)
    clock = np.repeat([0, 6, STEPS], NUM_PROMPTS)
    probed = np.tile(np.arange(NUM_PROMPTS), 3)
    n = np.full(len(probed), GROUP_SIZE)
    probes = {
        "clock": clock,
        "prompt_id": probed,
        "successes": rng.binomial(GROUP_SIZE, truth[probed]),
        "group_size": n,
    }
    probes["truth"] = truth[probed]

    def seen(rate):
        ahead = Rows(prediction(rate[history.prompt_ids]), *history, *earlier_visits(history, *history[1::-1]))
        outcomes = (clock, probed, probes["successes"], n)
        probe = Rows(prediction(rate[probed]), *outcomes, *earlier_visits(history, probed, clock))
        return Replayed(ahead, probe, {0: prediction(rate), STEPS: prediction(rate)})

    rates = {"good": truth, "bad": 0.5 + 0.5 * (truth - 0.5)}
    everyone = np.arange(NUM_PROMPTS)
    books = earlier_visits(history, everyone, np.full(NUM_PROMPTS, STEPS))
    pools = {name: Pool(STEPS, everyone, prediction(rate), *books) for name, rate in rates.items()}
    found = {name: seen(rate) for name, rate in rates.items()}
    return Material(
        NUM_PROMPTS, history, probes, found, pools, "uniform", TEXTS if texts else None,
        rng.normal(size=(NUM_PROMPTS, 5)).astype(np.float32), ["odd" if i % 2 else "even" for i in everyone],
    )  # fmt: skip


def record(run, folder, *, method="uniform"):
    """Write the run with the predictions of "good" and with one probe, as a training run does."""
    from jaxsel.integrations.history import HistoryLog  # it needs pyarrow

    log = HistoryLog(folder, num_prompts=NUM_PROMPTS, spec={"method": method}, texts=run.texts)
    seen = run.seen["good"]
    for step in range(STEPS):
        rows = seen.ahead.taken(seen.ahead.step == step)
        log.observed(step, (rows.prompt_ids, rows.successes, rows.group_size), rows.prediction)
        if step == 5:
            probe = seen.probes.taken(seen.probes.step == 6)
            log.probed(6, (probe.prompt_ids, probe.successes, probe.group_size), probe.prediction)
    log.flush()
