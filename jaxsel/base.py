"""The interfaces between the parts of jaxsel: three kinds of data, and tuples of pure functions that exchange them.

A `Predictor` turns observed `Rollouts` into a state and the state into a `Prediction`. An `Acquisition` turns a
prediction into one score per prompt. A `Rule` turns scores into a batch. `make_selector` composes the three into a
`Selector`, which returns a `Selection`.

As in optax, predictors, acquisitions, rules and selectors are NamedTuples of functions. All memory is in an explicit
state, a pytree of arrays. The functions neither change their arguments nor compile themselves: `jit`, `vmap` and
donation belong to the caller. Letters: p is the probability that the policy solves a prompt; a group is n rollouts of
one prompt, s of them correct.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float, Int, Key

State = Any
"""A pytree of arrays. It can be jitted, donated, scanned over, sharded and saved.

It may have any of the methods of `StateMethods`.
"""

Scalar = float | Float[Array, ""]
"""A number, or a scalar that JAX traces, for example to take a gradient with respect to it."""

UNSOLVED, MIXED, SOLVED = 0, 1, 2
"""The solve state of a prompt in one group of n rollouts: s = 0, 0 < s < n, s = n."""


class Rollouts(NamedTuple):
    """The rollouts that one training step observed, one row per group.

    Attributes:
        prompt_ids: Rows of the pool. Repeated ids are one visit with summed counts. Ids outside the pool are ignored,
            so that they can pad a batch to a fixed length.
        successes: s, the number of correct rollouts.
        group_size: n, the number of rollouts that got a reward, with 0 <= s <= n. A row with n = 0 is ignored.
    """

    prompt_ids: Int[Array, " b"]
    successes: Int[Array, " b"]
    group_size: Int[Array, " b"]


class Prediction(NamedTuple):
    """What a predictor expects of m prompts before their rollouts.

    Under `jit`, a field that the caller does not use costs nothing.

    Attributes:
        success_rate: The posterior mean of p.
        variance: The posterior variance of p.
        draw: One posterior sample of p, for Thompson sampling.
        unsolved: P(s = 0) for a group of n rollouts.
        mixed: P(0 < s < n).
        solved: P(s = n). The three probabilities sum to 1.
    """

    success_rate: Float[Array, " m"]
    variance: Float[Array, " m"]
    draw: Float[Array, " m"]
    unsolved: Float[Array, " m"]
    mixed: Float[Array, " m"]
    solved: Float[Array, " m"]


class Embedded(NamedTuple):
    """The embeddings of the pool and the latest batches, for rules that measure distances between prompts.

    Attributes:
        embeddings: One row per prompt of the pool.
        latest: `count -> batches`. Returns the last `count` batches as `Rollouts` with the shape `[count, c]`, c
            entries per batch, or all stored batches if there are fewer. An entry with a group size of 0 is padding.
            None: the state does not store batches.
    """

    embeddings: Float[Array, "N d"]
    latest: Callable[[int], Rollouts] | None


class StateMethods(Protocol):
    """The methods that a state may have. Every method is optional.

    Call them through `call_optional`. Do not test for them with `isinstance`: in some versions of Python, the test
    evaluates properties.
    """

    def partition_specs(self) -> State:
        """Return the state with a `PartitionSpec` in place of each array. The axis of the prompts is named `prompts`.

        On a mesh, zeros may pad this axis. An array without this axis is copied to every device. A state without this
        method cannot be sharded.
        """
        ...

    def constants(self) -> tuple[str, ...]:
        """Return the names of the fields that checkpoints leave out; `a.b` is the field b of the field a.

        The state must be a NamedTuple then. No update changes these fields, and the predictor's `spec` identifies their
        values.
        """
        ...

    def with_rows(self, rows: Int[np.ndarray, " N"], fresh: State) -> State:
        """Return the state for a changed pool. A state without this method keeps its pool.

        Prompt i of the new pool is prompt `rows[i]` of the old pool, or a new prompt where `rows[i]` is -1. `fresh` is
        the initial state of the new pool. It has the entries of new prompts and all constants.
        """
        ...

    def metrics(self) -> dict[str, Array]:
        """Return numbers to log, by name."""
        ...

    def embedded(self) -> Embedded | None:
        """Return the embeddings and the latest batches, or None if the state has no embeddings. See `embedded_in`."""
        ...


def call_optional(state: State, name: str, default: Any) -> Any:
    """Return the result of the state's method `name`, or `default` if the state has no such method."""
    method = getattr(state, name, None)
    return method() if callable(method) else default


def embedded_in(state: State) -> Embedded | None:
    """Return the embeddings and the latest batches of a state, or None if the state lacks embeddings.

    The state gives them by a method `embedded`, or by an array `embeddings` and possibly a method `latest`.
    """
    if callable(getattr(state, "embedded", None)):
        return state.embedded()
    if getattr(state, "embeddings", None) is None:
        return None
    return Embedded(state.embeddings, getattr(state, "latest", None))


class Selection(NamedTuple):
    """A chosen batch, best score first.

    Attributes:
        prompt_ids: Distinct rows of the pool.
        scores: The acquisition's scores of the chosen prompts.
        prediction: The prediction for the chosen prompts at the time of the selection.
    """

    prompt_ids: Int[Array, " b"]
    scores: Float[Array, " b"]
    prediction: Prediction


class InitFn(Protocol):
    """Returns the state of a pool without observations."""

    def __call__(self, key: Key[Array, ""], num_prompts: int) -> State: ...


class PredictFn(Protocol):
    """Predicts the prompts in `prompt_ids`, or the whole pool in the order of its rows if `prompt_ids` is None.

    Random numbers depend only on the key and on the prompt's id. With the same key a prompt gets the same draw,
    whichever other prompts are predicted with it. On a mesh, each device holds consecutive rows of the pool: row 0 of
    its `state` is the prompt `first_id`, and `prompt_ids` count from that row.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        state: State,
        prompt_ids: Int[Array, " m"] | None,
        first_id: Int[Array, ""] | int = 0,
    ) -> Prediction: ...


class UpdateFn(Protocol):
    """Returns the state after one training step.

    The update adds the observed rollouts. A method that forgets also discounts the older evidence.
    """

    def __call__(self, key: Key[Array, ""], state: State, rollouts: Rollouts) -> State: ...


class SelectFn(Protocol):
    """Chooses `batch_size` distinct prompts among the distinct `candidates`, or among the whole pool for None.

    The `select` of a selector made by `make_selector` takes two further arguments. `excluded`, a mask of the pool,
    marks prompts that must not be chosen. `count`, a traced integer of at most `batch_size`, is the number of prompts
    to choose. The result still has `batch_size` ids, and -1 fills the remaining ones. Batches of different sizes then
    share one compilation. A selector without `count` is compiled again for every batch size.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        state: State,
        batch_size: int,
        candidates: Int[Array, " c"] | None = None,
    ) -> Selection: ...


class Predictor(NamedTuple):
    """A model of success rates as pure functions. Each function consumes its key.

    Attributes:
        spec: JSON-compatible description. `name` is the constructor; the other entries are the constructor's keyword
            arguments. A fingerprint replaces an array that has one entry per prompt.
        init: `(key, num_prompts) -> state`, see `InitFn`.
        predict: `(key, state, prompt_ids) -> prediction`, see `PredictFn`.
        update: `(key, state, rollouts) -> state`, see `UpdateFn`.
        screen: Optional cheap approximation of `predict`, with the same arguments. `make_selector` can use it to find
            the prompts that are worth an exact prediction.
    """

    spec: dict[str, Any]
    init: InitFn
    predict: PredictFn
    update: UpdateFn
    screen: PredictFn | None = None


class Acquisition(NamedTuple):
    """A score for every prompt: the higher the score, the more the prompt is worth its rollouts.

    Attributes:
        spec: JSON-compatible description. `name` is the constructor; the other entries are the constructor's keyword
            arguments.
        score: `prediction -> scores`, one score per prompt.
        reads_draw: Whether `score` reads `draw`. The batch's prediction then keeps the draws of the choice.
    """

    spec: dict[str, Any]
    score: Callable[[Prediction], Float[Array, " m"]]
    reads_draw: bool = False


ChooseFn = Callable[..., Int[Array, " b"]]
"""`(key, scores, batch_size, prompt_ids, state) -> positions`, see `Rule`."""
EVERY_SCORE = 2**31 - 1
"""The value of `Rule.shortlist` for a rule that considers all prompts of a part of the pool."""


class Rule(NamedTuple):
    """A choice of a batch by scores.

    `choose` returns distinct positions in `scores`, in ascending order. It must obey three conditions:

    * Random numbers depend on the key and on the prompt's id.
    * Ids below 0 are padding. They are chosen after all other ids.
    * A pool can be split into parts. Choosing again among the choices from all parts gives the choice from the whole
      pool.

    Attributes:
        spec: JSON-compatible description. `name` is the constructor; the other entries are the constructor's keyword
            arguments.
        choose: `(key, scores, batch_size, prompt_ids, state) -> positions`. If `prompt_ids` is None, the positions are
            the ids. `state` is the predictor's state, or None for a rule that does not need it. A rule may also take
            `count`, a traced number of positions to choose. The length of `scores` then pads the result.
        shortlist: `batch_size -> m`, for rules in which only the m best scores count. Each part of a split pool then
            passes on its m best prompts instead of its own choice. None means that all scores count. The value
            `EVERY_SCORE` means that each part passes on all of its prompts.
        num_prompts: Size of the pool that the rule is made for. None means that it fits every pool.
    """

    spec: dict[str, Any]
    choose: ChooseFn
    shortlist: Callable[[int], int] | None = None
    num_prompts: int | None = None


class Selector(NamedTuple):
    """A method of prompt selection as pure functions. Each function consumes its key.

    `make_selector` composes a selector from a predictor, an acquisition and a rule.

    Attributes:
        spec: JSON-compatible description: `method`, a name, and the specs of the `predictor`, the `acquisition` and
            the `rule`. Logs contain it, and a checkpoint refuses to load into a selector with another spec.
        init: `(key, num_prompts) -> state`, see `InitFn`.
        predict: `(key, state, prompt_ids) -> prediction`, see `PredictFn`.
        select: `(key, state, batch_size, candidates) -> selection`, see `SelectFn`.
        update: `(key, state, rollouts) -> state`, see `UpdateFn`.
        acquisition: The acquisition that `select` uses. None means that the selector is not a composition of
            `make_selector`. Such a selector cannot be sharded, unless it has `transforms`.
        rule: The rule that `select` uses, which another rule can replace. None: the selector has no such rule.
        transforms: For a selector made from another, such as `exploring(...)`: the inner selector, and the function
            from the inner selector to this one. `shard` shards the inner selector and applies the function again.
    """

    spec: dict[str, Any]
    init: InitFn
    predict: PredictFn
    select: SelectFn
    update: UpdateFn
    acquisition: Acquisition | None = None
    rule: Rule | None = None
    transforms: "tuple[Selector, Callable[[Selector], Selector]] | None" = None
