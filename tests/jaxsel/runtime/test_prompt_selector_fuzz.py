"""Random sequences of all calls of a PromptSelector, compared with slow reference models."""

import contextlib
import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import jaxsel
from jaxsel import PromptSelector
from tests.support.reference import DpsModel, MoppsModel

N = 12
ROWS = st.integers(0, N - 1)
GROUPS = st.integers(0, 8).flatmap(lambda n: st.tuples(ROWS, st.integers(0, n), st.just(n)))
INVALID = [
    lambda s: s.observe([N], [0], 8),
    lambda s: s.observe([0, -1], [0, 0], 8),
    lambda s: s.observe([0], [9], 8),
    lambda s: s.observe([0, 1], [0], 8),
    lambda s: s.observe([0.5], [0], 8),
    lambda s: s.observe([0], [float("nan")], 8),
    lambda s: s.observe([[0]], [[0]], 8),
    lambda s: s.observe(["0"], [0], 8),
    lambda s: s.observe([0], [None], 8),
    lambda s: s.select(0),
    lambda s: s.select(N + 1),
    lambda s: s.select(2, [1]),
    lambda s: s.select(1, [1, 1]),
    lambda s: s.predict([N]),
    lambda s: s.load_state_dict({}),
    lambda s: s.load_state_dict(PromptSelector(jaxsel.uniform(), num_prompts=N).state_dict()),
    lambda s: s.load_state_dict(PromptSelector(jaxsel.mopps(decay=0.11), num_prompts=N + 1).state_dict()),
    lambda s: PromptSelector.load("/nowhere", jaxsel.mopps(), num_prompts=N),
]


@contextlib.contextmanager
def without_type_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def same(first: Any, second: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


class Walk(RuleBasedStateMachine):
    """In any order of calls, the posterior equals the reference model's, and no call changes another call's results."""

    method: jaxsel.Selector
    model_type: Any

    @initialize(seed=st.integers(0, 2**32 - 1), candidate_ratio=st.sampled_from([None, 2]))
    def start(self, seed, candidate_ratio):
        self.folder = Path(tempfile.mkdtemp())
        self.arguments = {"num_prompts": N, "candidate_ratio": candidate_ratio}
        self.selector = PromptSelector(self.method, seed=seed, **self.arguments)
        self.model = self.model_type(N)
        self.saved = None
        self.snapshots = []

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    @rule(groups=st.lists(GROUPS, max_size=8))
    def observe(self, groups):
        columns = [[group[i] for group in groups] for i in range(3)]
        self.selector.observe(*columns)
        self.model.observe(*columns)

    @rule(batch_size=st.sampled_from([1, 4, N]))
    def select(self, batch_size):
        ids = self.selector.select(batch_size).tolist()
        assert len(set(ids)) == batch_size
        assert set(ids) <= set(range(N))

    @rule(candidates=st.lists(ROWS, unique=True, min_size=4, max_size=4))
    def select_among(self, candidates):
        assert set(self.selector.select(2, candidates).tolist()) <= set(candidates)

    @rule(ids=st.lists(ROWS, max_size=8))
    def look(self, ids):
        whole, some = self.selector.predict(), self.selector.predict(ids)
        np.testing.assert_allclose(some.mixed, whole.mixed[ids], rtol=1e-5)
        assert all(np.isfinite(value) for value in self.selector.metrics().values())

    @rule(call=st.sampled_from(INVALID))
    def do_wrong(self, call):
        before = self.selector.state_dict()
        with without_type_checks(), pytest.raises(ValueError):  # noqa: PT011  (other tests check the messages)
            call(self.selector)
        assert same(before, self.selector.state_dict())

    @rule()
    def take_state(self):
        state = self.selector.state_dict()
        self.snapshots.append((state, copy.deepcopy(state), copy.deepcopy(self.model)))

    @rule(data=st.data())
    def return_to_state(self, data):
        if self.snapshots:
            state, _, model = data.draw(st.sampled_from(self.snapshots))
            self.selector.load_state_dict(state)
            self.model = copy.deepcopy(model)
            assert same(self.selector.state_dict(), state)

    @rule()
    def save(self):
        self.selector.save(self.folder)
        self.saved = (self.selector.state_dict(), copy.deepcopy(self.model))

    @rule()
    def load(self):
        if self.saved is not None:
            state, model = self.saved
            self.selector = PromptSelector.load(self.folder, self.method, **self.arguments)
            self.model = copy.deepcopy(model)
            assert same(self.selector.state_dict(), state)

    @rule()
    def go_on_in_another_selector(self):
        other = PromptSelector(self.method, **self.arguments)
        other.load_state_dict(self.selector.state_dict())
        assert self.selector.select(4).tolist() == other.select(4).tolist()
        self.selector = other

    @invariant()
    def posterior_is_the_models(self):
        if hasattr(self, "selector"):
            ours = self.selector.predict().success_rate
            np.testing.assert_allclose(ours, self.model.success_rate(), atol=1e-4)

    @invariant()
    def snapshots_stay_as_they_were(self):
        for state, copied, _ in getattr(self, "snapshots", []):
            assert same(state, copied)


class MoppsWalk(Walk):
    method, model_type = jaxsel.mopps(), MoppsModel


class DpsWalk(Walk):
    method, model_type = jaxsel.dps(), DpsModel


@pytest.mark.slow
@pytest.mark.parametrize("walk", [MoppsWalk, DpsWalk])
def test_random_walks(walk):
    run_state_machine_as_test(walk, settings=hypothesis.settings(max_examples=10, stateful_step_count=20))
