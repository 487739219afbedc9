"""The abstraction: what a training step observed, what a predictor says, what a selector chose. No mathematics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, Int, Key

State = Any
"""A pytree of arrays: it can be jitted, donated, scanned over, sharded and saved.

It may have the methods of `StateMethods`, each of them optional.
"""

Scalar = float | Float[Array, ""]
"""A number; traced, where a gradient is taken with respect to it."""

UNSOLVED, MIXED, SOLVED = 0, 1, 2
"""The solve state of a prompt in one group of n rollouts: s = 0, 0 < s < n, s = n."""


class Rollouts(NamedTuple):
    """What one training step observed.

    Attributes:
        prompt_ids: rows of the pool. Repeated ids are one visit with summed counts; ids outside the pool are ignored
            (they pad a batch to a fixed length).
        successes: s, the rollouts that were correct.
        group_size: n, with 0 <= s <= n. n = 0 means "no information" (all rollouts failed) and is ignored.
    """

    prompt_ids: Int[Array, " b"]
    successes: Int[Array, " b"]
    group_size: Int[Array, " b"]


class Prediction(NamedTuple):
    """What to expect of each of m prompts before rolling it out.

    Attributes:
        success_rate: posterior mean of p, the probability that the policy solves the prompt.
        variance: posterior variance of p.
        draw: one posterior sample of p (Thompson).
        unsolved: P(s = 0) for a group of n rollouts.
        mixed: P(0 < s < n).
        solved: P(s = n). The three sum to 1.
    """

    success_rate: Float[Array, " m"]
    variance: Float[Array, " m"]
    draw: Float[Array, " m"]
    unsolved: Float[Array, " m"]
    mixed: Float[Array, " m"]
    solved: Float[Array, " m"]


class Embedded(NamedTuple):
    """Where the prompts of a state lie and which ones were observed last, for rules that look at that.

    Attributes:
        embeddings: one row per prompt.
        latest: `count -> batches [count, c]`, the last ones, or as many as are kept; a group size of 0 is no prompt.
    """

    embeddings: Float[Array, "N d"]
    latest: Callable[[int], Rollouts]


class StateMethods(Protocol):
    """What a state may say of itself. Every method is optional: ask with `said_by`, never with `isinstance`.

    `isinstance` of a protocol looks at properties on one version of Python and past them on another.
    """

    def partition_specs(self) -> State:
        """On which axis of each array the prompts are; a state without it cannot be sharded.

        On a mesh, rows of zeros may follow those of the pool. An array that is not split is whole on every device.
        """
        ...

    def constants(self) -> tuple[str, ...]:
        """Names of fields that no update changes and that the predictor's spec tells apart: not in checkpoints."""
        ...

    def metrics(self) -> dict[str, Array]:
        """Numbers to log, by name."""
        ...

    def embedded(self) -> Embedded | None:
        """Where the prompts lie; None: the state has no embeddings. See `embedded_in`."""
        ...


def said_by(state: State, name: str, default: Any) -> Any:
    """What the state's method of that name returns; without such a method, the default."""
    method = getattr(state, name, None)
    return method() if callable(method) else default


def embedded_in(state: State) -> Embedded | None:
    """What the method `embedded` returns; without it, the state's own `embeddings` and `latest`, if it has both."""
    if callable(getattr(state, "embedded", None)):
        return state.embedded()
    if getattr(state, "embeddings", None) is None or not callable(getattr(state, "latest", None)):
        return None
    return Embedded(state.embeddings, state.latest)


class Selection(NamedTuple):
    """The chosen prompts, best score first.

    Attributes:
        prompt_ids: distinct rows of the pool.
        scores: their acquisition values.
        prediction: what was predicted of them at selection time.
    """

    prompt_ids: Int[Array, " b"]
    scores: Float[Array, " b"]
    prediction: Prediction


class InitFn(Protocol):
    """Makes the state of a pool that nothing is known of."""

    def __call__(self, key: Key[Array, ""], num_prompts: int) -> State: ...


class PredictFn(Protocol):
    """Predicts the prompts asked for; None: the whole pool, in the order of its rows.

    What is random depends on the key and on the prompt's id: with the same key a prompt has the same draw, whoever
    else is asked for. On one shard of a pool, row 0 of `state` is the prompt `first_id`, and `prompt_ids` are its rows.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        state: State,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction: ...


class UpdateFn(Protocol):
    """One step of the belief: takes in what was observed and ages what was not, where the method says so."""

    def __call__(self, key: Key[Array, ""], state: State, rollouts: Rollouts) -> State: ...


class SelectFn(Protocol):
    """Chooses `batch_size` distinct prompts among distinct `candidates`; None: among the whole pool.

    `make_selector` gives it two further arguments. `excluded`, a mask of the pool, bans prompts. `count` is
    traced: at most `batch_size`, so many are chosen, and -1 fills up the ids. Batches of many sizes then share a
    compilation. A selector without these arguments is compiled anew for every size.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
    ) -> Selection: ...


class Predictor(NamedTuple):
    """Predicts success rates. The functions are pure; keys are consumed once; `jit` belongs to the caller.

    Attributes:
        spec: JSON-able. `name` is its constructor; the other entries are the constructor's arguments, by keyword. An
            array as long as the pool stands there as a fingerprint.
        init: see `InitFn`.
        predict: see `PredictFn`.
        update: see `UpdateFn`.
    """

    spec: dict[str, Any]
    init: InitFn
    predict: PredictFn
    update: UpdateFn


class Acquisition(NamedTuple):
    """Scores predictions: the higher, the more worth rolling out.

    Attributes:
        spec: JSON-able. `name` is its constructor; the other entries are the constructor's arguments, by keyword.
        score: `Prediction -> scores`.
    """

    spec: dict[str, Any]
    score: Callable[[Prediction], Float[Array, " m"]]


ChooseFn = Callable[..., Int[Array, " b"]]
"""`(key, scores, batch_size, prompt_ids, state) -> positions`, see `Rule`."""


class Rule(NamedTuple):
    """Chooses by scores.

    Attributes:
        spec: JSON-able. `name` is its constructor; the other entries are the constructor's arguments, by keyword.
        choose: `(key, scores, batch_size, prompt_ids, state) -> positions` in the scores, distinct, ascending; no ids:
            the positions are the ids. What is random depends on the key and on the prompt's id; ids below 0 are no
            prompts, and come after all others. Chosen again among what was chosen of each part of a pool, the prompts
            are those chosen of the whole. The state is the predictor's; None: a rule that looks at it cannot choose.
        shortlist: `batch_size -> m`: only the m best scores count, and parts of a pool send those to be chosen among,
            in place of their own choice. None: there is no such limit.
    """

    spec: dict[str, Any]
    choose: ChooseFn
    shortlist: Callable[[int], int] | None = None


class Selector(NamedTuple):
    """Chooses prompts: a predictor, an acquisition and a rule, composed by `make_selector`.

    Attributes:
        spec: JSON-able: `method`, a name, and the specs of its `predictor`, `acquisition` and `rule`. Logs hold it, and
            checkpoints refuse another method by it.
        init: see `InitFn`.
        predict: see `PredictFn`.
        select: see `SelectFn`.
        update: see `UpdateFn`.
        acquisition: what `select` scores predictions with; None: it is no composition, and cannot be sharded.
        rule: what `select` chooses by; likewise.
    """

    spec: dict[str, Any]
    init: InitFn
    predict: PredictFn
    select: SelectFn
    update: UpdateFn
    acquisition: Acquisition | None = None
    rule: Rule | None = None
