"""Tests of the adapters for slime, prime-rl and the Tinker cookbook, on stubs of these trainers' loops."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import jaxsel
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.protocols import ROW, PrimeSampler, SlimeSource, TinkerDataset

pytestmark = pytest.mark.slow

N, K, G = 12, 4, 4


def edge(**options):
    return TrainerEdge(jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0, track_in_flight=True), **options)


def rewards_of(row):
    return [float(at < row % (G + 1)) for at in range(G)]


def expected(steps):
    """Return what a `PromptSelector` alone chooses in these steps."""
    selector, chosen = jaxsel.PromptSelector(jaxsel.mopps(), num_prompts=N, seed=0), []
    for _ in range(steps):
        chosen.append(selector.select(K).tolist())
        selector.observe(chosen[-1], [int(sum(rewards_of(row))) for row in chosen[-1]], G)
    return chosen


class Slime:
    """A stub of slime's loop: it gets groups of samples, sets their rewards, and has all groups observed."""

    def __init__(self, folder):
        samples: list[Any] = [
            SimpleNamespace(prompt=f"{row}=", metadata={"own": row}, reward=None, index=None, group_index=None)
            for row in range(N)
        ]
        self.source = SlimeSource(samples, edge(), group_size=G, folder=folder)

    def step(self):
        groups = self.source.get_samples(K)
        for group in groups:
            for sample, reward in zip(group, rewards_of(group[0].metadata[ROW]), strict=True):
                sample.reward = {"accuracy": reward, "style": 1.0}
        self.source.observe(groups, "accuracy")
        return [group[0].metadata[ROW] for group in groups]


class Prime:
    """A stub of prime-rl's loop: it takes tasks one by one, and has each finished group observed."""

    def __init__(self, folder):
        self.sampler = PrimeSampler(
            range(N), edge(draw_size=K), lambda group: (group[0].task, [r.reward for r in group])
        )

    def step(self):
        tasks = [next(self.sampler) for _ in range(K)]
        self.sampler.edge.selector.wait()
        for task in tasks:  # one call, thus one step, per group: only the first batch equals `expected`
            self.sampler.observe([SimpleNamespace(task=task, reward=reward) for reward in rewards_of(task)])
        return tasks


class TinkerBuilder:
    logging_tags = "sums"

    def __init__(self, row):
        self.row = row

    async def make_envs(self):
        return ["env"] * G

    async def compute_group_rewards(self, trajectory_group):
        return [(reward - 0.25, {}) for reward in rewards_of(self.row)]


class Tinker:
    """A stub of the cookbook's loop: it gets a batch of builders, and asks each for the rewards of its group."""

    def __init__(self, folder):
        self.dataset, self.steps = (
            TinkerDataset([TinkerBuilder(i) for i in range(N)], edge(), batch_size=K, num_batches=3),
            0,
        )

    def step(self):
        batch = self.dataset.get_batch(self.steps)
        self.steps += 1
        trajectories = [SimpleNamespace(transitions=[SimpleNamespace(reward=0.25)]) for _ in range(G)]
        for builder in batch:
            assert asyncio.run(builder.make_envs()) == ["env"] * G
            asyncio.run(builder.compute_group_rewards(trajectories))
            assert builder.logging_tags == "sums"
        return [builder.row for builder in batch]


@pytest.mark.parametrize("trainer", [Slime, Tinker])
def test_the_choices_are_those_of_a_plain_selector(trainer, tmp_path):
    run = trainer(tmp_path)
    assert [run.step() for _ in range(3)] == expected(3)


def test_tasks_of_prime_rl_are_selected_and_observed(tmp_path):
    run = Prime(tmp_path)
    chosen = [run.step() for _ in range(3)]
    assert chosen[0] == expected(1)[0]
    assert [len(set(rows)) for rows in chosen] == [K] * 3
    assert run.sampler.metrics()["observes"] == 3 * K
    assert run.sampler.metrics()["in_flight"] == 0


def test_a_resumed_slime_source_continues_the_choices(tmp_path):
    run = Slime(tmp_path)
    run.step()
    run.source.save(7)
    again = Slime(tmp_path)
    again.source.load(-1)
    again.source.load(7)
    assert [again.step() for _ in range(2)] == expected(3)[1:]
    assert again.source.get_samples(1)[0][0].group_index == 3 * K  # no number twice in one run
    with pytest.raises(ValueError, match=r"selector_8.npz does not exist"):
        again.source.load(8)


def test_a_resumed_sampler_of_prime_rl_continues_the_choices(tmp_path):
    run, again = Prime(tmp_path), Prime(tmp_path)
    run.step()
    again.sampler.load_state_dict(run.sampler.state_dict())
    assert again.step() == run.step()


def test_groups_that_slime_gives_back_are_handed_out_first(tmp_path):
    source = Slime(tmp_path).source
    first = source.get_samples(3)
    source.add_samples(first[1:])
    assert source.get_samples(2) == first[1:]
    assert len(source) == N
    indices = [sample.index for group in first + source.get_samples(2) for sample in group]
    assert indices == list(range(5 * G))
    assert first[0][0].metadata["own"] == first[0][0].metadata[ROW]


def test_groups_that_slime_gave_back_stay_where_too_few_prompts_are_free(tmp_path):
    source = Slime(tmp_path).source
    groups = source.get_samples(N)
    source.add_samples(groups[:2])
    with pytest.raises(ValueError, match="prompts to choose from"):
        source.get_samples(3)
    assert source.get_samples(2) == groups[:2]


def test_an_unknown_reward_of_slime_is_refused(tmp_path):
    source = Slime(tmp_path).source
    (group,) = source.get_samples(1)
    for sample in group:
        sample.reward = {"accuracy": 1.0, "style": 0.0}
    for key in (None, "acc"):
        with pytest.raises(ValueError, match=f"key is {key!r}, but the rewards are named 'accuracy', 'style'"):
            source.observe([group], key)
    assert source.edge.handed_out.tolist() == [group[0].metadata[ROW]]


def test_a_sample_without_a_reward_is_not_a_failure(tmp_path):
    source = Slime(tmp_path).source
    groups = source.get_samples(2)
    groups[0][0].reward = 1.0  # the three others have no reward
    source.observe(groups)
    assert source.edge.selector.visits.sum() == 1
    assert source.edge.metrics()["selector/judged_share"] == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: SlimeSource([], edge(), group_size=G, folder="."),
            "samples has 0 entries and the selector 12 prompts",
        ),
        (lambda: SlimeSource([], edge(), group_size=0, folder="."), "group_size is 0"),
        (lambda: PrimeSampler([1], edge(), lambda group: (0, [])), "tasks has 1 entries"),
        (lambda: TinkerDataset([], edge(), batch_size=K, num_batches=1), "builders has 0 entries"),
        (lambda: TinkerDataset([], edge(), batch_size=K, num_batches=0), "num_batches is 0"),
    ],
)
def test_wrong_arguments_are_refused(unchecked_types, build, message):
    with pytest.raises(ValueError, match=message):
        build()
