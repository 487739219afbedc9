"""Tests of the adapters for slime, prime-rl and the Tinker cookbook, on stubs of these trainers' loops."""

import asyncio
import copy
import functools
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

import jaxsel
from jaxsel.integrations.edge import TrainerEdge
from jaxsel.integrations.prime_rl import PrimeSampler
from jaxsel.integrations.slime import ROW, SlimeSource, observe_samples
from jaxsel.integrations.tinker import TinkerDataset

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
    """A stub of slime's `generate_rollout`: its loop has the bound method `get_samples`, and passes it on."""

    def __init__(self, folder, key="accuracy"):
        samples: list[Any] = [
            SimpleNamespace(prompt=f"{row}=", metadata={"own": row}, reward=None, index=None, group_index=None)
            for row in range(N)
        ]
        self.args = SimpleNamespace(reward_key=key)
        self.source = SlimeSource(samples, edge(), group_size=G, folder=folder)

    def step(self):
        data_source = self.source.get_samples
        groups = data_source(K)
        for group in groups:
            for sample, reward in zip(group, rewards_of(group[0].metadata[ROW]), strict=True):
                sample.reward = {"accuracy": reward, "style": 1.0}
        observe_samples(self.args, sorted(groups, key=lambda group: group[0].index), data_source)
        return [group[0].metadata[ROW] for group in groups]


def trace(reward, *, has_error=False, trainable=True, num_turns=1):
    """Return a stub of a `Trace`, whose total reward has a bonus for its format."""
    rewards = {"correct": SimpleNamespace(score=reward, weight=2.0), "format": SimpleNamespace(score=1.0, weight=0.1)}
    total = sum(one.score * one.weight for one in rewards.values())
    about = {"agent": SimpleNamespace(trainable=trainable), "has_error": has_error, "num_turns": num_turns}
    return SimpleNamespace(reward=total, rewards=rewards, **about)


def episodes(key, traces, *, ok=True):
    """Return stubs of the `Episode`s of one group, one per trace."""
    return [SimpleNamespace(task=SimpleNamespace(key=key), traces=[one], ok=ok) for one in traces]


class Prime:
    """A stub of prime-rl's `TrainSource`: it takes tasks one by one, and reports each finished group."""

    def __init__(self, folder, **options):
        tasks = [SimpleNamespace(key=f"task {row}") for row in range(N)]
        self.sampler = PrimeSampler(tasks, edge(draw_size=K), **{"success": "correct"} | options)

    def step(self):
        keys = [next(self.sampler).key for _ in range(K)]
        self.sampler.edge.selector.wait()
        rows = [int(key.split()[1]) for key in keys]
        for key, row in zip(keys, rows, strict=True):
            # one call, thus one step, per group: only the first batch equals `expected`
            self.sampler.observe(episodes(key, map(trace, rewards_of(row))))
        return rows


class TinkerBuilder:
    logging_tags = "sums"

    def __init__(self, row):
        self.row = row

    async def make_envs(self):
        return [f"env {at}" for at in range(G)]

    async def compute_group_rewards(self, trajectory_group, env_group):
        assert env_group == await self.make_envs()
        return [(0.5, {}) for _ in trajectory_group]


async def do_group_rollout(builder):
    """Do what the cookbook's function of this name does with a builder."""
    envs = await builder.make_envs()
    trajectories = [
        SimpleNamespace(transitions=[SimpleNamespace(reward=reward - 0.25, metrics={"correct": reward, "format": 1.0})])
        for reward in rewards_of(builder.row)
    ]
    return await builder.compute_group_rewards(trajectories, envs)


class Tinker:
    """A stub of the cookbook's loop: it gets a batch of builders, and rolls out the group of each."""

    def __init__(self, folder, **options):
        builders: list[Any] = [TinkerBuilder(row) for row in range(N)]
        self.dataset, self.steps = TinkerDataset(builders, edge(), batch_size=K, num_batches=3, **options), 0

    def step(self):
        batch = self.dataset.get_batch(self.steps)
        self.steps += 1
        for builder in batch:
            assert asyncio.run(do_group_rollout(builder)) == [(0.5, {})] * G
            assert builder.logging_tags == "sums"
        return [builder.row for builder in batch]


@pytest.mark.parametrize("trainer", [Slime, Tinker, functools.partial(Tinker, success="correct")])
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


def test_groups_that_slime_gave_back_stay_where_the_pool_is_too_small(tmp_path):
    source = Slime(tmp_path).source
    groups = source.get_samples(N)
    source.add_samples(groups[:2])
    with pytest.raises(ValueError, match="prompts to choose from"):
        source.get_samples(N + 1)
    assert len(source.edge.handed_out) == N
    assert source.get_samples(2) == groups[:2]


@pytest.mark.parametrize(
    ("trainer", "ask"),
    [
        (Slime, lambda run: [group[0].metadata[ROW] for group in run.source.get_samples(K)]),
        (Prime, lambda run: [int(next(run.sampler).key.split()[1]) for _ in range(K)]),
        (Tinker, lambda run: [builder.row for builder in run.dataset.get_batch(0)]),
    ],
)
def test_prompts_whose_rollouts_are_lost_do_not_use_up_the_pool(tmp_path, trainer, ask):
    run = trainer(tmp_path)
    batches = [set(ask(run)) for _ in range(2 * N // K)]
    assert set.union(*batches[: N // K]) == set(range(N))
    assert batches[N // K :] == batches[: N // K]  # those lost first come first


@pytest.mark.parametrize("sizes", [[8], [2, 6], [2, 3, 3]])
def test_a_prompt_that_slime_gave_back_is_not_chosen_again(tmp_path, sizes):
    source = Slime(tmp_path).source
    groups = [group for size in sizes for group in source.get_samples(size)]
    source.add_samples(groups[:2])  # the six others are lost
    again = source.get_samples(N)
    assert again[:2] == groups[:2]
    assert sorted(group[0].metadata[ROW] for group in again) == list(range(N))


def test_prompts_that_are_lost_longest_are_free_first(tmp_path):
    """slime gives the oldest groups back, and later ones are lost: the newest of them stay in flight."""
    source = Slime(tmp_path).source
    first, second, third = (source.get_samples(K) for _ in range(3))
    source.add_samples(first)
    again = source.get_samples(K + 1)
    (chosen,) = (group[0].metadata[ROW] for group in again[K:])
    assert chosen in {group[0].metadata[ROW] for group in second}
    assert {group[0].metadata[ROW] for group in third} <= set(source.edge.handed_out.tolist())


def test_an_unknown_reward_of_slime_is_refused(tmp_path):
    source = Slime(tmp_path).source
    (group,) = source.get_samples(1)
    for sample in group:
        sample.reward = {"accuracy": 1.0, "style": 0.0}
    for key in (None, "acc"):
        with pytest.raises(ValueError, match=f"key is {key!r}, but the rewards are named 'accuracy', 'style'"):
            source.observe([group], key)
    for sample in group:
        sample.reward = [1.0, 0.0]
    with pytest.raises(ValueError, match=r"groups has the reward \[1.0, 0.0\], which is not one number"):
        source.observe([group])
    with pytest.raises(ValueError, match=r"groups\[1\] is empty"):
        source.observe([group, []])
    assert source.edge.handed_out.tolist() == [group[0].metadata[ROW]]


def test_a_sample_without_a_reward_is_not_a_failure(tmp_path):
    source = Slime(tmp_path).source
    groups = source.get_samples(2)
    groups[0][0].reward = 1.0  # the three others have no reward
    source.observe(groups)
    assert source.edge.selector.visits.sum() == 1
    assert source.edge.metrics()["selector/judged_share"] == 0.5


def test_only_a_slime_source_observes_slimes_samples():
    with pytest.raises(ValueError, match=r"data_source is .*; name a SlimeSource by --data-source-path"):
        observe_samples(SimpleNamespace(reward_key=None), [], [].append)


def test_a_rollout_that_slime_splits_counts_once(tmp_path):
    source = Slime(tmp_path).source
    (group,) = source.get_samples(1)
    first, last = copy.deepcopy(group[0]), group[0]
    first.reward, last.reward = 0.0, 1.0
    source.observe([[[first, last], *([one] for one in group[1:])]])  # the three others have no reward
    assert source.edge.selector.predict([last.metadata[ROW]]).success_rate[0] == pytest.approx(2 / 3, abs=0.1)


def test_slime_may_load_from_another_folder(tmp_path):
    run = Slime(tmp_path / "before")
    run.step()
    run.source.save(3)
    again = SlimeSource(
        run.source._samples, edge(), group_size=G, folder=tmp_path / "now", load_from=tmp_path / "before"
    )
    again.load(3)
    again.save(4)
    assert (tmp_path / "now" / "selector_4.npz").exists()


def test_slime_runs_without_a_folder_until_it_saves(tmp_path):
    samples = Slime(tmp_path).source._samples
    source = SlimeSource(samples, edge(), group_size=G, folder=None)
    source.load()
    source.load(-1)
    assert len(source.get_samples(2)) == 2
    with pytest.raises(ValueError, match=r"folder is None, .*; start slime with --save"):
        source.save(0)
    with pytest.raises(ValueError, match="rollout_id is 0, but load_from and folder are None; start slime with --load"):
        source.load(0)


def watch(edge):
    """Return a list that gets the rows, the successes and the judged rollouts which the edge's selector observes."""
    seen = []
    edge.selector.observe = lambda ids, successes, group_size, **_: seen.append((*ids, *successes, *group_size))
    return seen


def observed(sampler, group):
    """Return the row, the successes and the judged rollouts that the sampler's selector gets of a group."""
    seen = watch(sampler.edge)
    sampler.observe(group)
    return seen[0]


def test_prime_rl_counts_traces_without_errors_of_trainable_agents(tmp_path):
    traces = [trace(1.0), trace(0.0), trace(1.0, has_error=True), trace(1.0, trainable=False)]
    assert observed(Prime(tmp_path).sampler, episodes("task 7", traces)) == (7, 1, 2)
    assert observed(Prime(tmp_path, success=None).sampler, episodes("task 7", [trace(0.0), trace(1.0)])) == (7, 1, 2)
    unscored = trace(1.0)
    unscored.rewards["correct"] = None
    assert observed(Prime(tmp_path).sampler, episodes("task 7", [unscored, trace(1.0)])) == (7, 1, 1)


def test_failed_episodes_of_prime_rl_and_traces_without_turns_were_not_judged(tmp_path):
    unscored = trace(0.0)
    unscored.rewards = {}
    failed = episodes("task 7", [trace(0.0), unscored], ok=False)
    group = [*episodes("task 7", [trace(1.0), trace(0.0, num_turns=0)]), *failed]
    assert observed(Prime(tmp_path).sampler, group) == (7, 1, 1)
    assert observed(Prime(tmp_path, success=None).sampler, group) == (7, 1, 1)
    with pytest.raises(ValueError, match="success is 'correct', and there are no rewards"):
        Prime(tmp_path).sampler.observe(episodes("task 7", [unscored]))


def graded(builder, *metrics):
    """Let the builder grade trajectories whose last step has these metrics."""
    steps = [SimpleNamespace(reward=0.0, metrics=one) for one in metrics]
    trajectories = [SimpleNamespace(transitions=[SimpleNamespace(reward=0.0, metrics={}), step]) for step in steps]
    asyncio.run(builder.compute_group_rewards(trajectories, [f"env {at}" for at in range(G)]))


@pytest.mark.parametrize("mark", ["max_tokens_reached", "parse_error", "context_overflow"])
def test_answers_that_the_cookbook_cuts_short_are_wrong(tmp_path, mark):
    run = Tinker(tmp_path, success="correct")
    first, second, third, _ = run.dataset.get_batch(0)
    seen = watch(run.dataset.edge)
    graded(first, {mark: 1.0}, {mark: 1.0})
    graded(second, {mark: 1.0}, {"correct": 1.0}, {"correct": 0.0})
    graded(third, {mark: 1.0, "correct": 1.0}, {"format": 1.0}, {})  # other environments may leave the metric out
    assert [counts for _, *counts in seen] == [[0, 2], [1, 3], [1, 3]]


def test_a_metric_that_no_trajectory_had_is_refused(tmp_path):
    run = Tinker(tmp_path, success="right")
    first, *_ = run.dataset.get_batch(0)
    message = (
        r"success is 'right', which is no metric of the trajectory; give one of \['correct', 'parse_error'\], or None"
    )
    with pytest.raises(ValueError, match=message):
        graded(first, {"parse_error": 1.0}, {"correct": 1.0})
    assert run.dataset.edge.selector.visits.sum() == 0


def test_wrong_names_of_rewards_and_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="success is 'right', but the rewards are named 'correct', 'format'"):
        Prime(tmp_path, success="right").step()
    with pytest.raises(ValueError, match="group is about the task 'other', which is not in the pool"):
        Prime(tmp_path).sampler.observe(episodes("other", [trace(1.0)]))
    with pytest.raises(ValueError, match="group is empty; give the episodes of one task"):
        Prime(tmp_path).sampler.observe([])
    with pytest.raises(ValueError, match="success is 'right', which is no metric of the trajectory"):
        Tinker(tmp_path, success="right").step()


def test_a_watched_builder_stays_in_its_process(tmp_path):
    (builder, *_) = Tinker(tmp_path).dataset.get_batch(0)
    with pytest.raises(TypeError, match="its selector learns in this process; set no rollout executor"):
        pickle.dumps(builder)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: SlimeSource([], edge(), group_size=G, folder="."),
            "samples has 0 entries and the selector 12 prompts",
        ),
        (lambda: SlimeSource([], edge(), group_size=0, folder="."), "group_size is 0"),
        (lambda: PrimeSampler([1], edge()), "tasks has 1 entries"),
        (lambda: PrimeSampler([SimpleNamespace(key="a")] * N, edge()), "tasks has 12 entries and 1 keys"),
        (lambda: TinkerDataset([], edge(), batch_size=K, num_batches=1), "builders has 0 entries"),
        (lambda: TinkerDataset([], edge(), batch_size=K, num_batches=0), "num_batches is 0"),
    ],
)
def test_wrong_arguments_are_refused(unchecked_types, build, message):
    with pytest.raises(ValueError, match=message):
        build()
