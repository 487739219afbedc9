from functools import partial

import numpy as np
import pytest
import torch

import jaxsel
from rl.curriculum import DynamicSampling, HistoryResampling, Selected
from rl.groups import Groups, join
from rl.rollout import Completions

N, B, GROUP = 40, 8, 4
# Shared by the tests, because a method keeps its compiled functions.
MOPPS, DPS, UNIFORM = jaxsel.mopps(), jaxsel.dps(), jaxsel.uniform()


class FakeRollouts:
    """A rollout function that records its batches.

    Prompt i is never solved if i % 4 == 0, always if i % 4 == 1, and otherwise in half of its rollouts.
    """

    def __init__(self):
        self.batches = []

    def __call__(self, prompt_ids):
        self.batches.append(np.array(prompt_ids))
        successes = np.select([prompt_ids % 4 == 0, prompt_ids % 4 == 1], [0, GROUP], GROUP // 2).astype(np.int32)
        rows = len(prompt_ids) * GROUP
        rewards = (torch.arange(GROUP)[None] < torch.as_tensor(successes)[:, None]).float()
        marks = torch.as_tensor(np.repeat(prompt_ids, GROUP), dtype=torch.int64)[:, None]
        prompts = torch.ones(len(prompt_ids), 2, dtype=torch.int64)
        ones = torch.ones(rows, 1)
        completions = Completions(prompts, prompts, marks, ones.bool(), ones, ["x"] * rows)
        return Groups(prompt_ids, completions, rewards, successes, np.full(len(prompt_ids), GROUP, np.int32))

    @property
    def num_rollouts(self):
        return GROUP * sum(map(len, self.batches))


def selector(method=UNIFORM, ratio: int | None = 1):
    return jaxsel.PromptSelector(method, num_prompts=N, seed=0, candidate_ratio=ratio)


@pytest.fixture
def roll_out():
    return FakeRollouts()


def test_selected_trains_on_its_selection(roll_out):
    curriculum = Selected(chooser := selector(), B)
    collected = curriculum.collect(roll_out)
    assert collected.groups.prompt_ids.tolist() == roll_out.batches[0].tolist()
    assert collected.num_rollouts == B * GROUP
    assert chooser.visits.sum() == B


def test_uniform_goes_through_the_pool_once_an_epoch(roll_out):
    curriculum = Selected(chooser := selector(), B)
    for _ in range(N // B):
        curriculum.collect(roll_out)
    assert (chooser.visits == 1).all()


@pytest.mark.parametrize("keep_surplus", [False, True])
def test_dynamic_sampling_fills_the_batch_with_mixed_groups(roll_out, keep_surplus):
    curriculum = DynamicSampling(chooser := selector(), B, keep_surplus=keep_surplus)
    counted = 0
    for _ in range(6):
        before = roll_out.num_rollouts
        collected = curriculum.collect(roll_out)
        counted += collected.num_rollouts
        assert roll_out.num_rollouts - before == collected.num_rollouts
        assert collected.groups.mixed.all()
        assert len(collected.groups.prompt_ids) == B
        # the first token of each completion is the number of its prompt, so tokens have stayed with their prompt
        ids = np.repeat(collected.groups.prompt_ids, GROUP)
        assert collected.groups.completions.tokens[:, 0].tolist() == ids.tolist()
    assert counted == roll_out.num_rollouts
    # the selector observed all generated groups, also those that the filter then dropped
    assert chooser.visits.sum() * GROUP == counted


def test_groups_from_a_checkpoint_go_to_the_device_of_new_ones(roll_out):
    kept = roll_out(np.arange(B))
    new = kept._replace(completions=kept.completions.to(torch.device("meta")))
    completions = join([kept, new]).completions
    assert {column.device.type for column in completions[:5]} == {"meta"}
    assert len(completions.tokens) == 2 * len(kept.completions.tokens)


def test_kept_surplus_saves_rollouts(roll_out):
    other = FakeRollouts()
    dropping, keeping = DynamicSampling(selector(), B), DynamicSampling(selector(), B, keep_surplus=True)
    for _ in range(10):
        dropping.collect(roll_out)
        keeping.collect(other)
    assert other.num_rollouts < roll_out.num_rollouts


def test_a_margin_keeps_balanced_groups_only(roll_out):
    def unbalanced(prompt_ids):
        groups = roll_out(prompt_ids)
        return groups._replace(successes=np.where(prompt_ids % 4 == 2, 1, groups.successes).astype(np.int32))

    for margin, kept in ((0.0, {2, 3}), (0.25, {2, 3}), (0.26, {3}), (0.5, {3})):
        collected = DynamicSampling(selector(), B, margin=margin).collect(unbalanced)
        assert set((collected.groups.prompt_ids % 4).tolist()) == kept
    with pytest.raises(ValueError, match=r"margin is 0\.6; give a number from 0 to 0.5"):
        DynamicSampling(selector(), B, margin=0.6)


def test_a_selector_that_predicts_needs_fewer_rollouts_for_mixed_groups():
    rollouts = []
    for method in (UNIFORM, jaxsel.mopps(acquisition=jaxsel.mixed_probability())):
        fake, curriculum = FakeRollouts(), DynamicSampling(selector(method, None), B)
        for _ in range(20):
            assert curriculum.collect(fake).groups.mixed.all()
        rollouts.append(fake.num_rollouts)
    assert rollouts[1] < 0.8 * rollouts[0]


@pytest.mark.parametrize("method", [UNIFORM, DPS, MOPPS], ids=["uniform", "dps", "mopps"])
@pytest.mark.parametrize("ratio", [None, 1])
def test_a_step_rolls_out_a_prompt_again_only_when_too_few_others_are_left(method, ratio):
    fake = FakeRollouts()
    curriculum = DynamicSampling(selector(method, ratio), B, margin=0.5, max_batches=2 * N // B)
    for _ in range(4):
        fake.batches.clear()
        curriculum.prepare()
        collected = curriculum.collect(fake)
        assert len(np.unique(collected.groups.prompt_ids)) == B
        assert len(np.unique(np.concatenate(fake.batches))) == B * len(fake.batches)

    def hopeless(prompt_ids):
        groups = fake(prompt_ids)
        return groups._replace(successes=np.zeros_like(groups.successes))

    fake.batches.clear()
    curriculum.collect(hopeless)
    for half in np.split(np.array(fake.batches), 2):  # every prompt of the pool once, and then once more
        assert sorted(half.ravel()) == list(range(N))


def test_dynamic_sampling_stops_at_the_cap_with_a_partial_batch(roll_out):
    collected = DynamicSampling(selector(), B, max_batches=1).collect(roll_out)
    assert len(roll_out.batches) == 1
    assert 0 < len(collected.groups.prompt_ids) < B
    assert collected.groups.mixed.all()


def test_dynamic_sampling_without_any_mixed_group(roll_out):
    def hopeless(prompt_ids):
        groups = roll_out(prompt_ids)
        return groups._replace(successes=np.zeros_like(groups.successes), rewards=torch.zeros(B, GROUP))

    collected = DynamicSampling(selector(), B, max_batches=3).collect(hopeless)
    assert collected.num_rollouts == 3 * B * GROUP
    assert not collected.groups.mixed.any()
    assert collected.mixed_share == 0


def test_a_cap_below_one_is_refused():
    with pytest.raises(ValueError, match="max_batches is 0"):
        DynamicSampling(selector(), B, max_batches=0)


def test_history_resampling_drops_prompts_solved_in_the_previous_epoch(roll_out):
    curriculum = HistoryResampling(selector(), B, seed=0)
    for _ in range(N // B):
        curriculum.collect(roll_out)
    first = np.concatenate(roll_out.batches)
    assert sorted(first) == list(range(N))
    for _ in range(3):
        curriculum.collect(roll_out)
    second = np.concatenate(roll_out.batches[N // B :])
    assert (second % 4 != 1).all()
    assert len(np.unique(second)) == len(second)


def test_history_resampling_starts_over_when_everything_is_solved(roll_out):
    def easy(prompt_ids):
        groups = roll_out(prompt_ids)
        return groups._replace(successes=np.full(len(prompt_ids), GROUP, np.int32))

    curriculum = HistoryResampling(selector(), B, seed=0)
    for _ in range(3 * N // B):
        assert len(curriculum.collect(easy).groups.prompt_ids) == B


CURRICULA = [
    lambda: Selected(selector(), B),
    lambda: Selected(selector(MOPPS, 2), B),
    lambda: Selected(selector(DPS, None), B),
    lambda: DynamicSampling(selector(), B, keep_surplus=True),
    lambda: HistoryResampling(selector(), B, seed=3),
]


@pytest.mark.parametrize("make", CURRICULA)
def test_state_dict_continues_identically(make):
    whole, first, second = make(), make(), make()
    one, two = FakeRollouts(), FakeRollouts()
    for _ in range(12):
        whole.collect(one)
    for _ in range(7):
        first.collect(two)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        second.collect(two)
    np.testing.assert_array_equal(np.concatenate(one.batches), np.concatenate(two.batches))


@pytest.mark.parametrize("make", CURRICULA)
def test_preparing_changes_no_choice(make):
    ahead, plain, one, two = make(), make(), FakeRollouts(), FakeRollouts()
    for _ in range(8):
        ahead.prepare()
        ahead.collect(one)
        plain.collect(two)
    np.testing.assert_equal(one.batches, two.batches)


def test_the_prepared_choice_is_the_first_of_the_next_step(roll_out):
    for curriculum in (Selected(selector(MOPPS, None), B), DynamicSampling(selector(), B)):
        curriculum.prepare()
        assert isinstance(curriculum.selector, jaxsel.PromptSelector)
        assert curriculum.selector._prepared is not None
        expected = curriculum.selector._prepared.selection.prompt_ids.tolist()
        roll_out.batches.clear()
        curriculum.collect(roll_out)
        assert roll_out.batches[0].tolist() == expected


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_size_out_of_range_is_refused(batch_size):
    selector = jaxsel.PromptSelector(UNIFORM, num_prompts=8)
    for make in (Selected, DynamicSampling, partial(HistoryResampling, seed=0)):
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}; give an integer of at least 1"):
            make(selector, batch_size)
